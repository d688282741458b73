"""Figures of few-shot runs: curves against meta-iterations, seeds together, and runs that have no score in common."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from PIL import Image

from metarl.experiments.cli import main
from metarl.experiments.few_shot_scores import over_seeds
from metarl.experiments.plot_few_shot import (
    check_evaluation,
    columns,
    draw_evaluation,
    draw_few_shot_runs,
    fit_scale,
    setting_name,
)
from metarl.experiments.presets import preset_config
from metarl.experiments.runs import RunError

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def evaluation(mean: list[float | None], ci95: list[float | None], **changes: object) -> dict[str, object]:
    return {
        **{"family": "f", "algorithm": "a", "ways": 5, "shots": 1, "tasks": 600, "transductive": True},
        **{"takes_steps": True, "training_steps": 1, "variants": {}, "diverged": [0] * len(mean)},
        **{"scores": {"accuracy": {"mean": mean, "ci95": ci95}}, **changes},
    }


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def count(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((pixels == color).all(-1).sum())


def test_interval_over_two_seeds_is_students():
    """Means 0.2, 0.4: standard error 0.1, times t(0.975, 1) = 12.706; the longer run is cut to the shorter."""
    mean, half, over = over_seeds([evaluation([0.2, 0.5], [0.01, 0.01]), evaluation([0.4], [0.02])], "accuracy")
    assert_allclose(mean, [0.3])
    assert_allclose(half, [1.2706], atol=1e-4)
    assert over == "2 seeds"


def test_interval_of_one_run_is_the_one_over_its_tasks_and_what_diverged_is_a_gap():
    mean, half, over = over_seeds([evaluation([0.2, None], [0.01, None])], "accuracy")
    assert_allclose(mean, [0.2, math.nan])
    assert_allclose(half, [0.01, math.nan])
    assert over == "600 tasks"


def test_a_seed_that_diverged_leaves_no_mean():
    mean, _, _ = over_seeds([evaluation([0.2, None], [0.01, None]), evaluation([0.4, 0.5], [0.0, 0.0])], "accuracy")
    assert_allclose(mean, [0.3, math.nan])


def test_settings_are_named_by_ways_shots_and_algorithm():
    assert setting_name(preset_config("omniglot")) == "omniglot 5-way 1-shot, maml"
    assert setting_name(preset_config("sinusoid", "reptile")) == "sinusoid 10-shot, reptile"
    assert setting_name(preset_config("boolean")) == "boolean, synaptic"


def test_errors_of_different_orders_have_a_logarithmic_axis_and_accuracies_never():
    scales = []
    for name, values in (("mse", [0.1, 5.0]), ("mse", [1.0, 5.0]), ("accuracy", [0.1, 99.0])):
        axes = Figure().subplots()
        fit_scale(axes, name, [np.array([*values, np.nan])])
        scales.append(axes.get_yscale())
    assert scales == ["log", "linear", "linear"]


def test_picture_of_two_seeds_and_another_algorithm_has_a_color_for_each_setting(few_shot: Path, tmp_path: Path):
    for name in ("sinusoid", "sinusoid-2", "random"):
        assert main(["evaluate", str(few_shot / name), "--tasks", "4", "--steps", "2"]) == 0
    runs = [str(few_shot / name) for name in ("sinusoid", "sinusoid-2", "random")]
    assert main(["plot", *runs, "--output", str(tmp_path / "p.png")]) == 0
    pixels = pixels_of(tmp_path / "p.png")
    assert pixels.shape == (720, 1800, 3)
    assert count(pixels[:, :1000], BLUE) > 300
    assert count(pixels[:, 1100:], BLUE) > 300
    assert count(pixels[:550, :1000], ORANGE) == 0, "nothing was learned"
    assert count(pixels[:, 1100:], ORANGE) > 300


def test_learning_curves_are_against_meta_iterations(few_shot: Path):
    from metarl.experiments.curves import LoadedRun
    from metarl.experiments.runs import load_config, read_metrics

    run = LoadedRun(few_shot / "maml", load_config(few_shot / "maml"), read_metrics(few_shot / "maml"), None)
    left, right = Figure().subplots(1, 2)
    draw_few_shot_runs(left, right, [run])
    held_out, _, training, _ = (line.get_xdata() for line in left.get_lines())
    assert list(held_out) == [10, 20, 30]
    assert list(training) == [5, 10, 15, 20, 25, 30]
    assert max(max(line.get_ydata()) for line in left.get_lines()) > 1.0, "percent"
    assert not right.get_lines()


def test_a_learner_that_takes_no_steps_has_one_curve_and_one_level(few_shot: Path, tmp_path: Path):
    assert main(["evaluate", str(few_shot / "prototypes"), "--tasks", "4"]) == 0
    assert main(["plot", str(few_shot / "prototypes"), str(few_shot / "maml")]) == 0
    pixels = pixels_of(few_shot / "prototypes" / "curves.png")
    assert count(pixels[:, 1100:], BLUE) > 300


def test_runs_without_a_score_in_common_are_not_drawn_together(few_shot: Path, tiny_run: Path, capsys):
    assert main(["plot", str(few_shot / "sinusoid"), str(tiny_run)]) == 2
    assert "all of few-shot learning, as sinusoid is" in " ".join(capsys.readouterr().err.split())
    assert main(["plot", str(few_shot / "sinusoid"), str(few_shot / "maml")]) == 2
    assert "sinusoid by mse and maml by accuracy" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("scores", [None, {}, {"mse": 3}, {"mse": {"mean": [1.0]}}, {"mse": {"mean": [], "ci95": []}}])
def test_a_damaged_evaluation_is_refused_and_named(tmp_path: Path, scores):
    with pytest.raises(RunError, match=r"evaluation\.json must hold scores"):
        check_evaluation(tmp_path, {"scores": scores})
    check_evaluation(tmp_path, None)


def test_variants_of_a_learner_without_steps_are_rows(tmp_path: Path):
    result = evaluation([0.5], [0.1], takes_steps=False)
    result["variants"] = {"2 shots": evaluation([0.7], [0.1]), "noisy": evaluation([None], [None])}
    draw_evaluation(result, tmp_path / "e.png")
    assert count(pixels_of(tmp_path / "e.png"), BLUE) > 20


def test_the_file_is_drawn_in_percent_and_what_diverged_is_a_gap():
    found = json.loads(json.dumps(evaluation([0.5, None], [0.1, None])))
    mean, half = columns(found, "accuracy")
    assert_allclose(mean, [50.0, math.nan])
    assert_allclose(half, [10.0, 0.0])

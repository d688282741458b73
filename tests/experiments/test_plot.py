"""Curves of several seeds, intervals by hand, and errors that name the directory."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import metarl.envs  # noqa: F401
from metarl.experiments.curves import LoadedRun, group_runs, learning_curve
from metarl.experiments.plot import adaptation_steps, plot_runs, setting_name
from metarl.experiments.presets import preset_config
from metarl.experiments.runs import RunError, create_run


def seeded(seed: int, **changes: Any) -> Any:
    config = preset_config("navigation-2d")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed, **changes))


def write_run(directory: Path, seed: int, *, evaluated: bool = True) -> Path:
    """A run of three iterations."""
    create_run(directory, seeded(seed))
    lines = [
        {
            "iteration": number,
            "train/env_steps": 100.0 * number,
            "train/return_after_0": -40.0 + seed,
            "train/return_after_1": -40.0 + 10 * number + seed,
            **({"held_out/return_after_1": -20.0} if number == 3 else {}),
        }
        for number in (1, 2, 3)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if evaluated:
        content = {"family": "navigation-2d", "tasks": 20, "mean_return": [-40.0, -10.0 + seed], "ci95": [3.0, 1.0]}
        (directory / "evaluation.json").write_text(json.dumps(content))
    return directory


def test_curve_of_two_seeds_is_their_mean_and_range_where_both_have_been():
    """One run logs at 0 and 100 steps, the other at 50 and 250: they share 50 to 100."""
    runs = [
        [{"train/env_steps": 0.0, "r": 0.0}, {"train/env_steps": 100.0, "r": 10.0}],
        [{"train/env_steps": 50.0, "r": 1.0}, {"train/env_steps": 250.0, "r": 5.0}],
    ]
    curve = learning_curve(runs, "r")
    assert (curve.x[0], curve.x[-1]) == (50.0, 100.0)
    assert_allclose([curve.low[0], curve.mean[0], curve.high[0]], [1.0, 3.0, 5.0])
    assert_allclose([curve.low[-1], curve.mean[-1], curve.high[-1]], [2.0, 6.0, 10.0])


def test_lines_that_lack_the_metric_or_are_not_finite_are_left_out():
    lines = [
        {"train/env_steps": 1.0, "r": 2.0},
        {"train/env_steps": 2.0},
        {"train/env_steps": 3.0, "r": math.nan},
        {"train/env_steps": 4.0, "r": 6.0},
    ]
    curve = learning_curve([lines], "r")
    assert curve.x.tolist() == [1.0, 4.0]
    assert curve.mean.tolist() == [2.0, 6.0]


def test_interval_over_two_seeds_is_students():
    """Means 0, 2 and 2, 6: standard errors 1 and 2, times t(0.975, 1) = 12.706."""
    steps = adaptation_steps(
        [{"mean_return": [0.0, 2.0], "ci95": [9.0, 9.0]}, {"mean_return": [2.0, 6.0, 7.0], "ci95": [9.0] * 3}]
    )
    assert_allclose(steps.mean, [1.0, 4.0])
    assert_allclose(steps.half_width, [12.706, 25.412], atol=1e-3)
    assert steps.what == "2 seeds"


def test_interval_of_one_run_is_the_one_over_its_tasks():
    steps = adaptation_steps([{"mean_return": [0.0, 2.0], "ci95": [3.0, 4.0], "tasks": 20}])
    assert_allclose(steps.half_width, [3.0, 4.0])
    assert steps.what == "20 tasks"


def test_only_runs_that_differ_in_nothing_but_seed_and_length_are_averaged():
    configs = {"a": seeded(1), "b": seeded(2, iterations=7), "c": seeded(1, meta_batch_size=3)}
    runs = [LoadedRun(Path(name), config, [], None) for name, config in configs.items()]
    groups = group_runs(runs, setting_name)
    members = [[run.directory.name for run in group] for group in groups.values()]
    assert members == [["a", "b"], ["c"]]
    assert list(groups) == ["navigation-2d, a", "navigation-2d, c"]


def test_picture_of_two_seeds_lands_in_the_first_run(tmp_path):
    runs = [write_run(tmp_path / "one", 1), write_run(tmp_path / "two", 2)]
    path = plot_runs(runs)
    assert path == tmp_path / "one" / "curves.png"
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (720, 1800, 3)
    left, right = pixels[:, :1000], pixels[:, 1100:]
    blue = np.array([31, 119, 180])
    assert (left == blue).all(-1).sum() > 300, "a curve"
    assert (right == blue).all(-1).sum() > 300, "returns against steps"


def test_runs_that_were_not_evaluated_still_have_a_learning_curve(tmp_path):
    """Without evaluation.json the right panel has no line, only a note in gray."""
    path = plot_runs([write_run(tmp_path / "one", 1, evaluated=False)], output=tmp_path / "new" / "plot.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (pixels == [31, 119, 180]).all(-1)
    assert blue[:, :1000].sum() > 300
    assert blue[:, 1100:].sum() == 0
    assert (pixels[200:500, 1200:1700].std(-1) == 0).all(), "gray"
    assert pixels[300:420, 1200:1700].min() < 150, "a note"


def test_a_directory_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nothing is not a run: there is no such directory"):
        plot_runs([tmp_path / "nothing"])


def test_a_run_without_a_logged_iteration_is_refused(tmp_path):
    create_run(tmp_path / "new", seeded(1))
    with pytest.raises(RunError, match="new has logged no iteration yet"):
        plot_runs([tmp_path / "new"])


@pytest.mark.parametrize("content", ["{", "[]", '{"mean_return": [1.0]}', '{"mean_return": [1.0], "ci95": []}'])
def test_a_damaged_evaluation_is_refused_and_named(tmp_path, content):
    run = write_run(tmp_path / "one", 1)
    (run / "evaluation.json").write_text(content)
    with pytest.raises(RunError, match=r"one/evaluation\.json"):
        plot_runs([run])


def test_no_directory_is_an_error():
    with pytest.raises(ValueError, match="at least one run directory, got none"):
        plot_runs([])

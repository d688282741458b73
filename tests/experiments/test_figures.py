"""Figures: what is made once, what is made again, and what is drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metarl.algorithms import UnknownAlgorithm
from metarl.experiments.cli import main
from metarl.experiments.evaluate import EvaluateConfig
from metarl.experiments.figure_tables import page, section, steps_table
from metarl.experiments.figures import (
    FIGURES,
    FigureConfig,
    UnknownFigure,
    _is_trained,
    is_evaluation,
    make_figure,
    run_config,
)
from metarl.experiments.presets import presets_of
from metarl.experiments.runs import RunError
from metarl.reinforcement.algorithms import ALGORITHMS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FigureConfig:
    """Two algorithms, two seeds, two iterations on navigation."""
    folder = tmp_path_factory.mktemp("figures")
    return FigureConfig(
        runs=folder / "runs",
        seeds=(1, 2),
        algorithms=("promp", "random"),
        iterations=2,
        into=folder / "results",
    )


@pytest.fixture(scope="module")
def made(small: FigureConfig, smaller_figures: None) -> Path:
    return make_figure("maml-navigation", small, Console(quiet=True))


@pytest.fixture(scope="module")
def smaller_figures() -> None:
    """Evaluation of a figure on few tasks, so that the tests take seconds."""
    patch = pytest.MonkeyPatch()
    for name in ("maml-navigation", "efficiency-navigation"):
        patch.setitem(FIGURES, name, FIGURES[name]._replace(tasks=6, episodes=4))
    yield
    patch.undo()


def test_a_figure_is_drawn_with_its_numbers_and_the_runs_small_files_beside_it(made: Path, small: FigureConfig):
    with Image.open(made) as picture:
        assert picture.size == (960, 690)
    content = json.loads(made.with_suffix(".json").read_text())
    assert list(content["algorithms"]) == ["promp", "random"]
    assert content["command"] == ("metarl figure maml-navigation --seeds 1 2 --algorithms promp random --iterations 2")
    returns = np.array(content["algorithms"]["promp"][1]["returns"])
    assert returns.shape == (4, 6)
    assert np.isfinite(returns).all()
    assert content["algorithms"]["promp"][0]["iterations"] == 2
    assert content["algorithms"]["random"][0]["curve"] == []
    assert (made.parent / "maml-navigation-trajectories.png").is_file()
    for algorithm in ("promp", "random"):
        assert (made.parent / f"navigation-2d-{algorithm}-2" / "evaluation.json").is_file()
    lines = steps_table(content).splitlines()
    assert lines[0] == "| algorithm | after 0 | after 1 | after 2 | after 3 | million env steps | minutes each |"
    before = np.mean([run["returns"][0] for run in content["algorithms"]["promp"]])
    assert lines[2].startswith(f"| promp | {before:.1f} |")
    assert page(made.parent) == section(content)
    assert f"`{content['command']}`" in section(content)


def test_what_is_there_is_not_made_again(made: Path, small: FigureConfig):
    folder = small.runs / "navigation-2d-promp-1"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    make_figure("maml-navigation", small, Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_runs_of_other_settings_are_not_taken_for_the_figures(made: Path, small: FigureConfig):
    other = FigureConfig(runs=small.runs, seeds=(1,), algorithms=("promp",), iterations=3, into=small.into)
    with pytest.raises(RunError, match="navigation-2d-promp-1 has other settings than the figure's run of promp"):
        make_figure("maml-navigation", other, Console(quiet=True))


def test_a_run_that_was_interrupted_goes_on_and_is_judged_again(made: Path, small: FigureConfig):
    """Stopped after its first iteration, with an evaluation of that."""
    folder = small.runs / "navigation-2d-promp-2"
    whole = json.loads((folder / "evaluation.json").read_text())
    for late in (folder / "checkpoints").glob("*2*"):
        shutil.rmtree(late) if late.is_dir() else late.unlink()
    (folder / "results.json").unlink()
    stale = whole | {"iteration": 1, "returns": [[0.0] * 6] * 4}
    (folder / "evaluation.json").write_text(json.dumps(stale))
    make_figure("maml-navigation", small, Console(quiet=True))
    assert json.loads((folder / "results.json").read_text())["iterations"] == 2
    assert json.loads((folder / "evaluation.json").read_text())["returns"] == whole["returns"]


def test_a_run_out_of_its_minutes_is_trained_and_one_that_was_stopped_is_not(tmp_path: Path):
    config = replace(run_config(FIGURES["maml-ant-dir"], "maml-trpo", 1, None), minutes=30.0)
    for stopped in (False, True):
        (tmp_path / "results.json").write_text(
            json.dumps({"iterations": 7, "training_minutes": 26.9, "stopped": stopped})
        )
        assert _is_trained(tmp_path, config) is not stopped
        assert not _is_trained(tmp_path, replace(config, minutes=None))


def test_an_evaluation_with_other_options_is_not_the_figures(made: Path, small: FigureConfig):
    folder = small.runs / "navigation-2d-promp-1"
    whole = json.loads((folder / "evaluation.json").read_text())
    assert main(["evaluate", str(folder), "--tasks", "6", "--episodes", "4", "--steps", "1", "--seed", "7"]) == 0
    make_figure("maml-navigation", small, Console(quiet=True))
    assert json.loads((folder / "evaluation.json").read_text())["returns"] == whole["returns"]


def test_an_evaluation_with_fewer_rows_is_not_the_figures_even_where_steps_change_nothing():
    run, options = run_config(FIGURES["maml-navigation"], "oracle", 1, None), EvaluateConfig(tasks=4, episodes=2)
    found = {"tasks": 4, "episodes": 2, "seed": 0, "checkpoint": "newest", "iteration": 9, "step_sizes": []}
    assert is_evaluation(found | {"returns": [[0.0] * 4] * 4}, options, run, 9)
    assert not is_evaluation(found | {"returns": [[0.0] * 4] * 2}, options, run, 9)
    assert is_evaluation(
        found | {"returns": [[0.0] * 4] * 2}, options, run_config(FIGURES["efficiency-navigation"], "rl2", 1, None), 9
    )


def test_what_cannot_be_made_is_refused_before_anything_is_trained(tmp_path: Path):
    config = FigureConfig(runs=tmp_path / "runs", seeds=(1,), algorithms=("random", "mamltrpo"), into=tmp_path)
    with pytest.raises(UnknownAlgorithm, match="did you mean 'maml-trpo'"):
        make_figure("maml-navigation", config, Console(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_curves_against_environment_steps_are_drawn(smaller_figures: None, made: Path, small: FigureConfig):
    path = make_figure("efficiency-navigation", small, Console(quiet=True))
    content = json.loads(path.with_suffix(".json").read_text())
    assert all(len(run["curve"]) == 1 for run in content["algorithms"]["promp"])
    with Image.open(path) as picture:
        assert picture.size == (960, 690)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_algorithms_and_a_family_that_there_are(name):
    figure = FIGURES[name]
    assert set(figure.algorithms) <= {*ALGORITHMS, "rl2"}
    assert presets_of(figure.family)
    for algorithm in figure.algorithms:
        assert run_config(figure, algorithm, 3, None).train.seed == 3


def test_unknown_names_and_impossible_settings_are_refused(capsys):
    with pytest.raises(UnknownFigure, match="did you mean 'maml-navigation'"):
        make_figure("maml-navigatio", FigureConfig(), Console(quiet=True))
    assert main(["figure", "no-such-figure"]) == 2
    assert "no figure 'no-such-figure'" in capsys.readouterr().err
    assert main(["figure"]) == 2
    with pytest.raises(ValueError, match="figure seeds must be one or more different numbers"):
        FigureConfig(seeds=(1, 1))
    with pytest.raises(ValueError, match="figure iterations must be at least 1, got 0"):
        FigureConfig(iterations=0)

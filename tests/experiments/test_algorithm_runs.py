"""Runs of RL algorithms from the command line: trained, resumed, evaluated; what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metarl.experiments.cli import main
from metarl.experiments.commands import _check_preset
from metarl.experiments.kinds import REINFORCEMENT, kind_of
from metarl.experiments.presets import preset_config, preset_for
from metarl.experiments.rl2_presets import RL2_PRESETS
from metarl.experiments.runs import load_config
from metarl.reinforcement.algorithms import ALGORITHMS
from metarl.reinforcement.rl2 import Rl2Config
from metarl.tasks import FAMILIES

SMALL = ["--iterations", "2", "--meta-batch-size", "3", "--held-out-every", "2", "--held-out-tasks", "2"]
SHORT = [*SMALL, "--rollout.horizon", "5", "--rollout.episodes", "2"]


def run(tmp_path: Path, name: str, *flags: str) -> Path:
    arguments = ["train", "navigation-2d", "--runs", str(tmp_path), "--name", name, "--algorithm", name]
    assert main([*arguments, *SHORT, *flags]) == 0
    return tmp_path / name


@pytest.mark.parametrize("name", ["promp", "meta-sgd", "oracle", "random", "rl2"])
def test_a_run_is_trained_evaluated_plotted_and_kept(tmp_path: Path, name: str, capsys):
    folder = run(tmp_path, name, *(["--iterations", "0"] if name == "random" else []))
    steps = [] if name == "rl2" else ["--steps", "1"]
    assert main(["evaluate", str(folder), "--tasks", "3", "--episodes", "2", *steps]) == 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["algorithm"] == name
    assert len(found["returns"]) == 2
    assert all(len(row) == 3 for row in found["returns"])
    assert main(["plot", str(folder)]) == 0
    assert main(["results", str(folder), "--into", str(tmp_path / "kept")]) == 0
    assert f"| {name} |" in capsys.readouterr().out


def test_a_run_of_rl2_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path):
    whole = run(tmp_path, "rl2", "--checkpoint-every", "1")
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for late in (part / "checkpoints").glob("*2*"):
        shutil.rmtree(late) if late.is_dir() else late.unlink()
    (part / "results.json").unlink()
    assert main(["train", "--resume", str(part)]) == 0
    one, other = (json.loads((each / "results.json").read_text()) for each in (whole, part))
    assert one["held_out/return_after_1"] == other["held_out/return_after_1"]


def test_the_policies_of_single_task_are_judged_on_their_own_tasks_alone(tmp_path: Path, capsys):
    folder = run(tmp_path, "single-task")
    assert main(["evaluate", str(folder), "--tasks", "4"]) == 2
    assert "policies of single-task are of the 3 tasks of seed 0" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(folder), "--tasks", "3", "--step-size", "5"]) == 2
    assert "single-task takes no gradient steps" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(folder), "--tasks", "3", "--steps", "1"]) == 2
    assert "single-task takes no gradient steps, got --steps 1" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(folder), "--tasks", "3", "--episodes", "2"]) == 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert (len(found["mean_return"]), found["step_sizes"]) == (1, [])
    assert main(["adapt", str(folder), "--output", str(tmp_path / "out")]) != 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--preset", "rl2", "--algorithm", "promp"], "preset 'rl2' is for the algorithm rl2, got --algorithm promp"),
        (["--preset", "maml", "--algorithm", "rl2"], "preset 'maml' is for the algorithm maml-trpo, got"),
        (["--algorithm", "promp", "--outer.max-kl", "0.2"], "promp does not use the settings --outer"),
        (["--preset", "promp", "--algorithm", "maml-ppo"], "preset 'promp' is for the algorithm promp, got"),
        (["--algorithm", "prom"], "no algorithm 'prom'; did you mean 'promp'"),
        (["--algorithm", "matching"], "matching learns supervised tasks, but navigation-2d has environments to act in"),
        (["--algorithm", "random", "--iterations", "50"], "random has nothing to train, got --iterations 50"),
        (["--algorithm", "dice-maml", "--inner.estimator", "reinforce"], "dice-maml has the inner estimator dice"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(flags, complaint, tmp_path: Path, capsys):
    assert main(["train", "navigation-2d", "--runs", str(tmp_path / "runs"), *flags]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("algorithm", ["maml-trpo", "maml-ppo", "rl2"])
def test_a_preset_that_chose_an_algorithm_under_another_name_is_for_that_alone(algorithm, tmp_path: Path, capsys):
    flags = ["--preset", "promp-paper", "--algorithm", algorithm, "--runs", str(tmp_path / "runs")]
    assert main(["train", "half-cheetah-dir", *flags]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"preset 'promp-paper' is for the algorithm promp, got --algorithm {algorithm}" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("family", "preset"), [("navigation-2d", "maml"), ("sinusoid", "maml-paper"), ("boolean", "default")]
)
def test_a_preset_of_the_usual_algorithm_and_a_familys_default_are_for_any(family, preset):
    """That of boolean has an algorithm of its own, for it is the family's only preset."""
    for algorithm in (None, "anil", preset_config(family, preset).train.algorithm):
        _check_preset(preset_config(family, preset), algorithm)


def test_the_estimator_that_a_row_decides_is_recorded_and_a_run_that_recorded_another_is_the_same(tmp_path: Path):
    folder = run(tmp_path, "dice-maml")
    path = folder / "config.json"
    written = json.loads(path.read_text())
    assert written["train"]["inner"]["estimator"] == "dice"
    config = load_config(folder)
    written["train"]["inner"]["estimator"] = "lvc"
    path.write_text(json.dumps(written))
    assert load_config(folder) == config
    assert main(["evaluate", str(folder), "--tasks", "2", "--episodes", "2", "--steps", "1"]) == 0


def test_rl2_cannot_be_adapted_or_rendered_and_says_why(tmp_path: Path, capsys):
    folder = run(tmp_path, "rl2")
    assert main(["evaluate", str(folder), "--steps", "1"]) == 2
    assert "rl2 takes no gradient steps, got --steps 1" in " ".join(capsys.readouterr().err.split())
    assert main(["adapt", str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "one of rl2, whose policy learns by its memory alone" in " ".join(capsys.readouterr().err.split())
    assert main(["render", str(folder)]) == 1
    assert "must be a run of a policy that adapts by gradient" in " ".join(capsys.readouterr().err.split())


def test_every_family_of_environments_has_a_preset_of_rl2():
    for name, factory in FAMILIES.items():
        if kind_of(factory) is REINFORCEMENT and not name.startswith("metaworld"):
            assert isinstance(preset_config(name, preset_for(name, "rl2")).train, Rl2Config)
    for name, presets in RL2_PRESETS.items():
        assert all(isinstance(preset_config(name, preset).train, Rl2Config) for preset in presets)


def test_list_shows_every_algorithm_with_a_line(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in (*ALGORITHMS, "rl2"):
        assert f" {name} " in shown

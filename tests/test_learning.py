"""Real training runs with the presets: minutes each, so only with ``-m slow``. The bars are those of the README."""

import json
from pathlib import Path
from typing import Any

import pytest

from metarl.experiments.cli import main


def evaluation(family: str, preset: str, runs: Path, *flags: str) -> dict[str, Any]:
    """What ``metarl evaluate`` writes of a run of the preset."""
    directory = runs / f"{family}-{preset}"
    assert main(["train", family, "--preset", preset, "--runs", str(runs), "--name", directory.name]) == 0
    assert main(["evaluate", str(directory), *flags]) == 0
    found = json.loads((directory / "evaluation.json").read_text())
    assert isinstance(found, dict)
    return found


def returns_after_training(family: str, preset: str, runs: Path) -> list[float]:
    """Mean returns after 0, 1 and 2 gradient steps."""
    found: list[float] = evaluation(family, preset, runs, "--steps", "2", "--tasks", "100")["mean_return"]
    return found


@pytest.mark.slow
def test_navigation_reaches_its_goals_after_two_steps(tmp_path):
    before, once, twice = returns_after_training("navigation-2d", "default", tmp_path)
    assert before < -35.0
    assert once > -13.0
    assert twice > -6.0


@pytest.mark.slow
def test_a_half_cheetah_runs_the_right_way_after_one_step(tmp_path):
    before, once, _ = returns_after_training("half-cheetah-dir", "default", tmp_path)
    assert before < 0.0
    assert once > 400.0


@pytest.mark.slow
def test_a_half_cheetah_finds_its_velocity_after_one_step(tmp_path):
    before, once, _ = returns_after_training("half-cheetah-vel", "default", tmp_path)
    assert once > -42.0
    assert once > before + 15.0


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "pulls", "bar"), [("default", "1", 6.0), ("100-pulls", "10", 67.1)])
def test_bandits_pay_more_from_pull_to_pull(preset, pulls, bar, tmp_path):
    step = {"default": "1", "100-pulls": "2"}[preset]
    flags = ["--steps", "9", "--episodes", pulls, "--tasks", "1000", "--later-step-size", step]
    assert evaluation("bandit", preset, tmp_path, *flags)["total_return"] > bar


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "steps", "bar"), [("default", "9", 0.563), ("25-episodes", "24", 0.591)])
def test_tabular_mdps_are_learned_to_mamls_published_share_of_the_optimum(preset, steps, bar, tmp_path):
    flags = ["--steps", steps, "--episodes", "1", "--tasks", "1000", "--later-step-size", "2"]
    assert evaluation("tabular-mdp", preset, tmp_path, *flags)["share_of_reference"] > bar

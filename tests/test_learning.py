"""Real training runs with the presets: minutes each, so only with ``-m slow``. The bars are those of the README."""

import json
from pathlib import Path

import pytest

from metarl.experiments.cli import main


def returns_after_training(family: str, preset: str, runs: Path, *flags: str) -> list[float]:
    directory = runs / f"{family}-{preset}"
    train = ["train", family, "--preset", preset, "--runs", str(runs), "--name", directory.name]
    assert main([*train, *flags]) == 0
    assert main(["evaluate", str(directory), "--steps", "2", "--tasks", "100"]) == 0
    found = json.loads((directory / "evaluation.json").read_text())["mean_return"]
    assert isinstance(found, list)
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
    assert once > 250.0


@pytest.mark.slow
def test_a_half_cheetah_finds_its_velocity_after_one_step(tmp_path):
    before, once, _ = returns_after_training("half-cheetah-vel", "default", tmp_path)
    assert once > -42.0
    assert once > before + 15.0

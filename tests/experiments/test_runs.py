"""Runs that cannot be loaded as asked for say why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metarl.experiments.cli import main


@pytest.fixture
def without_best(few_shot: Path, tmp_path: Path) -> Path:
    """A run as it is before held-out tasks were judged for the first time."""
    run = tmp_path / "early"
    shutil.copytree(few_shot / "sinusoid", run)
    (run / "checkpoints" / "best.safetensors").unlink()
    return run


@pytest.mark.parametrize("command", ["evaluate", "sequence"])
def test_a_run_without_a_best_checkpoint_says_when_there_will_be_one(without_best: Path, command: str, capsys):
    assert main([command, str(without_best), "--checkpoint", "best"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "early has no best checkpoint yet: the first is kept once held-out tasks were judged" in told
    assert "every 10 of its 30 iterations; use --checkpoint newest" in told
    assert "damaged" not in told


@pytest.mark.parametrize(("field", "reason"), [("held_out_every", "every 0"), ("iterations", ", 0 iterations")])
def test_a_run_that_never_judges_held_out_tasks_says_that(without_best, field, reason, capsys):
    config = json.loads((without_best / "config.json").read_text())
    config["train"][field] = 0
    (without_best / "config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(without_best), "--checkpoint", "best"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "has no best checkpoint and will have none" in told
    assert reason in told


def test_a_best_checkpoint_that_cannot_be_read_is_still_called_damaged(without_best: Path, capsys):
    (without_best / "checkpoints" / "best.safetensors").write_bytes(b"cut")
    assert main(["evaluate", str(without_best), "--checkpoint", "best"]) == 1
    assert "is damaged or cut short" in " ".join(capsys.readouterr().err.split())


def test_of_a_policy_too(tiny_run: Path, tmp_path: Path, capsys):
    shutil.copytree(tiny_run, tmp_path / "early")
    (tmp_path / "early" / "checkpoints" / "best.safetensors").unlink()
    assert main(["evaluate", str(tmp_path / "early"), "--checkpoint", "best"]) == 1
    assert "every 2 of its 4 iterations" in " ".join(capsys.readouterr().err.split())

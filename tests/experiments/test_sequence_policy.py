"""``metarl sequence`` of policies: what is written, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.experiments.cli import main
from metarl.experiments.runs import load_run
from metarl.inner.policy_problem import PolicyLearner
from metarl.reinforcement.algorithms import make_free_learner, make_learner
from metarl.reinforcement.collecting import evaluate
from metarl.reinforcement.sequences import draw_sequences
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator

SMALL = ["--iterations", "2", "--meta-batch-size", "3", "--held-out-every", "0"]
SHORT = [*SMALL, "--rollout.horizon", "5", "--rollout.episodes", "2"]


def trained(folder: Path, algorithm: str, *flags: str) -> Path:
    arguments = ["train", "navigation-2d", "--runs", str(folder), "--name", algorithm, "--algorithm", algorithm]
    assert main([*arguments, *SHORT, *flags]) == 0
    return folder / algorithm


def sequenced(run: Path, *flags: str) -> dict[str, Any]:
    assert main(["sequence", str(run), "--tasks", "3", "--sequences", "4", "--steps", "2", *flags]) == 0
    found: dict[str, Any] = json.loads((run / "sequence.json").read_text())
    return found


def test_a_run_of_fame_is_judged_with_its_own_importances_unless_told_otherwise(tmp_path: Path, capsys):
    run = trained(tmp_path, "fame", "--inner.steps", "2")
    found = sequenced(run)
    assert (found["score"], found["consolidate"], found["shots"]) == ("return", "own", 2)
    assert found["strength"] == pytest.approx(0.1)
    matrix = np.array(found["matrix"]["mean"])
    assert matrix.shape == (4, 3)
    assert found["figures"]["average"]["mean"] == pytest.approx(matrix[3].mean())
    transfer = (matrix[3, :2] - np.diag(matrix[1:])[:2]).mean()
    assert found["figures"]["backward_transfer"]["mean"] == pytest.approx(transfer), "a return is better where greater"
    assert (run / "sequence.png").is_file()
    assert "forgetting" in capsys.readouterr().out
    assert main(["sequence", str(run), "--tasks", "2", "--sequences", "2", "--steps", "1", "--label", "second"]) == 0
    assert json.loads((run / "sequence-second.json").read_text())["tasks"] == 2
    assert sequenced(run, "--consolidate", "fisher", "--strength", "2")["strength"] == 2.0


def test_what_keeps_nothing_and_what_was_not_measured_are_refused(tmp_path: Path, capsys):
    for algorithm, flags, complaint in (
        ("rl2", [], "rl2 learns by its memory, which no task changes"),
        ("oracle", [], "policies of oracle do not"),
        ("maml-trpo", ["--consolidate", "own"], "consolidate own needs a run that kept importances"),
        ("reptile", ["--consolidate", "mas"], "importance of a policy must be one of fisher, empirical-fisher"),
    ):
        assert main(["sequence", str(trained(tmp_path, algorithm)), *flags]) != 0
        assert complaint in " ".join(capsys.readouterr().err.split())


def test_as_many_episodes_are_collected_as_asked_for_and_tasks_alone_are_held_as_in_training(tmp_path: Path):
    run = trained(tmp_path, "fame", "--inner.steps", "1", "--elastic.strength", "1000")
    found = sequenced(run, "--episodes", "6", "--seed", "3")
    assert found["shots"] == 6
    loaded = load_run(run)
    train, meta, policy = loaded.config.train, loaded.state.meta, loaded.learner
    assert train.rollout.episodes == 2
    rollout, family = replace(train.rollout, episodes=6), loaded.config.family
    tasks = draw_sequences(family, generator(3, Stream.EVALUATION_TASKS), 4, 3)
    sizes = train.inner.step_sizes(2)

    def alone(learner: PolicyLearner) -> float:
        seeds = [EpisodeSeeds(3, Stream.EVALUATION_ROLLOUTS, (place, 2)) for place in range(3)]
        rows = [evaluate(family, learner, meta, some, rollout, own) for some, own in zip(tasks, seeds, strict=True)]
        return float(np.mean([row.returns[-1] for row in rows]))

    held, free = make_learner(policy, train, sizes, held=meta.elastic), make_free_learner(policy, train, sizes)
    assert found["alone"]["mean"] == pytest.approx(alone(held), abs=1e-6)
    assert found["alone"]["mean"] != pytest.approx(alone(free), abs=1e-3)

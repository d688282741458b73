"""``metarl sequence`` of policies: goals or directions that arrive one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from metarl.algorithms import UnsuitableAlgorithm
from metarl.experiments.kinds import REINFORCEMENT, kind_of_run
from metarl.experiments.runs import Run
from metarl.experiments.sequence import Scores, check_label, described, judge_and_write, summary
from metarl.reinforcement.algorithms import family_for, make_learner
from metarl.reinforcement.collecting import evaluate
from metarl.reinforcement.sequences import draw_sequences, judge_sequences, make_sequencer
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.workers import WorkerPool
from metarl.tasks import Task
from metarl.variants.sequences import SequenceConfig


@dataclass(frozen=True, kw_only=True)
class PolicySequenceRunConfig:
    """Let held-out tasks arrive one after another, and judge what is kept of each: parameters are never set back."""

    protocol: Annotated[SequenceConfig, tyro.conf.arg(name="")] = field(default_factory=SequenceConfig)
    """How they are learned."""
    sequences: int = 10
    """How many sequences (M)."""
    episodes: int | None = None
    """Of each step and each judgment; the run's own if left out."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Best means on the training run's own held-out tasks."""
    seed: int = 0
    """Of the tasks and episodes, in streams that training does not use."""

    label: str | None = None
    """Write sequence-LABEL.json and .png beside the other ones of the run rather than sequence.json."""

    def __post_init__(self) -> None:
        check_label(self.label)
        if self.sequences < 2:
            raise ValueError(f"sequences must be at least 2, for an interval over them, got {self.sequences}; try 10")
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


def policy_sequence_run(directory: Path, options: PolicySequenceRunConfig, console: Console) -> dict[str, Any]:
    """Judge a run on sequences, print the tables, write ``sequence.json`` and ``sequence.png``, or those of the label.

    Raises:
        RunError: if the directory is not a run.
        CheckpointError: if its checkpoint cannot be read.
        UnsuitableAlgorithm: if nothing of what learned goes on from task to task.
        ValueError: if the run has no importance of its own and is to use it.
    """
    return judge_and_write(directory, options.checkpoint, options.label, lambda run: summarize(run, options), console)


def summarize(run: Run, options: PolicySequenceRunConfig) -> dict[str, Any]:
    """Means over sequences with their 95 % intervals (Student's t), and how they came about; ``shots`` are episodes."""
    train, protocol = run.config.train, options.protocol
    if kind_of_run(run.config) is not REINFORCEMENT:
        raise UnsuitableAlgorithm(f"{train.algorithm} learns by its memory, which no task changes; try maml-trpo")
    sequencer = make_sequencer(run.learner, run.state.meta, train, protocol)
    rollout = replace(train.rollout, episodes=options.episodes or train.rollout.episodes)
    train = replace(train, rollout=rollout)
    drawing = generator(options.seed, Stream.EVALUATION_TASKS)
    tasks = draw_sequences(run.config.family, drawing, options.sequences, protocol.tasks)
    seeds = EpisodeSeeds(options.seed, Stream.EVALUATION_ROLLOUTS, ())
    with WorkerPool(family_for(train.algorithm, run.config.family), run.config.workers) as family:
        found = judge_sequences(family, sequencer, tasks, rollout, seeds)
        alone = _alone(family, run, tasks, train, protocol.steps, seeds)
    return described(run, protocol, sequencer, options.checkpoint, options.seed) | {
        "ways": None,
        "shots": rollout.episodes,
        "sequences": options.sequences,
        **summary(Scores({"return": found["return"]}, alone), "policy"),
    }


def _alone(
    family: Any, run: Run, tasks: Sequence[Sequence[Task]], train: Any, steps: int, seeds: EpisodeSeeds
) -> np.ndarray:
    """Return of each task after as many steps from the initialization, as evaluation has it, ``[J, M]``."""
    meta = run.state.meta
    learner = make_learner(run.learner, train, train.inner.step_sizes(steps), held=meta.elastic)
    rows = []
    for place, some in enumerate(tasks):
        own = seeds._replace(path=(*seeds.path, place, 2))
        rows.append(evaluate(family, learner, meta, some, train.rollout, own).returns[-1])
    return np.stack(rows)

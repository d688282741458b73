"""Sequences of tasks are drawn, learned and judged."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from metarl.few_shot.learners import answer
from metarl.few_shot.meta_learner import few_shot_data, score_outputs
from metarl.few_shot.sequences import Sequencer, pass_through
from metarl.processor import map_groups
from metarl.rollout.seeding import Stream, torch_generator
from metarl.tasks import DrawsSequences, FewShotFamily
from metarl.trees import map_examples
from metarl.types import Examples, Params, TaskData
from metarl.variants.importance import label_noise

_TASKS_HELD = 200
"""Tasks whose examples are in memory at a time, about."""


def draw_sequences(family: FewShotFamily, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Sequences of test tasks ``[count, length, P]``: those that the family says conflict, else any.

    Raises:
        ValueError: if the family gives something of another shape.
    """
    if not isinstance(family, DrawsSequences):
        return family.sample_test(rng, count * length).reshape(count, length, -1)
    tasks: np.ndarray = family.sequence(rng, count, length)
    if not isinstance(tasks, np.ndarray) or tasks.ndim != 3 or tasks.shape[:2] != (count, length):
        got = f"shape {tasks.shape}" if isinstance(tasks, np.ndarray) else type(tasks).__name__
        raise ValueError(
            f"sequence(rng, {count}, {length}) of {type(family).__name__} must give an array [{count}, {length}, P], "
            f"a task for each place in each sequence; got {got}"
        )
    return tasks


def judge_sequences(
    family: FewShotFamily, sequencer: Sequencer, tasks: np.ndarray, *, transductive: bool, device: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Scores on all tasks of each sequence before any was learned and after each of them, ``[J + 1, J, M]``.

    Args:
        family: that the tasks are of.
        sequencer: what learns them.
        tasks: rows ``[M, J, P]``.
        transductive: see ``FewShotLearner.predict``.
        device: where to compute.
        seed: of labels that are drawn to measure importance.
    """
    held = max(1, _TASKS_HELD // tasks.shape[1])
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(tasks), held):
        data = _several(family, tasks[start : start + held], device)
        parts += _judged(family.kind, sequencer, data, transductive, (seed, start))
    scores = {name: torch.cat([part[name] for part in parts], 2).double() for name in parts[0]}
    # Outputs that are no numbers are as wrong as can be, as in ``judge``.
    return {name: each.nan_to_num(nan=math.inf, posinf=math.inf).cpu().numpy() for name, each in scores.items()}


def _several(family: FewShotFamily, tasks: np.ndarray, device: str) -> list[TaskData[Examples]]:
    """The examples of each place in the sequences."""
    count, length, size = tasks.shape
    data = few_shot_data(family, tasks.swapaxes(0, 1).reshape(-1, size), 1, device)
    return [_part(data, slice(place * count, (place + 1) * count)) for place in range(length)]


def _part(data: TaskData[Examples], tasks: slice) -> TaskData[Examples]:
    support, query = (map_examples(lambda field: field[tasks], batch) for batch in (data.support[0], data.query))
    return TaskData((support,), query)


def _judged(
    kind: str, sequencer: Sequencer, data: list[TaskData[Examples]], transductive: bool, drawn: tuple[int, int]
) -> list[dict[str, Tensor]]:
    """Scores of groups of sequences; ``drawn`` is the seed and the number of the first sequence."""
    supports, queries = [each.support[0] for each in data], data[0].query
    outputs = queries.targets.shape[-1] if queries.targets.is_floating_point() else 1
    draws = torch_generator(drawn[0], Stream.LABELS, drawn[1])
    noise = [label_noise(support, outputs, draws) for support in supports]

    @torch.no_grad()  # which each thread decides for itself
    def judged(group: slice) -> dict[str, Tensor]:
        some = [_part(each, group) for each in data]
        points = pass_through(sequencer, [each.support[0] for each in some], [each[group] for each in noise])
        rows = [_scores(kind, sequencer, phi, some, transductive) for phi in points]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    size = sequencer.learner.chunk(supports[0].inputs, queries.inputs)
    groups = [slice(start, start + size) for start in range(0, len(queries.inputs), size)]
    return map_groups(judged, groups, queries.inputs.device)


def _scores(
    kind: str, sequencer: Sequencer, phi: Params, data: list[TaskData[Examples]], transductive: bool
) -> dict[str, Tensor]:
    """On the queries of every task, ``[J, M]``."""
    model = sequencer.learner.problem.model
    found = []
    for each in data:
        outputs = answer(model, phi, each.support[0].inputs, each.query.inputs, transductive)
        found.append(score_outputs(kind, outputs, each.query.targets))
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}

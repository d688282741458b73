"""Few-shot learners on the loop: episodes in, an outer step, accuracy or error out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.engine import Clock, Collected, Scores, TrainState, Update
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.learners import FewShotLearner
from metarl.losses import accuracy, cross_entropy, squared_error
from metarl.outer.adam import step
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import FewShotFamily
from metarl.types import Examples, Meta, Params, TaskData

_JUDGED_AT_ONCE = 100
"""Tasks whose examples are held at a time when many are judged."""


def few_shot_data(family: FewShotFamily, tasks: np.ndarray, steps: int, device: str) -> TaskData[Examples]:
    """The examples of tasks on the device; every inner step has the whole support."""
    drawn = family.examples(tasks)

    def tensors(*arrays: np.ndarray) -> Examples:
        return Examples(*(torch.from_numpy(array).to(device) for array in arrays))

    support = tensors(drawn.support_inputs, drawn.support_targets, drawn.support_labels)
    query = tensors(drawn.query_inputs, drawn.query_targets, drawn.query_labels)
    return TaskData((support,) * max(steps, 1), query)


def score_outputs(kind: str, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Figures of each task, ``[M]``; the first is what is learned for."""
    if kind == "classification":
        return {"accuracy": accuracy(outputs, targets), "loss": cross_entropy(outputs, targets)}
    return {"mse": squared_error(outputs, targets)}


def judge(
    family: FewShotFamily,
    learner: FewShotLearner,
    meta: Meta,
    tasks: np.ndarray,
    *,
    steps: int,
    transductive: bool,
    device: str,
) -> dict[str, np.ndarray]:
    """Scores of tasks after 0..K steps, ``[K + 1, M]``.

    Args:
        family: that the tasks are of.
        learner: what adapts.
        meta: what it learned.
        tasks: rows ``[M, P]``.
        steps: K.
        transductive: see ``FewShotLearner.predict``.
        device: where to compute.
    """
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(tasks), _JUDGED_AT_ONCE):
        data = few_shot_data(family, tasks[start : start + _JUDGED_AT_ONCE], steps, device)
        parts.append(judge_data(family.kind, learner, meta, data, steps=steps, transductive=transductive))
    return {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}


def judge_data(
    kind: str, learner: FewShotLearner, meta: Meta, data: TaskData[Examples], *, steps: int, transductive: bool
) -> dict[str, np.ndarray]:
    """``judge`` on examples that are there already."""
    outputs = learner.predict(meta, data.support[0], data.query.inputs, steps=steps, transductive=transductive)
    found = [score_outputs(kind, each, data.query.targets) for each in outputs]
    rows = {name: torch.stack([each[name] for each in found]).double() for name in found[0]}
    # Outputs that are no numbers are as wrong as can be: leaving them out would favor what diverges.
    return {name: row.nan_to_num(nan=math.inf, posinf=math.inf).cpu().numpy() for name, row in rows.items()}


def _counted(meta: Meta, counts: Params) -> Meta:
    """With events added to the leaves of eta that count them."""
    if not counts:
        return meta
    return meta._replace(eta=meta.eta | {name: meta.eta[name] + value for name, value in counts.items()})


class FewShotMetaLearner(NamedTuple):
    """A few-shot learner as a ``MetaLearner``."""

    family: FewShotFamily
    learner: FewShotLearner
    config: FewShotConfig

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        """Episodes of a meta-batch of tasks; where logged, also how well they are answered before the update."""
        config = self.config
        with clock.measure("sampling"):
            rng = generator(config.seed, Stream.TRAIN_TASKS, state.iteration)
            tasks = self.family.sample(rng, config.meta_batch_size)
            data = few_shot_data(self.family, tasks, config.inner.steps, config.device)
        scores: Mapping[str, np.ndarray] = {}
        if logged:
            with clock.measure("inner"):
                scores = judge_data(
                    self.family.kind,
                    self.learner,
                    state.meta,
                    data,
                    steps=config.inner.steps,
                    transductive=config.transductive,
                )
        return Collected(data, scores, {}, {}, 0)

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        """A step of the optimizer along the meta-gradient, none if that is not finite."""
        config = self.config
        found = self.learner.meta_gradient(state.meta, collected.data, state.iteration)
        rate = config.outer.rate(state.iteration, config.iterations)
        meta, optimizer, norm = step(config.outer, rate, state.meta, found.meta, state.optimizer)
        metrics = {"outer/gradient_norm": norm, "outer/learning_rate": rate}
        if logged:
            metrics["outer/loss"] = float(found.losses.mean())
            metrics |= {name: float(value) for name, value in found.metrics.items()}
            metrics |= {name: float(state.meta.eta[name] + value) for name, value in found.counts.items()}
        if not np.isfinite(norm):
            return Update(_counted(state.meta, found.counts), state.optimizer, False, metrics)
        meta = _counted(meta._replace(elastic=found.elastic or meta.elastic), found.counts)
        return Update(meta, optimizer, True, metrics)

    def held_out(self, state: TrainState) -> Scores:
        """Of the same tasks of the validation split every time."""
        config = self.config
        tasks = self.family.sample_validation(generator(config.seed, Stream.HELD_OUT_TASKS, 0), config.held_out_tasks)
        return judge(
            self.family,
            self.learner,
            state.meta,
            tasks,
            steps=config.inner.steps,
            transductive=config.transductive,
            device=config.device,
        )

    def advice(self) -> str:
        """On gradients that are not finite."""
        return (
            "The meta-gradient must be finite. Try a smaller inner step_size or outer learning_rate, fewer inner "
            "steps, or --outer.max-norm 10"
        )

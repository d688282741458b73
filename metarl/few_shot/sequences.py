"""Tasks that arrive one after another: parameters go on from one to the next and are never set back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from metarl.algorithms import UnsuitableAlgorithm
from metarl.few_shot.curious import CuriousLearner
from metarl.few_shot.curious_problem import CuriousProblem
from metarl.few_shot.fame import FameLearner, hold
from metarl.few_shot.learners import GradientLearner, PretrainedLearner
from metarl.inner.adapt import inner_step, unadapted
from metarl.inner.elastic import importance_of
from metarl.inner.supervised_problem import SupervisedLearner, SupervisedProblem
from metarl.trees import add_scaled, expand
from metarl.types import Examples, Meta, Params
from metarl.variants.fame import strength_of
from metarl.variants.importance import Measure, make_measure, mean_one
from metarl.variants.sequences import Consolidation, SequenceConfig, check_used


class Sequencer(NamedTuple):
    """How parameters go through sequences of tasks."""

    learner: GradientLearner
    """What adapts to each."""
    meta: Meta
    """Where sequences start, and what else was meta-learned."""
    steps: int
    """On each task."""
    importance: Params
    """Before the first task, shaped like ``meta.theta``; empty: nothing holds."""
    measure: Measure | None
    """Importance on a task just learned; None: it leaves none."""
    consolidate: Consolidation
    """What ``importance`` and ``measure`` are called."""
    strength: float
    """Lambda; 0 where nothing holds."""
    step_size: float
    """That the pull of importances is meant for."""
    decay: float
    """See ``SequenceConfig``."""

    def held_by(self, importance: Params) -> SupervisedLearner:
        """The inner loop on one task; importances have leaves ``[M, ...]``, or there are none."""
        if not importance:
            return self.learner.inner(self.steps)
        held = hold(self.learner, importance, self.strength, self.step_size)
        if isinstance(held.problem, CuriousProblem):  # its look ahead is a step of the same rule
            held = held._replace(problem=held.problem._replace(rule=held.rule(0)))
        return held.inner(self.steps)


def make_sequencer(learner: Any, meta: Meta, config: SequenceConfig, *, kind: str, step_size: float) -> Sequencer:
    """How a meta-trained learner goes through sequences.

    Args:
        learner: what adapts.
        meta: what it learned.
        config: how.
        kind: of its tasks.
        step_size: of its inner steps, where they start if they are learned.

    Raises:
        UnsuitableAlgorithm: if nothing goes on from task to task, or nothing can be held.
        ValueError: if the run has no importance of its own and is to use it, or what was chosen changes nothing.
    """
    base, start = adapting(learner, meta)
    own = importance_of(meta.elastic)
    how = config.consolidate or ("own" if own else "none")
    check_used(how, config)
    plain = Sequencer(base, start, config.steps, {}, None, "none", 0.0, step_size, config.decay)
    if how == "none":
        return plain
    if not isinstance(base.problem, SupervisedProblem | CuriousProblem):
        raise UnsuitableAlgorithm("synaptic follows no gradient that an importance could hold; use --consolidate none")
    strength = 1.0 if config.strength is None else config.strength
    if how != "own" and how != "own-fixed":
        measured = _scaled(make_measure(how, kind), config)
        return plain._replace(measure=measured, consolidate=how, strength=strength)
    fame = learner.learner if isinstance(learner, CuriousLearner) else learner
    if not own or not isinstance(fame, FameLearner):
        raise ValueError(
            f"consolidate {how} needs a run that kept importances, as fame does; use fisher or mas with others"
        )
    strength = strength_of(meta) if config.strength is None else config.strength
    measure = _scaled(make_measure(fame.config.importance, kind), config) if how == "own" else None
    return plain._replace(importance=own, measure=measure, consolidate=how, strength=strength)


def adapting(learner: Any, meta: Meta) -> tuple[GradientLearner, Meta]:
    """What of a few-shot learner goes on by gradient from task to task, and where it starts.

    Raises:
        UnsuitableAlgorithm: if nothing does.
    """
    if isinstance(learner, CuriousLearner):
        base, start = adapting(learner.learner, meta)
        return learner.curiosity.over(base, meta.eta), start
    if isinstance(learner, FameLearner):
        return learner.base, meta
    if isinstance(learner, PretrainedLearner):
        return learner.task_learner, learner.start(meta)
    if isinstance(learner, GradientLearner):
        return learner, meta
    raise UnsuitableAlgorithm(
        f"only parameters that adapt by gradient can go on from task to task, got a {type(learner).__name__}, which "
        "keeps nothing of the last one; try maml, reptile, meta-lstm or pretrain"
    )


def _scaled(measure: Measure, config: SequenceConfig) -> Measure:
    return (lambda *about: mean_one(measure(*about))) if config.mean_one else measure


def pass_through(sequencer: Sequencer, supports: Sequence[Examples], noise: Sequence[Tensor]) -> Iterator[Params]:
    """Parameters ``[M, ...]`` of M sequences before any task and after each.

    Args:
        sequencer: how.
        supports: of J tasks, in their order.
        noise: of each, the ``label_noise`` that importance is measured with.
    """
    model, meta, count = sequencer.learner.problem.model, sequencer.meta, len(supports[0].inputs)
    phi, held = expand(meta.theta, count), expand(sequencer.importance, count)
    yield phi
    for support, drawn in zip(supports, noise, strict=True):
        inner = sequencer.held_by(held)
        adaptation = unadapted(inner, phi)
        for _ in inner.rules:
            adaptation = inner_step(inner, meta.eta, adaptation, support).forget()
        phi = adaptation.phi
        yield phi
        if sequencer.measure is not None and support is not supports[-1]:
            found = sequencer.measure(model, phi, support, drawn)
            held = add_scaled(found, held, sequencer.decay) if held else found

"""Algorithms that meta-learn policies, by name: each a few lines over the same parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from metarl import algorithms
from metarl.algorithms import UnsuitableAlgorithm
from metarl.inner.adapt import Learner
from metarl.inner.elastic import importance_of
from metarl.inner.policy_problem import InnerConfig, PolicyLearner, PolicyProblem
from metarl.inner.rules import InnerRule, descent, only, proximal_sgd, sgd
from metarl.losses import Estimator, make_inner_loss
from metarl.observed import observe_task
from metarl.outer.objectives import exploring
from metarl.outer.policy_gradients import implicit, reptile
from metarl.policies.base import Policy
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curious import make_curiosity
from metarl.reinforcement.outers import (
    ALONG_SURROGATE,
    ANCHORED,
    CLIPPED,
    TRUST_REGION,
    Outer,
    by_descent,
    by_trust_region,
    remembering,
    return_config,
)
from metarl.tasks import TaskFamily
from metarl.trees import to_device
from metarl.types import Params
from metarl.variants.fame import hold_rule, strength_in_force
from metarl.variants.fame import initial_eta as initial_strength
from metarl.variants.fame import initial_held as importance_before
from metarl.variants.returns import initial_eta

MakeRule = Callable[[Policy, InnerConfig], Callable[[float], InnerRule]]
"""From policy and settings to the rule of a step size."""


def _descend(policy: Policy, inner: InnerConfig) -> Callable[[float], InnerRule]:
    return sgd


def _nothing_else(theta: Params, inner: InnerConfig) -> Params:
    return {}


class Algorithm(NamedTuple):
    """A row of the table."""

    summary: str
    """A line for ``metarl list``."""
    outer: Callable[[MetaTrainConfig], Outer] | None
    """How it learns across tasks; None if it does not."""
    uses: frozenset[str]
    """Settings that not every algorithm has; see ``settings.OPTIONAL``."""
    rule: MakeRule = _descend
    init_eta: Callable[[Params, InnerConfig], Params] = _nothing_else
    """What is meta-learned besides the initialization, from that."""
    estimator: Estimator | None = None
    """Of the inner loss, where it is not a choice."""
    first_order: bool = False
    adapts: bool = True
    """Whether policies take gradient steps where they are judged."""
    steps_in_training: bool = True
    """Whether they do while the initialization is trained."""
    needs_steps: bool = False
    """Whether it learns nothing of its own without inner steps."""
    least_tasks: int = 1
    """Of a meta-batch."""
    elastic: bool = False
    """Whether the inner loop is held near where it starts; see ``reinforcement.fame``."""
    observes_task: bool = False
    specialists: bool = False
    """Whether every task has a policy of its own; see ``reinforcement.specialists``."""


def find_algorithm(name: str) -> Algorithm:
    """The row of a name.

    Raises:
        UnknownAlgorithm: naming the closest known.
    """
    return algorithms.find(name, ALGORITHMS)


def make_learner(
    policy: Policy, config: MetaTrainConfig, step_sizes: Sequence[float] | None = None, *, held: Params | None = None
) -> PolicyLearner:
    """The inner loop of the algorithm that ``config`` names.

    Args:
        policy: as ``initial_state`` made it.
        config: the run.
        step_sizes: of each step where policies are judged; in training they are the run's own.
        held: ``Meta.elastic`` of the initialization that adapts, for algorithms that have one.

    Raises:
        UnsuitableAlgorithm: if there is no initialization that could adapt.
    """
    row = find_algorithm(config.algorithm)
    step_sizes = training_steps(config) if step_sizes is None else step_sizes
    learner = make_free_learner(policy, config, step_sizes)
    if not row.elastic:
        return learner
    importance, strength = importance_of(held or {}), strength_in_force(held or {}, config.elastic)
    pairs = zip(learner.rules, step_sizes, strict=True)
    return learner._replace(rules=[hold_rule(rule, importance, strength, size) for rule, size in pairs])


def training_steps(config: MetaTrainConfig) -> list[float]:
    """The size of each inner step while the initialization is trained."""
    taken = config.inner.steps if find_algorithm(config.algorithm).steps_in_training else 0
    return [config.inner.step_size] * taken


def make_free_learner(policy: Policy, config: MetaTrainConfig, step_sizes: Sequence[float]) -> PolicyLearner:
    """The same with nothing held near where adaptation starts.

    Raises:
        UnsuitableAlgorithm: if there is no initialization that could adapt.
    """
    row, inner = find_algorithm(config.algorithm), config.inner
    if row.specialists:
        raise UnsuitableAlgorithm(
            f"{config.algorithm} has a policy for each of its tasks and no initialization to adapt from; choose a run "
            "of another algorithm"
        )
    rule = row.rule(policy, inner)
    loss = make_inner_loss(row.estimator or inner.estimator, policy)
    problem = PolicyProblem(policy, loss, make_curiosity(policy, config.curiosity))
    first_order = row.first_order or inner.first_order
    rules = [rule(size if row.adapts else 0.0) for size in step_sizes]
    return Learner(problem, rules, first_order, config.task_chunk)


def make_outer(config: MetaTrainConfig) -> Outer:
    """How the algorithm that ``config`` names learns across tasks.

    Raises:
        UnsuitableAlgorithm: if it does not.
    """
    outer = find_algorithm(config.algorithm).outer
    if outer is None:
        raise UnsuitableAlgorithm(f"{config.algorithm} has nothing to train; --iterations must be 0")
    return outer(config)


def initial_learned(theta: Params, config: MetaTrainConfig) -> Params:
    """All that is meta-learned besides the initialization ``theta``, before the first iteration.

    Raises:
        ValueError: if a return is to be learned that does not start within (0, 1).
    """
    row = find_algorithm(config.algorithm)
    eta = row.init_eta(theta, config.inner) | (initial_strength(theta, config.elastic) if row.elastic else {})
    if not config.inner.learn_returns:
        return eta
    return eta | to_device(initial_eta(return_config(config)), torch.device(config.device))


def initial_held(theta: Params, config: MetaTrainConfig) -> Params:
    """``Meta.elastic`` before the first iteration."""
    return importance_before(theta, config.elastic) if find_algorithm(config.algorithm).elastic else {}


def family_for(name: str, family: TaskFamily) -> TaskFamily:
    """The family as an algorithm sees it."""
    return observe_task(family) if find_algorithm(name).observes_task else family


def _meta_sgd(policy: Policy, inner: InnerConfig) -> Callable[[float], InnerRule]:
    """Where policies are judged with other step sizes, the learned ones change by the same factor."""
    return lambda size: descent(lambda eta, name: (size / inner.step_size) * eta[f"step_size/{name}"])


def _step_sizes(theta: Params, inner: InnerConfig) -> Params:
    return {f"step_size/{name}": torch.full_like(value, inner.step_size) for name, value in theta.items()}


_PLAIN_REGION, _PLAIN_OPTIMIZER = frozenset({"outer"}), frozenset({"optimizer"})
_LATER = frozenset({"inner.step_size"})
"""Of what adapts where it is judged: on fresh episodes, where all estimators have the same gradient."""
_INNER = _LATER | {"inner.steps"}
_OPTIMIZER = _PLAIN_OPTIMIZER | _INNER
_FIRST_ORDER = _PLAIN_REGION | _INNER | {"inner.estimator"}
"""The line search adapts from elsewhere than where the support was collected, where estimators differ."""
_REGION = _FIRST_ORDER | {"inner.first_order"}
_SECOND_ORDER = _OPTIMIZER | {"inner.estimator", "inner.learn_returns"}
_THROUGH = _SECOND_ORDER | {"inner.first_order"}
_CLIP = frozenset({"clipping.epochs", "clipping.clip"})
_ANCHOR = _CLIP | {"clipping.kl_penalty", "clipping.kl_target"}

ALGORITHMS: dict[str, Algorithm] = {
    "maml-trpo": Algorithm(
        "a trust region through the adaptation (Finn et al. 2017, arXiv:1703.03400, alg. 3)", TRUST_REGION, _REGION
    ),
    "fomaml-trpo": Algorithm(
        "the same with inner gradients as constants (arXiv:1703.03400, sec. 5.2)",
        TRUST_REGION,
        _FIRST_ORDER,
        first_order=True,
        needs_steps=True,
    ),
    "maml-vpg": Algorithm("an Adam step along the meta-gradient", ALONG_SURROGATE, _THROUGH),
    "maml-ppo": Algorithm("several Adam steps on the clipped objective", CLIPPED, _THROUGH | _CLIP),
    "promp": Algorithm(
        "the same, held near the policies that collected the support (Rothfuss et al. 2019, arXiv:1810.06784)",
        ANCHORED,
        _THROUGH | _ANCHOR,
        needs_steps=True,
    ),
    "e-maml": Algorithm(
        "credit to the support for what came of it (Stadie et al. 2018, arXiv:1803.01118), trust region",
        by_trust_region(lambda config: exploring(standardized=config.rollout.normalize_advantages)),
        _REGION,
        estimator="reinforce",
        needs_steps=True,
        least_tasks=2,  # credit compares them with each other
    ),
    "dice-maml": Algorithm(
        "inner loss with unbiased derivatives of every order (Foerster et al. 2018, arXiv:1802.05098), Adam",
        ALONG_SURROGATE,
        _SECOND_ORDER,
        estimator="dice",
        needs_steps=True,
    ),
    "meta-sgd": Algorithm(
        "a learned step size for each parameter (Li et al. 2017, arXiv:1707.09835), trust region",
        TRUST_REGION,
        _REGION,
        rule=_meta_sgd,
        init_eta=_step_sizes,
        needs_steps=True,
    ),
    "promp-meta-sgd": Algorithm(
        "promp with the learned step sizes of meta-sgd",
        ANCHORED,
        _THROUGH | _ANCHOR,
        rule=_meta_sgd,
        init_eta=_step_sizes,
        needs_steps=True,
    ),
    "anil": Algorithm(
        "only the head adapts (Raghu et al. 2020, arXiv:1909.09157), trust region",
        TRUST_REGION,
        _REGION,
        rule=lambda policy, inner: lambda size: only(sgd(size), policy.head_names),
        needs_steps=True,
    ),
    "fame": Algorithm(
        "maml-trpo whose inner loop is held by the Fisher information of the tasks seen so far",
        remembering(TRUST_REGION),
        _REGION | {"elastic"},
        needs_steps=True,
        elastic=True,
    ),
    "reptile": Algorithm(
        "towards where adaptation ends (Nichol et al. 2018, arXiv:1803.02999)",
        by_descent(lambda config, penalty, steps: reptile),
        _OPTIMIZER,
        needs_steps=True,
    ),
    "imaml": Algorithm(
        "proximal inner loop, implicit gradient (Rajeswaran et al. 2019, arXiv:1909.04630), Adam",
        by_descent(lambda config, penalty, steps: implicit(config.inner.proximity, config.inner.cg_iterations)),
        _OPTIMIZER | {"inner.estimator", "inner.proximity", "inner.cg_iterations"},
        rule=lambda policy, inner: lambda size: proximal_sgd(size, inner.proximity),
        needs_steps=True,
    ),
    "random": Algorithm("no meta-learning: a random initialization adapts", None, _LATER),
    "pretrain": Algorithm(
        "one policy for all tasks, trust region; then it adapts",
        TRUST_REGION,
        _PLAIN_REGION | _LATER,
        steps_in_training=False,
    ),
    "multi-task": Algorithm(
        "the same, and it does not adapt", TRUST_REGION, _PLAIN_REGION, adapts=False, steps_in_training=False
    ),
    "oracle": Algorithm(
        "one policy that observes what the task is, and does not adapt",
        TRUST_REGION,
        _PLAIN_REGION,
        adapts=False,
        steps_in_training=False,
        observes_task=True,
    ),
    "single-task": Algorithm(
        "a policy for each evaluation task, trained on it alone by PPO: the ceiling",
        CLIPPED,
        _PLAIN_OPTIMIZER | _CLIP,
        adapts=False,
        steps_in_training=False,
        specialists=True,
    ),
}
"""Every algorithm by its name on the command line."""

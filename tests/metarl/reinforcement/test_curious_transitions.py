"""Curiosity about transitions: what the module learns from a meta-iteration, against the losses written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.engine import TrainState
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious_transitions import TransitionCuriosity
from metarl.reinforcement.curious_updates import Lesson, own
from metarl.types import Meta, Params, Rollouts
from metarl.variants import transition_curiosity as module
from metarl.variants.transition_curiosity import Transitions

TASKS, EPISODES, HORIZON = 2, 3, 6


def curiosity(**changes: Any) -> TransitionCuriosity:
    about = {"features": 4, "hidden": 8, "updates": 3, "batch_size": 7, "learning_rate": 0.01, "strength": 0.5}
    return TransitionCuriosity(CuriosityConfig(kind="transition", **about | changes), 2, (), 2)


def rollouts(seed: int) -> Rollouts:
    """Episodes of different lengths, the first of which diverged."""
    drawing = torch.Generator().manual_seed(seed)
    shape = (TASKS, EPISODES, HORIZON)
    lengths = torch.randint(2, HORIZON + 1, shape[:2], generator=drawing)
    lengths[0, 0] = 0
    mask = (torch.arange(HORIZON) < lengths[..., None]).float()
    observations, actions = (torch.randn(*shape, 2, generator=drawing) * mask[..., None] for _ in range(2))
    nothing = torch.zeros(shape)
    return Rollouts(observations, actions, nothing, mask, nothing, nothing, {})


def state_of(made: TransitionCuriosity) -> TrainState:
    eta = made.init(torch.Generator().manual_seed(1))
    return TrainState(Meta({}, eta, {}), made.start(eta), 0, 0, 0, 0)


def taught(made: TransitionCuriosity, state: TrainState, support: list[Rollouts], seed: int = 0) -> Lesson:
    policy = GaussianPolicy(2, 2, PolicyConfig(hidden=(3,)))
    return made.learn(state, make_learner(policy, MetaTrainConfig()), support, torch.Generator().manual_seed(seed))


def steps_of(support: list[Rollouts]) -> Transitions:
    """One by one."""
    rows = [
        (batch.observations[m, e, t], batch.actions[m, e, t], batch.observations[m, e, t + 1])
        for batch in support
        for m in range(TASKS)
        for e in range(EPISODES)
        for t in range(HORIZON - 1)
        if batch.mask[m, e, t + 1]
    ]
    return Transitions(*(torch.stack(field) for field in zip(*rows, strict=True)))


@pytest.mark.parametrize("joint", [True, False])
def test_it_takes_adams_steps_on_random_transitions_of_all_inner_steps(joint):
    made, support = curiosity(joint=joint), [rollouts(0), rollouts(1)]
    state, seen = state_of(made), steps_of(support)
    params = {name: value.clone().requires_grad_() for name, value in module.weights_of(own(state.meta.eta)).items()}
    optimizer, drawing = torch.optim.Adam(params.values(), lr=0.01), torch.Generator().manual_seed(0)
    for _ in range(3):
        rows = torch.randint(len(seen.before), (7,), generator=drawing)
        part = Transitions(*(field[rows] for field in seen))
        forward, inverse = module.module_losses(params, part, (), joint=joint)
        optimizer.zero_grad()
        (0.2 * forward + 0.8 * inverse).backward()
        optimizer.step()
    lesson = taught(made, state, support)
    found = module.weights_of(own(lesson.eta))
    assert_close(found, {name: value.detach() for name, value in params.items()}, rtol=1e-4, atol=1e-6)
    assert lesson.metrics["curiosity/forward_loss"] == pytest.approx(float(forward.detach()), rel=1e-4)
    assert lesson.metrics["curiosity/inverse_loss"] == pytest.approx(float(inverse.detach()), rel=1e-4)


def test_every_iteration_draws_minibatches_of_its_own_and_every_inner_step_has_its_part():
    made, support = curiosity(), [rollouts(0), rollouts(1)]
    state = state_of(made)
    lessons = [
        taught(made, state, support), taught(made, state, support, 1), taught(made, state, support[:1]),
        taught(made, state, support[1:]),
    ]  # fmt: skip
    weights = [own(lesson.eta)["forward/weight_0"] for lesson in lessons]
    for place, one in enumerate(weights):
        for other in weights[place + 1 :]:
            assert float((one - other).abs().max()) > 1e-3


def test_surprises_of_all_inner_steps_are_counted_once_as_the_module_saw_them_before_it_learned():
    made, support = curiosity(), [rollouts(0), rollouts(1)]
    state = state_of(made)
    surprises = surprises_of(own(state.meta.eta), steps_of(support))
    lesson = taught(made, state, support)
    found = own(lesson.eta)
    assert float(found["surprise_weight"]) == 1.0
    assert_close(found["surprise_mean"], surprises.mean())
    assert_close(found["surprise_variance"], surprises.var(correction=0))
    assert lesson.metrics["curiosity/bonus_mean"] == 0.0
    again = taught(made, state._replace(meta=state.meta._replace(eta=lesson.eta), optimizer=lesson.moments), support)
    surprises = surprises_of(found, steps_of(support))
    bonus = 0.5 * surprises.mean() / found["surprise_variance"].sqrt()
    assert again.metrics["curiosity/bonus_mean"] == pytest.approx(float(bonus), rel=1e-4)
    assert_close(own(again.eta)["surprise_weight"], torch.tensor(1.9))


def surprises_of(params: Params, seen: Transitions) -> Tensor:
    """``[N]``: half the squared error of the next features."""
    predicted = module.predict(params, module.encode(params, seen.before), seen.actions, ())
    return 0.5 * (module.encode(params, seen.after) - predicted).square().sum(-1)


def test_where_nothing_happened_nothing_is_learned():
    made, nothing = curiosity(), rollouts(0)._replace(mask=torch.zeros(TASKS, EPISODES, HORIZON))
    state = state_of(made)
    lesson = taught(made, state, [nothing])
    assert_close(lesson.eta, state.meta.eta, rtol=0.0, atol=0.0)
    assert_close(lesson.moments, state.optimizer, rtol=0.0, atol=0.0)
    assert lesson.metrics["curiosity/bonus_mean"] == 0.0

"""The intrinsic curiosity module: surprises by hand, what counts as a transition, and that it learns what it should."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.trees import detach, gradients, leaves, map_rollouts
from metarl.types import Meta, Params, Rollouts
from metarl.variants.transition_curiosity import (
    Transitions,
    bonuses,
    count_surprises,
    encode,
    happened,
    infer,
    init,
    module_losses,
    predict,
    running_deviation,
    surprise,
    transitions,
    weights_of,
)

OBSERVATIONS = 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def module(actions: int = 1) -> Params:
    return init(OBSERVATIONS, actions, features=4, hidden=16, generator=torch.Generator().manual_seed(0))


def rollouts(tasks: int = 2, episodes: int = 3, horizon: int = 4) -> Rollouts:
    """The first episode of every task has two steps, the last of the last task none."""
    shape = (tasks, episodes, horizon)
    mask = torch.ones(shape)
    mask[:, 0, 2:] = 0.0
    mask[-1, -1] = 0.0
    nothing = torch.zeros(shape)
    return Rollouts(normal(*shape, OBSERVATIONS), normal(*shape, 1, seed=1), nothing, mask, nothing, nothing, {})


def trained(seen: Transitions, choices: tuple[int, ...], updates: int, *, joint: bool = False) -> tuple[Params, list]:
    """The module after Adam steps on all that was seen, and its losses before each."""
    params = weights_of(module(sum(choices) or seen.actions.shape[1]))
    optimizer = OptimizerConfig(learning_rate=0.01)
    moments, losses = initial_moments(Meta(params, {}, {}), optimizer), []
    for _ in range(updates):
        at = leaves(params)
        forward, inverse = module_losses(at, seen, choices, joint=joint)
        losses.append((float(forward.detach()), float(inverse.detach())))
        slope = Meta(gradients(0.2 * forward + 0.8 * inverse, at), {}, {})
        moved, moments, _ = step(optimizer, 0.01, Meta(params, {}, {}), slope, moments)
        params = moved.theta
    return params, losses


def signs() -> Params:
    """A module whose features are (1, -1) of a positive number and (-1, 1) of a negative one, and which foresees that
    they stay as they are."""
    zeros = torch.zeros(2)
    params = {"encoder/weight_0": torch.tensor([[1.0, -1.0]]), "encoder/bias_0": zeros}
    params |= {"encoder/weight_1": torch.eye(2), "encoder/bias_1": zeros}
    params |= {"forward/weight_0": torch.ones(3, 2), "forward/bias_0": zeros}
    return params | {"forward/weight_1": torch.zeros(2, 2), "forward/bias_1": zeros}


def test_surprise_is_half_the_squared_error_of_the_next_features_and_the_last_step_has_none():
    """Both features change by 2 where the sign does; the second episode ended before its sign changed."""
    seen = torch.tensor([[[1.0, 2.0, -4.0], [-3.0, -1.0, 1.0]]])[..., None]
    mask = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]])
    found = surprise(signs(), seen, torch.zeros(1, 2, 3, 1), mask, ())
    assert_close(found, torch.tensor([[[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]]), rtol=1e-4, atol=1e-6)


def test_transitions_are_steps_that_were_followed_by_another_of_the_same_episode():
    batch = rollouts()
    seen = transitions(batch)
    assert len(seen.before) == int(happened(batch.mask).sum()) == 1 + 3 + 3 + 1 + 3
    expected = [
        (batch.observations[m, e, t], batch.actions[m, e, t], batch.observations[m, e, t + 1])
        for m in range(2)
        for e in range(3)
        for t in range(3)
        if batch.mask[m, e, t] and batch.mask[m, e, t + 1]
    ]
    for field, rows in zip(seen, zip(*expected, strict=True), strict=True):
        assert_close(field, torch.stack(rows), rtol=0.0, atol=0.0)


def test_the_mean_surprise_is_the_forward_loss():
    batch, params = rollouts(), module()
    found = surprise(params, batch.observations, batch.actions, batch.mask, ())
    forward, _ = module_losses(params, transitions(batch), (), joint=False)
    assert_close(found.sum() / happened(batch.mask).sum(), forward)


def test_the_order_of_episodes_changes_no_surprise():
    batch, params, order = rollouts(), module(), [2, 0, 1]
    found = surprise(params, batch.observations, batch.actions, batch.mask, ())
    moved = map_rollouts(lambda field: field[:, order], batch)
    assert_close(surprise(params, moved.observations, moved.actions, moved.mask, ()), found[:, order])


def test_the_bonus_is_in_units_of_the_running_deviation_and_nothing_before_there_is_one():
    """Surprises 1 and 3: mean 2, deviation 1; then 5 and 5, which weigh 1 against 0.9."""
    params = module()
    assert_close(bonuses(params, torch.tensor([4.0]), 0.5), torch.tensor([0.0]))
    params |= count_surprises(params, torch.tensor([1.0, 3.0]))
    assert_close(running_deviation(params), torch.tensor(1.0), rtol=1e-4, atol=0.0)
    assert_close(bonuses(params, torch.tensor([4.0]), 0.5), torch.tensor([2.0]), rtol=1e-4, atol=0.0)
    params |= count_surprises(params, torch.tensor([5.0, 5.0]))
    share = 1.0 / 1.9
    mean, square = share * 5.0 + (1 - share) * 2.0, share * 25.0 + (1 - share) * 5.0
    assert float(running_deviation(params)) == pytest.approx(math.sqrt(square - mean**2), rel=1e-3)


@pytest.mark.parametrize(("mean", "deviation"), [(10.0, 0.003), (1.0, 1e-4), (0.0, 0.5)])
def test_the_deviation_is_right_however_far_from_zero_surprises_lie(mean, deviation):
    """In single precision the mean square of the first, 100, is known to about 1e-5, which is their variance."""
    params, drawing = module(), torch.Generator().manual_seed(0)
    for _ in range(100):
        params |= count_surprises(params, mean + deviation * torch.randn(2000, generator=drawing))
    assert float(running_deviation(params)) == pytest.approx(deviation, rel=0.02)


def test_the_bonus_follows_a_module_whose_surprises_shrink():
    """After 40 meta-iterations without surprises like the first, these weigh 0.9^40 of what they did, about 0.015."""
    params = module()
    params |= count_surprises(params, torch.tensor([0.0, 20.0]))
    for _ in range(40):
        params |= count_surprises(params, torch.tensor([0.0, 2.0]))
    share = 0.1 * 0.9**40 / (1.0 - 0.9**41)
    variance = (1.0 - share) * 1.0 + share * 100.0 + share * (1.0 - share) * 81.0
    assert float(running_deviation(params)) == pytest.approx(math.sqrt(variance), rel=1e-4)
    assert float(running_deviation(params)) < 1.15


def test_surprises_that_are_all_alike_have_no_deviation_and_give_no_bonus():
    params = module()
    for _ in range(3):
        params |= count_surprises(params, torch.full((7,), 0.3))
    assert float(running_deviation(params)) == 0.0
    assert not bonuses(params, torch.tensor([0.3]), 0.1).any()


@pytest.mark.parametrize("surprises", [torch.tensor([]), torch.tensor([1.0, math.inf]), torch.tensor([1.0, 1e30])])
def test_no_surprises_and_those_that_are_not_finite_leave_the_moments_as_they_are(surprises):
    params = module()
    params |= count_surprises(params, torch.tensor([1.0, 3.0]))
    for name, value in count_surprises(params, surprises).items():
        assert torch.equal(value, params[name])


def test_the_forward_models_error_falls_on_transitions_seen_again_and_unseen_ones_surprise_more():
    before, actions = normal(64, 2), normal(64, 1, seed=1)
    seen = Transitions(before, actions, before + torch.cat([actions, 0.5 * actions], -1))
    params, losses = trained(seen, (), 400)
    assert losses[-1][0] < 0.1 * losses[0][0]
    far = Transitions(before, actions, seen.after + 2.0)
    assert module_losses(params, far, (), joint=False)[0] > 5.0 * module_losses(params, seen, (), joint=False)[0]


def test_the_inverse_model_recovers_actions_that_show_and_not_those_that_do_not():
    """The first of two numbers moves the first coordinate; the second does nothing, and fresh ones stay unknown."""

    def moved(seed: int) -> Transitions:
        before, actions = normal(1000, 2, seed=seed), normal(1000, 2, seed=seed + 1)
        return Transitions(before, actions, before + torch.stack([actions[:, 0], torch.zeros(1000)], -1))

    params, fresh = trained(moved(0), (), 300)[0], moved(2)
    inferred = infer(params, encode(params, fresh.before), encode(params, fresh.after))
    errors = (inferred - fresh.actions).square().mean(0)
    assert float(errors[0]) < 0.2
    assert float(errors[1]) > 0.8


def test_the_inverse_model_recovers_choices_that_show_and_not_those_that_do_not():
    """The first of two choices moves the first coordinate by -1, 0 or 1; the second does nothing."""
    learned, fresh = (_moved_by_choices(seed) for seed in (0, 1))
    params, _ = trained(learned, (3, 3), 300)
    encoded = [encode(params, each) for each in (fresh.before, fresh.after)]
    first, second = (
        float((part.argmax(-1) == fresh.actions[:, place]).float().mean())
        for place, part in enumerate(infer(params, *encoded).split([3, 3], -1))
    )
    assert first > 0.95
    assert second < 0.45


def test_the_forward_model_sees_which_option_of_each_choice_was_taken():
    """Each option adds a row of its own to the features: of the first choice 0 or 1, of the second 10, 20 or 30."""
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 10.0], [0.0, 20.0], [0.0, 30.0]])
    params = {"forward/weight_0": torch.cat([torch.zeros(2, 5), torch.eye(5)]), "forward/bias_0": torch.zeros(5)}
    params |= {"forward/weight_1": rows, "forward/bias_1": torch.zeros(2)}
    taken = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 1.0]])
    found = predict(params, torch.full((3, 2), 0.5), taken, (2, 3))
    assert_close(found, 0.5 + torch.tensor([[0.0, 10.0], [1.0, 30.0], [1.0, 20.0]]))


def test_the_forward_model_learns_what_choices_do():
    """Where they alone tell where the next observation lies, it is foreseen only by them."""
    choices = torch.randint(4, (400, 1), generator=torch.Generator().manual_seed(0)).float()
    places = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    seen = Transitions(torch.zeros(400, 2), choices, places[choices[:, 0].long()])
    _, losses = trained(seen, (4,), 300)
    assert losses[-1][0] < 0.05 * losses[0][0]


def _moved_by_choices(seed: int) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    before, choices = normal(1000, 2, seed=seed), torch.randint(3, (1000, 2), generator=generator).float()
    return Transitions(before, choices, before + torch.stack([choices[:, 0] - 1.0, torch.zeros(1000)], -1))


@pytest.mark.parametrize("joint", [True, False])
def test_the_forward_loss_trains_the_encoder_only_where_it_may(joint):
    params = leaves(weights_of(module()))
    forward, _ = module_losses(params, transitions(rollouts()), (), joint=joint)
    slopes = gradients(forward, params)
    assert slopes["forward/weight_0"].any()
    assert bool(slopes["encoder/weight_0"].any()) is joint


def test_the_gradient_of_the_losses_agrees_with_finite_differences():
    seen = Transitions(*(field.double() for field in transitions(rollouts())))
    params = leaves({name: value.double() for name, value in weights_of(module()).items()})

    def loss(at: Params) -> Tensor:
        forward, inverse = module_losses(at, seen, (), joint=True)
        return 0.2 * forward + 0.8 * inverse

    slopes = gradients(loss(params), params)
    params = detach(params)
    for name, value in params.items():
        along = torch.sin(3.0 * torch.arange(value.numel())).view(value.shape).double()
        ends = [float(loss({**params, name: value + sign * 1e-6 * along})) for sign in (1.0, -1.0)]
        assert float((slopes[name] * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)

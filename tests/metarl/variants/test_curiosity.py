"""The curiosity module: what its models learn, what its measures say by hand, and weights whose mean is one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.trees import gradients, leaves
from metarl.types import Params
from metarl.variants.curiosity import (
    MEASURES,
    Transition,
    direction_novelty,
    encode,
    forward_errors,
    init,
    module_losses,
    predict,
    sample_weights,
    transition,
)

TASKS, SAMPLES, SIZE, CLASSES = 3, 6, 10, 3


def fresh(*, encoder: bool = True, action: int = CLASSES, seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return init(SIZE, action, encoder=encoder, features=4, hidden=16, generator=generator)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_transition(*, values: bool = False) -> Transition:
    shape = (TASKS, SAMPLES, SIZE)
    targets = random(TASKS, SAMPLES, 2, seed=3) if values else (torch.arange(TASKS * SAMPLES) % CLASSES).view(TASKS, -1)
    return transition(random(*shape, seed=1), random(*shape, seed=2), targets)


def train(params: Params, seen: Transition, *, iterations: int, joint: bool = False) -> Params:
    values = [value.clone().requires_grad_() for value in params.values()]
    optimizer = torch.optim.Adam(values, lr=0.01)
    for _ in range(iterations):
        optimizer.zero_grad()
        forward, inverse = module_losses(dict(zip(params, values, strict=True)), seen, joint=joint)
        (0.2 * forward + 0.8 * inverse).mean().backward()
        optimizer.step()
    return {name: value.detach() for name, value in zip(params, values, strict=True)}


def test_the_forward_models_error_falls_on_a_task_that_comes_again():
    for encoder in (True, False):
        params, seen = fresh(encoder=encoder), some_transition()
        before, after = (
            module_losses(each, seen, joint=False)[0] for each in (params, train(params, seen, iterations=300))
        )
        assert (after < 0.3 * before).all(), encoder


def test_the_inverse_model_recovers_the_label_where_gradients_tell_it():
    """The change of the gradient is along the label's axis: other tasks of the kind are told too."""
    labels = (torch.arange(130 * SAMPLES) % CLASSES).view(130, -1)
    start = random(130, SAMPLES, SIZE, seed=4)
    end = start + 2.0 * torch.eye(SIZE)[labels]
    seen = transition(start[:100], end[:100], labels[:100])
    params = train(fresh(), seen, iterations=300)
    others = transition(start[100:], end[100:], labels[100:])
    assert module_losses(fresh(), others, joint=False)[1].mean() > 0.9 * math.log(CLASSES)
    assert module_losses(params, others, joint=False)[1].mean() < 0.2 * math.log(CLASSES)


def test_the_inverse_model_of_values_regresses_on_them():
    values = random(1, SAMPLES, 2, seed=6)
    start = random(1, SAMPLES, SIZE, seed=7)
    seen = transition(start, torch.cat([start[..., 2:], values], -1), values)
    params = fresh(action=2)
    trained = train(params, seen, iterations=300)
    assert module_losses(trained, seen, joint=False)[1] < 0.1 * module_losses(params, seen, joint=False)[1]


def test_losses_by_hand_from_the_models_parts():
    params, seen = fresh(), some_transition()
    forward, inverse = module_losses(params, seen, joint=True)
    state, following = encode(params, seen.before), encode(params, seen.after)
    error = following - predict(params, state, seen.targets)
    assert_close(forward, 0.5 * (error**2).sum(-1).mean(1))
    hidden = torch.cat([state, following], -1) @ params["inverse/weight_0"] + params["inverse/bias_0"]
    logits = torch.nn.functional.elu(hidden) @ params["inverse/weight_1"] + params["inverse/bias_1"]
    chosen = torch.log_softmax(logits, -1).gather(-1, seen.targets.unsqueeze(-1))
    assert_close(inverse, -chosen.squeeze(-1).mean(1))
    assert_close(forward_errors(params, seen), (error**2).sum(-1))


@pytest.mark.parametrize("joint", [False, True])
def test_the_forward_loss_trains_the_encoder_only_where_it_is_told_to(joint):
    params = leaves(fresh())
    with torch.enable_grad():
        forward, inverse = module_losses(params, some_transition(), joint=joint)
        of_forward, of_inverse = gradients(forward.sum(), params), gradients(inverse.sum(), params)
    assert bool(of_forward["encoder/weight_0"].any()) == joint
    assert of_inverse["encoder/weight_0"].any()
    assert of_forward["forward/weight_0"].any()
    assert not of_forward["inverse/weight_0"].any()


def test_without_an_encoder_gradients_themselves_are_predicted():
    params, seen = fresh(encoder=False), some_transition()
    assert not any(name.startswith(("encoder", "inverse")) for name in params)
    error = seen.after - predict(params, seen.before, seen.targets)
    assert_close(forward_errors(params, seen), error.square().sum(-1))
    assert not module_losses(params, seen, joint=False)[1].any()


@pytest.mark.parametrize("values", [False, True])
def test_the_forward_model_is_told_the_label(values):
    params, seen = fresh(action=2 if values else CLASSES), some_transition(values=values)
    other = (seen.targets + 1.0) if values else (seen.targets + 1) % CLASSES
    found, moved = (predict(params, encode(params, seen.before), targets) for targets in (seen.targets, other))
    assert ((found - moved).abs().amax(-1) > 0.0).all()


def test_gradients_are_divided_by_the_size_of_those_before_the_step():
    """The root mean square of 3, 4, 5 and 5 is sqrt(75 / 4)."""
    seen = transition(tensor([[[3.0, 4.0], [5.0, 5.0]]]), tensor([[[6.0, 0.0], [0.0, 2.0]]]), tensor([[0, 1]]))
    size = math.sqrt(75.0 / 4.0)
    assert_close(seen.before, tensor([[[3.0, 4.0], [5.0, 5.0]]]) / size)
    assert_close(seen.after, tensor([[[6.0, 0.0], [0.0, 2.0]]]) / size)


def test_the_length_of_all_gradients_changes_no_curiosity():
    params, (before, after) = fresh(), (random(TASKS, SAMPLES, SIZE, seed=seed) for seed in (1, 2))
    labels = some_transition().targets
    found = forward_errors(params, transition(before, after, labels))
    assert_close(forward_errors(params, transition(1e4 * before, 1e4 * after, labels)), found, rtol=1e-4, atol=1e-5)


def test_a_task_whose_gradients_are_not_finite_teaches_nothing_and_its_curiosity_is_no_number():
    params, before, after = fresh(), random(TASKS, SAMPLES, SIZE, seed=1), random(TASKS, SAMPLES, SIZE, seed=2)
    after[1, 2, 3] = math.inf
    seen = transition(before, after, some_transition().targets)
    assert seen.valid.tolist() == [True, False, True]
    forward, inverse = module_losses(params, seen, joint=True)
    assert [bool(value) for value in forward] == [bool(value) for value in inverse] == [True, False, True]
    curious = forward_errors(params, seen)
    assert torch.isnan(curious).all(1).tolist() == [False, True, False]
    assert sample_weights(curious, temperature=1.0, clip=3.0).fell_back.tolist() == [False, True, False]


@pytest.mark.parametrize("factor", [0.0, 1e30])
@pytest.mark.parametrize("encoder", [True, False])
def test_where_gradients_cannot_be_scaled_weights_are_equal_rather_than_the_labels(encoder, factor):
    """The forward model is told the label, and would err on each class in its own way; the module learns nothing."""
    before = random(TASKS, SAMPLES, SIZE, seed=1)
    before[1] *= factor  # the squares of the greater are infinite
    seen = transition(before, random(TASKS, SAMPLES, SIZE, seed=2), some_transition().targets)
    assert seen.valid.tolist() == [True, False, True]
    params = fresh(encoder=encoder)
    weights = sample_weights(forward_errors(params, seen), temperature=1.0, clip=3.0)
    assert weights.fell_back.tolist() == [False, True, False]
    assert_close(weights.values[1], torch.ones(SAMPLES))
    assert weights.values[0].std() > 0.01
    forward, inverse = module_losses(params, seen, joint=True)
    assert float(forward[1]) == float(inverse[1]) == 0.0
    assert float(forward[0]) > 0.0


def test_measures_that_are_not_learned_by_hand():
    """Gradients (3, 4), (3, -4) and 0: lengths 5, 5 and 0; their mean is along the first axis, cosines 3 / 5."""
    slopes, losses = tensor([[[3.0, 4.0], [3.0, -4.0], [0.0, 0.0]]]), tensor([[0.5, 2.0, 1.0]])
    found = {name: measure(losses, slopes) for name, measure in MEASURES.items()}
    assert_close(found["norm"], tensor([[5.0, 5.0, 0.0]]))
    assert_close(found["direction"], tensor([[0.4, 0.4, 0.0]]))
    assert_close(found["loss"], losses)
    assert_close(found["uniform"], torch.ones(1, 3))


def test_novelty_of_direction_does_not_see_lengths_and_alike_gradients_have_none():
    slopes = random(1, 1, SIZE).expand(2, SAMPLES, SIZE) * torch.arange(1.0, SAMPLES + 1.0).unsqueeze(-1)
    assert not direction_novelty(slopes[..., 0], slopes).any()


def weights_of(*curiosity: float, temperature: float = 1.0, clip: float = 100.0) -> list[float]:
    return sample_weights(tensor([curiosity]), temperature=temperature, clip=clip).values[0].tolist()


def test_weights_by_hand():
    """In proportion 1 : 2 : 5; tempered by 2, of 1 and 9, as 1 : 3; limited to 2, the rest shared 1 : 3."""
    assert weights_of(1.0, 2.0, 5.0) == pytest.approx([0.375, 0.75, 1.875], rel=1e-4)
    assert weights_of(1.0, 9.0, temperature=2.0) == pytest.approx([0.5, 1.5], rel=1e-4)
    assert weights_of(1.0, 3.0, 60.0, clip=2.0) == pytest.approx([0.25, 0.75, 2.0], rel=1e-3)


def test_what_limited_weights_lose_is_shared_even_where_the_others_have_no_curiosity():
    assert weights_of(7.0, 0.0, 0.0, clip=2.0) == pytest.approx([2.0, 0.5, 0.5], rel=1e-4)
    assert weights_of(1.0, 2.0, 3.0, 4.0, clip=1.0) == pytest.approx([1.0] * 4, rel=1e-4)


@pytest.mark.parametrize("clip", [1.0, 1.2, 2.0, 3.0, 50.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_weights_have_mean_one_under_every_limit_and_keep_the_order(clip, temperature):
    curiosity = random(200, 7, seed=5).exp() ** 3
    found = sample_weights(curiosity, temperature=temperature, clip=clip)
    assert not found.fell_back.any()
    assert_close(found.values.mean(1), torch.ones(200), rtol=1e-5, atol=1e-5)
    assert found.values.max() <= clip * (1.0 + 1e-5)
    assert found.values.min() > 0.0
    ordered = found.values.gather(1, curiosity.argsort(1))
    assert (ordered.diff(dim=1) >= -1e-6).all()


def test_weights_have_no_history():
    curiosity = random(2, 5).exp().requires_grad_()
    assert not sample_weights(curiosity, temperature=1.0, clip=2.0).values.requires_grad


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (9.0, [4 / 7, 8 / 7, 36 / 7]),  # 1, 2 and 9 with 1, 3 and no steps: 7 over 4 steps
        (1.1, [0.7, 1.1, 1.1]),  # of 4 the second takes 3.3
    ],
)
def test_weights_of_what_counts_several_times_or_not_at_all_have_mean_one_over_all_times(clip, expected):
    curiosity, amounts = tensor([[1.0, 2.0, 9.0]]), tensor([[1.0, 3.0, 0.0]])
    found = sample_weights(curiosity, temperature=1.0, clip=clip, amounts=amounts)
    assert_close(found.values, tensor([expected]), rtol=1e-4, atol=1e-5)


def test_the_order_of_samples_and_the_unit_of_curiosity_change_no_weight():
    curiosity, order = random(4, 9).exp(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    found = sample_weights(curiosity, temperature=0.5, clip=1.5).values
    assert torch.equal(sample_weights(curiosity[:, order], temperature=0.5, clip=1.5).values, found[:, order])
    assert_close(sample_weights(1e-12 * curiosity, temperature=0.5, clip=1.5).values, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [[0.0, 0.0, 0.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_curiosity_that_is_all_zero_or_not_finite_falls_back_to_equal_weights(bad):
    found = sample_weights(tensor([[1.0, 2.0, 3.0], bad]), temperature=1.0, clip=3.0)
    assert found.fell_back.tolist() == [False, True]
    assert_close(found.values[1], torch.ones(3))
    assert found.values[0].tolist() == pytest.approx([0.5, 1.0, 1.5], rel=1e-4)

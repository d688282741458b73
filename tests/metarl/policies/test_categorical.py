"""Categorical policies held to torch's distributions, to enumeration and to automatic differentiation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.testing import assert_close

from metarl.linear import AutogradMap
from metarl.policies.base import PolicyConfig
from metarl.policies.categorical import CategoricalPolicy
from metarl.types import Params

SIZES = (3, 2, 4)
TASKS, ROWS = 2, 5
POLICY = CategoricalPolicy(2, SIZES, PolicyConfig(hidden=(4,)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution(seed: int = 0) -> Params:
    return {"logits": normal(TASKS, ROWS, sum(SIZES), seed=seed)}


def parts(at: Params) -> list[Categorical]:
    return [Categorical(logits=logits) for logits in at["logits"].split(SIZES, -1)]


def actions(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(size, (TASKS, ROWS), generator=generator) for size in SIZES]
    return torch.stack(drawn, -1).double()


def test_log_probability_entropy_and_kl_are_the_sums_of_torchs():
    at, other, chosen = distribution(1), distribution(2), actions()
    assert_close(POLICY.log_prob(at, chosen), sum(p.log_prob(chosen[..., i]) for i, p in enumerate(parts(at))))
    assert_close(POLICY.entropy(at), sum(part.entropy() for part in parts(at)))
    pairs = zip(parts(at), parts(other), strict=True)
    assert_close(POLICY.kl(at, other), sum(torch.distributions.kl_divergence(*pair) for pair in pairs))


def test_probabilities_of_all_actions_sum_to_one():
    at = distribution()
    every = [torch.tensor(each, dtype=torch.float64) for each in itertools.product(*map(range, SIZES))]
    total = sum(POLICY.log_prob(at, each.expand(TASKS, ROWS, -1)).exp() for each in every)
    assert_close(total, torch.ones(TASKS, ROWS, dtype=torch.float64))


def test_fisher_metric_is_the_hessian_of_the_weighted_kl():
    at, tangent, weights = distribution(1), distribution(2), normal(TASKS, ROWS, seed=3).abs()

    def kl(logits: Tensor) -> Tensor:
        return (POLICY.kl(at, {"logits": logits}) * weights).sum()

    _, expected = torch.autograd.functional.hvp(kl, at["logits"], tangent["logits"])
    assert_close(POLICY.fisher(at, tangent, weights), {"logits": expected})


def test_the_linear_map_by_hand_equals_automatic_differentiation():
    phi = {name: value.double().expand(TASKS, *value.shape) for name, value in POLICY.init(torch.Generator()).items()}
    observations, at = normal(TASKS, ROWS, 2), distribution(3)
    by_hand = POLICY.linearize(phi, observations)
    by_torch = AutogradMap(lambda point: POLICY.distribution(point, observations), phi)
    tangent = {name: torch.sin(5.0 * value + 1.0) for name, value in phi.items()}
    assert_close(by_hand.outputs, by_torch.outputs)
    assert_close(by_hand.pull(at), by_torch.pull(at))
    assert_close(by_hand.push(tangent), by_torch.push(tangent))
    for cotangent in (None, at):
        found, expected = (
            each.product(tangent, cotangent, lambda t: {"logits": 2.0 * t["logits"]}) for each in (by_hand, by_torch)
        )
        assert_close(found, expected)


def sampled(count: int) -> tuple[np.ndarray, np.ndarray, Params]:
    """Actions, their log probabilities, and the distribution as learning sees it, for one observation."""
    phi = {name: value.unsqueeze(0) for name, value in POLICY.init(torch.Generator().manual_seed(3)).items()}
    observations = np.full((1, count, 2), 0.7, np.float32)
    noise = np.empty((1, count, len(SIZES)), np.float32)
    POLICY.draw_noise(np.random.default_rng(0), noise)
    sampler = POLICY.sampler(phi)
    drawn, parts_drawn = sampler.act(observations, noise)
    kept = {name: part[:, :, None] for name, part in parts_drawn.items()}
    log_probs = sampler.log_probs(drawn[:, :, None], noise[:, :, None], kept)
    return drawn, log_probs[..., 0], POLICY.distribution(phi, torch.from_numpy(observations))


def test_actions_are_drawn_with_the_probabilities_of_the_distribution():
    drawn, log_probs, at = sampled(20_000)
    for choice, part in enumerate(parts(at)):
        shares = np.bincount(drawn[0, :, choice].astype(int), minlength=SIZES[choice]) / 20_000
        assert len(shares) == SIZES[choice]
        np.testing.assert_allclose(shares, part.probs[0, 0], atol=0.015)  # 4 standard errors
    assert_close(torch.from_numpy(log_probs), POLICY.log_prob(at, torch.from_numpy(drawn)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, np.nextafter(np.float32(1.0), np.float32(0.0))])
def test_the_most_extreme_noise_chooses_an_option_that_exists(noise):
    phi = {name: value.unsqueeze(0) for name, value in POLICY.init(torch.Generator()).items()}
    drawn, _ = POLICY.sampler(phi).act(np.zeros((1, 1, 2), np.float32), np.full((1, 1, 3), noise, np.float32))
    assert (drawn >= 0).all()
    assert (drawn < np.array(SIZES)).all()


def test_the_mode_is_the_likeliest_option_of_each_choice():
    phi = {name: value.double().expand(TASKS, *value.shape) for name, value in POLICY.init(torch.Generator()).items()}
    observations = normal(TASKS, ROWS, 2)
    expected = torch.stack([part.probs.argmax(-1) for part in parts(POLICY.distribution(phi, observations))], -1)
    assert np.array_equal(POLICY.sampler(phi).mode(observations.numpy()), expected.numpy())

"""Acting on plain observations: what the sampler of rollouts does, one observation at a time."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.deploy.adapt import AdaptConfig, adapt
from metarl.deploy.policy import AdaptedPolicy
from metarl.deploy.spaces import Spaces
from metarl.rollout.normalizer import make_scaler


@pytest.mark.parametrize("normalize", [False, True])
def test_a_deterministic_action_is_the_mean_cut_off_at_the_bounds(normalize, make_adapted):
    policy = make_adapted(normalize=normalize)
    for observation in np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32):
        seen = observation if not normalize else policy.scaler(observation).astype(np.float32)
        with torch.no_grad():
            mean = policy.policy.distribution(policy.phi, torch.from_numpy(seen)[None, None])["mean"][0, 0].numpy()
        action = policy.act(observation, deterministic=True)
        np.testing.assert_array_equal(action, np.clip(mean, np.float32(-0.5), np.float32(2.0)))
        assert action.shape == (2,)
        assert action.dtype == np.float32


def test_a_normalized_observation_is_scaled_by_the_statistics_of_the_run(make_start, counting):
    """Means -0.5, 0, 0.5 and variances 0.1, 1.55, 3, from the fixture."""
    start = make_start(normalize=True)
    policy = adapt(start, counting(start.spaces, []), AdaptConfig(steps=0))
    assert policy.scaler is not None
    assert policy.scaler(np.zeros(3)) == pytest.approx([0.5 / 0.1**0.5, 0.0, -0.5 / 3.0**0.5], rel=1e-6)
    expected = make_scaler(start.meta.normalizer)
    assert expected is not None
    np.testing.assert_array_equal(policy.scaler.deviation, expected.deviation)


def test_a_deterministic_choice_is_the_likeliest_option_of_each_part(make_adapted):
    """Two choices of 2 and 3 options, counted from 1 and 0; observations are a dict of a matrix and a choice."""
    policy = make_adapted("discrete")
    policy.observation_space.seed(3)
    for _ in range(20):
        observation = policy.observation_space.sample()
        row = spaces.flatten(policy.observation_space, observation).astype(np.float32)
        logits = policy.policy.distribution(policy.phi, torch.from_numpy(row)[None, None])["logits"][0, 0]
        expected = [1 + int(logits[:2].argmax()), int(logits[2:].argmax())]
        action = policy.act(observation, deterministic=True)
        assert action.tolist() == expected
        assert policy.action_space.contains(action)


def constant(policy: AdaptedPolicy, *mean: float) -> AdaptedPolicy:
    """The policy with one mean for all observations and a deviation of exp(-3)."""
    phi = {name: torch.zeros_like(value) for name, value in policy.phi.items()}
    phi |= {"bias_1": torch.tensor([mean]), "log_std": torch.full((1, 2), -3.0)}
    spaces = Spaces(policy.observation_space, policy.action_space)
    return AdaptedPolicy(policy.policy, phi, policy.scaler, spaces, policy.origin)


def test_rescaled_actions_are_stretched_onto_the_bounds(make_adapted):
    """The middle of [-0.5, 2] is 0.75 and half its length 1.25."""
    policy = constant(make_adapted(bounds="rescale"), 0.0, 0.5)
    np.testing.assert_allclose(policy.act(np.zeros(3), deterministic=True), [0.75, 1.375])


def test_samples_have_the_deviation_of_the_parameters_and_come_from_the_generator_given(make_adapted):
    policy, rng = constant(make_adapted(), 0.5, 1.0), np.random.default_rng(0)
    drawn = np.array([policy.act(np.zeros(3), rng=rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.std(0), np.exp(-3.0), rtol=0.06)  # 5 standard errors
    np.testing.assert_allclose(drawn.mean(0), [0.5, 1.0], atol=0.004)
    np.testing.assert_array_equal(policy.act(np.zeros(3), rng=np.random.default_rng(0)), drawn[0])


def test_an_observation_beyond_single_precision_is_refused_unless_scaling_cuts_it_off(make_adapted):
    observation = {"where": np.full((2, 2), 1e300), "gear": 0}
    with pytest.raises(ValueError, match="must be finite"):
        make_adapted("discrete").act(observation)
    make_adapted("discrete", normalize=True).act(observation)


def test_single_discrete_actions_run_in_gymnasium(make_start):
    make = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
    env = make()
    policy = adapt(make_start(Spaces(env.observation_space, env.action_space)), make)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(policy.act(observation))


@pytest.mark.parametrize(
    ("kind", "observation", "complaint"),
    [
        ("box", np.zeros(4), r"observation must have the shape \(3,\) of its space, got \(4,\)"),
        ("box", np.zeros((1, 3)), r"got \(1, 3\)"),
        ("box", np.array([0.0, np.nan, 0.0]), "must be finite"),
        ("box", np.array([0.0, np.inf, 0.0]), "must be finite"),
        ("discrete", {"where": np.zeros((2, 2))}, "must be a dict with 'gear', 'where', got .*where"),
        ("discrete", np.zeros(7), "must be a dict with 'gear', 'where', got ndarray"),
        ("discrete", {"where": np.zeros(4), "gear": 0}, r"observation\['where'\] must have the shape \(2, 2\)"),
        ("discrete", {"where": np.zeros((2, 2)), "gear": 2}, r"observation\['gear'\] must be in Discrete"),
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_an_observation_that_is_not_of_the_space_is_refused(kind, observation, complaint, normalize, make_adapted):
    with pytest.raises(ValueError, match=complaint):
        make_adapted(kind, normalize=normalize).act(observation)

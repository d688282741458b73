"""Adam and plain descent against torch's, schedules by hand, and what a configuration refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.types import Meta, Params


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_meta(seed: int) -> Meta:
    """A scalar among them, names that theta and eta share, and a leaf whose numbers differ in scale."""
    theta = {"weight": normal(3, 2, seed=seed), "bias": normal(2, seed=seed + 1) * tensor([1e-6, 1e6])}
    return Meta(theta, {"weight": normal(4, seed=seed + 2), "step/size": normal(seed=seed + 3)}, {})


def slopes_at(number: int) -> Meta:
    return random_meta(1000 + 10 * number)


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (OptimizerConfig(learning_rate=0.01), lambda values: torch.optim.Adam(values, lr=0.01)),
        (
            OptimizerConfig(learning_rate=0.1, beta1=0.5, beta2=0.8, epsilon=1e-3),
            lambda values: torch.optim.Adam(values, lr=0.1, betas=(0.5, 0.8), eps=1e-3),
        ),
        (OptimizerConfig(beta1=0.0), lambda values: torch.optim.Adam(values, lr=0.001, betas=(0.0, 0.999))),
        (OptimizerConfig(optimizer="sgd", learning_rate=0.3), lambda values: torch.optim.SGD(values, lr=0.3)),
    ],
    ids=["adam", "other constants", "no momentum", "sgd"],
)
def test_twenty_steps_equal_torchs(config, make):
    meta = random_meta(0)
    moments = initial_moments(meta, config)
    values = [value.clone().requires_grad_() for part in (meta.theta, meta.eta) for value in part.values()]
    peer = make(values)
    for number in range(20):
        slopes = slopes_at(number)
        for value, slope in zip(values, [*slopes.theta.values(), *slopes.eta.values()], strict=True):
            value.grad = slope.clone()
        peer.step()
        meta, moments, _ = step(config, config.learning_rate, meta, slopes, moments)
    found = [*meta.theta.values(), *meta.eta.values()]
    assert_close(found, [value.detach() for value in values], rtol=1e-12, atol=1e-14)
    assert moments == {} if config.optimizer == "sgd" else int(moments["count"]) == 20


def test_the_first_step_of_adam_has_the_length_of_the_learning_rate_whatever_the_gradient():
    config = OptimizerConfig(learning_rate=0.1, epsilon=1e-12)
    meta = Meta({"x": tensor([1.0, 1.0, 1.0])}, {}, {})
    slopes = Meta({"x": tensor([1e-3, -50.0, 0.0])}, {}, {})
    moved, moments, norm = step(config, 0.1, meta, slopes, initial_moments(meta, config))
    assert_close(moved.theta["x"], tensor([0.9, 1.1, 1.0]))
    assert norm == pytest.approx(50.0)
    assert_close(moments["m/x"], tensor([1e-4, -5.0, 0.0]))
    assert_close(moments["v/x"], tensor([1e-9, 2.5, 0.0]))


def test_a_step_leaves_what_it_was_given_as_it_was():
    config = OptimizerConfig(max_norm=0.1)
    meta, slopes = random_meta(0), slopes_at(0)
    moments = initial_moments(meta, config)
    meta, moments, _ = step(config, 0.1, meta, slopes, moments)

    def copy(params: Params) -> Params:
        return {name: value.clone() for name, value in params.items()}

    before = copy(meta.theta), copy(meta.eta), copy(slopes.theta), copy(moments)
    step(config, 0.1, meta, slopes, moments)
    assert_close((meta.theta, meta.eta, slopes.theta, moments), before, rtol=0.0, atol=0.0)


def test_the_normalizer_is_handed_on_and_does_not_move():
    config, scale = OptimizerConfig(), {"mean": tensor([3.0])}
    meta = Meta({"x": tensor([1.0])}, {}, scale)
    moved, _, _ = step(config, 0.1, meta, Meta({"x": tensor([1.0])}, {}, {}), initial_moments(meta, config))
    assert moved.normalizer is scale


def test_a_gradient_longer_than_the_limit_is_shortened_to_it_over_theta_and_eta_together():
    """Length 5 of (3, 4), limit 1: descent by (0.6, 0.8)."""
    config = OptimizerConfig(optimizer="sgd", max_norm=1.0)
    meta = Meta({"x": tensor([0.0])}, {"y": tensor(0.0)}, {})
    moved, _, norm = step(config, 1.0, meta, Meta({"x": tensor([3.0])}, {"y": tensor(4.0)}, {}), {})
    assert_close((moved.theta["x"], moved.eta["y"]), (tensor([-0.6]), tensor(-0.8)))
    assert norm == pytest.approx(5.0)


def test_a_gradient_within_the_limit_is_left_as_it_is():
    meta, slopes = random_meta(0), slopes_at(0)
    limited, free = (
        step(OptimizerConfig(optimizer="sgd", max_norm=limit), 0.1, meta, slopes, {})[0] for limit in (1e12, None)
    )
    assert_close(limited, free, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_gradient_that_is_not_finite_has_a_norm_that_is_not(bad, limit):
    config = OptimizerConfig(max_norm=limit)
    meta = Meta({"x": tensor([1.0, 1.0])}, {"y": tensor(1.0)}, {})
    slopes = Meta({"x": tensor([1.0, 1.0])}, {"y": tensor(bad)}, {})
    assert not math.isfinite(step(config, 0.1, meta, slopes, initial_moments(meta, config))[2])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.5, 0.375, 0.25, 0.125]),
        ("cosine", [0.5, 0.25 * (1.0 + math.sqrt(0.5)), 0.25, 0.25 * (1.0 - math.sqrt(0.5))]),
    ],
)
def test_schedules_fall_to_zero_at_the_end_by_hand(schedule, rates):
    config = OptimizerConfig(learning_rate=0.5, schedule=schedule)
    assert [config.rate(iteration, 4) for iteration in range(4)] == pytest.approx(rates)
    assert config.rate(4, 4) == pytest.approx(0.5 if schedule == "constant" else 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamw"}, "outer optimizer must be one of adam, sgd, got 'adamw'"),
        ({"schedule": "step"}, "outer schedule must be one of constant, linear, cosine, got 'step'"),
        ({"learning_rate": 0.0}, r"outer learning_rate must be positive and finite, got 0\.0"),
        ({"learning_rate": math.nan}, "outer learning_rate must be positive and finite, got nan"),
        ({"learning_rate": math.inf}, "outer learning_rate must be positive and finite, got inf"),
        ({"beta1": 1.0}, r"outer beta1 must lie in \[0, 1\), got 1\.0"),
        ({"beta2": -0.1}, r"outer beta2 must lie in \[0, 1\), got -0\.1"),
        ({"epsilon": 0.0}, r"outer epsilon must be positive, got 0\.0"),
        ({"epsilon": -1e-8}, "outer epsilon must be positive, got -1e-08"),
        ({"epsilon": math.nan}, "outer epsilon must be positive, got nan"),
        ({"max_norm": 0.0}, r"outer max_norm must be positive, got 0\.0"),
        ({"max_norm": math.nan}, "outer max_norm must be positive, got nan"),
    ],
)
def test_impossible_optimizers_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_order_of_the_gradients_names_is_of_no_account(optimizer):
    config, meta, slopes = OptimizerConfig(optimizer=optimizer), random_meta(0), slopes_at(1)
    turned = slopes._replace(theta=dict(reversed(slopes.theta.items())), eta=dict(reversed(slopes.eta.items())))
    expected, found = (step(config, 0.1, meta, each, initial_moments(meta, config)) for each in (slopes, turned))
    assert_close(found[0], expected[0], rtol=0.0, atol=0.0)
    assert_close(found[1], expected[1], rtol=0.0, atol=0.0)

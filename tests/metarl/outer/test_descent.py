"""Outer updates along a gradient: one step, several epochs, what refuses them, and the adaptive penalty."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from metarl.outer.adam import OptimizerConfig, step
from metarl.outer.descent import ClipConfig, Descent, adapted_penalty, descend, start
from metarl.outer.objectives import SURROGATE, clipped
from metarl.outer.policy_gradients import judge, through
from metarl.trees import split

OPTIMIZER = OptimizerConfig(learning_rate=0.01)


def update(problem, *, epochs: int = 1, clip: ClipConfig | None = None, make_estimate=None, moments=None) -> Descent:
    clip = clip or ClipConfig()
    return descend(
        problem.learner,
        problem.meta,
        start(problem.meta, OPTIMIZER, clip) if moments is None else moments,
        problem.data,
        make_estimate or (lambda penalty: through(SURROGATE)),
        optimizer=OPTIMIZER,
        rate=OPTIMIZER.learning_rate,
        clip=clip,
        epochs=epochs,
    )


def test_one_epoch_is_one_step_of_the_optimizer(make_problem):
    problem = make_problem("lvc", 1)
    found = update(problem)
    slope = judge(through(SURROGATE), problem.learner, problem.meta, problem.data).gradient
    moments = start(problem.meta, OPTIMIZER, ClipConfig())
    expected, kept, norm = step(OPTIMIZER, 0.01, problem.meta, split(slope, problem.meta), moments)
    assert found.accepted
    assert_close(found.meta.theta, expected.theta, rtol=0.0, atol=0.0)
    assert_close(found.moments, kept, rtol=0.0, atol=0.0)
    assert found.metrics["outer/gradient_norm"] == norm


def test_several_epochs_go_on_from_where_the_last_one_ended_and_improve_the_objective(make_problem):
    problem = make_problem("lvc", 1)
    estimate = partial(lambda penalty: through(clipped(0.3, 0.0, 1)))
    once, five = (update(problem, epochs=epochs, make_estimate=estimate) for epochs in (1, 5))
    assert int(five.moments["count"]) == 5
    again = update(replace(problem, meta=once.meta), epochs=4, make_estimate=estimate, moments=once.moments)
    assert_close(again.meta.theta, five.meta.theta, rtol=1e-12, atol=1e-14)
    assert five.metrics["outer/objective_change"] < 0.0
    assert five.metrics["outer/kl_nats"] > 0.0
    assert problem.surrogate(problem.vector(five.meta.theta)) < problem.surrogate(problem.vector(problem.meta.theta))


def test_a_gradient_that_is_not_finite_changes_nothing(make_problem):
    problem = make_problem("lvc", 1)
    broken = problem.data.query.advantages.clone()
    broken[0] = math.nan
    data = problem.data._replace(query=problem.data.query._replace(advantages=broken))
    found = update(replace(problem, data=data), epochs=3)
    assert not found.accepted
    assert found.meta is problem.meta
    assert math.isnan(found.metrics["outer/gradient_norm"])


def test_the_penalty_moves_towards_its_target_and_is_kept(make_problem):
    problem = make_problem("lvc", 1)
    weights: list[float] = []

    def make_estimate(penalty: float):
        weights.append(penalty)
        return through(clipped(0.3, penalty, 1))

    clip = ClipConfig(kl_penalty=1.0, kl_target=1e-9)
    first = update(problem, epochs=2, clip=clip, make_estimate=make_estimate)
    update(problem, epochs=2, clip=clip, make_estimate=make_estimate, moments=first.moments)
    assert weights == [1.0, 2.0]
    assert first.metrics["outer/kl_penalty"] == 2.0
    assert "kl_penalty" not in start(problem.meta, OPTIMIZER, ClipConfig())


@pytest.mark.parametrize(("kl", "expected"), [(0.5, 0.5), (1.0, 1.0), (1.4, 1.0), (2.0, 2.0)])
def test_the_penalty_halves_below_and_doubles_above_its_target(make_problem, kl, expected):
    problem = make_problem("lvc", 1)
    found = judge(through(SURROGATE), problem.learner, problem.meta, problem.data)
    assert adapted_penalty(1.0, found._replace(support_kl=torch.full((3,), kl)), 1.0) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "clipped epochs must be at least 1, got 0"),
        ({"clip": 0.0}, "clip must lie between 0 and 1, got 0.0"),
        ({"clip": math.nan}, "clip must lie between 0 and 1"),
        ({"kl_penalty": -1.0}, "kl_penalty must be 0 or more and finite, got -1.0"),
        ({"kl_target": 0.01, "kl_penalty": 0.0}, "kl_target must be positive"),
        ({"kl_target": -0.01}, "kl_target must be positive"),
        ({"kl_target": 0.01, "epochs": 1}, "kl_target needs at least two epochs"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**options)

"""Gradients of single episodes: parts of the task's, a loop of single episodes, and what weights do with them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from metarl.inner.adapt import adapt, unadapted
from metarl.trees import expand, map_rollouts, take_tasks
from metarl.variants.episode_gradients import as_tasks, episode_gradients, look_ahead, unweighted, weighted


def rows(gradient, names):
    return torch.cat([gradient[name].flatten(1) for name in names], 1)


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
@pytest.mark.parametrize("state", ["last", "whole"])
def test_their_mean_is_the_gradient_of_the_task(make_problem, estimator, state):
    """Of episodes of different lengths, one of which did not happen."""
    made = make_problem(estimator)
    problem, batch = made.learner.problem, made.data.support[0]
    phi = expand(made.meta.theta, len(batch.mask))
    whole = problem.local_loss(phi, batch).gradient()
    names = [name for name in whole if state == "whole" or name in problem.policy.head_names]
    found = episode_gradients(problem, phi, batch, state, 1)
    assert found.shape[:2] == batch.mask.shape[:2]
    assert_close(found.mean(1), rows(whole, names))
    assert not found[0, 0].any()


def test_each_is_that_of_its_episode_alone(make_problem):
    made = make_problem()
    problem, batch = made.learner.problem, made.data.support[0]
    phi = expand(made.meta.theta, len(batch.mask))
    found = episode_gradients(problem, phi, batch, "whole", 1)
    for episode in range(batch.mask.shape[1]):
        alone = torch.zeros_like(batch.mask)
        alone[:, episode] = batch.mask[:, episode]
        gradient = problem.local_loss(phi, batch._replace(mask=alone)).gradient()
        share = alone.sum((1, 2)) / batch.mask.sum((1, 2)) * batch.mask.shape[1]
        assert_close(found[:, episode], rows(gradient, gradient) * share[:, None])


def test_episodes_as_tasks_have_the_distributions_that_they_were_drawn_from(make_problem):
    batch = make_problem().data.support[0]
    single = as_tasks(batch)
    tasks, episodes, steps = batch.mask.shape
    assert single.mask.shape == (tasks * episodes, 1, steps)
    one = take_tasks(single, slice(3, 4))  # the second task's second episode, of two
    assert_close(one.actions[0, 0], batch.actions[1, 1])
    assert_close(one.behavior["mean"][0], batch.behavior["mean"].view(tasks, episodes, steps, -1)[1, 1])
    assert_close(one.behavior["log_std"][0], batch.behavior["log_std"][1])


def test_a_projection_has_its_own_size_and_is_linear(make_problem):
    made = make_problem()
    problem, batch = made.learner.problem, made.data.support[0]
    phi = expand(made.meta.theta, len(batch.mask))
    whole = problem.local_loss(phi, batch).gradient()
    found = episode_gradients(problem, phi, batch, "projected", 8)
    assert found.shape[2] == 8
    doubled = episode_gradients(problem, phi, batch._replace(advantages=2.0 * batch.advantages), "projected", 8)
    assert_close(doubled, 2.0 * found)
    assert float(found.square().sum()) > 0.0
    assert rows(whole, whole).shape[1] > 8


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_a_weight_multiplies_the_gradient_of_its_episode_and_can_be_taken_back(make_problem, estimator):
    made = make_problem(estimator)
    problem, batch = made.learner.problem, made.data.support[0]
    phi = expand(made.meta.theta, len(batch.mask))
    weights = torch.tensor([[0.5, 1.5], [2.0, 0.0001], [1.0, 1.0]], dtype=torch.float64)
    shaped = weighted(batch, weights)
    plain, found = (episode_gradients(problem, phi, each, "whole", 1) for each in (batch, shaped))
    assert_close(found, plain * weights[..., None])
    assert_close(problem.local_loss(phi, shaped).gradient()["weight_0"].flatten(1), found.mean(1)[:, :6])
    assert_close(unweighted(shaped).advantages, batch.advantages)
    assert unweighted(shaped).weights is None
    assert unweighted(batch) is batch


def test_the_look_ahead_has_both_ends_of_the_learners_own_step_and_what_came_of_each_episode(make_problem):
    """Scaled by the root mean square of the episodes that happened, which the first did not."""
    made = make_problem()
    learner, batch = made.learner, made.data.support[0]
    start = expand(made.meta.theta, len(batch.mask))
    seen = look_ahead(learner, {}, unadapted(learner, start), batch, "last", 1)
    after = adapt(learner, {}, start, [batch]).phi
    first, second = (episode_gradients(learner.problem, phi, batch, "last", 1) for phi in (start, after))
    size = first.square().mean((1, 2), keepdim=True).sqrt()
    size[0] = first[0, 1].square().mean().sqrt()
    assert_close(seen.before, first / size)
    assert_close(seen.after, second / size)
    advantages = (batch.advantages * batch.mask).sum(-1) / batch.mask.sum(-1).clamp(min=1.0)
    assert_close(seen.targets, advantages[..., None])
    assert bool(seen.valid.all())


def test_the_order_of_episodes_is_that_of_their_gradients(make_problem):
    made = make_problem()
    batch = made.data.support[0]._replace(behavior={})
    phi = expand(made.meta.theta, len(batch.mask))
    found = episode_gradients(made.learner.problem, phi, batch, "last", 1)
    turned = map_rollouts(lambda field: field.flip(1), batch)
    assert_close(episode_gradients(made.learner.problem, phi, turned, "last", 1), found.flip(1))

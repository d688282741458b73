"""Inner steps on weighted examples, against the same by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.curious import CuriousLearner
from metarl.few_shot.curious_problem import CuriousProblem
from metarl.few_shot.learners import GradientLearner
from metarl.few_shot.meta_learner import few_shot_data
from metarl.inner.adapt import inner_step, unadapted
from metarl.tasks import FewShotFamily
from metarl.trees import expand, map_examples
from metarl.types import Examples, Params
from metarl.variants.curiosity import forward_errors, sample_weights, transition
from metarl.variants.gradient_states import last_layer_gradients

TASKS, SIZE = 4, 0.1


def set_up(
    family: FewShotFamily, double: Callable[[Any], Any], algorithm: str = "maml", **curiosity: object
) -> tuple[CuriousProblem, CuriousLearner, Params, Examples]:
    """A curious problem at a random initialization, parameters of tasks, and their support, in float64."""
    config = FewShotConfig(
        algorithm=algorithm,
        net=NetConfig(hidden=(6,), activation="tanh"),
        inner=FewShotInnerConfig(steps=1, step_size=SIZE),
        curiosity=CuriosityConfig(kind="gradient", **curiosity),
    )
    learner = make_learner(family, config)
    assert isinstance(learner, CuriousLearner)
    meta = double(learner.init(torch.Generator().manual_seed(0)))
    data = double(few_shot_data(family, family.sample(np.random.default_rng(0), TASKS), 1, "cpu"))
    problem = learner.at(meta).problem
    assert isinstance(problem, CuriousProblem)
    return problem, learner, expand(meta.theta, TASKS), data.support[0]


MEASURED = ["features", "plain", "loss", "norm", "direction", "uniform"]


@pytest.mark.parametrize("measure", MEASURED)
@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_a_step_is_along_the_gradient_of_the_weighted_mean_loss_of_each_task(request, double, kind, measure):
    problem, learner, phi, batch = set_up(request.getfixturevalue(kind)(), double, measure=measure)
    assert isinstance(learner.learner, GradientLearner)
    inner = learner.learner.inner(1)._replace(problem=problem)
    with torch.no_grad():
        moved = inner_step(inner, problem.eta, unadapted(inner, phi), batch).phi
    weights = problem.attend(phi, batch).weights.values
    assert_close(weights.mean(1), torch.ones(TASKS, dtype=torch.float64))
    assert (float((weights - 1.0).abs().max()) > 0.05) == (measure != "uniform")
    for task in range(TASKS):
        own = {name: value[task : task + 1].clone().requires_grad_() for name, value in phi.items()}
        part = map_examples(lambda field, task=task: field[task : task + 1], batch)
        outputs = problem.model(own, part.inputs)[0]
        if kind == "blobs":
            losses = torch.nn.functional.cross_entropy(outputs, part.targets[0], reduction="none")
        else:
            losses = (outputs - part.targets[0]).square().mean(-1)
        (sum(w * loss for w, loss in zip(weights[task], losses, strict=True)) / len(losses)).backward()
        for name, value in own.items():
            assert_close(moved[name][task], (value - SIZE * value.grad)[0].detach(), rtol=1e-9, atol=1e-12)


def test_the_look_ahead_is_a_step_of_the_rule_with_equal_weights(blobs, double):
    """Curiosity by hand: gradients at phi, and where plain descent takes it."""
    problem, _, phi, batch = set_up(blobs(), double)
    point = {name: value.clone().requires_grad_() for name, value in phi.items()}
    problem.problem.outer_loss(point, batch).sum().backward()
    ahead = {name: (value - SIZE * value.grad).detach() for name, value in point.items()}

    def slopes(at: Params) -> torch.Tensor:
        features = problem.model.features(at, batch.inputs)
        outputs = problem.model.head(at, features)
        return last_layer_gradients(features, outputs, lambda answers: problem.losses(answers, batch.targets))

    curious = forward_errors(problem.module, transition(slopes(phi), slopes(ahead), batch.targets))
    found = problem.attend(phi, batch)
    assert_close(found.curiosity, curious, rtol=1e-9, atol=1e-12)
    assert_close(found.weights.values, sample_weights(curious, temperature=1.0, clip=3.0).values)


def test_weights_and_curiosity_have_no_history(blobs, double):
    problem, _, phi, batch = set_up(blobs(), double)
    seen: list[Any] = []
    point = {name: value.clone().requires_grad_() for name, value in phi.items()}
    loss = problem._replace(seen=seen).local_loss(point, batch, differentiable=True)
    assert loss.value.requires_grad
    (step,) = seen
    kept = [step.curiosity, *step.weights, *step.transition]
    assert not any(value.requires_grad for value in kept)


@pytest.mark.parametrize("gradients", ["last", "whole", "projected"])
def test_the_order_of_examples_and_of_tasks_changes_nothing(blobs, double, gradients):
    problem, _, phi, batch = set_up(blobs(), double, gradients=gradients, projection=16)
    found = problem.attend(phi, batch)
    generator = torch.Generator().manual_seed(2)
    tasks, samples = torch.randperm(TASKS, generator=generator), torch.randperm(6, generator=generator)
    mixed = map_examples(lambda field: field[tasks][:, samples], batch)
    moved = problem.attend({name: value[tasks] for name, value in phi.items()}, mixed)
    assert_close(moved.curiosity, found.curiosity[tasks][:, samples], rtol=1e-8, atol=1e-10)
    assert_close(moved.weights.values, found.weights.values[tasks][:, samples], rtol=1e-8, atol=1e-10)


def test_states_are_of_what_adapts(blobs, double):
    """ANIL's whole is its last layer."""
    sizes = {}
    for name in ("maml", "anil"):
        for gradients in ("last", "whole", "projected"):
            problem, _, phi, batch = set_up(blobs(), double, name, gradients=gradients, projection=16)
            change = problem.attend(phi, batch).transition
            assert change is not None
            sizes[name, gradients] = change.before.shape[-1]
            assert problem.module["encoder/weight_0"].shape[0] == sizes[name, gradients]
    assert sizes == {
        ("maml", "last"): 21, ("maml", "whole"): 51, ("maml", "projected"): 16,
        ("anil", "last"): 21, ("anil", "whole"): 21, ("anil", "projected"): 16,
    }  # fmt: skip


def test_a_task_that_is_not_finite_is_weighted_evenly_and_spoils_no_other(blobs, double):
    problem, _, phi, batch = set_up(blobs(), double)
    inputs = batch.inputs.clone()
    inputs[2, 0, 0] = torch.inf
    found, clean = problem.attend(phi, batch._replace(inputs=inputs)), problem.attend(phi, batch)
    assert found.weights.fell_back.tolist() == [False, False, True, False]
    others = [0, 1, 3]
    assert_close(found.weights.values[others], clean.weights.values[others])
    assert_close(found.weights.values[2], torch.ones(6, dtype=torch.float64))


def test_tasks_that_count_more_change_the_slope_of_the_outer_loss_and_not_its_value(blobs, double):
    problem, _, phi, batch = set_up(blobs(), double)
    credit = torch.tensor([0.5, 2.0, 1.0, 0.5], dtype=torch.float64)
    slopes, values = [], []
    for each in (problem, problem._replace(credit=credit)):
        point = {name: value.clone().requires_grad_() for name, value in phi.items()}
        losses = each.outer_loss(point, batch)
        losses.sum().backward()
        values.append(losses.detach())
        slopes.append({name: value.grad for name, value in point.items()})
    assert torch.equal(*values)
    for name, value in slopes[0].items():
        assert_close(slopes[1][name], credit.view(-1, *[1] * (value.ndim - 1)) * value)

"""Meta-gradients and Fisher-vector products against finite differences in float64 and torch's own autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.adapt import adapt
from metarl.inner.rules import Feedback, InnerRule
from metarl.losses import surrogate_loss
from metarl.outer.linearize import linearize
from metarl.outer.objectives import SURROGATE
from metarl.trees import (
    expand,
    gradients,
    heaviest_steps,
    leaves,
    mean_of_sums,
    split_tasks,
    stride_steps,
)
from metarl.types import Params, Rollouts

ESTIMATORS = ["lvc", "reinforce", "dice"]
EVERY_CASE = [(estimator, steps) for estimator in ESTIMATORS for steps in (0, 1, 2)]
TASKS = 3


def meta_gradient(problem) -> Params:
    linearization = linearize(problem.learner, problem.meta, problem.data)
    return mean_of_sums([linearization.gradient(SURROGATE, problem.data)], TASKS)


def fisher_product(problem, vector: Tensor) -> Tensor:
    product = linearize(problem.learner, problem.meta, problem.data).fisher_product(problem.params(vector))
    return problem.vector(product) / TASKS


def directions(problem, count: int) -> Tensor:
    """Random vectors of length 1 in the space of the initialization."""
    size = problem.vector(problem.meta.theta).numel()
    vectors = torch.randn(count, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


def differences(problem, width: float = 1e-6) -> Tensor:
    """Central differences of the surrogate after adaptation in every coordinate of the initialization."""
    theta = problem.vector(problem.meta.theta)
    return torch.tensor(
        [
            (problem.surrogate(theta + width * axis) - problem.surrogate(theta - width * axis)) / (2.0 * width)
            for axis in torch.eye(theta.numel(), dtype=torch.float64)
        ],
        dtype=torch.float64,
    )


def kl_curvature(problem, first: Tensor, second: Tensor, width: float = 2e-4) -> float:
    """``first . H second`` with the Hessian H of the KL, by central differences."""
    theta = problem.vector(problem.meta.theta)

    def kl(one: float, other: float) -> float:
        return problem.kl(theta + one * width * first + other * width * second)

    return (kl(1, 1) - kl(1, -1) - kl(-1, 1) + kl(-1, -1)) / (4.0 * width * width)


def naive_gradient(problem) -> Params:
    """Gradient of the surrogate through every step by torch's own autograd, without the hand-written network."""
    policy, loss = problem.learner.problem.policy, problem.learner.problem.loss
    theta = leaves(problem.meta.theta)
    phi = expand(theta, TASKS)
    for batch in problem.data.support:
        value = loss(policy.distribution(phi, batch.observations.flatten(1, 2)), batch).sum()
        step = torch.autograd.grad(value, list(phi.values()), create_graph=True)
        phi = {name: before - 0.1 * slope for (name, before), slope in zip(phi.items(), step, strict=True)}
    return gradients(surrogate_loss(policy, problem.distribution(phi), problem.data.query).mean(), theta)


@pytest.mark.parametrize(("estimator", "steps"), EVERY_CASE)
def test_meta_gradient_equals_finite_differences_of_the_adapted_surrogate(make_problem, estimator, steps):
    problem = make_problem(estimator, steps)
    found = problem.vector(meta_gradient(problem))
    assert float(found.norm()) > 0.05
    assert_close(found, differences(problem), rtol=1e-6, atol=1e-8)


def test_meta_gradient_of_a_relu_network_equals_finite_differences(make_problem):
    problem = make_problem("lvc", 1, activation="relu")
    assert_close(problem.vector(meta_gradient(problem)), differences(problem), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("estimator", "steps"), EVERY_CASE)
def test_fisher_product_equals_finite_differences_of_the_kl(make_problem, estimator, steps):
    """At the policies that the query was collected under, where Gauss-Newton is the whole Hessian."""
    problem = make_problem(estimator, steps)
    vectors = directions(problem, 3)
    assert problem.kl(problem.vector(problem.meta.theta)) < 1e-15
    found = torch.stack([vectors @ fisher_product(problem, vector) for vector in vectors])
    expected = [[kl_curvature(problem, one, other) for other in vectors] for one in vectors]
    assert float(found.diagonal().min()) > 0.05
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("estimator", "steps"), EVERY_CASE)
def test_meta_gradient_equals_torchs_own_through_every_step(make_problem, estimator, steps):
    problem = make_problem(estimator, steps)
    assert_close(meta_gradient(problem), naive_gradient(problem), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_fisher_product_is_symmetric_and_positive(make_problem, steps):
    problem = make_problem("lvc", steps)
    identity = torch.eye(problem.vector(problem.meta.theta).numel(), dtype=torch.float64)
    linearization = linearize(problem.learner, problem.meta, problem.data)
    matrix = torch.stack([problem.vector(linearization.fisher_product(problem.params(axis))) for axis in identity])
    assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-12)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-12


@pytest.mark.parametrize(("estimator", "steps"), [("lvc", 1), ("lvc", 2), ("dice", 1), ("reinforce", 1)])
def test_first_order_is_the_plain_gradient_at_the_adapted_parameters(make_problem, estimator, steps):
    problem = make_problem(estimator, steps, first_order=True)
    phi = leaves(problem.adapted(problem.meta.theta))
    surrogate = surrogate_loss(problem.learner.problem.policy, problem.distribution(phi), problem.data.query).mean()
    expected = {name: value.sum(0) for name, value in gradients(surrogate, phi).items()}
    assert_close(meta_gradient(problem), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_first_order_differs_from_second_order(make_problem, estimator):
    first = meta_gradient(make_problem(estimator, 1, first_order=True))
    problem = make_problem(estimator, 1)
    first_vector, second_vector = problem.vector(first), problem.vector(meta_gradient(problem))
    assert float((first_vector - second_vector).norm()) > 0.02 * float(second_vector.norm())


def test_first_order_adapted_policies_move_as_much_as_the_initialization(make_problem):
    """Then the Fisher product is that of the adapted policies themselves."""
    problem = make_problem("lvc", 1, first_order=True)
    (vector,) = directions(problem, 1)
    linearization = linearize(problem.learner, problem.meta, problem.data)
    tangent = expand(problem.params(vector), TASKS)
    assert_close(linearization.push(problem.params(vector)), tangent, rtol=0.0, atol=0.0)
    phi = problem.adapted(problem.meta.theta)
    expected = curvature_by_torch(problem, phi, tangent, problem.data.query)
    assert float(vector @ fisher_product(problem, vector)) == pytest.approx(expected / TASKS, rel=1e-10)


def curvature_by_torch(problem, phi: Params, tangent: Params, query: Rollouts) -> float:
    """The KL's second derivative along a change of adapted parameters, by the normal distribution's closed form:
    the squared change of the mean in deviations, and twice that of the log deviation."""
    pushed = push_by_torch(phi, tangent, query)
    weights = query.mask.flatten(1) / query.mask.sum((1, 2)).clamp(min=1.0)[:, None]
    squares = (pushed / phi["log_std"].exp().unsqueeze(1)).square().sum(-1)
    squares = squares + 2.0 * tangent["log_std"].square().sum(-1)[:, None]
    assert problem.learner.problem.policy.config.min_log_std < float(phi["log_std"].min())
    return float((squares * weights).sum())


def push_by_torch(phi: Params, tangent: Params, query: Rollouts) -> Tensor:
    """Change of the network's outputs with its parameters, without the library's network."""

    def means(*values: Tensor) -> Tensor:
        weights = dict(zip(phi, values, strict=True))
        hidden = query.observations.flatten(1, 2)
        for layer in range(3):
            hidden = hidden @ weights[f"weight_{layer}"] + weights[f"bias_{layer}"].unsqueeze(1)
            hidden = hidden.tanh() if layer < 2 else hidden
        return hidden

    return torch.autograd.functional.jvp(means, tuple(phi.values()), tuple(tangent.values()))[1]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_groups_of_tasks_add_up_to_all_of_them(make_problem, estimator, size):
    problem = make_problem(estimator, 2)
    (vector,) = directions(problem, 1)
    groups = split_tasks(problem.data, size)
    parts = [linearize(problem.learner, problem.meta, group) for group in groups]
    gradient = mean_of_sums([part.gradient(SURROGATE, group) for part, group in zip(parts, groups, strict=True)], TASKS)
    product = mean_of_sums([part.fisher_product(problem.params(vector)) for part in parts], TASKS)
    assert_close(gradient, meta_gradient(problem), rtol=1e-10, atol=1e-12)
    assert_close(problem.vector(product), fisher_product(problem, vector), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("tasks", "episodes"), [([2, 0, 1], [0, 1]), ([0, 1, 2], [1, 0]), ([1, 2, 0], [1, 0])], ids=str
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_order_of_tasks_and_episodes_changes_nothing(make_problem, estimator, tasks, episodes):
    problem = make_problem(estimator, 2)
    (vector,) = directions(problem, 1)
    gradient, product = meta_gradient(problem), fisher_product(problem, vector)
    other = problem.permuted(tasks, episodes)
    assert_close(meta_gradient(other), gradient, rtol=1e-10, atol=1e-12)
    assert_close(fisher_product(other, vector), product, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["lvc", "reinforce"])
def test_a_subsample_of_every_step_is_the_whole(make_problem, estimator):
    problem = make_problem(estimator, 2)
    (vector,) = directions(problem, 1)
    linearization = linearize(problem.learner, problem.meta, problem.data).subsample(problem.data, 1, 1.0)
    product = problem.vector(linearization.fisher_product(problem.params(vector))) / TASKS
    assert_close(product, fisher_product(problem, vector), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("stride", "share"), [(2, 0.5), (3, 0.25), (1, 0.5), (2, 1.0)])
@pytest.mark.parametrize("estimator", ["lvc", "reinforce"])
def test_a_subsample_of_one_step_is_the_linearization_of_its_data_at_the_same_parameters(
    make_problem, estimator, stride, share
):
    """J is (1 - 0.1 H) of the heaviest support at theta, then the network's own at phi on the strided query."""
    problem = make_problem(estimator, 1)
    policy, loss = problem.learner.problem.policy, problem.learner.problem.loss
    (vector,) = directions(problem, 1)
    support, query = heaviest_steps(problem.data.support[0], share), stride_steps(problem.data.query, stride)
    theta = leaves(expand(problem.meta.theta, TASKS))
    value = loss(policy.distribution(theta, support.observations.flatten(1, 2)), support).sum()
    slope = dict(zip(theta, torch.autograd.grad(value, list(theta.values()), create_graph=True), strict=True))
    tangent = expand(problem.params(vector), TASKS)
    curved = gradients(slope, theta, weights=tangent)
    moved = {name: tangent[name] - 0.1 * curved[name] for name in tangent}
    phi = problem.adapted(problem.meta.theta)
    expected = curvature_by_torch(problem, phi, moved, query)

    linearization = linearize(problem.learner, problem.meta, problem.data).subsample(problem.data, stride, share)
    product = problem.vector(linearization.fisher_product(problem.params(vector)))
    assert float(vector @ product) == pytest.approx(expected, rel=1e-10)
    assert expected != pytest.approx(float(vector @ fisher_product(problem, vector)) * TASKS, rel=1e-3)
    assert_close(linearization.phi, phi, rtol=0.0, atol=0.0)


def test_a_subsample_takes_every_curvature_from_its_own_data_at_the_parameters_of_the_full_data(make_problem):
    """With two inner steps."""
    problem = make_problem("lvc", 2)
    (vector,) = directions(problem, 1)
    tangent = expand(problem.params(vector), TASKS)
    linearization = linearize(problem.learner, problem.meta, problem.data)
    thin = linearization.subsample(problem.data, 2, 0.5)
    for full, part, batch in zip(linearization.steps, thin.steps, problem.data.support, strict=True):
        assert_close(part.step.point, full.step.point, rtol=0.0, atol=0.0)
        local = problem.learner.problem.local_loss(full.step.point, heaviest_steps(batch, 0.5))
        thinned, whole = part.step.loss.curve(tangent), full.step.loss.curve(tangent)
        assert_close(thinned, local.curve(tangent), rtol=1e-12, atol=1e-12)
        assert float((thinned["bias_0"] - whole["bias_0"]).norm()) > 1e-3


def test_a_rule_with_state_and_learned_parameters_is_differentiated_through(make_problem):
    """Heavy ball over two steps, against finite differences: state carries gradients from one step to the next."""

    def update(eta: Params, state: Params, phi: Params, feedback: Feedback) -> tuple[Params, Params]:
        velocity = {name: eta["factor"] * state[name] + value for name, value in feedback.gradient.items()}
        return {name: value - 0.3 * velocity[name] for name, value in phi.items()}, velocity

    rule = InnerRule(init=lambda phi: {name: torch.zeros_like(value) for name, value in phi.items()}, update=update)
    problem = make_problem("lvc", 2)
    learner = problem.learner._replace(rules=[rule, rule])
    policy, query = learner.problem.policy, problem.data.query
    meta = problem.meta._replace(eta={"factor": torch.tensor(0.7, dtype=torch.float64)})
    gradient = linearize(learner, meta, problem.data).gradient(SURROGATE, problem.data)
    (vector,) = directions(problem, 1)
    theta = problem.vector(meta.theta)

    def surrogate(width: float) -> float:
        start = expand(problem.params(theta + width * vector), TASKS)
        phi = adapt(learner, meta.eta, start, problem.data.support).phi
        return float(surrogate_loss(policy, problem.distribution(phi), query).sum())

    expected = (surrogate(1e-6) - surrogate(-1e-6)) / 2e-6
    assert float(vector @ problem.vector(gradient)) == pytest.approx(expected, rel=1e-6)

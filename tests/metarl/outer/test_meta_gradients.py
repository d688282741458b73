"""Meta-gradients against finite differences in float64, closed forms and numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.experiments.measure import most_kept
from metarl.inner.adapt import Learner, adapt
from metarl.inner.lstm import initial_lstm, meta_lstm
from metarl.inner.rules import Feedback, InnerRule, layer_step_sizes, meta_sgd, only, proximal_sgd, sgd
from metarl.inner.supervised_problem import SupervisedLearner, SupervisedProblem
from metarl.inner.synaptic import SynapticProblem, synaptic
from metarl.losses import cross_entropy, squared_error
from metarl.models import Model, conv_model, mlp_model
from metarl.outer.meta_gradients import (
    Estimate,
    MetaGradient,
    implicit,
    meta_gradient,
    reptile,
    solve_proximal,
    through,
)
from metarl.trees import expand, gradients, leaves, map_examples
from metarl.types import Examples, Meta, Params, TaskData

TASKS, SHOTS, QUERIES, CLASSES = 3, 5, 4, 3
WIDTH = 1e-6
"""Of finite differences: wider ones cross the kinks of ReLUs."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def examples(inputs: Tensor, targets: Tensor) -> Examples:
    return Examples(inputs, targets, torch.empty(len(inputs), 0, dtype=torch.int64))


def values(steps: int, *, inputs: int = 2, outputs: int = 2) -> TaskData[Examples]:
    """Random tasks of regression, every step with the whole support."""
    support, query = (
        examples(normal(TASKS, count, inputs, seed=seed), normal(TASKS, count, outputs, seed=seed + 1))
        for count, seed in ((SHOTS, 10), (QUERIES, 20))
    )
    return TaskData((support,) * steps, query)


def images(steps: int, shape: tuple[int, int, int]) -> TaskData[Examples]:
    """Random tasks of classification."""
    support, query = (
        examples(normal(TASKS, count, *shape, seed=seed), torch.arange(count).remainder(CLASSES).expand(TASKS, -1))
        for count, seed in ((SHOTS, 10), (QUERIES, 20))
    )
    return TaskData((support,) * steps, query)


def fresh(model: Model) -> Params:
    """Parameters in float64 that no symmetry is left in."""
    theta = {name: value.double() for name, value in model.init(torch.Generator().manual_seed(1)).items()}
    return {name: value + 0.1 * normal(*value.shape, seed=i) for i, (name, value) in enumerate(theta.items())}


def learner_of(
    problem: SupervisedProblem | SynapticProblem, rules: Sequence[InnerRule], *, first_order: bool = False
) -> SupervisedLearner:
    return Learner(problem, rules, first_order, TASKS)


def whole(estimate: Estimate, meta: Meta, data: TaskData[Examples]) -> MetaGradient:
    return meta_gradient(estimate, meta, data, TASKS)


def loss_after(learner: SupervisedLearner, meta: Meta, data: TaskData[Examples]) -> float:
    """Mean loss of the queries after adaptation, without automatic differentiation through it."""
    with torch.no_grad():
        phi = adapt(learner, meta.eta, expand(meta.theta, TASKS), data.support).phi
        return float(learner.problem.outer_loss(phi, data.query).mean())


def assert_slopes(loss: Callable[[Meta], float], meta: Meta, found: MetaGradient, parts: Sequence[str]) -> None:
    """The gradient of every parameter is the slope of ``loss`` along a direction of its own."""
    sizes = []
    for part in parts:
        point, gradient = getattr(meta, part), getattr(found.meta, part)
        assert gradient.keys() == point.keys()
        for index, (name, value) in enumerate(point.items()):
            along = normal(*value.shape, seed=100 + index)
            ahead, behind = (
                loss(meta._replace(**{part: {**point, name: value + width * along}})) for width in (WIDTH, -WIDTH)
            )
            slope = float((gradient[name] * along).sum())
            assert slope == pytest.approx((ahead - behind) / (2.0 * WIDTH), rel=1e-5, abs=1e-8), f"{part} {name}"
            sizes.append(abs(slope))
    assert min(sizes) > 1e-6, "a slope of nothing would prove nothing"


SHAPES = {"strided": (1, 8, 7), "pooled": (1, 17, 16)}
PERCEPTRONS = {
    "relu": mlp_model((2, 6, 5, 2), activation="relu"),
    "smooth": mlp_model((2, 6, 5, 2), activation="tanh"),
    "normalized relu": mlp_model((2, 6, 5, 2), activation="relu", batch_norm=True),
    "normalized smooth": mlp_model((2, 6, 5, 2), activation="silu", batch_norm=True),
}
CONVOLUTIONS = {
    "strided relu": ("strided", "relu"),
    "strided smooth": ("strided", "silu"),
    "pooled relu": ("pooled", "relu"),
    "pooled smooth": ("pooled", "softplus"),
}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("network", PERCEPTRONS)
def test_maml_s_meta_gradient_of_a_perceptron_equals_finite_differences(network, steps):
    model, data = PERCEPTRONS[network], values(steps)
    learner = learner_of(SupervisedProblem(model, squared_error), [sgd(0.1)] * steps)
    meta = Meta(fresh(model), {}, {})
    found = whole(partial(through, learner), meta, data)
    assert_slopes(lambda at: loss_after(learner, at, data), meta, found, ["theta"])
    assert float(found.losses.mean()) == pytest.approx(loss_after(learner, meta, data), rel=1e-12)


RULES: dict[str, tuple[Callable[[int, Model], InnerRule], Callable[[Sequence[int]], Sequence[int]] | None]] = {
    "sgd": (lambda step, model: sgd(0.3), None),
    "meta-sgd": (lambda step, model: meta_sgd(), lambda shape: shape),
    "layer step sizes": (lambda step, model: layer_step_sizes(step), lambda shape: (2,)),
    "sgd, only the head": (lambda step, model: only(sgd(0.3), model.head_names), None),
    "anil": (lambda step, model: sgd(0.3), None),
}
"""Rules, and the shapes of their step sizes by those of parameters, where they are learned."""


@pytest.mark.parametrize(
    ("network", "steps", "rule"),
    [
        *((network, steps, "sgd") for network in CONVOLUTIONS for steps in (1, 2)),
        *((network, 2, rule) for network in ("strided relu", "strided smooth") for rule in [*RULES][1:]),
    ],
)
def test_a_meta_gradient_is_exact_where_scales_and_shifts_of_batch_normalization_adapt(network, steps, rule):
    """``vmap`` is silently wrong by a fifth here, in torch 2.13."""
    form, activation = CONVOLUTIONS[network]
    model = conv_model(SHAPES[form], CLASSES, form=form, filters=3, activation=activation)
    data, (make, shape_of) = images(steps, SHAPES[form]), RULES[rule]
    problem = SupervisedProblem(model, cross_entropy, model.head_names if rule == "anil" else None)
    learner = learner_of(problem, [make(step, model) for step in range(steps)])
    theta, eta = fresh(model), {}
    if shape_of is not None:
        shapes = {f"step_size/{name}": shape_of(value.shape) for name, value in theta.items()}
        eta = {name: 0.3 + 0.05 * normal(*shape, seed=7) for name, shape in shapes.items()}
    meta = Meta(theta, eta, {})
    found = whole(partial(through, learner), meta, data)
    assert {f"{kind}_{block}" for kind in ("scale", "shift") for block in range(4)} < set(found.meta.theta)
    assert_slopes(lambda at: loss_after(learner, at, data), meta, found, ["theta", "eta"])


def line(tasks: Sequence[tuple[float, float]]) -> TaskData[Examples]:
    """Tasks of one point x = 1 whose support and query want what each pair says."""
    support, query = (
        torch.tensor([pair[side] for pair in tasks], dtype=torch.float64)[:, None, None] for side in (0, 1)
    )
    return TaskData((examples(torch.ones_like(support), support),), examples(torch.ones_like(query), query))


def through_the_origin(size: int = 1) -> Model:
    """y = w x, with a vector w."""
    return Model(
        init=lambda generator: {"w": torch.zeros(size, 1)},
        features=lambda params, inputs: inputs,
        head=lambda params, features: features @ params["w"],
        head_names=("w",),
        feature_size=size,
    )


def test_maml_and_fomaml_of_a_line_by_hand():
    """From w = 1 to targets 0 and 3 with step size 1/4: w' = 0.5 and 2. Query targets 0 and 0, so slopes 1 and 4 there,
    which pass the step with the factor 1 - 2/4: MAML (0.5 + 2) / 2, FOMAML (1 + 4) / 2."""
    meta, data = Meta({"w": torch.ones(1, 1, dtype=torch.float64)}, {}, {}), line([(0.0, 0.0), (3.0, 0.0)])
    problem = SupervisedProblem(through_the_origin(), squared_error)
    for first_order, expected in ((False, 1.25), (True, 2.5)):
        learner = learner_of(problem, [sgd(0.25)], first_order=first_order)
        found = meta_gradient(partial(through, learner), meta, data, 2)
        assert found.meta.theta["w"].item() == pytest.approx(expected, rel=1e-14)
        assert found.losses.tolist() == pytest.approx([0.25, 4.0], rel=1e-14)


def test_meta_sgd_s_gradient_equals_finite_differences_in_the_initialization_and_in_every_step_size():
    model, data = PERCEPTRONS["relu"], values(2)
    learner = learner_of(SupervisedProblem(model, squared_error), [meta_sgd()] * 2)
    theta = fresh(model)
    sizes = {f"step_size/{name}": 0.1 + 0.05 * normal(*value.shape, seed=7) for name, value in theta.items()}
    meta = Meta(theta, sizes, {})
    found = whole(partial(through, learner), meta, data)
    assert_slopes(lambda at: loss_after(learner, at, data), meta, found, ["theta", "eta"])


def test_the_gradient_in_step_sizes_of_each_layer_and_step_equals_finite_differences():
    model, data = PERCEPTRONS["smooth"], values(3)
    learner = learner_of(SupervisedProblem(model, squared_error), [layer_step_sizes(step) for step in range(3)])
    theta = fresh(model)
    sizes = {f"step_size/{name}": 0.1 + 0.05 * normal(3, seed=i) for i, name in enumerate(theta)}
    meta = Meta(theta, sizes, {})
    found = whole(partial(through, learner), meta, data)
    assert_slopes(lambda at: loss_after(learner, at, data), meta, found, ["theta", "eta"])


def test_the_multi_step_loss_is_the_weighted_sum_of_the_query_losses_after_each_step():
    model, data, weights = PERCEPTRONS["relu"], values(3), [0.5, 0.2, 0.3]
    problem = SupervisedProblem(model, squared_error)
    learner = learner_of(problem, [sgd(0.1)] * 3)
    meta = Meta(fresh(model), {}, {})

    def loss(at: Meta) -> float:
        parts = [
            loss_after(
                learner_of(problem, [sgd(0.1)] * (step + 1)), at, data._replace(support=data.support[: step + 1])
            )
            for step in range(3)
        ]
        return sum(weight * part for weight, part in zip(weights, parts, strict=True))

    found = whole(partial(through, learner, step_weights=weights), meta, data)
    assert_slopes(loss, meta, found, ["theta"])
    assert float(found.losses.mean()) == pytest.approx(loss_after(learner, meta, data), rel=1e-12)


def test_a_weight_on_the_last_step_alone_is_the_plain_loss_to_the_last_bit():
    model, data = PERCEPTRONS["relu"], values(3)
    learner = learner_of(SupervisedProblem(model, squared_error), [sgd(0.1)] * 3)
    meta = Meta(fresh(model), {}, {})
    plain = whole(partial(through, learner), meta, data)
    weighted = whole(partial(through, learner, step_weights=[0.0, 0.0, 1.0]), meta, data)
    assert_close(weighted.meta.theta, plain.meta.theta, rtol=0.0, atol=0.0)


def test_without_inner_steps_the_meta_gradient_is_the_plain_one_and_reptile_stays():
    model, data = PERCEPTRONS["smooth"], values(1)
    learner, meta = learner_of(SupervisedProblem(model, squared_error), []), Meta(fresh(model), {}, {})
    found = whole(partial(through, learner), meta, data)
    assert_slopes(lambda at: loss_after(learner, at, data._replace(support=())), meta, found, ["theta"])
    still = whole(partial(reptile, learner), meta, data)
    assert not any(value.any() for value in still.meta.theta.values())


@pytest.mark.parametrize("network", ["relu", "normalized smooth"])
def test_anil_adapts_the_head_alone_and_its_gradient_in_body_and_head_equals_finite_differences(network):
    model, data = PERCEPTRONS[network], values(2)
    learner = learner_of(SupervisedProblem(model, squared_error, model.head_names), [sgd(0.1)] * 2)
    meta = Meta(fresh(model), {}, {})
    phi = adapt(learner, {}, expand(meta.theta, TASKS), data.support).phi
    changed = {name for name, value in phi.items() if not torch.equal(value, expand(meta.theta, TASKS)[name])}
    assert changed == {"weight_2", "bias_2"}
    found = whole(partial(through, learner), meta, data)
    assert_slopes(lambda at: loss_after(learner, at, data), meta, found, ["theta"])


def test_fomaml_equals_maml_where_the_inner_loss_has_no_curvature():
    """Outputs that are linear in the parameters, and a loss that is linear in the outputs."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * targets).mean((1, 2))

    data, meta = values(2, outputs=1), Meta({"w": normal(2, 1)}, {}, {})
    problem = SupervisedProblem(through_the_origin(2), loss)
    exact, first = (
        whole(partial(through, learner_of(problem, [sgd(0.5)] * 2, first_order=order)), meta, data)
        for order in (False, True)
    )
    assert_close(first.meta.theta, exact.meta.theta, rtol=1e-13, atol=0.0)
    assert float(exact.meta.theta["w"].norm()) > 0.1


@pytest.mark.parametrize("network", PERCEPTRONS)
def test_fomaml_is_the_plain_gradient_at_the_adapted_parameters_and_elsewhere_than_maml(network):
    model, data = PERCEPTRONS[network], values(2)
    problem, meta = SupervisedProblem(model, squared_error), Meta(fresh(model), {}, {})
    exact, first = (learner_of(problem, [sgd(0.2)] * 2, first_order=order) for order in (False, True))
    found = whole(partial(through, first), meta, data)
    phi = leaves(adapt(first, {}, expand(meta.theta, TASKS), data.support).phi)
    plain = gradients(problem.outer_loss(phi, data.query).sum(), phi)
    assert_close(found.meta.theta, {name: value.mean(0) for name, value in plain.items()}, rtol=1e-12, atol=1e-14)
    other = whole(partial(through, exact), meta, data)
    assert float((found.meta.theta["weight_0"] - other.meta.theta["weight_0"]).norm()) > 1e-3


def test_reptile_moves_to_where_two_steps_on_different_examples_end_by_hand():
    """Targets 2 in the support and 6 in the query, x = 1, step size 1/4, from 0: the first step learns from the support
    alone and reaches 1, the second from the query alone and reaches 3.5."""
    data = line([(2.0, 6.0)])
    learner = learner_of(SupervisedProblem(through_the_origin(), squared_error), [sgd(0.25)] * 2)
    meta = Meta({"w": torch.zeros(1, 1, dtype=torch.float64)}, {}, {})
    found = meta_gradient(partial(reptile, learner), meta, data, 1)
    assert found.meta.theta["w"].item() == pytest.approx(-3.5, rel=1e-14)
    assert found.losses.tolist() == pytest.approx([6.25], rel=1e-14)


def test_reptile_is_the_mean_way_of_the_tasks():
    """As above, and the mirrored task that goes the other way by half."""
    learner = learner_of(SupervisedProblem(through_the_origin(), squared_error), [sgd(0.25)] * 2)
    meta = Meta({"w": torch.zeros(1, 1, dtype=torch.float64)}, {}, {})
    found = meta_gradient(partial(reptile, learner), meta, line([(2.0, 6.0), (-1.0, -3.0)]), 2)
    assert found.meta.theta["w"].item() == pytest.approx(-(3.5 - 1.75) / 2.0, rel=1e-14)


def test_reptile_with_more_steps_than_examples_uses_them_again():
    """Two examples, three steps: 1, 3.5 as above, then the support again, 2.75."""
    learner = learner_of(SupervisedProblem(through_the_origin(), squared_error), [sgd(0.25)] * 3)
    meta = Meta({"w": torch.zeros(1, 1, dtype=torch.float64)}, {}, {})
    found = meta_gradient(partial(reptile, learner), meta, line([(2.0, 6.0)]), 1)
    assert found.meta.theta["w"].item() == pytest.approx(-2.75, rel=1e-14)


@pytest.mark.parametrize("network", ["smooth", "normalized smooth"])
def test_the_meta_lstm_s_gradient_is_that_with_gradients_and_losses_held_constant(network):
    """Finite differences of the rule fed with what it was told at the point."""
    model, data = PERCEPTRONS[network], values(3)
    rule = meta_lstm(4)
    learner = learner_of(SupervisedProblem(model, squared_error), [rule] * 3, first_order=True)
    weights = initial_lstm(4, 0.1, torch.Generator().manual_seed(0))
    eta = {name: value.double() + 0.1 * normal(*value.shape, seed=i) for i, (name, value) in enumerate(weights.items())}
    meta = Meta(fresh(model), eta, {})
    told = [step.feedback for step in adapt(learner, eta, expand(meta.theta, TASKS), data.support).steps]

    def frozen(at: Meta) -> float:
        phi = expand(at.theta, TASKS)
        state = rule.init(phi)
        for feedback in told:
            phi, state = rule.update(at.eta, state, phi, Feedback(feedback.gradient, feedback.loss))
        return float(learner.problem.outer_loss(phi, data.query).mean())

    found = whole(partial(through, learner), meta, data)
    assert frozen(meta) == pytest.approx(loss_after(learner, meta, data), rel=1e-12)
    assert_slopes(frozen, meta, found, ["theta", "eta"])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_in_a_synaptic_rule_equals_finite_differences(steps):
    model, data = mlp_model((2, 4, 2), activation="tanh"), values(steps)
    learner = learner_of(SynapticProblem(model, squared_error), [synaptic()] * steps)
    meta = Meta(fresh(model), {"synaptic": 0.1 * normal(7)}, {})
    found = whole(partial(through, learner), meta, data)
    assert_slopes(lambda at: loss_after(learner, at, data), meta, found, ["theta", "eta"])
    for term in range(7):  # each on its own, where a direction through all could hide one
        along = torch.zeros(7, dtype=torch.float64).index_fill(0, torch.tensor(term), WIDTH)
        ahead, behind = (
            loss_after(learner, meta._replace(eta={"synaptic": meta.eta["synaptic"] + side * along}), data)
            for side in (1.0, -1.0)
        )
        assert found.meta.eta["synaptic"][term].item() == pytest.approx((ahead - behind) / (2.0 * WIDTH), rel=1e-5)


@pytest.mark.parametrize("proximity", [0.5, 2.0])
def test_the_implicit_gradient_of_linear_regression_is_the_closed_form(proximity):
    """The proximal minimum is (H + lambda)^-1 (lambda theta + b) with H = 2 X'X / N and b = 2 X'y / N: it moves with
    theta by lambda (H + lambda)^-1."""
    data = values(400, inputs=3, outputs=1)
    learner = learner_of(SupervisedProblem(through_the_origin(3), squared_error), [proximal_sgd(0.1, proximity)] * 400)
    meta = Meta({"w": normal(3, 1)}, {}, {})
    found = whole(partial(implicit, learner, proximity=proximity, cg_iterations=6), meta, data)
    expected, losses = torch.zeros(3, 1, dtype=torch.float64), []
    for task in range(TASKS):
        x, y = data.support[0].inputs[task], data.support[0].targets[task]
        bent = 2.0 * x.T @ x / SHOTS + proximity * torch.eye(3, dtype=torch.float64)
        best = torch.linalg.solve(bent, proximity * meta.theta["w"] + 2.0 * x.T @ y / SHOTS)
        error = data.query.inputs[task] @ best - data.query.targets[task]
        slope = 2.0 * data.query.inputs[task].T @ error / QUERIES
        expected += proximity * torch.linalg.solve(bent, slope) / TASKS
        losses.append(float(error.square().mean()))
    assert_close(found.meta.theta["w"], expected, rtol=1e-8, atol=1e-10)
    assert found.losses.tolist() == pytest.approx(losses, rel=1e-8)


@pytest.mark.parametrize(
    ("network", "proximity", "step_size"), [("smooth", 4.0, 0.1), ("normalized smooth", 8.0, 0.05)]
)
def test_the_implicit_gradient_of_a_perceptron_equals_finite_differences_of_the_proximal_minimum(
    network, proximity, step_size
):
    """Losses curve by up to 11 and by -4 where normalization's scales and shifts adapt: there is one minimum, found."""
    model, data = PERCEPTRONS[network], values(80)
    learner = learner_of(SupervisedProblem(model, squared_error), [proximal_sgd(step_size, proximity)] * 80)
    meta = Meta(fresh(model), {}, {})
    found = whole(partial(implicit, learner, proximity=proximity, cg_iterations=40), meta, data)
    for index, (name, value) in enumerate(meta.theta.items()):
        along = normal(*value.shape, seed=200 + index)
        ahead, behind = (
            loss_after(learner, meta._replace(theta={**meta.theta, name: value + width * along}), data)
            for width in (1e-5, -1e-5)
        )
        expected = (ahead - behind) / 2e-5
        assert abs(expected) > 1e-5, "a slope of nothing would prove nothing"
        assert float((found.meta.theta[name] * along).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def kept_by(estimate: Callable[[int], Estimate], steps: int) -> int:
    """Bytes that graphs keep at the most while an estimate is made."""
    meta, data = Meta(fresh(PERCEPTRONS["smooth"]), {}, {}), values(steps)
    return most_kept(lambda: estimate(steps)(meta, data))


def test_the_memory_of_implicit_gradients_and_of_reptile_does_not_grow_with_the_steps_but_that_of_maml_does():
    problem = SupervisedProblem(PERCEPTRONS["smooth"], squared_error)

    def by_implicit(steps: int) -> Estimate:
        learner = learner_of(problem, [proximal_sgd(0.1, 2.0)] * steps)
        return partial(implicit, learner, proximity=2.0, cg_iterations=5)

    def by_reptile(steps: int) -> Estimate:
        learner = learner_of(problem, [sgd(0.1)] * steps)
        return partial(reptile, learner)

    def by_maml(steps: int) -> Estimate:
        learner = learner_of(problem, [sgd(0.1)] * steps)
        return partial(through, learner)

    assert kept_by(by_implicit, 50) == kept_by(by_implicit, 5) > 0
    assert kept_by(by_reptile, 8) <= kept_by(by_reptile, 4)
    assert kept_by(by_maml, 50) > 5 * kept_by(by_maml, 5)


def estimates(network: str) -> dict[str, tuple[Estimate, Meta, TaskData[Examples]]]:
    """Every estimate on one network."""
    form, activation = CONVOLUTIONS[network]
    model = conv_model(SHAPES[form], CLASSES, form=form, filters=3, activation=activation)
    data, problem, theta = images(2, SHAPES[form]), SupervisedProblem(model, cross_entropy), fresh(model)
    sizes = {f"step_size/{name}": torch.full_like(value, 0.3) for name, value in theta.items()}
    exact, learned, near = (learner_of(problem, [rule] * 2) for rule in (sgd(0.3), meta_sgd(), proximal_sgd(0.3, 2.0)))
    plain = Meta(theta, {}, {})
    return {
        "through": (partial(through, exact), plain, data),
        "meta-sgd": (partial(through, learned), Meta(theta, sizes, {}), data),
        "reptile": (partial(reptile, exact), plain, data),
        "implicit": (partial(implicit, near, proximity=2.0, cg_iterations=3), plain, data),
    }


@pytest.mark.parametrize("kind", ["through", "meta-sgd", "reptile", "implicit"])
@pytest.mark.parametrize("chunk", [1, 2])
def test_groups_of_tasks_change_the_gradient_by_rounding_alone(kind, chunk):
    estimate, meta, data = estimates("strided relu")[kind]
    together, apart = (meta_gradient(estimate, meta, data, size) for size in (3, chunk))
    assert_close(apart.meta, together.meta, rtol=1e-11, atol=1e-13)
    assert_close(apart.losses, together.losses, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["through", "meta-sgd", "reptile", "implicit"])
def test_the_order_of_tasks_changes_losses_order_and_nothing_else(kind):
    estimate, meta, data = estimates("pooled smooth")[kind]
    order = torch.tensor([2, 0, 1])
    support, query = (map_examples(lambda field: field[order], batch) for batch in (data.support[0], data.query))
    found, other = whole(estimate, meta, data), whole(estimate, meta, TaskData((support,) * 2, query))
    assert_close(other.meta, found.meta, rtol=1e-11, atol=1e-13)
    assert_close(other.losses, found.losses[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["through", "meta-sgd", "reptile", "implicit"])
def test_a_meta_gradient_has_no_history_and_is_the_same_where_gradients_are_off(kind):
    estimate, meta, data = estimates("strided smooth")[kind]
    found = whole(estimate, meta, data)
    with torch.no_grad():
        again = whole(estimate, meta, data)
    assert_close(again.meta, found.meta, rtol=0.0, atol=0.0)
    tensors = [*found.meta.theta.values(), *found.meta.eta.values(), found.losses]
    assert not any(value.requires_grad for value in tensors)


def test_a_task_that_curves_down_more_than_proximity_holds_keeps_its_slope():
    """Hessians -3 and 1 times the identity with proximity 1: nothing to invert for the first, 1 / 2 for the second."""
    curvature = torch.tensor([-3.0, 1.0])

    def curve(vector: Params) -> Params:
        return {name: curvature.view(2, *[1] * (value.dim() - 1)) * value for name, value in vector.items()}

    slope = {"a": torch.randn(2, 3, 2), "b": torch.randn(2, 4)}
    damped = solve_proximal(Mock(curve=curve), slope, proximity=1.0, cg_iterations=3, damping=4.0)
    solved = solve_proximal(Mock(curve=curve), slope, proximity=1.0, cg_iterations=3)
    for name, value in slope.items():
        rates = 1.0 / (1.0 + curvature / 5.0)
        assert_close(damped[name], value * rates.view(2, *[1] * (value.dim() - 1)))
        assert_close(solved[name], value * torch.tensor([1.0, 0.5]).view(2, *[1] * (value.dim() - 1)))

"""Importances against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from metarl.linear import AutogradMap
from metarl.models import conv_model, mlp_model
from metarl.types import Examples
from metarl.variants.importance import (
    accumulate,
    check_support,
    empirical_fisher,
    fisher,
    krylov_diagonal,
    label_noise,
    make_measure,
    mas,
    mean_one,
    refined_mas,
    usable,
)
from metarl.variants.per_sample import sample_gradients

LINEAR = mlp_model((3, 2))
DRAWS = 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(model, tasks=2, seed=1):
    rng = generator(seed)
    drawn = [model.init(rng) for _ in range(tasks)]
    return {name: torch.stack([each[name] for each in drawn]).double() for name in drawn[0]}


def noise(rng=None, outputs=2):
    return label_noise(examples(random_inputs()), outputs, rng or generator())


def examples(inputs, targets=None):
    tasks, count = inputs.shape[:2]
    classes = torch.arange(count).remainder(2).expand(tasks, count)
    return Examples(inputs, classes if targets is None else targets, torch.empty(tasks, 0))


def random_inputs(tasks=2, count=5, size=3, seed=2):
    return torch.randn(tasks, count, size, generator=generator(seed), dtype=torch.float64)


def test_fisher_of_a_linear_gaussian_model_is_the_second_moment_of_its_inputs():
    inputs = random_inputs()
    found = fisher(LINEAR, params(LINEAR), examples(inputs), noise(), kind="regression")
    second = inputs.square().mean(1).unsqueeze(-1).expand(-1, -1, 2)
    assert_close(found, {"weight_0": second, "bias_0": torch.ones(2, 2, dtype=torch.float64)})


def test_fisher_of_a_softmax_model_is_its_variance_times_the_second_moment():
    inputs, phi = random_inputs(), params(LINEAR)
    mean = {name: torch.zeros_like(value) for name, value in phi.items()}
    rng = generator()
    for _ in range(DRAWS):
        found = fisher(LINEAR, phi, examples(inputs), noise(rng), kind="classification")
        mean = {name: value + found[name] / DRAWS for name, value in mean.items()}
    chances = torch.softmax(LINEAR(phi, inputs), -1)
    variance = chances * (1.0 - chances)  # [M, N, out]
    expected = {
        "weight_0": torch.einsum("mni,mno->mio", inputs.square(), variance) / inputs.shape[1],
        "bias_0": variance.mean(1),
    }
    assert_close(mean, expected, rtol=0.06, atol=1e-3)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_fisher_is_the_diagonal_of_the_gauss_newton_matrix(kind):
    """Enumerated: every class weighted by its chance; of one output the drawn signs change nothing."""
    outputs = 3 if kind == "classification" else 1
    model = mlp_model((3, 4, outputs), activation="tanh")
    phi, inputs = params(model, tasks=1), random_inputs(tasks=1)
    function = AutogradMap(lambda at: {"outputs": model(at, inputs)}, phi)
    chances = torch.softmax(model(phi, inputs), -1)

    def metric(pushed):
        """The Hessian of the negative log likelihood in the outputs."""
        change = pushed["outputs"]
        if kind == "classification":
            change = chances * (change - (chances * change).sum(-1, keepdim=True))
        return {"outputs": change / inputs.shape[1]}

    diagonal = {name: torch.zeros_like(value) for name, value in phi.items()}
    for name, value in phi.items():
        for place in range(value.numel()):
            unit = {other: torch.zeros_like(each) for other, each in phi.items()}
            unit[name].view(-1)[place] = 1.0
            diagonal[name].view(-1)[place] = function.product(unit, None, metric)[name].view(-1)[place]
    if kind == "regression":
        found = fisher(model, phi, examples(inputs), noise(outputs=1)[:1], kind=kind)
    else:
        found = {name: torch.zeros_like(value) for name, value in phi.items()}
        for label in range(outputs):
            for example in range(inputs.shape[1]):
                one = examples(inputs[:, example : example + 1], torch.full((1, 1), label))
                squares = empirical_fisher(model, phi, one, kind=kind)
                weight = chances[0, example, label] / inputs.shape[1]
                found = {name: value + weight * squares[name] for name, value in found.items()}
    assert_close(found, diagonal, rtol=1e-9, atol=1e-12)


def test_draws_of_fisher_average_to_the_enumerated_one():
    model = mlp_model((3, 4, 3), activation="tanh")
    phi, inputs = params(model, tasks=1), random_inputs(tasks=1)
    chances = torch.softmax(model(phi, inputs), -1)
    rng, mean = generator(), {name: torch.zeros_like(value) for name, value in phi.items()}
    for _ in range(DRAWS):
        drawn = fisher(model, phi, examples(inputs), noise(rng, 3)[:1], kind="classification")
        mean = {name: value + drawn[name] / DRAWS for name, value in mean.items()}
    head = torch.einsum("mno->mo", chances * (1.0 - chances)) / inputs.shape[1]
    assert_close(mean["bias_1"], head, rtol=0.05, atol=1e-3)


def test_empirical_fisher_takes_the_labels_of_the_examples():
    inputs, phi = random_inputs(), params(LINEAR)
    data = examples(inputs)
    chances = torch.softmax(LINEAR(phi, inputs), -1)
    errors = chances - torch.nn.functional.one_hot(data.targets, 2)
    found = empirical_fisher(LINEAR, phi, data, kind="classification")
    assert_close(found["bias_0"], errors.square().mean(1))


def test_mas_of_a_linear_map_by_hand():
    """F = W^T x, ||F||^2 has the gradient 2 x F^T in W."""
    phi = {"weight_0": torch.tensor([[[1.0, -2.0], [0.0, 1.0], [3.0, 0.0]]]), "bias_0": torch.zeros(1, 2)}
    inputs = torch.tensor([[[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]]])
    outputs = torch.tensor([[-2.0, 0.0], [3.0, 1.0]])
    expected = sum(2.0 * inputs[0, k].abs()[:, None] * outputs[k].abs() for k in range(2)) / 2.0
    found = mas(LINEAR, phi, inputs)
    assert_close(found["weight_0"][0], expected)
    assert_close(found["bias_0"][0], outputs.abs().sum(0))


def test_mas_needs_no_labels():
    inputs, phi = random_inputs(), params(LINEAR)
    measure = make_measure("mas", "classification")
    first = measure(LINEAR, phi, examples(inputs), noise())
    other = examples(inputs, torch.zeros(2, 5, dtype=torch.long))
    assert_close(measure(LINEAR, phi, other, noise()), first)


def test_the_diagonal_along_all_directions_is_that_of_the_matrix():
    """H of a linear map of one input is J^T J, of full rank if there are as many examples as parameters."""
    model = mlp_model((3, 1))
    inputs, phi = random_inputs(count=6), params(model)
    found = krylov_diagonal(model, phi, inputs, directions=4)
    assert_close(found["weight_0"].squeeze(-1), 2.0 * inputs.square().mean(1), rtol=1e-6, atol=1e-9)
    assert_close(found["bias_0"], torch.full((2, 1), 2.0, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_fewer_directions_find_less_and_never_more_than_the_matrix_has():
    model = mlp_model((3, 1))
    inputs, phi = random_inputs(count=6), params(model)
    few, whole = (krylov_diagonal(model, phi, inputs, directions) for directions in (2, 4))
    assert all(bool((few[name] <= whole[name] + 1e-9).all()) for name in whole)


def regressors(count, dtype, activation="relu"):
    """Sinusoid regressors of Finn et al. 2017, their inputs, and the diagonal of H from gradients of single outputs."""
    model, tasks = mlp_model((1, 40, 40, 1), activation=activation), 30
    phi = {name: value.to(dtype) for name, value in params(model, tasks).items()}
    inputs = 10.0 * torch.rand(tasks, count, 1, generator=generator(3), dtype=dtype) - 5.0
    slopes = sample_gradients(model, phi, inputs, lambda outputs: outputs[..., 0])
    return model, phi, inputs, {name: 2.0 * value.square().mean(1) for name, value in slopes.items()}


def row(found):
    """All numbers of each task, ``[M, numbers]``."""
    return torch.cat([value.flatten(1) for value in found.values()], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_no_curvature_is_counted_twice(count, dtype):
    """With as many examples as directions or fewer all of it is found; in float32 noise was once added to that."""
    model, phi, inputs, diagonal = regressors(count, dtype)
    found, whole = row(krylov_diagonal(model, phi, inputs, directions=5)), row(diagonal)
    assert bool((found <= 1.001 * whole + 1e-6 * whole.amax(1, keepdim=True)).all())
    if count <= 5:
        assert_close(found.sum(1), whole.sum(1), rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("seed", [1, 3, 35])
def test_no_curvature_is_counted_twice_of_examples_that_hardly_differ(seed):
    """Some directions are lost to rounding all but for a ten-thousandth: made conjugate once they doubled the trace."""
    model, rng = mlp_model((1, 40, 40, 1), activation="tanh"), generator(seed)
    drawn = [model.init(rng) for _ in range(40)]
    phi = {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}
    inputs = (10.0 * torch.rand(40, 4, 1, generator=rng) - 5.0) * 0.01
    slopes = sample_gradients(model, phi, inputs, lambda outputs: outputs[..., 0])
    whole = 2.0 * row(slopes).square().sum(1) / 4.0
    found = row(krylov_diagonal(model, phi, inputs, directions=5))
    assert_close(found.sum(1), whole, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 10])
def test_the_order_of_examples_does_not_matter(count, dtype):
    model, phi, inputs, _ = regressors(count, dtype)
    first, turned = (row(refined_mas(model, phi, each)) for each in (inputs, inputs.flip(1)))
    assert bool(((turned - first).abs().mean(1) <= 1e-5 * first.mean(1)).all())


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_curvature_of_a_linear_map_does_not_depend_on_its_outputs(factor):
    """Their squares are 0 or infinite in float32; the mean of importances is in proportion to the outputs."""
    inputs, phi = random_inputs().float(), {name: value.float() for name, value in params(LINEAR).items()}
    scaled = {name: factor * value for name, value in phi.items()}
    assert_close(krylov_diagonal(LINEAR, scaled, inputs, 2), krylov_diagonal(LINEAR, phi, inputs, 2))
    refined, expected = (row(refined_mas(LINEAR, at, inputs)) for at in (scaled, phi))
    assert_close(refined / factor, expected)


def test_refined_importance_keeps_the_mean():
    model = mlp_model((3, 4, 2))
    inputs, phi = random_inputs(), params(model)
    plain, refined = mas(model, phi, inputs), refined_mas(model, phi, inputs)

    assert_close(row(refined).mean(1), row(plain).mean(1))
    assert not torch.allclose(refined["weight_0"], plain["weight_0"])


def test_a_silent_network_has_importances_of_0():
    phi = {name: torch.zeros_like(value) for name, value in params(LINEAR).items()}
    refined = refined_mas(LINEAR, phi, random_inputs())
    assert all(bool((value == 0.0).all()) for value in refined.values())
    assert all(bool((value == 0.0).all()) for value in mean_one(refined).values())


def test_each_task_has_its_own():
    model = conv_model((1, 8, 8), 2, filters=3)
    phi = params(model)
    inputs = torch.randn(2, 4, 1, 8, 8, generator=generator(), dtype=torch.float64)
    both = mas(model, phi, inputs)
    alone = mas(model, {name: value[1:] for name, value in phi.items()}, inputs[1:])
    assert_close({name: value[1:] for name, value in both.items()}, alone)


def test_a_running_mean_forgets_by_its_decay():
    old, new = {"a": torch.tensor([4.0])}, {"a": torch.tensor([0.0])}
    assert_close(accumulate(old, new, 0.75), {"a": torch.tensor([3.0])})


def test_mean_one_over_all_numbers_of_a_task():
    scaled = mean_one({"a": torch.tensor([[1.0, 2.0], [0.0, 3.0]]), "b": torch.tensor([[3.0], [9.0]])})
    assert_close(torch.cat(list(scaled.values()), 1).mean(1), torch.ones(2))
    assert_close(scaled["a"][0, 1] / scaled["a"][0, 0], torch.tensor(2.0))


@pytest.mark.parametrize("name", ["fisher", "empirical-fisher"])
def test_a_single_class_is_refused(name):
    data = examples(random_inputs(), torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="two classes in every task, got one in 1 of 2"):
        make_measure(name, "classification")(LINEAR, params(LINEAR), data, noise())
    with pytest.raises(ValueError, match="two classes in every task, got one in 1 of 2"):
        check_support(data, name)


def test_usable_tells_which_tasks_have_two_classes():
    """The odd one may come last; a class may be any number."""
    targets = torch.tensor([[2, 2, 2, 2, 0], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0], [0, 1, 2, 0, 1]])
    data = examples(random_inputs(tasks=4), targets)
    assert usable(data).tolist() == usable(data, "empirical-fisher").tolist() == [True, False, False, True]
    assert usable(data, "mas").tolist() == usable(data, "mas-cg").tolist() == [True] * 4
    check_support(data, "mas")
    check_support(Examples(*(field[[0, 3]] for field in data)))
    values = examples(random_inputs(tasks=4), torch.ones(4, 5, 2))
    assert usable(values).tolist() == [True] * 4
    check_support(values)


@pytest.mark.parametrize("name", ["fisher", "empirical-fisher", "mas", "mas-cg"])
def test_what_is_not_checked_is_measured_alike_on_the_tasks_that_are_usable(name):
    """A task of one class takes nothing from the other, and is measured too."""
    targets = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    data, phi = examples(random_inputs(), targets), params(LINEAR)
    found = make_measure(name, "classification", checked=False)(LINEAR, phi, data, noise())
    first = Examples(*(field[:1] for field in data))
    alone = make_measure(name, "classification")(LINEAR, {key: at[:1] for key, at in phi.items()}, first, noise()[:1])
    assert_close({key: value[:1] for key, value in found.items()}, alone)
    assert all(bool(torch.isfinite(value).all()) for value in found.values())


@pytest.mark.parametrize("name", ["fisher", "empirical-fisher", "mas", "mas-cg"])
def test_no_examples_are_refused(name):
    data = examples(random_inputs(count=0))
    with pytest.raises(ValueError, match="at least one example"):
        make_measure(name, "classification")(LINEAR, params(LINEAR), data, noise())


def test_an_unknown_importance_is_refused():
    with pytest.raises(ValueError, match="fisher, empirical-fisher, mas, mas-cg"):
        make_measure("fischer", "classification")

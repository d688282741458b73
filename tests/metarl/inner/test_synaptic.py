"""The learned synaptic rule: its terms by hand, when it is gradient descent, and that it learns XOR."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.inner.adapt import Learner, adapt
from metarl.inner.rules import Feedback, sgd
from metarl.inner.supervised_problem import SupervisedLearner, SupervisedProblem
from metarl.inner.synaptic import TERMS, SynapticProblem, synaptic
from metarl.losses import squared_error
from metarl.models import mlp_model
from metarl.outer.meta_gradients import meta_gradient, through
from metarl.trees import expand
from metarl.types import Examples, Meta, Params, TaskData


def examples(inputs: Tensor, targets: Tensor) -> Examples:
    return Examples(inputs, targets, torch.empty(len(inputs), 0, dtype=torch.int64))


def test_the_terms_of_a_2_2_1_net_by_hand():
    """Two examples. (a, -a) with a = artanh(0.5) makes the hidden neurons 0.5 and -0.5 and the output 1 + 1 - 2 = 0;
    target 3, error 3, which reaches the hidden neurons as 3 * 2 = 6 and 3 * 4 = 12. (0, 0) makes the output 1 = its
    target, so there is no error. Means over both."""
    a = math.atanh(0.5)
    phi = {
        "weight_0": tensor([[[1.0, 0.0], [0.0, 1.0]]]),
        "bias_0": tensor([[0.0, 0.0]]),
        "weight_1": tensor([[[2.0], [4.0]]]),
        "bias_1": tensor([[1.0]]),
    }
    batch = examples(tensor([[[a, -a], [0.0, 0.0]]]), tensor([[[3.0], [1.0]]]))
    model = mlp_model((2, 2, 1), activation="tanh")
    found = SynapticProblem(model, squared_error).local_loss(phi, batch, differentiable=False)
    assert TERMS == ("1", "y", "x", "mod", "y * mod", "y * x", "y * w")
    half, square = a / 2.0, a * a / 2.0
    expected = {
        "weight_1": [[[1.0, 0.25, 0.5, 1.5, 0.75, 0.0, 0.5]], [[1.0, -0.25, 0.5, 1.5, -0.75, 0.0, -1.0]]],
        "bias_1": [[1.0, 1.0, 0.5, 1.5, 1.5, 0.5, 1.0]],
        "weight_0": [
            [[1.0, half, half, 3.0, 6.0 * half, square, half], [1.0, half, -half, 6.0, 12.0 * half, -square, 0.0]],
            [[1.0, -half, half, 3.0, -6.0 * half, -square, 0.0], [1.0, -half, -half, 6.0, -12.0 * half, square, -half]],
        ],
        "bias_0": [[1.0, 1.0, half, 3.0, 3.0, half, 0.0], [1.0, 1.0, -half, 6.0, 6.0, -half, 0.0]],
    }
    terms = found.gradient()
    assert terms.keys() == phi.keys()
    for name, numbers in expected.items():
        assert_close(terms[name][0], tensor(numbers), msg=lambda text, name=name: f"{name}: {text}")
    assert found.value.tolist() == [pytest.approx(4.5)]  # (9 + 0) / 2


def test_a_weight_changes_by_the_rule_times_its_terms():
    """1 * 0.5 + 2 * 0.25 added to 10."""
    terms = {"w": tensor([[[[1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]]]])}
    eta = {"synaptic": tensor([0.5, 9.0, 9.0, 9.0, 0.25, 9.0, 9.0])}
    rule, phi = synaptic(), {"w": tensor([[[10.0]]]), "other": tensor([[1.0]])}
    found, _ = rule.update(eta, rule.init(phi), phi, Feedback(terms, torch.zeros(1)))
    assert found["w"].item() == 11.0
    assert found["other"] is phi["other"]


@pytest.mark.parametrize("outputs", [1, 3])
def test_with_activity_times_modulator_alone_one_layer_descends_the_squared_error(outputs):
    """The gradient of the mean over examples and outputs is -2 / outputs times the mean of y * mod."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    model, step_size = mlp_model((4, outputs), activation="tanh"), 0.1
    phi = {"weight_0": normal(2, 4, outputs), "bias_0": normal(2, outputs)}
    support = (examples(normal(2, 5, 4), normal(2, 5, outputs)),) * 3
    eta = {"synaptic": torch.zeros(7, dtype=torch.float64).index_fill(0, tensor(4), 2.0 * step_size / outputs)}
    local = Learner(SynapticProblem(model, squared_error), [synaptic()] * 3, False, 2)
    descent = Learner(SupervisedProblem(model, squared_error), [sgd(step_size)] * 3, False, 2)
    with torch.no_grad():
        found, expected = adapt(local, eta, phi, support).phi, adapt(descent, {}, phi, support).phi
    assert_close(found, expected, rtol=1e-13, atol=1e-14)
    assert float((found["weight_0"] - phi["weight_0"]).abs().min()) > 1e-4


def test_a_change_of_rule_reaches_every_layer_at_once():
    """Terms are taken at the weights before the step: the hidden neurons' modulator is not that of the moved output."""
    model = mlp_model((1, 1, 1), activation="tanh")
    phi = {"weight_0": torch.zeros(1, 1, 1), "weight_1": tensor([[[2.0]]]), "bias_0": torch.zeros(1, 1)}
    phi |= {"bias_1": torch.zeros(1, 1)}
    batch = examples(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    eta = {"synaptic": tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])}
    found = adapt(Learner(SynapticProblem(model, squared_error), [synaptic()], True, 1), eta, phi, [batch]).phi
    assert found["weight_1"].item() == 3.0
    assert found["weight_0"].item() == 2.0


@pytest.mark.parametrize("differentiable", [False, True])
def test_terms_have_a_history_where_it_is_asked_for(differentiable):
    model = mlp_model((2, 3, 1), activation="tanh")
    phi = expand({name: value.requires_grad_() for name, value in model.init(torch.Generator()).items()}, 2)
    batch = examples(torch.ones(2, 4, 2), torch.ones(2, 4, 1))
    local = SynapticProblem(model, squared_error).local_loss(phi, batch, differentiable=differentiable)
    assert local.value.requires_grad == differentiable
    assert local.gradient()["weight_0"].requires_grad == differentiable


def test_a_local_rule_has_no_curvature_to_ask_for():
    model = mlp_model((2, 3, 1), activation="tanh")
    phi = expand(model.init(torch.Generator()), 1)
    batch = examples(torch.ones(1, 4, 2), torch.ones(1, 4, 1))
    local = SynapticProblem(model, squared_error).local_loss(phi, batch, differentiable=False)
    with pytest.raises(NotImplementedError, match="follows no gradient"):
        local.curve(phi)


CORNERS = tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
XOR, XNOR = tensor([-1.0, 1.0, 1.0, -1.0]), tensor([1.0, -1.0, -1.0, 1.0])
FUNCTIONS = tensor([[1.0 if number >> corner & 1 else -1.0 for corner in range(4)] for number in range(16)])


def truth_tables(functions: Tensor, steps: int) -> TaskData[Examples]:
    table = examples(CORNERS.expand(len(functions), -1, -1), functions[..., None])
    return TaskData((table,) * steps, table)


def learned_rule(hidden: tuple[int, ...], *, steps: int, iterations: int) -> tuple[SupervisedLearner, Params, Params]:
    """The net, its weights as drawn, and the rule after descent on all sixteen functions."""
    generator = torch.Generator().manual_seed(1)
    model = mlp_model((2, *hidden, 1), activation="tanh")
    learner: SupervisedLearner = Learner(SynapticProblem(model, squared_error), [synaptic()] * steps, False, 16)
    theta = model.init(generator)
    rule = 0.01 * torch.randn(7, generator=generator)
    optimizer = torch.optim.Adam([rule], lr=0.02)
    for _ in range(iterations):
        meta = Meta(theta, {"synaptic": rule}, {})
        found = meta_gradient(lambda meta, data: through(learner, meta, data), meta, truth_tables(FUNCTIONS, steps), 16)
        rule.grad = found.meta.eta["synaptic"]
        rule.grad /= rule.grad.norm().clamp(min=1.0)
        optimizer.step()
    return learner, theta, {"synaptic": rule}


def answers(hidden: tuple[int, ...], functions: Tensor, *, steps: int, iterations: int) -> Tensor:
    """Outputs at the four corners of nets that start from the same weights and learn each function."""
    learner, theta, eta = learned_rule(hidden, steps=steps, iterations=iterations)
    with torch.no_grad():
        phi = adapt(learner, eta, expand(theta, len(functions)), truth_tables(functions, steps).support).phi
        return learner.problem.model(phi, CORNERS.expand(len(functions), -1, -1))[..., 0]


def test_a_rule_that_was_meta_trained_teaches_a_hidden_layer_xor_and_xnor():
    found = answers((8,), torch.stack([XOR, XNOR]), steps=20, iterations=60)
    assert_close(found, torch.stack([XOR, XNOR]), rtol=0.0, atol=0.5)


def test_no_rule_teaches_a_linear_unit_xor_though_it_learns_and():
    conjunction = tensor([-1.0, -1.0, -1.0, 1.0])
    found = answers((), torch.stack([XOR, conjunction]), steps=10, iterations=80)
    assert (found[0] - XOR).square().mean() > 0.99  # 1 is the best that a line can do
    assert torch.equal(found[1].sign(), conjunction)

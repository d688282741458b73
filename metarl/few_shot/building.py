"""How few-shot learners are put together from a family and the settings; ``algorithms`` names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl.algorithms import UnsuitableAlgorithm
from metarl.compiled import compile_function
from metarl.few_shot.comparing import ComparingMethod, pixels
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.fame import FameLearner
from metarl.few_shot.learners import (
    ComparingLearner,
    EstimateAt,
    FewShotLearner,
    GradientLearner,
    PretrainedComparer,
    PretrainedLearner,
    backpropagate,
)
from metarl.few_shot.neighbors import neighbors
from metarl.inner.lstm import initial_lstm, meta_lstm
from metarl.inner.rules import InnerRule, layer_step_sizes, meta_sgd, proximal_sgd, sgd
from metarl.inner.supervised_problem import SupervisedLearner, SupervisedProblem
from metarl.inner.synaptic import TERMS, SynapticProblem, synaptic
from metarl.losses import cross_entropy, example_cross_entropy, example_squared_error, squared_error
from metarl.models import Model, conv_model, mlp_model
from metarl.outer.meta_gradients import implicit, reptile, through
from metarl.tasks import FewShotFamily
from metarl.types import Examples, Meta, Params, TaskData
from metarl.variants.importance import make_measure


def make_model(family: FewShotFamily, config: FewShotConfig, outputs: int | None = None) -> Model:
    """The network of ``config.net`` for the family's inputs, with as many outputs as a task unless told."""
    net, shape = config.net, tuple(family.input_shape)
    outputs = family.outputs if outputs is None else outputs
    form = net.form
    if form == "auto":
        form = "mlp" if len(shape) != 3 else ("strided" if max(shape[1:]) <= 32 else "pooled")
    if form == "mlp":
        inputs = int(torch.Size(shape).numel())
        sizes = (inputs, *net.hidden, outputs)
        return mlp_model(sizes, activation=net.activation, batch_norm=net.batch_norm, initialization=net.initialization)
    if len(shape) != 3:
        raise UnsuitableAlgorithm(
            f"net form {form} needs images (channels, height, width), got inputs of shape {shape}"
        )
    return conv_model(
        (shape[0], shape[1], shape[2]), outputs, form=form, filters=net.filters, activation=net.activation
    )


_LOSSES = {"classification": cross_entropy, "regression": squared_error}
EXAMPLE_LOSSES = {"classification": example_cross_entropy, "regression": example_squared_error}


def make_adapting(
    family: FewShotFamily,
    config: FewShotConfig,
    *,
    rule: Callable[[int], InnerRule] | None = None,
    estimate: EstimateAt = backpropagate,
    init_eta: Callable[[Params, torch.Generator], Params] | None = None,
    first_order: bool = False,
    head_only: bool = False,
) -> GradientLearner:
    """MAML with what is named changed."""
    model, size = make_model(family, config), config.inner.step_size
    problem = SupervisedProblem(model, _LOSSES[family.kind], model.head_names if head_only else None)
    learner = GradientLearner(
        problem,
        rule or (lambda step: sgd(size)),
        config.inner.steps,
        first_order,
        config.task_chunk,
        estimate,
        init_eta or (lambda theta, generator: {}),
    )
    return compile_learner(learner) if config.compile else learner


def compile_learner(learner: GradientLearner) -> GradientLearner:
    """The same with its meta-gradient compiled, which takes the number of the iteration for 0."""
    inner, estimate = learner.inner(learner.steps), learner.estimate
    fast = compile_function(lambda meta, data: estimate(inner, meta, data, 0))
    return learner._replace(estimate=lambda inner, meta, data, iteration: fast(meta, data))


def make_maml(family: FewShotFamily, config: FewShotConfig, *, first_order: bool = False) -> FewShotLearner:
    """With MAML++'s step sizes and multi-step loss where they are asked for."""
    inner = config.inner
    changes: dict[str, Any] = {}
    if inner.layer_step_sizes:
        last = inner.steps - 1
        changes["rule"] = lambda step: layer_step_sizes(min(step, last))
        changes["init_eta"] = lambda theta, generator: {
            f"step_size/{name}": torch.full((inner.steps,), inner.step_size) for name in theta
        }
    if inner.multi_step_iterations:
        changes["estimate"] = partial(_multi_step, iterations=inner.multi_step_iterations)
    return make_adapting(family, config, first_order=first_order, **changes)


def _multi_step(
    learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int, *, iterations: int
) -> tuple[Params, Params, Tensor]:
    return through(learner, meta, data, multi_step_weights(len(learner.rules), iteration / iterations))


def multi_step_weights(steps: int, done: float) -> list[float]:
    """Weight of the query loss after each step: equal at first, the last step's alone once ``done`` reaches 1
    (arXiv:1810.09502, sec. 4)."""
    early = max(0.0, 1.0 - done) / steps
    return [early] * (steps - 1) + [1.0 - early * (steps - 1)]


def make_meta_sgd(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """A learned step size for each number of the parameters."""

    def init_eta(theta: Params, generator: torch.Generator) -> Params:
        return {f"step_size/{name}": torch.full_like(value, config.inner.step_size) for name, value in theta.items()}

    return make_adapting(family, config, rule=lambda step: meta_sgd(), init_eta=init_eta)


def make_reptile(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """Towards where adaptation ends."""
    return make_adapting(family, config, estimate=lambda learner, meta, data, iteration: reptile(learner, meta, data))


def make_imaml(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """A proximal inner loop with the implicit gradient of where it ended."""
    inner = config.inner

    def estimate(
        learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int
    ) -> tuple[Params, Params, Tensor]:
        return implicit(
            learner,
            meta,
            data,
            proximity=inner.proximity,
            cg_iterations=inner.cg_iterations,
            damping=inner.curvature_damping,
        )

    return make_adapting(
        family, config, rule=lambda step: proximal_sgd(inner.step_size, inner.proximity), estimate=estimate
    )


def make_fame(family: FewShotFamily, config: FewShotConfig) -> FameLearner:
    """Gradient descent that is held by the importance of parameters for the tasks seen so far."""
    return FameLearner(
        make_adapting(family, config),
        config.elastic,
        make_measure(config.elastic.importance, family.kind, checked=False),
        config.inner.step_size,
        config.iterations,
        config.seed,
    )


def make_meta_lstm(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """A recurrent network as the optimizer, whose feedback is a constant in the meta-gradient."""
    inner = config.inner
    return make_adapting(
        family,
        config,
        rule=lambda step: meta_lstm(inner.lstm_hidden),
        init_eta=lambda theta, generator: initial_lstm(inner.lstm_hidden, inner.step_size, generator),
        first_order=True,
    )


def make_synaptic(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """Only the rule is learned; the weights that it changes, of tanh neurons, stay where they were drawn."""

    def estimate(
        learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int
    ) -> tuple[Params, Params, Tensor]:
        theta, eta, losses = through(learner, meta, data)
        return {name: torch.zeros_like(value) for name, value in theta.items()}, eta, losses

    net = dataclasses.replace(config.net, form="mlp", activation="tanh", batch_norm=False)
    config = dataclasses.replace(config, net=net)
    learner = make_adapting(
        family,
        dataclasses.replace(config, compile=False),
        rule=lambda step: synaptic(),
        estimate=estimate,
        init_eta=lambda theta, generator: {"synaptic": 0.01 * torch.randn(len(TERMS), generator=generator)},
    )
    learner = learner._replace(problem=SynapticProblem(learner.problem.model, _LOSSES[family.kind]))
    return compile_learner(learner) if config.compile else learner


def make_pretrained(family: FewShotFamily, config: FewShotConfig) -> PretrainedLearner:
    """One network for all tasks, with an output for each of training's classes; then gradient descent."""
    model = make_model(family, config, family.training_classes or None)
    return PretrainedLearner(model, make_adapting(family, config), family.training_classes, family.outputs)


def make_comparing(
    method: Callable[[Model, FewShotConfig, int], ComparingMethod], *, raw: bool = False
) -> Callable[[FewShotFamily, FewShotConfig], ComparingLearner]:
    """A builder of learners that compare, from the method's own maker: ``(model, settings, ways)`` to the method.

    Args:
        method: makes it.
        raw: compare pixels rather than the features of a network.
    """

    def build(family: FewShotFamily, config: FewShotConfig) -> ComparingLearner:
        model = pixels(int(torch.Size(family.input_shape).numel())) if raw else make_model(family, config)
        return ComparingLearner(method(model, config, family.outputs), family.outputs, config.task_chunk)

    return build


def make_neighbors_of_pretrained(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """Nearest neighbor in the features of a network pretrained on all classes."""
    pretrained = make_pretrained(family, config)
    compare = ComparingLearner(neighbors(pretrained.model), family.outputs, config.task_chunk)
    return PretrainedComparer(pretrained, compare)

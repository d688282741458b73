"""Few-shot learners by name: each a few lines over the same parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl import algorithms
from metarl.algorithms import UnsuitableAlgorithm
from metarl.compiled import compile_function
from metarl.few_shot.comparing import ComparingMethod, pixels
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.curious import Curiosity, CuriousLearner
from metarl.few_shot.fame import FameLearner
from metarl.few_shot.learners import (
    ComparingLearner,
    EstimateAt,
    FewShotLearner,
    FixedLearner,
    GradientLearner,
    PretrainedComparer,
    PretrainedLearner,
    backpropagate,
)
from metarl.few_shot.matching import matching
from metarl.few_shot.memory import MemoryConfig, memory_network
from metarl.few_shot.neighbors import neighbors
from metarl.few_shot.prototypes import prototypes
from metarl.few_shot.siamese import siamese
from metarl.inner.lstm import initial_lstm, meta_lstm
from metarl.inner.rules import InnerRule, layer_step_sizes, meta_sgd, proximal_sgd, sgd
from metarl.inner.supervised_problem import SupervisedLearner, SupervisedProblem
from metarl.inner.synaptic import TERMS, SynapticProblem, synaptic
from metarl.losses import cross_entropy, example_cross_entropy, example_squared_error, squared_error
from metarl.models import Model, conv_model, mlp_model
from metarl.outer.meta_gradients import implicit, reptile, through
from metarl.tasks import FewShotFamily
from metarl.types import Examples, Meta, Params, TaskData
from metarl.variants.fame import ElasticConfig
from metarl.variants.importance import make_measure

Build = Callable[[FewShotFamily, FewShotConfig], FewShotLearner]


class Algorithm(NamedTuple):
    """A row of the table."""

    summary: str
    """A line for ``metarl list``."""
    build: Build
    trains: bool = True
    """Whether there is anything to meta-learn."""
    kinds: tuple[str, ...] = ("classification", "regression")
    """Of families that it can learn from."""
    family: Mapping[str, Any] = {}
    """Options that the family must have."""
    compiles: bool = False
    """Whether its meta-gradient is a fixed sequence of operations, worth compiling."""
    uses: frozenset[str] = frozenset()
    """Settings that not every algorithm has; see ``OPTIONAL``."""


_MEMORY = frozenset(f"memory.{item.name}" for item in dataclasses.fields(MemoryConfig))
_CURIOSITY = frozenset(f"curiosity.{item.name}" for item in dataclasses.fields(CuriosityConfig))
_ELASTIC = frozenset(f"elastic.{item.name}" for item in dataclasses.fields(ElasticConfig))

OPTIONAL = (
    "inner.layer_step_sizes",
    "inner.multi_step_iterations",
    "inner.proximity",
    "inner.cg_iterations",
    "inner.curvature_damping",
    "inner.lstm_hidden",
    *sorted(_CURIOSITY),
    "matching.scale",
    "matching.processing_steps",
    *sorted(_MEMORY),
    *sorted(_ELASTIC),
)
"""Settings that only some algorithms use, as paths from ``FewShotConfig``."""


def check_settings(config: FewShotConfig, defaults: FewShotConfig) -> None:
    """That what was chosen besides the defaults is of use.

    Raises:
        UnknownAlgorithm: naming the closest known.
        UnsuitableAlgorithm: naming what the algorithm does not use.
    """
    find_algorithm(config.algorithm)
    algorithms.check_unused(config.algorithm, ALGORITHMS, OPTIONAL, config, defaults)
    if config.curiosity.kind == "none" and config.curiosity != defaults.curiosity and defaults.curiosity.kind == "none":
        raise UnsuitableAlgorithm(
            "settings --curiosity.* were changed, but curiosity is none; choose --curiosity gradient, or leave them out"
        )


def make_learner(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """The learner that ``config.algorithm`` names, for the family's tasks.

    Raises:
        UnknownAlgorithm: naming the closest known.
        UnsuitableAlgorithm: if it cannot learn from the family, or is to be compiled and cannot be.
    """
    algorithm = find_algorithm(config.algorithm)
    if family.kind not in algorithm.kinds:
        raise UnsuitableAlgorithm(
            f"{config.algorithm} needs tasks of {' or '.join(algorithm.kinds)}, got {family.kind}; "
            f"'metarl list' shows the algorithms"
        )
    if config.compile and not algorithm.compiles:
        able = ", ".join(name for name, row in ALGORITHMS.items() if row.compiles)
        raise UnsuitableAlgorithm(f"{config.algorithm} is not compiled ({able} are); leave --compile out")
    if config.curiosity.kind == "none":
        return algorithm.build(family, config)
    return _curious(algorithm, family, config)


def _curious(algorithm: Algorithm, family: FewShotFamily, config: FewShotConfig) -> CuriousLearner:
    """The algorithm with weighted inner steps.

    Raises:
        UnsuitableAlgorithm: if it does not adapt by gradients that are backpropagated through.
    """
    learner = algorithm.build(family, dataclasses.replace(config, compile=False))
    base = learner.base if isinstance(learner, FameLearner) else learner
    problem = base.problem if isinstance(base, GradientLearner) and algorithm.uses >= _CURIOSITY else None
    if not (isinstance(base, GradientLearner) and isinstance(problem, SupervisedProblem)):
        users = ", ".join(name for name, row in ALGORITHMS.items() if row.uses >= _CURIOSITY)
        raise UnsuitableAlgorithm(f"{config.algorithm} cannot be curious ({users} can); leave --curiosity out")
    curiosity = Curiosity(config.curiosity, problem, _EXAMPLE_LOSSES[family.kind], family.outputs)
    base = base._replace(estimate=curiosity.estimate(base.estimate))
    if isinstance(learner, FameLearner):
        fame = learner._replace(base=base, curiosity=curiosity)
        return CuriousLearner(fame, fame.held, curiosity)
    base = compile_learner(base) if config.compile else base
    return CuriousLearner(base, lambda meta: base, curiosity)


def find_algorithm(name: str) -> Algorithm:
    """The row of a name.

    Raises:
        UnknownAlgorithm: naming the closest known.
    """
    return algorithms.find(name, ALGORITHMS)


def family_for(name: str, family: FewShotFamily) -> FewShotFamily:
    """The family with the options that an algorithm needs.

    Raises:
        UnsuitableAlgorithm: if it does not have them.
    """
    wanted = find_algorithm(name).family
    missing = [option for option in wanted if not hasattr(family, option)]
    if missing:
        raise UnsuitableAlgorithm(f"{name} needs a family with the option {', '.join(missing)}, such as sinusoid")
    return dataclasses.replace(family, **wanted) if wanted else family  # type: ignore[type-var]


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
_EXAMPLE_LOSSES = {"classification": example_cross_entropy, "regression": example_squared_error}


def _adapting(
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


def _maml(family: FewShotFamily, config: FewShotConfig, *, first_order: bool = False) -> FewShotLearner:
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
    return _adapting(family, config, first_order=first_order, **changes)


def _multi_step(
    learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int, *, iterations: int
) -> tuple[Params, Params, Tensor]:
    return through(learner, meta, data, multi_step_weights(len(learner.rules), iteration / iterations))


def multi_step_weights(steps: int, done: float) -> list[float]:
    """Weight of the query loss after each step: equal at first, the last step's alone once ``done`` reaches 1
    (arXiv:1810.09502, sec. 4)."""
    early = max(0.0, 1.0 - done) / steps
    return [early] * (steps - 1) + [1.0 - early * (steps - 1)]


def _meta_sgd(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    def init_eta(theta: Params, generator: torch.Generator) -> Params:
        return {f"step_size/{name}": torch.full_like(value, config.inner.step_size) for name, value in theta.items()}

    return _adapting(family, config, rule=lambda step: meta_sgd(), init_eta=init_eta)


def _reptile(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    return _adapting(family, config, estimate=lambda learner, meta, data, iteration: reptile(learner, meta, data))


def _imaml(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
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

    return _adapting(
        family, config, rule=lambda step: proximal_sgd(inner.step_size, inner.proximity), estimate=estimate
    )


def _fame(family: FewShotFamily, config: FewShotConfig) -> FameLearner:
    return FameLearner(
        _adapting(family, config),
        config.elastic,
        make_measure(config.elastic.importance, family.kind),
        config.inner.step_size,
        config.iterations,
        config.seed,
    )


def _meta_lstm(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    inner = config.inner
    return _adapting(
        family,
        config,
        rule=lambda step: meta_lstm(inner.lstm_hidden),
        init_eta=lambda theta, generator: initial_lstm(inner.lstm_hidden, inner.step_size, generator),
        first_order=True,
    )


def _synaptic(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    """Only the rule is learned; the weights that it changes, of tanh neurons, stay where they were drawn."""

    def estimate(
        learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int
    ) -> tuple[Params, Params, Tensor]:
        theta, eta, losses = through(learner, meta, data)
        return {name: torch.zeros_like(value) for name, value in theta.items()}, eta, losses

    net = dataclasses.replace(config.net, form="mlp", activation="tanh", batch_norm=False)
    config = dataclasses.replace(config, net=net)
    learner = _adapting(
        family,
        dataclasses.replace(config, compile=False),
        rule=lambda step: synaptic(),
        estimate=estimate,
        init_eta=lambda theta, generator: {"synaptic": 0.01 * torch.randn(len(TERMS), generator=generator)},
    )
    learner = learner._replace(problem=SynapticProblem(learner.problem.model, _LOSSES[family.kind]))
    return compile_learner(learner) if config.compile else learner


def _pretrained(family: FewShotFamily, config: FewShotConfig) -> PretrainedLearner:
    model = make_model(family, config, family.training_classes or None)
    return PretrainedLearner(model, _adapting(family, config), family.training_classes, family.outputs)


def _comparing(
    method: Callable[[Model, FewShotConfig, int], ComparingMethod], *, raw: bool = False
) -> Callable[[FewShotFamily, FewShotConfig], ComparingLearner]:
    def build(family: FewShotFamily, config: FewShotConfig) -> ComparingLearner:
        model = pixels(int(torch.Size(family.input_shape).numel())) if raw else make_model(family, config)
        return ComparingLearner(method(model, config, family.outputs), family.outputs, config.task_chunk)

    return build


def _neighbors_of_pretrained(family: FewShotFamily, config: FewShotConfig) -> FewShotLearner:
    pretrained = _pretrained(family, config)
    compare = ComparingLearner(neighbors(pretrained.model), family.outputs, config.task_chunk)
    return PretrainedComparer(pretrained, compare)


_CLASSES = ("classification",)

ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(
        "backpropagation through the inner loop (Finn et al. 2017, arXiv:1703.03400)",
        _maml,
        compiles=True,
        uses=frozenset({"inner.layer_step_sizes", "inner.multi_step_iterations"}) | _CURIOSITY,
    ),
    "fomaml": Algorithm(
        "the same with inner gradients as constants (arXiv:1703.03400, sec. 5.2)",
        partial(_maml, first_order=True),
        compiles=True,
        uses=frozenset({"inner.layer_step_sizes", "inner.multi_step_iterations"}) | _CURIOSITY,
    ),
    "meta-sgd": Algorithm(
        "a learned step size for each parameter (Li et al. 2017, arXiv:1707.09835)",
        _meta_sgd,
        compiles=True,
        uses=_CURIOSITY,
    ),
    "anil": Algorithm(
        "only the head adapts (Raghu et al. 2020, arXiv:1909.09157)",
        partial(_adapting, head_only=True),
        compiles=True,
        uses=_CURIOSITY,
    ),
    "reptile": Algorithm(
        "towards where adaptation ends (Nichol et al. 2018, arXiv:1803.02999)", _reptile, compiles=True
    ),
    "imaml": Algorithm(
        "proximal inner loop, implicit gradient (Rajeswaran et al. 2019, arXiv:1909.04630)",
        _imaml,
        uses=frozenset({"inner.proximity", "inner.cg_iterations", "inner.curvature_damping"}),
    ),
    "fame": Algorithm(
        "maml, held by the Fisher information of the tasks seen so far (Kirkpatrick et al. 2017, arXiv:1612.00796)",
        _fame,
        uses=_ELASTIC | _CURIOSITY,
    ),
    "meta-lstm": Algorithm(
        "a recurrent network as the optimizer (Ravi & Larochelle 2017)",
        _meta_lstm,
        compiles=True,
        uses=frozenset({"inner.lstm_hidden"}),
    ),
    "synaptic": Algorithm(
        "one local rule for all weights (Bengio et al. 1991)", _synaptic, kinds=("regression",), compiles=True
    ),
    "random": Algorithm("no meta-learning: a random initialization adapts", _adapting, trains=False),
    "pretrain": Algorithm("one network for all tasks, then fine-tuned", _pretrained),
    "oracle": Algorithm(
        "one network that sees what the task is, and does not adapt",
        lambda family, config: FixedLearner(_pretrained(family, config)),
        kinds=("regression",),
        family={"oracle": True},
    ),
    "neighbors": Algorithm(
        "nearest neighbor in the inputs",
        _comparing(lambda model, config, ways: neighbors(model), raw=True),
        False,
        _CLASSES,
    ),
    "pretrain-neighbors": Algorithm(
        "nearest neighbor in pretrained features", _neighbors_of_pretrained, kinds=_CLASSES
    ),
    "prototypes": Algorithm(
        "prototypical networks (Snell et al. 2017, arXiv:1703.05175)",
        _comparing(lambda model, config, ways: prototypes(model)),
        kinds=_CLASSES,
    ),
    "matching": Algorithm(
        "matching networks (Vinyals et al. 2016, arXiv:1606.04080)",
        _comparing(lambda model, config, ways: matching(model, config.matching, full_context=False)),
        kinds=_CLASSES,
        uses=frozenset({"matching.scale"}),
    ),
    "matching-full-context": Algorithm(
        "the same with full context embeddings",
        _comparing(lambda model, config, ways: matching(model, config.matching, full_context=True)),
        kinds=_CLASSES,
        uses=frozenset({"matching.scale", "matching.processing_steps"}),
    ),
    "siamese": Algorithm(
        "Siamese networks (Koch et al. 2015)", _comparing(lambda model, config, ways: siamese(model)), kinds=_CLASSES
    ),
    "mann": Algorithm(
        "memory-augmented network on pixels (Santoro et al. 2016, arXiv:1605.06065)",
        _comparing(lambda model, config, ways: memory_network(model, ways, config.memory), raw=True),
        kinds=_CLASSES,
        uses=_MEMORY,
    ),
}
"""Every few-shot learner by its name on the command line."""

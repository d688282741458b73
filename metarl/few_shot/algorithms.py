"""Few-shot learners by name: each a few lines over the same parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from metarl import algorithms
from metarl.algorithms import UnsuitableAlgorithm
from metarl.few_shot import building
from metarl.few_shot.building import compile_learner
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.curiosity_config import CuriosityConfig, check_measure
from metarl.few_shot.curious import Curiosity, CuriousLearner
from metarl.few_shot.fame import FameLearner
from metarl.few_shot.learners import (
    FewShotLearner,
    FixedLearner,
    GradientLearner,
)
from metarl.few_shot.matching import matching
from metarl.few_shot.memory import MemoryConfig, memory_network
from metarl.few_shot.neighbors import neighbors
from metarl.few_shot.prototypes import prototypes
from metarl.few_shot.siamese import siamese
from metarl.inner.supervised_problem import SupervisedProblem
from metarl.tasks import FewShotFamily
from metarl.variants.fame import ElasticConfig

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
    if config.curiosity.kind != "none":
        check_measure(config.curiosity, defaults.curiosity)


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
    curiosity = Curiosity(config.curiosity, problem, building.EXAMPLE_LOSSES[family.kind], family.outputs)
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


_CLASSES, _VALUES = ("classification",), ("regression",)

ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(
        "backpropagation through the inner loop (Finn et al. 2017, arXiv:1703.03400)",
        building.make_maml,
        compiles=True,
        uses=frozenset({"inner.layer_step_sizes", "inner.multi_step_iterations"}) | _CURIOSITY,
    ),
    "fomaml": Algorithm(
        "the same with inner gradients as constants (arXiv:1703.03400, sec. 5.2)",
        partial(building.make_maml, first_order=True),
        compiles=True,
        uses=frozenset({"inner.layer_step_sizes", "inner.multi_step_iterations"}) | _CURIOSITY,
    ),
    "meta-sgd": Algorithm(
        "a learned step size for each parameter (Li et al. 2017, arXiv:1707.09835)",
        building.make_meta_sgd,
        compiles=True,
        uses=_CURIOSITY,
    ),
    "anil": Algorithm(
        "only the head adapts (Raghu et al. 2020, arXiv:1909.09157)",
        partial(building.make_adapting, head_only=True),
        compiles=True,
        uses=_CURIOSITY,
    ),
    "reptile": Algorithm(
        "towards where adaptation ends (Nichol et al. 2018, arXiv:1803.02999)", building.make_reptile, compiles=True
    ),
    "imaml": Algorithm(
        "proximal inner loop, implicit gradient (Rajeswaran et al. 2019, arXiv:1909.04630)",
        building.make_imaml,
        uses=frozenset({"inner.proximity", "inner.cg_iterations", "inner.curvature_damping"}),
    ),
    "fame": Algorithm(
        "maml, held by the Fisher information of the tasks seen so far (Kirkpatrick et al. 2017, arXiv:1612.00796)",
        building.make_fame,
        uses=_ELASTIC | _CURIOSITY,
    ),
    "meta-lstm": Algorithm(
        "a recurrent network as the optimizer (Ravi & Larochelle 2017)",
        building.make_meta_lstm,
        compiles=True,
        uses=frozenset({"inner.lstm_hidden"}),
    ),
    "synaptic": Algorithm(
        "one local rule for all weights (Bengio et al. 1991)",
        building.make_synaptic,
        kinds=_VALUES,
        compiles=True,
    ),
    "random": Algorithm("no meta-learning: a random initialization adapts", building.make_adapting, trains=False),
    "pretrain": Algorithm("one network for all tasks, then fine-tuned", building.make_pretrained),
    "oracle": Algorithm(
        "one network that sees what the task is, and does not adapt",
        lambda family, config: FixedLearner(building.make_pretrained(family, config)),
        kinds=_VALUES,
        family={"oracle": True},
    ),
    "neighbors": Algorithm(
        "nearest neighbor in the inputs",
        building.make_comparing(lambda model, config, ways: neighbors(model), raw=True),
        False,
        _CLASSES,
    ),
    "pretrain-neighbors": Algorithm(
        "nearest neighbor in pretrained features", building.make_neighbors_of_pretrained, kinds=_CLASSES
    ),
    "prototypes": Algorithm(
        "prototypical networks (Snell et al. 2017, arXiv:1703.05175)",
        building.make_comparing(lambda model, config, ways: prototypes(model)),
        kinds=_CLASSES,
    ),
    "matching": Algorithm(
        "matching networks (Vinyals et al. 2016, arXiv:1606.04080)",
        building.make_comparing(lambda model, config, ways: matching(model, config.matching, full_context=False)),
        kinds=_CLASSES,
        uses=frozenset({"matching.scale"}),
    ),
    "matching-full-context": Algorithm(
        "the same with full context embeddings",
        building.make_comparing(lambda model, config, ways: matching(model, config.matching, full_context=True)),
        kinds=_CLASSES,
        uses=frozenset({"matching.scale", "matching.processing_steps"}),
    ),
    "siamese": Algorithm(
        "Siamese networks (Koch et al. 2015)",
        building.make_comparing(lambda model, config, ways: siamese(model)),
        kinds=_CLASSES,
    ),
    "mann": Algorithm(
        "memory-augmented network on pixels (Santoro et al. 2016, arXiv:1605.06065)",
        building.make_comparing(lambda model, config, ways: memory_network(model, ways, config.memory), raw=True),
        kinds=_CLASSES,
        uses=_MEMORY,
    ),
}
"""Every few-shot learner by its name on the command line."""

"""Settings of supervised few-shot learning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from metarl.engine import check_loop
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.matching import MatchingConfig
from metarl.few_shot.memory import MemoryConfig
from metarl.models import ModelActivation, ModelInitialization
from metarl.outer.adam import OptimizerConfig
from metarl.variants.fame import ElasticConfig

Form = Literal["auto", "mlp", "strided", "pooled"]


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """The network that adapts, or whose features are compared."""

    form: Form = "auto"
    """Perceptron, or four blocks of convolutions: strided (64 filters), pooled (32). Auto: a perceptron for numbers,
    strided for images of up to 32 pixels, pooled for larger ones."""
    hidden: tuple[int, ...] = (40, 40)
    """Widths of the perceptron's hidden layers."""
    batch_norm: bool = False
    """Normalize the perceptron's hidden layers; convolutions always are."""
    filters: int | None = None
    """Channels of each block; the published number of the form if left out."""
    activation: ModelActivation = "relu"
    """Nonlinearity."""
    initialization: ModelInitialization = "fan-in"
    """Of the perceptron."""

    def __post_init__(self) -> None:
        kinds = (("form", Form), ("activation", ModelActivation), ("initialization", ModelInitialization))
        for name, known in kinds:
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"net {name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}")
        if self.hidden and min(self.hidden) < 1:
            raise ValueError(f"net hidden must be widths of at least 1, got {self.hidden}; try (40, 40)")
        if self.filters is not None and self.filters < 1:
            raise ValueError(f"net filters must be at least 1, got {self.filters}; 64 and 32 are usual")


@dataclass(frozen=True, kw_only=True)
class FewShotInnerConfig:
    """How a network adapts to the support examples of one task (defaults: Finn et al. 2017, sec. 5.1)."""

    steps: int = 1
    """Gradient steps in training (S)."""
    step_size: float = 0.01
    """Inner learning rate; where step sizes are learned, their starting value."""
    layer_step_sizes: bool = False
    """Learn a step size for each parameter and step (MAML++); for maml and fomaml."""
    multi_step_iterations: int = 0
    """Meta-iterations in which the query loss after every step counts, less and less until the last one's alone does
    (MAML++); for maml."""
    proximity: float = 2.0
    """Of imaml: weight lambda of the distance to the initialization."""
    cg_iterations: int = 5
    """Of imaml: products with the Hessian."""
    curvature_damping: float = 0.0
    """Of imaml: added to proximity where it divides the Hessian; 10 in the code released with the paper, whose equation
    has none. With a curvature far above proximity, as of batch normalization on a few pictures, the equation's inverse
    leaves next to nothing of the gradient."""
    lstm_hidden: int = 20
    """Of meta-lstm: width of its first layer."""

    def __post_init__(self) -> None:
        for name in ("steps", "multi_step_iterations"):
            if getattr(self, name) < 0:
                raise ValueError(f"inner {name} must be 0 or more, got {getattr(self, name)}")
        if not self.steps and (self.layer_step_sizes or self.multi_step_iterations):
            raise ValueError("inner layer_step_sizes and multi_step_iterations need inner steps of at least 1, got 0")
        for name in ("cg_iterations", "lstm_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"inner {name} must be at least 1, got {getattr(self, name)}")
        for name, usual in (("step_size", 0.01), ("proximity", 2.0)):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"inner {name} must be positive and finite, got {getattr(self, name)}; {usual} is usual"
                )
        if not 0.0 <= self.curvature_damping < math.inf:
            raise ValueError(
                f"inner curvature_damping must be 0 or more and finite, got {self.curvature_damping}; 10 is usual"
            )


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """Everything that decides the numbers of a run, but for the task family."""

    algorithm: str = "maml"
    """Name of the learner ('metarl list')."""
    net: NetConfig = field(default_factory=NetConfig)
    inner: FewShotInnerConfig = field(default_factory=FewShotInnerConfig)
    curiosity: CuriosityConfig = field(default_factory=CuriosityConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    outer: OptimizerConfig = field(default_factory=OptimizerConfig)
    meta_batch_size: int = 25
    """Tasks per meta-iteration (M)."""
    iterations: int = 20_000
    """Meta-iterations to train for."""
    max_failures: int = 20
    """Stop with an error after this many meta-iterations in a row whose gradient was not finite."""
    held_out_every: int = 1000
    """Judge by tasks of the validation split every this many meta-iterations; 0 never."""
    held_out_tasks: int = 200
    """How many, the same ones every time."""
    log_every: int = 100
    """Meta-iterations from one line of the logs to the next."""
    task_chunk: int = 0
    """Tasks differentiated together; 0 chooses by the size of the network and the device."""
    transductive: bool = True
    """Let the queries of a task share their normalization statistics when they are judged; else each query is answered
    in a batch with the support alone."""
    compile: bool = False
    """Compile the meta-gradient: seconds of work before the first iteration, less for each one."""
    device: str = "cpu"
    """Where everything is computed."""
    seed: int = 1
    """Seed of everything random in the run."""

    def __post_init__(self) -> None:
        check_loop(self)
        if self.task_chunk < 0:
            raise ValueError(f"task_chunk must be 0 or more, got {self.task_chunk}")
        if self.compile and self.inner.multi_step_iterations:
            raise ValueError(
                "a compiled meta-gradient is the same in every iteration, so multi_step_iterations must be 0 with "
                f"--compile, got {self.inner.multi_step_iterations}"
            )

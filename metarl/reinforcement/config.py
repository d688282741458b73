"""Settings of meta-training policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from metarl.engine import check_loop
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.adam import OptimizerConfig
from metarl.outer.descent import ClipConfig
from metarl.outer.trust_region import TrustRegionConfig
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.rollout.collect import RolloutConfig
from metarl.variants.fame import ElasticConfig


@dataclass(frozen=True, kw_only=True)
class MetaTrainConfig:
    """Everything that decides the numbers of a run, but for the task family."""

    algorithm: str = "maml-trpo"
    """Name of the algorithm ('metarl list')."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    outer: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    clipping: ClipConfig = field(default_factory=ClipConfig)
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    curiosity: CuriosityConfig = field(default_factory=CuriosityConfig)
    meta_batch_size: int = 40
    """Tasks per meta-iteration (M)."""
    iterations: int = 500
    """Meta-iterations to train for."""
    max_failures: int = 20
    """Stop with an error after this many meta-iterations in a row that changed nothing."""
    held_out_every: int = 10
    """Evaluate on held-out tasks every this many meta-iterations; 0 never."""
    held_out_tasks: int = 20
    """Held-out tasks of these evaluations, the same ones every time."""
    task_chunk: int = 5
    """Tasks differentiated together: small groups stay in the processor's caches, large ones fill a GPU."""
    device: str = "cpu"
    """Where adaptation and the meta-update run; simulation stays on the processor."""
    seed: int = 1
    """Seed of everything random in the run."""

    log_every: ClassVar[int] = 1
    """Every meta-iteration is logged: it takes seconds."""

    def __post_init__(self) -> None:
        check_loop(self)
        if self.task_chunk < 1:
            raise ValueError(f"task_chunk must be at least 1, got {self.task_chunk}")

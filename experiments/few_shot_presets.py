"""Presets of few-shot families: ``default`` is MAML's, the others have the names of their algorithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from metarl.experiments.preset import Preset
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.outer.adam import OptimizerConfig


def _sinusoid(algorithm: str, *, iterations: int = 20_000, **changes: Any) -> Callable[[], FewShotConfig]:
    """Finn et al. 2017 (arXiv:1703.03400, sec. 5.1) on fewer iterations."""
    return lambda: FewShotConfig(algorithm=algorithm, iterations=iterations, **changes)


_OMNIGLOT = FewShotConfig(
    inner=FewShotInnerConfig(step_size=0.4),
    outer=OptimizerConfig(learning_rate=0.003, schedule="cosine"),
    meta_batch_size=16,
    iterations=6000,
    held_out_every=250,
    held_out_tasks=100,
    log_every=25,
)
"""Finn et al. 2017, app. A.1, with half the tasks, a tenth of the iterations, larger outer steps that fall to 0, and
three queries a class: they cost little beside the second derivatives of the support."""


def _omniglot(algorithm: str, **changes: Any) -> Callable[[], FewShotConfig]:
    return lambda: dataclasses.replace(_OMNIGLOT, algorithm=algorithm, **changes)


def _short(algorithm: str, iterations: int, *, queries: int) -> Preset:
    """The default's settings on fewer iterations."""
    summary = f"as the default, {iterations} iterations, {queries} queries a class"
    return Preset(summary=summary, family={"queries": queries}, train=_omniglot(algorithm, iterations=iterations))


_MINI_IMAGENET = FewShotConfig(
    inner=FewShotInnerConfig(steps=5, step_size=0.01),
    meta_batch_size=4,
    iterations=60_000,
    held_out_every=500,
    held_out_tasks=50,
    log_every=50,
)
"""Finn et al. 2017, app. A.1."""

FEW_SHOT_PRESETS: dict[str, dict[str, Preset]] = {
    "sinusoid": {
        "default": Preset(
            summary="maml: 1-40-40-1 relu, K 10, one step of 0.01, 25 tasks, Adam 0.001, 20,000 iterations",
            family={},
            train=_sinusoid("maml"),
        ),
        "maml-paper": Preset(
            summary="the same for the published 70,000 iterations",
            family={},
            train=_sinusoid("maml", iterations=70_000),
        ),
        "reptile": Preset(
            summary="ten steps of 0.02 on 20 points, interpolation 1.0 falling to 0, 5 tasks, 30,000 iterations",
            family={},
            train=_sinusoid(
                "reptile",
                iterations=30_000,
                inner=FewShotInnerConfig(steps=10, step_size=0.02),
                outer=OptimizerConfig(optimizer="sgd", learning_rate=1.0, schedule="linear"),
                meta_batch_size=5,
            ),
        ),
        "imaml": Preset(
            summary="16 proximal steps of 0.02, lambda 0.5, 5 products",
            family={},
            train=_sinusoid("imaml", inner=FewShotInnerConfig(steps=16, step_size=0.02, proximity=0.5)),
        ),
        "meta-lstm": Preset(
            summary="five steps of a learned optimizer, 10,000 iterations",
            family={},
            train=_sinusoid("meta-lstm", iterations=10_000, inner=FewShotInnerConfig(steps=5)),
        ),
        "synaptic": Preset(
            summary="ten steps of a learned local rule, tanh 40",
            family={},
            train=_sinusoid(
                "synaptic",
                inner=FewShotInnerConfig(steps=10),
                net=NetConfig(hidden=(40,)),
                outer=OptimizerConfig(max_norm=1.0),
            ),
        ),
    },
    "boolean": {
        "default": Preset(
            summary="synaptic: 30 steps of a learned local rule on two inputs and 8 hidden neurons",
            family={},
            train=lambda: FewShotConfig(
                algorithm="synaptic",
                net=NetConfig(hidden=(8,)),
                inner=FewShotInnerConfig(steps=30),
                outer=OptimizerConfig(learning_rate=0.01, max_norm=1.0),
                meta_batch_size=16,
                iterations=3000,
                held_out_every=500,
            ),
        ),
    },
    "omniglot": {
        "default": Preset(
            summary="maml: strided 64 filters, one step of 0.4, 16 tasks, 3 queries a class, 6000 iterations",
            family={"queries": 3},
            train=_omniglot("maml"),
        ),
        "20-way": Preset(
            summary="maml: 20 ways, one query a class, 1000 iterations",
            family={"ways": 20, "queries": 1},
            train=_omniglot("maml", iterations=1000),
        ),
        "fomaml": _short("fomaml", 6000, queries=3),
        **{name: _short(name, 3000, queries=3) for name in ("meta-sgd", "anil")},
        "reptile": Preset(
            summary="five steps of 0.1 on 10 drawings a class, interpolation 1.0 falling to 0, 3000 iterations",
            family={"queries": 9},
            train=_omniglot(
                "reptile",
                inner=FewShotInnerConfig(steps=5, step_size=0.1),
                outer=OptimizerConfig(optimizer="sgd", learning_rate=1.0, schedule="linear"),
                meta_batch_size=5,
                iterations=3000,
            ),
        ),
        "imaml": Preset(
            summary="16 proximal steps of 0.1, lambda 0.1, 5 damped products, 8 tasks, Adam 0.001, 300 iterations",
            family={"queries": 3},
            train=_omniglot(
                "imaml",
                inner=FewShotInnerConfig(steps=16, step_size=0.1, proximity=0.1, curvature_damping=10.0),
                outer=OptimizerConfig(schedule="cosine"),
                meta_batch_size=8,
                iterations=300,
            ),
        ),
        "meta-lstm": Preset(
            summary="one step of a learned optimizer, which starts as one of 0.4, 4 tasks, 400 iterations",
            family={"queries": 3},
            train=_omniglot("meta-lstm", meta_batch_size=4, iterations=400),
        ),
        **{name: _short(name, 2000, queries=3) for name in ("pretrain", "pretrain-neighbors")},
        **{
            name: _short(name, 3000, queries=5)
            for name in ("prototypes", "matching", "matching-full-context", "siamese")
        },
        "mann": Preset(
            summary="ten drawings a class, 4000 iterations of 16 tasks",
            family={"queries": 9},
            train=_omniglot("mann", iterations=4000),
        ),
    },
    "mini-imagenet": {
        "default": Preset(
            summary="maml: pooled 32 filters, five steps of 0.01, 4 tasks, 60,000 iterations",
            family={},
            train=lambda: _MINI_IMAGENET,
        ),
    },
    "image-folder": {
        "default": Preset(summary="as mini-imagenet", family={}, train=lambda: _MINI_IMAGENET),
    },
}

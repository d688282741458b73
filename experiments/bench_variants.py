"""What importances, FAME and gradient curiosity cost, against a backward pass and a meta-gradient of MAML."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from metarl.experiments.bench_report import add_row, new_table
from metarl.experiments.measure import summary
from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.inner.supervised_problem import SupervisedProblem
from metarl.processor import single_threaded
from metarl.tasks import FewShotFamily
from metarl.trees import expand, gradients, leaves
from metarl.types import Examples, TaskData
from metarl.variants.importance import MEASURED, label_noise, make_measure, negative_log_likelihood
from metarl.variants.per_sample import sample_gradients

_BACKWARD, _MAML = "backward pass", "maml"
_FEW = 8
"""Tasks of the support that importances are measured on."""


def measure_variants(
    family: FewShotFamily, data: TaskData[Examples], *, steps: int, repeats: int, seed: int
) -> dict[str, dict[str, float]]:
    """Times as ratios within one repetition: of what looks at single examples to a backward pass over the same, on one
    core; of meta-gradients to MAML's.

    Args:
        family: whose network is measured.
        data: of the meta-batch.
        steps: inner steps.
        repeats: the median counts.
        seed: of parameters and labels.
    """
    with single_threaded():
        of_examples = _ratios(_passes(family, data.query, seed), _BACKWARD, repeats)
    return of_examples | _ratios(_meta_gradients(family, data, steps, seed), _MAML, repeats)


def _passes(family: FewShotFamily, examples: Examples, seed: int) -> dict[str, Callable[[], object]]:
    learner = make_learner(family, FewShotConfig(algorithm="fame"))
    problem: SupervisedProblem = learner.base.problem  # type: ignore[attr-defined]
    few = Examples(*(field[:_FEW] for field in examples))
    generator = torch.Generator().manual_seed(seed)
    phi = {name: value.contiguous() for name, value in expand(problem.model.init(generator), len(few.inputs)).items()}
    noise, losses = label_noise(few, family.outputs, generator), negative_log_likelihood(few.targets, family.kind)

    def backward() -> object:
        at = leaves(phi)
        return gradients(problem.outer_loss(at, few).sum(), at)

    found: dict[str, Callable[[], object]] = {_BACKWARD: backward}
    found["gradients of single examples"] = lambda: sample_gradients(problem.model, phi, few.inputs, losses)
    for name in MEASURED:
        found[f"importance: {name}"] = partial(make_measure(name, family.kind), problem.model, phi, few, noise)
    return found


def _meta_gradients(
    family: FewShotFamily, data: TaskData[Examples], steps: int, seed: int
) -> dict[str, Callable[[], object]]:
    plain = FewShotConfig(algorithm="maml", inner=FewShotInnerConfig(steps=steps))
    curious = CuriosityConfig(kind="gradient")
    configs = {
        _MAML: plain,
        "fame": replace(plain, algorithm="fame"),
        "maml, curious by the last layer": replace(plain, curiosity=curious),
        "fame, curious by the last layer": replace(plain, algorithm="fame", curiosity=curious),
        "maml, curious by whole gradients": replace(plain, curiosity=replace(curious, gradients="projected")),
    }
    found: dict[str, Callable[[], object]] = {}
    for name, config in configs.items():
        learner = make_learner(family, config)
        meta = learner.init(torch.Generator().manual_seed(seed))
        found[name] = partial(learner.meta_gradient, meta, data, 0)
    return found


def _ratios(calls: Mapping[str, Callable[[], object]], reference: str, repeats: int) -> dict[str, dict[str, float]]:
    """Of each call's seconds to the reference's in the same repetition; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: summary([own / other for own, other in zip(values, seconds[reference], strict=True)])
        for name, values in seconds.items()
        if name != reference
    }


def show_variants(figures: Mapping[str, Any], repeats: int, console: Console) -> None:
    """Print the ratios."""
    title = f"of a {_BACKWARD} over the same examples; from fame on, of a meta-gradient of {_MAML}"
    table = new_table(title, "times", repeats)
    for name, figure in figures.items():
        add_row(table, name, figure, "{:.2f}")
    console.print(table)

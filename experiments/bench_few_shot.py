"""A whole meta-gradient of few-shot learning, against a plain loop over tasks and other libraries' loops."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
import tyro
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from metarl.experiments.bench_report import (
    JsonFile,
    as_json,
    check_at_least_one,
    new_table,
    show_machine,
    write_report,
)
from metarl.experiments.bench_variants import measure_variants, show_variants
from metarl.experiments.few_shot_peers import (
    Episode,
    Loop,
    LoopSetting,
    TorchNetwork,
    installed_libraries,
    meta_gradient,
    plain_loop,
    sorted_like_modules,
    to_torch,
)
from metarl.experiments.measure import machine, peak_memory, summary
from metarl.few_shot.building import compile_learner
from metarl.few_shot.learners import GradientLearner, backpropagate
from metarl.inner.rules import sgd
from metarl.inner.supervised_problem import SupervisedProblem
from metarl.losses import cross_entropy, squared_error
from metarl.models import Model, conv_model, mlp_model
from metarl.processor import keep_freed_memory
from metarl.tasks import make_family
from metarl.types import Examples, Meta, Params, TaskData

Problem = Literal["sinusoid", "omniglot", "mini-imagenet"]
Gradient = Callable[..., Params]

_PLAIN = "plain loop over tasks"
_CLASSES = 5
_STEP_SIZE = 0.01
_MOST_APART = 0.05
"""From the plain loop's gradient, over that gradient's length. Where rounding crosses kinks of ReLUs and pooling, right
gradients of mini-ImageNet's network differ by up to 0.02 in single precision (in double by 1e-13); wrong ones by more:
``torch.vmap``'s through batch normalization by 0.2."""


class GradientsDiffer(RuntimeError):
    """A contender takes another meta-gradient than the plain loop, so that their times say nothing."""


class _Shape(NamedTuple):
    """What a problem looks like unless flags say otherwise."""

    input_shape: tuple[int, ...]
    tasks: int
    steps: int
    support: int
    """Examples per task; of classes, per class."""
    query: int


PROBLEMS: dict[Problem, _Shape] = {
    "sinusoid": _Shape((1,), 25, 1, 10, 10),
    "omniglot": _Shape((1, 28, 28), 32, 5, 1, 1),
    "mini-imagenet": _Shape((3, 84, 84), 4, 5, 1, 15),
}
"""Finn et al. 2017 (arXiv:1703.03400), app. A.1 and their code; 5 classes."""


@dataclass(frozen=True, kw_only=True)
class FewShotBench:
    """A meta-gradient through the inner steps, ours and others', on random inputs of the problem's shapes."""

    problem: Annotated[Problem, tyro.conf.Positional]
    """Whose networks and sizes."""
    tasks: int | None = None
    """Tasks in the meta-batch; the problem's own if left out."""
    inner_steps: int | None = None
    """Gradient steps per task; the problem's own if left out."""
    chunk: int | None = None
    """Tasks at once; chosen by what fits a cache if left out."""
    compile: bool = False
    """Measure ours compiled as well: takes from ten seconds to minutes more."""
    libraries: bool = True
    """Measure the installed ones of learn2learn, higher and torchopt."""
    variants: bool = False
    """Measure what importances, FAME and gradient curiosity cost as well."""
    repeats: int = 5
    """Repetitions; the median counts."""
    seed: int = 1
    """Of everything random."""
    json_file: JsonFile = None
    """Write the figures to this file as well."""

    def __post_init__(self) -> None:
        given = ("tasks", "inner_steps", "chunk")
        check_at_least_one(self, ("repeats", *(name for name in given if getattr(self, name) is not None)))


def run_few_shot_bench(config: FewShotBench, console: Console | None = None) -> dict[str, Any]:
    """Measure meta-gradients in turn, print a table, and write the figures if a file is named.

    Each repetition times every contender once. All are first held to the plain loop's gradient. Peak memory is the
    process's after the contender's first run, ours being the first.

    Raises:
        GradientsDiffer: if a contender's gradient is another.
    """
    console = console or Console()
    where = machine()
    keep_freed_memory()
    setting = _Setting(config)
    contenders, absent = _contenders(setting)
    peaks, gradients = {}, {}
    for name, contender in contenders.items():
        gradients[name] = contender()
        peaks[name] = peak_memory()
    apart = differences(gradients, gradients[_PLAIN])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(config.repeats):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    report: dict[str, Any] = {
        "benchmark": "few-shot",
        "config": as_json(config),
        "sizes": setting.sizes(),
        "machine": where,
        "absent": absent,
        "figures": {
            "seconds": {name: summary(values) for name, values in seconds.items()},
            "times_faster_than_plain": _ratios(seconds),
            "difference_from_plain": apart,
            "peak_memory_after_mib": peaks,
            "peak_memory_mib": peak_memory(),
        },
    }
    _show(report, console)
    if config.variants:
        family: Any = make_family(config.problem)
        options = {"steps": setting.steps, "repeats": config.repeats, "seed": config.seed}
        report["variants"] = measure_variants(family, setting.data, **options)
        show_variants(report["variants"], config.repeats, console)
    write_report(report, config.json_file, console)
    return report


class _Setting:
    """The problem's network and data, in our layout and as a list of tasks."""

    def __init__(self, config: FewShotBench) -> None:
        self.config, shape = config, PROBLEMS[config.problem]
        self.tasks, self.steps = config.tasks or shape.tasks, config.inner_steps or shape.steps
        generator = torch.Generator().manual_seed(config.seed)
        self.model = _model(config.problem)
        self.theta = self.model.init(generator)
        self.regression = config.problem == "sinusoid"
        self.support, self.query = (
            _examples(shape.input_shape, self.tasks, count, self.regression, generator)
            for count in (shape.support, shape.query)
        )
        self.learner = GradientLearner(
            SupervisedProblem(self.model, squared_error if self.regression else cross_entropy),
            lambda step: sgd(_STEP_SIZE),
            self.steps,
            first_order=False,
            task_chunk=config.chunk or 0,
            estimate=backpropagate,
            init_eta=lambda theta, generator: {},
        )
        empty = torch.empty(self.tasks, 0, dtype=torch.int64)
        support, query = (Examples(*examples, empty) for examples in (self.support, self.query))
        self.data = TaskData((support,) * self.steps, query)
        self.chunk = self.learner.chunk(support.inputs, query.inputs)

    def ours(self, learner: GradientLearner) -> Params:
        """The meta-gradient as training takes it."""
        return learner.meta_gradient(Meta(self.theta, {}, {}), self.data, 0).meta.theta

    def sizes(self) -> dict[str, Any]:
        return {
            "tasks": self.tasks,
            "inner_steps": self.steps,
            "support": list(self.support[0].shape[1:]),
            "query": list(self.query[0].shape[1:]),
            "chunk": self.chunk,
        }

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over tasks of the mean over examples; without a task axis the mean."""
        tasks = len(outputs) if outputs.ndim == 3 else 1
        if self.regression:
            return tasks * functional.mse_loss(outputs, targets)
        return tasks * functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def _model(problem: Problem) -> Model:
    if problem == "sinusoid":
        return mlp_model((1, 40, 40, 1))
    return conv_model(_image(problem), _CLASSES, form="strided" if problem == "omniglot" else "pooled")


def _image(problem: Problem) -> tuple[int, int, int]:
    channels, height, width = PROBLEMS[problem].input_shape
    return channels, height, width


def _examples(
    shape: tuple[int, ...], tasks: int, count: int, regression: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random inputs and targets, ``[M, N, ...]``; classes in turn."""
    if regression:
        inputs, targets = (torch.randn(tasks, count, *shape, generator=generator) for _ in range(2))
        return inputs, targets
    inputs = torch.rand(tasks, count * _CLASSES, *shape, generator=generator)
    return inputs, torch.arange(_CLASSES).repeat(tasks, count)


def _contenders(setting: _Setting) -> tuple[dict[str, Gradient], dict[str, str]]:
    """What is measured, ours first, and why the rest is not."""
    config = setting.config
    found: dict[str, Gradient] = {"metarl": lambda: setting.ours(setting.learner)}
    if config.compile:
        fast = compile_learner(setting.learner)
        found["metarl, compiled"] = lambda: setting.ours(fast)
    network = TorchNetwork(setting.theta, pooled=config.problem == "mini-imagenet")
    loops: dict[str, Loop] = {_PLAIN: plain_loop}
    absent = {}
    for name, loop, reason in installed_libraries() if config.libraries else ():
        if loop is None:
            absent[name] = reason
        else:
            loops[name] = loop
    episodes = [
        Episode((setting.support[0][task], setting.support[1][task]), (setting.query[0][task], setting.query[1][task]))
        for task in range(setting.tasks)
    ]
    given = LoopSetting(network, setting.loss, setting.steps, _STEP_SIZE)
    for name, loop in loops.items():
        found[name] = lambda loop=loop: meta_gradient(loop, given, episodes)
    return found, absent


def differences(gradients: dict[str, Params], plain: Params) -> dict[str, float]:
    """The distance of each gradient from the plain loop's over that gradient's length.

    Raises:
        GradientsDiffer: naming those that are too far from it.
    """
    found = {name: _difference(gradient, plain) for name, gradient in gradients.items()}
    wrong = [f"{name} by {apart:.2g}" for name, apart in found.items() if not apart <= _MOST_APART]
    if wrong:
        raise GradientsDiffer(
            "every contender's meta-gradient must be the plain loop's, of torch's modules task by task; from the same "
            f"parameters and examples these differ by more than {_MOST_APART} of its length: {', '.join(wrong)}; "
            "times of different work do not compare"
        )
    return found


def _difference(found: Params, plain: Params) -> float:
    """The distance from the plain loop's gradient over that gradient's length."""
    if "weight_0" in found:
        found = {name: to_torch(value) for (_, value), name in zip(sorted_like_modules(found), plain, strict=True)}
    apart = sum(float((found[name] - value).square().sum()) for name, value in plain.items())
    return float((apart / sum(float(value.square().sum()) for value in plain.values())) ** 0.5)


def _ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """How many times faster than the plain loop, in the same repetition."""
    return {
        name: summary([plain / own for plain, own in zip(seconds[_PLAIN], values, strict=True)])
        for name, values in seconds.items()
    }


def _show(report: dict[str, Any], console: Console) -> None:
    config, sizes, figures = report["config"], report["sizes"], report["figures"]
    table = new_table(
        f"{config['problem']}, one meta-gradient: {sizes['tasks']} tasks x {sizes['inner_steps']} inner steps, "
        f"{sizes['support'][0]} support and {sizes['query'][0]} query examples, {sizes['chunk']} tasks at once",
        "ms",
        config["repeats"],
    )
    table.add_column("times faster than plain", justify="right")
    table.add_column("gradient differs by", justify="right")
    table.add_column("peak MiB so far", justify="right")
    for name, figure in figures["seconds"].items():
        milliseconds = {key: 1000.0 * value for key, value in figure.items()}
        table.add_row(
            name,
            f"{milliseconds['median']:,.1f}",
            f"{milliseconds['min']:,.1f} to {milliseconds['max']:,.1f}",
            f"{figures['times_faster_than_plain'][name]['median']:.2f}",
            f"{figures['difference_from_plain'][name]:.1g}",
            f"{figures['peak_memory_after_mib'][name]:,.0f}",
        )
    console.print(table)
    for name, reason in report["absent"].items():
        console.print(f"{name} is not measured: {reason}", soft_wrap=True, highlight=False, markup=False)
    show_machine(report, console)

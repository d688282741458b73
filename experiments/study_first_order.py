"""Does the first-order approximation still hold for an activation with a second derivative? MAML against FOMAML.

    python -m metarl.experiments.study_first_order sinusoid
    python -m metarl.experiments.study_first_order omniglot

Every activation, method and seed is a training run of its own; runs that are in the output file already are not made
again. ``docs/first-order.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

import metarl.envs  # noqa: F401  registers the families
from metarl.engine import Clock, TrainState
from metarl.experiments.config import RunConfig
from metarl.experiments.few_shot_scores import mean_and_interval
from metarl.experiments.kinds import kind_of
from metarl.experiments.measure import MIB, machine, most_kept
from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.meta_learner import FewShotMetaLearner, few_shot_data, judge
from metarl.models import ModelActivation
from metarl.outer.adam import OptimizerConfig
from metarl.outer.meta_gradients import MetaGradient
from metarl.processor import single_threaded
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import make_family
from metarl.trees import dot

ACTIVATIONS: tuple[ModelActivation, ...] = get_args(ModelActivation)
METHODS = ("maml", "fomaml")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is the same for all runs on one family."""

    family: dict[str, Any]
    train: FewShotConfig
    check_every: int
    """Iterations from one comparison of the two meta-gradients to the next."""
    check_tasks: int
    """Validation tasks of a comparison, always the same; more than a meta-batch, whose noise hides the direction."""
    test_tasks: int


SETTINGS = {
    "sinusoid": Setting(
        family={},
        train=FewShotConfig(iterations=10_000),
        check_every=500,
        check_tasks=500,
        test_tasks=1000,
    ),
    "omniglot": Setting(
        family={"queries": 3},
        train=FewShotConfig(
            net=NetConfig(filters=32),
            inner=FewShotInnerConfig(steps=5, step_size=0.1),
            outer=OptimizerConfig(learning_rate=0.003, schedule="cosine"),
            meta_batch_size=8,
            iterations=400,
        ),
        check_every=80,
        check_tasks=32,
        test_tasks=300,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """MAML against FOMAML with every activation."""

    family_name: tyro.conf.Positional[Literal["sinusoid", "omniglot"]]
    """Which of the two."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """One run for each activation and method."""
    output: Path = Path("experiments/results/first-order")
    """Folder of FAMILY.json and FAMILY.png."""
    data: str | None = None
    """Where Omniglot lies; see its family."""


def main() -> None:
    """Make the runs that are missing, then the measurements of time and memory, then the figure."""
    study, console = tyro.cli(Study), Console()
    path = study.output / f"{study.family_name}.json"
    content: dict[str, Any] = {"runs": [], "costs": []}
    if path.is_file():
        content = json.loads(path.read_text())
    content |= {"machine": machine(), "setting": _described(SETTINGS[study.family_name])}
    for seed in study.seeds:
        for activation in ACTIVATIONS:
            for method in METHODS:
                key: dict[str, Any] = {"activation": activation, "method": method, "seed": seed}
                if any(key.items() <= run.items() for run in content["runs"]):
                    continue
                found = key | train_and_judge(study, activation, method, seed)
                content["runs"].append(found)
                console.print(f"{key}: {found['score']:.4f} after training, cosine {found['cosines'][-1]:.3f}")
                _write(path, content)
    if not content["costs"]:
        content["costs"] = [cost(study, activation) for activation in ACTIVATIONS]
        _write(path, content)
    draw(content, study.family_name, path.with_suffix(".png"))
    console.print(markdown(content, study.family_name), markup=False, soft_wrap=True)


def _config(study: Study, activation: ModelActivation, method: str, seed: int) -> RunConfig:
    setting = SETTINGS[study.family_name]
    options = setting.family | ({"data": study.data} if study.data else {})
    net = dataclasses.replace(setting.train.net, activation=activation)
    train = dataclasses.replace(setting.train, algorithm=method, net=net, seed=seed)
    family = make_family(study.family_name, **options)
    return RunConfig(family_name=study.family_name, preset="first-order", family=family, train=train)


def train_and_judge(study: Study, activation: ModelActivation, method: str, seed: int) -> dict[str, Any]:
    """One training run: cosines of the two meta-gradients on its way, and the score on test tasks at its end."""
    setting, config = SETTINGS[study.family_name], _config(study, activation, method, seed)
    kind = kind_of(config.family)
    learner, state = kind.prepare(config)
    others = {name: make_learner(config.family, dataclasses.replace(config.train, algorithm=name)) for name in METHODS}
    cosines, curve = [], []
    loop = FewShotMetaLearner(config.family, learner, config.train)
    rng = generator(seed, Stream.HELD_OUT_TASKS, 0)
    checks = config.family.sample_validation(rng, setting.check_tasks)
    check = few_shot_data(config.family, checks, config.train.inner.steps, "cpu")
    with single_threaded():
        while state.iteration < config.train.iterations:
            collected = loop.collect(state, Clock(), logged=False)
            if state.iteration % setting.check_every == 0:
                both = [each.meta_gradient(state.meta, check, state.iteration) for each in others.values()]
                cosines.append(cosine(*both))
                curve.append(float(both[METHODS.index(method)].losses.mean()))
            update = loop.update(state, collected, Clock(), logged=False)
            state = TrainState(update.meta, update.optimizer, state.iteration + 1, 0, 0, 0)
        tasks = config.family.sample_test(generator(0, Stream.EVALUATION_TASKS), setting.test_tasks)
        steps = max(config.train.inner.steps, 10)
        scores = judge(config.family, learner, state.meta, tasks, steps=steps, transductive=True, device="cpu")
    rows = next(iter(scores.values()))
    after = config.train.inner.steps
    return {
        "score": float(rows[after].mean()),
        "ci95": mean_and_interval(rows[after])[1],
        "by_step": rows.mean(1).tolist(),
        "cosines": cosines,
        "losses": curve,
    }


def cosine(first: MetaGradient, second: MetaGradient) -> float:
    """Between two meta-gradients in theta."""
    one, two = first.meta.theta, second.meta.theta
    return float(dot(one, two) / (dot(one, one) * dot(two, two)).sqrt())


def cost(study: Study, activation: ModelActivation) -> dict[str, Any]:
    """Median seconds of a meta-gradient of each method, taken in turns, and what its graphs keep."""
    config = _config(study, activation, "maml", 1)
    learners = {
        name: make_learner(config.family, dataclasses.replace(config.train, algorithm=name)) for name in METHODS
    }
    _, state = kind_of(config.family).prepare(config)
    data = FewShotMetaLearner(config.family, learners["maml"], config.train).collect(state, Clock(), logged=False).data
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    with single_threaded():
        for _ in range(9):
            for name, learner in learners.items():
                start = time.perf_counter()
                learner.meta_gradient(state.meta, data, 0)
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values[2:]) for name, values in times.items()}
    kept = {name: kept_mib(study, activation, name) for name in METHODS}
    return {"activation": activation, "seconds": seconds, "kept_mib": kept}


def kept_mib(study: Study, activation: ModelActivation, method: str) -> float:
    """What the graphs of a meta-gradient of all its tasks at once keep at the most, in MiB."""
    config = _config(study, activation, method, 1)
    train = dataclasses.replace(config.train, task_chunk=config.train.meta_batch_size)  # hooks see their own thread
    learner, state = kind_of(config.family).prepare(dataclasses.replace(config, train=train))
    data = FewShotMetaLearner(config.family, learner, train).collect(state, Clock(), logged=False).data
    return most_kept(lambda: learner.meta_gradient(state.meta, data, 0)) / MIB


def summary(content: dict[str, Any], activation: str, method: str) -> tuple[float, float, np.ndarray]:
    """Mean score over seeds, its range's half width, and the mean cosines along training."""
    runs = [run for run in content["runs"] if (run["activation"], run["method"]) == (activation, method)]
    scores = np.array([run["score"] for run in runs])
    return scores.mean(), (scores.max() - scores.min()) / 2.0, np.mean([run["cosines"] for run in runs], 0)


def markdown(content: dict[str, Any], family_name: str) -> str:
    """The table of the page."""
    score = "MSE" if family_name == "sinusoid" else "accuracy"
    lines = [
        f"| activation | {score}, MAML | {score}, FOMAML | cosine, first / middle / last | time, FOMAML / MAML | "
        "memory, FOMAML / MAML |",
        "|---|---|---|---|---|---|",
    ]
    for activation in ACTIVATIONS:
        (maml, maml_half, cosines), (first, first_half, _) = (summary(content, activation, each) for each in METHODS)
        costs = next(each for each in content["costs"] if each["activation"] == activation)
        time_ratio = costs["seconds"]["fomaml"] / costs["seconds"]["maml"]
        memory_ratio = costs["kept_mib"]["fomaml"] / costs["kept_mib"]["maml"]
        along = " / ".join(f"{cosines[index]:.3f}" for index in (0, len(cosines) // 2, -1))
        lines.append(
            f"| {activation} | {maml:.3f} ± {maml_half:.3f} | {first:.3f} ± {first_half:.3f} | {along} | "
            f"{time_ratio:.2f} | {memory_ratio:.2f} |"
        )
    return "\n".join(lines)


def draw(content: dict[str, Any], family_name: str, path: Path) -> None:
    """Scores of both methods, and the cosine along training."""
    figure = Figure(figsize=(11, 4.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    palette = matplotlib.colormaps["tab10"]
    setting = SETTINGS[family_name]
    for index, activation in enumerate(ACTIVATIONS):
        for offset, method in ((-0.18, "maml"), (0.18, "fomaml")):
            runs = [run for run in content["runs"] if (run["activation"], run["method"]) == (activation, method)]
            left.bar(
                index + offset,
                np.mean([run["score"] for run in runs]),
                width=0.34,
                color=palette(index),
                alpha=1.0 if method == "maml" else 0.45,
            )
            left.plot([index + offset] * len(runs), [run["score"] for run in runs], "k.", markersize=4)
        cosines = summary(content, activation, "maml")[2]
        right.plot(setting.check_every * np.arange(len(cosines)), cosines, color=palette(index), label=activation)
    score = "mean squared error" if family_name == "sinusoid" else "accuracy"
    left.set_xticks(range(len(ACTIVATIONS)), ACTIVATIONS)
    left.set(title=f"{family_name}: MAML (full) and FOMAML (pale), each seed a dot", ylabel=score)
    if family_name == "omniglot":
        left.set_ylim(bottom=0.2)
    right.set(title="cosine of the two meta-gradients along MAML's training", xlabel="meta-iterations")
    right.grid(alpha=0.25)
    right.legend(frameon=False)
    figure.savefig(path)


def _described(setting: Setting) -> dict[str, Any]:
    return dataclasses.asdict(setting)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()

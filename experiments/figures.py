"""``metarl figure``: a figure of several algorithms on one family, from the training of its runs to the picture.

What is trained and evaluated already is not made again, so a figure that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from metarl.experiments import train as training
from metarl.experiments.config import RunConfig
from metarl.experiments.draw_figures import draw_curves, draw_steps
from metarl.experiments.evaluate import EvaluateConfig, evaluate_run, read_evaluation
from metarl.experiments.figure_tables import section
from metarl.experiments.kinds import kind_of_run
from metarl.experiments.measure import machine
from metarl.experiments.presets import preset_config, preset_for
from metarl.experiments.render import RenderConfig, render_run
from metarl.experiments.results import RESULTS, keep_results
from metarl.experiments.runs import CONFIG, RunError, load_config, read_json, read_metrics, write_json
from metarl.reinforcement.algorithms import ALGORITHMS
from metarl.reinforcement.rl2 import Rl2Config
from metarl.tasks import closest

_MAML = ("maml-trpo", "pretrain", "random", "oracle")
_EFFICIENCY = ("promp", "maml-trpo", "e-maml", "dice-maml", "rl2")
_LEARN = tuple(name for name, row in ALGORITHMS.items() if row.outer is not None)


class Figure(NamedTuple):
    """What a figure shows."""

    title: str
    family: str
    algorithms: tuple[str, ...]
    tasks: int
    """Held-out tasks of the evaluation."""
    episodes: int
    """Of each task and gradient step."""
    over_steps: bool
    """Return against gradient steps, else against environment steps."""
    trajectories: bool = False
    """Also draw the paths of the first algorithm before and after adaptation; in the plane."""


class UnknownFigure(KeyError):
    """No figure has the name asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


FIGURES: dict[str, Figure] = {
    "maml-navigation": Figure(
        "2D navigation (figure 4 of Finn et al. 2017)", "navigation-2d", _MAML, 100, 40, True, trajectories=True
    ),
    "maml-cheetah-vel": Figure(
        "half-cheetah, goal velocity (figure 5 of Finn et al. 2017)", "half-cheetah-vel", _MAML, 40, 40, True
    ),
    "maml-cheetah-dir": Figure(
        "half-cheetah, forward or backward (figure 5 of Finn et al. 2017)", "half-cheetah-dir", _MAML, 40, 40, True
    ),
    "maml-ant-vel": Figure("ant, goal velocity (figure 5 of Finn et al. 2017)", "ant-vel", _MAML, 20, 20, True),
    "maml-ant-dir": Figure("ant, forward or backward (figure 5 of Finn et al. 2017)", "ant-dir", _MAML, 20, 20, True),
    "efficiency-navigation": Figure("2D navigation", "navigation-2d", _EFFICIENCY, 100, 40, False),
    "efficiency-cheetah-dir": Figure(
        "half-cheetah, forward or backward", "half-cheetah-dir", _EFFICIENCY, 40, 40, False
    ),
    "efficiency-cheetah-vel": Figure("half-cheetah, goal velocity", "half-cheetah-vel", _EFFICIENCY, 40, 40, False),
    "algorithms-navigation": Figure(
        "2D navigation, every algorithm", "navigation-2d", (*_LEARN, Rl2Config.algorithm), 100, 40, False
    ),
    "algorithms-cheetah-vel": Figure(
        "half-cheetah, goal velocity, every algorithm",
        "half-cheetah-vel",
        (*_LEARN, Rl2Config.algorithm),
        40,
        40,
        False,
    ),
}


@dataclass(frozen=True, kw_only=True)
class FigureConfig:
    """How a figure is made."""

    runs: Path = Path("runs/figures")
    """Where its runs are kept, named FAMILY-ALGORITHM-SEED."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """A training run of each algorithm for each."""
    algorithms: tuple[str, ...] = ()
    """Those to show; the figure's own if left out."""
    iterations: int | None = None
    """Meta-iterations of every run, where they are not to be the presets'; those of rl2 collect less, and stay."""
    into: Path = Path("experiments/results/figures")
    """Where NAME.png and NAME.json go, and with them each run's small files."""

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"figure seeds must be one or more different numbers of at least 0, got {self.seeds}")
        if self.iterations is not None and self.iterations < 1:
            raise ValueError(f"figure iterations must be at least 1, got {self.iterations}")


def make_figure(name: str, config: FigureConfig, console: Console) -> Path:
    """Train, evaluate and draw what is missing.

    Returns:
        The PNG.

    Raises:
        UnknownFigure: naming the closest known.
        RunError: if a run is there with other settings.
    """
    if name not in FIGURES:
        raise UnknownFigure(f"no figure {name!r}{closest(name, FIGURES)} (known: {', '.join(sorted(FIGURES))})")
    figure = FIGURES[name]
    algorithms = config.algorithms or figure.algorithms
    wanted = {each: [run_config(figure, each, seed, config.iterations) for seed in config.seeds] for each in algorithms}
    for run in (run for runs in wanted.values() for run in runs):
        _check_folder(_folder(config, run), run)
    directories = {each: [_made(figure, run, config, console) for run in runs] for each, runs in wanted.items()}
    content = _content(name, figure, config, directories)
    config.into.mkdir(parents=True, exist_ok=True)
    path = config.into / f"{name}.png"
    if figure.over_steps:
        draw_steps(content, path)
    else:
        draw_curves(content, path)
    write_json(config.into / f"{name}.json", content)
    adapting = [each for each in algorithms if each in ALGORITHMS and ALGORITHMS[each].adapts]
    if figure.trajectories and adapting:
        render_run(directories[adapting[0]][0], RenderConfig(output=config.into / f"{name}-trajectories.png"))
    for directory in (each for group in directories.values() for each in group):
        keep_results(directory, config.into)
    console.print(section(content), soft_wrap=True, markup=False)
    console.print(f"written to {path} and {path.with_suffix('.json')}", soft_wrap=True)
    return path


def _folder(config: FigureConfig, run: RunConfig) -> Path:
    return config.runs / f"{run.family_name}-{run.train.algorithm}-{run.train.seed}"


def _check_folder(directory: Path, wanted: RunConfig) -> None:
    """Before anything is trained."""
    if (directory / CONFIG).is_file() and load_config(directory) != wanted:
        raise RunError(
            f"{directory} has other settings than the figure's run of {wanted.train.algorithm}; name another folder "
            "with --runs, or move it away"
        )


def run_config(figure: Figure, algorithm: str, seed: int, iterations: int | None) -> RunConfig:
    """The run of an algorithm and seed: the algorithm's own preset if the family has one, else the default."""
    preset = preset_config(figure.family, preset_for(figure.family, algorithm))
    train = replace(preset.train, algorithm=algorithm, seed=seed)
    if algorithm in ALGORITHMS and ALGORITHMS[algorithm].specialists:
        train = replace(train, meta_batch_size=figure.tasks)
    if iterations is not None and algorithm in ALGORITHMS:
        train = replace(train, iterations=iterations)
    settled: RunConfig = kind_of_run(preset).settle(replace(preset, train=train), preset)
    return settled


def _made(figure: Figure, wanted: RunConfig, config: FigureConfig, console: Console) -> Path:
    """The folder of a run that is trained and evaluated."""
    algorithm, seed, directory = wanted.train.algorithm, wanted.train.seed, _folder(config, wanted)
    if not (directory / CONFIG).is_file():
        console.print(f"training {algorithm}, seed {seed}, in {directory}", soft_wrap=True)
        training.start(wanted, directory, console)
    elif not _is_trained(directory, wanted):
        console.print(f"going on with {algorithm}, seed {seed}, in {directory}", soft_wrap=True)
        training.resume(directory, console)
    if not _is_trained(directory, wanted):
        raise RunError(f"{directory} was stopped before its end; the same command goes on with it")
    options = EvaluateConfig(tasks=figure.tasks, episodes=figure.episodes)
    found = read_evaluation(directory)
    if found is None or not is_evaluation(found, options, wanted, read_json(directory / RESULTS)["iterations"]):
        evaluate_run(directory, options, console)
    return directory


def is_evaluation(found: Mapping[str, Any], options: EvaluateConfig, run: RunConfig, iteration: int) -> bool:
    """Whether an ``evaluation.json`` is of these options, with the run's own step sizes, and of this iteration."""
    asked = (options.tasks, options.episodes, options.seed, options.checkpoint, iteration)
    same = tuple(found[name] for name in ("tasks", "episodes", "seed", "checkpoint", "iteration")) == asked
    row = ALGORITHMS.get(run.train.algorithm)
    if row is None or row.specialists:  # how many rows they have is not a choice
        return same
    sizes = options.step_sizes(run.train.inner)
    return same and len(found["returns"]) == len(sizes) + 1 and found["step_sizes"] == (sizes if row.adapts else [])


def _is_trained(directory: Path, config: RunConfig) -> bool:
    """Whether a run used up its iterations or its minutes."""
    if not (directory / RESULTS).is_file():
        return False
    results = read_json(directory / RESULTS)
    out_of_time = config.minutes is not None and not results.get("stopped", False)
    return bool(results["iterations"] >= config.train.iterations or out_of_time)


def _content(
    name: str, figure: Figure, config: FigureConfig, directories: Mapping[str, Sequence[Path]]
) -> dict[str, Any]:
    """What is drawn, and how it came about."""
    flags = ["--seeds", *map(str, config.seeds)]
    if config.algorithms:
        flags += ["--algorithms", *config.algorithms]
    if config.iterations is not None:
        flags += ["--iterations", str(config.iterations)]
    lines = {algorithm: [_line(directory) for directory in group] for algorithm, group in directories.items()}
    return {
        "figure": name,
        "title": figure.title,
        "family": figure.family,
        "command": shlex.join(["metarl", "figure", name, *flags]),
        "seeds": list(config.seeds),
        "tasks": figure.tasks,
        "episodes": figure.episodes,
        "over_steps": figure.over_steps,
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "algorithms": lines,
    }


def _line(directory: Path) -> dict[str, Any]:
    """Of one run: returns of each task after each gradient step, the learning curve, and the time it took."""
    evaluation = read_evaluation(directory) or {}
    results = read_json(directory / RESULTS)
    curve = [(line["train/env_steps"], _after_adaptation(line)) for line in read_metrics(directory) if _is_judged(line)]
    return {
        "seed": evaluation["training_seed"],
        "returns": evaluation["returns"],
        "minutes": results["training_minutes"],
        "env_steps": results["env_steps"],
        "iterations": results["iterations"],
        "curve": [[float(steps), float(value)] for steps, value in curve],
    }


def _is_judged(line: Mapping[str, float]) -> bool:
    return any(name.startswith("held_out/return_after_") for name in line)


def _after_adaptation(line: Mapping[str, float]) -> float:
    """The held-out return after the last step."""
    names: Iterable[str] = (name for name in line if name.startswith("held_out/return_after_"))
    return line[max(names, key=lambda name: int(name.rsplit("_", 1)[1]))]

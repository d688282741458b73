"""``metarl train``: meta-train, log, save, stop when asked, and go on later as if nothing had happened."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from metarl.checkpoints import save_checkpoint
from metarl.engine import Iteration, Scores, TrainState, mean_score, meta_train
from metarl.experiments.config import RunConfig, to_json
from metarl.experiments.kinds import kind_of_run
from metarl.experiments.measure import machine, peak_memory
from metarl.experiments.runs import create_run, load_run, write_json
from metarl.logs import RunLog, read_metrics
from metarl.types import Metrics

_FORMS = {"return": (1.0, "{:.1f}"), "success": (100.0, "{:.0f} %"), "accuracy": (100.0, "{:.1f} %")}
"""What a score is multiplied by, and how it is written."""
_MANY_STEPS = 5
"""More scores than these are too many for a line."""
_DRAWING = 0.03
"""Share of a run's time that may go into pictures."""


def start(config: RunConfig, directory: Path, console: Console) -> TrainState:
    """Train a new run in ``directory``.

    Raises:
        RunError: if the directory is taken.
    """
    kind = kind_of_run(config)
    learner, state = kind.prepare(config)
    kind.probe(config)
    create_run(directory, config)
    save_checkpoint(directory / "checkpoints", state, family=config.family_name, keep=config.keep_checkpoints)
    return train(config, learner, state, directory, console)


def resume(directory: Path, console: Console) -> TrainState:
    """Continue a run from its newest checkpoint; the result equals that of a run never interrupted.

    Raises:
        RunError: if the directory is not a run.
        CheckpointError: if none of its checkpoints can be read.
    """
    run = load_run(directory)
    for complaint in run.complaints:
        console.print(f"[yellow]passed over:[/] {complaint}", soft_wrap=True)
    left = max(run.config.train.iterations - run.state.iteration, 0)
    console.print(f"resuming {directory} after {run.state.iteration} iterations, {left} left", soft_wrap=True)
    return train(run.config, run.learner, run.state, directory, console)


def train(config: RunConfig, learner: Any, state: TrainState, directory: Path, console: Console) -> TrainState:
    """Run the loop until the iterations or the minutes are used up, or a signal asks to stop."""
    deadline = time.monotonic() + 60.0 * _minutes_left(config, state, directory)
    best = _best_so_far(config, directory, state)
    with (
        kind_of_run(config).open(config, learner) as meta_learner,
        RunLog(directory, steps=kind_of_run(config).steps(config.train), start=state.iteration) as log,
        stop_on_signals(console) as asked,
        _progress(console) as progress,
    ):
        log.text("configuration", "```json\n" + to_json(config).decode() + "\n```")
        pictures = _Pictures(config, learner, log)
        bar = progress.add_task("", total=config.train.iterations, completed=state.iteration, scores="")
        for iteration in meta_train(meta_learner, config.train, state):
            state = iteration.state
            score = -math.inf
            if iteration.metrics:
                log.write(iteration)
                progress.update(bar, completed=state.iteration, scores=_main(iteration.scores))
                _say(iteration, config, console)
                score = _score(config, iteration.held_out)
                pictures.draw(iteration)
            last = bool(asked) or time.monotonic() > deadline or state.iteration == config.train.iterations
            if last or state.iteration % config.checkpoint_every == 0 or score > best:
                save_checkpoint(
                    directory / "checkpoints",
                    state,
                    family=config.family_name,
                    keep=config.keep_checkpoints,
                    best=score > best,
                )
            best = max(best, score)
            if last:
                break
        lines = read_metrics(directory)
        if lines or not config.train.iterations:
            finish(config, state, lines, directory, log, stopped=bool(asked))
    if state.failures:
        console.print(f"{state.failures} updates were refused and left the parameters as they were", soft_wrap=True)
    if asked:
        console.print(f"stopped as asked; go on with: metarl train --resume {directory}", soft_wrap=True)
    return state


def _minutes_left(config: RunConfig, state: TrainState, directory: Path) -> float:
    """Of the run's time limit, after what was trained until ``state``."""
    if config.minutes is None:
        return math.inf
    before = [line for line in read_metrics(directory) if line["iteration"] <= state.iteration]
    return config.minutes - _training_minutes(before)


def finish(
    config: RunConfig,
    state: TrainState,
    lines: Sequence[Metrics],
    directory: Path,
    log: RunLog,
    *,
    stopped: bool = False,
) -> None:
    """Write ``results.json``, with whether a signal stopped the run and what it ran on, and the hyper-parameters beside
    their final figures."""
    last = {name: value for line in lines[-1:] for name, value in line.items() if "_after_" in name}
    final = {name: value for name, value in last.items() if math.isfinite(value)}
    if final:
        log.hyperparameters(_settings(config), {f"final/{name}": value for name, value in final.items()})
    summary = {
        "iterations": state.iteration,
        "env_steps": state.env_steps,
        "training_minutes": _training_minutes(lines),
        "stopped": stopped,
        "peak_memory_mib": round(peak_memory()),
        "machine": machine(),
        "failed_updates": state.failures,
        "diverged_episodes": int(sum(each.get("train/diverged_episodes", 0.0) for each in lines)),
    }
    write_json(directory / "results.json", {"family": config.family_name, "preset": config.preset, **summary, **final})


@contextmanager
def stop_on_signals(console: Console) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second SIGINT stops at once.

    Yields:
        The signals that came; empty while nobody asked to stop.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        console.print("finishing this iteration, then saving; Ctrl-C again stops at once")

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Pictures:
    """What TensorBoard shows of held-out tasks, drawn so seldom that training is hardly slower for it."""

    def __init__(self, config: RunConfig, learner: Any, log: RunLog) -> None:
        self._config, self._learner, self._log = config, learner, log
        self._started, self._seconds = time.monotonic(), 0.0

    def draw(self, iteration: Iteration) -> None:
        """Draw if held-out tasks were looked at, unless drawing took more than its share of the time."""
        before = time.monotonic()
        last = iteration.state.iteration == self._config.train.iterations
        affordable = self._seconds <= _DRAWING * (before - self._started)
        if iteration.held_out is None or not (affordable or last):
            return
        drawn = kind_of_run(self._config).pictures(self._config, self._learner, iteration.state)
        for tag, pixels in drawn.items():
            self._log.image(tag, pixels, iteration.state.iteration)
        self._seconds += time.monotonic() - before


class _Rate(ProgressColumn):
    """Meta-iterations per minute."""

    def render(self, task: Task) -> Text:
        """The rate over the last iterations."""
        return Text(f"{60.0 * task.speed:.1f}/min" if task.speed else "-/min")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("meta-iteration"),
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Rate(),
        TextColumn("{task.fields[scores]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _main(scores: Scores) -> str:
    """The main score after 0..S steps."""
    return next((_arrows(name, rows) for name, rows in scores.items()), "")


def _arrows(name: str, rows: np.ndarray) -> str:
    factor, form = _FORMS.get(name, (1.0, "{:.3f}"))
    shown = [form.format(factor * mean_score(row)) for row in rows]
    if len(shown) > _MANY_STEPS:
        shown = [*shown[:2], "...", shown[-1]]
    return f"{name} " + " → ".join(shown)


def _say(iteration: Iteration, config: RunConfig, console: Console) -> None:
    """Without a terminal for the bar: a line whenever held-out tasks were looked at."""
    if iteration.held_out is None or console.is_terminal:
        return
    metrics = iteration.metrics
    diverged = metrics.get("train/diverged_episodes", 0.0)
    held_out = [_arrows(name, rows) for name, rows in iteration.held_out.items() if np.isfinite(rows).any()]
    parts = [
        f"iteration {iteration.state.iteration}/{config.train.iterations}: {_main(iteration.scores)}",
        "held-out " + ", ".join(held_out),
        *([f"KL {metrics['outer/kl_nats']:.4f}"] if "outer/kl_nats" in metrics else []),
        f"{metrics['time/iteration_s']:.3g} s",
        *([f"{diverged:.0f} episodes diverged"] if diverged else []),
    ]
    console.print(", ".join(parts), soft_wrap=True)


def _training_minutes(lines: Sequence[Metrics]) -> float:
    """A line tells the mean time of the iterations since the last one."""
    before = [0.0, *(line["iteration"] for line in lines)]
    times = zip(lines, before, strict=False)
    return sum(line["time/iteration_s"] * (line["iteration"] - since) for line, since in times) / 60.0


def _score(config: RunConfig, held_out: Scores | None) -> float:
    """What checkpoints compete by, higher is better: the main score of held-out tasks after adaptation."""
    if not held_out:
        return -math.inf
    score = mean_score(next(iter(held_out.values()))[-1])
    return -score if kind_of_run(config).lower_is_better(config) else score


def _best_so_far(config: RunConfig, directory: Path, state: TrainState) -> float:
    """The best such score up to ``state``."""
    kind = kind_of_run(config)
    lower, last = kind.lower_is_better(config), kind.steps(config.train)
    scores = [-math.inf]
    for line in read_metrics(directory):
        steps = [name for name in line if name.startswith("held_out/") and name.endswith(f"_{last}")]
        if line["iteration"] <= state.iteration and steps and math.isfinite(line[steps[0]]):
            scores.append(-line[steps[0]] if lower else line[steps[0]])
    return max(scores)


def _settings(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Every field of the configuration by its path, as TensorBoard takes it."""
    settings: dict[str, bool | int | float | str] = {"family": config.family_name, "preset": config.preset}

    def add(prefix: str, part: Any) -> None:
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            if dataclasses.is_dataclass(value):
                add(f"{prefix}{item.name}.", value)
            else:
                settings[f"{prefix}{item.name}"] = value if isinstance(value, bool | int | float | str) else str(value)

    add("", config.train)
    if dataclasses.is_dataclass(config.family):
        add("family.", config.family)
    return settings

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
from metarl.engine import Iteration, TrainState, initial_state, meta_train
from metarl.experiments.config import RunConfig, to_json
from metarl.experiments.runs import create_run, load_run, write_json
from metarl.logs import RunLog, read_metrics
from metarl.policies.base import Policy
from metarl.rollout.workers import WorkerPool
from metarl.types import Metrics


def start(config: RunConfig, directory: Path, console: Console) -> TrainState:
    """Train a new run in ``directory``.

    Raises:
        RunError: if the directory is taken.
    """
    policy, state = initial_state(config.family, config.train)
    create_run(directory, config)
    save_checkpoint(directory / "checkpoints", state, family=config.family_name, keep=config.keep_checkpoints)
    return train(config, policy, state, directory, console)


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
    return train(run.config, run.policy, run.state, directory, console)


def train(config: RunConfig, policy: Policy, state: TrainState, directory: Path, console: Console) -> TrainState:
    """Run the loop until the iterations or the minutes are used up, or a signal asks to stop."""
    deadline = time.monotonic() + 60.0 * config.minutes if config.minutes else math.inf
    adapted = f"held_out/return_after_{config.train.inner.steps}"
    best = _best_so_far(directory, state, adapted)
    with (
        WorkerPool(config.family, config.workers) as family,
        RunLog(directory, steps=config.train.inner.steps, start=state.iteration) as log,
        stop_on_signals(console) as asked,
        _progress(console) as progress,
    ):
        log.text("configuration", "```json\n" + to_json(config).decode() + "\n```")
        bar = progress.add_task("", total=config.train.iterations, completed=state.iteration, returns="")
        for iteration in meta_train(family, policy, config.train, state):
            state = iteration.state
            line = log.write(iteration)
            progress.update(bar, completed=state.iteration, returns=_returns(iteration.returns))
            _say(iteration, config, console)
            last = bool(asked) or time.monotonic() > deadline or state.iteration == config.train.iterations
            score = line.get(adapted, -math.inf)
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
        if lines := read_metrics(directory):
            finish(config, state, lines, directory, log)
    if state.failures:
        console.print(f"{state.failures} updates were refused and left the parameters as they were", soft_wrap=True)
    if asked:
        console.print(f"stopped as asked; go on with: metarl train --resume {directory}", soft_wrap=True)
    return state


def finish(config: RunConfig, state: TrainState, lines: Sequence[Metrics], directory: Path, log: RunLog) -> None:
    """Write ``results.json`` and the hyper-parameters beside their final figures."""
    kinds = ("return_after", "success_after")
    last = {name: value for name, value in lines[-1].items() if any(kind in name for kind in kinds)}
    final = {name: value for name, value in last.items() if math.isfinite(value)}
    log.hyperparameters(_settings(config), {f"final/{name}": value for name, value in final.items()})
    summary = {
        "iterations": state.iteration,
        "env_steps": state.env_steps,
        "training_minutes": sum(each["time/iteration_s"] for each in lines) / 60.0,
        "failed_updates": state.failures,
        "diverged_episodes": int(sum(each["train/diverged_episodes"] for each in lines)),
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
        TextColumn("{task.fields[returns]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _returns(returns: np.ndarray) -> str:
    shown = [f"{np.nanmean(row):.1f}" if np.isfinite(row).any() else "nan" for row in returns]
    return "return " + " → ".join(shown)


def _success(iteration: Iteration) -> str:
    """Of the held-out tasks, where the environments tell it."""
    success = iteration.held_out_success
    if success is None or not np.isfinite(success).any():
        return ""
    return ", success " + " → ".join(f"{100.0 * np.nanmean(row):.0f} %" for row in success)


def _say(iteration: Iteration, config: RunConfig, console: Console) -> None:
    """Without a terminal for the bar: a line whenever held-out tasks were evaluated."""
    if iteration.held_out is None or console.is_terminal:
        return
    metrics = iteration.metrics
    diverged = metrics["train/diverged_episodes"]
    console.print(
        f"iteration {iteration.state.iteration}/{config.train.iterations}: {_returns(iteration.returns)}, "
        f"held-out {_returns(iteration.held_out)}{_success(iteration)}, KL {metrics['outer/kl_nats']:.4f}, "
        f"{metrics['time/iteration_s']:.2f} s{f', {diverged:.0f} episodes diverged' if diverged else ''}",
        soft_wrap=True,
    )


def _best_so_far(directory: Path, state: TrainState, score: str) -> float:
    """The highest held-out return after adaptation up to ``state``."""
    scores = [line[score] for line in read_metrics(directory) if line["iteration"] <= state.iteration and score in line]
    return max((each for each in scores if math.isfinite(each)), default=-math.inf)


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

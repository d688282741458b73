"""Runs on disk: ``config.json``, ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/`` and what is made of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from metarl.checkpoints import BEST, load_checkpoint, load_newest, write_atomically
from metarl.engine import TrainState
from metarl.experiments.config import ConfigError, RunConfig, from_json, to_json
from metarl.experiments.kinds import kind_of_run
from metarl.logs import read_metrics as read_log
from metarl.tasks import UnknownTaskFamily
from metarl.types import Metrics

CONFIG = "config.json"


class RunError(RuntimeError):
    """A directory is not a run that can be used."""


class Run(NamedTuple):
    """A run that was loaded."""

    directory: Path
    config: RunConfig
    learner: Any
    """What learns: a policy, or a few-shot learner."""
    state: TrainState
    complaints: list[str]
    """Checkpoints that were passed over because they could not be read."""


def create_run(directory: Path, config: RunConfig) -> None:
    """Start a run's folder.

    Raises:
        RunError: if something is there already.
    """
    if directory.exists() and any(directory.iterdir()):
        raise RunError(
            f"{directory} exists; continue it with 'metarl train --resume {directory}', or give another --name"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / CONFIG, to_json(config))


def load_config(directory: Path) -> RunConfig:
    """The configuration of a run.

    Raises:
        RunError: saying what is missing or wrong.
    """
    path = directory / CONFIG
    if not path.is_file():
        there = "there is no such directory" if not directory.exists() else f"it has no {CONFIG}"
        raise RunError(f"{directory} is not a run: {there}. 'metarl train' makes runs under runs/")
    try:
        return from_json(path.read_bytes(), path)
    except (ConfigError, UnknownTaskFamily, OSError) as error:
        raise RunError(str(error)) from error


def load_run(directory: Path, checkpoint: str = "newest", *, device: str | None = None) -> Run:
    """Load a run's configuration and a checkpoint.

    Args:
        directory: the run's folder.
        checkpoint: ``newest``, or ``best`` for the one with the highest held-out return after adaptation.
        device: where to load it to; where it was trained if left out.

    Raises:
        RunError: if the directory is not a run, was written by another version, or has no best checkpoint yet.
        CheckpointError: if no checkpoint can be read.
    """
    config = load_config(directory)
    if device is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, device=device))
    learner, like = kind_of_run(config).prepare(config)
    folder = directory / "checkpoints"
    if checkpoint == "best":
        _check_best(directory, config)
        return Run(directory, config, learner, load_checkpoint(folder / BEST, like, family=config.family_name), [])
    state, complaints = load_newest(folder, like, family=config.family_name)
    return Run(directory, config, learner, state, complaints)


def _check_best(directory: Path, config: RunConfig) -> None:
    """That a run has a best checkpoint.

    Raises:
        RunError: saying when it will have one, if ever.
    """
    if (directory / "checkpoints" / BEST).is_file():
        return
    every, iterations = config.train.held_out_every, config.train.iterations
    if every and iterations:
        why = f"yet: the first is kept once held-out tasks were judged, every {every} of its {iterations} iterations"
    else:
        why = f"and will have none: it judges no held-out tasks (held_out_every {every}, {iterations} iterations)"
    raise RunError(f"{directory} has no best checkpoint {why}; use --checkpoint newest")


def read_metrics(directory: Path) -> list[Metrics]:
    """What each meta-iteration logged.

    Raises:
        RunError: if the directory is not a run, or has logged nothing though it trains.
    """
    config = load_config(directory)
    lines = read_log(directory)
    if not lines and config.train.iterations:
        raise RunError(f"{directory} has logged no iteration yet")
    return lines


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a readable JSON document, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what ``write_json`` wrote.

    Raises:
        RunError: if it is missing or not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content

"""The configuration of a run, and how it stands on disk."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from metarl.algorithms import UnknownAlgorithm
from metarl.experiments.kinds import kind_of
from metarl.rollout.workers import WorkerConfig
from metarl.tasks import UnknownTaskFamily, family_factory

FORMAT = 1
"""Version of config.json."""


class ConfigError(ValueError):
    """A configuration file does not describe a run."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: a task family, how to meta-train on it, and what to keep."""

    family_name: str
    """Registered name of the task family."""
    preset: str
    """The preset that the run started from."""
    family: Any
    """The task family."""
    train: Any
    """The algorithm's settings, of the class that the family's kind has."""
    minutes: float | None = None
    """Stop after this much training time even if iterations are left."""
    checkpoint_every: int = 10
    """Meta-iterations between checkpoints."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep; the best is kept besides."""
    workers: WorkerConfig = field(default_factory=WorkerConfig)
    """Processes that step families without a vector form."""
    plugins: tuple[str, ...] = ()
    """What ``--plugin`` named when the run began: a reminder, never loaded from here."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0.0:
            raise ValueError(f"minutes must be positive, got {self.minutes}; leave it out to train for all iterations")


def to_json(config: RunConfig) -> bytes:
    """The configuration as a readable JSON document.

    Raises:
        ConfigError: if the family has an option that JSON cannot hold.
    """
    family = config.family
    own = dataclasses.fields(family) if dataclasses.is_dataclass(family) else ()
    options = {item.name: getattr(family, item.name) for item in own if item.init}
    fields = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    try:
        content = msgspec.json.encode({"format": FORMAT, **fields, "family": options})
    except TypeError as error:
        raise ConfigError(
            f"the options of {config.family_name} cannot be written to a run's configuration ({error}); make each a "
            "number, a text, a list or dict of those, or a dataclass"
        ) from error
    return msgspec.json.format(content, indent=2) + b"\n"


def from_json(content: bytes, source: Path) -> RunConfig:
    """Read what ``to_json`` wrote.

    Args:
        content: the document.
        source: where it came from, for messages.

    Raises:
        ConfigError: naming the field that is missing, unknown or impossible.
        UnknownTaskFamily: if the family is not registered.
    """
    try:
        raw = msgspec.json.decode(content)
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise ConfigError(f"{source} is not a run configuration of format {FORMAT}; was it written by metarl?")
        _refuse_unknown(raw, RunConfig, source)
        config = msgspec.convert(raw, RunConfig)
        factory = _factory(config)
        kind = kind_of(factory, config.train.get("algorithm") if isinstance(config.train, dict) else None)
        _refuse_unknown(config.train, kind.settings, source)
        config = dataclasses.replace(config, train=kind.recorded(msgspec.convert(config.train, kind.settings)))
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            _refuse_unknown(config.family, factory, source)
            return dataclasses.replace(config, family=msgspec.convert(config.family, factory))
        return dataclasses.replace(config, family=factory())
    except (msgspec.DecodeError, RecursionError, TypeError, ValueError, UnknownAlgorithm) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{source}: {error}") from error


def _factory(config: RunConfig) -> Any:
    try:
        return family_factory(config.family_name)
    except UnknownTaskFamily as error:
        flags = " ".join(f"--plugin {plugin}" for plugin in config.plugins)
        hint = f"; the run was begun with {flags}: give that again" if flags else ""
        raise UnknownTaskFamily(f"{error}{hint}") from error


def _refuse_unknown(given: Any, kind: Any, source: Path) -> None:
    """Raise for keys that the dataclass ``kind``, or one inside it, does not have."""
    if not isinstance(given, dict):
        return
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(given) - set(hints))
    if unknown:
        raise ConfigError(f"{source}: {kind.__name__} has no field {', '.join(unknown)} in this version of metarl")
    for name, value in given.items():
        if dataclasses.is_dataclass(hints[name]):
            _refuse_unknown(value, hints[name], source)

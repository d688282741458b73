"""Checkpoints: one safetensors file each, so that a save is whole or absent and loading runs no code."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Set
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from metarl.engine import TrainState
from metarl.types import Meta, Params

FORMAT = "metarl-checkpoint-1"
BEST = "best.safetensors"
_NAME = re.compile(r"iteration_(\d{8})\.safetensors")
_COUNTERS = [name for name in TrainState._fields if name not in ("meta", "optimizer")]
_HEADER_LIMIT = 1 << 20
"""Bytes that a file may hold beyond its tensors."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or made for something else."""


def save_checkpoint(directory: Path, state: TrainState, *, family: str, keep: int, best: bool = False) -> Path:
    """Write ``state`` and drop all but the newest ``keep`` checkpoints and the best.

    The file appears under its name only once it is on the disk; a full disk or a killed process leaves the earlier
    checkpoints as they were.

    Args:
        directory: the run's ``checkpoints`` folder.
        state: what to save.
        family: the task family's name, checked on loading.
        keep: how many to keep, at least 1.
        best: also keep this one as the best so far.

    Raises:
        CheckpointError: if the disk did not take it.
    """
    counters = {name: value for name, value in state._asdict().items() if name in _COUNTERS}
    metadata = {"format": FORMAT, "family": family, "state": json.dumps(counters)}
    tensors = _flatten(state)
    content = to_bytes({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)
    path = directory / f"iteration_{state.iteration:08d}.safetensors"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    if best:
        write_atomically(directory / BEST, content)
    for old in checkpoint_files(directory)[keep:]:
        old.unlink(missing_ok=True)
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole under its name or not there; the former version stays until then.

    Raises:
        CheckpointError: if the disk did not take it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not save {path} ({error}); earlier checkpoints are untouched: free some space and resume the run"
        ) from error


def checkpoint_files(directory: Path) -> list[Path]:
    """Saved iterations, newest first; without the best."""
    return sorted((path for path in directory.glob("*.safetensors") if _NAME.fullmatch(path.name)), reverse=True)


def load_newest(directory: Path, like: TrainState, *, family: str) -> tuple[TrainState, list[str]]:
    """The newest checkpoint that can be read, and why newer ones could not.

    Raises:
        CheckpointError: if there is none, or the newest one was made for something else.
    """
    complaints: list[str] = []
    for path in checkpoint_files(directory):
        try:
            return load_checkpoint(path, like, family=family), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    found = "; ".join(complaints) or "it holds no file named iteration_XXXXXXXX.safetensors"
    raise CheckpointError(f"no checkpoint in {directory} can be read: {found}")


def load_checkpoint(path: Path, like: TrainState, *, family: str) -> TrainState:
    """Read one checkpoint.

    Args:
        path: the file.
        like: a state with the names, shapes and types to expect, on the device to load to.
        family: the task family's name.

    Raises:
        CheckpointError: naming what is wrong with the file.
    """
    expected = _flatten(like)
    limit = sum(value.nbytes for value in expected.values()) + _HEADER_LIMIT
    try:
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{path} has {size} bytes, but this run's checkpoints have at most {limit}")
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            _check_origin(path, metadata, family)
            found = set(file.keys())
            if found != set(expected):
                raise CheckpointError(
                    f"{path} holds other tensors than expected (missing: {_some(set(expected) - found)}; besides: "
                    f"{_some(found - set(expected))}); it was made by another algorithm, policy or network than the "
                    "run's config.json describes"
                )
            loaded = {name: file.get_tensor(name) for name in expected}
        counters = _counters(path, metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error})") from error
    for name, value in loaded.items():
        want = expected[name]
        if value.shape != want.shape or value.dtype != want.dtype:
            raise CheckpointError(
                f"{path}: {name} must be {want.dtype} {tuple(want.shape)}, got {value.dtype} {tuple(value.shape)}; "
                "the run's config.json describes another policy or task family"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    on_device = {name: value.to(expected[name].device) for name, value in loaded.items()}
    meta, optimizer = _unflatten(on_device)
    return TrainState(meta, optimizer, **counters)


def _some(names: Set[str]) -> str:
    shown = sorted(names)
    return ", ".join([*shown[:4], *([f"{len(shown) - 4} more"] if len(shown) > 4 else [])]) or "none"


def _check_origin(path: Path, metadata: Mapping[str, str], family: str) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}; "
            "load it with the version of metarl that wrote it"
        )
    if metadata.get("family") != family:
        raise CheckpointError(f"{path} was trained on {metadata.get('family')!r}, but the run is of {family!r}")


def _counters(path: Path, metadata: Mapping[str, str]) -> dict[str, int]:
    try:
        counters = json.loads(metadata.get("state", ""))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its state is not JSON ({error})") from error
    whole = isinstance(counters, dict) and all(
        type(counters.get(name)) is int and 0 <= counters[name] < math.inf for name in _COUNTERS
    )
    if not whole:
        raise CheckpointError(
            f"{path}: its state must give whole numbers for {', '.join(_COUNTERS)}, got {counters!r:.200}"
        )
    return {name: counters[name] for name in _COUNTERS}


def _flatten(state: TrainState) -> Params:
    parts = {**state.meta._asdict(), "optimizer": state.optimizer}
    return {f"{part}/{name}": value for part, params in parts.items() for name, value in params.items()}


def _unflatten(tensors: Params) -> tuple[Meta, Params]:
    def part(prefix: str) -> Params:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    meta = Meta(*(part(f"{name}/") for name in Meta._fields))
    return meta, part("optimizer/")

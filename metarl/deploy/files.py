"""Adapted policies on disk: a folder with ``policy.safetensors`` and ``policy.json``, and loading runs no code."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from metarl.deploy.descriptions import SpaceDescription, build_space, describe_space
from metarl.deploy.policy import AdaptedPolicy, Origin
from metarl.deploy.spaces import Spaces
from metarl.policies.base import Policy, PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.policies.make import make_policy
from metarl.rollout.normalizer import Scaler
from metarl.spaces import AnySpace, Choices, action_kind
from metarl.types import Params

FORMAT = "metarl-policy-1"
TENSORS, DESCRIPTION = "policy.safetensors", "policy.json"
_SMALL_TABLE = 1 << 16
"""Numbers of a table of choices and options that are always allowed."""
_MOST_BYTES = {TENSORS: 1 << 28, DESCRIPTION: 1 << 22}
"""Sizes of the files that are never exceeded, so that reading is bounded."""


class PolicyFileError(RuntimeError):
    """A folder does not hold an adapted policy, or cannot take one."""


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``policy.json``."""

    format: str
    kind: Literal["gaussian", "categorical"]
    """Real actions, or choices."""
    observation_size: int
    action_size: int
    config: PolicyConfig
    normalized: bool
    """Whether observations are scaled by ``observations/mean`` and ``observations/deviation``."""
    observation_space: SpaceDescription
    action_space: SpaceDescription
    origin: Origin
    sha256: str
    """Of ``policy.safetensors``, so that files of two policies are never taken for one."""


def check_free(directory: Path) -> None:
    """Raise PolicyFileError unless a policy can be saved as ``directory``."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise PolicyFileError(f"{directory} exists; an adapted policy needs a folder of its own: give another name")


def save_policy(policy: AdaptedPolicy, directory: str | Path) -> Path:
    """Write a policy as a new folder, which is whole under its name or not there.

    Args:
        policy: what to save.
        directory: the folder; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        PolicyFileError: if something is there already, the disk did not take it, or it is too large to be loaded.
        UnsupportedSpace: if a space cannot be written as JSON.
    """
    directory = Path(directory)
    check_free(directory)
    tensors = to_bytes({name: value.detach().cpu().contiguous() for name, value in _tensors(policy).items()})
    contents = {TENSORS: tensors, DESCRIPTION: _describe(policy, tensors)}
    for name, content in contents.items():
        if len(content) > _MOST_BYTES[name]:
            raise PolicyFileError(f"{name} may have at most {_MOST_BYTES[name]} bytes, got {len(content)}")
    temporary = directory.absolute().with_name(f".{directory.absolute().name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in contents.items():
            _write(temporary / name, content)
        _sync(temporary)
        temporary.rename(directory)
    except OSError as error:
        raise PolicyFileError(f"could not save {directory} ({error}); nothing was left there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError):  # the policy is there, and whole; a power cut might still undo the renaming
        _sync(directory.parent)
    return directory


def check_choices(actions: AnySpace, most: int) -> None:
    """That the table of choices and options, which a policy lays out, is no larger than its tensors.

    Raises:
        ValueError: if it is.
    """
    kind = action_kind(actions)
    if isinstance(kind, Choices) and len(kind.sizes) * max(kind.sizes) > max(most, _SMALL_TABLE):
        raise ValueError(
            f"its {len(kind.sizes)} choices of up to {max(kind.sizes)} options would take a table of more numbers than "
            "its weights have"
        )


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tensors(policy: AdaptedPolicy) -> Params:
    """Without the task axis."""
    found = {f"parameters/{name}": value[0] for name, value in policy.phi.items()}
    if policy.scaler is not None:
        found |= {f"observations/{name}": torch.tensor(value) for name, value in policy.scaler._asdict().items()}
    return found


def _describe(policy: AdaptedPolicy, tensors: bytes) -> bytes:
    document = _Document(
        format=FORMAT,
        kind=_kind(policy.policy),
        observation_size=policy.policy.observation_size,
        action_size=policy.policy.action_size,
        config=policy.policy.config,
        normalized=policy.scaler is not None,
        observation_space=describe_space(policy.observation_space),
        action_space=describe_space(policy.action_space),
        origin=policy.origin,
        sha256=hashlib.sha256(tensors).hexdigest(),
    )
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _kind(policy: Policy) -> Literal["gaussian", "categorical"]:
    return "gaussian" if isinstance(policy, GaussianPolicy) else "categorical"


def load_policy(directory: str | Path, *, seed: int | None = None) -> AdaptedPolicy:
    """Read what ``save_policy`` or ``metarl adapt`` wrote.

    Args:
        directory: the folder.
        seed: of the actions that the policy samples; None draws one.

    Returns:
        The policy; its deterministic actions are those of the policy that was saved, bit for bit.

    Raises:
        PolicyFileError: naming what is missing, damaged or impossible.
    """
    directory = Path(directory)
    description, content = _read(directory / DESCRIPTION), _read(directory / TENSORS)
    document = _parse(directory / DESCRIPTION, description)
    if hashlib.sha256(content).hexdigest() != document.sha256:
        raise PolicyFileError(
            f"{directory / TENSORS} is damaged or cut short, or belongs to another policy than the {DESCRIPTION} "
            "beside it; copy both files again"
        )
    try:
        spaces = Spaces(
            *(build_space(each, len(content) // 4) for each in (document.observation_space, document.action_space))
        )
        check_choices(spaces.actions, len(content) // 4)
        policy = make_policy(*spaces, document.config)
    except (ValueError, TypeError, RecursionError) as error:
        raise PolicyFileError(f"{directory / DESCRIPTION}: {error}") from error
    described = (document.kind, document.observation_size, document.action_size)
    made = (_kind(policy), policy.observation_size, policy.action_size)
    if described != made:
        raise PolicyFileError(
            f"{directory / DESCRIPTION}: kind, observation_size and action_size must be {made}, as its spaces are, got "
            f"{described}"
        )
    loaded = _load_tensors(directory / TENSORS, content)
    _check_tensors(directory / TENSORS, loaded, policy, spaces, document.normalized)
    phi = {name.removeprefix("parameters/"): value[None] for name, value in loaded.items() if name[0] == "p"}
    scaler = None
    if document.normalized:
        scaler = Scaler(loaded["observations/mean"].numpy(), loaded["observations/deviation"].numpy())
        if not (scaler.deviation > 0.0).all():
            raise PolicyFileError(f"{directory / TENSORS}: observations/deviation must be positive")
    return AdaptedPolicy(policy, phi, scaler, spaces, document.origin, seed)


def _read(path: Path) -> bytes:
    if not path.is_file():
        found = "there is no such folder" if not path.parent.exists() else f"it has no {path.name}"
        raise PolicyFileError(
            f"{path.parent} is not an adapted policy: {found}; 'metarl adapt RUN_DIR --output FOLDER' makes one of "
            "a run"
        )
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES[path.name]:
            raise PolicyFileError(f"{path} may have at most {_MOST_BYTES[path.name]} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise PolicyFileError(f"{path} cannot be read ({error})") from error


def _parse(path: Path, content: bytes) -> _Document:
    """The document, or PolicyFileError."""
    try:
        raw: Any = msgspec.json.decode(content)
        found = raw.get("format") if isinstance(raw, dict) else None
        if found != FORMAT:
            raise PolicyFileError(
                f"{path} has format {str(found)[:80]!r}, this version reads {FORMAT!r}; load it with the version of "
                "metarl that wrote it"
            )
        document = msgspec.convert(raw, _Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyFileError(f"{path} does not describe a policy ({error})") from error
    unknown = sorted(set(raw["config"]) - {item.name for item in fields(PolicyConfig)})
    if unknown:  # it would change what the policy does
        raise PolicyFileError(
            f"{path}: a policy has no setting {', '.join(unknown)[:200]} in this version of metarl; load it with the "
            "version that wrote it"
        )
    return document


def _load_tensors(path: Path, content: bytes) -> Params:
    try:
        return from_bytes(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise PolicyFileError(f"{path} is not a file of tensors ({error})") from error


def _check_tensors(path: Path, loaded: Params, policy: Policy, spaces: Spaces, normalized: bool) -> None:
    """Raise PolicyFileError unless they are those of the policy."""
    few = len(loaded) <= len(policy.config.hidden)  # then names of layers without number are never made
    expected = {} if few else _expected(policy, spaces, normalized)
    if set(loaded) != set(expected):
        wrong = ", ".join(sorted(set(loaded) ^ set(expected)))
        raise PolicyFileError(
            f"{path} must hold the tensors that {DESCRIPTION} describes; missing or besides: {wrong:.200}"
        )
    for name, (shape, dtype) in expected.items():
        value = loaded[name]
        if tuple(value.shape) != shape or value.dtype != dtype:
            raise PolicyFileError(f"{path}: {name} must be {dtype} {shape}, got {value.dtype} {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise PolicyFileError(f"{path}: {name} holds numbers that are not finite")


def _expected(policy: Policy, spaces: Spaces, normalized: bool) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor."""
    kind = action_kind(spaces.actions)
    outputs = sum(kind.sizes) if isinstance(kind, Choices) else kind.number
    shapes: dict[str, tuple[int, ...]] = {} if isinstance(kind, Choices) else {"log_std": (outputs,)}
    for layer, (before, after) in enumerate(
        itertools.pairwise((policy.observation_size, *policy.config.hidden, outputs))
    ):
        shapes |= {f"weight_{layer}": (before, after), f"bias_{layer}": (after,)}
    expected = {f"parameters/{name}": (shape, torch.float32) for name, shape in shapes.items()}
    if normalized:
        for name in Scaler._fields:
            expected[f"observations/{name}"] = ((policy.observation_size,), torch.float64)
    return expected

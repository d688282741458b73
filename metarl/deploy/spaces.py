"""The spaces that a policy fits: whether an environment has them, and one observation as the row a policy sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, flatten

from metarl.spaces import AnySpace, Bounds

_KINDS = (Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple)


class SpaceMismatch(ValueError):
    """An environment's spaces are not those that a policy was made for."""


class Spaces(NamedTuple):
    """What an environment shows and takes."""

    observations: AnySpace
    actions: AnySpace


def check_spaces(expected: Spaces, got: Spaces, *, bounds: Bounds, environment: str, trained: str) -> None:
    """Hold an environment's spaces to those that a policy was meta-trained on.

    What has to be equal is all that a policy makes something of: the kinds of space and their order, shapes, numbers of
    options and the first of them, whole numbers or reals; and the bounds of actions that are stretched onto them. The
    bounds of observations, and of actions that are merely cut off at them, may differ.

    Args:
        expected: of the environments that meta-training ran in.
        got: of the new environment.
        bounds: how the policy's actions get into a Box.
        environment: what to call the new environment.
        trained: what to call the environments of meta-training.

    Raises:
        SpaceMismatch: naming both, and the part that differs.
    """
    for what, one, other, stretched in (
        ("observation_space", expected.observations, got.observations, False),
        ("action_space", expected.actions, got.actions, bounds == "rescale"),
    ):
        reason = _difference(one, other, what, stretched)
        if reason is not None:
            raise SpaceMismatch(
                f"the {what} of {environment} must be that of {trained}: {reason} ({_shown(one)} in meta-training, "
                f"got {_shown(other)}); wrap the environment so that it has the same, or take an initialization that "
                "was meta-trained on such environments"
            )


def _shown(space: AnySpace) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _difference(expected: AnySpace, got: AnySpace, where: str, stretched: bool) -> str | None:
    """What differs in a way that matters to a policy, or None."""
    kind = next((kind for kind in _KINDS if isinstance(expected, kind)), type(expected))
    if not isinstance(got, kind):
        return f"{where} must be a {kind.__name__}, got {_shown(got)}"
    if isinstance(expected, Dict | Tuple):
        return _difference_of_parts(expected, got, where, stretched)
    for name, one, other in zip(_facts(expected), _facts(expected).values(), _facts(got).values(), strict=True):
        if one != other:
            return f"{where} must have {name} {one}, got {other}"
    if stretched and isinstance(expected, Box) and isinstance(got, Box):
        for name, low, other_low in (("low", expected.low, got.low), ("high", expected.high, got.high)):
            if not np.allclose(low, other_low):
                return (
                    f"{where} must have the bound {name} = {_brief(low)}, onto which actions are stretched, "
                    f"got {_brief(other_low)}"
                )
    return None


def _brief(bound: np.ndarray) -> str:
    return np.array2string(bound.reshape(-1), threshold=8, edgeitems=3, precision=4)


def _difference_of_parts(expected: AnySpace, got: AnySpace, where: str, stretched: bool) -> str | None:
    one, other = _parts(expected), _parts(got)
    if [name for name, _ in one] != [name for name, _ in other]:
        names, found = (", ".join(repr(name) for name, _ in parts) or "none" for parts in (one, other))
        return f"{where} must have the parts {names} in this order, got {found}"
    pairs = zip(one, other, strict=True)
    found_differences = (_difference(a, b, f"{where}[{name!r}]", stretched) for (name, a), (_, b) in pairs)
    return next((reason for reason in found_differences if reason is not None), None)


def _parts(space: AnySpace) -> list[tuple[Any, AnySpace]]:
    if isinstance(space, Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces)) if isinstance(space, Tuple) else []


def _facts(space: AnySpace) -> dict[str, object]:
    """Everything that decides what the numbers of a row mean."""
    if isinstance(space, Box):
        numbers = "real" if np.issubdtype(space.dtype, np.floating) else "whole"
        return {"shape": space.shape, "numbers that are": numbers}
    if isinstance(space, Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        return {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
    return {"shape": space.shape}


def observation_row(space: AnySpace, observation: Any, where: str = "observation") -> np.ndarray:
    """One observation as the row ``[O]`` that rollouts would hold.

    Args:
        space: of the observations.
        observation: as ``reset`` and ``step`` of a Gymnasium environment return it.
        where: what to call it in messages.

    Raises:
        ValueError: naming the part that is not what the space says.
    """
    if isinstance(space, Box):
        values = np.asarray(observation, dtype=space.dtype)
        if values.shape != space.shape:
            raise ValueError(f"{where} must have the shape {space.shape} of its space, got {values.shape}")
        return values.reshape(-1)
    if isinstance(space, Dict | Tuple):
        return np.concatenate(
            [observation_row(part, value, name) for name, part, value in _matched(space, observation, where)]
        )
    if not space.contains(observation):
        raise ValueError(f"{where} must be in {space}, got {str(observation)[:200]}")
    return np.asarray(flatten(space, observation))


def _matched(space: Dict | Tuple[Any], observation: Any, where: str) -> list[tuple[str, AnySpace, Any]]:
    """Name, space and value of every part."""
    parts = _parts(space)
    if isinstance(space, Dict):
        fits = isinstance(observation, Mapping) and all(name in observation for name, _ in parts)
        got: Any = list(observation) if isinstance(observation, Mapping) else type(observation).__name__
    else:
        fits = isinstance(observation, Sequence) and len(observation) == len(parts)
        got = f"{len(observation)} parts" if isinstance(observation, Sequence) else type(observation).__name__
    if not fits:
        form = "a dict with" if isinstance(space, Dict) else "a tuple with the parts"
        raise ValueError(f"{where} must be {form} {', '.join(repr(name) for name, _ in parts)}, got {got}")
    return [(f"{where}[{name!r}]", part, observation[name]) for name, part in parts]

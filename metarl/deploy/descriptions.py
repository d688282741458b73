"""Spaces as JSON and back, without trusting what is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from metarl.spaces import AnySpace, UnsupportedSpace

_Real = Literal["float16", "float32", "float64"]
_Whole = Literal["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
_Bound = int | float | None | list[int | float | None]
"""One number for all coordinates or one for each, in row-major order; None where there is no bound."""

_MOST_AXES, _LARGEST_AXIS = 32, 1 << 62
"""Of a shape: what numpy can make, and more than a file of weights could go with."""


class BoxDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="space", tag="Box"):
    """A Box."""

    shape: tuple[int, ...]
    dtype: _Real | _Whole
    low: _Bound
    high: _Bound


class DiscreteDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="space", tag="Discrete"):
    """A Discrete."""

    n: int
    start: int
    dtype: _Whole


class MultiDiscreteDescription(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="space", tag="MultiDiscrete"
):
    """A MultiDiscrete."""

    shape: tuple[int, ...]
    nvec: tuple[int, ...]
    """In row-major order."""
    start: tuple[int, ...]
    dtype: _Whole


class MultiBinaryDescription(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="space", tag="MultiBinary"
):
    """A MultiBinary."""

    shape: tuple[int, ...]


class DictDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="space", tag="Dict"):
    """A Dict."""

    parts: list[tuple[str, SpaceDescription]]
    """In the order in which they are flattened."""


class TupleDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="space", tag="Tuple"):
    """A Tuple."""

    parts: list[SpaceDescription]


SpaceDescription = (
    BoxDescription
    | DiscreteDescription
    | MultiDiscreteDescription
    | MultiBinaryDescription
    | DictDescription
    | TupleDescription
)


def describe_space(space: AnySpace) -> SpaceDescription:
    """What ``build_space`` makes the same space of.

    Raises:
        UnsupportedSpace: if JSON cannot hold it.
    """
    dtype: Any = str(space.dtype)
    if isinstance(space, Box | Discrete | MultiDiscrete) and dtype not in (*get_args(_Real), *get_args(_Whole)):
        raise UnsupportedSpace(f"a saved space must be of a usual type such as float32 or int64, got {space}")
    if isinstance(space, Box):
        return BoxDescription(space.shape, dtype, _bound(space.low), _bound(space.high))
    if isinstance(space, Discrete):
        return DiscreteDescription(int(space.n), int(space.start), dtype)
    if isinstance(space, MultiDiscrete):
        return MultiDiscreteDescription(
            space.shape, tuple(space.nvec.ravel().tolist()), tuple(space.start.ravel().tolist()), dtype
        )
    if isinstance(space, MultiBinary):
        return MultiBinaryDescription(space.shape)
    if isinstance(space, Dict):
        if not all(isinstance(name, str) for name in space.spaces):
            raise UnsupportedSpace(f"the names in a Dict must be texts to be saved, got {list(space.spaces)}")
        return DictDescription([(name, describe_space(part)) for name, part in space.spaces.items()])
    if isinstance(space, Tuple):
        return TupleDescription([describe_space(part) for part in space.spaces])
    raise UnsupportedSpace(f"a saved space must be one that a policy can have, got {space}")


def _bound(values: np.ndarray) -> _Bound:
    numbers = [value if math.isfinite(value) else None for value in (values + 0).ravel().tolist()]
    return numbers[0] if numbers and all(value == numbers[0] for value in numbers) else numbers


def build_space(description: SpaceDescription, most: int) -> AnySpace:
    """The space that was described.

    Args:
        description: not trusted.
        most: flattened numbers that it may have, so that nothing larger is ever allocated.

    Raises:
        ValueError: if it has more, or is no space.
    """
    try:
        return _build(description, most)[0]
    except (AssertionError, TypeError, OverflowError) as error:  # Gymnasium's and numpy's own complaints
        raise ValueError(str(error)) from error


def _build(description: SpaceDescription, most: int) -> tuple[AnySpace, int]:
    """The space, and how many numbers are left of ``most``."""
    if isinstance(description, DictDescription | TupleDescription):
        parts = description.parts
        built: list[AnySpace] = []
        for part in parts:
            space, most = _build(part[1] if isinstance(part, tuple) else part, most)
            built.append(space)
        if isinstance(description, TupleDescription):
            return Tuple(built), most
        names = [part[0] for part in description.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"the names in a Dict must differ, got {names!r:.200}")
        return Dict(list(zip(names, built, strict=True))), most
    size = _size(description)
    if size > most:
        raise ValueError(f"its spaces hold more numbers than its weights can take: {size} in {str(description)[:200]}")
    return _leaf(description), most - size


def _size(
    description: BoxDescription | DiscreteDescription | MultiDiscreteDescription | MultiBinaryDescription,
) -> int:
    """Numbers once flattened, at least 1."""
    if isinstance(description, DiscreteDescription):
        sizes: tuple[int, ...] = (description.n,)
    elif isinstance(description, MultiDiscreteDescription):
        sizes = description.nvec
        expected = _product(description.shape)
        if min(description.shape, default=1) < 1 or not len(sizes) == len(description.start) == expected:
            raise ValueError(
                f"nvec and start must have {expected} numbers each, got {len(sizes)} and {len(description.start)}"
            )
    else:
        sizes = description.shape
    if min(sizes, default=1) < 1:
        raise ValueError(f"the sizes of a space must be at least 1, got {str(description)[:200]}")
    return sum(sizes) if isinstance(description, MultiDiscreteDescription) else _product(sizes)


def _product(shape: Sequence[int]) -> int:
    """Of a few numbers that are no larger than a file, so that multiplying takes no time.

    Raises:
        ValueError: if there are more, or larger ones.
    """
    if len(shape) > _MOST_AXES or max(shape, default=1) > _LARGEST_AXIS:
        raise ValueError(
            f"a shape must have at most {_MOST_AXES} axes of at most {_LARGEST_AXIS}, got {len(shape)} axes: "
            f"{str(shape[:4])[:100]}"
        )
    return math.prod(shape)


def _leaf(
    description: BoxDescription | DiscreteDescription | MultiDiscreteDescription | MultiBinaryDescription,
) -> AnySpace:
    if isinstance(description, BoxDescription):
        return _box(description)
    if isinstance(description, MultiBinaryDescription):
        shape = description.shape
        return MultiBinary(shape[0] if len(shape) == 1 else list(shape))
    dtype = np.dtype(description.dtype)
    if isinstance(description, DiscreteDescription):
        other: Any = {} if dtype == np.int64 else {"dtype": dtype.type}  # Gymnasium before 1.3 knows no other
        return Discrete(description.n, start=description.start, **other)
    nvec, start = (np.array(each, dtype).reshape(description.shape) for each in (description.nvec, description.start))
    return MultiDiscrete(nvec, dtype=dtype.type, start=start)


def _box(description: BoxDescription) -> AnySpace:
    dtype, shape = np.dtype(description.dtype), description.shape
    low, high = _filled(description.low, shape, dtype, -math.inf), _filled(description.high, shape, dtype, math.inf)
    if not (low <= high).all():
        raise ValueError(f"the low of a Box must not be above its high, got {str(description)[:200]}")
    return Box(low, high, shape, dtype.type)


def _filled(bound: _Bound, shape: tuple[int, ...], dtype: np.dtype[Any], missing: float) -> np.ndarray:
    values = bound if isinstance(bound, list) else [bound]
    if isinstance(bound, list) and len(bound) != math.prod(shape):
        raise ValueError(f"a bound must have one number or {math.prod(shape)}, got {len(bound)}")
    with np.errstate(over="ignore"):
        numbers = np.array([missing if value is None else value for value in values], dtype)
    return numbers.reshape(shape) if isinstance(bound, list) else np.full(shape, numbers[0], dtype)

"""Spaces as rows of numbers, held to Gymnasium's own flattening."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from metarl.spaces import (
    Choices,
    Coordinates,
    UnsupportedSpace,
    action_decoder,
    action_kind,
    flatten_batch,
    observation_size,
)

OBSERVATIONS = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "number": spaces.Box(-1.0, 1.0, (), np.float32),
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "discrete": spaces.Discrete(4, start=-2),
    "multi_discrete": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, 5]]),
    "multi_binary": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict({"z": spaces.Discrete(3), "a": spaces.Tuple((spaces.Box(0, 1, (2, 2)), spaces.Discrete(2)))}),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_rows_equal_gymnasiums_flattening_of_each_observation(name):
    space: Any = OBSERVATIONS[name]
    space.seed(0)
    items = [space.sample() for _ in range(6)]
    batch = concatenate(space, items, create_empty_array(space, len(items)))
    rows = flatten_batch(space, batch)
    assert rows.shape == (6, observation_size(space))
    assert_array_equal(rows, np.stack([spaces.flatten(space, item) for item in items]))


def numbers(dtype: Any) -> st.SearchStrategy[Any]:
    """Boxes of up to three dimensions."""
    high = 255 if np.issubdtype(dtype, np.integer) else 5.0
    shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
    return shapes.map(lambda shape: spaces.Box(0, high, shape, dtype))


LEAVES = st.one_of(
    *(numbers(dtype) for dtype in (np.float32, np.float64, np.uint8, np.int64)),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(spaces.MultiBinary),
)
NESTED = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.dictionaries(st.text("abz", min_size=1, max_size=2), parts, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(space=NESTED, count=st.integers(1, 3), seed=st.integers(0, 99))
def test_rows_of_any_nested_space_equal_gymnasiums_flattening(space, count, seed):
    space.seed(seed)
    items = [space.sample() for _ in range(count)]
    rows = flatten_batch(space, concatenate(space, items, create_empty_array(space, count)))
    assert rows.shape == (count, observation_size(space))
    assert_array_equal(rows, np.stack([spaces.flatten(space, item) for item in items]))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(5), r"observations must be Box, .* got Text"),
        (spaces.Dict({"log": spaces.Sequence(spaces.Discrete(2))}), r"observations\['log'\] must be .* got Sequence"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Graph(spaces.Discrete(2), None))), r"observations\[1\] must be"),
        (spaces.Box(-1, 1, (0,)), "at least one number"),
        (
            spaces.Dict({"near": spaces.Dict({}), "far": spaces.Discrete(2)}),
            r"observations\['near'\] must hold at least",
        ),
    ],
)
def test_observations_without_a_fixed_size_are_refused_by_name(space, message):
    with pytest.raises(UnsupportedSpace, match=message):
        observation_size(space)


ACTIONS = {
    "box": (spaces.Box(-1.0, 2.0, (2, 2), np.float64), Coordinates(4)),
    "discrete": (spaces.Discrete(3, start=7), Choices((3,))),
    "multi_discrete": (spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, 5]]), Choices((2, 3, 4, 2))),
    "multi_binary": (spaces.MultiBinary((2, 2)), Choices((2, 2, 2, 2))),
}


@pytest.mark.parametrize("bounds", ["clip", "rescale"])
@pytest.mark.parametrize("name", ACTIONS)
def test_decoded_actions_lie_in_the_space_and_reach_its_ends(name, bounds):
    space, kind = ACTIONS[name]
    assert action_kind(space) == kind
    decode = action_decoder(space, bounds)
    sizes = kind.sizes if isinstance(kind, Choices) else (9,) * kind.number
    lowest = np.zeros((1, len(sizes))) if isinstance(kind, Choices) else np.full((1, len(sizes)), -9.0)
    highest = np.array([sizes]) - 1.0
    for rows in (lowest, highest, np.repeat(highest, 5, 0)):
        batch = decode(rows.astype(np.float32))
        assert batch in batch_space(space, len(rows))
        for action in iterate(batch_space(space, len(rows)), batch):
            assert action in space
    first = [spaces.flatten(space, decode(rows.astype(np.float32))[0]) for rows in (lowest, highest)]
    assert (first[0] != first[1]).any()


def test_discrete_actions_start_where_their_space_does():
    assert action_decoder(spaces.Discrete(3, start=7), "clip")(np.array([[2.0]], np.float32)).tolist() == [9]
    many = action_decoder(spaces.MultiDiscrete([2, 3], start=[1, -1]), "clip")
    assert many(np.array([[1.0, 2.0]], np.float32)).tolist() == [[2, 1]]


def test_rescaling_by_hand_leaves_coordinates_without_bounds_alone():
    """[-1, 1] onto [0, 10]; a half-bounded coordinate is only cut off."""
    space = spaces.Box(np.array([0.0, -np.inf, -1.0]), np.array([10.0, np.inf, np.inf]), dtype=np.float64)
    rows = np.array([[-1.0, -5.0, -5.0], [0.5, 5.0, 5.0], [3.0, 0.0, 0.0]], np.float32)
    assert_allclose(action_decoder(space, "rescale")(rows), [[0, -5, -1], [7.5, 5, 5], [10, 0, 0]])
    assert_allclose(action_decoder(space, "clip")(rows), [[0, -5, -1], [0.5, 5, 5], [3, 0, 0]])


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Box(0, 255, (2,), np.uint8)]
)
def test_actions_without_a_policy_are_refused_by_name(space):
    with pytest.raises(UnsupportedSpace, match=r"actions must be a Box of floats, Discrete, .* got"):
        action_kind(space)

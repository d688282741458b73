"""Which spaces fit a policy, and observations as rows, held to Gymnasium's flattening."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces

from metarl.deploy.spaces import SpaceMismatch, Spaces, check_spaces, observation_row

MOVES = spaces.Box(-1.0, 1.0, (2,))
PIXELS = spaces.Box(0, 255, (4, 4), np.uint8)
NESTED = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2)))})


def check(expected: spaces.Space, got: spaces.Space, bounds: str = "clip", *, of_actions: bool = False) -> None:
    one, other = (Spaces(MOVES, each) if of_actions else Spaces(each, MOVES) for each in (expected, got))
    check_spaces(one, other, bounds=bounds, environment="Mine", trained="the run")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (MOVES, spaces.Box(-5.0, np.inf, (2,), np.float64)),
        (PIXELS, spaces.Box(0, 1, (4, 4), np.int32)),
        (NESTED, NESTED),
        (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 3], dtype=np.int32)),
    ],
)
def test_bounds_and_precision_of_observations_do_not_matter(expected, got):
    check(expected, got)


@pytest.mark.parametrize(
    ("expected", "got", "complaint"),
    [
        (MOVES, spaces.Box(-1.0, 1.0, (3,)), r"shape \(2,\), got \(3,\)"),
        (MOVES, spaces.Box(-1.0, 1.0, (1, 2)), r"shape \(2,\), got \(1, 2\)"),
        (PIXELS, spaces.Box(0.0, 1.0, (4, 4)), "numbers that are whole, got real"),
        (MOVES, spaces.Discrete(2), "must be a Box, got Discrete"),
        (spaces.Discrete(2), spaces.Discrete(3), "n 2, got 3"),
        (spaces.Discrete(2), spaces.Discrete(2, start=1), "start 0, got 1"),
        (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]), r"nvec \[2, 3\], got \[3, 2\]"),
        (spaces.MultiBinary(2), spaces.MultiBinary(3), r"shape \(2,\), got \(3,\)"),
        (NESTED, spaces.Dict({"a": NESTED["a"]}), "parts 'a', 'b' in this order, got 'a'"),
        (NESTED, spaces.Dict(OrderedDict(b=NESTED["b"], a=NESTED["a"])), "in this order, got 'b', 'a'"),
        (NESTED, spaces.Dict({"a": NESTED["a"], "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(3)))}),
         r"observation_space\['b'\]\[1\] must have shape \(2,\)"),
    ],
)  # fmt: skip
def test_what_changes_the_meaning_of_an_observation_is_named(expected, got, complaint):
    with pytest.raises(SpaceMismatch, match=complaint):
        check(expected, got)


def test_bounds_of_actions_matter_only_where_actions_are_stretched_onto_them():
    other = spaces.Box(-0.5, 1.0, (2,))
    check(MOVES, other, "clip", of_actions=True)
    with pytest.raises(SpaceMismatch, match=r"bound low = \[-1. -1.\], onto which actions are stretched, got \[-0.5"):
        check(MOVES, other, "rescale", of_actions=True)
    check(MOVES, spaces.Box(-1.0, 1.0, (2,), np.float64), "rescale", of_actions=True)


def test_a_difference_names_both_environments_and_both_spaces():
    with pytest.raises(SpaceMismatch) as caught:
        check(MOVES, spaces.Discrete(2), of_actions=True)
    for words in ("action_space of Mine", "that of the run", "Box(-1.0, 1.0, (2,), float32)", "Discrete(2)"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "space", [MOVES, PIXELS, NESTED, spaces.Discrete(3, start=-1), spaces.MultiDiscrete([[2], [3]])]
)
def test_rows_equal_gymnasiums_flattening(space):
    space.seed(0)
    for _ in range(5):
        observation = space.sample()
        row = observation_row(space, observation)
        np.testing.assert_array_equal(row, spaces.flatten(space, observation))

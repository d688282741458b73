"""Directions as tasks: projection by hand, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from metarl.envs.directions import check_directions, describe_direction, direction_rows, velocity_along


def test_velocity_along_an_angle_and_a_sign_by_hand():
    """(3, 4) m/s along pi/2 is 4, along 0.6435 (whose cosine is 0.8, sine 0.6) 4.8, backward -3."""
    velocity = np.array([[3.0, 4.0], [3.0, 4.0]])
    angles = np.array([[np.pi / 2], [np.arctan2(0.6, 0.8)]])
    assert_allclose(velocity_along(velocity, angles, "circle"), [4.0, 4.8], rtol=1e-14)
    assert velocity_along(velocity, np.array([[1.0], [-1.0]]), "forward-backward").tolist() == [3.0, -3.0]


def test_directions_in_words():
    assert describe_direction(np.array([np.pi / 2]), "circle") == "direction 90 degrees"
    assert describe_direction(np.array([-1.0]), "forward-backward") == "direction backward"


def test_only_signs_are_directions_forward_or_backward():
    assert direction_rows([[0.5]], "circle").tolist() == [[0.5]]
    with pytest.raises(ValueError, match=r"not an angle; got .*0\.5"):
        direction_rows([[1.0], [0.5]], "forward-backward")


def test_impossible_choices_are_refused():
    with pytest.raises(ValueError, match="directions must be one of 'forward-backward', 'circle'; got 'up'"):
        check_directions("up", balanced=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="balanced needs two directions"):
        check_directions("circle", balanced=True)

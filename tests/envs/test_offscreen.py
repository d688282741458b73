"""Pictures of simulations: size, content, the camera that follows, no influence on the motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs import (
    AntGoalEnv,
    AntVelEnv,
    HalfCheetahVelEnv,
    HopperRandParamsEnv,
    HumanoidDirEnv,
    Walker2dRandParamsEnv,
)
from metarl.envs.offscreen import open_context


@pytest.mark.parametrize(
    "make",
    [HalfCheetahVelEnv, AntVelEnv, AntGoalEnv, HumanoidDirEnv, Walker2dRandParamsEnv, HopperRandParamsEnv],
)
def test_picture_has_the_size_asked_for_and_is_not_empty(make: Any):
    env = make(render_mode="rgb_array", width=320, height=200)
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (200, 320, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 20
    env.close()
    env.close()


def test_a_picture_larger_than_the_models_buffer_can_be_taken():
    env = HalfCheetahVelEnv(1.0, render_mode="rgb_array", width=800, height=600)
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.shape == (600, 800, 3)
    assert picture[:50].std() > 0
    env.close()


@pytest.mark.parametrize("x", [0.0, 20.0])
def test_camera_follows_the_cheetah(x):
    """The body is the only thing in the picture whose red exceeds its blue by far."""
    env = HalfCheetahVelEnv(1.0, render_mode="rgb_array", width=200, height=200)
    env.reset(seed=0)
    env.data.qpos[0] = x
    picture = env.render()
    assert picture is not None
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    columns = np.flatnonzero((red > blue + 40).any(axis=0))
    assert 60 < columns.mean() < 140
    assert len(columns) > 60
    env.close()


def test_taking_pictures_does_not_change_the_motion():
    seen, unseen = HalfCheetahVelEnv(1.0, render_mode="rgb_array", width=32, height=32), HalfCheetahVelEnv(1.0)
    seen.reset(seed=0)
    unseen.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, 6)
        assert_array_equal(seen.step(action)[0], unseen.step(action)[0])
        seen.render()
    seen.close()


def test_without_a_render_mode_there_is_no_picture():
    env = HalfCheetahVelEnv(1.0)
    env.reset(seed=0)
    assert env.render() is None


def test_where_nothing_can_draw_the_error_says_what_to_try(monkeypatch):
    def fail(name: str) -> None:
        raise ImportError(f"no library behind {name}")

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(RuntimeError, match=r"egl: no library behind mujoco.egl; osmesa: .*install libegl1"):
        open_context(32, 32)


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("height", -3), ("render_mode", "human")])
def test_impossible_pictures_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        HalfCheetahVelEnv(1.0, **{option: value})

"""Pictures of a MuJoCo simulation, drawn without a screen."""

from __future__ import annotations

import importlib
import os
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

BACKENDS = ("egl", "osmesa", "glfw")
"""Tried in this order unless the environment variable MUJOCO_GL names one; only the last needs a screen."""


def open_context(width: int, height: int) -> Any:
    """An OpenGL context from the first backend that works here.

    Raises:
        RuntimeError: if none does, with what each of them said.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    said = []
    for backend in (wanted,) if wanted in BACKENDS else BACKENDS:
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            context.make_current()
        except Exception as error:  # noqa: BLE001 - each backend fails in its own way, down to missing C libraries
            said.append(f"{backend}: {error}")
        else:
            return context
    raise RuntimeError(
        f"no OpenGL backend can draw here ({'; '.join(said)}); install libegl1 or libosmesa6, "
        f"or set MUJOCO_GL to one of {', '.join(BACKENDS)}"
    )


class Camera:
    """Draws one simulation through a camera of its model.

    Args:
        model: MjModel; its off-screen buffer grows to the picture's size.
        width: of the picture (pixels).
        height: of the picture (pixels).
        name: of the camera; ``track`` follows the body.
    """

    def __init__(self, model: Any, width: int, height: int, name: str = "track") -> None:
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        model.vis.quality.shadowsize = min(model.vis.quality.shadowsize, 1024)  # half the time, the same picture
        self._model = model
        self._context = open_context(width, height)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._resources)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        self._area = mujoco.MjrRect(0, 0, width, height)

    def picture(self, data: Any) -> NDArray[np.uint8]:
        """Red, green and blue ``[height, width, 3]`` of the simulation ``data``, whose motion does not change."""
        mujoco.mj_kinematics(self._model, data)  # after mj_step the frames are those of one substep ago
        mujoco.mj_comPos(self._model, data)
        mujoco.mj_camlight(self._model, data)
        self._context.make_current()
        mujoco.mjv_updateScene(
            self._model,
            data,
            mujoco.MjvOption(),
            mujoco.MjvPerturb(),
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        mujoco.mjr_render(self._area, self._scene, self._resources)
        pixels = np.empty((self._area.height, self._area.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._area, self._resources)
        return pixels[::-1].copy()

    def close(self) -> None:
        """Free the OpenGL memory and context."""
        if self._context is not None:
            self._context.make_current()
            self._resources.free()
            self._context.free()
            self._context = None

"""One simulated body as a Gymnasium environment."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl.envs.body import DIVERGED, Body, State, Transition, checked_forward, judge, state_of, without_log
from metarl.envs.checks import FloatArray, check_actions, check_choice, check_count
from metarl.envs.offscreen import Camera

Step = tuple[FloatArray, float, bool, bool, dict[str, Any]]


class LocomotionEnv(gymnasium.Env[FloatArray, NDArray[np.float32]]):
    """One task on one body, without a time limit.

    An action beyond the control range is clipped before it is applied and before its cost is computed. A simulation
    that diverges, or is given an action that is not finite, is ``truncated`` with reward 0, and
    ``info["diverged"]`` is True; it is False in every other step.

    Args:
        body: model, observation, reward and termination.
        task: task parameters ``[P]``.
        render_mode: None or "rgb_array".
        width: of pictures (pixels).
        height: of pictures (pixels).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(
        self, body: Body, task: FloatArray, *, render_mode: str | None = None, width: int = 480, height: int = 480
    ) -> None:
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_count("width", width, 1)
        check_count("height", height, 1)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1.0 / body.seconds)}
        self.render_mode = render_mode
        self.body = body
        self.task = task
        self.model = copy.copy(body.model)
        self.data = mujoco.MjData(self.model)
        if body.parameters is not None:
            for name, values in body.parameters(body.model, task[None]).items():
                getattr(self.model, name)[...] = values[0]
            mujoco.mj_setConst(self.model, self.data)
        self.action_space = body.action_space()
        self.observation_space = body.observation_space()
        self._size = (width, height)
        self._camera: Camera | None = None
        self._low, self._high = self.model.actuator_ctrlrange.T

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode from the body's noisy rest pose; ``options`` are not used."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = self.body.initial(self.model, self.np_random)
        with without_log():
            checked_forward(self.model, self.data)
        return self.body.observe(self._state())[0], {"diverged": False}

    def step(self, action: NDArray[np.float32]) -> Step:
        """Apply ``action`` ``[A]`` for one control step."""
        wanted = check_actions(action, (self.model.nu,))
        finite = bool(np.isfinite(wanted).all())
        before = self._state().copy()
        self.data.ctrl[:] = np.clip(wanted, self._low, self._high) if finite else 0.0
        with without_log():
            mujoco.mj_step(self.model, self.data, nstep=self.body.frame_skip)
            if self.body.fields:
                checked_forward(self.model, self.data)
        warned = bool(self.data.warning.number[DIVERGED].any())
        transition = Transition(self.task[None], before, self.data.ctrl[None], self._state(), self.body.seconds)
        outcome = judge(self.body, transition, np.array([warned or not finite]))
        diverged = bool(outcome.diverged[0])
        return (
            outcome.observations[0],
            float(outcome.rewards[0]),
            bool(outcome.terminated[0]),
            diverged,
            {"diverged": diverged},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Picture ``[height, width, 3]`` seen by a camera that follows the body; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._camera is None:
            self._camera = Camera(self.model, *self._size)
        return self._camera.picture(self.data)

    def close(self) -> None:
        """Free what rendering holds; may be called twice."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _state(self) -> State:
        return state_of(self.data, self.body.fields)

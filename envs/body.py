"""What a simulated body is: its model, and functions over many bodies that give its state a meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.envs.checks import BoolArray, FloatArray, bad_rows

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
"""Where Gymnasium keeps its MuJoCo models."""

LARGEST = 1e10
"""MuJoCo's mjMAXVAL: it resets a simulation in which a number exceeds this, so no observation does."""

DIVERGED = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]
"""The warnings that are the only trace of a diverged simulation: MuJoCo resets it and goes on."""


class State(NamedTuple):
    """N bodies at one moment."""

    qpos: FloatArray
    """Positions of the joints ``[N, nq]``."""
    qvel: FloatArray
    """Velocities of the joints ``[N, nv]``."""
    fields: Mapping[str, FloatArray]
    """The derived MjData fields the body asked for, each ``[N, ...]``."""

    def copy(self) -> State:
        """The same numbers, untouched by later steps."""
        return State(self.qpos.copy(), self.qvel.copy(), {name: field.copy() for name, field in self.fields.items()})


class Transition(NamedTuple):
    """One control step of N bodies."""

    tasks: FloatArray
    """Task parameters ``[N, P]``."""
    before: State
    actions: FloatArray
    """Controls that were applied ``[N, A]``, within the control range."""
    after: State
    seconds: float
    """Duration of the step."""


class Outcome(NamedTuple):
    """What N environments return for one control step, before rows that were over already are masked."""

    observations: FloatArray
    rewards: FloatArray
    terminated: BoolArray
    diverged: BoolArray


def gymnasium_noise(model: Any, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Initial ``qpos`` and ``qvel`` of HalfCheetah-v5 and Ant-v5: the model's rest pose plus noise.

    Positions get U[-0.1, 0.1], velocities 0.1 N(0, 1), drawn in Gymnasium's order.
    """
    qpos = model.qpos0 + rng.uniform(low=-0.1, high=0.1, size=model.nq)
    qvel = 0.1 * rng.standard_normal(model.nv)
    return qpos, qvel


def uniform_noise(model: Any, rng: np.random.Generator, *, scale: float) -> tuple[FloatArray, FloatArray]:
    """Initial ``qpos`` and ``qvel`` of Hopper-v5, Walker2d-v5 (``scale`` 0.005) and Humanoid-v5 (0.01).

    The model's rest pose plus U[-scale, scale] on every position and velocity, drawn in Gymnasium's order.
    """
    qpos = model.qpos0 + rng.uniform(low=-scale, high=scale, size=model.nq)
    qvel = rng.uniform(low=-scale, high=scale, size=model.nv)
    return qpos, qvel


def sum_of_squares(array: FloatArray) -> FloatArray:
    """Of each row of ``[N, K]``, ``[N]``."""
    total: FloatArray = np.einsum("nk,nk->n", array, array)
    return total


def never(state: State) -> BoolArray:
    """No state ends the episode."""
    return np.zeros(len(state.qpos), dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, eq=False)
class Body:
    """A model and the functions that make environments of it; N is 1 in the single and many in the vector environment.

    A family of random bodies sets ``parameters``; one that reads more than ``qpos`` and ``qvel`` names ``fields``.
    """

    model: Any
    """The compiled MjModel; environments copy it."""
    frame_skip: int
    """Simulation steps per control step."""
    observe: Callable[[State], FloatArray]
    """New array of observations ``[N, O]``."""
    reward: Callable[[Transition], FloatArray]
    """Rewards ``[N]``."""
    terminated: Callable[[State], BoolArray] = never
    """Which states end the episode, ``[N]``."""
    initial: Callable[[Any, np.random.Generator], tuple[FloatArray, FloatArray]] = gymnasium_noise
    """Draws initial ``qpos`` and ``qvel`` of one body from its own generator."""
    fields: tuple[str, ...] = ()
    """Derived MjData fields in ``State.fields``, computed at the new state by one mj_forward per control step."""
    parameters: Callable[[Any, FloatArray], dict[str, NDArray[Any]]] | None = None
    """Values ``[N, ...]`` of the MjModel fields that depend on the task, from the model and tasks ``[N, P]``."""

    @property
    def seconds(self) -> float:
        """Duration of one control step."""
        return float(self.model.opt.timestep) * self.frame_skip

    def action_space(self) -> spaces.Box[np.float32]:
        """The control range of the actuators."""
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        return spaces.Box(low=low, high=high, dtype=np.float32)

    def observation_space(self) -> spaces.Box[np.float64]:
        """As many numbers as ``observe`` returns, in the range that MuJoCo allows."""
        size = self.observe(state_of(mujoco.MjData(self.model), self.fields)).shape[1]
        return spaces.Box(low=-LARGEST, high=LARGEST, shape=(size,), dtype=np.float64)


def state_of(data: Any, fields: tuple[str, ...]) -> State:
    """Live view of one MjData as N = 1 bodies."""
    return State(data.qpos[None], data.qvel[None], {name: getattr(data, name)[None] for name in fields})


def judge(body: Body, transition: Transition, suspect: BoolArray) -> Outcome:
    """Observation, reward and end of one control step; the same for the single and the vector environment.

    Args:
        body: the functions to apply.
        transition: the step of N bodies.
        suspect: rows that MuJoCo found diverged, or whose action was not finite, ``[N]``.

    Returns:
        Rows that are suspect or hold a number that is not finite are diverged: never terminated, reward 0, and 0 in
        place of such numbers in the observation.
    """
    observations = body.observe(transition.after)
    rewards = body.reward(transition)
    terminated = body.terminated(transition.after)
    diverged = suspect
    if not (np.isfinite(observations).all() and np.isfinite(rewards).all()):
        diverged = suspect | bad_rows(observations) | ~np.isfinite(rewards)
    if diverged.any():
        terminated = terminated & ~diverged
        rewards = np.where(diverged, 0.0, rewards)
        observations[diverged] = np.nan_to_num(observations[diverged], nan=0.0, posinf=0.0, neginf=0.0)
    return Outcome(observations, rewards, terminated, diverged)


def checked_forward(model: Any, data: Any) -> None:
    """Do with one MjData what ``Batch.forward`` does: mj_forward, with the checks for divergence that mj_step has."""
    mujoco.mj_checkPos(model, data)
    mujoco.mj_checkVel(model, data)
    mujoco.mj_forward(model, data)
    mujoco.mj_checkAcc(model, data)


@contextmanager
def without_log() -> Iterator[None]:
    """Keep MuJoCo's warnings out of the terminal and of MUJOCO_LOG.TXT; the counters are read instead."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_ignore)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _ignore(message: str) -> None:
    """Stand-in for MuJoCo's warning handler."""


@functools.cache
def load_model(file: str, *, contact_forces: bool = False) -> Any:
    """Compile one of Gymnasium's models.

    Args:
        file: its name under ``ASSETS``.
        contact_forces: whether mj_forward is to compute ``cfrc_ext``. MuJoCo leaves it 0 unless a sensor of the
            acceleration stage asks for it, so one is added; it changes no motion.

    Returns:
        The MjModel, shared by all callers: copy it before changing it.
    """
    spec = mujoco.MjSpec.from_file(str(ASSETS / file))
    if contact_forces:
        torso = spec.worldbody.first_body().name
        spec.add_sensor(
            name="asks_for_contact_forces",
            type=mujoco.mjtSensor.mjSENS_FRAMELINACC,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=torso,
        )
    total_mass = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1.0  # deprecated in MuJoCo 4, which would warn and write a log file
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))  # constants derived from the masses, such as body_invweight0
    return model

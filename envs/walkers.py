"""Walker and hopper whose mass, inertia, damping and friction differ from task to task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.envs.body import Body, State, Transition, load_model, sum_of_squares, uniform_noise
from metarl.envs.checks import BoolArray, FloatArray, Tasks, check_at_least, check_count
from metarl.envs.factors import describe_factors, draw_factors, factor_count, factor_rows, scaled_fields
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv, make_locomotion_vec
from metarl.tasks import register

FRAME_SKIP = 4
"""Simulation steps per control step."""
SURVIVAL = 1.0
"""Reward for every control step."""
CONTROL_COST = 1e-3
"""Weight of the summed squared action."""


def joints(state: State) -> FloatArray:
    """All positions but the first, and all velocities clipped to [-10, 10]."""
    return np.concatenate((state.qpos[:, 1:], np.clip(state.qvel, -10.0, 10.0)), axis=1)


def forward_reward(step: Transition) -> FloatArray:
    """``v + 1 - 0.001 sum a^2``; v is the mean forward velocity of the torso over the control step (m/s)."""
    velocity = (step.after.qpos[:, 0] - step.before.qpos[:, 0]) / step.seconds
    reward: FloatArray = velocity + SURVIVAL - CONTROL_COST * sum_of_squares(step.actions)
    return reward


def walker_fallen(state: State) -> BoolArray:
    """Whether the torso's height is outside (0.8, 2) m or its pitch outside (-1, 1) rad, or one is not a number."""
    height, pitch = state.qpos[:, 1], state.qpos[:, 2]
    fell: BoolArray = ~((height > 0.8) & (height < 2.0) & (np.abs(pitch) < 1.0))
    return fell


def hopper_fallen(state: State) -> BoolArray:
    """Whether the torso is at 0.7 m or below, pitched by 0.2 rad or more, or any number after the height is 100."""
    height, pitch = state.qpos[:, 1], state.qpos[:, 2]
    rest = np.concatenate((state.qpos[:, 2:], state.qvel), axis=1)
    fell: BoolArray = ~((height > 0.7) & (np.abs(pitch) < 0.2) & (np.abs(rest) < 100.0).all(axis=1))
    return fell


def random_body(file: str, terminated: Callable[[State], BoolArray]) -> Body:
    """A body of Gymnasium's that is to move forward, with the parameters of its task."""
    return Body(
        model=load_model(file),
        frame_skip=FRAME_SKIP,
        observe=joints,
        reward=forward_reward,
        terminated=terminated,
        initial=functools.partial(uniform_noise, scale=0.005),
        parameters=scaled_fields,
    )


def walker_body() -> Body:
    """Gymnasium's walker2d.xml, whose feet differ in friction, as in the published code."""
    return random_body("walker2d.xml", walker_fallen)


def hopper_body() -> Body:
    """Gymnasium's hopper.xml."""
    return random_body("hopper.xml", hopper_fallen)


def one_task(body: Body, factors: Sequence[float] | FloatArray | None) -> FloatArray:
    """``factors`` as a task ``[P]``; None leaves the model as it is."""
    chosen = np.ones(factor_count(body.model)) if factors is None else factors
    task: FloatArray = factor_rows([chosen], body.model)[0]
    return task


class Walker2dRandParamsEnv(LocomotionEnv):
    """Walk forward on a scaled body; ``Walker2dRandParams`` states every choice.

    Args:
        factors: on mass, inertia, damping and friction, ``[65]``; None leaves the model as it is.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(self, factors: Sequence[float] | FloatArray | None = None, **rendering: Any) -> None:
        body = walker_body()
        super().__init__(body, one_task(body, factors), **rendering)


class HopperRandParamsEnv(LocomotionEnv):
    """Hop forward on a scaled body; ``HopperRandParams`` states every choice.

    Args:
        factors: on mass, inertia, damping and friction, ``[41]``; None leaves the model as it is.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(self, factors: Sequence[float] | FloatArray | None = None, **rendering: Any) -> None:
        body = hopper_body()
        super().__init__(body, one_task(body, factors), **rendering)


@register("walker2d-rand-params")
@dataclass(frozen=True, kw_only=True)
class Walker2dRandParams:
    """Walker on two legs that runs forward, with a body of its own for each task.

    Task: 65 factors, each drawn for itself, on the parameters of the model:

    | index | scales | factor |
    |---|---|---|
    | 0-7 | mass of the world and 7 bodies | ``1.5 ** U[-log_scale, log_scale]`` |
    | 8-31 | their principal moments of inertia, 3 each | ``1.5 ** U[-log_scale, log_scale]`` |
    | 32-40 | damping of 9 degrees of freedom | ``1.3 ** U[-log_scale, log_scale]`` |
    | 41-64 | sliding, torsional, rolling friction of the floor and 7 geoms | ``1.5 ** U[-log_scale, log_scale]`` |

    At ``log_scale`` 3 they lie in [0.30, 3.4] and, for damping, [0.46, 2.2]. As in the published code the world's
    mass and inertia and the damping of the torso are among them though they are 0; only sliding friction acts in these
    models, for each contact the greater of floor and foot. Factors on mass and inertia are independent, so a body may
    have moments that no solid has. Constants derived from the masses are computed anew; the published code leaves them.

    Reward: ``v + 1 - 0.001 sum a^2``, where v is the mean forward velocity of the torso over the control step,
    ``(x_after - x_before) / dt`` (m/s), and a the action after clipping.

    Action: torques of 6 joints as shares of 100 N m, clipped to [-1, 1] before they are applied and before the cost:
    thigh, leg, foot of the right and then the left leg.

    Termination: the torso's height leaves (0.8, 2) m or its pitch (-1, 1) rad. A diverged simulation is truncated.

    Time: simulation step 0.002 s (Runge-Kutta 4); a control step is 4 of them, 0.008 s, as in Walker2d-v5. The
    published walker asks for 5, but its base class, in VariBAD and the copies made for PEARL, takes 4 all the same.

    Observation, float64:

    | index | quantity | unit |
    |---|---|---|
    | 0 | height of the torso | m |
    | 1 | pitch of the torso | rad |
    | 2-4, 5-7 | angles of thigh, leg, foot, right and left | rad |
    | 8-9 | forward and upward velocity of the torso | m/s |
    | 10 | angular velocity of the pitch | rad/s |
    | 11-13, 14-16 | angular velocities of thigh, leg, foot, right and left | rad/s |

    Velocities are clipped to [-10, 10].

    Model: walker2d.xml with sliding friction 0.9 of the right and 1.9 of the left foot, as in the published code;
    walker2d_v5.xml has 1.9 for both.

    Initial state: standing, plus U[-0.005, 0.005] on every position and velocity, as Walker2d-v5.

    Source: Rothfuss et al. 2019 (arXiv:1810.06784), code dennisl88/rand_param_envs, which PEARL (Rakelly et al. 2019,
    arXiv:1903.08254) and VariBAD take over.
    """

    log_scale: float = 3.0
    """Greatest exponent of the factors; 0 gives the same body to every task."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_at_least("log_scale", self.log_scale, 0.0)
        check_count("threads", self.threads, 0)

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Factors ``[count, 65]``."""
        check_count("count", count, 1)
        return draw_factors(self.body().model, rng, count, self.log_scale)

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> Walker2dRandParamsEnv:
        """The environment of one task ``[65]``."""
        return Walker2dRandParamsEnv(task, render_mode=render_mode)

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 65]``."""
        body = self.body()
        return make_locomotion_vec(body, factor_rows(tasks, body.model), episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return describe_factors(self.body().model, task)

    def body(self) -> Body:
        """Model, observation, reward and termination."""
        return walker_body()


@register("hopper-rand-params")
@dataclass(frozen=True, kw_only=True)
class HopperRandParams:
    """Hopper on one leg that moves forward, with a body of its own for each task.

    Task: 41 factors, drawn as in ``Walker2dRandParams``: 0-4 mass of the world and 4 bodies, 5-19 their moments of
    inertia, 20-25 damping of 6 degrees of freedom, 26-40 friction of the floor and 4 geoms.

    Action: torques of thigh, leg and foot as shares of 200 N m, clipped to [-1, 1] before they are applied and before
    the cost.

    Termination: the torso's height falls to 0.7 m, its pitch leaves (-0.2, 0.2) rad, or an angle or velocity (rad, m/s,
    rad/s) reaches 100. A diverged simulation is truncated.

    Observation, float64:

    | index | quantity | unit |
    |---|---|---|
    | 0 | height of the torso | m |
    | 1 | pitch of the torso | rad |
    | 2-4 | angles of thigh, leg, foot | rad |
    | 5-6 | forward and upward velocity of the torso | m/s |
    | 7 | angular velocity of the pitch | rad/s |
    | 8-10 | angular velocities of thigh, leg, foot | rad/s |

    Velocities are clipped to [-10, 10].

    Reward, time step, initial state and source: as ``Walker2dRandParams``; the model is hopper.xml.
    """

    log_scale: float = 3.0
    """Greatest exponent of the factors; 0 gives the same body to every task."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_at_least("log_scale", self.log_scale, 0.0)
        check_count("threads", self.threads, 0)

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Factors ``[count, 41]``."""
        check_count("count", count, 1)
        return draw_factors(self.body().model, rng, count, self.log_scale)

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> HopperRandParamsEnv:
        """The environment of one task ``[41]``."""
        return HopperRandParamsEnv(task, render_mode=render_mode)

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 41]``."""
        body = self.body()
        return make_locomotion_vec(body, factor_rows(tasks, body.model), episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return describe_factors(self.body().model, task)

    def body(self) -> Body:
        """Model, observation, reward and termination."""
        return hopper_body()

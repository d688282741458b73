"""Ant: walk at a goal velocity, or in a given direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.envs.ant_body import Costs, FrameSkip, ObservationSize, ant_body, direction_body, velocity_reward
from metarl.envs.body import Body
from metarl.envs.checks import FloatArray, Tasks, check_count, check_range, task_rows
from metarl.envs.directions import (
    Directions,
    check_directions,
    describe_direction,
    direction_rows,
    draw_directions,
)
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv, make_locomotion_vec
from metarl.tasks import register


class AntVelEnv(LocomotionEnv):
    """Walk forward at a goal velocity; ``AntVel`` states every choice.

    Args:
        velocity: the goal velocity g (m/s).
        frame_skip: simulation steps of 0.01 s per control step.
        observation_size: numbers in an observation.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(
        self,
        velocity: float = 1.0,
        *,
        frame_skip: FrameSkip = 5,
        observation_size: ObservationSize = 27,
        **rendering: Any,
    ) -> None:
        task = task_rows([[velocity]], 1, "the goal velocity in m/s")[0]
        super().__init__(ant_body(velocity_reward, frame_skip, observation_size), task, **rendering)


class AntDirEnv(LocomotionEnv):
    """Walk in a given direction; ``AntDir`` states every choice.

    Args:
        direction: 1 or -1; with ``directions`` "circle" an angle from the x axis (rad).
        directions: what ``direction`` means.
        costs: whose control cost and reward for survival.
        frame_skip: simulation steps of 0.01 s per control step.
        observation_size: numbers in an observation.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(
        self,
        direction: float = 1.0,
        *,
        directions: Directions = "forward-backward",
        costs: Costs = "maml",
        frame_skip: FrameSkip = 5,
        observation_size: ObservationSize = 27,
        **rendering: Any,
    ) -> None:
        body = direction_body(directions, costs, frame_skip, observation_size)
        super().__init__(body, direction_rows([[direction]], directions)[0], **rendering)


@register("ant-vel")
@dataclass(frozen=True, kw_only=True)
class AntVel:
    """Ant that walks forward at a goal velocity drawn for each task.

    Task: one number, the goal velocity g (m/s), uniform in [``velocity_low``, ``velocity_high``]; U[0, 3] in MAML.

    Reward: ``1 - |v - g| + 0.05 - 0.005 sum a^2 - 0.0005 sum cf^2``: v is the mean velocity of the torso along x over
    the control step, ``(x_after - x_before) / dt`` (m/s); a the action after clipping; cf the 6 external torque and
    force components (N m, N) on each of the 14 bodies at the end of the step, each clipped to [-1, 1]. The 0.05 is for
    surviving, the 1 keeps the ant from preferring to fall.

    Contact forces: MuJoCo since 2.0 leaves them 0 unless asked, which silently removed their cost and observation from
    several ports; here they are computed.

    Action: torques of 8 joints as shares of 150 N m, clipped to [-1, 1] before they are applied and before the cost.

    Termination: the torso's height leaves [0.2, 1] m. A diverged simulation is truncated.

    Time: simulation step 0.01 s (Runge-Kutta 4); a control step is ``frame_skip`` of them, 0.05 s with 5 (Gymnasium's
    Ant-v5, pytorch-maml-rl), 0.02 s with 2 (rllab's step).

    Observation, float64:

    | index | quantity | unit |
    |---|---|---|
    | 0 | height of the torso | m |
    | 1-4 | orientation of the torso, quaternion w, x, y, z | 1 |
    | 5-12 | angles of hip and ankle of legs 1 to 4 | rad |
    | 13-15 | velocity x, y, z of the torso | m/s |
    | 16-18 | angular velocity of the torso about its own x, y, z | rad/s |
    | 19-26 | angular velocities of hip and ankle of legs 1 to 4 | rad/s |
    | 27-110 | torque and force on each of the 14 bodies, only if ``observation_size`` is 111 | N m, N |

    The last 84 are clipped to [-1, 1]; the first 6 of them are the world's and always 0.
    MAML's code has 27 + 84 numbers and adds the orientation matrix and position of the torso; PEARL has the 27.

    Initial state: rest pose plus U[-0.1, 0.1] on every position and 0.1 N(0, 1) on every velocity, as Ant-v5.

    Source: Finn et al. 2017 (arXiv:1703.03400), code cbfinn/maml_rl and tristandeleu/pytorch-maml-rl.
    """

    velocity_low: float = 0.0
    """Least goal velocity (m/s)."""
    velocity_high: float = 3.0
    """Greatest goal velocity (m/s)."""
    frame_skip: FrameSkip = 5
    """Simulation steps of 0.01 s per control step: 2 is rllab's timing, 5 Gymnasium's."""
    observation_size: ObservationSize = 27
    """Numbers in an observation: 27 positions and velocities, 111 adds contact forces."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_range("velocity", self.velocity_low, self.velocity_high)
        check_count("threads", self.threads, 0)
        self.body()

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Goal velocities ``[count, 1]``."""
        check_count("count", count, 1)
        return rng.uniform(self.velocity_low, self.velocity_high, size=(count, 1))

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> AntVelEnv:
        """The environment of one task ``[1]``."""
        (velocity,) = task_rows([task], 1, "the goal velocity in m/s")[0]
        return AntVelEnv(
            velocity, frame_skip=self.frame_skip, observation_size=self.observation_size, render_mode=render_mode
        )

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 1]``."""
        rows = task_rows(tasks, 1, "the goal velocity in m/s")
        return make_locomotion_vec(self.body(), rows, episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"velocity {task[0]:.2f} m/s"

    def body(self) -> Body:
        """Model, observation, reward and termination of the chosen variant."""
        return ant_body(velocity_reward, self.frame_skip, self.observation_size)


@register("ant-dir")
@dataclass(frozen=True, kw_only=True)
class AntDir:
    """Ant that walks in a direction drawn for each task.

    Task: one number. With ``directions`` "forward-backward" (MAML) a sign, +1 or -1 along x, each with probability 1/2;
    with "circle" (ProMP, PEARL, VariBAD) the angle of the direction from the x axis, uniform in [0, 2 pi) rad.

    Reward: ``d . v + survival - control sum a^2 - 0.0005 sum cf^2``, where d is the unit vector of the direction, v the
    mean velocity of the torso on the ground over the control step (m/s), and a and cf are as in ``AntVel``. With
    ``costs`` "maml" survival is 0.05 and control 0.005; with "promp" (also PEARL and VariBAD) they are 1 and 0.5.

    Contact forces, action, termination, time step, observation and initial state: as ``AntVel``.

    Source: Finn et al. 2017 (arXiv:1703.03400), code cbfinn/maml_rl and tristandeleu/pytorch-maml-rl; for "circle" and
    "promp" Rothfuss et al. 2019 (arXiv:1810.06784).
    """

    directions: Directions = "forward-backward"
    """Which directions: forward-backward is MAML's, circle ProMP's and PEARL's."""
    costs: Costs = "maml"
    """Whose control cost and reward for survival."""
    balanced: bool = False
    """Draw as many forward as backward tasks, in random order; an odd one out is either."""
    frame_skip: FrameSkip = 5
    """Simulation steps of 0.01 s per control step: 2 is rllab's timing, 5 Gymnasium's."""
    observation_size: ObservationSize = 27
    """Numbers in an observation: 27 positions and velocities, 111 adds contact forces."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_count("threads", self.threads, 0)
        check_directions(self.directions, balanced=self.balanced)
        self.body()

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Directions ``[count, 1]``; unless balanced they are independent."""
        check_count("count", count, 1)
        return draw_directions(rng, count, self.directions, balanced=self.balanced)

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> AntDirEnv:
        """The environment of one task ``[1]``."""
        return AntDirEnv(
            direction_rows([task], self.directions)[0, 0],
            directions=self.directions,
            costs=self.costs,
            frame_skip=self.frame_skip,
            observation_size=self.observation_size,
            render_mode=render_mode,
        )

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 1]``."""
        return make_locomotion_vec(self.body(), direction_rows(tasks, self.directions), episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return describe_direction(task, self.directions)

    def body(self) -> Body:
        """Model, observation, reward and termination of the chosen variant."""
        return direction_body(self.directions, self.costs, self.frame_skip, self.observation_size)

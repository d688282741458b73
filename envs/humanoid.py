"""Humanoid: walk in a given direction."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metarl.envs.body import Body, State, Transition, load_model, sum_of_squares, uniform_noise
from metarl.envs.checks import BoolArray, FloatArray, Tasks, check_at_least, check_choice, check_count
from metarl.envs.directions import (
    Directions,
    check_directions,
    describe_direction,
    direction_rows,
    draw_directions,
    velocity_along,
)
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv, make_locomotion_vec
from metarl.tasks import register

ObservationSize = Literal[45, 348]

FRAME_SKIP = 5
"""Simulation steps per control step, in Gymnasium, ProMP and PEARL."""
SURVIVAL = 5.0
"""Reward for every control step."""
CONTROL_COST = 0.1
"""Weight of the summed squared control."""
CONTACT_COST = 0.5e-6
"""Weight of the summed squared contact forces, which are not clipped."""
LARGEST_CONTACT_COST = 10.0
"""Bound of the contact cost of one control step."""


def joints(state: State) -> FloatArray:
    """45 numbers: all positions but x and y, and all velocities."""
    return np.concatenate((state.qpos[:, 2:], state.qvel), axis=1)


def joints_inertia_and_forces(state: State) -> FloatArray:
    """The 348 numbers of Humanoid-v5: ``joints``, and inertia, velocity, joint torques and contacts of its bodies."""
    count, fields = len(state.qpos), state.fields
    bodies = (fields[name][:, 1:].reshape(count, -1) for name in ("cinert", "cvel"))
    contacts = fields["cfrc_ext"][:, 1:].reshape(count, -1)
    return np.concatenate((joints(state), *bodies, fields["qfrc_actuator"][:, 6:], contacts), axis=1)


def fallen(state: State) -> BoolArray:
    """Whether the torso's height is outside [1, 2] m, or not a number."""
    height = state.qpos[:, 2]
    fell: BoolArray = ~((height >= 1.0) & (height <= 2.0))
    return fell


def ground_velocity(step: Transition) -> FloatArray:
    """Mean velocity x, y of the center of mass of the whole body over the control step (m/s), ``[N, 2]``."""
    before, after = (state.fields["subtree_com"][:, 0, :2] for state in (step.before, step.after))
    velocity: FloatArray = (after - before) / step.seconds
    return velocity


def direction_reward(step: Transition, *, directions: Directions, velocity_weight: float) -> FloatArray:
    """``velocity_weight d.v - 0.1 sum a^2 - min(0.5e-6 sum cf^2, 10) + 5``."""
    along = velocity_along(ground_velocity(step), step.tasks, directions)
    forces = step.after.fields["cfrc_ext"].reshape(len(step.actions), -1)
    contact = np.minimum(CONTACT_COST * sum_of_squares(forces), LARGEST_CONTACT_COST)
    reward: FloatArray = velocity_weight * along - CONTROL_COST * sum_of_squares(step.actions) - contact + SURVIVAL
    return reward


def humanoid_body(directions: Directions, velocity_weight: float, observation_size: ObservationSize) -> Body:
    """Gymnasium's humanoid rewarded for walking in the task's direction.

    Raises:
        ValueError: if there is no such variant.
    """
    check_directions(directions, balanced=False)
    check_at_least("velocity_weight", velocity_weight, 0.0)
    check_choice("observation_size", observation_size, (45, 348))
    everything = observation_size == 348
    return Body(
        model=load_model("humanoid.xml", contact_forces=True),
        frame_skip=FRAME_SKIP,
        observe=joints_inertia_and_forces if everything else joints,
        reward=functools.partial(direction_reward, directions=directions, velocity_weight=velocity_weight),
        terminated=fallen,
        initial=functools.partial(uniform_noise, scale=0.01),
        fields=("subtree_com", "cfrc_ext", *(("cinert", "cvel", "qfrc_actuator") if everything else ())),
    )


class HumanoidDirEnv(LocomotionEnv):
    """Walk in a given direction; ``HumanoidDir`` states every choice.

    Args:
        direction: angle from the x axis (rad); with ``directions`` "forward-backward" 1 or -1.
        directions: what ``direction`` means.
        velocity_weight: reward for each m/s in the direction.
        observation_size: numbers in an observation.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(
        self,
        direction: float = 0.0,
        *,
        directions: Directions = "circle",
        velocity_weight: float = 1.25,
        observation_size: ObservationSize = 348,
        **rendering: Any,
    ) -> None:
        body = humanoid_body(directions, velocity_weight, observation_size)
        super().__init__(body, direction_rows([[direction]], directions)[0], **rendering)


@register("humanoid-dir")
@dataclass(frozen=True, kw_only=True)
class HumanoidDir:
    """Humanoid that walks in a direction drawn for each task.

    Task: one number. With ``directions`` "circle" (PEARL, and ProMP's ``humanoid_rand_direc_2d``) the angle of the
    direction from the x axis, uniform in [0, 2 pi) rad; with "forward-backward" (ProMP's ``humanoid_rand_direc``) a
    sign, +1 or -1 along x, each with probability 1/2.

    Reward: ``velocity_weight d . v - 0.1 sum a^2 - min(0.5e-6 sum cf^2, 10) + 5``, where d is the unit vector of the
    direction; v the mean velocity on the ground of the center of mass of the whole body over the control step (m/s);
    a the control after clipping; cf the 6 external torque and force components (N m, N) on each of the 14 bodies at
    the end of the step, not clipped, and really computed (see ``AntVel``).

    Trap: the published code has ``0.25 d . (c_after - c_before) / timestep``, but c moves for 5 such timesteps; per m/s
    that is 1.25, as in Humanoid-v5. Set ``velocity_weight`` to 0.25 for the formula as it is often quoted.

    Action: controls of 17 joints, clipped to [-0.4, 0.4] before they are applied and before the cost. Times 100 N m for
    abdomen y, z, x and hip x, z, 300 for hip y, 200 for the knee of the right and then the left leg, 25 for the 2
    shoulders and the elbow of the right and then the left arm.

    Termination: the torso's height leaves [1, 2] m. A diverged simulation is truncated.

    Time: simulation step 0.003 s (Runge-Kutta 4); a control step is 5 of them, 0.015 s.

    Observation, float64, of the state at the end of the step (Gymnasium's derived numbers lag one simulation step):

    | index | quantity | unit |
    |---|---|---|
    | 0 | height of the torso | m |
    | 1-4 | orientation of the torso, quaternion w, x, y, z | 1 |
    | 5-7 | angles of abdomen z, y, x | rad |
    | 8-11, 12-15 | angles of hip x, z, y and knee, right and left | rad |
    | 16-18, 19-21 | angles of shoulder 1, 2 and elbow, right and left | rad |
    | 22-24 | velocity x, y, z of the torso | m/s |
    | 25-27 | angular velocity of the torso about its own x, y, z | rad/s |
    | 28-44 | angular velocities of the joints, in the order of the angles | rad/s |
    | 45-174 | each of 13 bodies: inertia (6), mass times offset from the center of mass (3), mass | kg m^2, kg m, kg |
    | 175-252 | each of 13 bodies: angular and linear velocity | rad/s, m/s |
    | 253-269 | torque of the actuators on the joints | N m |
    | 270-347 | torque and force on each of 13 bodies, not clipped | N m, N |

    Those from 45 on only if ``observation_size`` is 348, which are the numbers of Humanoid-v5. ProMP and PEARL have
    376: also those of the world and of the 6 degrees of freedom of the torso, which are always 0.

    Initial state: standing, plus U[-0.01, 0.01] on every position and velocity, as Humanoid-v5.

    Source: Rothfuss et al. 2019 (arXiv:1810.06784), code jonasrothfuss/ProMP; Rakelly et al. 2019 (arXiv:1903.08254),
    code katerakelly/oyster.
    """

    directions: Directions = "circle"
    """Which directions: circle is PEARL's, ProMP has both."""
    balanced: bool = False
    """Draw as many forward as backward tasks, in random order; an odd one out is either."""
    velocity_weight: float = 1.25
    """Reward for each m/s in the direction."""
    observation_size: ObservationSize = 348
    """Numbers in an observation: 45 positions and velocities, 348 all that Gymnasium has."""
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

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> HumanoidDirEnv:
        """The environment of one task ``[1]``."""
        return HumanoidDirEnv(
            direction_rows([task], self.directions)[0, 0],
            directions=self.directions,
            velocity_weight=self.velocity_weight,
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
        return humanoid_body(self.directions, self.velocity_weight, self.observation_size)

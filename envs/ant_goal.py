"""Ant: walk to a goal position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metarl.envs.ant_body import CONTACT_COST, FrameSkip, contact_forces, fallen, upkeep
from metarl.envs.body import Body, State, Transition, load_model, never, sum_of_squares
from metarl.envs.checks import FloatArray, Tasks, check_at_least, check_choice, check_count, task_rows
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv, make_locomotion_vec
from metarl.tasks import register

ObservationSize = Literal[29, 113]
Variant = Literal["maml", "promp"]

GOAL = "x and y of the goal in m"
"""What a task holds, for error messages."""
NEARNESS = 4.0
"""MAML's reward at the goal, which keeps the ant from preferring to fall."""
CONTROL_COST = 0.1
"""Weight of the summed squared action in ProMP and PEARL."""


def place_and_joints(state: State) -> FloatArray:
    """29 numbers: all positions and velocities."""
    return np.concatenate((state.qpos, state.qvel), axis=1)


def place_joints_and_contacts(state: State) -> FloatArray:
    """113 numbers: ``place_and_joints`` and the clipped contact forces of the 14 bodies, the world first."""
    return np.concatenate((state.qpos, state.qvel, contact_forces(state)), axis=1)


def goal_distance(step: Transition) -> FloatArray:
    """L1 distance on the ground from the torso to the task's goal at the end of the step (m), ``[N]``."""
    distance: FloatArray = np.abs(step.after.qpos[:, :2] - step.tasks).sum(axis=1)
    return distance


def maml_reward(step: Transition) -> FloatArray:
    """``4 - L1 + 0.05 - 0.005 sum a^2 - 0.0005 sum cf^2``."""
    return NEARNESS - goal_distance(step) + upkeep(step, "maml")


def promp_reward(step: Transition) -> FloatArray:
    """``-L1 - 0.1 sum a^2 - 0.0005 sum cf^2``."""
    contact = CONTACT_COST * sum_of_squares(contact_forces(step.after))
    reward: FloatArray = -goal_distance(step) - CONTROL_COST * sum_of_squares(step.actions) - contact
    return reward


def goal_body(variant: Variant, frame_skip: FrameSkip, observation_size: ObservationSize) -> Body:
    """Gymnasium's ant, rewarded for being near the task's goal.

    Raises:
        ValueError: if there is no such variant.
    """
    check_choice("variant", variant, ("maml", "promp"))
    check_choice("frame_skip", frame_skip, (1, 2, 5))
    check_choice("observation_size", observation_size, (29, 113))
    return Body(
        model=load_model("ant.xml", contact_forces=True),
        frame_skip=frame_skip,
        observe=place_and_joints if observation_size == 29 else place_joints_and_contacts,
        reward=maml_reward if variant == "maml" else promp_reward,
        terminated=fallen if variant == "maml" else never,
        fields=("cfrc_ext",),
    )


class AntGoalEnv(LocomotionEnv):
    """Walk to a goal; ``AntGoal`` states every choice.

    Args:
        goal: x and y (m).
        variant: whose reward and termination.
        frame_skip: simulation steps of 0.01 s per control step.
        observation_size: numbers in an observation.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(
        self,
        goal: Sequence[float] | FloatArray = (1.0, 1.0),
        *,
        variant: Variant = "maml",
        frame_skip: FrameSkip = 5,
        observation_size: ObservationSize = 29,
        **rendering: Any,
    ) -> None:
        task = task_rows([goal], 2, GOAL)[0]
        super().__init__(goal_body(variant, frame_skip, observation_size), task, **rendering)


@register("ant-goal")
@dataclass(frozen=True, kw_only=True)
class AntGoal:
    """Ant that walks to a goal drawn for each task, which it cannot see.

    Task: x and y of the goal (m). With ``variant`` "maml" uniform in the square [-``extent``, ``extent``]^2, with
    "promp" (also PEARL and VariBAD) uniform in the disc of radius ``extent`` about the start; 3 m in all of them.

    Reward: with "maml" ``4 - L1 + 0.05 - 0.005 sum a^2 - 0.0005 sum cf^2``, with "promp"
    ``-L1 - 0.1 sum a^2 - 0.0005 sum cf^2``: L1 is the distance ``|x - goal_x| + |y - goal_y|`` (m) of the torso at the
    end of the control step; a and cf, really computed, are as in ``AntVel``.

    Termination: with "maml" when the torso's height leaves [0.2, 1] m, with "promp" never, not even upside down. A
    diverged simulation is truncated.

    Action, time step and initial state: as ``AntVel``.

    Observation, float64; the place of the torso is part of it, or no policy could stop at a goal:

    | index | quantity | unit |
    |---|---|---|
    | 0-2 | position x, y and height of the torso | m |
    | 3-6 | orientation of the torso, quaternion w, x, y, z | 1 |
    | 7-14 | angles of hip and ankle of legs 1 to 4 | rad |
    | 15-17 | velocity x, y, z of the torso | m/s |
    | 18-20 | angular velocity of the torso about its own x, y, z | rad/s |
    | 21-28 | angular velocities of hip and ankle of legs 1 to 4 | rad/s |
    | 29-112 | torque and force on each of the 14 bodies, only if ``observation_size`` is 113 | N m, N |

    The last 84 are clipped to [-1, 1]; the first 6 of them are the world's and always 0. ProMP and PEARL have the 113;
    MAML's code adds the orientation matrix of the torso and its position once more.

    Source: Finn et al. 2017 (arXiv:1703.03400), code cbfinn/maml_rl, ``ant_env_rand_goal.py``; Rothfuss et al. 2019
    (arXiv:1810.06784), code jonasrothfuss/ProMP, ``ant_rand_goal.py``, the same in katerakelly/oyster.
    """

    variant: Variant = "maml"
    """Whose goals, reward and termination; promp is also PEARL's and VariBAD's."""
    extent: float = 3.0
    """Half the side of the square, or the radius of the disc, in which goals lie (m)."""
    frame_skip: FrameSkip = 5
    """Simulation steps of 0.01 s per control step: 2 is rllab's timing, 5 Gymnasium's."""
    observation_size: ObservationSize = 29
    """Numbers in an observation: 29 positions and velocities, 113 adds contact forces."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_at_least("extent", self.extent, 0.0)
        check_count("threads", self.threads, 0)
        self.body()

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Goals ``[count, 2]`` (m)."""
        check_count("count", count, 1)
        if self.variant == "maml":
            return rng.uniform(-self.extent, self.extent, size=(count, 2))
        angle = rng.uniform(0.0, 2.0 * np.pi, size=count)
        radius = self.extent * np.sqrt(rng.uniform(size=count))
        return radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> AntGoalEnv:
        """The environment of one task ``[2]``."""
        return AntGoalEnv(
            task,
            variant=self.variant,
            frame_skip=self.frame_skip,
            observation_size=self.observation_size,
            render_mode=render_mode,
        )

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 2]``."""
        return make_locomotion_vec(self.body(), task_rows(tasks, 2, GOAL), episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"goal ({task[0]:.2f}, {task[1]:.2f}) m"

    def body(self) -> Body:
        """Model, observation, reward and termination of the chosen variant."""
        return goal_body(self.variant, self.frame_skip, self.observation_size)

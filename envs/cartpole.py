"""Cart-pole with unknown gravity and pole length: the shortest family there is, to start your own from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

from metarl.envs.checks import FloatArray, Tasks, check_count, check_positive, check_range, task_rows
from metarl.tasks import register


class CartPoleTaskEnv(CartPoleEnv):
    """Gymnasium's cart-pole with another gravity (m/s^2) and half pole length (m), without a time limit."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(self, gravity: float = 9.8, half_length: float = 0.5) -> None:
        check_positive("gravity", gravity, "m/s^2")
        check_positive("half_length", half_length, "m")
        super().__init__()
        self.gravity, self.length = gravity, half_length
        self.polemass_length = self.masspole * half_length


@register("cartpole")
@dataclass(frozen=True, kw_only=True)
class CartPole:
    """Cart-pole that has to be balanced under unknown gravity with a pole of unknown length.

    Task: gravity (m/s^2) and half the length of the pole (m), each uniform between its bounds; the ranges are ours.

    Reward, action, observation, termination, time (0.02 s a step) and initial state: Gymnasium's CartPole-v1, but for
    its time limit, which is the rollout's horizon.
    """

    gravity_low: float = 5.0
    """Least gravity (m/s^2)."""
    gravity_high: float = 15.0
    """Greatest gravity (m/s^2)."""
    half_length_low: float = 0.25
    """Half the length of the shortest pole (m)."""
    half_length_high: float = 1.0
    """Half the length of the longest pole (m)."""

    def __post_init__(self) -> None:
        check_positive("gravity_low", self.gravity_low, "m/s^2")
        check_positive("half_length_low", self.half_length_low, "m")
        check_range("gravity", self.gravity_low, self.gravity_high)
        check_range("half_length", self.half_length_low, self.half_length_high)

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Gravity (m/s^2) and half pole length (m), ``[count, 2]``."""
        check_count("count", count, 1)
        low, high = (self.gravity_low, self.half_length_low), (self.gravity_high, self.half_length_high)
        return rng.uniform(low, high, size=(count, 2))

    def make_env(self, task: FloatArray) -> CartPoleTaskEnv:
        """The environment of one task ``[2]``."""
        return CartPoleTaskEnv(*task_rows([task], 2, "gravity in m/s^2 and half pole length in m")[0].tolist())

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"gravity {task[0]:.1f} m/s^2, half pole length {task[1]:.2f} m"

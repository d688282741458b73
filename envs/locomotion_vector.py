"""Many simulations of one body as a Gymnasium vector environment, over one ``mujoco.batch.Batch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.envs.body import DIVERGED, Body, State, Transition, judge, without_log
from metarl.envs.checks import BoolArray, FloatArray, bad_rows, check_actions, check_count, episode_generators

try:
    from mujoco.batch import Batch
except ImportError:  # before MuJoCo 4.0
    Batch = None

VectorStep = tuple[FloatArray, FloatArray, BoolArray, BoolArray, dict[str, Any]]


def batch_available() -> bool:
    """Whether the installed MuJoCo can step many simulations at once (4.0 and later)."""
    return Batch is not None


class LocomotionVectorEnv(VectorEnv[FloatArray, NDArray[np.float32], NDArray[Any]]):
    """N bodies, each with its own task, stepped on a thread pool; equal to N ``LocomotionEnv`` bit for bit.

    A row that is terminated or truncated stays as it is, with reward 0 and its flags set, until ``reset``.
    ``info["diverged"]`` ``[N]`` tells which rows were truncated because their simulation diverged or an action was
    not finite. The number of threads changes no number.

    Args:
        body: model, observation, reward and termination.
        tasks: task parameters of each row ``[N, P]``.
        threads: simulation threads; 0 uses every CPU.

    Raises:
        NotImplementedError: if this MuJoCo has no ``mujoco.batch``.
    """

    def __init__(self, body: Body, tasks: FloatArray, *, threads: int = 0) -> None:
        if not batch_available():
            raise NotImplementedError(
                f"stepping many simulations at once needs mujoco.batch of MuJoCo 4.0, this is {mujoco.__version__}; "
                "use make_env for each episode, or upgrade MuJoCo"
            )
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        self.body = body
        self.tasks = tasks
        self.num_envs = len(tasks)
        self.single_action_space = body.action_space()
        self.single_observation_space = body.observation_space()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._batch = Batch(body.model, self.num_envs, nthread=threads)
        if body.parameters is not None:
            for name, values in body.parameters(body.model, tasks).items():
                self._batch.expand(name)[...] = values
            self._batch.set_const()
        self._controls = self._batch.bind("ctrl")
        fields = {name: self._batch.bind(name) for name in body.fields}
        self._state = State(self._batch.bind("qpos"), self._batch.bind("qvel"), fields)
        self._stage = int(mujoco.mjtStage.mjSTAGE_ACC if body.fields else mujoco.mjtStage.mjSTAGE_NONE)
        self._low, self._high = (np.tile(bound, (self.num_envs, 1)) for bound in body.model.actuator_ctrlrange.T)
        self._time = self._batch.bind("time")
        self._now = self._state.copy()
        self._clock = self._time.copy()
        self._started = False
        self._generators: list[np.random.Generator] = []
        self._terminated = np.zeros(self.num_envs, dtype=np.bool_)
        self._diverged = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode in every row.

        Args:
            seed: a seed for each row, which then equals a single environment reset with it; one number, from which
                the rows count up; or None to go on with the rows' generators.
            options: not used.
        """
        self._generators = episode_generators(seed, self._generators, self.num_envs)
        self._batch.reset(stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        for row, rng in enumerate(self._generators):
            self._state.qpos[row], self._state.qvel[row] = self.body.initial(self.body.model, rng)
        with without_log():
            self._batch.forward()
        self._terminated[:] = False
        self._diverged[:] = False
        self._now = self._state.copy()
        self._clock = self._time.copy()
        self._started = False
        return self.body.observe(self._now), {"diverged": self._diverged.copy()}

    def step(self, actions: NDArray[np.float32]) -> VectorStep:
        """Apply ``actions`` ``[N, A]`` for one control step of every row that is not over."""
        wanted = check_actions(actions, self._controls.shape)
        suspect = bad_rows(wanted)
        controls = np.clip(wanted, self._low, self._high)
        if suspect.any():
            controls[suspect] = 0.0
        self._controls[...] = controls
        over = self._terminated | self._diverged
        some_over = bool(over.any())
        if not some_over:
            self._simulate(None)
        elif not over.all():
            self._simulate(np.flatnonzero(~over))
        before, self._now = self._now, self._state.copy()
        suspect |= self._warned()
        transition = Transition(self.tasks, before, controls, self._now, self.body.seconds)
        observations, rewards, terminated, diverged = judge(self.body, transition, suspect)
        if some_over:
            rewards[over] = 0.0
            terminated = terminated & ~over
            diverged = diverged & ~over
        self._terminated |= terminated
        self._diverged |= diverged
        info = {"diverged": self._diverged.copy()}
        return observations, rewards, self._terminated.copy(), self._diverged.copy(), info

    def advance(self, controls: FloatArray, rows: NDArray[np.intp] | None = None) -> None:
        """The physics alone of one control step, to measure what ``step`` adds; call ``reset`` before ``step``.

        Args:
            controls: within the control range, ``[N, A]``.
            rows: which simulations to advance; None for all.
        """
        self._controls[...] = controls
        self._simulate(rows)

    def _warned(self) -> BoolArray | np.bool_:
        """Which simulations MuJoCo found diverged, ``[N]``, or False if none was.

        It restarts them at time 0, so after the first step a look at the clocks, which lie beside the positions, is
        enough: the counters are in other memory that the simulation threads just wrote, and take longer to read.
        """
        before, self._clock = self._clock, self._time.copy()
        if self._started and (self._clock > before).all():
            return np.False_
        self._started = True
        warned: BoolArray = self._batch.warning[:, DIVERGED, 1].any(axis=1)
        return warned

    def _simulate(self, rows: NDArray[np.intp] | None) -> None:
        with without_log():
            self._batch.step(ids=rows, nstep=self.body.frame_skip, stage=self._stage)


def make_locomotion_vec(body: Body, tasks: FloatArray, episodes: int, threads: int) -> LocomotionVectorEnv:
    """``episodes`` rows next to each other for each of ``tasks`` ``[M, P]``."""
    check_count("episodes", episodes, 1)
    return LocomotionVectorEnv(body, np.repeat(tasks, episodes, axis=0), threads=threads)

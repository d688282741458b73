"""Where the episodes of some tasks are sampled: in this process, or wherever the family has it done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from metarl.policies.base import SampledPolicy
from metarl.processor import single_threaded
from metarl.rollout.normalizer import Scaler
from metarl.rollout.sample import Episodes, EpisodeSeeds, sample_episodes
from metarl.rollout.stepping import make_vector_env
from metarl.tasks import Task, TaskFamily
from metarl.types import Params


class Session(Protocol):
    """The environments of one meta-batch; every call of ``sample`` runs one batch of episodes in them."""

    def sample(
        self,
        policy: SampledPolicy,
        phi: Params,
        *,
        horizon: int,
        seeds: EpisodeSeeds,
        scaler: Scaler | None,
        in_a_row: int = 1,
    ) -> Episodes:
        """One or more episodes in each environment, under each task's own ``phi``; see ``sample_episodes``."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


@runtime_checkable
class OpensSessions(Protocol):
    """A family that has its episodes sampled elsewhere than in this process."""

    def open_session(self, tasks: Sequence[Task], episodes: int) -> Session:
        """Environments for ``episodes`` episodes of each task."""
        ...


def open_session(family: TaskFamily, tasks: Sequence[Task], episodes: int) -> Session:
    """Environments for ``episodes`` episodes of each task."""
    if isinstance(family, OpensSessions):
        return family.open_session(tasks, episodes)
    return LocalSession(family, tasks, episodes)


class LocalSession:
    """Environments in this process."""

    def __init__(self, family: TaskFamily, tasks: Sequence[Task], episodes: int) -> None:
        self._tasks = len(tasks)
        self._env = make_vector_env(family, tasks, episodes)

    def sample(
        self,
        policy: SampledPolicy,
        phi: Params,
        *,
        horizon: int,
        seeds: EpisodeSeeds,
        scaler: Scaler | None,
        in_a_row: int = 1,
    ) -> Episodes:
        """See ``Session.sample``."""
        with single_threaded():  # a second torch thread takes a third of the simulation's speed
            return sample_episodes(
                self._env,
                policy,
                phi,
                tasks=self._tasks,
                horizon=horizon,
                seeds=seeds,
                scaler=scaler,
                in_a_row=in_a_row,
            )

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

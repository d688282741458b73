"""Task families: what a distribution over tasks must offer, and the registry that names them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import gymnasium
import numpy as np

Task = Any
"""A row ``[P]`` of task parameters for the built-in families; any picklable object for a user's."""


class UnknownTaskFamily(KeyError):
    """No task family is registered under the name asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidFamilyOption(ValueError):
    """A task family does not take an option, or not with that value."""


class MissingPackage(ImportError):
    """A task family needs a package that is not installed."""


class DuplicateTaskFamily(ValueError):
    """Two task families want the same name."""


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution over tasks that share observation and action spaces.

    A family may also have ``make_vec(tasks, episodes) -> gymnasium.vector.VectorEnv`` with ``len(tasks) * episodes``
    sub-environments, the episodes of one task next to each other, autoreset disabled; see ``SupportsVector``.

    Held-out tasks come from ``sample`` too, by generators that training does not use, which will do where tasks are
    drawn from a continuum. A family with tasks set apart for testing has ``sample_test(rng, count)`` as well: then
    training draws from ``sample`` alone, evaluation from ``sample_test`` alone; see ``SamplesTestTasks``.
    """

    def sample(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """Draw ``count`` tasks from ``rng`` and from nothing else."""
        ...

    def make_env(self, task: Task) -> gymnasium.Env[Any, Any]:
        """The environment of one task."""
        ...


@runtime_checkable
class SupportsVector(Protocol):
    """A family whose simulator steps many episodes at once."""

    def make_vec(self, tasks: Sequence[Task], episodes: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Sub-environment ``m * episodes + e`` runs episode e of ``tasks[m]``; rows that are over stay frozen."""
        ...


@runtime_checkable
class SamplesTestTasks(Protocol):
    """A family with tasks that training must not see."""

    def sample_test(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """Draw ``count`` test tasks, none of which ``sample`` ever draws."""
        ...


Factory = TypeVar("Factory", bound=Callable[..., TaskFamily])

FAMILIES: dict[str, Callable[..., TaskFamily]] = {}
"""Registered families by name; a dataclass as factory gives command-line flags for its fields."""


def closest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known name, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def register(name: str) -> Callable[[Factory], Factory]:
    """Class or function decorator that makes a task family known by ``name``.

    Raises:
        DuplicateTaskFamily: if another factory already has that name.
    """

    def add(factory: Factory) -> Factory:
        known = FAMILIES.get(name)
        if known is not None and known is not factory:
            raise DuplicateTaskFamily(
                f"task family {name!r} is already registered by {known!r}; choose another name for {factory!r}"
            )
        FAMILIES[name] = factory
        return factory

    return add


def family_factory(name: str) -> Callable[..., TaskFamily]:
    """The factory registered under ``name``.

    Raises:
        UnknownTaskFamily: naming the closest known family.
    """
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES)) or "none; import the module that registers yours"
        raise UnknownTaskFamily(f"no task family {name!r}{closest(name, FAMILIES)} (known: {known})")
    return FAMILIES[name]


def make_family(name: str, **options: Any) -> TaskFamily:
    """Build the task family registered under ``name``.

    Raises:
        UnknownTaskFamily: if there is none.
        InvalidFamilyOption: if it does not take one of ``options``, or needs one that is not given.
    """
    factory = family_factory(name)
    parameters = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                known = ", ".join(parameters) or "none"
                raise InvalidFamilyOption(
                    f"{name} has no option {option!r}{closest(option, parameters)} (options: {known})"
                )
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise InvalidFamilyOption(f"{name}: {error}; give every option of a task family a default") from error
    return factory(**options)

"""Task families: what a distribution over tasks must offer, and the registry that names them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

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


class Episodes(NamedTuple):
    """Examples of M few-shot tasks as arrays; support and query of a task share none."""

    support_inputs: np.ndarray
    """``[M, N, ...]``, float32."""
    support_targets: np.ndarray
    """Classes within the task ``[M, N]``, int64, or values to regress on ``[M, N, out]``, float32."""
    query_inputs: np.ndarray
    query_targets: np.ndarray
    support_labels: np.ndarray
    """Which one of all training classes an example shows, ``[M, N]``, int64; ``[M, 0]`` where there are no classes."""
    query_labels: np.ndarray


@runtime_checkable
class FewShotFamily(Protocol):
    """A distribution over supervised tasks of N-way K-shot classification, or of regression from K examples.

    A task is a row of numbers that names everything in it: which classes, which pictures, which points. Support and
    query of a task share no example; a family that means them to coincide says so by ``query_is_support = True``.

    Sequences of tasks to be learned one after another are test tasks in the order in which they are drawn; a family
    that knows better has ``sequence(rng, count, length)`` as well, see ``DrawsSequences``.
    """

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """What is learned: judged by accuracy, or by the mean squared error."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        ...

    @property
    def outputs(self) -> int:
        """Classes in a task, or numbers in a target."""
        ...

    @property
    def training_classes(self) -> int:
        """Classes that training draws from; 0 for regression."""
        ...

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw ``count`` training tasks ``[M, P]`` from ``rng`` and from nothing else."""
        ...

    def sample_validation(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """The same from what is set apart for choosing settings."""
        ...

    def sample_test(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """The same from what is set apart for the final evaluation."""
        ...

    def examples(self, tasks: np.ndarray) -> Episodes:
        """The examples of tasks that one of the three drew."""
        ...

    def variants(self) -> Mapping[str, FewShotFamily]:
        """This family changed in what evaluation looks into: shots, ranges never trained on, noise."""
        ...


@runtime_checkable
class DrawsSequences(Protocol):
    """A family that knows which of its held-out tasks conflict when they are learned one after another."""

    def sequence(self, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Draw ``count`` sequences of ``length`` held-out tasks ``[count, length, P]`` from ``rng`` and from nothing
        else."""
        ...


Family = TaskFamily | FewShotFamily

Factory = TypeVar("Factory", bound=Callable[..., Family])

FAMILIES: dict[str, Callable[..., Any]] = {}
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


def family_factory(name: str) -> Callable[..., Any]:
    """The factory registered under ``name``.

    Raises:
        UnknownTaskFamily: naming the closest known family.
    """
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES)) or "none; import the module that registers yours"
        raise UnknownTaskFamily(f"no task family {name!r}{closest(name, FAMILIES)} (known: {known})")
    return FAMILIES[name]


def make_family(name: str, **options: Any) -> Any:
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

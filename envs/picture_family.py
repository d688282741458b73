"""What families of pictures share: the options of a task's form, and all that follows from a table of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np

from metarl.envs.checks import check_count
from metarl.envs.picture_sequences import disjoint_classes, draw_sequences
from metarl.envs.picture_tasks import Form, IntArray, Table, check_form, draw_tasks, make_examples
from metarl.tasks import Episodes


@dataclass(frozen=True, kw_only=True)
class PictureFamily(ABC):
    """N-way K-shot tasks over the classes of a table, which a family says where to find.

    A base class, for fields and their flags cannot be shared by calling functions.
    """

    data: str | None = None
    """Where the pictures are; what a family looks for there it says itself."""
    ways: int = 5
    """Classes in a task N."""
    shots: int = 1
    """Support pictures of each class K."""
    queries: int = 15
    """Query pictures of each class Q."""
    size: int = 84
    """Height and width of a picture (pixels)."""
    input_noise: float = 0.0
    """Standard deviation of Gaussian noise on support and query pictures, which may leave [0, 1]."""
    label_noise: float = 0.0
    """Share of support labels replaced by another class of the task."""

    channels: ClassVar[int] = 3
    """Of a picture."""

    def __post_init__(self) -> None:
        check_form(self.form)
        check_count("size", self.size, 1)

    @property
    @abstractmethod
    def table(self) -> Table:
        """The pictures, their classes and splits; reads the data."""

    @property
    def smallest_class(self) -> int:
        """Pictures of the class that has fewest; reads the data."""
        return int(self.table.sizes.min())

    @property
    def form(self) -> Form:
        """What a task consists of."""
        return Form(self.ways, self.shots, self.queries, False, self.input_noise, self.label_noise)

    @property
    def kind(self) -> Literal["classification"]:
        """Judged by accuracy."""
        return "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return (self.channels, self.size, self.size)

    @property
    def outputs(self) -> int:
        """Classes in a task."""
        return self.ways

    @property
    def training_classes(self) -> int:
        """Classes for training, times four with rotations; reads the data."""
        return len(self.table.splits["train"]) * self.form.turns

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Tasks ``[count, P]`` of training classes."""
        return draw_tasks(rng, count, self.table, "train", self.form)

    def sample_validation(self, rng: np.random.Generator, count: int) -> IntArray:
        """The same of validation classes."""
        return draw_tasks(rng, count, self.table, "validation", self.form)

    def sample_test(self, rng: np.random.Generator, count: int) -> IntArray:
        """The same of test classes."""
        return draw_tasks(rng, count, self.table, "test", self.form)

    def sequence(self, rng: np.random.Generator, count: int, length: int) -> IntArray:
        """Sequences of test tasks ``[count, length, P]``; no class comes in two tasks of a sequence."""
        return draw_sequences(rng, (count, length), self.table, self.form, disjoint_classes)

    def examples(self, tasks: np.ndarray) -> Episodes:
        """The pictures that tasks name, those of a class next to each other."""
        return make_examples(tasks, self.table, self.form)

    def variants(self) -> Mapping[str, Self]:
        """More and fewer shots, as far as the classes' pictures go, and noise."""
        shots = [count for count in (1, 2, 5, 10) if count + self.queries <= self.smallest_class]
        found = {f"{count} shot{'s' * (count > 1)}": replace(self, shots=count) for count in shots}
        found["input noise 0.3"] = replace(self, input_noise=0.3)
        if self.shots > 1:
            found["label noise 0.2"] = replace(self, label_noise=0.2)
        return found

    def describe(self, task: np.ndarray) -> str:
        """The task in words."""
        return ", ".join(self.table.names[int(number)] for number in task[: self.ways])

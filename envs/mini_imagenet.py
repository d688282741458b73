"""Mini-ImageNet, which everyone has to get on their own: 100 classes of photographs, 600 of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from metarl.envs.checks import check_count
from metarl.envs.data import MissingData, cache_root, data_root
from metarl.envs.image_cache import Layout
from metarl.envs.image_folder import folder_table, tables
from metarl.envs.picture_tasks import Form as TaskForm
from metarl.envs.picture_tasks import IntArray, Table, check_form, common_variants, draw_tasks, make_examples
from metarl.tasks import Episodes, register


def find_mini_imagenet(data: str | None) -> Path:
    """The set itself, or the root that holds it as ``mini-imagenet`` or ``mini-imagenet.zip``.

    Raises:
        MissingData: with what to put where.
    """
    root = data_root(data)
    places = [root / "mini-imagenet", root / "mini-imagenet.zip"]
    for place in places:
        if place.exists():
            return place
    if root.is_file() or (root / "train.csv").exists():
        return root
    raise MissingData(
        f"mini-ImageNet must be at {str(places[0])!r} or {str(places[1])!r}, and neither is there; ImageNet's terms "
        "forbid to pass its pictures on, so it is not downloaded. Put there a folder images with the 60,000 pictures "
        "and, beside it, train.csv, val.csv and test.csv of Ravi and Larochelle (64, 16 and 20 classes), with the "
        "columns filename,label; or name another place by the option data or by METARL_DATA"
    )


@register("mini-imagenet")
@dataclass(frozen=True, kw_only=True)
class MiniImageNet:
    """Photographs of 100 classes to be told apart from one or a few of each.

    Task, a row of whole numbers: ``ways`` different classes, which pictures of each are support and which are query
    (none is both), and a seed for noise; ``picture_tasks`` has the order.

    Input: the photograph, RGB in [0, 1], float32 [3, 84, 84]; resized by Pillow's Lanczos filter, without cropping.

    Target: which of the task's classes, 0 to ``ways`` - 1.

    Splits: of classes, as the tables say; 64 for training, 16 for validation, 20 for test.

    Data: ``images/``, ``train.csv``, ``val.csv`` and ``test.csv``, in the folder or zip ``mini-imagenet`` under the
    data root. ImageNet's terms forbid to pass its pictures on: nothing is downloaded.

    Source: Vinyals et al. 2016 (arXiv:1606.04080); the split Ravi and Larochelle 2017 (ICLR).
    """

    data: str | None = None
    """The set, or the data root that holds it; else METARL_DATA, else the user's data folder."""
    ways: int = 5
    """Classes in a task N."""
    shots: int = 1
    """Support pictures of each class K; 1 or 5 in the papers."""
    queries: int = 15
    """Query pictures of each class Q, as Ravi and Larochelle take."""
    size: int = 84
    """Height and width of a picture (pixels)."""
    input_noise: float = 0.0
    """Standard deviation of Gaussian noise on support and query pictures, which may leave [0, 1]."""
    label_noise: float = 0.0
    """Share of support labels replaced by another class of the task."""

    def __post_init__(self) -> None:
        check_form(self._form)
        check_count("size", self.size, 1)

    @property
    def kind(self) -> Literal["classification"]:
        """Judged by accuracy."""
        return "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Three channels, height, width."""
        return (3, self.size, self.size)

    @property
    def outputs(self) -> int:
        """Classes in a task."""
        return self.ways

    @property
    def training_classes(self) -> int:
        """Classes for training; reads the data."""
        return len(self._table.splits["train"])

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Tasks ``[count, P]`` of training classes."""
        return draw_tasks(rng, count, self._table, "train", self._form)

    def sample_validation(self, rng: np.random.Generator, count: int) -> IntArray:
        """The same of validation classes."""
        return draw_tasks(rng, count, self._table, "validation", self._form)

    def sample_test(self, rng: np.random.Generator, count: int) -> IntArray:
        """The same of test classes."""
        return draw_tasks(rng, count, self._table, "test", self._form)

    def examples(self, tasks: np.ndarray) -> Episodes:
        """The pictures that tasks name, those of a class next to each other."""
        return make_examples(tasks, self._table, self._form)

    def variants(self) -> Mapping[str, MiniImageNet]:
        """More and fewer shots, and noise; reads the data."""
        return common_variants(self, int(self._table.sizes.min()))

    def describe(self, task: np.ndarray) -> str:
        """The task in words."""
        return ", ".join(self._table.names[int(number)] for number in task[: self.ways])

    @property
    def _form(self) -> TaskForm:
        return TaskForm(self.ways, self.shots, self.queries, False, self.input_noise, self.label_noise)

    @property
    def _table(self) -> Table:
        layout = Layout("mini-imagenet", tables)
        return folder_table(find_mini_imagenet(self.data), layout, self.size, 0, cache_root())

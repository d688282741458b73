"""N-way K-shot tasks from classes of pictures: rows of numbers that name everything, and the examples they stand for.

A row of W classes, K support and Q query pictures each, has W classes, W quarter turns, W * K support pictures, W * Q
query pictures (numbers within their class) and a seed for noise: ``2 W + W (K + Q) + 1`` whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.envs.checks import check_at_least, check_count, whole_task_rows
from metarl.envs.data import InvalidPictures
from metarl.envs.image_cache import Pictures
from metarl.tasks import Episodes

IntArray = NDArray[np.int64]
Split = Literal["train", "validation", "test"]

SEEDS = 2**31
"""Seeds of noise are below it."""


class Table(NamedTuple):
    """Classes of pictures, those for training first, then those for validation and for test."""

    images: NDArray[np.uint8]
    """``[N, channels, height, width]``."""
    first: IntArray
    """Where the pictures of each class begin in ``images``, ``[C]``."""
    sizes: IntArray
    """How many each class has, ``[C]``."""
    splits: dict[Split, IntArray]
    """The classes of each split."""
    names: tuple[str, ...]
    """Of the classes, C of them."""
    where: str
    """The data set, for messages."""


class Form(NamedTuple):
    """What a task consists of."""

    ways: int
    """Classes W."""
    shots: int
    """Support pictures K of each class."""
    queries: int
    """Query pictures Q of each class."""
    rotations: bool = False
    """Whether each class is turned by a random number of quarter turns, which makes four classes of one."""
    input_noise: float = 0.0
    """Standard deviation of Gaussian noise on support and query inputs."""
    label_noise: float = 0.0
    """Share of support labels replaced by another class of the task."""

    @property
    def turns(self) -> int:
        """Classes that one class of pictures makes."""
        return 4 if self.rotations else 1

    @property
    def row(self) -> int:
        """Numbers in a task."""
        return self.ways * (2 + self.shots + self.queries) + 1


class Rows(NamedTuple):
    """Tasks taken apart."""

    classes: IntArray
    """``[M, W]``."""
    turns: IntArray
    """Quarter turns, counterclockwise, ``[M, W]``."""
    support: IntArray
    """Pictures within their class, ``[M, W, K]``."""
    query: IntArray
    """``[M, W, Q]``."""
    seeds: IntArray
    """``[M]``."""


def make_table(pictures: Pictures, splits: Sequence[IntArray], where: str) -> Table:
    """Classes in the order of their splits, which are three, of numbers of ``pictures.classes``."""
    order = np.concatenate(splits)
    sizes = np.array([each.size for each in pictures.classes])
    train, validation, test = np.split(np.arange(len(order)), np.cumsum([len(split) for split in splits])[:2])
    return Table(
        images=pictures.images,
        first=(np.cumsum(sizes) - sizes)[order],
        sizes=sizes[order],
        splits={"train": train, "validation": validation, "test": test},
        names=tuple(pictures.classes[place].label for place in order),
        where=where,
    )


def check_form(form: Form) -> None:
    """Raise ValueError unless tasks of this form are possible."""
    check_count("ways", form.ways, 2)
    check_count("shots", form.shots, 1)
    check_count("queries", form.queries, 1)
    check_at_least("input_noise", form.input_noise, 0.0)
    if not 0.0 <= form.label_noise <= 1.0:
        raise ValueError(f"label_noise must lie in [0, 1], a share of the support labels; got {form.label_noise!r}")


def distinct(rng: np.random.Generator, sizes: IntArray, counts: tuple[int, ...]) -> IntArray:
    """Different numbers below each of ``sizes`` ``[R]``, as many as ``counts`` say in all, ``[R, sum(counts)]``.

    Every order is as likely as any other (Fisher and Yates' shuffle, stopped early). The first group comes out the same
    whatever the other counts are.
    """
    rows, total = np.arange(len(sizes)), sum(counts)
    ends = np.cumsum(counts)
    places = np.concatenate(
        [
            rng.integers(np.arange(end - count, end), sizes[:, None], (len(sizes), count))
            for end, count in zip(ends, counts, strict=True)
        ],
        axis=1,
    )
    deck = np.tile(np.arange(sizes.max()), (len(sizes), 1))
    for place in range(total):
        other = places[:, place]
        taken = deck[rows, other]
        deck[rows, other] = deck[rows, place]
        deck[rows, place] = taken
    return deck[:, :total]


def draw_tasks(rng: np.random.Generator, count: int, table: Table, split: Split, form: Form) -> IntArray:
    """Draw ``count`` tasks ``[count, P]`` from the classes of a split.

    Classes of a task are different, and so are all pictures of a class in it. From equal generators forms that differ
    in shots or noise get the same classes and the same query pictures.

    Raises:
        InvalidPictures: if there are too few classes or pictures.
    """
    check_count("count", count, 1)
    pool = table.splits[split]
    check_enough(table, split, form)
    classes = pool[distinct(rng, np.full(count, len(pool)), (form.ways,))]
    return draw_pictures(rng, classes, table, form)


def draw_pictures(rng: np.random.Generator, classes: IntArray, table: Table, form: Form) -> IntArray:
    """Tasks ``[M, P]`` of the classes given, ``[M, W]``: quarter turns, pictures and seeds."""
    count = len(classes)
    turns = rng.integers(0, 4, classes.shape) if form.rotations else np.zeros_like(classes)
    seeds = rng.integers(0, SEEDS, (count, 1))
    pictures = distinct(rng, table.sizes[classes.reshape(-1)], (form.queries, form.shots))
    query, support = pictures[:, : form.queries], pictures[:, form.queries :]
    return np.concatenate([classes, turns, support.reshape(count, -1), query.reshape(count, -1), seeds], axis=1)


def check_enough(table: Table, split: Split, form: Form) -> None:
    """Raise InvalidPictures unless a split has enough classes and each of them enough pictures."""
    pool = table.splits[split]
    if len(pool) < form.ways:
        raise InvalidPictures(
            f"{form.ways}-way tasks need at least {form.ways} {split} classes; {table.where} has {len(pool)}; "
            "lower ways, or split the classes otherwise"
        )
    least = pool[np.argmin(table.sizes[pool])]
    if table.sizes[least] < form.shots + form.queries:
        raise InvalidPictures(
            f"tasks need {form.shots} + {form.queries} pictures of each class, shots and queries; "
            f"{table.names[least]!r} of {table.where} has {table.sizes[least]}; lower shots or queries"
        )


def take_apart(tasks: np.ndarray, table: Table, form: Form) -> Rows:
    """Tasks as their parts.

    Raises:
        ValueError: if the shape does not fit ``form``, or a number names nothing.
    """
    ways, pictures = form.ways, form.ways * form.shots
    rows = whole_task_rows(tasks, form.row, "classes, quarter turns, pictures, seed", SEEDS)
    parts = np.split(rows, np.cumsum([ways, ways, pictures, ways * form.queries]), axis=1)
    classes, turns = parts[0], parts[1]
    support, query = parts[2].reshape(-1, ways, form.shots), parts[3].reshape(-1, ways, form.queries)
    known = (classes < len(table.sizes)) & (turns < form.turns)
    sizes = table.sizes[np.where(known, classes, 0)][..., None]
    wrong = ~known | (support >= sizes).any(axis=2) | (query >= sizes).any(axis=2)
    if wrong.any():
        raise ValueError(
            f"tasks must name classes, quarter turns and pictures that are there; task {np.argwhere(wrong)[0, 0]} does "
            f"not; draw tasks from a family with the same options over {table.where}"
        )
    return Rows(classes, turns, support, query, parts[4][:, 0])


def make_examples(tasks: np.ndarray, table: Table, form: Form) -> Episodes:
    """The pictures that tasks name, those of a class next to each other; noise from the tasks' seeds.

    Labels tell what a picture shows, whatever noise made of its target: class times four plus quarter turns where
    rotations make new classes, else the class; those of training classes come first.
    """
    rows = take_apart(tasks, table, form)
    shown = rows.classes * form.turns + rows.turns
    support, query = gather(table, rows, rows.support), gather(table, rows, rows.query)
    support_targets = np.tile(np.repeat(np.arange(form.ways), form.shots), (len(shown), 1))
    query_targets = np.tile(np.repeat(np.arange(form.ways), form.queries), (len(shown), 1))
    if form.input_noise or form.label_noise:
        for task, seed in enumerate(rows.seeds):
            rng = np.random.default_rng(int(seed))
            replace_labels(support_targets[task], form, rng)
            for inputs in (support[task], query[task]):
                inputs += form.input_noise * rng.standard_normal(inputs.shape, dtype=np.float32)
    return Episodes(
        support, support_targets, query, query_targets,
        np.repeat(shown, form.shots, axis=1), np.repeat(shown, form.queries, axis=1),
    )  # fmt: skip


def gather(table: Table, rows: Rows, pictures: IntArray) -> NDArray[np.float32]:
    """Pictures ``[M, W, n]`` of the rows' classes in [0, 1], turned, ``[M, W * n, channels, height, width]``."""
    tasks, ways, count = pictures.shape
    places = table.first[rows.classes][..., None] + pictures
    images = table.images[places.reshape(-1)]
    turns = np.repeat(rows.turns.reshape(-1), count)
    for turn in (1, 2, 3):
        turned = turns == turn
        if turned.any():
            images[turned] = np.rot90(images[turned], turn, axes=(2, 3))
    inputs = np.multiply(images, np.float32(1.0 / 255.0), dtype=np.float32)
    several: NDArray[np.float32] = inputs.reshape(tasks, ways * count, *images.shape[1:])
    return several


def replace_labels(targets: IntArray, form: Form, rng: np.random.Generator) -> None:
    """Give a share of ``targets`` ``[N]``, rounded to whole ones, another class of the task, in place."""
    wrong = rng.permutation(len(targets))[: round(form.label_noise * len(targets))]
    targets[wrong] = (targets[wrong] + rng.integers(1, form.ways, len(wrong))) % form.ways

"""Test tasks of pictures to be learned one after another: which classes each of them has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metarl.envs.checks import check_count
from metarl.envs.data import InvalidPictures
from metarl.envs.picture_tasks import Form, IntArray, Table, check_enough, distinct, draw_pictures

Choose = Callable[[np.random.Generator, tuple[int, int], Table, int], IntArray]
"""From a generator, how many sequences of how many tasks, the table and the ways W to classes
``[count, length, W]`` of the test split."""


def draw_sequences(
    rng: np.random.Generator, shape: tuple[int, int], table: Table, form: Form, choose: Choose
) -> IntArray:
    """Draw sequences of test tasks ``[count, length, P]``.

    Args:
        rng: where all that is random comes from.
        shape: how many sequences, and of how many tasks.
        table: the pictures.
        form: of a task.
        choose: the classes of each task.

    Raises:
        InvalidPictures: if there are too few classes or pictures.
    """
    count, length = shape
    check_count("count", count, 1)
    check_count("length", length, 1)
    check_enough(table, "test", form)
    classes = choose(rng, shape, table, form.ways)
    return draw_pictures(rng, classes.reshape(-1, form.ways), table, form).reshape(count, length, -1)


def disjoint_classes(rng: np.random.Generator, shape: tuple[int, int], table: Table, ways: int) -> IntArray:
    """Classes of which none comes in two tasks of a sequence.

    Raises:
        InvalidPictures: if there are too few.
    """
    (count, length), pool = shape, table.splits["test"]
    if len(pool) < length * ways:
        raise InvalidPictures(
            f"a sequence of {length} {ways}-way tasks needs {length * ways} test classes, for none comes twice; "
            f"{table.where} has {len(pool)}, enough for {len(pool) // ways} tasks; lower the number of tasks"
        )
    return pool[distinct(rng, np.full(count, len(pool)), (length * ways,))].reshape(count, length, ways)


def grouped_classes(group_of: Callable[[str], str], what: str) -> Choose:
    """Classes of one group for each task, of another group for each task of a sequence.

    Args:
        group_of: from the name of a class to its group.
        what: a group is called, for messages.
    """

    def choose(rng: np.random.Generator, shape: tuple[int, int], table: Table, ways: int) -> IntArray:
        (count, length), pool = shape, table.splits["test"]
        names = np.array([group_of(table.names[number]) for number in pool])
        order = np.argsort(names, kind="stable")
        _, first, sizes = np.unique(names[order], return_index=True, return_counts=True)
        large = np.flatnonzero(sizes >= ways)
        if len(large) < length:
            raise InvalidPictures(
                f"a sequence of {length} {ways}-way tasks needs {length} {what}s of at least {ways} test classes, one "
                f"for each task; {table.where} has {len(large)}; lower the number of tasks or ways"
            )
        chosen = large[distinct(rng, np.full(count, len(large)), (length,))].reshape(-1)
        places = first[chosen][:, None] + distinct(rng, sizes[chosen], (ways,))
        classes: IntArray = pool[order[places]].reshape(count, length, ways)
        return classes

    return choose

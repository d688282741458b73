"""Classes of tasks that come one after another."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from metarl.envs.data import InvalidPictures
from metarl.envs.picture_sequences import disjoint_classes, draw_sequences, grouped_classes
from metarl.envs.picture_tasks import Form, Table, take_apart

NAMES = ("b/0", "a/1", "c/2", "b/3", "a/4", "b/5", "c/6", "a/7", "d/8", "b/9")
"""Four groups of 4, 3, 2 and 1 classes, in no order."""


def table() -> Table:
    """Two classes for training, then ten for test; three pictures of each."""
    first = 3 * np.arange(12)
    splits = {"train": np.arange(2), "validation": np.arange(0), "test": np.arange(2, 12)}
    images = np.zeros((36, 1, 2, 2), dtype=np.uint8)
    return Table(images, first, np.full(12, 3), splits, ("b/x", "a/x", *NAMES), "the set")


def test_no_class_comes_twice_in_a_sequence_and_every_one_in_some():
    classes = disjoint_classes(np.random.default_rng(0), (200, 3), table(), 3)
    assert classes.shape == (200, 3, 3)
    assert all(len(set(row)) == 9 for row in classes.reshape(200, 9).tolist())
    assert set(classes.ravel()) == set(range(2, 12))


def test_a_task_has_classes_of_one_group_and_groups_come_once_and_alike_often():
    """Groups of at least two: a, b and c, each first in a third of 3000 sequences; deviation 26."""
    choose = grouped_classes(lambda name: name[0], "letter")
    classes = choose(np.random.default_rng(0), (3000, 3), table(), 2)
    groups = np.vectorize(lambda number: table().names[number][0])(classes)
    assert (groups[..., 0] == groups[..., 1]).all()
    assert all(sorted(row) == ["a", "b", "c"] for row in groups[..., 0].tolist())
    assert all(abs(count - 1000) < 5 * 26 for count in Counter(groups[:, 0, 0]).values())
    assert (classes[..., 0] != classes[..., 1]).all()
    assert set(classes.ravel()) == set(range(2, 12)) - {10}, "all but the class that is alone in its group"


def test_rows_hold_different_pictures_of_the_classes_chosen():
    form = Form(ways=3, shots=1, queries=2)
    tasks = draw_sequences(np.random.default_rng(0), (20, 3), table(), form, disjoint_classes)
    assert tasks.shape == (20, 3, form.row)
    rows = take_apart(tasks.reshape(60, -1), table(), form)
    pictures = np.concatenate([rows.support, rows.query], 2).reshape(-1, 3)
    assert all(sorted(row) == [0, 1, 2] for row in pictures.tolist())


def test_sequences_that_are_too_long_are_refused_with_what_there_is():
    rng, form = np.random.default_rng(0), Form(3, 1, 1)
    with pytest.raises(InvalidPictures, match=r"of 4 3-way tasks needs 12 test classes.* has 10, enough for 3 tasks"):
        draw_sequences(rng, (5, 4), table(), form, disjoint_classes)
    with pytest.raises(InvalidPictures, match=r"needs 3 letters of at least 3 test classes.* the set has 2; lower"):
        draw_sequences(rng, (5, 3), table(), form, grouped_classes(lambda name: name[0], "letter"))
    with pytest.raises(InvalidPictures, match="11-way tasks need at least 11 test classes"):
        draw_sequences(rng, (5, 1), table(), Form(11, 1, 1), disjoint_classes)
    with pytest.raises(ValueError, match="length must be a whole number of at least 1; got 0"):
        draw_sequences(rng, (5, 0), table(), form, disjoint_classes)

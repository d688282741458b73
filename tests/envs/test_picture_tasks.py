"""Drawing tasks without repetition: every choice alike, the query the same whatever the support."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs.picture_tasks import Form, distinct, replace_labels


def test_every_ordered_choice_is_as_likely_as_any_other():
    """24000 draws of 2 of 4: 12 ordered pairs of probability 1/12; the standard deviation of a count is 43."""
    drawn = distinct(np.random.default_rng(0), np.full(24_000, 4), (1, 1))
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert all(abs(count - 2000) < 5 * 43 for count in counts.values())


def test_rows_of_different_sizes_stay_below_them_and_repeat_nothing():
    sizes = np.array([3, 5, 100, 3])
    for seed in range(50):
        drawn = distinct(np.random.default_rng(seed), sizes, (1, 2))
        assert (drawn < sizes[:, None]).all()
        assert all(len(set(row)) == 3 for row in drawn.tolist())


def test_the_first_group_is_the_same_whatever_comes_after():
    sizes = np.full(10, 20)
    few, many = (distinct(np.random.default_rng(0), sizes, (5, count)) for count in (1, 15))
    assert_array_equal(few[:, :5], many[:, :5])


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.2, 4), (0.31, 6), (1.0, 20)])
def test_a_share_of_labels_is_replaced_by_others_never_by_the_same(share, wrong):
    form = Form(5, 4, 1, label_noise=share)
    targets = np.repeat(np.arange(5), 4)
    replace_labels(targets, form, np.random.default_rng(0))
    assert (targets != np.repeat(np.arange(5), 4)).sum() == wrong
    assert set(targets) <= set(range(5))

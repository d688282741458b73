"""Comparison of what was sampled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.rollout.sample import Episodes


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """A function that asserts that two batches of episodes are equal bit for bit, over all or some of the tasks."""

    def compare(first: Episodes, second: Episodes, tasks: slice = slice(None)) -> None:
        for field, one, other in zip(Episodes._fields, first, second, strict=True):
            parts = (one, other) if isinstance(one, dict) else ({"": one}, {"": other})
            assert parts[0].keys() == parts[1].keys()
            for name, values in parts[0].items():
                assert_array_equal(np.asarray(values)[tasks], parts[1][name], err_msg=f"{field} {name}")

    return compare

"""Boolean functions: truth tables by hand, which need a hidden layer, what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import metarl
from metarl.envs import Boolean
from metarl.envs.boolean import CORNERS, INSEPARABLE, NAMES, TABLES
from metarl.tasks import FewShotFamily

BY_HAND = {
    "false": lambda a, b: False,
    "nor": lambda a, b: not (a or b),
    "b and not a": lambda a, b: b and not a,
    "not a": lambda a, b: not a,
    "a and not b": lambda a, b: a and not b,
    "not b": lambda a, b: not b,
    "xor": lambda a, b: a != b,
    "nand": lambda a, b: not (a and b),
    "and": lambda a, b: a and b,
    "xnor": lambda a, b: a == b,
    "b": lambda a, b: b,
    "a implies b": lambda a, b: not a or b,
    "a": lambda a, b: a,
    "b implies a": lambda a, b: not b or a,
    "or": lambda a, b: a or b,
    "true": lambda a, b: True,
}


def drawn(sample) -> set[int]:
    """All functions that 500 draws give; each of 16 is missed with probability 1e-14."""
    return set(sample(np.random.default_rng(0), 500)[:, 0].tolist())


def separable(targets: np.ndarray) -> bool:
    """Whether a threshold unit with weights in -1, 0, 1 and bias in -1/2, 0, 1/2 computes the outputs."""
    weights = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
    outputs = weights[:, :2] @ CORNERS.T + weights[:, 2:] / 2.0
    return bool(((outputs > 0.0) == (targets > 0.0)).all(axis=1).any())


@pytest.mark.parametrize("number", range(16))
def test_every_function_has_the_truth_table_of_its_name(number):
    wanted = [1.0 if BY_HAND[NAMES[number]](a > 0, b > 0) else -1.0 for a, b in CORNERS]
    episodes = Boolean().examples(np.array([[number]]))
    assert_array_equal(episodes.support_inputs[0], CORNERS)
    assert_array_equal(episodes.support_targets[0, :, 0], wanted)


def test_xor_and_xnor_alone_are_inseparable():
    assert tuple(number for number in range(16) if not separable(TABLES[number])) == INSEPARABLE


def test_support_and_query_are_the_whole_table_in_arrays_of_their_own():
    episodes = Boolean().examples(np.array([[6], [8]]))
    assert_array_equal(episodes.support_inputs, episodes.query_inputs)
    assert_array_equal(episodes.support_targets, episodes.query_targets)
    assert not np.shares_memory(episodes.support_inputs, episodes.query_inputs)
    assert [array.shape for array in episodes] == [(2, 4, 2), (2, 4, 1)] * 2 + [(2, 0)] * 2
    assert [array.dtype for array in episodes] == [np.float32] * 4 + [np.int64] * 2


@pytest.mark.parametrize(
    ("functions", "wanted"),
    [("all", set(range(16))), ("separable", set(range(16)) - {6, 9}), ("inseparable", {6, 9})],
)
def test_a_group_is_drawn_whole_by_training_validation_and_test(functions, wanted):
    family = Boolean(functions=functions)
    assert drawn(family.sample) == drawn(family.sample_validation) == drawn(family.sample_test) == wanted


def test_held_out_xor_and_xnor_are_the_test_and_nothing_else_is():
    family = Boolean(held_out=True)
    assert drawn(family.sample) == drawn(family.sample_validation) == set(range(16)) - {6, 9}
    assert drawn(family.sample_test) == {6, 9}


def test_variants_test_the_two_groups_apart_even_where_xor_is_held_out():
    variants = Boolean(held_out=True).variants()
    assert drawn(variants["separable"].sample_test) == set(range(16)) - {6, 9}
    assert drawn(variants["inseparable"].sample_test) == {6, 9}


def test_the_family_is_found_by_name_and_fulfils_the_contract():
    family = metarl.make_family("boolean")
    assert isinstance(family, FewShotFamily)
    assert (family.kind, family.input_shape, family.outputs, family.training_classes) == ("regression", (2,), 1, 0)
    assert family.describe(np.array([6])) == "xor"


def test_the_same_generator_gives_the_same_tasks():
    assert_array_equal(Boolean().sample(np.random.default_rng(1), 20), Boolean().sample(np.random.default_rng(1), 20))


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="functions must be one of 'all', 'separable', 'inseparable'; got 'xor'"):
        Boolean(functions="xor")
    with pytest.raises(ValueError, match="got 'inseparable', which leaves nothing to train on"):
        Boolean(functions="inseparable", held_out=True)
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 15 .* got 16\.0 for task 1"):
        Boolean().examples(np.array([[3], [16]]))
    with pytest.raises(ValueError, match=r"got 2\.5 for task 0"):
        Boolean().examples(np.array([[2.5]]))

"""Figures of sequences, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from metarl.few_shot.forgetting import sequence_figures

HAND = np.array(
    [
        [0.2, 0.2, 0.3],  # before any task
        [0.9, 0.3, 0.2],
        [0.5, 0.8, 0.4],
        [0.6, 0.4, 0.7],
    ]
)[..., None]


def figures_of(matrix: np.ndarray, *, lower_is_better: bool = False) -> dict[str, np.ndarray]:
    return sequence_figures(matrix, lower_is_better=lower_is_better)._asdict()


def test_figures_of_three_accuracies_by_hand():
    found = figures_of(HAND)
    assert_allclose(found["average"], [(0.6 + 0.4 + 0.7) / 3])
    assert_allclose(found["learning"], [(0.9 + 0.8 + 0.7) / 3])
    assert_allclose(found["backward_transfer"], [((0.6 - 0.9) + (0.4 - 0.8)) / 2])
    assert_allclose(found["forgetting"], [((0.9 - 0.6) + (0.8 - 0.4)) / 2])
    assert_allclose(found["forward_transfer"], [((0.3 - 0.2) + (0.4 - 0.3)) / 2])


def test_a_task_that_was_best_after_a_later_one_is_forgotten_from_there():
    """The first task is at 0.95 after the second, above the 0.9 right after itself."""
    matrix = HAND.copy()
    matrix[2, 0] = 0.95
    assert_allclose(figures_of(matrix)["forgetting"], [((0.95 - 0.6) + (0.8 - 0.4)) / 2])
    assert_allclose(figures_of(matrix)["backward_transfer"], figures_of(HAND)["backward_transfer"])


def test_errors_give_the_same_differences_as_accuracies_that_they_are_the_complement_of():
    accuracy, error = figures_of(HAND), figures_of(1.0 - HAND, lower_is_better=True)
    for name in ("backward_transfer", "forgetting", "forward_transfer"):
        assert_allclose(error[name], accuracy[name], err_msg=name)
    for name in ("average", "learning"):
        assert_allclose(error[name], 1.0 - accuracy[name], err_msg=name)


def test_each_sequence_has_figures_of_its_own():
    both = figures_of(np.concatenate([HAND, HAND[:, ::-1]], 2))
    for place, alone in enumerate((figures_of(HAND), figures_of(HAND[:, ::-1]))):
        for name, values in both.items():
            assert_allclose(values[place], alone[name][0])


def test_what_never_changes_is_neither_forgotten_nor_transferred():
    found = figures_of(np.full((5, 4, 2), 0.3))
    assert_allclose([found[name] for name in ("backward_transfer", "forgetting", "forward_transfer")], 0.0)


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_a_sequence_that_diverged_has_no_finite_average_and_leaves_the_others_alone(lower_is_better):
    matrix = np.concatenate([HAND, HAND], 2)
    matrix[2:, :, 0] = np.inf
    found = figures_of(matrix, lower_is_better=lower_is_better)
    for name, values in found.items():
        assert name == "forward_transfer" or not np.isfinite(values[0]), name
        assert_allclose(values[1], figures_of(HAND, lower_is_better=lower_is_better)[name][0])


@pytest.mark.parametrize("shape", [(3, 3, 2), (4, 3), (2, 1, 5)])
def test_a_matrix_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"must have shape \[J \+ 1, J, M\].* J >= 2, got shape \("):
        sequence_figures(np.zeros(shape), lower_is_better=False)

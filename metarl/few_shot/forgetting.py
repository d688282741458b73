"""What is kept of tasks that come one after another: figures of the matrix of scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class SequenceFigures(NamedTuple):
    """Of each sequence, ``[M]``. Transfer is good and forgetting bad where positive, of accuracies and errors alike."""

    average: FloatArray
    """Mean score on all tasks after the last one, in the score's own unit."""
    learning: FloatArray
    """Mean score on each task right after it was learned, in the score's own unit."""
    backward_transfer: FloatArray
    """What the tasks after it did for a task that had been learned (Lopez-Paz & Ranzato 2017, arXiv:1706.08840,
    eq. 3)."""
    forgetting: FloatArray
    """How far a task ends below the best that it was at before (Chaudhry et al. 2018, arXiv:1801.10112, eq. 3)."""
    forward_transfer: FloatArray
    """What the tasks before it did for a task that had not been learned (arXiv:1706.08840, eq. 4)."""


def sequence_figures(matrix: np.ndarray, *, lower_is_better: bool) -> SequenceFigures:
    """Figures of sequences of J tasks.

    With R[i, j] the score on task j after i tasks, for J = 3: the average is the mean of R[3, 1], R[3, 2], R[3, 3];
    learning that of R[1, 1], R[2, 2], R[3, 3]; backward transfer that of R[3, j] - R[j, j] for j = 1, 2; forgetting
    that of max(R[1, j], R[2, j]) - R[3, j] for j = 1, 2; forward transfer that of R[j - 1, j] - R[0, j] for j = 2, 3.

    Args:
        matrix: scores after 0..J tasks on each of the J tasks, ``[J + 1, J, M]``.
        lower_is_better: whether they are errors; the differences then change their signs.

    Returns:
        nan or infinite for sequences whose scores are not all finite.

    Raises:
        ValueError: if the matrix is of another shape, or of fewer than two tasks.
    """
    if matrix.ndim != 3 or matrix.shape[0] != matrix.shape[1] + 1 or matrix.shape[1] < 2:
        raise ValueError(
            "scores of sequences must have shape [J + 1, J, M], after 0..J tasks on each of J >= 2, got shape "
            f"{matrix.shape}"
        )
    sign = -1.0 if lower_is_better else 1.0
    scores: FloatArray = sign * matrix
    tasks = np.arange(matrix.shape[1])
    learned, before, untouched, last = scores[tasks + 1, tasks], scores[tasks, tasks], scores[0], scores[-1]
    with np.errstate(invalid="ignore"):  # the difference of two infinite errors
        return SequenceFigures(
            average=sign * last.mean(0),
            learning=sign * learned.mean(0),
            backward_transfer=(last - learned)[:-1].mean(0),
            forgetting=(scores[1:-1].max(0) - last)[:-1].mean(0),
            forward_transfer=(before - untouched)[1:].mean(0),
        )

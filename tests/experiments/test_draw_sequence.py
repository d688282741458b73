"""The heat map of a sequence: colors say what the numbers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from metarl.experiments.draw_sequence import draw_sequence

YELLOW, PURPLE = (253, 231, 36), (68, 1, 84)
"""The ends of viridis."""


def result(matrix: list[list[float | None]], score: str = "accuracy", **changes: object) -> dict[str, object]:
    return {
        **{"family": "f", "algorithm": "a", "ways": 5, "shots": 1, "consolidate": "none", "strength": None},
        **{"score": score, "sequences": 9, "tasks": len(matrix[0]), "steps": 3, "matrix": {"mean": matrix}, **changes},
    }


def share(pixels: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(pixels.astype(int) - color).max(-1) <= 2).mean())


def test_the_file_holds_the_picture_that_is_returned(tmp_path: Path):
    drawn = draw_sequence(result([[0.2, 0.2], [0.9, 0.2], [0.3, 0.8]]), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert_array_equal(np.asarray(picture), drawn)


@pytest.mark.parametrize(("score", "good", "bad"), [("accuracy", 1.0, 0.0), ("mse", 0.001, 9.0)])
def test_bright_is_good_of_accuracies_and_of_errors(tmp_path: Path, score, good, bad):
    """Five of the six cells are of one kind."""
    for most, other, color in ((good, bad, YELLOW), (bad, good, PURPLE)):
        drawn = draw_sequence(result([[most, most], [most, other], [most, most]], score), tmp_path / "s.png")
        wrong = {YELLOW: PURPLE, PURPLE: YELLOW}[color]
        assert share(drawn, color) > 3.0 * share(drawn, wrong) > 0.0


@pytest.mark.parametrize("missing", [[[None, None]] * 3, [[0.1, 0.2], [None, 0.1], [None, None]]])
@pytest.mark.parametrize("score", ["accuracy", "mse"])
def test_what_diverged_is_left_white(tmp_path: Path, missing, score):
    draw_sequence(result(missing, score), tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_many_tasks_fit_without_numbers(tmp_path: Path):
    drawn = draw_sequence(result([[0.5] * 40] * 41, consolidate="mas", strength=2.0), tmp_path / "s.png")
    assert drawn.shape[0] < 2200

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
WHITE = (255, 255, 255)


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


@pytest.mark.parametrize(("score", "good", "bad"), [("accuracy", 1.0, 0.0), ("mse", 0.001, 9.0)])
def test_what_diverged_is_left_white(tmp_path: Path, score, good, bad):
    """Five of six cells are bright; two of them turn white, but for a question mark."""
    whole = draw_sequence(result([[good, bad], [good, good], [good, good]], score), tmp_path / "s.png")
    drawn = draw_sequence(result([[good, bad], [None, good], [good, None]], score), tmp_path / "s.png")
    bright = np.abs(whole.astype(int) - YELLOW).max(-1) <= 2
    assert share(drawn[bright], WHITE) == pytest.approx(2.0 / 5.0, abs=0.02)
    assert share(drawn[bright], YELLOW) == pytest.approx(3.0 / 5.0, abs=0.02)


@pytest.mark.parametrize("score", ["accuracy", "mse"])
def test_where_all_diverged_no_cell_has_a_color(tmp_path: Path, score):
    """Left of the color bar there is black, gray and white, and the red of the frames."""
    drawn = draw_sequence(result([[None, None]] * 3, score), tmp_path / "s.png").astype(int)
    cells = drawn[:, : drawn.shape[1] * 4 // 5]
    colored = cells.max(-1) - cells.min(-1) > 20
    red = cells[..., 0] > cells[..., 1:].max(-1) + 20
    assert_array_equal(colored, red)
    assert red.any()


def test_many_tasks_fit_without_numbers(tmp_path: Path):
    drawn = draw_sequence(result([[0.5] * 40] * 41, consolidate="mas", strength=2.0), tmp_path / "s.png")
    assert drawn.shape[0] < 2200

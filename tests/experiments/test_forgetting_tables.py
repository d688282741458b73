"""The table of the study of forgetting is of what was made."""

import numpy as np
import pytest

from metarl.experiments.forgetting_settings import Holding
from metarl.experiments.forgetting_tables import draw, markdown, over_seeds

FIGURES = ("learning", "average", "forgetting")


def content(score: str, *alone: float | None) -> dict:
    """Seeds of MAML, held by nothing."""
    run = {"learner": "maml", "consolidate": "none", "strength": None, "score": score}
    runs = [
        run | {"seed": seed, "alone": {"mean": each}, "figures": {name: {"mean": 0.5} for name in FIGURES}}
        for seed, each in enumerate(alone)
    ]
    return {"runs": runs, "setting": {"family": "sinusoid"}}


def test_the_table_has_means_over_seeds_of_what_is_there():
    found = content("accuracy", 0.90, 0.94)
    assert over_seeds(found, "maml", Holding("none"), "alone") == pytest.approx([0.90, 0.94])
    lines = markdown(found).splitlines()
    assert len(lines) == 3
    half = 12.706 * np.std([0.90, 0.94], ddof=1) / 2**0.5
    assert lines[2].startswith(f"| maml | nothing |  | 2 | 92.00 ± {100 * half:.2f} % | 50.00 ± 0.00 % |")


def test_a_seed_that_diverged_is_told_and_the_picture_leaves_a_learner_without_numbers_out(tmp_path):
    found = content("mse", 0.4, None, 0.6)
    assert f"| maml | nothing |  | 3 | 0.500 ± {12.706 * 0.1:.3f}, 1 diverged |" in markdown(found)
    assert "| maml | nothing |  | 1 | diverged |" in markdown(content("mse", None))
    for run in found["runs"]:
        run["figures"] = {name: {"mean": None} for name in FIGURES}
    draw(found, tmp_path / "study.png")
    assert (tmp_path / "study.png").is_file()

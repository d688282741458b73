"""The study of training that moves on makes each run once, and its table is of what was made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from metarl.experiments import study_phases
from metarl.experiments.study_phases import main, markdown, train_and_judge


def test_what_is_made_is_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(study_phases, "ITERATIONS", 2)
    monkeypatch.setattr(study_phases, "TEST_TASKS", 5)
    monkeypatch.setattr(study_phases, "STRENGTHS", (0.0, 1.0))
    monkeypatch.setattr("sys.argv", ["study", "--seeds", "1", "--output", str(tmp_path)])
    main()
    made = json.loads((tmp_path / "phases.json").read_text())["runs"]
    assert [run["strength"] for run in made] == [0.0, 1.0]
    assert all(np.shape(run["errors"]) == (2, 2) and np.isfinite(run["errors"]).all() for run in made)
    monkeypatch.setattr(study_phases, "train_and_judge", None)  # nothing is trained a second time
    main()
    assert json.loads((tmp_path / "phases.json").read_text())["runs"] == made


def test_only_the_second_part_is_held_and_a_great_strength_holds_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(study_phases, "ITERATIONS", 20)
    monkeypatch.setattr(study_phases, "TEST_TASKS", 20)
    free, held = (np.array(train_and_judge(strength, 1)) for strength in (0.0, 1e6))
    assert held[0] == pytest.approx(free[0], rel=1e-4)
    moved = np.abs(free[1] - free[0]).max()
    assert np.abs(held[1] - held[0]).max() < 0.5 * moved


def test_the_table_tells_what_was_forgotten():
    runs = [
        {"strength": strength, "seed": seed, "errors": [[0.5, 2.0], [0.5 + lost, 0.25]]}
        for strength, lost in ((0.0, 1.0), (0.1, 0.5))
        for seed in (1, 2)
    ]
    lines = markdown({"runs": runs}).splitlines()
    assert [line.split(" | ")[:5] for line in lines[2:]] == [
        ["| none", "2", "0.500 ± 0.000", "1.50 ± 0.00", "1.00 ± 0.00"],
        ["| 0.1", "2", "0.500 ± 0.000", "1.00 ± 0.00", "0.500 ± 0.000"],
    ]

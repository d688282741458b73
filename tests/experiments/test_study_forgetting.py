"""The study of forgetting makes each run once, and its table is of what was made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarl.experiments import study_forgetting
from metarl.experiments.study_forgetting import ROWS, SETTINGS, Holding, main, markdown, over_seeds, run_config


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations, three tasks, two learners' holdings cut to one or two."""
    train = replace(SETTINGS["sinusoid"].train, iterations=2, held_out_every=0)
    setting = SETTINGS["sinusoid"]._replace(train=train, others={}, sequences=3, tasks=3)
    monkeypatch.setitem(SETTINGS, "sinusoid", setting)
    for name in ("maml", "fame"):
        monkeypatch.setitem(ROWS, name, ROWS[name]._replace(holdings=ROWS[name].holdings[:2]))


def study(folder: Path, monkeypatch: pytest.MonkeyPatch, *seeds: str) -> dict:
    arguments = ["sinusoid", "--seeds", *seeds, "--learners", "maml", "fame"]
    folders = ["--runs", str(folder / "runs"), "--output", str(folder / "out")]
    monkeypatch.setattr("sys.argv", ["study", *arguments, *folders])
    main()
    return json.loads((folder / "out" / "sinusoid.json").read_text())


def test_what_is_made_is_kept_drawn_and_not_made_again(tmp_path, few, monkeypatch):
    first = study(tmp_path, monkeypatch, "1")
    assert [(run["learner"], run["consolidate"], run["strength"]) for run in first["runs"]] == [
        ("maml", "none", None),
        ("maml", "fisher", 1.0),
        ("fame", "none", None),
        ("fame", "own", None),
    ]
    assert first["runs"][3]["in_force"] == pytest.approx(0.1)
    with Image.open(tmp_path / "out" / "sinusoid.png") as picture:
        assert picture.size[0] > 500
    assert (tmp_path / "out" / "sinusoid-maml.png").is_file()
    monkeypatch.setattr(study_forgetting, "_trained", None)  # nothing is trained a second time
    assert study(tmp_path, monkeypatch, "1")["runs"] == first["runs"]


def test_a_run_with_other_settings_is_not_taken_for_the_studys(tmp_path, few, monkeypatch):
    study(tmp_path, monkeypatch, "1")
    (tmp_path / "out" / "sinusoid.json").unlink()
    changed = replace(SETTINGS["sinusoid"].train, iterations=3)
    monkeypatch.setitem(SETTINGS, "sinusoid", SETTINGS["sinusoid"]._replace(train=changed))
    with pytest.raises(SystemExit, match="has other settings than the study"):
        study(tmp_path, monkeypatch, "1")


def test_the_table_has_means_over_seeds_of_what_is_there():
    run = {"learner": "maml", "consolidate": "none", "strength": None, "score": "accuracy"}
    runs = [
        run | {"seed": seed, "alone": {"mean": alone}, "figures": {name: {"mean": 0.5} for name in FIGURES}}
        for seed, alone in ((1, 0.90), (2, 0.94))
    ]
    content = {"runs": runs}
    assert over_seeds(content, "maml", Holding("none"), "alone") == pytest.approx([0.90, 0.94])
    lines = markdown(content).splitlines()
    assert len(lines) == 3
    half = 12.706 * np.std([0.90, 0.94], ddof=1) / 2**0.5
    assert lines[2].startswith(f"| maml | nothing |  | 2 | 92.00 ± {100 * half:.2f} % | 50.00 ± 0.00 % |")


FIGURES = ("learning", "average", "forgetting")


def test_every_learner_of_the_study_can_be_trained_on_both_families():
    for family in SETTINGS:
        for name, row in ROWS.items():
            config = run_config(family, name, 3)
            assert (config.train.algorithm, config.train.seed) == (row.algorithm, 3)


def test_an_unknown_learner_is_refused():
    with pytest.raises(ValueError, match=r"learners must be some of pretrain, maml, .* got mamml"):
        study_forgetting.Study(family_name="sinusoid", learners=("mamml",))

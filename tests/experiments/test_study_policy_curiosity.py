"""The study of curious policies makes each run once, and its table compares seed by seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metarl.experiments import study_policy_curiosity
from metarl.experiments.study_policy_curiosity import SETTINGS, WAYS, Study, main, markdown, train_and_judge


def shorten(monkeypatch: pytest.MonkeyPatch, iterations: int = 1) -> None:
    start = study_policy_curiosity.training()
    rollout = replace(start.rollout, episodes=3, horizon=5)
    tiny = replace(start, rollout=rollout, iterations=iterations, meta_batch_size=2)
    monkeypatch.setattr(study_policy_curiosity, "training", lambda: tiny)
    monkeypatch.setattr(study_policy_curiosity, "TASKS", 3)


def test_what_is_made_is_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shorten(monkeypatch)
    options = ["--seeds", "1", "--ways", "none", "transition, 1", "gradient", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["study", *options])
    main()
    made = json.loads((tmp_path / "navigation-2d.json").read_text())["runs"]
    assert [(run["setting"], run["way"]) for run in made] == [
        (setting, way) for setting in SETTINGS for way in ("none", "transition, 1", "gradient")
    ]
    distance, sparse = made[:3], made[3:]
    assert all(-10.0 < each < -2.0 for run in distance for each in run["returns"])  # 5 steps, about 1 m away
    assert all(0.0 <= each <= 5.0 for run in sparse for each in run["returns"])  # no bonus among them
    monkeypatch.setattr(study_policy_curiosity, "train_and_judge", None)  # nothing is trained a second time
    main()
    assert json.loads((tmp_path / "navigation-2d.json").read_text())["runs"] == made


def test_the_table_compares_with_no_curiosity_seed_by_seed():
    returns = {"none": (10.0, 20.0), "gradient": (11.0, 23.0)}
    runs = [
        {"way": way, "setting": "sparse", "seed": seed, "returns": [5.0, value]}
        for way, values in returns.items()
        for seed, value in enumerate(values)
    ]
    lines = markdown({"runs": runs}).splitlines()
    half = 12.706 * 1.0
    assert lines[3] == f"| sparse | gradient | 2 | 5.00 ± 0.00 | 17.00 ± {12.706 * 6.0:.2f} | 2.00 ± {half:.2f} |"
    assert lines[2].endswith(" |  |")


def test_the_table_compares_only_seeds_that_both_have():
    """Seed k has the return 10 k without and 10 k + 1 with curiosity, but for the third, which only curiosity has."""
    runs = [{"way": "none", "setting": "sparse", "seed": seed, "returns": [0.0, 10.0 * seed]} for seed in (1, 2, 4)]
    curious = [{**runs[0], "way": "gradient", "seed": seed, "returns": [0.0, 10.0 * seed + 1.0]} for seed in (2, 3, 4)]
    assert markdown({"runs": runs + curious}).splitlines()[3].endswith("| 1.00 ± 0.00 |")
    assert markdown({"runs": curious}).splitlines()[2].endswith("| 31.00 ± 24.84 |  |")
    assert markdown({"runs": runs[:1] + curious}).splitlines()[3].endswith("| 31.00 ± 24.84 |  |")


def test_every_ways_curiosity_reaches_the_training(monkeypatch: pytest.MonkeyPatch):
    """Returns before the step tell of what was trained, not of what is curious where it is judged."""
    shorten(monkeypatch, iterations=3)
    before = {way: train_and_judge(way, "distance", 1)[0] for way in WAYS}
    assert len(set(before.values())) == len(WAYS), before


def test_a_file_of_runs_under_other_settings_gets_no_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shorten(monkeypatch)
    monkeypatch.setattr("sys.argv", ["study", "--seeds", "1", "--ways", "none", "--output", str(tmp_path)])
    main()
    monkeypatch.setattr(study_policy_curiosity, "TASKS", 4)
    with pytest.raises(SystemExit, match=r"under other settings .*\(test_tasks: 3 there, 4 now\); move it away"):
        main()


def test_unknown_ways_and_settings_are_refused():
    with pytest.raises(ValueError, match=r"ways must be some of none; transition, 0.1; .* got norm"):
        Study(ways=("norm",))
    with pytest.raises(ValueError, match="settings must be some of distance; sparse, got dense"):
        Study(settings=("dense",))

"""A study's file goes on under the same settings only."""

import pytest

from metarl.experiments.runs import RunError, write_json
from metarl.experiments.study_file import open_study


def test_what_was_made_is_found_again_under_the_same_settings(tmp_path):
    path = tmp_path / "study.json"
    first = open_study(path, {"iterations": 3, "steps": (1, 2)})
    assert first["runs"] == []
    write_json(path, first | {"runs": [{"seed": 1}]})
    again = open_study(path, {"iterations": 3, "steps": (1, 2)})
    assert again["runs"] == [{"seed": 1}]
    assert "processor" in again["machine"]


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "study.json"
    write_json(path, open_study(path, {"tasks": 5, "iterations": 3}))
    with pytest.raises(SystemExit, match=r"other settings .*\(iterations: 3 there, 4 now\); move it away"):
        open_study(path, {"tasks": 5, "iterations": 4})
    write_json(path, {"runs": []})
    with pytest.raises(SystemExit, match=r"\(tasks: None there, 5 now\)"):
        open_study(path, {"tasks": 5})


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "study.json").write_text("[1")
    with pytest.raises(RunError, match=r"study.json cannot be read"):
        open_study(tmp_path / "study.json", {})

"""The Markdown table of few-shot runs, and the small files that are kept of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.experiments.cli import main
from metarl.experiments.results import markdown
from metarl.experiments.results_few_shot import few_shot_rows


def evaluation(seed: int, mean: list[float | None], **changes: Any) -> dict[str, Any]:
    return {
        **{
            "family": "omniglot",
            "preset": "default",
            "algorithm": "maml",
            "ways": 5,
            "shots": 1,
            "training_seed": seed,
        },
        **{"tasks": 600, "transductive": True, "takes_steps": True},
        **{"scores": {"accuracy": {"mean": mean, "ci95": [None if each is None else 0.01 for each in mean]}}},
        **changes,
    }


def test_seeds_of_a_setting_are_one_row_with_the_interval_over_them():
    """Means 0.9 and 0.92: standard error 0.01, times t(0.975, 1) = 12.706."""
    (row,) = few_shot_rows([(evaluation(1, [0.2, 0.9]), 3.0), (evaluation(2, [0.2, 0.92]), 5.0)])
    assert (row.seeds, row.setting, row.over) == ([1, 2], "5-way 1-shot", "2 seeds")
    assert "| 1, 2 | 3.0 to 5.0 | accuracy | yes | 2 seeds | 20.00 ± 0.00 % | 91.00 ± 12.71 % |" in markdown([row])


def test_other_shots_algorithms_and_ways_to_answer_are_rows_of_their_own():
    others = [{"shots": 5}, {"algorithm": "reptile"}, {"transductive": False}, {"preset": "mine"}]
    rows = few_shot_rows([(evaluation(1, [0.2]), 1.0), *[(evaluation(1, [0.2], **each), 1.0) for each in others]])
    assert [row.setting for row in rows] == ["5-way 1-shot", "5-way 5-shot", *["5-way 1-shot"] * 3]
    assert [row.algorithm for row in rows] == ["maml", "maml", "reptile", "maml", "maml (mine)"]
    assert [row.transductive for row in rows] == [True, True, True, False, True]


def test_columns_are_the_steps_that_runs_took_and_a_learner_without_them_has_one_score():
    ten = evaluation(1, [*np.linspace(0.2, 0.7, 11)])
    none = evaluation(1, [0.95], algorithm="prototypes", takes_steps=False)
    lines = markdown(few_shot_rows([(ten, 1.0), (none, 1.0)])).splitlines()
    assert lines[0].endswith("| after 0 | after 1 | after 3 | after 5 | after 10 |")
    assert lines[2].endswith("| 20.00 ± 1.00 % | 25.00 ± 1.00 % | 35.00 ± 1.00 % | 45.00 ± 1.00 % | 70.00 ± 1.00 % |")
    assert lines[3].endswith("| 95.00 ± 1.00 % (no steps) |  |  |  |  |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_diverged_says_so():
    assert "| 20.00 ± 1.00 % | diverged |" in markdown(few_shot_rows([(evaluation(1, [0.2, None]), 1.0)]))


@pytest.mark.parametrize("name", ["maml", "random"])
def test_the_command_keeps_small_files_and_prints_the_table(few_shot: Path, tmp_path: Path, name: str, capsys):
    run = few_shot / name
    assert main(["evaluate", str(run), "--tasks", "4", "--steps", "1"]) == 0
    assert main(["results", str(run), "--into", str(tmp_path)]) == 0
    kept = sorted(path.name for path in (tmp_path / name).iterdir())
    assert kept == ["config.json", "curves.csv", "evaluation.json", "results.json"]
    table = capsys.readouterr().out.split("written to")[-1]
    assert main(["results", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out.strip() in table
    curves = (tmp_path / name / "curves.csv").read_text().splitlines()
    assert ("held_out/accuracy_after_1" in curves[0]) == (name == "maml")
    assert len(curves) == (7 if name == "maml" else 1), "six lines of the log, and the heading"


def test_runs_of_both_kinds_have_a_table_each(few_shot: Path, tiny_run: Path, capsys):
    assert main(["evaluate", str(few_shot / "sinusoid"), "--tasks", "4", "--steps", "1"]) == 0
    assert main(["evaluate", str(tiny_run), "--tasks", "2", "--episodes", "2", "--steps", "1"]) == 0
    capsys.readouterr()
    assert main(["results", str(few_shot / "sinusoid"), str(tiny_run)]) == 0
    one, other = capsys.readouterr().out.split("\n\n")
    assert "`navigation-2d`" in one
    assert "`sinusoid`" in other

"""Evaluation of few-shot runs: what is written and printed, and what divergence does to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metarl.envs import Boolean, Sinusoid
from metarl.experiments.cli import main
from metarl.experiments.evaluate_few_shot import FewShotEvaluateConfig, figures, judged_family, table
from metarl.experiments.few_shot_scores import mean_and_interval, score_text, shown_steps
from metarl.experiments.results_few_shot import few_shot_rows


def evaluated(run: Path, *flags: str) -> dict[str, Any]:
    assert main(["evaluate", str(run), "--tasks", "6", *flags]) == 0
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return found


def test_error_of_ten_steps_on_whole_curves_is_written_printed_and_drawn(few_shot: Path, capsys):
    found = evaluated(few_shot / "sinusoid")
    assert (found["family"], found["algorithm"], found["tasks"]) == ("sinusoid", "maml", 6)
    assert (found["ways"], found["shots"], found["queries"]) == (None, 10, 100)
    assert len(found["scores"]["mse"]["mean"]) == len(found["scores"]["mse"]["ci95"]) == len(found["diverged"]) == 11
    shown = capsys.readouterr().out
    columns = found["scores"]["mse"]
    assert score_text("mse", columns["mean"][10], columns["ci95"][10]) in shown
    assert "--variants True" in shown
    with Image.open(few_shot / "sinusoid" / "evaluation.png") as picture:
        assert picture.size == (960, 720)


def test_table_and_file_tell_whether_queries_share_their_statistics(few_shot: Path, capsys):
    assert evaluated(few_shot / "maml", "--steps", "1")["transductive"] is True
    assert "6 test tasks, transductive" in capsys.readouterr().out
    assert evaluated(few_shot / "maml", "--steps", "1", "--transductive", "False")["transductive"] is False
    assert "6 test tasks, not transductive" in capsys.readouterr().out


def test_variants_are_judged_on_request_and_drawn_beside_the_rest(few_shot: Path, capsys):
    found = evaluated(few_shot / "maml", "--variants", "True", "--steps", "2")
    assert list(found["variants"]) == ["2 shots", "5 shots", "noisy"]
    assert [each["shots"] for each in found["variants"].values()] == [2, 5, 1]
    assert len(found["variants"]["noisy"]["scores"]["accuracy"]["mean"]) == 3
    assert "as in training" in capsys.readouterr().out
    with Image.open(few_shot / "maml" / "evaluation.png") as picture:
        assert picture.size == (2040, 720)


def test_a_learner_without_gradient_steps_has_one_row(few_shot: Path, capsys):
    found = evaluated(few_shot / "prototypes", "--variants", "True")
    assert found["takes_steps"] is False
    assert len(found["scores"]["accuracy"]["mean"]) == 1
    assert [len(each["diverged"]) for each in found["variants"].values()] == [1, 1, 1]
    assert "takes none" in capsys.readouterr().out


def test_a_run_with_nothing_to_train_can_be_evaluated(few_shot: Path):
    assert evaluated(few_shot / "random", "--steps", "1")["takes_steps"] is True


def test_the_same_evaluation_gives_the_same_numbers_and_another_seed_others(few_shot: Path):
    scores = [evaluated(few_shot / "sinusoid", "--seed", seed, "--steps", "1")["scores"] for seed in "001"]
    assert scores[0] == scores[1] != scores[2]


def test_what_is_learned_for_any_number_of_classes_is_judged_on_others_than_trained_on(few_shot: Path, capsys):
    found = evaluated(few_shot / "prototypes", "--ways", "2", "--shots", "3")
    assert (found["ways"], found["shots"], found["training_ways"]) == (2, 3, 3)
    assert few_shot_rows([(found, 1.0)])[0].algorithm == "prototypes, trained 3-way 1-shot"
    assert main(["evaluate", str(few_shot / "maml"), "--ways", "2"]) == 2
    assert "maml learned parameters for 3 outputs, and these tasks have 2" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_with_a_label_stands_beside_the_others_and_in_the_table(few_shot: Path, tmp_path: Path, capsys):
    run = few_shot / "prototypes"
    plain = evaluated(run)
    assert main(["evaluate", str(run), "--tasks", "4", "--ways", "2", "--label", "2-way"]) == 0
    assert json.loads((run / "evaluation.json").read_text()) == plain
    assert (run / "evaluation-2-way.png").is_file()
    capsys.readouterr()
    assert main(["results", str(run), "--into", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    (run / "evaluation-2-way.json").unlink()
    assert (tmp_path / "prototypes" / "evaluation-2-way.json").is_file()
    assert "| 3-way" in table
    assert "| 2-way" in table
    assert main(["evaluate", str(run), "--label", "../2"]) == 2
    assert "label must be of small letters" in capsys.readouterr().err


def test_flags_may_stand_before_the_run(few_shot: Path):
    assert main(["evaluate", "--tasks", "3", "--transductive", "True", str(few_shot / "sinusoid")]) == 0


def test_a_step_after_which_a_task_is_not_finite_has_no_mean_and_says_diverged():
    """Accuracy of logits that are nan would be that of class 0; the loss tells."""
    found = figures({"accuracy": np.array([[0.5, 1.0], [0.2, 1.0]]), "loss": np.array([[1.0, 2.0], [np.nan, 0.0]])})
    assert found["diverged"] == [0, 1]
    assert found["scores"]["accuracy"]["mean"] == [0.75, None]
    assert found["scores"]["accuracy"]["ci95"][1] is None
    result = {
        **{"family": "f", "algorithm": "a", "ways": 2, "shots": 1, "queries": 2, "tasks": 2},
        **{"transductive": True, "takes_steps": True, **found},
    }
    console = Console(width=100, record=True, file=None)
    with console.capture() as shown:
        console.print(table(result))
    assert "75.00 ±" in shown.get()
    assert "diverged on 1 tasks" in shown.get()


def test_a_run_that_diverged_is_evaluated_and_drawn_all_the_same(few_shot: Path, tmp_path: Path, capsys):
    """An inner step of 1000 blows up within a few steps of the evaluation."""
    run = tmp_path / "wild"
    shutil.copytree(few_shot / "sinusoid", run)
    config = json.loads((run / "config.json").read_text())
    config["train"]["inner"]["step_size"] = 1000.0
    (run / "config.json").write_text(json.dumps(config))
    found = evaluated(run)
    assert found["diverged"][0] == 0
    assert found["diverged"][-1] > 0
    assert found["scores"]["mse"]["mean"][-1] is None
    assert "diverged on" in capsys.readouterr().out
    assert (run / "evaluation.png").is_file()


def test_interval_is_students_t_and_missing_for_one_task():
    """Deviation 1 of three: t(0.975, 2) = 4.302653 times 1 / sqrt(3)."""
    mean, half = mean_and_interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6))
    assert mean_and_interval(np.array([4.0])) == (4.0, None)
    assert mean_and_interval(np.array([4.0, np.inf])) == (None, None)


def test_accuracy_is_written_in_percent_and_large_errors_shortly():
    assert score_text("accuracy", 0.987, 0.004) == "98.70 ± 0.40 %"
    assert score_text("mse", 0.1234, None) == "0.123"
    assert score_text("mse", 12.25, 0.6) == "12.25 ± 0.60"
    assert score_text("mse", 2.5e7, 1e6) == "2.5e+07 ± 1e+06"
    assert score_text("mse", None, None) == "diverged"


def test_narrow_tables_show_the_first_steps_and_the_last():
    assert shown_steps(10) == [0, 1, 3, 5, 10]
    assert shown_steps(4) == [0, 1, 3, 4]
    assert shown_steps(0) == [0]


def test_numbers_of_examples_are_the_familys_own_where_it_has_none_to_change():
    assert judged_family(Boolean(), FewShotEvaluateConfig()) == Boolean()
    assert judged_family(Sinusoid(), FewShotEvaluateConfig()) == Sinusoid(queries=100)
    assert judged_family(Sinusoid(), FewShotEvaluateConfig(queries=7, shots=3)) == Sinusoid(queries=7, shots=3)
    with pytest.raises(ValueError, match=r"queries can be told only .* Boolean has none"):
        judged_family(Boolean(), FewShotEvaluateConfig(queries=7))
    with pytest.raises(ValueError, match=r"ways can be told only .* Sinusoid has none"):
        judged_family(Sinusoid(), FewShotEvaluateConfig(ways=7))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="tasks must be at least 1, got 0"):
        FewShotEvaluateConfig(tasks=0)
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        FewShotEvaluateConfig(steps=-1)

"""``metarl sequence``: what is written, printed and drawn, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.experiments.cli import main
from metarl.experiments.few_shot_scores import score_text
from metarl.experiments.sequence import Scores, SequenceRunConfig, summary

SMALL = ["--tasks", "3", "--sequences", "4", "--steps", "2"]


def sequenced(run: Path, *flags: str) -> dict[str, Any]:
    assert main(["sequence", str(run), *SMALL, *flags]) == 0
    found: dict[str, Any] = json.loads((run / "sequence.json").read_text())
    return found


def test_scores_after_each_task_are_written_printed_and_drawn(few_shot: Path, capsys):
    run = few_shot / "sinusoid"
    found = sequenced(run)
    assert (found["family"], found["algorithm"], found["consolidate"]) == ("sinusoid", "maml", "none")
    assert (found["sequences"], found["tasks"], found["steps"], found["queries"]) == (4, 3, 2, 100)
    matrix = np.array(found["matrix"]["mean"])
    assert matrix.shape == (4, 3)
    assert_allclose([matrix[i, :i].mean() for i in (1, 2, 3)], found["seen"]["mean"])
    assert found["figures"]["average"]["mean"] == pytest.approx(matrix[3].mean())
    assert found["figures"]["learning"]["mean"] == pytest.approx(np.diag(matrix[1:]).mean())
    transfer = (matrix[3, :2] - np.diag(matrix[1:])[:2]).mean()
    assert found["figures"]["backward_transfer"]["mean"] == pytest.approx(-transfer), "of errors the sign is turned"
    shown = capsys.readouterr().out
    for figure in found["figures"].values():
        assert score_text("mse", figure["mean"], figure["ci95"]) in shown
    assert score_text("mse", found["seen"]["mean"][1], found["seen"]["ci95"][1]) in shown
    with Image.open(run / "sequence.png") as picture:
        size = picture.size
    log = EventAccumulator(str(run / "tensorboard" / "sequence"))
    log.Reload()
    (image,) = log.Images("sequence")
    assert (image.width, image.height, image.step) == (*size, 30)


def test_tasks_learned_alone_stand_beside_them_as_evaluation_judges_them(few_shot: Path):
    """One step on the first task is the same either way; the training log stays as it is."""
    before = (few_shot / "maml" / "metrics.jsonl").read_bytes()
    found = sequenced(few_shot / "maml", "--steps", "1", "--sequences", "300")
    assert main(["evaluate", str(few_shot / "maml"), "--steps", "1", "--tasks", "900"]) == 0
    evaluation = json.loads((few_shot / "maml" / "evaluation.json").read_text())
    expected = evaluation["scores"]["accuracy"]["mean"][1]
    assert found["alone"]["mean"] == pytest.approx(expected, abs=1e-9), (
        "the same tasks, since the family knows no others"
    )
    assert found["matrix"]["mean"][1][0] == pytest.approx(expected, abs=0.05)
    assert (few_shot / "maml" / "metrics.jsonl").read_bytes() == before


def test_the_same_command_gives_the_same_file_and_another_seed_another(few_shot: Path):
    flags = ["--consolidate", "fisher", "--strength", "5"]
    found = [sequenced(few_shot / "sinusoid", *flags, "--seed", seed)["matrix"] for seed in "001"]
    assert found[0] == found[1] != found[2]


def test_a_label_keeps_them_apart(few_shot: Path, tmp_path: Path, capsys):
    run = few_shot / "sinusoid"
    plain = sequenced(run)
    assert main(["sequence", str(run), *SMALL, "--consolidate", "mas", "--strength", "2", "--label", "mas"]) == 0
    assert json.loads((run / "sequence.json").read_text()) == plain
    held = json.loads((run / "sequence-mas.json").read_text())
    assert (held["consolidate"], held["strength"]) == ("mas", 2.0)
    assert (run / "sequence-mas.png").is_file()
    assert main(["evaluate", str(run), "--tasks", "2", "--steps", "1"]) == 0
    assert main(["results", str(run), "--into", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "sinusoid" / "sequence-mas.json").read_text()) == held
    assert "held by mas, strength 2" in " ".join(capsys.readouterr().out.split())
    assert main(["sequence", str(run), "--label", "../x"]) == 2
    assert "label must be of small letters" in capsys.readouterr().err


def test_a_run_of_fame_is_held_by_what_it_meta_learned(few_shot: Path, tmp_path: Path):
    flags = ["--iterations", "3", "--held-out-every", "0", "--net.hidden", "8", "--elastic.strength", "0.5"]
    train = ["train", "sinusoid", "--algorithm", "fame", "--inner.steps", "2", "--runs", str(tmp_path), "--name", "f"]
    assert main([*train, *flags]) == 0
    found = sequenced(tmp_path / "f")
    assert (found["consolidate"], found["strength"]) == ("own", 0.5)
    assert sequenced(tmp_path / "f", "--consolidate", "none")["matrix"] != found["matrix"]


def test_runs_that_nothing_can_be_carried_over_in_are_refused(few_shot: Path, capsys):
    assert main(["sequence", str(few_shot / "prototypes")]) == 2
    assert "only parameters that adapt by gradient can go on from task to task" in capsys.readouterr().err
    assert main(["sequence", str(few_shot / "sinusoid"), "--consolidate", "mas", "--strength", "-1"]) == 2
    assert "strength must be 0 or more and finite, got -1.0" in capsys.readouterr().err
    assert main(["sequence", str(few_shot / "nowhere")]) == 1
    assert "is not a run" in capsys.readouterr().err


def test_a_run_that_diverges_in_sequence_is_written_and_drawn_all_the_same(few_shot: Path, tmp_path: Path, capsys):
    run = tmp_path / "wild"
    shutil.copytree(few_shot / "sinusoid", run)
    config = json.loads((run / "config.json").read_text())
    config["train"]["inner"]["step_size"] = 1000.0
    (run / "config.json").write_text(json.dumps(config))
    found = sequenced(run, "--steps", "9")
    assert found["diverged"] > 0
    assert found["figures"]["forgetting"] == {"mean": None, "ci95": None}
    assert "diverged" in capsys.readouterr().out
    assert (run / "sequence.png").is_file()


def test_a_sequence_that_diverged_leaves_no_mean_and_is_counted():
    """Of two sequences one has a loss that is not finite, though its accuracy looks fine."""
    accuracy, loss = np.full((3, 2, 2), 0.5), np.zeros((3, 2, 2))
    loss[2, 0, 1] = np.inf
    found = summary(Scores({"accuracy": accuracy, "loss": loss}, np.full((2, 2), 0.5)), "classification")
    assert found["diverged"] == 1
    assert found["matrix"]["mean"] == [[None, None]] * 3
    assert found["alone"] == {"mean": 0.5, "ci95": 0.0}


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="sequences must be at least 2, for an interval over them, got 1"):
        SequenceRunConfig(sequences=1)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        SequenceRunConfig(seed=-1)

"""A run: what it leaves on disk, how it stops, and that it goes on as if nothing had happened."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.checkpoints import checkpoint_files
from metarl.experiments.cli import main
from metarl.logs import read_metrics

TINY = [
    *("--iterations", "4", "--meta-batch-size", "3", "--held-out-every", "2", "--held-out-tasks", "2"),
    *("--rollout.episodes", "3", "--rollout.horizon", "8", "--policy.hidden", "8", "--checkpoint-every", "2"),
]
TIMES = ("time/",)


def numbers(directory: Path) -> list[dict[str, float]]:
    """What the run logged, but for the time it took."""
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMES)} for line in read_metrics(directory)
    ]


def weights(directory: Path):
    return {name: value.numpy().tobytes() for name, value in load_file(newest(directory)).items()}


def newest(directory: Path) -> Path:
    return checkpoint_files(directory / "checkpoints")[0]


def start_training(runs: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metarl.experiments.cli", "train", "navigation-2d", "--runs", str(runs)]
    return subprocess.Popen(
        [*command, "--name", "run", *TINY, "--iterations", "100000", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_lines(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(read_metrics(directory)) < count:
        assert time.monotonic() < deadline, "the run logged nothing"
        time.sleep(0.02)


def test_a_run_leaves_its_configuration_checkpoints_metrics_and_results(tiny_run: Path):
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["family_name"] == "navigation-2d"
    assert config["train"]["rollout"]["horizon"] == 8
    assert [line["iteration"] for line in read_metrics(tiny_run)] == [1, 2, 3, 4]
    assert newest(tiny_run).name == "iteration_00000004.safetensors"
    results = json.loads((tiny_run / "results.json").read_text())
    assert results["iterations"] == 4
    assert results["train/return_after_1"] == read_metrics(tiny_run)[-1]["train/return_after_1"]
    assert 50 < results["peak_memory_mib"] < 4000
    assert results["machine"]["versions"]["torch"] == torch.__version__


def test_tensorboard_overlays_the_returns_after_each_step_in_one_chart(tiny_run: Path):
    last = read_metrics(tiny_run)[-1]
    for step in (0, 1):
        events = EventAccumulator(str(tiny_run / "tensorboard" / f"after_{step}"))
        events.Reload()
        assert [each.step for each in events.Scalars("return/training_tasks")] == [1, 2, 3, 4]
        assert [each.step for each in events.Scalars("return/held_out_tasks")] == [2, 4]
        assert events.Scalars("return/training_tasks")[-1].value == pytest.approx(last[f"train/return_after_{step}"])
        assert events.Histograms("return_per_task/training_tasks")
    main_events = EventAccumulator(str(tiny_run / "tensorboard"))
    main_events.Reload()
    tags = main_events.Tags()
    assert "configuration/text_summary" in tags["tensors"]
    for name in ("outer/kl_nats", "outer/surrogate", "outer/line_search_steps", "train/entropy_nats"):
        assert name in tags["scalars"]
    for name in ("train/explained_variance_after", "time/env_steps_per_s", "time/sampling_share", "time/outer_share"):
        assert name in tags["scalars"]


def test_a_run_stopped_by_sigterm_exits_0_and_its_resumption_equals_the_uninterrupted_run(tmp_path: Path):
    process = start_training(tmp_path)
    wait_for_lines(tmp_path / "run", 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "metarl train --resume" in output
    done = len(read_metrics(tmp_path / "run"))
    goal = done + 3
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"iterations": 100000', f'"iterations": {goal}'))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    whole = ["train", "navigation-2d", "--runs", str(tmp_path), "--name", "whole", *TINY, "--iterations", str(goal)]
    assert main(whole) == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    changed = [line for line in numbers(tmp_path / "run") if line["iteration"] != goal]  # a last one is held out
    assert changed == [line for line in numbers(tmp_path / "whole") if line["iteration"] != goal]


def test_a_run_killed_between_checkpoints_resumes_from_the_last_one_and_repeats_what_was_lost(tmp_path: Path):
    flags = ["--runs", str(tmp_path), *TINY, "--iterations", "5", "--keep-checkpoints", "9"]
    assert main(["train", "navigation-2d", "--name", "whole", *flags]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "checkpoints" / "iteration_00000005.safetensors").unlink()
    (tmp_path / "killed" / "checkpoints" / "iteration_00000004.safetensors").unlink()
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6.0, "outer/kl')
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_a_second_sigint_stops_at_once_and_keeps_the_last_checkpoint(tmp_path: Path):
    process = start_training(tmp_path, "--rollout.horizon", "20000")  # an iteration of many seconds
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "tensorboard").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert newest(tmp_path / "run").name == "iteration_00000000.safetensors"


def test_a_run_that_exists_is_not_overwritten(tiny_run: Path, capsys):
    before = newest(tiny_run).read_bytes()
    arguments = ["train", "navigation-2d", "--runs", str(tiny_run.parent), "--name", tiny_run.name, *TINY]
    assert main(arguments) == 1
    assert "--resume" in capsys.readouterr().err
    assert newest(tiny_run).read_bytes() == before


def test_what_is_not_a_run_or_only_half_of_one_is_refused_by_name(tmp_path: Path, tiny_run: Path, capsys):
    def refusal(directory: Path) -> str:
        assert main(["train", "--resume", str(directory)]) == 1
        return capsys.readouterr().err

    assert "there is no such directory" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refusal(tmp_path / "empty")
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(tiny_run / "config.json", half)
    assert "no checkpoint in" in refusal(half)
    (half / "config.json").write_text((tiny_run / "config.json").read_text()[:40])
    assert "config.json" in refusal(half)
    (half / "config.json").write_text((tiny_run / "config.json").read_text().replace('"format": 1', '"format": 2'))
    assert "format 1" in refusal(half)
    (half / "config.json").write_text((tiny_run / "config.json").read_text().replace("navigation-2d", "navigation-3d"))
    assert "did you mean 'navigation-2d'" in refusal(half)
    (half / "config.json").write_text((tiny_run / "config.json").read_text().replace("step_size", "step_siz"))
    assert "step_siz" in refusal(half)


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path, tiny_run: Path, capsys):
    shutil.copytree(tiny_run, tmp_path / "mixed")
    other = ["train", "half-cheetah-vel", "--runs", str(tmp_path), "--name", "other", *TINY, "--iterations", "1"]
    assert main(other) == 0
    for path in checkpoint_files(tmp_path / "mixed" / "checkpoints"):
        path.unlink()
    shutil.copy(newest(tmp_path / "other"), tmp_path / "mixed" / "checkpoints")
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "mixed")]) == 1
    assert "was trained on 'half-cheetah-vel', but the run is of 'navigation-2d'" in capsys.readouterr().err


def test_time_spent_before_an_interruption_counts_towards_the_limit(tmp_path: Path):
    """The limit is over after the first iteration, so what resumes takes one more to see it."""
    folder = tmp_path / "timed"
    assert main(["train", "navigation-2d", "--runs", str(tmp_path), "--name", "timed", *TINY, "--minutes", "1e-6"]) == 0
    assert [line["iteration"] for line in read_metrics(folder)] == [1.0]
    assert json.loads((folder / "results.json").read_text())["stopped"] is False
    config = json.loads((folder / "config.json").read_text())
    spent = json.loads((folder / "results.json").read_text())["training_minutes"]
    (folder / "config.json").write_text(json.dumps(config | {"minutes": 0.999 * spent}))
    assert main(["train", "--resume", str(folder)]) == 0
    assert [line["iteration"] for line in read_metrics(folder)] == [1.0, 2.0]

"""A user's own family from the command line: trained, broken, with a worker killed, and evaluated later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from metarl.checkpoints import checkpoint_files
from metarl.experiments.cli import main
from metarl.logs import read_metrics
from metarl.tasks import FAMILIES

FAMILY = '''
"""A point on a line, started at random, that has to find a goal."""

import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

import metarl

Path(__file__).with_name("imported").touch()


class Reach(gymnasium.Env):
    def __init__(self, goal, pause, faulty):
        self.goal, self.pause, self.faulty = goal, pause, faulty
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.normal(), 0
        return np.array([self.place]), {}

    def step(self, action):
        time.sleep(self.pause)
        if self.faulty and self.goal > 0.0 and self.steps == 3:
            raise LookupError("no path to the goal")
        self.place += float(action[0])
        self.steps += 1
        return np.array([self.place]), -abs(self.place - self.goal), False, False, {}


@metarl.register("my-family")
@dataclass(frozen=True, kw_only=True)
class MyFamily:
    pause: float = 0.0
    faulty: bool = False

    def sample(self, rng, count):
        return rng.uniform(-1.0, 1.0, count).tolist()

    def make_env(self, task):
        return Reach(task, self.pause, self.faulty)
'''
TINY = [
    *("--iterations", "4", "--meta-batch-size", "3", "--held-out-every", "2", "--held-out-tasks", "2"),
    *("--rollout.episodes", "3", "--rollout.horizon", "8", "--policy.hidden", "8", "--checkpoint-every", "2"),
]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metarl.experiments.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_training(folder: Path, name: str, *flags: str) -> subprocess.Popen[str]:
    return start(folder, "train", "my-family", "--plugin", "my_family", "--name", name, *TINY, *flags)


def weights(run: Path) -> dict[str, bytes]:
    """Of the last checkpoint."""
    newest = checkpoint_files(run / "checkpoints")[0]
    return {name: value.numpy().tobytes() for name, value in load_file(newest).items()}


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the worker processes."""
    found = subprocess.run(
        ["ps", "-ww", "--ppid", str(process.pid), "-o", "pid=,args="], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with one file and a finished run."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_family.py").write_text(FAMILY)
    process = start_training(folder, "alone")
    output, complaints = process.communicate(timeout=120)
    assert (process.returncode, complaints) == (0, ""), output
    return folder


def test_a_worker_killed_in_training_is_replaced_and_changes_no_weight(folder: Path):
    process = start_training(folder, "killed", "--workers.count", "2", "--family.pause", "0.01")
    deadline = time.monotonic() + 120
    while not read_metrics(folder / "runs" / "killed"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    victim, survivor = workers_of(process)
    os.kill(victim, signal.SIGKILL)
    output, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, output + complaints
    (line,) = complaints.splitlines()
    assert f"(process {victim}) was killed by SIGKILL: replaced (1 of 3), its tasks run again" in line
    assert weights(folder / "runs" / "killed") == weights(folder / "runs" / "alone")
    assert not any(Path(f"/proc/{pid}").exists() for pid in (victim, survivor))


def test_an_exception_in_an_environment_stops_the_run_with_its_place_and_traceback(folder: Path):
    process = start_training(folder, "faulty", "--family.faulty", "True")
    output, complaints = process.communicate(timeout=120)
    assert process.returncode == 1, output
    first, *lines = complaints.splitlines()
    assert first.startswith("error: MyFamily, task ")
    assert first.endswith(", episode 0, step 3: LookupError: no path to the goal")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3].strip().startswith(f'File "{folder / "my_family.py"}", line ')
    assert lines[-2].strip() == 'raise LookupError("no path to the goal")'
    assert lines[-1] == "LookupError: no path to the goal"


class RaisingSample:
    def sample(self, rng, count):
        raise ValueError("no such goals")

    def make_env(self, task):
        raise NotImplementedError


class OldGym:
    def sample(self, rng, count):
        return [0] * count

    def make_env(self, task):
        return object()


@pytest.mark.parametrize(
    ("family", "complaint"),
    [
        (RaisingSample, "RaisingSample, sample(rng, 1): ValueError: no such goals"),
        (
            OldGym,
            "OldGym, task 0 (0), episode 0, make_env: TypeError: make_env must return a gymnasium.Env",
        ),
    ],
)
def test_a_family_that_fails_before_the_first_step_stops_the_run_with_its_traceback(
    family, complaint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(FAMILIES, "mine", family)
    assert main(["train", "mine", "--runs", str(tmp_path), "--name", "run", *TINY]) == 1
    shown = capsys.readouterr().err
    assert f"error: {complaint}" in shown
    assert "Traceback (most recent call last):" in shown
    assert not (tmp_path / "run").exists()


def test_evaluating_without_the_plug_in_asks_for_it_and_imports_nothing(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "imported").unlink(missing_ok=True)
    assert json.loads(Path("runs/alone/config.json").read_text())["plugins"] == ["my_family"]
    assert main(["evaluate", "runs/alone"]) == 1
    assert "the run was begun with --plugin my_family: give that again" in capsys.readouterr().err
    assert not (folder / "imported").exists()
    assert "my_family" not in sys.modules


def test_evaluating_with_the_plug_in_named_by_its_file_works_from_another_folder(folder: Path, tmp_path: Path):
    flags = ["--plugin", str(folder / "my_family.py"), "--tasks", "2", "--episodes", "2", "--steps", "1"]
    process = start(tmp_path, "evaluate", str(folder / "runs" / "alone"), *flags)
    output, complaints = process.communicate(timeout=120)
    assert (process.returncode, complaints) == (0, ""), output
    evaluation = json.loads((folder / "runs" / "alone" / "evaluation.json").read_text())
    assert evaluation["family"] == "my-family"
    assert len(evaluation["mean_return"]) == 2


def test_a_plug_in_named_by_a_configuration_is_never_imported(tiny_run: Path, tmp_path: Path):
    """Else opening a run from elsewhere would run code from elsewhere."""
    evil = tmp_path / "evil.py"
    evil.write_text(
        textwrap.dedent("""
        from pathlib import Path
        Path(__file__).with_name("imported").touch()
    """)
    )
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"plugins": [str(evil)]}))
    assert main(["evaluate", str(run), "--tasks", "2", "--episodes", "2", "--steps", "1"]) == 0
    (run / "config.json").write_text(json.dumps(config | {"plugins": [str(evil)], "family_name": "evil"}))
    assert main(["evaluate", str(run)]) == 1
    assert not (tmp_path / "imported").exists()
    assert main(["evaluate", str(run), "--plugin", str(evil)]) == 1
    assert (tmp_path / "imported").exists()

"""Evaluation: tasks of its own, intervals by hand, and what a user reads of it."""

import json
import math
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import metarl.envs  # noqa: F401
from metarl.experiments.cli import main
from metarl.experiments.evaluate import EvaluateConfig, _interval
from metarl.experiments.presets import preset_config
from metarl.inner.policy_problem import InnerConfig
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import FAMILIES, register

TINY = [
    *("--iterations", "2", "--meta-batch-size", "2", "--held-out-every", "1", "--held-out-tasks", "2"),
    *("--rollout.episodes", "2", "--rollout.horizon", "8", "--policy.hidden", "8"),
]
SMALL = ["--tasks", "3", "--episodes", "2"]


def test_evaluation_json_holds_the_returns_after_each_step_and_their_intervals(tiny_run: Path, capsys):
    assert main(["evaluate", str(tiny_run), "--steps", "3", *SMALL]) == 0
    found = json.loads((tiny_run / "evaluation.json").read_text())
    assert found["family"] == "navigation-2d"
    assert (found["tasks"], found["episodes"]) == (3, 2)
    assert len(found["mean_return"]) == len(found["ci95"]) == 4
    assert all(math.isfinite(value) for value in found["mean_return"] + found["ci95"])
    assert found["step_sizes"] == [0.042, 0.021, 0.021]
    assert f"{found['mean_return'][1]:.2f}" in capsys.readouterr().out


def test_the_same_evaluation_gives_the_same_numbers_and_another_seed_others(tiny_run: Path):
    returns = []
    for seed in ("0", "0", "1"):
        assert main(["evaluate", str(tiny_run), "--seed", seed, *SMALL]) == 0
        returns.append(json.loads((tiny_run / "evaluation.json").read_text())["mean_return"])
    assert returns[0] == returns[1] != returns[2]


def test_held_out_tasks_are_none_of_the_training_tasks():
    family = preset_config("half-cheetah-vel").family
    trained = np.concatenate([family.sample(generator(0, Stream.TRAIN_TASKS, number), 40) for number in range(50)])
    held_out = family.sample(generator(0, Stream.EVALUATION_TASKS), 40)
    assert not np.isin(held_out, trained).any()


def test_steps_past_those_of_training_are_half_as_large_unless_told():
    one, two = InnerConfig(step_size=0.1), InnerConfig(step_size=0.1, steps=2)
    assert EvaluateConfig(steps=3).step_sizes(one) == [0.1, 0.05, 0.05]
    assert EvaluateConfig(steps=3).step_sizes(two) == [0.1, 0.1, 0.05]
    assert EvaluateConfig(steps=3, step_size=0.4, later_step_size=0.3).step_sizes(two) == [0.4, 0.4, 0.3]
    assert EvaluateConfig(steps=2).step_sizes(InnerConfig(step_size=0.1, steps=0)) == [0.1, 0.05]
    assert EvaluateConfig(steps=0).step_sizes(one) == []
    assert EvaluateConfig().step_sizes(one) == EvaluateConfig(steps=3).step_sizes(one)


def test_the_interval_is_students_t_over_tasks():
    """Mean 2, deviation 1 of three tasks: t(0.975, 2) = 4.302653 times 1 / sqrt(3); diverged tasks do not count."""
    assert _interval(np.array([1.0, np.nan, 2.0, 3.0])) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(_interval(np.array([1.0])))


class Side(gymnasium.Env[np.ndarray, np.ndarray]):
    """Reward 1, and success, on the negative side alone."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, side: float) -> None:
        self.side = side

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        return np.zeros(1), float(self.side < 0.0), False, False, {"success": self.side < 0.0}


class Split:
    """Training tasks are positive, test tasks negative."""

    def sample(self, rng, count):
        return rng.uniform(1.0, 2.0, size=count)

    def sample_test(self, rng, count):
        return -rng.uniform(1.0, 2.0, size=count)

    def make_env(self, task):
        return Side(task)


class Mixed(Split):
    """Test tasks are training tasks."""

    def sample_test(self, rng, count):
        return [1.5] * count

    def sample(self, rng, count):
        return [1.5, 1.75, *rng.uniform(size=count)][:count]


@pytest.fixture
def split():
    """Registered for one test."""
    register("test-split")(Split)
    register("test-mixed")(Mixed)
    yield
    del FAMILIES["test-split"], FAMILIES["test-mixed"]


@pytest.mark.usefixtures("split")
def test_evaluation_is_on_test_tasks_and_tells_success_beside_the_return(tmp_path: Path, capsys):
    """Eight steps of reward 1 on every test task; training never saw one, so nothing was learned and nothing paid."""
    assert main(["train", "test-split", "--runs", str(tmp_path), "--name", "run", *TINY]) == 0
    assert "held-out return 8.0 → 8.0, success 100 % → 100 %" in capsys.readouterr().out
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert [line[f"{kind}/return_after_1"] for kind in ("train", "held_out")] == [0.0, 8.0]
    assert [line[f"{kind}/success_after_1"] for kind in ("train", "held_out")] == [0.0, 1.0]
    assert main(["evaluate", str(tmp_path / "run"), "--steps", "1", *SMALL]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (found["mean_return"], found["mean_success"]) == ([8.0, 8.0], [1.0, 1.0])
    assert "100 %" in capsys.readouterr().out
    assert main(["results", str(tmp_path / "run"), "--into", str(tmp_path / "kept")]) == 0
    assert "held_out/success_after_1" in (tmp_path / "kept" / "run" / "curves.csv").read_text()


def test_families_that_tell_no_success_have_none_in_their_evaluation(tiny_run: Path, capsys):
    assert main(["evaluate", str(tiny_run), "--steps", "1", *SMALL]) == 0
    assert "mean_success" not in json.loads((tiny_run / "evaluation.json").read_text())
    assert "success" not in capsys.readouterr().out


@pytest.mark.usefixtures("split")
def test_check_finds_test_tasks_that_are_training_tasks(capsys):
    assert main(["check", "test-mixed"]) == 1
    assert "sample_test(rng, count) gives tasks that sample never gives" in capsys.readouterr().out


def test_the_results_command_keeps_the_small_files_and_prints_the_table(tiny_run: Path, tmp_path: Path, capsys):
    assert main(["evaluate", str(tiny_run), "--steps", "2", *SMALL]) == 0
    assert main(["results", str(tiny_run), "--into", str(tmp_path)]) == 0
    kept = tmp_path / tiny_run.name
    assert sorted(path.name for path in kept.iterdir()) == [
        "config.json",
        "curves.csv",
        "evaluation.json",
        "results.json",
    ]
    returns = json.loads((kept / "evaluation.json").read_text())["mean_return"]
    assert "| `navigation-2d` | maml-trpo | default | 1 |" in capsys.readouterr().out
    assert main(["results", str(kept)]) == 0
    assert f"| {returns[0]:.1f} | {returns[1]:.1f} | {returns[2]:.1f} |" in capsys.readouterr().out
    assert (kept / "curves.csv").read_text().startswith("iteration,")


def test_results_of_a_run_that_was_not_evaluated_say_what_to_do(tiny_run: Path, tmp_path: Path, capsys):
    shutil.copytree(tiny_run, tmp_path / "fresh")
    (tmp_path / "fresh" / "evaluation.json").unlink(missing_ok=True)
    assert main(["results", str(tmp_path / "fresh")]) == 1
    assert "metarl evaluate" in " ".join(capsys.readouterr().err.split())

"""``metarl adapt``: the table, the folder, the snippet that runs it, and what is refused before sampling."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import metarl
from metarl.experiments.adapt import load_initialization
from metarl.experiments.cli import main
from metarl.rollout.seeding import Stream, generator

TINY = [
    *("--iterations", "2", "--meta-batch-size", "2", "--held-out-every", "1", "--held-out-tasks", "2"),
    *("--rollout.episodes", "2", "--rollout.horizon", "8", "--policy.hidden", "8"),
]


@pytest.fixture(scope="module")
def pole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of cartpole with normalized observations."""
    runs = tmp_path_factory.mktemp("runs")
    flags = [*TINY, "--rollout.normalize-observations", "True"]
    assert main(["train", "cartpole", "--runs", str(runs), "--name", "pole", *flags]) == 0
    return runs / "pole"


def told(capsys: Any) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("env_id", ["CartPole-v1", "metarl/CartPole-v0"])
def test_adapting_to_a_registered_environment_prints_what_runs(env_id, pole: Path, tmp_path: Path, capsys):
    output = tmp_path / "adapted"
    flags = ["--steps", "2", "--episodes", "3", "--horizon", "20", "--seed", "5"]
    assert main(["adapt", str(pole), "--env-id", env_id, "--output", str(output), *flags]) == 0
    shown = capsys.readouterr().out
    origin = json.loads((output / "policy.json").read_text())["origin"]
    assert (origin["family"], origin["run"], origin["iteration"]) == ("cartpole", "pole", 2)
    assert (origin["task"], origin["steps"], origin["episodes"], origin["horizon"]) == (env_id, 2, 3, 20)
    for step, value in enumerate(origin["returns"]):
        assert re.search(rf"│ +{step} │ +{value:.2f} │", shown)
    lines = [line.strip() for line in shown.partition("run it with")[2].splitlines()]
    (tmp_path / "snippet.py").write_text("\n".join(lines))
    found = runpy.run_path(str(tmp_path / "snippet.py"))
    assert found["action"] in found["env"].action_space
    assert metarl.load_policy(output).scaler is not None


def test_a_held_out_task_of_the_family_is_the_one_of_its_number_that_evaluation_draws(
    tiny_run: Path, tmp_path: Path, capsys
):
    output = tmp_path / "adapted"
    assert main(["adapt", str(tiny_run), "--task", "7", "--seed", "3", "--output", str(output)]) == 0
    family = metarl.make_family("navigation-2d")
    task = family.sample(generator(3, Stream.EVALUATION_TASKS), 40)[7]
    assert family.describe(task) in capsys.readouterr().out
    policy = metarl.load_policy(output)
    assert policy.origin.task == family.describe(task)
    again = metarl.adapt(load_initialization(tiny_run), lambda: family.make_env(task), metarl.AdaptConfig(seed=3))
    assert again.origin.returns == policy.origin.returns
    observation = np.array([0.1, -0.2], np.float32)
    np.testing.assert_array_equal(
        again.act(observation, deterministic=True), policy.act(observation, deterministic=True)
    )


def test_the_policy_goes_into_the_run_unless_told_and_never_over_another(tiny_run: Path, capsys):
    assert main(["adapt", str(tiny_run), "--checkpoint", "best"]) == 0
    assert (tiny_run / "adapted" / "policy.json").is_file()
    assert main(["adapt", str(tiny_run)]) == 1
    assert "adapted exists; an adapted policy needs a folder of its own" in told(capsys)


class Untouchable(gymnasium.Env[Any, Any]):
    """Fails when it is used."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (5,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **options: Any) -> Any:
        raise AssertionError("reset")

    def step(self, action: Any) -> Any:
        raise AssertionError("step")


def test_an_environment_of_other_spaces_is_refused_by_name_and_never_used(pole: Path, tmp_path: Path, capsys):
    gymnasium.register("test/Untouchable-v0", Untouchable)
    try:
        output = tmp_path / "adapted"
        assert main(["adapt", str(pole), "--env-id", "test/Untouchable-v0", "--output", str(output)]) == 2
    finally:
        gymnasium.registry.pop("test/Untouchable-v0")
    said = told(capsys)
    assert "observation_space of test/Untouchable-v0 must be that of the task family 'cartpole' that pole was" in said
    assert "shape (4,), got (5,)" in said
    assert not output.exists()


def test_the_bounds_of_stretched_actions_must_be_the_familys(tmp_path: Path, capsys):
    """Navigation moves by at most 0.1 m, the registered environment too; a wrapped one by 1."""
    run = tmp_path / "run"
    flags = ["--runs", str(tmp_path), "--name", "run", *TINY, "--policy.bounds", "rescale"]
    assert main(["train", "navigation-2d", *flags]) == 0
    assert main(["adapt", str(run), "--env-id", "metarl/Navigation2D-v0"]) == 0
    one = np.float32(1.0)
    wide = lambda: gymnasium.wrappers.RescaleAction(gymnasium.make("metarl/Navigation2D-v0"), -one, one)  # noqa: E731
    with pytest.raises(ValueError, match=r"bound low = .*onto which actions are stretched"):
        metarl.adapt(load_initialization(run), wide)


@pytest.mark.parametrize(
    ("flags", "status", "complaint"),
    [
        (["--env-id", "CartPol-v1"], 1, "must be registered in Gymnasium, got 'CartPol-v1'"),
        (["--env-id", "CartPole-v1", "--task", "1"], 2, "give env_id or task, not both"),
        (["--task", "-1"], 2, "task must be 0 or more, got -1"),
        (["--steps", "-1"], 2, "steps must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(pole: Path, tmp_path: Path, flags, status, complaint, capsys):
    output = tmp_path / "adapted"
    try:
        found = main(["adapt", str(pole), "--output", str(output), *flags])
    except SystemExit as stopped:  # the parser's own way out
        found = int(stopped.code or 0)
    assert found == status
    assert complaint in told(capsys)
    assert not output.exists()


def test_a_run_of_supervised_tasks_is_refused(few_shot: Path, capsys):
    assert main(["adapt", str(few_shot / "sinusoid")]) == 1
    assert "must be a run of a policy that adapts by gradient" in told(capsys)


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, capsys):
    assert main(["adapt", str(tmp_path)]) == 1
    assert "is not a run" in told(capsys)


def test_an_initialization_is_loaded_to_the_processor(tiny_run: Path, tmp_path: Path):
    """Also one of a run whose device is not here."""
    elsewhere = tmp_path / "run"
    (elsewhere / "checkpoints").mkdir(parents=True)
    config = json.loads((tiny_run / "config.json").read_text())
    config["train"]["device"] = "cuda:7"
    (elsewhere / "config.json").write_text(json.dumps(config))
    for path in (tiny_run / "checkpoints").iterdir():
        (elsewhere / "checkpoints" / path.name).write_bytes(path.read_bytes())
    start = load_initialization(elsewhere)
    assert {value.device.type for value in start.meta.theta.values()} == {"cpu"}
    assert start.config.device == "cpu"


def test_an_oracle_is_saved_as_it_is_and_fits_only_environments_that_show_their_task(tmp_path: Path, capsys):
    flags = ["--runs", str(tmp_path), "--name", "run", "--algorithm", "oracle", *TINY]
    assert main(["train", "cartpole", *flags]) == 0
    assert main(["adapt", str(tmp_path / "run"), "--task", "1", "--steps", "2", "--output", str(tmp_path / "no")]) == 2
    assert "a policy of oracle takes no gradient steps, got steps 2" in told(capsys)
    assert main(["adapt", str(tmp_path / "run"), "--task", "1"]) == 0
    assert "as it is, on gravity" in " ".join(capsys.readouterr().out.split())
    policy = metarl.load_policy(tmp_path / "run" / "adapted")
    assert policy.observation_space.shape == (6,)
    assert len(policy.origin.returns) == 1
    assert main(["adapt", str(tmp_path / "run"), "--env-id", "CartPole-v1", "--output", str(tmp_path / "no")]) == 2
    assert "shape (6,), got (4,)" in told(capsys)

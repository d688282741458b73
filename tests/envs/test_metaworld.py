"""Meta-World: disjoint tasks, the same motion as its own classes, success; and what is said where it is missing."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import metarl
from metarl.envs import MetaWorldML1, MetaWorldML10, MetaWorldML45, MetaWorldTask
from metarl.envs.metaworld import _describe, _draw
from metarl.experiments.cli import main
from metarl.tasks import MissingPackage, SamplesTestTasks, TaskFamily

NAMES = ["metaworld-ml1", "metaworld-ml10", "metaworld-ml45"]
REACH = MetaWorldTask("reach-v3", (0.05, 0.6, 0.02, -0.1, 0.82, 0.11))
TASKS = [
    REACH,
    MetaWorldTask("door-open-v3", (0.05, 0.9, 0.15)),
    MetaWorldTask("basketball-v3", (0.05, 0.62, 0.03, -0.05, 0.87, 0.0)),
]
"""Of classes that move a site, a body and two of them when an episode begins."""

needs_metaworld = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None,
    reason="Meta-World is not installed; experiments/metaworld.sh runs this in an environment that has it",
)


@pytest.fixture
def without_metaworld(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra was not installed."""
    monkeypatch.setitem(sys.modules, "metaworld", None)


@pytest.mark.usefixtures("without_metaworld")
@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_families_have_their_names_and_say_how_to_install_it(name):
    family: Any = metarl.make_family(name, goal_seed=987)
    assert isinstance(family, TaskFamily)
    assert isinstance(family, SamplesTestTasks)
    for call in (
        lambda: family.sample(np.random.default_rng(0), 1),
        lambda: family.sample_test(np.random.default_rng(0), 1),
        lambda: family.make_env(REACH),
    ):
        with pytest.raises(MissingPackage, match=r"pip install 'metarl-gym\[metaworld\]'"):
            call()


@pytest.mark.usefixtures("without_metaworld")
def test_without_the_package_commands_end_with_a_line_and_begins_no_run(tmp_path: Path, capsys):
    for command in (["train", "metaworld-ml1", "--runs", str(tmp_path)], ["check", "metaworld-ml1"]):
        assert main([*command, "--family.goal-seed", "987"]) == 1
        said = capsys.readouterr().err
        assert "pip install 'metarl-gym[metaworld]'" in " ".join(said.split())
        assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_the_extra_is_declared_and_importing_the_families_imports_nothing_of_it():
    import tomllib

    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [each.split(">")[0] for each in extras["metaworld"]] == ["metaworld"]
    lines = (root / "envs" / "metaworld.py").read_text().splitlines()
    assert [line for line in lines if "import metaworld" in line] == ["        import metaworld"]


def test_tasks_of_a_draw_differ_as_long_as_there_are_enough():
    few = tuple(MetaWorldTask("reach-v3", (float(number),)) for number in range(5))
    assert sorted(_draw(few, np.random.default_rng(0), 5)) == list(few)
    assert len(_draw(few, np.random.default_rng(0), 12)) == 12
    with pytest.raises(ValueError, match="count must be"):
        _draw(few, np.random.default_rng(0), 0)


def test_a_task_is_described_in_words():
    assert _describe(REACH) == "reach-v3 at (0.05, 0.60, 0.02, -0.10, 0.82, 0.11) m"


def every_task(family: Any) -> tuple[set[MetaWorldTask], set[MetaWorldTask]]:
    """Fifty of each environment are all there are."""
    count = 45 * 50
    return set(family.sample(np.random.default_rng(0), count)), set(family.sample_test(np.random.default_rng(0), count))


@needs_metaworld
def test_ml1_trains_and_tests_on_fifty_goals_each_and_none_in_common():
    train = MetaWorldML1().sample(np.random.default_rng(0), 50)
    test = MetaWorldML1().sample_test(np.random.default_rng(0), 50)
    assert len({*train, *test}) == 100
    assert {task.env_name for task in [*train, *test]} == {"reach-v3"}


@needs_metaworld
def test_another_goal_seed_gives_other_goals():
    first, second = (set(MetaWorldML1(goal_seed=seed).sample(np.random.default_rng(0), 50)) for seed in (1, 7))
    assert not first & second


@needs_metaworld
@pytest.mark.slow
@pytest.mark.parametrize(("family", "train", "test"), [(MetaWorldML10(), 10, 5), (MetaWorldML45(), 45, 5)], ids=repr)
def test_ml10_and_ml45_test_on_environments_that_training_never_sees(family, train, test):
    tasks = every_task(family)
    names = [{task.env_name for task in split} for split in tasks]
    assert [len(each) for each in names] == [train, test]
    assert not names[0] & names[1]
    assert len(tasks[1]) == 50 * test


@needs_metaworld
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.env_name)
def test_motion_and_rewards_are_those_of_meta_worlds_own_class_in_every_episode(task):
    """Its class compiles a model of its own; ours shares one, and must not carry anything from one task to another."""
    import metaworld

    cls = metaworld.ALL_V3_ENVIRONMENTS[task.env_name]
    theirs, ours = cls(), MetaWorldML1().make_env(task)
    settings = {"rand_vec": np.array(task.positions), "env_cls": cls, "partially_observable": True}
    theirs.set_task(metaworld.Task(task.env_name, pickle.dumps(settings)))
    moved = MetaWorldML1().make_env(task._replace(positions=tuple(np.array(task.positions) + 0.01)))
    moved.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (10, 4)).astype(np.float32)
    first = theirs.reset()[0]
    expected = [theirs.step(action)[:2] for action in actions]
    for seed in (0, 1):
        assert_array_equal(ours.reset(seed=seed)[0], np.clip(first, *_bounds(theirs)))
        for action, (observation, reward) in zip(actions, expected, strict=True):
            found = ours.step(action)
            assert_array_equal(found[0], observation)
            assert found[1] == reward
    for env in (theirs, ours, moved):
        env.close()


def _bounds(env: Any) -> tuple[np.ndarray, np.ndarray]:
    return env.observation_space.low, env.observation_space.high


@needs_metaworld
def test_the_goal_is_hidden_and_reaching_it_is_a_success():
    """The hand goes straight to the goal, which no observation tells."""
    env = MetaWorldML1().make_env(REACH)
    seen, goal, told = env.reset(seed=0)[0], np.array(REACH.positions[3:]), []
    for _ in range(80):
        assert not seen[36:].any()
        action = np.array([*np.clip(10.0 * (goal - seen[:3]), -1.0, 1.0), 0.0], dtype=np.float32)
        seen, reward, terminated, truncated, info = env.step(action)
        told.append(info["success"])
        assert not terminated
        assert not truncated
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert reward > 9.0
    env.close()


@needs_metaworld
def test_drawing_shows_the_table_and_changes_no_motion():
    drawn, plain = MetaWorldML1().make_env(REACH, render_mode="rgb_array"), MetaWorldML1().make_env(REACH)
    assert_array_equal(drawn.reset(seed=0)[0], plain.reset(seed=0)[0])
    assert plain.render() is None
    for action in np.random.default_rng(0).uniform(-1.0, 1.0, (5, 4)).astype(np.float32):
        picture = drawn.render()
        assert_array_equal(drawn.step(action)[0], plain.step(action)[0])
    assert picture.shape == (480, 480, 3)
    assert picture.std() > 10.0
    for env in (drawn, drawn, plain):
        env.close()


@needs_metaworld
def test_an_unknown_environment_names_the_nearest():
    with pytest.raises(ValueError, match="no environment 'reach-v4'; did you mean 'reach-v3'"):
        MetaWorldML1(task_name="reach-v4").sample(np.random.default_rng(0), 1)


@needs_metaworld
def test_a_run_with_workers_logs_success_beside_the_return(tmp_path: Path, capsys):
    small = ["--iterations", "1", "--meta-batch-size", "2", "--rollout.episodes", "2", "--rollout.horizon", "5"]
    more = ["--held-out-tasks", "2", "--held-out-every", "1", "--workers.count", "2", "--workers.timeout-s", "300"]
    run = tmp_path / "run"
    assert main(["train", "metaworld-ml1", "--runs", str(tmp_path), "--name", "run", *small, *more]) == 0
    (line,) = [json.loads(each) for each in (run / "metrics.jsonl").read_text().splitlines()]
    for kind in ("train", "held_out"):
        for step in (0, 1):
            assert line[f"{kind}/return_after_{step}"] > 0.0
            assert line[f"{kind}/success_after_{step}"] == 0.0  # too short to reach anything
    assert main(["evaluate", str(run), "--tasks", "2", "--episodes", "2", "--steps", "1"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["mean_success"] == [0.0, 0.0]
    assert "success" in capsys.readouterr().out

"""``metarl check``: one broken family for every rule, and what it is told to mend."""

from __future__ import annotations

import math
import random
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import metarl.envs  # noqa: F401  registers the built-in families
from metarl.experiments.check import Finding, check_family
from metarl.experiments.cli import main
from metarl.experiments.kinds import REINFORCEMENT, kind_of
from metarl.experiments.presets import preset_config
from metarl.tasks import FAMILIES, MissingPackage, TaskFamily


class Reach(gymnasium.Env):
    """A point on a line, started at random, that has to find a goal."""

    def __init__(self, goal: float) -> None:
        self.goal = goal
        self.observation_space: Any = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space: Any = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.start(), 0
        return self.observe(), {}

    def start(self) -> float:
        return self.np_random.normal()

    def observe(self) -> Any:
        return np.array([self.place, self.steps], dtype=np.float64)

    def step(self, action):
        self.place += float(action[0])
        self.steps += 1
        return self.observe(), self.reward(), False, False, {}

    def reward(self) -> float:
        return -abs(self.place - self.goal)


class Good:
    """A family that keeps every rule; a task is a goal."""

    env: type[Any] = Reach

    def sample(self, rng: np.random.Generator, count: int) -> Sequence[Any]:
        return rng.uniform(-1.0, 1.0, count).tolist()

    def make_env(self, task: Any) -> Any:
        return self.env(task)


def faults(family: TaskFamily) -> list[Finding]:
    return [finding for finding in check_family(family) if finding.fault is not None]


class TooFew(Good):
    def sample(self, rng, count):
        return super().sample(rng, count)[1:]


class NumpysGlobalGenerator(Good):
    def sample(self, rng, count):
        return np.random.uniform(-1.0, 1.0, count).tolist()  # noqa: NPY002


class PythonsGlobalGenerator(Good):
    def sample(self, rng, count):
        return [random.random() for _ in range(count)]


class OwnGenerator(Good):
    def sample(self, rng, count):
        return np.random.default_rng().uniform(-1.0, 1.0, count).tolist()


class Constant(Good):
    def sample(self, rng, count):
        return [0.1 * index for index in range(count)]


class RaisingSample(Good):
    def sample(self, rng, count):
        raise KeyError("goals")


class FamilyWithLock(Good):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Locked:
    """A task that no worker process can have."""

    def __init__(self, goal: float) -> None:
        self.goal, self.lock = goal, threading.Lock()


class TasksWithLock(Good):
    def sample(self, rng, count):
        return [Locked(goal) for goal in super().sample(rng, count)]

    def make_env(self, task):
        return Reach(task.goal)


class OldGymEnv:
    """What the gym package's environments look like from here."""

    def __init__(self, goal: float) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))


class OldGym(Good):
    env = OldGymEnv


class RaisingMakeEnv(Good):
    def make_env(self, task):
        raise FileNotFoundError("robot.xml")


class DifferingSpaces(Good):
    def make_env(self, task):
        env = Reach(task)
        env.observation_space = spaces.Box(-np.inf, np.inf, (2 if task > 0 else 3,), np.float64)
        return env


class TextEnv(Reach):
    def __init__(self, goal: float) -> None:
        super().__init__(goal)
        self.observation_space = spaces.Text(5)


class TextObservations(Good):
    env = TextEnv


class UnknownKind(spaces.Space):
    """A space of a user's own; any two are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnknownKind)

    __hash__ = None  # type: ignore[assignment]


class OwnSpaceEnv(Reach):
    def __init__(self, goal: float) -> None:
        super().__init__(goal)
        self.observation_space = spaces.Dict({"place": UnknownKind((2,), np.float32)})


class OwnSpace(Good):
    env = OwnSpaceEnv


class ByteEnv(Reach):
    def __init__(self, goal: float) -> None:
        super().__init__(goal)
        self.action_space = spaces.Box(0, 255, (1,), np.uint8)


class IntegerBoxActions(Good):
    env = ByteEnv


class NaNRewardEnv(Reach):
    def reward(self) -> float:
        return float(np.float64(math.nan)) if self.steps == 4 else 0.0


class NaNReward(Good):
    env = NaNRewardEnv


class InfiniteObservationEnv(Reach):
    def observe(self):
        return np.array([self.place, math.inf if self.steps == 4 else 0.0])


class InfiniteObservation(Good):
    env = InfiniteObservationEnv


class LateShapeEnv(Reach):
    def observe(self):
        return super().observe()[: 1 if self.steps == 4 else 2]


class WrongShape(Good):
    env = LateShapeEnv


class RaisingStepEnv(Reach):
    def reward(self):
        raise KeyError("goal")


class RaisingStep(Good):
    env = RaisingStepEnv


class SeedlessEnv(Reach):
    def start(self):
        return float(np.random.default_rng().normal())


class Seedless(Good):
    env = SeedlessEnv


class CountingEnv(Reach):
    made = 0

    def __init__(self, goal: float) -> None:
        super().__init__(goal)
        CountingEnv.made += 1
        self.offset = CountingEnv.made

    def start(self):
        return super().start() + self.offset


class DiffersByEnvironment(Good):
    env = CountingEnv


class ForgetsTheTask(Good):
    def make_env(self, task):
        return Reach(0.5)


class NoInfoEnv(Reach):
    def reset(self, *, seed=None):
        return super().reset(seed=seed)


class NoOptions(Good):
    env = NoInfoEnv


class Vectored(Good):
    """Gymnasium's own vector form, kept from resetting; ``order`` gives the goals of its rows."""

    def order(self, tasks: Sequence[float], episodes: int) -> list[float]:
        return np.repeat(tasks, episodes).tolist()

    def make_vec(self, tasks: Sequence[float], episodes: int) -> VectorEnv[Any, Any, Any]:
        makers = [lambda goal=goal: Reach(goal) for goal in self.order(tasks, episodes)]
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)


class Autoresetting(Vectored):
    def make_vec(self, tasks, episodes):
        return SyncVectorEnv([lambda goal=goal: Reach(goal) for goal in self.order(tasks, episodes)])


class TaskAfterTask(Vectored):
    """Its rows are tasks 0 1 0 1 where they have to be 0 0 1 1."""

    def order(self, tasks, episodes):
        return np.tile(tasks, episodes).tolist()


class OneEpisodeEach(Vectored):
    def order(self, tasks, episodes):
        return list(tasks)


class Missing(Vectored):
    def make_vec(self, tasks, episodes):
        raise NotImplementedError("no simulator here")


@pytest.mark.parametrize("family", [Good(), Vectored(), Missing()])
def test_a_family_that_keeps_the_contract_has_no_fault(family):
    assert faults(family) == []
    assert len(check_family(family)) == (8 if type(family) is Good else 9)


@pytest.mark.parametrize(
    ("family", "rule", "remedy"),
    [
        (TooFew(), "sample", r"gave 5 tasks; it must give as many as it is asked for"),
        (NumpysGlobalGenerator(), "sample", r"global generator of numpy or random; draw from the rng it is given"),
        (PythonsGlobalGenerator(), "sample", r"global generator of numpy or random; draw from the rng it is given"),
        (OwnGenerator(), "sample", r"the same rng gave different tasks; draw everything from rng"),
        (Constant(), "sample", r"differently seeded generators gave the same tasks; draw them from rng"),
        (RaisingSample(), "sample", r"test_check.py\", line \d+, in sample[\s\S]*KeyError: 'goals'"),
        (FamilyWithLock(), "pickled", r"the family cannot be pickled .*; keep open files, locks and simulators out"),
        (TasksWithLock(), "pickled", r"a task cannot be pickled .*; keep open files, locks and simulators out of it"),
        (OldGym(), "gymnasium.Env", r"must return a gymnasium.Env, got .*OldGymEnv; .* ported, or wrapped by shimmy"),
        (RaisingMakeEnv(), "gymnasium.Env", r"task 0 .*, make_env: FileNotFoundError: robot.xml[\s\S]*in make_env"),
        (DifferingSpaces(), "same spaces", r"all tasks must share one observation_space, got Box.* after Box"),
        (TextObservations(), "policy", r"observations must be Box, .* got Text.* gymnasium.ObservationWrapper"),
        (
            OwnSpace(),
            "policy",
            r"observations\['place'\] must be Box, .* got .*UnknownKind.* gymnasium.ObservationWrapper",
        ),
        (IntegerBoxActions(), "policy", r"actions must be a Box of floats, .* got Box.* gymnasium.ActionWrapper"),
        (NaNReward(), "finite", r"the reward of step 3 for task 0\.9\d+ is nan; rewards must be finite"),
        (InfiniteObservation(), "finite", r"the observation before step 4 .* inf\]; observations must be finite"),
        (
            WrongShape(),
            "finite",
            r"before step 4 .*float64 of shape \(1,\)\), expected Box.*; return what the space",
        ),
        (RaisingStep(), "finite", r"test_check.py\", line \d+, in step[\s\S]*KeyError: 'goal'"),
        (Seedless(), "seed", r"same seed differ; call super\(\).reset\(seed=seed\) and draw from self.np_random"),
        (DiffersByEnvironment(), "seed", r"two environments of one task differ .* must come from the task, the seed"),
        (ForgetsTheTask(), "task changes", r"does make_env hand the task to the environment, and does reset keep it\?"),
        (NoOptions(), "check_env", r"does not provide an `options`"),
        (Autoresetting(), "make_vec", r"set metadata\['autoreset_mode'\] to AutoresetMode.DISABLED"),
        (TaskAfterTask(), "make_vec", r"pay different rewards in step 0 from the same seeds and actions"),
        (OneEpisodeEach(), "make_vec", r"must have 4 sub-environments, got 2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Good) else "",
)
def test_the_first_fault_found_is_the_one_there_is_and_says_how_to_mend_it(family, rule, remedy):
    first = faults(family)[0]
    assert rule in first.what
    assert first.fault is not None
    assert re.search(remedy, first.fault), first.fault


def test_rules_whose_precondition_fails_are_not_tried():
    assert len(check_family(TooFew())) == 1
    assert len(check_family(OldGym())) == 3
    assert len(check_family(TextObservations())) == 4
    assert len(check_family(OwnSpace())) == 4
    assert len(check_family(RaisingStep())) == 5


def test_checking_leaves_the_global_generators_as_they_were():
    before = np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    check_family(Good())
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before  # noqa: NPY002


@pytest.mark.parametrize("name", sorted(name for name in FAMILIES if kind_of(FAMILIES[name]) is REINFORCEMENT))
def test_every_built_in_family_keeps_the_contract(name):
    try:
        found = faults(preset_config(name).family)
    except MissingPackage as missing:
        pytest.skip(str(missing))
    assert found == []


def test_the_command_lists_the_rules_that_are_kept_and_exits_0(monkeypatch, capsys):
    monkeypatch.setitem(FAMILIES, "good", Good)
    assert main(["check", "good"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 8
    assert lines[0] == "ok sample(rng, count) gives count tasks from rng alone"


def test_the_command_says_what_is_wrong_and_exits_1(monkeypatch, capsys):
    monkeypatch.setitem(FAMILIES, "forgetful", ForgetsTheTask)
    assert main(["check", "forgetful"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [*["ok"] * 6, "wrong", "ok"]
    (fault,) = [line for line in lines if line.startswith(" ")]
    assert "does make_env hand the task to the environment" in fault


@dataclass  # not frozen: dataclasses refuses such an instance as a default, metarl must not
class Optional(Good):
    keep: bool = True
    """Whether the task reaches the environment."""

    def make_env(self, task):
        return Reach(task if self.keep else 0.5)


def test_the_command_checks_the_family_with_the_options_given(monkeypatch):
    monkeypatch.setitem(FAMILIES, "optional", Optional)
    assert main(["check", "optional", "--family.keep", "True"]) == 0
    assert main(["check", "optional", "--family.keep", "False"]) == 1


def test_the_command_names_the_nearest_family(capsys):
    assert main(["check", "navigation-3d"]) == 2
    assert "did you mean 'navigation-2d'" in capsys.readouterr().err

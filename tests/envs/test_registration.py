"""Names under which families and environments are found, and the guard against importing twice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import metarl
import metarl.envs
from metarl.tasks import FAMILIES, SupportsVector, TaskFamily

VECTORIZED = [
    "navigation-2d",
    "half-cheetah-vel",
    "half-cheetah-dir",
    "ant-vel",
    "ant-dir",
    "ant-goal",
    "humanoid-dir",
    "walker2d-rand-params",
    "hopper-rand-params",
    "bandit",
    "tabular-mdp",
]
NAMES = [*VECTORIZED, "cartpole"]
FEW_SHOT = ["sinusoid", "boolean", "omniglot", "image-folder", "mini-imagenet"]
QUIET = [env_id for env_id in metarl.envs.HORIZONS if env_id != "metarl/CartPole-v0"]  # see test_cartpole.py


@pytest.mark.parametrize("env_id", QUIET)
def test_every_registered_environment_passes_gymnasiums_checks_without_a_warning(env_id):
    env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    check_env(env)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "options", "horizon"),
    [
        ("metarl/Navigation2D-v0", {"goal": (0.1, 0.2), "terminate": False}, 100),
        ("metarl/HalfCheetahVel-v0", {"velocity": 1.5, "frame_skip": 1, "observation_size": 20}, 200),
        ("metarl/HalfCheetahDir-v0", {"direction": -1}, 200),
        ("metarl/AntVel-v0", {"velocity": 0.5, "observation_size": 111}, 200),
        ("metarl/AntDir-v0", {"direction": 2.0, "directions": "circle", "costs": "promp"}, 200),
        ("metarl/Bandit-v0", {"probabilities": (0.2, 0.8)}, 10),
        ("metarl/TabularMDP-v0", {"states": 3, "actions": 2}, 10),
        ("metarl/CartPole-v0", {"gravity": 5.0, "half_length": 1.0}, 200),
        ("metarl/AntGoal-v0", {"goal": (1.0, -2.0), "variant": "promp", "observation_size": 113}, 200),
        ("metarl/HumanoidDir-v0", {"direction": -1, "directions": "forward-backward", "observation_size": 45}, 200),
        ("metarl/Walker2dRandParams-v0", {"factors": [1.1] * 65}, 200),
        ("metarl/HopperRandParams-v0", {"factors": [0.9] * 41}, 200),
    ],
)
def test_registered_environments_take_task_and_variant_and_know_the_papers_horizon(env_id, options, horizon):
    env = gymnasium.make(env_id, **options)
    assert env.spec is not None
    assert env.spec.max_episode_steps == horizon
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_found_by_name_and_fulfils_the_contract(name):
    family: Any = metarl.make_family(name)
    assert isinstance(family, TaskFamily)
    assert hash(family) == hash(metarl.make_family(name))
    tasks = family.sample(np.random.default_rng(0), 3)
    env = family.make_env(tasks[0])
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert isinstance(family.describe(tasks[0]), str)
    env.close()


@pytest.mark.parametrize("name", VECTORIZED)
def test_vector_environments_have_the_single_ones_spaces(name):
    family: Any = metarl.make_family(name)
    assert isinstance(family, SupportsVector)
    tasks = family.sample(np.random.default_rng(0), 3)
    env, many = family.make_env(tasks[0]), family.make_vec(tasks, 2)
    assert many.num_envs == 6
    assert many.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert many.single_observation_space == env.observation_space
    assert many.single_action_space == env.action_space
    env.close()
    many.close()


@pytest.mark.parametrize("name", FEW_SHOT)
def test_few_shot_families_are_found_by_name_and_say_what_they_can_without_data(name, monkeypatch):
    monkeypatch.setenv("METARL_DATA", "/nowhere")
    family: Any = metarl.make_family(name)
    assert family.kind in {"classification", "regression"}
    assert hash(family) == hash(metarl.make_family(name))
    assert family.outputs >= 1
    assert len(family.input_shape) in {1, 3}


def test_importing_the_families_loads_nothing_that_only_pictures_need():
    """In a process of its own, since other tests load them here."""
    code = "import sys, metarl.envs; print({'PIL', 'pooch', 'platformdirs', 'requests', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("name", [*NAMES, *FEW_SHOT])
def test_every_family_has_a_one_line_description(name):
    first = (FAMILIES[name].__doc__ or "").splitlines()[0]
    assert first.endswith(".")
    assert len(first) < 90


def test_the_package_cannot_be_imported_under_another_name():
    source = Path(metarl.envs.__file__)
    spec = importlib.util.spec_from_file_location("envs", source)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"must be imported as 'metarl\.envs', not as 'envs'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

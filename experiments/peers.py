"""Other ways to step many environments, measured beside our own: Gymnasium's vector environments and EnvPool."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from metarl.envs.body import without_log
from metarl.experiments.measure import own_policies
from metarl.policies.base import PolicyConfig
from metarl.policies.make import make_policy
from metarl.rollout.stepping import VecEnv
from metarl.spaces import AnySpace, action_decoder, flatten_batch
from metarl.tasks import TaskFamily

GYMNASIUM_BODIES = {
    "half-cheetah-vel": "HalfCheetah-v5",
    "half-cheetah-dir": "HalfCheetah-v5",
    "ant-vel": "Ant-v5",
    "ant-dir": "Ant-v5",
    "ant-goal": "Ant-v5",
    "humanoid-dir": "Humanoid-v5",
    "walker2d-rand-params": "Walker2d-v5",
    "hopper-rand-params": "Hopper-v5",
}
"""Gymnasium's own environment of the same body; the rewards differ, which costs nothing worth measuring."""


class Peer(NamedTuple):
    """How fast another library steps the same body."""

    name: str
    env_steps_per_s: list[float]
    """Of each repetition; empty where it could not be measured."""
    note: str
    """What was stepped, or why it was not."""


class PeerSetting(NamedTuple):
    """How the peers are measured."""

    hidden: tuple[int, ...]
    """Widths of the policies' hidden layers; each environment has a policy of its own."""
    envs: int
    """Environments at once."""
    steps: int
    """Control steps of each environment in one repetition."""
    repeats: int


def measure_peers(family: TaskFamily, family_name: str, setting: PeerSetting) -> list[Peer]:
    """Step the same body, or the family's own single environments, in each library."""
    body = GYMNASIUM_BODIES.get(family_name)
    task = family.sample(np.random.default_rng(0), 1)[0]
    options = {"frame_skip": family.body().frame_skip} if body and hasattr(family, "body") else {}
    make = functools.partial(_gymnasium_env, body, options) if body else functools.partial(family.make_env, task)
    what = f"{setting.envs} x {body or family_name}"
    return [
        Peer("Gymnasium SyncVectorEnv", _rates(SyncVectorEnv([make] * setting.envs), setting), what),
        Peer("Gymnasium AsyncVectorEnv", _rates(AsyncVectorEnv([make] * setting.envs), setting), what),
        _envpool(body, options, setting),
    ]


def _gymnasium_env(name: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Called in the worker; MuJoCo 4 warns about the model's settotalmass and would leave a log file."""
    with without_log():
        return gymnasium.make(name, **options)


def _envpool(body: str | None, options: dict[str, Any], setting: PeerSetting) -> Peer:
    if body is None:
        return Peer("EnvPool", [], "has no such environment")
    try:
        envpool = importlib.import_module("envpool")
    except ImportError:
        return Peer("EnvPool", [], "skipped: not installed (pip install envpool)")
    pool = envpool.make(body, env_type="gymnasium", num_envs=setting.envs, **options)
    return Peer("EnvPool", _rates(pool, setting), f"{setting.envs} x {body}, synchronous")


def _rates(env: VecEnv, setting: PeerSetting) -> list[float]:
    """Env steps per second of each repetition; starting the workers and the first reset are not counted."""
    try:
        seen = env.reset()[0]
        observations = getattr(env, "single_observation_space", env.observation_space)  # EnvPool's are single ones
        act = _actor(observations, getattr(env, "single_action_space", env.action_space), setting)
        rates = []
        for _ in range(setting.repeats):
            start = time.perf_counter()
            for _ in range(setting.steps):
                seen = env.step(act(seen))[0]
            rates.append(setting.envs * setting.steps / (time.perf_counter() - start))
        return rates
    finally:
        env.close()


def _actor(observations: AnySpace, actions: AnySpace, setting: PeerSetting) -> Callable[[Any], np.ndarray]:
    """A vector environment's observations to its actions, sampled by a perceptron for each row."""
    policy = make_policy(observations, actions, PolicyConfig(hidden=setting.hidden))
    sampler = policy.sampler(own_policies(policy, setting.envs, seed=0))
    decode, rng = action_decoder(actions, policy.config.bounds), np.random.default_rng(0)
    noise = np.empty((setting.envs, 1, policy.action_size), dtype=np.float32)

    def act(seen: Any) -> np.ndarray:
        policy.draw_noise(rng, noise)
        rows = flatten_batch(observations, seen).astype(np.float32)
        return decode(sampler.act(rows[:, None], noise)[0][:, 0])

    return act

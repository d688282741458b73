"""Presets: one per published setting, and defaults that were seen to learn on two cores.

Every preset changes only what differs from the defaults of the configuration classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metarl.experiments.config import RunConfig
from metarl.experiments.descent_presets import RATES, descent_presets
from metarl.experiments.few_shot_presets import FEW_SHOT_PRESETS
from metarl.experiments.kinds import FEW_SHOT, kind_of
from metarl.experiments.preset import Preset
from metarl.experiments.rl2_presets import RL2_PRESETS
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.trust_region import TrustRegionConfig
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.rl2 import Rl2Config
from metarl.rollout.collect import RolloutConfig
from metarl.tasks import closest, family_factory, make_family


class UnknownPreset(KeyError):
    """A task family has no preset of the name asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


_MAML_POLICY = PolicyConfig(hidden=(100, 100), activation="relu", min_log_std=-13.8)
"""Finn et al. 2017, app. A.2; the floor is the released code's minimal deviation of 1e-6."""


def _maml(**changes: Any) -> Callable[[], MetaTrainConfig]:
    """The published locomotion setting: every number not named here is a default of its class."""
    return lambda: MetaTrainConfig(**{"policy": _MAML_POLICY, **changes})


def _promp(horizon: int) -> Callable[[], MetaTrainConfig]:
    """As Rothfuss et al. 2019 (arXiv:1810.06784, app. D) ran it."""
    return lambda: MetaTrainConfig(
        algorithm="promp",
        policy=PolicyConfig(min_log_std=-13.8),
        rollout=RolloutConfig(horizon=horizon),
        iterations=1001,
    )


def _cheetah_dir() -> MetaTrainConfig:
    return MetaTrainConfig(
        rollout=RolloutConfig(normalize_observations=True),
        outer=TrustRegionConfig(max_kl=0.03),
        meta_batch_size=20,
        iterations=120,
    )


def _ant(tasks: int, episodes: int) -> MetaTrainConfig:
    """Small batches of short episodes, hundreds of updates in half an hour; and advantages that look ahead little.

    Of the untrained ant, inner gradients of independent batches agree several times as well with a discount of 0.9 and
    lambda 0.5 as with 0.99 and 0.95: ``metarl bench gradient ant-dir --episodes 20``.
    """
    return MetaTrainConfig(
        policy=PolicyConfig(initial_log_std=-0.5, last_layer_scale=0.1),
        rollout=RolloutConfig(
            episodes=episodes, horizon=100, discount=0.9, gae_lambda=0.5, normalize_observations=True
        ),
        outer=TrustRegionConfig(max_kl=0.05),
        meta_batch_size=tasks,
        held_out_tasks=10,
        held_out_every=20,
        iterations=2000,
        task_chunk=2,
    )


def _bandit(*, pulls: int, batches: int, step_size: float) -> MetaTrainConfig:
    """Every pull an episode; rewards are compared with 1/2, since a few pulls allow no fitted baseline."""
    return MetaTrainConfig(
        policy=PolicyConfig(hidden=(8,), last_layer_scale=0.1),
        rollout=RolloutConfig(
            episodes=pulls, horizon=1, baseline="constant", baseline_value=0.5, normalize_advantages=False
        ),
        inner=InnerConfig(steps=batches - 1, step_size=step_size),
        meta_batch_size=100,
        held_out_tasks=200,
        iterations=30,
        task_chunk=50,
    )


def _tabular(episodes: int) -> MetaTrainConfig:
    """A step after every episode but the last; myopic, since random transitions make the next reward nearly all."""
    return MetaTrainConfig(
        policy=PolicyConfig(hidden=(64,), last_layer_scale=0.1),
        rollout=RolloutConfig(
            episodes=1, horizon=10, discount=0.0, baseline="constant", baseline_value=1.0, normalize_advantages=False
        ),
        inner=InnerConfig(steps=episodes - 1, step_size=2.0),
        meta_batch_size=40,
        held_out_tasks=100,
        iterations=40,
        task_chunk=20,
    )


def _metaworld(meta_batch_size: int, horizon: int) -> Callable[[], MetaTrainConfig]:
    return lambda: MetaTrainConfig(
        policy=PolicyConfig(initial_log_std=-0.5, last_layer_scale=0.1),
        rollout=RolloutConfig(episodes=10, horizon=horizon, normalize_observations=True),
        outer=TrustRegionConfig(max_kl=0.03),
        meta_batch_size=meta_batch_size,
        held_out_tasks=10,
    )


PRESETS: dict[str, dict[str, Preset]] = {
    "navigation-2d": {
        "default": Preset(
            summary="tanh 64-64, small initial deviation with a floor, discount 0.98, KL 0.02, 100 iterations",
            family={},
            train=lambda: MetaTrainConfig(
                policy=PolicyConfig(initial_log_std=-2.0, min_log_std=-2.75, last_layer_scale=0.1),
                rollout=RolloutConfig(horizon=100, discount=0.98),
                inner=InnerConfig(step_size=0.042),
                outer=TrustRegionConfig(max_kl=0.02, fisher_stride=2),
                iterations=100,
            ),
        ),
        "maml": Preset(
            summary="Finn et al. 2017, app. A.2: relu 100-100, step 0.1, 20 tasks, 500 iterations",
            family={},
            train=_maml(rollout=RolloutConfig(horizon=100), meta_batch_size=20),
        ),
    },
    "bandit": {
        "default": Preset(
            summary="5 arms, 10 pulls: a gradient step after each pull",
            family={},
            train=lambda: _bandit(pulls=1, batches=10, step_size=1.0),
        ),
        "100-pulls": Preset(
            summary="5 arms, 100 pulls: a gradient step after every 10",
            family={},
            train=lambda: _bandit(pulls=10, batches=10, step_size=2.0),
        ),
    },
    "tabular-mdp": {
        "default": Preset(
            summary="10 states, 5 actions, 10 episodes: a gradient step after each",
            family={},
            train=lambda: _tabular(10),
        ),
        "25-episodes": Preset(
            summary="10 states, 5 actions, 25 episodes: a gradient step after each",
            family={},
            train=lambda: _tabular(25),
        ),
    },
    "cartpole": {
        "default": Preset(
            summary="gravity 5 to 15 m/s^2, half length 0.25 to 1 m, H 200, 30 iterations",
            family={},
            train=lambda: MetaTrainConfig(
                rollout=RolloutConfig(episodes=10),
                outer=TrustRegionConfig(max_kl=0.03),
                meta_batch_size=10,
                iterations=30,
            ),
        ),
    },
    "half-cheetah-dir": {
        "default": Preset(
            summary="the paper's timing (frame_skip 1, H 200), normalized observations, KL 0.03, 120 iterations",
            family={"frame_skip": 1, "balanced": True},
            train=_cheetah_dir,
        ),
        "quick": Preset(
            summary="the default stopped after two minutes: enough to see it adapt",
            family={"frame_skip": 1, "balanced": True},
            train=_cheetah_dir,
            minutes=2.0,
        ),
        "maml": Preset(
            summary="Finn et al. 2017, app. A.2: relu 100-100, frame_skip 1, 20-number observation, 500 iterations",
            family={"frame_skip": 1, "observation_size": 20},
            train=_maml(),
        ),
        "promp-paper": Preset(
            summary="promp, Rothfuss et al. 2019: tanh 64-64, frame_skip 5, H 100, 1001 iterations",
            family={},
            train=_promp(100),
        ),
    },
    "half-cheetah-vel": {
        "default": Preset(
            summary="frame_skip 5, H 100, goals U[0, 2] m/s, tanh 64-64, observations normalized, 50 iterations",
            family={},
            train=lambda: MetaTrainConfig(
                policy=PolicyConfig(initial_log_std=-1.0, min_log_std=-2.0, last_layer_scale=0.1),
                rollout=RolloutConfig(horizon=100, normalize_observations=True),
                inner=InnerConfig(step_size=0.05),
                outer=TrustRegionConfig(max_kl=0.05, fisher_stride=4, fisher_support_share=0.34),
                meta_batch_size=20,
                iterations=50,
            ),
        ),
        "maml": Preset(
            summary="Finn et al. 2017, app. A.2: relu 100-100, frame_skip 1, 20-number observation, 500 iterations",
            family={"frame_skip": 1, "observation_size": 20},
            train=_maml(),
        ),
        "promp-paper": Preset(
            summary="promp, Rothfuss et al. 2019: goals U[0, 3] m/s, tanh 64-64, frame_skip 5, H 100, 1001 iterations",
            family={"velocity_high": 3.0},
            train=_promp(100),
        ),
    },
    "metaworld-ml1": {
        "default": Preset(
            summary="reach-v3, H 200, 10 tasks x 10 episodes, tanh 64-64, KL 0.03; learns within ten iterations",
            family={},
            train=_metaworld(10, 200),
        ),
    },
    "metaworld-ml10": {
        "default": Preset(
            summary="H 500, 20 tasks x 10 episodes, tanh 64-64, KL 0.03; not tried",
            family={},
            train=_metaworld(20, 500),
        ),
    },
    "metaworld-ml45": {
        "default": Preset(
            summary="H 500, 20 tasks x 10 episodes, tanh 64-64, KL 0.03; not tried",
            family={},
            train=_metaworld(20, 500),
        ),
    },
    "ant-vel": {
        "default": Preset(
            summary="goals U[0, 3] m/s, H 100, 10 tasks x 4 episodes, normalized observations, 30 minutes",
            family={},
            train=lambda: _ant(10, 4),
            minutes=30.0,
        ),
        "maml": Preset(
            summary="Finn et al. 2017, app. A.2: relu 100-100, 111-number observation, 500 iterations",
            family={"observation_size": 111},
            train=_maml(),
        ),
    },
    "ant-dir": {
        "default": Preset(
            summary="forward or backward, H 100, 4 tasks x 10 episodes, normalized observations, 30 minutes",
            family={"balanced": True},
            train=lambda: _ant(4, 10),
            minutes=30.0,
        ),
        "maml": Preset(
            summary="Finn et al. 2017, app. A.2: relu 100-100, 40 episodes, 111-number observation, 500 iterations",
            family={"observation_size": 111},
            train=_maml(rollout=RolloutConfig(episodes=40)),
        ),
    },
}


def presets_of(family_name: str) -> dict[str, Preset]:
    """The presets of a family; one of a user's has a ``default`` made of the classes' own defaults."""
    kind = kind_of(family_factory(family_name))
    plain = Preset(summary="the defaults of every class", family={}, train=kind.settings)
    known = (PRESETS | FEW_SHOT_PRESETS).get(family_name, {"default": plain})
    if kind is FEW_SHOT:
        return known
    if family_name in RATES:
        known = known | descent_presets(known["default"], RATES[family_name])
    return known | RL2_PRESETS.get(family_name, {"rl2": Preset(summary="the defaults", family={}, train=Rl2Config)})


def preset_for(family_name: str, algorithm: str | None) -> str:
    """The preset that has an algorithm's name, if the family has one, else the default."""
    return algorithm if algorithm is not None and algorithm in presets_of(family_name) else "default"


def preset_config(family_name: str, preset: str = "default") -> RunConfig:
    """The configuration that a preset stands for.

    Raises:
        UnknownTaskFamily: if no family has that name.
        UnknownPreset: if the family has no such preset.
    """
    family_factory(family_name)
    known = presets_of(family_name)
    if preset not in known:
        raise UnknownPreset(
            f"{family_name} has no preset {preset!r}{closest(preset, known)} (known: {', '.join(sorted(known))})"
        )
    chosen = known[preset]
    family, train = make_family(family_name, **chosen.family), chosen.train()
    return RunConfig(
        family_name=family_name,
        preset=preset,
        family=family,
        train=train,
        checkpoint_every=kind_of(family, train.algorithm).checkpoint_every(train),
        minutes=chosen.minutes,
    )

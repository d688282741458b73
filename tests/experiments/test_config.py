"""Configurations and presets: what is written is what is read, and nothing else is."""

import dataclasses
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pytest

import metarl.envs  # noqa: F401  registers the families
from metarl.experiments.config import ConfigError, RunConfig, from_json, to_json
from metarl.experiments.presets import PRESETS, UnknownPreset, preset_config
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.reinforcement.config import MetaTrainConfig
from metarl.tasks import FAMILIES, UnknownTaskFamily

ALL = [(family, preset) for family, presets in PRESETS.items() for preset in presets]
HERE = Path("config.json")


@pytest.mark.parametrize(("family", "preset"), ALL)
def test_every_preset_survives_the_way_to_disk_and_back(family, preset):
    config = preset_config(family, preset)
    assert from_json(to_json(config), HERE) == config


def test_a_run_with_settings_that_would_be_refused_today_can_be_read():
    """Curiosity by the norm has no use for features: check_settings says so when a run begins."""
    config = preset_config("omniglot")
    curiosity = CuriosityConfig(kind="gradient", measure="norm", features=64, projection=8)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, curiosity=curiosity))
    assert from_json(to_json(config), Path("config.json")).train.curiosity == curiosity


def test_the_maml_preset_is_the_published_setting():
    """Finn et al. 2017, app. A.2."""
    config = preset_config("half-cheetah-dir", "maml").train
    assert config.policy.hidden == (100, 100)
    assert config.policy.activation == "relu"
    assert (config.inner.steps, config.inner.step_size) == (1, 0.1)
    assert (config.rollout.episodes, config.rollout.horizon, config.rollout.discount) == (20, 200, 0.99)
    assert (config.meta_batch_size, config.outer.max_kl, config.iterations) == (40, 0.01, 500)
    assert preset_config("half-cheetah-dir", "maml").family.frame_skip == 1


def test_unknown_names_are_refused_with_the_nearest_one():
    with pytest.raises(UnknownTaskFamily, match="did you mean 'ant-vel'"):
        preset_config("ant-vell")
    with pytest.raises(UnknownPreset, match="did you mean 'promp-paper'"):
        preset_config("half-cheetah-dir", "promp-papr")


@dataclasses.dataclass
class Cached:
    """A user's family that keeps something beside its options."""

    size: int = 3
    extra: int = dataclasses.field(default=0, init=False)

    @cached_property
    def table(self) -> np.ndarray:
        return np.zeros(self.size)


@dataclasses.dataclass(slots=True)
class Slotted(Cached):
    """Its options are not in ``__dict__``."""

    size: int = 3


@dataclasses.dataclass
class WithArray:
    goals: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))


@pytest.mark.parametrize("kind", [Cached, Slotted])
def test_a_configuration_holds_the_options_of_a_users_family_and_nothing_else(kind, monkeypatch):
    monkeypatch.setitem(FAMILIES, "mine", kind)
    family = kind(size=5)
    assert len(family.table) == 5
    content = to_json(RunConfig(family_name="mine", preset="default", family=family, train=MetaTrainConfig()))
    assert msgspec.json.decode(content)["family"] == {"size": 5}
    assert from_json(content, HERE).family == family


def test_an_option_that_a_configuration_cannot_hold_is_refused_by_what_it_is():
    config = RunConfig(family_name="mine", preset="default", family=WithArray(), train=MetaTrainConfig())
    with pytest.raises(ConfigError, match=r"options of mine cannot be written .*numpy.ndarray.*; make each a number"):
        to_json(config)


def changed(**fields: object) -> bytes:
    raw = msgspec.json.decode(to_json(preset_config("half-cheetah-vel")))
    return msgspec.json.encode(raw | fields)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "config.json"),
        (b"[1, 2]", "not a run configuration"),
        (b"[" * 100_000, "config.json"),
        (changed(format=99), "format 1"),
        (changed(surprise=1), "surprise"),
        (changed(checkpoint_every="often"), "checkpoint_every"),
        (changed(checkpoint_every=0), "checkpoint_every must be at least 1"),
        (changed(family={"frame_skip": 3}), "frame_skip"),
        (changed(family={"frame_skp": 5}), "frame_skp"),
        (changed(train={"inner": {"steps": -1}}), "inner steps must be 0 or more, got -1"),
        (changed(train={"inner": {"stepps": 1}}), "stepps"),
        (changed(train={"algorithm": "prom"}), "config.json: no algorithm 'prom'; did you mean 'promp'"),
    ],
)
def test_a_configuration_that_is_damaged_or_impossible_is_refused_by_what_is_wrong(content, complaint):
    with pytest.raises(ConfigError, match=complaint):
        from_json(content, HERE)


def test_impossible_numbers_are_refused_when_a_configuration_is_made():
    config = preset_config("navigation-2d")
    with pytest.raises(ValueError, match="minutes must be positive"):
        dataclasses.replace(config, minutes=-1.0)
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1"):
        RunConfig(family_name="x", preset="default", family=None, train=None, keep_checkpoints=0)

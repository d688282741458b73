"""Booleans on the command line: bare, and with their value."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from metarl.experiments.commands import _directory_and_options, _run_config
from metarl.experiments.evaluate_few_shot import FewShotEvaluateConfig
from metarl.experiments.flags import boolean_flags, with_values
from metarl.experiments.presets import preset_config


@dataclass(frozen=True, kw_only=True)
class Inner:
    learn_all: bool = False
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    compile: bool = False
    shared: bool | None = None
    name: str = "True"
    inner: Inner = field(default_factory=Inner)


class Plain:
    def __init__(self, slippery: bool = False, size: int = 4) -> None:
        self.slippery, self.size = slippery, size


def test_the_flags_of_booleans_are_found_in_settings_within_settings_and_in_plain_classes():
    assert boolean_flags(Settings) == {"--compile", "--shared", "--inner.learn-all"}
    assert boolean_flags(Plain, "--family.") == {"--family.slippery"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--compile", "--compile True"),
        ("--compile --name x", "--compile True --name x"),
        ("--inner.learn_all runs/x --compile", "--inner.learn_all True runs/x --compile True"),
        ("--compile False --shared None --compile=True", "--compile False --shared None --compile=True"),
        ("--compile true", "--compile true"),  # refused with what may be given, as ever
        ("--name --steps 3", "--name --steps 3"),
        ("--curiosity gradient --compile", "--curiosity.kind gradient --compile True"),
        ("--curiosity=gradient --curiosity.clip 2", "--curiosity.kind=gradient --curiosity.clip 2"),
        ("", ""),
    ],
)
def test_a_bare_boolean_is_told_true_and_nothing_else_is_changed(arguments, expected):
    assert with_values(arguments.split(), boolean_flags(Settings)) == expected.split()


@pytest.mark.parametrize(("flags", "wanted"), [("", False), ("--compile", True), ("--compile True", True)])
def test_training_takes_booleans_bare_and_with_their_value(flags, wanted):
    config = _run_config(preset_config("sinusoid"), [*flags.split(), "--oracle", "--inner.steps", "2"])
    assert (config.train.compile, config.family.oracle, config.train.inner.steps) == (wanted, True, 2)
    assert not _run_config(preset_config("omniglot"), ["--rotations", "False"]).family.rotations


def test_training_takes_the_kind_of_curiosity_by_its_short_name():
    config = _run_config(preset_config("omniglot"), ["--curiosity", "gradient", "--curiosity.measure", "plain"])
    assert (config.train.curiosity.kind, config.train.curiosity.measure) == ("gradient", "plain")


def test_training_of_policies_takes_booleans_bare():
    flags = ["--rollout.normalize-observations", "--family.balanced", "--iterations", "3"]
    config = _run_config(preset_config("half-cheetah-dir"), flags)
    assert (config.train.rollout.normalize_observations, config.family.balanced, config.train.iterations) == (
        True,
        True,
        3,
    )


@pytest.mark.parametrize("flags", ["--variants runs/x", "runs/x --variants", "--variants True runs/x --steps 10"])
def test_evaluation_takes_booleans_bare_and_with_their_value_before_and_after_the_run(flags):
    directory, options = _directory_and_options("evaluate", FewShotEvaluateConfig, flags.split())
    assert (str(directory), options.variants, options.steps) == ("runs/x", True, 10)

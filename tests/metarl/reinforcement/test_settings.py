"""Settings of algorithms: what is of no use or makes no sense is refused, and what a row decides is recorded."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import get_args

import pytest

from metarl.algorithms import UnsuitableAlgorithm
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.adam import OptimizerConfig
from metarl.outer.descent import ClipConfig
from metarl.outer.trust_region import TrustRegionConfig
from metarl.reinforcement.algorithms import ALGORITHMS
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig, EpisodeMeasure
from metarl.reinforcement.settings import OPTIONAL, check_settings, settled

TINY = MetaTrainConfig(meta_batch_size=4, iterations=2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("maml-trpo", {"optimizer": OptimizerConfig(learning_rate=0.1)}, "maml-trpo does not use .* --optimizer"),
        ("promp", {"outer": TrustRegionConfig(max_kl=0.5)}, "promp does not use .* --outer"),
        ("maml-vpg", {"clipping": ClipConfig(clip=0.1)}, r"maml-vpg does not use .* --clipping.clip.* promp"),
        ("promp", {"inner": InnerConfig(cg_iterations=9)}, "promp does not use .* --inner.cg-iterations"),
        ("dice-maml", {"inner": InnerConfig(estimator="reinforce")}, "dice-maml has the inner estimator dice"),
        (
            "maml-ppo",
            {"clipping": ClipConfig(kl_penalty=0.1)},
            r"maml-ppo does not use .* --clipping.kl-penalty.* promp",
        ),
        ("reptile", {"inner": InnerConfig(first_order=True)}, r"reptile does not use .* --inner.first-order"),
        ("reptile", {"inner": InnerConfig(estimator="dice")}, r"reptile does not use .* --inner.estimator"),
        ("random", {"inner": InnerConfig(estimator="dice")}, r"random does not use .* --inner.estimator"),
        ("pretrain", {"inner": InnerConfig(estimator="reinforce")}, r"pretrain does not use .* --inner.estimator"),
        ("dice-maml", {"inner": InnerConfig(first_order=True)}, r"dice-maml does not use .* --inner.first-order"),
        ("e-maml", {"meta_batch_size": 1}, "e-maml compares tasks .* meta_batch_size must be at least 2, got 1"),
    ],
)
def test_settings_without_use_or_sense_are_refused_by_name(name, changes, message):
    with pytest.raises(UnsuitableAlgorithm, match=message):
        check_settings(replace(TINY, algorithm=name, **changes), TINY)


def test_what_a_preset_sets_for_its_own_algorithm_does_not_stand_in_the_way():
    preset = replace(TINY, outer=TrustRegionConfig(max_kl=0.5))
    check_settings(replace(preset, algorithm="promp"), preset)


@pytest.mark.parametrize(
    "name",
    ["promp", "meta-sgd", "promp-meta-sgd", "anil", "dice-maml", "fomaml-trpo", "e-maml", "reptile", "imaml"],
)
def test_what_learns_from_how_policies_adapt_needs_a_step(name):
    with pytest.raises(UnsuitableAlgorithm, match=f"{name} learns from how policies adapt, so .* at least 1, got 0"):
        check_settings(replace(TINY, algorithm=name, inner=InnerConfig(steps=0)), TINY)


def test_an_estimator_is_refused_where_first_order_leaves_it_nothing_to_change():
    """One step where the data was collected; several, and the line search, adapt from elsewhere."""
    inner = InnerConfig(first_order=True, estimator="reinforce")
    once = replace(TINY, clipping=ClipConfig(epochs=1))
    for config in (replace(TINY, algorithm="maml-vpg", inner=inner), replace(once, algorithm="promp", inner=inner)):
        with pytest.raises(UnsuitableAlgorithm, match=r"with --inner.first-order, got --inner.estimator reinforce"):
            check_settings(config, TINY)
    for name in ("maml-trpo", "promp", "maml-ppo"):
        check_settings(replace(TINY, algorithm=name, inner=inner), TINY)
    check_settings(replace(TINY, algorithm="fomaml-trpo", inner=InnerConfig(estimator="reinforce")), TINY)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_settings_are_recorded_as_they_are_used_and_recording_them_again_changes_nothing(name):
    row = ALGORITHMS[name]
    config = settled(replace(TINY, algorithm=name, inner=InnerConfig(estimator="lvc", steps=3)))
    assert config.inner == InnerConfig(estimator=row.estimator or "lvc", steps=3)
    assert config.iterations == (0 if row.outer is None else 2)
    assert settled(config) == config
    check_settings(config, TINY if "inner.steps" in row.uses else config)


def test_every_setting_that_a_row_uses_is_one_that_not_every_row_has():
    assert set().union(*(row.uses for row in ALGORITHMS.values())) == set(OPTIONAL)


@pytest.mark.parametrize("name", ["maml-trpo", "reptile", "imaml", "e-maml"])
def test_returns_are_learned_only_by_what_descends_through_the_inner_loop(name):
    with pytest.raises(UnsuitableAlgorithm, match=r"does not use .* --inner.learn-returns.* promp"):
        check_settings(replace(TINY, algorithm=name, inner=InnerConfig(learn_returns=("discount",))), TINY)


@pytest.mark.parametrize(
    ("curiosity", "message"),
    [
        ({"strength": 1.0}, r"--curiosity.strength changed, but curiosity is none; choose --curiosity transition"),
        ({"learning_rate": 0.1, "clip": 2.0}, r"--curiosity.clip, --curiosity.learning-rate changed, but .* is none"),
        ({"kind": "transition", "clip": 2.0}, r"--curiosity.clip changed, which --curiosity transition has no use for"),
        (
            {"kind": "transition", "measure": "norm"},
            r"--curiosity.measure changed, which --curiosity transition has no",
        ),
        (
            {"kind": "gradient", "strength": 1.0},
            r"curiosity.strength changed, which .* gradient by features has no use",
        ),
        ({"kind": "gradient", "batch_size": 9}, r"--curiosity.batch-size changed, which .* by features has no use for"),
        ({"kind": "gradient", "measure": "plain", "joint": True}, r"--curiosity.joint changed, .* by plain has no use"),
        ({"kind": "gradient", "measure": "norm", "updates": 9}, r"--curiosity.updates changed, .* by norm has no use"),
        (
            {"kind": "gradient", "measure": "uniform", "clip": 2.0},
            r"--curiosity.clip changed, .* by uniform has no use",
        ),
        ({"kind": "gradient", "projection": 9}, r"--curiosity.projection changed, but gradients are not projected"),
    ],
)
def test_curiosity_that_does_nothing_is_refused_by_name(curiosity, message):
    config = replace(TINY, curiosity=CuriosityConfig(**curiosity))
    with pytest.raises(UnsuitableAlgorithm, match=message):
        check_settings(config, TINY)
    check_settings(config, config)  # as a preset has it


@pytest.mark.parametrize(
    "curiosity",
    [
        {"kind": "transition", "strength": 1.0, "batch_size": 9, "features": 3, "joint": True},
        {"kind": "gradient", "features": 3, "forward_weight": 0.5, "temperature": 2.0, "gradients": "whole"},
        {"kind": "gradient", "measure": "plain", "hidden": 3, "updates": 9, "gradients": "projected", "projection": 9},
        {"kind": "gradient", "measure": "direction", "clip": 2.0},
        {"kind": "gradient", "measure": "uniform"},
    ],
)
def test_curiosity_that_does_something_is_not_refused(curiosity):
    check_settings(replace(TINY, curiosity=CuriosityConfig(**curiosity)), TINY)


def test_every_setting_of_curiosity_is_of_use_to_some():
    changed = CuriosityConfig(
        strength=1.0, features=3, hidden=3, forward_weight=0.5, joint=True, learning_rate=0.1, updates=9, batch_size=9,
        measure="norm", gradients="whole", projection=9, temperature=2.0, clip=2.0,
    )  # fmt: skip
    chosen = [{"kind": "transition"}, *({"kind": "gradient", "measure": each} for each in get_args(EpisodeMeasure))]
    for field in dataclasses.fields(CuriosityConfig)[1:]:
        value, works = getattr(changed, field.name), []
        for how in chosen:
            about = {"gradients": "projected"} if field.name == "projection" else {}
            start = replace(TINY, curiosity=CuriosityConfig(**how | about))
            try:
                check_settings(replace(start, curiosity=replace(start.curiosity, **{field.name: value})), start)
            except UnsuitableAlgorithm:
                continue
            works.append(how)
        assert works, field.name


def test_curiosity_that_cannot_tell_anything_apart_is_refused():
    for curiosity, rollout, message in (
        ("transition", {"horizon": 1}, "needs a rollout horizon of at least 2, got 1"),
        ("gradient", {"episodes": 1}, "needs rollout episodes of at least 2, got 1"),
    ):
        config = replace(TINY, curiosity=CuriosityConfig(kind=curiosity))
        with pytest.raises(UnsuitableAlgorithm, match=message):
            check_settings(replace(config, rollout=replace(config.rollout, **rollout)), TINY)
        check_settings(replace(config, rollout=replace(config.rollout, **dict.fromkeys(rollout, 2))), TINY)
        check_settings(replace(TINY, rollout=replace(TINY.rollout, **rollout)), TINY)

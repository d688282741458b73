"""Sequences of policies' tasks: parameters go on, what holds them holds, and the matrix is what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import metarl.envs
from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import TrainState
from metarl.few_shot.forgetting import sequence_figures
from metarl.inner.elastic import held_by
from metarl.outer.trust_region import TrustRegionConfig
from metarl.policies.base import Policy, PolicyConfig
from metarl.reinforcement import sequences
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.collecting import evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.meta_learner import initial_state
from metarl.reinforcement.sequences import draw_sequences, judge_sequences, make_sequencer
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.types import Params, Rollouts
from metarl.variants.fame import ElasticConfig
from metarl.variants.policy_importance import POLICY_MEASURES
from metarl.variants.sequences import SequenceConfig

NAVIGATION: Any = metarl.make_family("navigation-2d")
CHEETAH: Any = metarl.make_family("half-cheetah-dir", balanced=True)
TINY = MetaTrainConfig(
    policy=PolicyConfig(hidden=(4,), initial_log_std=-2.0),
    rollout=RolloutConfig(episodes=3, horizon=5),
    outer=TrustRegionConfig(cg_iterations=3),
    meta_batch_size=4,
    task_chunk=2,
)
SEEDS = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
SHORT = SequenceConfig(tasks=3, steps=2)


def judged(config: SequenceConfig, train: MetaTrainConfig = TINY, family: Any = NAVIGATION, **meta: Any) -> np.ndarray:
    policy, state = initial_state(family, train)
    sequencer = make_sequencer(policy, state.meta._replace(**meta), train, config)
    tasks = draw_sequences(family, np.random.default_rng(0), 4, config.tasks)
    return judge_sequences(family, sequencer, tasks, train.rollout, SEEDS)["return"]


def fame() -> tuple[Policy, TrainState, MetaTrainConfig]:
    config = replace(TINY, algorithm="fame")
    return *initial_state(NAVIGATION, config), config


@pytest.mark.parametrize("family", [NAVIGATION, CHEETAH], ids=["goals", "directions"])
@pytest.mark.parametrize("how", ["none", "fisher", "empirical-fisher"])
def test_the_matrix_has_every_task_after_every_number_of_tasks(family, how):
    found = judged(replace(SHORT, consolidate=how), family=family)
    assert found.shape == (4, 3, 4)
    assert np.isfinite(found).all()
    assert all(np.abs(found[row + 1] - found[row]).max() > 0.0 for row in range(3))
    assert sequence_figures(found, lower_is_better=False).forgetting.shape == (4,)


def test_the_first_task_is_learned_as_it_is_learned_alone():
    """The same steps on episodes of other seeds: from the same start, by the one inner loop."""
    policy, state = initial_state(NAVIGATION, TINY)
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 3)
    sequencer = make_sequencer(policy, state.meta, TINY, SHORT)
    start = {name: value.expand(4, *value.shape) for name, value in state.meta.theta.items()}
    path = SEEDS._replace(path=(7,))
    found = sequences._learn(NAVIGATION, sequencer, start, {}, tasks[0], TINY.rollout, path)
    learner = make_learner(policy, TINY, TINY.inner.step_sizes(2))
    expected = evaluate(NAVIGATION, learner, state.meta, tasks[0], TINY.rollout, path).adapted[-1]
    assert_close(found, expected, rtol=0.0, atol=0.0)


def test_parameters_go_on_from_task_to_task():
    """Each task starts where the last one ended; the matrix is what all tasks say of where it ended."""
    policy, state = initial_state(NAVIGATION, TINY)
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 3)
    sequencer = make_sequencer(policy, state.meta, TINY, SHORT)
    phi = {name: value.expand(4, *value.shape) for name, value in state.meta.theta.items()}
    found = judged(SHORT)
    for place in range(4):
        batches = sequences._judge_all(NAVIGATION, sequencer, phi, tasks, TINY.rollout, SEEDS)
        np.testing.assert_array_equal(found[place], [batch.returns for batch in batches])
        if place < 3:
            seeds = SEEDS._replace(path=(place, 0))
            phi = sequences._learn(NAVIGATION, sequencer, phi, {}, tasks[place], TINY.rollout, seeds)


def test_importances_of_tasks_just_learned_add_up_and_fade_by_the_decay():
    """The first task leaves 1 for every parameter, the second 4, the third 9, so that with decay 1/2 the last is held
    by 9 + 4/2 + 1/4; each is measured where its task was learned, on the episodes that judged it there."""
    policy, state = initial_state(NAVIGATION, TINY)
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 4)
    how = replace(SHORT, tasks=4, consolidate="fisher", strength=2.0, decay=0.5)
    seen: list[tuple[Params, Rollouts]] = []

    def squares(_: Policy, phi: Params, batch: Rollouts) -> Params:
        seen.append((phi, batch))
        return {name: torch.full_like(value, float(len(seen)) ** 2) for name, value in phi.items()}

    train = replace(TINY, task_chunk=4)  # all sequences are measured in one call
    sequencer = make_sequencer(policy, state.meta, train, how)._replace(measure=squares)
    found = judge_sequences(NAVIGATION, sequencer, tasks, TINY.rollout, SEEDS)["return"]
    assert len(seen) == 3
    phi = {name: value.expand(4, *value.shape) for name, value in state.meta.theta.items()}
    for place, weight in enumerate((0.0, 1.0, 4.5, 11.25)):
        held = {name: torch.full_like(value, weight) for name, value in phi.items()} if place else {}
        phi = sequences._learn(
            NAVIGATION, sequencer, phi, held, tasks[place], TINY.rollout, SEEDS._replace(path=(place, 0))
        )
        batches = sequences._judge_all(NAVIGATION, sequencer, phi, tasks, TINY.rollout, SEEDS)
        np.testing.assert_array_equal(found[place + 1], [batch.returns for batch in batches])
        if place < 3:
            assert_close(seen[place][0], phi, rtol=0.0, atol=0.0)
            assert_close(seen[place][1], batches[place].rollouts, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("name", ["fisher", "empirical-fisher"])
def test_a_run_measures_in_sequence_by_its_own_importance_and_what_it_is_told_to_scale(name, mean):
    """Of ``own`` it is that of the run; the mean over the network is 1 of each sequence, or what it is."""
    config = replace(TINY, algorithm="fame", elastic=ElasticConfig(importance=name))
    policy, state = initial_state(NAVIGATION, config)
    ones = {key: torch.ones_like(value) for key, value in state.meta.theta.items()}
    meta = state.meta._replace(elastic=state.meta.elastic | held_by(ones))
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 2)
    plain = make_sequencer(policy, state.meta, TINY, SHORT)
    phi = {key: value.expand(4, *value.shape) for key, value in state.meta.theta.items()}
    batch = sequences._judge_all(NAVIGATION, plain, phi, tasks, TINY.rollout, SEEDS)[0].rollouts
    expected = POLICY_MEASURES[name](policy, phi, batch)
    if mean:
        rows = torch.cat([value.flatten(1) for value in expected.values()], 1).mean(1)
        expected = {key: value / rows.view(-1, *[1] * (value.ndim - 1)) for key, value in expected.items()}
    for how, train in (("own", config), (name, TINY)):
        sequencer = make_sequencer(policy, meta, train, replace(SHORT, consolidate=how, mean_one=mean))
        assert sequencer.measure is not None
        assert_close(sequencer.measure(policy, phi, batch), expected)


def test_a_strength_that_is_given_is_in_force():
    policy, state, config = fame()
    ones = {name: torch.ones_like(value) for name, value in state.meta.theta.items()}
    meta = state.meta._replace(elastic=state.meta.elastic | held_by(ones))
    for how in ("own", "own-fixed", "fisher"):
        assert make_sequencer(policy, meta, config, replace(SHORT, consolidate=how, strength=7.0)).strength == 7.0
    assert make_sequencer(policy, meta, config, replace(SHORT, consolidate="fisher")).strength == 1.0


NORMALIZED = replace(TINY, rollout=replace(TINY.rollout, normalize_observations=True))
STATISTICS = {
    "mean": torch.tensor([0.3, -0.2], dtype=torch.float64),
    "variance": torch.tensor([4.0, 0.25], dtype=torch.float64),
    "count": torch.tensor(100.0, dtype=torch.float64),
}


def test_observations_are_scaled_as_in_training_where_tasks_are_judged():
    """Episodes start at 0: 0.3 over 2 below the mean, and 0.2 over 0.5 above."""
    policy, state = initial_state(NAVIGATION, NORMALIZED)
    sequencer = make_sequencer(policy, state.meta._replace(normalizer=STATISTICS), NORMALIZED, SHORT)
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 3)
    phi = {name: value.expand(4, *value.shape) for name, value in state.meta.theta.items()}
    for batch in sequences._judge_all(NAVIGATION, sequencer, phi, tasks, TINY.rollout, SEEDS):
        first = batch.rollouts.observations[:, :, 0]
        assert_close(first, torch.tensor([-0.15, 0.4]).expand_as(first))


def test_observations_are_scaled_as_in_training_where_tasks_are_learned():
    policy, state = initial_state(NAVIGATION, NORMALIZED)
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 3)
    phi = {name: value.expand(4, *value.shape) for name, value in state.meta.theta.items()}
    path = SEEDS._replace(path=(7,))
    learned = []
    for statistics in (STATISTICS, state.meta.normalizer):
        meta = state.meta._replace(normalizer=statistics)
        sequencer = make_sequencer(policy, meta, NORMALIZED, SHORT)
        found = sequences._learn(NAVIGATION, sequencer, phi, {}, tasks[0], NORMALIZED.rollout, path)
        learner = make_learner(policy, NORMALIZED, NORMALIZED.inner.step_sizes(2))
        expected = evaluate(NAVIGATION, learner, meta, tasks[0], NORMALIZED.rollout, path).adapted[-1]
        assert_close(found, expected, rtol=0.0, atol=0.0)
        learned.append(found)
    assert any(float((learned[0][name] - learned[1][name]).abs().max()) > 1e-3 for name in phi)


def test_the_noise_of_a_judgment_is_that_of_every_other_one_of_the_task():
    """Actions lie as many deviations from their means, whatever the parameters; each task has noise of its own."""
    policy, state = initial_state(NAVIGATION, TINY)
    sequencer = make_sequencer(policy, state.meta, TINY, SHORT)
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 3)
    start = {name: value.expand(4, *value.shape) for name, value in state.meta.theta.items()}

    def noise(phi: Params) -> list[Tensor]:
        found = []
        for batch in sequences._judge_all(NAVIGATION, sequencer, phi, tasks, TINY.rollout, SEEDS):
            rollouts = batch.rollouts
            mean, log_std = rollouts.behavior["mean"], rollouts.behavior["log_std"]
            found.append((rollouts.actions.flatten(1, 2) - mean) / log_std.exp())
        return found

    first, second = noise(start), noise({name: value + 0.1 for name, value in start.items()})
    for one, other in zip(first, second, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert float((first[0] - first[1]).abs().mean()) > 0.1


def test_consolidation_changes_nothing_before_the_second_task_and_holds_firmly_from_then_on():
    free, firm = (judged(replace(SHORT, **how)) for how in ({}, {"consolidate": "fisher", "strength": 1e12}))
    np.testing.assert_array_equal(free[:2], firm[:2])
    np.testing.assert_allclose(firm[2], firm[1], atol=1e-3)
    np.testing.assert_allclose(firm[3], firm[1], atol=1e-3)
    assert np.abs(free[3] - free[1]).max() > 0.01


def test_without_strength_consolidation_changes_nothing():
    free, held = (judged(replace(SHORT, **how)) for how in ({}, {"consolidate": "fisher", "strength": 0.0}))
    np.testing.assert_array_equal(free, held)


def test_a_run_of_fame_brings_its_own_importances_and_strength():
    policy, state, config = fame()
    ones = {name: torch.ones_like(value) for name, value in state.meta.theta.items()}
    meta = state.meta._replace(elastic=state.meta.elastic | held_by(ones))
    own = make_sequencer(policy, meta, config, SHORT)
    assert (own.consolidate, own.strength) == ("own", pytest.approx(0.1))
    assert_close(own.importance, ones)
    assert own.measure is not None
    fixed = make_sequencer(policy, meta, config, replace(SHORT, consolidate="own-fixed", strength=3.0))
    assert (fixed.measure, fixed.strength) == (None, 3.0)
    assert make_sequencer(policy, meta, config, replace(SHORT, consolidate="none")).importance == {}


def test_importances_of_training_hold_the_first_task_already():
    _, state, config = fame()
    ones = {name: torch.ones_like(value) for name, value in state.meta.theta.items()}
    elastic = state.meta.elastic | held_by(ones)
    found = judged(replace(SHORT, consolidate="own-fixed", strength=1e12), config, elastic=elastic)
    np.testing.assert_allclose(found[1:], np.broadcast_to(found[0], (3, 3, 4)), atol=1e-3)


def test_groups_of_tasks_and_sequences_beside_them_change_only_by_rounding():
    one, other = (judged(replace(SHORT, consolidate="fisher"), replace(TINY, task_chunk=chunk)) for chunk in (1, 4))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_curious_learner_is_curious_in_sequence_too():
    curious = replace(TINY, curiosity=CuriosityConfig(kind="gradient", features=4, hidden=8))
    assert np.abs(judged(SHORT, curious)[1:] - judged(SHORT)[1:]).max() > 0.0


def test_tasks_of_navigation_lie_apart_and_directions_take_turns():
    tasks = draw_sequences(NAVIGATION, np.random.default_rng(0), 4, 3)
    goals = np.array(tasks)  # [J, M, 2]
    apart = np.linalg.norm(goals - np.roll(goals, 1, 0), axis=-1)
    np.testing.assert_allclose(apart, 0.5 * np.sqrt(3.0), rtol=1e-6)
    directions = np.array(draw_sequences(CHEETAH, np.random.default_rng(0), 4, 3))[..., 0]
    np.testing.assert_array_equal(directions[0], -directions[1])
    np.testing.assert_array_equal(directions[0], directions[2])
    speeds = draw_sequences(metarl.make_family("half-cheetah-vel"), np.random.default_rng(0), 4, 3)
    assert [len(each) for each in speeds] == [4, 4, 4]


@pytest.mark.parametrize("name", ["multi-task", "oracle", "single-task"])
def test_what_does_not_adapt_goes_through_no_sequence(name):
    config = replace(TINY, algorithm=name)
    policy, state = initial_state(NAVIGATION, config)
    with pytest.raises(UnsuitableAlgorithm, match=f"policies of {name} do not; try maml-trpo"):
        make_sequencer(policy, state.meta, config, SHORT)


def test_importances_that_a_run_did_not_keep_are_refused():
    policy, state = initial_state(NAVIGATION, TINY)
    with pytest.raises(ValueError, match="consolidate own needs a run that kept importances"):
        make_sequencer(policy, state.meta, TINY, replace(SHORT, consolidate="own"))


@pytest.mark.parametrize("options", [{"strength": 3.0}, {"decay": 0.5}, {"mean_one": False}])
def test_settings_of_what_holds_are_refused_where_nothing_does(options):
    """MAML keeps no importances, so that nothing is what consolidate stands for if left out."""
    policy, state = initial_state(NAVIGATION, TINY)
    for how in (None, "none") if "strength" not in options else (None,):
        with pytest.raises(ValueError, match=r"nothing holds in this run, .* --consolidate fisher"):
            make_sequencer(policy, state.meta, TINY, replace(SHORT, consolidate=how, **options))
    assert make_sequencer(policy, state.meta, TINY, replace(SHORT, consolidate="fisher", **options)).measure is not None


def test_what_is_said_of_added_importances_is_refused_where_none_is_added():
    policy, state, config = fame()
    ones = {name: torch.ones_like(value) for name, value in state.meta.theta.items()}
    meta = state.meta._replace(elastic=state.meta.elastic | held_by(ones))
    with pytest.raises(ValueError, match="consolidate own-fixed adds no importance"):
        make_sequencer(policy, meta, config, replace(SHORT, consolidate="own-fixed", decay=0.5))
    assert make_sequencer(policy, meta, config, replace(SHORT, decay=0.5)).decay == 0.5

"""The table of algorithms: each trains on tiny problems, is refused where it cannot, and does what its row says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import metarl.envs
from metarl.algorithms import UnknownAlgorithm, UnsuitableAlgorithm
from metarl.engine import Clock
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.adam import OptimizerConfig
from metarl.outer.trust_region import TrustRegionConfig
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.algorithms import ALGORITHMS, make_learner, make_outer
from metarl.reinforcement.collecting import collect, evaluate, learned_rollout
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state, meta_train_policy
from metarl.reinforcement.settings import check_settings
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator

NAVIGATION: Any = metarl.make_family("navigation-2d")
CARTPOLE: Any = metarl.make_family("cartpole")
TINY = MetaTrainConfig(
    policy=PolicyConfig(hidden=(4,), initial_log_std=-2.0),
    rollout=RolloutConfig(episodes=3, horizon=5),
    outer=TrustRegionConfig(cg_iterations=3),
    meta_batch_size=4,
    iterations=2,
    held_out_every=2,
    held_out_tasks=3,
    task_chunk=2,
)
TRAINED = [name for name, row in ALGORITHMS.items() if row.outer is not None]
"""All but the one that has nothing to train."""


@pytest.mark.parametrize("family", [NAVIGATION, CARTPOLE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("name", TRAINED)
def test_every_algorithm_moves_what_it_learns_and_resumes_bit_for_bit(name, family):
    config = replace(TINY, algorithm=name)
    policy, start = initial_state(family, config)
    whole = list(meta_train_policy(family, policy, config, start))
    assert len(whole) == 2
    assert whole[-1].state.failures < 2  # a line search may find nothing on so few episodes
    assert all(np.isfinite(each).all() for each in whole[-1].held_out["return"])
    moved = whole[-1].state.meta
    for group, before in ((moved.theta, start.meta.theta), (moved.eta, start.meta.eta)):
        assert group.keys() == before.keys()
        assert not group or any(not torch.equal(group[each], before[each]) for each in group)
    rest = list(meta_train_policy(family, policy, config, whole[0].state))
    assert_close(rest[-1].state.meta, moved, rtol=0.0, atol=0.0)
    assert_close(rest[-1].state.optimizer, whole[-1].state.optimizer, rtol=0.0, atol=0.0)


def adapted(name: str, steps: int = 2, **changes: Any) -> Any:
    config = replace(TINY, algorithm=name, **changes)
    policy, state = initial_state(NAVIGATION, config)
    learner = make_learner(policy, config, [0.1] * steps)
    tasks = NAVIGATION.sample(generator(0, Stream.EVALUATION_TASKS), 3)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    return policy, evaluate(NAVIGATION, learner, state.meta, tasks, config.rollout, seeds).adapted


def changed(before: Any, after: Any) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_anil_changes_the_head_alone_and_maml_every_parameter():
    policy, reached = adapted("anil")
    assert changed(reached[0], reached[2]) == policy.head_names
    policy, reached = adapted("maml-trpo")
    assert changed(reached[0], reached[2]) == set(reached[0])


def test_what_does_not_adapt_stays_and_what_was_pretrained_adapts():
    assert changed(*adapted("multi-task")[1][::2]) == set()
    assert changed(*adapted("pretrain")[1][::2])
    assert changed(*adapted("random")[1][::2])


def test_baselines_train_without_inner_steps_and_random_does_not_train():
    with pytest.raises(UnsuitableAlgorithm, match="single-task has a policy for each of its tasks"):
        make_learner(initial_state(NAVIGATION, TINY)[0], replace(TINY, algorithm="single-task"))
    for name in ("pretrain", "multi-task", "oracle"):
        config = replace(TINY, algorithm=name)
        assert not make_learner(initial_state(NAVIGATION, config)[0], config).rules
    with pytest.raises(UnsuitableAlgorithm, match="random has nothing to train"):
        make_outer(replace(TINY, algorithm="random"))


def test_the_oracles_policy_sees_the_task():
    oracle, blind = (initial_state(NAVIGATION, replace(TINY, algorithm=name))[0] for name in ("oracle", "pretrain"))
    assert oracle.observation_size == blind.observation_size + 2


def test_meta_sgd_starts_as_maml_and_its_step_sizes_scale_with_those_of_the_judge():
    """The step size told is relative to the one trained with."""
    _, plain = adapted("maml-trpo", inner=InnerConfig(step_size=0.1))
    _, learned = adapted("meta-sgd", inner=InnerConfig(step_size=0.1))
    assert_close(plain[1], learned[1], rtol=1e-6, atol=1e-7)
    _, half = adapted("meta-sgd", inner=InnerConfig(step_size=0.2))
    assert_close(plain[1], half[1], rtol=1e-6, atol=1e-7)


def test_rows_decide_estimator_and_order():
    for name, first_order in (("fomaml-trpo", True), ("maml-trpo", False)):
        config = replace(TINY, algorithm=name)
        assert make_learner(initial_state(NAVIGATION, config)[0], config).first_order is first_order
    assert ALGORITHMS["dice-maml"].estimator == "dice"
    assert ALGORITHMS["e-maml"].estimator == "reinforce"


def test_dice_takes_no_part_of_an_episode_for_its_fisher_matrix_and_needs_none_without_one():
    inner, outer = InnerConfig(estimator="dice"), TrustRegionConfig(fisher_support_share=0.5)
    config = replace(TINY, inner=inner, outer=outer)
    for refused in (lambda: check_settings(config, TINY), lambda: initial_state(NAVIGATION, config)):
        with pytest.raises(UnsuitableAlgorithm, match=r"dice estimator needs whole episodes, .* got 0.5"):
            refused()
    preset = replace(TINY, outer=outer)
    check_settings(replace(preset, algorithm="maml-vpg", inner=inner), preset)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownAlgorithm, match="no algorithm 'prom'; did you mean 'promp'"):
        initial_state(NAVIGATION, replace(TINY, algorithm="prom"))


@dataclass
class Words:
    """Tasks that are no numbers."""

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        return ["left"] * count

    def make_env(self, task: str) -> gymnasium.Env:
        return gymnasium.make("CartPole-v1")


def test_the_oracle_refuses_tasks_that_are_no_numbers():
    with pytest.raises(ValueError, match="rows of numbers, got str: 'left'"):
        initial_state(Words(), replace(TINY, algorithm="oracle"))


@pytest.mark.parametrize("name", ["maml-vpg", "promp", "dice-maml", "promp-meta-sgd"])
def test_returns_of_the_inner_loss_are_learned_and_logged(name):
    inner = InnerConfig(learn_returns=("discount", "gae_lambda"))
    rollout = replace(TINY.rollout, discount=0.9, gae_lambda=0.8)
    config = replace(TINY, algorithm=name, inner=inner, rollout=rollout, optimizer=OptimizerConfig(learning_rate=0.1))
    policy, start = initial_state(NAVIGATION, config)
    assert {"return/discount", "return/gae_lambda"} <= start.meta.eta.keys()
    *_, last = meta_train_policy(NAVIGATION, policy, config, start)
    assert all(float((last.state.meta.eta[each] - start.meta.eta[each]).abs().max()) > 0.01 for each in start.meta.eta)
    learned = learned_rollout(rollout, last.state.meta.eta)
    assert last.metrics["return/discount"] == pytest.approx(learned.discount)
    assert last.metrics["return/gae_lambda"] == pytest.approx(learned.gae_lambda)


def test_the_support_has_the_return_that_is_learned_and_the_query_the_settings_one():
    """With a discount near 0 the support's advantages are single rewards less their baseline; the query's are not."""
    rollout = replace(TINY.rollout, discount=0.9, baseline="constant", normalize_advantages=False)
    config = replace(TINY, algorithm="promp", inner=InnerConfig(learn_returns=("discount",)), rollout=rollout)
    policy, state = initial_state(NAVIGATION, config)
    meta = state.meta._replace(eta={"return/discount": torch.tensor(-30.0)})
    tasks = NAVIGATION.sample(generator(0, Stream.EVALUATION_TASKS), 3)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    data, *_ = collect(NAVIGATION, make_learner(policy, config), meta, tasks, rollout, seeds, Clock())
    assert_close(data.support[0].advantages, data.support[0].rewards, rtol=1e-5, atol=1e-6)
    assert float((data.query.advantages - data.query.rewards).abs().max()) > 0.1


def test_a_return_that_cannot_be_learned_is_refused():
    config = replace(TINY, algorithm="promp", inner=InnerConfig(learn_returns=("gae_lambda",)))
    with pytest.raises(ValueError, match="a learned gae_lambda must start within"):
        initial_state(NAVIGATION, config)
    with pytest.raises(ValueError, match="learn_returns must name some of discount and gae_lambda, got 'gamma'"):
        InnerConfig(learn_returns=("gamma",))

"""Few-shot learners on the loop: what is drawn and judged, updates that are refused, and runs that learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.engine import Clock, Iteration, TrainingStalled, TrainState, meta_train
from metarl.few_shot.algorithms import family_for, make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.meta_learner import FewShotMetaLearner, few_shot_data, judge, score_outputs
from metarl.outer.adam import OptimizerConfig, initial_moments
from metarl.tasks import FewShotFamily

TINY = FewShotConfig(
    net=NetConfig(hidden=(8,)),
    inner=FewShotInnerConfig(steps=2, step_size=0.05),
    meta_batch_size=4,
    iterations=10,
    held_out_every=5,
    held_out_tasks=6,
    log_every=1,
    seed=3,
)


def prepare(family: FewShotFamily, config: FewShotConfig) -> tuple[FewShotMetaLearner, TrainState]:
    learner = make_learner(family, config)
    meta = learner.init(torch.Generator().manual_seed(config.seed))
    state = TrainState(meta, initial_moments(meta, config.outer), 0, 0, 0, 0)
    return FewShotMetaLearner(family, learner, config), state


def run(family: FewShotFamily, config: FewShotConfig) -> list[Iteration]:
    learner, state = prepare(family, config)
    return list(meta_train(learner, config, state))


def test_every_step_has_the_whole_support_and_the_query_its_own_examples(waves):
    family = waves(shots=3, queries=4)
    tasks = family.sample(np.random.default_rng(0), 2)
    data = few_shot_data(family, tasks, 3, "cpu")
    assert [tuple(batch.inputs.shape) for batch in data.support] == [(2, 3, 1)] * 3
    assert_close(data.support[2].inputs[..., 0].double(), torch.from_numpy(tasks[:, 2:5]))
    assert_close(data.query.inputs[..., 0].double(), torch.from_numpy(tasks[:, 5:]))
    curve = tasks[1, 0] * np.sin(tasks[1, 5:] - tasks[1, 1])
    assert_close(data.query.targets[1, :, 0].double(), torch.from_numpy(curve))
    assert len(few_shot_data(family, tasks, 0, "cpu").support) == 1


def test_classes_are_scored_by_accuracy_first_and_cross_entropy_by_hand():
    """Logits 0 and log 3 are probabilities 1/4 and 3/4: one right, one wrong; then both right."""
    outputs = tensor([[[0.0, math.log(3.0)]] * 2, [[math.log(3.0), 0.0], [0.0, math.log(3.0)]]])
    found = score_outputs("classification", outputs, tensor([[1, 0], [0, 1]]))
    assert list(found) == ["accuracy", "loss"]
    assert_close(found["accuracy"], tensor([0.5, 1.0]))
    right, wrong = -math.log(0.75), -math.log(0.25)
    assert_close(found["loss"], tensor([(right + wrong) / 2.0, right]))


def test_values_are_scored_by_their_mean_squared_error_by_hand():
    found = score_outputs("regression", tensor([[[1.0], [4.0]]]), tensor([[[0.0], [2.0]]]))
    assert list(found) == ["mse"]
    assert found["mse"].tolist() == [2.5]


@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_many_tasks_are_judged_in_parts_as_if_at_once(request, kind):
    """230 tasks, which are three parts, in their order."""
    family = request.getfixturevalue(kind)()
    learner, state = prepare(family, TINY)
    tasks = family.sample(np.random.default_rng(0), 230)
    options = {"steps": 2, "transductive": True, "device": "cpu"}
    whole = judge(family, learner.learner, state.meta, tasks, **options)
    assert all(rows.shape == (3, 230) for rows in whole.values())
    for task in (0, 99, 100, 229):
        alone = judge(family, learner.learner, state.meta, tasks[task : task + 1], **options)
        for name, rows in whole.items():
            np.testing.assert_allclose(alone[name][:, 0], rows[:, task], rtol=1e-4, atol=1e-6)


def test_an_iteration_draws_tasks_of_its_own_and_the_same_ones_again(waves):
    learner, state = prepare(waves(), TINY)
    first, again, second, other = (
        each.collect(at, Clock(), logged=False).data.query.inputs
        for each, at in (
            (learner, state),
            (learner, state._replace(env_steps=9, failures=2)),
            (learner, state._replace(iteration=1)),
            (learner._replace(config=replace(TINY, seed=4)), state),
        )
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == (4, 10, 1)


def test_training_tasks_are_scored_before_the_update_and_only_where_it_is_logged(waves):
    learner, state = prepare(waves(), TINY)
    assert learner.collect(state, Clock(), logged=False).scores == {}
    collected = learner.collect(state, Clock(), logged=True)
    assert collected.scores["mse"].shape == (3, 4)
    losses = learner.learner.meta_gradient(state.meta, collected.data, 0).losses
    np.testing.assert_allclose(collected.scores["mse"][2], losses, rtol=1e-5)
    assert collected.env_steps == 0


def test_held_out_tasks_are_of_the_validation_split_and_the_same_every_time(waves):
    learner, state = prepare(waves(), TINY)
    first, again = (learner.held_out(state._replace(iteration=number))["mse"] for number in (0, 7))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (3, 6)

    class OneCurve(waves):
        def sample_validation(self, rng, count):
            return np.repeat(self.sample(rng, 1), count, 0)

    same = prepare(OneCurve(), TINY)[0].held_out(state)["mse"]
    assert np.ptp(same, 1).max() < 1e-6 < np.ptp(first, 1).min()


def test_held_out_queries_are_answered_alone_where_the_settings_say_so(blobs):
    config = replace(TINY, net=NetConfig(hidden=(8,), batch_norm=True), held_out_tasks=20)
    found = []
    for transductive in (True, False):
        learner, state = prepare(blobs(), replace(config, transductive=transductive))
        found.append(learner.held_out(state)["loss"])
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_an_update_is_a_step_of_the_optimizer_along_the_meta_gradient(waves):
    config = replace(TINY, outer=OptimizerConfig(optimizer="sgd", learning_rate=0.5, schedule="linear"))
    learner, state = prepare(waves(), config)
    state = state._replace(iteration=5)
    collected = learner.collect(state, Clock(), logged=True)
    update = learner.update(state, collected, Clock(), logged=True)
    found = learner.learner.meta_gradient(state.meta, collected.data, 5)
    expected = {name: value - 0.25 * found.meta.theta[name] for name, value in state.meta.theta.items()}
    assert update.accepted
    assert_close(update.meta.theta, expected)
    assert update.metrics["outer/learning_rate"] == 0.25
    assert update.metrics["outer/loss"] == pytest.approx(float(found.losses.mean()))
    norm = math.sqrt(sum(float(value.square().sum()) for value in found.meta.theta.values()))
    assert update.metrics["outer/gradient_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_leaves_parameters_and_moments_and_the_next_one_moves_them(waves, bad):
    learner, state = prepare(waves(), TINY)
    collected = learner.collect(state, Clock(), logged=False)
    targets = collected.data.query.targets.clone()
    targets[0, 0] = bad
    spoiled = collected._replace(data=collected.data._replace(query=collected.data.query._replace(targets=targets)))
    update = learner.update(state, spoiled, Clock(), logged=False)
    assert not update.accepted
    assert update.meta is state.meta
    assert update.optimizer is state.optimizer
    assert not math.isfinite(update.metrics["outer/gradient_norm"])
    assert learner.update(state, collected, Clock(), logged=False).accepted


def test_training_that_diverges_in_every_iteration_stops_with_advice(waves):
    config = replace(TINY, inner=FewShotInnerConfig(steps=8, step_size=1e9), max_failures=3)
    learner, state = prepare(waves(), config)
    loop, states = meta_train(learner, config, state), []
    with pytest.raises(TrainingStalled, match=r"^3 meta-iterations in a row .* Try a smaller inner step_size"):
        states.extend(each.state for each in loop)
    assert [each.failures for each in states] == [1, 2, 3]
    assert all(each.meta.theta is state.meta.theta for each in states)


def test_the_seed_decides_a_run(waves):
    first, again, other = (run(waves(), replace(TINY, seed=seed))[-1].state.meta.theta for seed in (1, 1, 2))
    assert_close(first, again, rtol=0.0, atol=0.0)
    assert not torch.equal(first["weight_0"], other["weight_0"])


@pytest.mark.parametrize("name", ["maml", "meta-sgd", "meta-lstm", "reptile", "imaml", "synaptic", "pretrain"])
def test_a_continued_run_equals_the_uninterrupted_one_bit_for_bit(waves, name):
    config = replace(TINY, algorithm=name, inner=replace(TINY.inner, multi_step_iterations=8))
    whole = run(waves(), config)
    learner, _ = prepare(waves(), config)
    rest = list(meta_train(learner, config, whole[3].state))
    assert_close(rest[-1].state.meta, whole[-1].state.meta, rtol=0.0, atol=0.0)
    assert_close(rest[-1].state.optimizer, whole[-1].state.optimizer, rtol=0.0, atol=0.0)


def test_groups_of_tasks_change_a_run_only_by_rounding(waves):
    found = [run(waves(), replace(TINY, task_chunk=chunk))[-1].state.meta.theta for chunk in (4, 3, 1)]
    assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
    assert_close(found[2], found[0], rtol=1e-3, atol=1e-4)


LEARNING = FewShotConfig(
    net=NetConfig(hidden=(20, 20)),
    inner=FewShotInnerConfig(steps=1, step_size=0.01),
    outer=OptimizerConfig(learning_rate=0.003),
    meta_batch_size=10,
    iterations=400,
    held_out_every=0,
    log_every=400,
)


def errors(family: FewShotFamily, config: FewShotConfig) -> tuple[Sequence[float], Sequence[float]]:
    """Mean squared errors on 200 new tasks after each number of steps, of a fresh start and after training."""
    family = family_for(config.algorithm, family)
    learner, state = prepare(family, config)
    tasks = family.sample(np.random.default_rng(99), 200)
    found = []
    for meta in (state.meta, [*meta_train(learner, config, state)][-1].state.meta):
        scores = judge(family, learner.learner, meta, tasks, steps=config.inner.steps, transductive=True, device="cpu")
        found.append(scores["mse"].mean(1).tolist())
    return found[0], found[1]


ADAPTING = {
    "maml": (1.1, {"inner": FewShotInnerConfig(steps=1, step_size=0.02)}),
    "fomaml": (0.7, {"inner": FewShotInnerConfig(steps=3, step_size=0.02)}),
    "meta-sgd": (0.5, {}),
    "anil": (0.5, {"inner": FewShotInnerConfig(steps=3, step_size=0.05)}),
    "reptile": (
        0.7,
        {
            "inner": FewShotInnerConfig(steps=5, step_size=0.02),
            "outer": OptimizerConfig(optimizer="sgd", learning_rate=1.0, schedule="linear"),
            "meta_batch_size": 5,
        },
    ),
    "imaml": (
        1.0,
        {
            "inner": FewShotInnerConfig(steps=8, step_size=0.05, proximity=0.5, cg_iterations=3),
            "iterations": 200,
        },
    ),
    "meta-lstm": (0.9, {"inner": FewShotInnerConfig(steps=3, lstm_hidden=8), "iterations": 150}),
    "synaptic": (
        2.7,
        {"inner": FewShotInnerConfig(steps=3), "net": NetConfig(hidden=(20,)), "iterations": 150},
    ),
}
"""The error to fall below, and settings with which it falls to at most four fifths of that."""


@pytest.mark.parametrize("name", ADAPTING)
def test_meta_training_makes_a_few_steps_fit_new_curves_which_they_do_not_from_a_fresh_start(waves, name):
    bar, changes = ADAPTING[name]
    fresh, trained = errors(waves(), replace(LEARNING, algorithm=name, **changes))
    assert fresh[-1] > 1.3 * bar
    assert trained[-1] < bar
    assert trained[-1] < 0.7 * trained[0]


def test_pretraining_learns_the_mean_curve_which_a_step_hardly_improves_and_the_oracle_the_curve_itself(waves):
    pretrained, oracle = (errors(waves(), replace(LEARNING, algorithm=name))[1] for name in ("pretrain", "oracle"))
    assert pretrained[-1] > 1.4
    assert pretrained[-1] > 0.7 * pretrained[0]
    assert oracle[-1] == oracle[0] < 0.4


@pytest.mark.parametrize("name", ["maml", "pretrain", "pretrain-neighbors", "prototypes"])
def test_training_makes_learners_of_classes_answer_more_queries_right(blobs, name):
    """Classes that noise hides: chance is a third."""
    family = blobs(noise=0.9)
    config = replace(LEARNING, algorithm=name, inner=FewShotInnerConfig(steps=3, step_size=0.1), iterations=150)
    learner, state = prepare(family, config)
    tasks = family.sample(np.random.default_rng(99), 100)
    fresh, trained = (
        judge(family, learner.learner, meta, tasks, steps=3, transductive=True, device="cpu")["accuracy"][-1].mean()
        for meta in (state.meta, [*meta_train(learner, config, state)][-1].state.meta)
    )
    assert trained > max(0.58, fresh + 0.05)

"""FAME: what it measures, what it holds, and that without it MAML is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from metarl.checkpoints import load_newest, save_checkpoint
from metarl.engine import Clock, TrainState
from metarl.few_shot.algorithms import ALGORITHMS, check_settings, make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig
from metarl.few_shot.fame import FameLearner, hold
from metarl.few_shot.meta_learner import FewShotMetaLearner, few_shot_data
from metarl.inner.adapt import adapt
from metarl.inner.elastic import importance_of
from metarl.outer.adam import initial_moments
from metarl.rollout.seeding import Stream, torch_generator
from metarl.tasks import make_family
from metarl.trees import expand
from metarl.types import Meta, TaskData
from metarl.variants.fame import LOG_STRENGTH, ElasticConfig
from metarl.variants.importance import fisher, label_noise, mean_one

FAMILY = make_family("sinusoid", shots=5)
CONFIG = FewShotConfig(
    algorithm="fame",
    inner=FewShotInnerConfig(steps=3, step_size=0.02),
    elastic=ElasticConfig(strength=0.5, decay=0.8),
    meta_batch_size=4,
    iterations=6,
    held_out_every=0,
)


def trained(config, iterations=6, family=FAMILY):
    """States after 0, 1, ... iterations."""
    learner = make_learner(family, config)
    meta = learner.init(torch_generator(config.seed, Stream.INITIALIZATION))
    states = [TrainState(meta, initial_moments(meta, config.outer), 0, 0, 0, 0)]
    loop = FewShotMetaLearner(family, learner, config)
    for _ in range(iterations):
        state = states[-1]
        found = loop.update(state, loop.collect(state, Clock(), logged=False), Clock(), logged=False)
        states.append(state._replace(meta=found.meta, optimizer=found.optimizer, iteration=state.iteration + 1))
    return learner, states


@pytest.mark.parametrize("family", [FAMILY, make_family("sinusoid", shots=2)])
def test_without_strength_it_is_maml_bit_for_bit(family):
    off = replace(CONFIG, elastic=ElasticConfig(strength=0.0))
    _, fame = trained(off, family=family)
    _, maml = trained(replace(CONFIG, algorithm="maml", elastic=ElasticConfig()), family=family)
    assert fame[-1].meta.elastic == {}
    for name, value in maml[-1].meta.theta.items():
        assert torch.equal(value, fame[-1].meta.theta[name])


def test_with_strength_it_is_not():
    _, fame = trained(CONFIG)
    _, maml = trained(replace(CONFIG, algorithm="maml"))
    assert not torch.equal(fame[-1].meta.theta["weight_0"], maml[-1].meta.theta["weight_0"])


def test_importance_is_the_running_mean_of_what_was_measured_where_adaptation_ended():
    learner, states = trained(CONFIG, 2)
    running = {name: torch.zeros_like(value) for name, value in states[0].meta.theta.items()}
    for iteration, state in enumerate(states[:2]):
        loop = FewShotMetaLearner(FAMILY, learner, CONFIG)
        data = loop.collect(state, Clock(), logged=False).data
        inner = learner.held(state.meta).inner(3)
        phi = adapt(inner, state.meta.eta, expand(state.meta.theta, 4), data.support).phi
        phi = {name: value.detach() for name, value in phi.items()}
        noise = label_noise(data.support[0], 1, torch_generator(CONFIG.seed, Stream.LABELS, iteration))
        measured = mean_one(fisher(learner.base.problem.model, phi, data.support[0], noise, kind="regression"))
        running = {name: 0.8 * running[name] + 0.2 * value.mean(0) for name, value in measured.items()}
    assert_close(importance_of(states[2].meta.elastic), running, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_how_tasks_are_grouped_changes_nothing_but_rounding(chunk):
    _, whole = trained(replace(CONFIG, task_chunk=4), 3)
    _, parts = trained(replace(CONFIG, task_chunk=chunk), 3)
    assert_close(parts[-1].meta.theta, whole[-1].meta.theta, rtol=1e-4, atol=1e-6)
    assert_close(parts[-1].meta.elastic, whole[-1].meta.elastic, rtol=1e-4, atol=1e-6)


def test_a_linear_schedule_rises_over_the_run():
    _, states = trained(replace(CONFIG, elastic=ElasticConfig(strength=3.0, schedule="linear")))
    assert [float(state.meta.elastic["strength"]) for state in states] == pytest.approx(
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    )


def test_a_learned_strength_moves():
    _, states = trained(replace(CONFIG, elastic=ElasticConfig(strength=2.0, schedule="learned")))
    start, end = (float(state.meta.eta[LOG_STRENGTH]) for state in (states[0], states[-1]))
    assert start == pytest.approx(np.log(2.0))
    assert end != start
    assert float(states[0].meta.eta[LOG_STRENGTH]) == float(states[1].meta.eta[LOG_STRENGTH])  # nothing measured yet


def test_the_outer_loop_is_held_near_the_end_of_earlier_phases():
    """Against the same run without it: the gradients differ by F (theta - anchor)."""
    config = replace(CONFIG, elastic=ElasticConfig(strength=0.5, outer_strength=2.0, phase=2))
    learner, states = trained(config, 4)
    meta = states[3].meta
    data = FewShotMetaLearner(FAMILY, learner, config).collect(states[3], Clock(), logged=False).data
    found = learner.meta_gradient(meta, data, 3).meta.theta
    free = learner._replace(config=replace(config.elastic, outer_strength=0.0, phase=0))
    without = free.meta_gradient(meta, data, 3).meta.theta
    for name, value in meta.theta.items():
        pull = 2.0 * meta.elastic[f"phases/{name}"] * (value - meta.elastic[f"anchor/{name}"])
        assert_close(found[name] - without[name], pull, rtol=1e-3, atol=1e-5)
    assert float(pull.abs().max()) > 0.0
    assert torch.equal(meta.elastic["anchor/weight_0"], states[2].meta.theta["weight_0"])


def test_what_is_held_is_kept_in_checkpoints(tmp_path):
    _, states = trained(CONFIG, 2)
    save_checkpoint(tmp_path, states[2], family="sinusoid", keep=1)
    loaded, _ = load_newest(tmp_path, states[0], family="sinusoid")
    assert_close(loaded.meta.elastic, states[2].meta.elastic, rtol=0.0, atol=0.0)


def test_it_predicts_with_the_inner_loop_that_it_learned():
    learner, states = trained(CONFIG, 3)
    data = few_shot_data(FAMILY, FAMILY.sample(np.random.default_rng(0), 3), 3, "cpu")
    meta = states[3].meta
    given = (data.support[0], data.query.inputs)
    found = learner.predict(meta, *given, steps=3, transductive=True)
    strong = hold(learner.base, importance_of(meta.elastic), 0.5, 0.02)
    assert_close(found, strong.predict(meta, *given, steps=3, transductive=True))
    free = learner.base.predict(Meta(meta.theta, {}, {}), *given, steps=3, transductive=True)
    assert_close(found[0], free[0])
    assert not torch.allclose(found[3], free[3])


def test_every_importance_trains():
    for importance in ("empirical-fisher", "mas", "mas-cg"):
        learner, states = trained(replace(CONFIG, elastic=ElasticConfig(importance=importance)), 2)
        assert isinstance(learner, FameLearner)
        assert all(bool(torch.isfinite(value).all()) for value in states[-1].meta.elastic.values())


def test_others_refuse_its_settings():
    changed = FewShotConfig(algorithm="maml", elastic=ElasticConfig(strength=2.0))
    with pytest.raises(ValueError, match=r"does not use the settings --elastic\.strength"):
        check_settings(changed, FewShotConfig())
    assert "fame" in ALGORITHMS


def test_tasks_whose_importance_cannot_be_measured_are_left_out_and_counted(blobs):
    """The support of the first has one class; the others say what is important."""
    family = blobs()
    config = replace(CONFIG, elastic=ElasticConfig(strength=0.5, importance="empirical-fisher"))
    learner = make_learner(family, config)
    meta = learner.init(torch_generator(1, Stream.INITIALIZATION))
    data = few_shot_data(family, family.sample(np.random.default_rng(0), 3), 3, "cpu")
    alone = data.support[0]._replace(targets=data.support[0].targets.clone())
    alone.targets[0] = 0
    assert (alone.targets[1:] != alone.targets[1:, :1]).any(1).all()
    found = learner.meta_gradient(meta, data._replace(support=[alone] * 3), 0)
    assert found.metrics["elastic/left_out"] == 1.0
    others = TaskData([alone._replace(inputs=alone.inputs[1:], targets=alone.targets[1:])] * 3, data.query)
    query = data.query._replace(inputs=data.query.inputs[1:], targets=data.query.targets[1:])
    expected = learner.meta_gradient(meta, others._replace(query=query), 0)
    assert expected.metrics["elastic/left_out"] == 0.0
    assert_close(importance_of(found.elastic), importance_of(expected.elastic))


def test_importances_that_are_not_finite_are_left_out_and_those_before_stay():
    """Also where a phase ends, at which those of phases grow, in what is returned alone."""
    config = replace(CONFIG, elastic=ElasticConfig(strength=0.5, outer_strength=1.0, phase=3))
    learner, states = trained(config, 2)
    meta = states[2].meta
    data = few_shot_data(FAMILY, FAMILY.sample(np.random.default_rng(0), 4), 3, "cpu")

    def broken(model, phi, examples, noise):
        return {name: torch.full_like(value, torch.nan) for name, value in phi.items()}

    before = dict(meta.elastic)
    found = learner._replace(measure=broken).meta_gradient(meta, data, 2)
    assert all(meta.elastic[name] is value for name, value in before.items())
    assert_close(found.elastic["phases/weight_0"], importance_of(meta.elastic)["weight_0"])
    assert found.metrics["elastic/left_out"] == 4.0
    assert_close(importance_of(found.elastic), importance_of(meta.elastic), rtol=0.0, atol=0.0)

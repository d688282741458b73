"""Tasks one after another: against a plain loop over one sequence, what is carried over and what starts afresh."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from metarl.algorithms import UnsuitableAlgorithm
from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.meta_learner import few_shot_data
from metarl.few_shot.sequences import Sequencer, adapting, make_sequencer, pass_through
from metarl.inner.adapt import adapt
from metarl.inner.elastic import held_by
from metarl.tasks import FewShotFamily
from metarl.types import Examples, Meta, Params
from metarl.variants.curiosity import Measure
from metarl.variants.fame import LOG_STRENGTH, ElasticConfig
from metarl.variants.importance import label_noise
from metarl.variants.sequences import SequenceConfig

SEQUENCES, TASKS, STEPS, STEP_SIZE = 2, 3, 4, 0.05
Held = tuple[list[Params], list[Examples]]


def config_of(algorithm: str, **changes: object) -> FewShotConfig:
    fields = {"net": NetConfig(hidden=(6, 5)), "inner": FewShotInnerConfig(steps=2, step_size=STEP_SIZE)}
    return FewShotConfig(algorithm=algorithm, **(fields | changes))


def sequencer_of(family: FewShotFamily, algorithm: str, **protocol: object) -> Sequencer:
    learner = make_learner(family, config_of(algorithm))
    meta = learner.init(torch.Generator().manual_seed(0))
    chosen = SequenceConfig(**({"tasks": TASKS, "steps": STEPS} | protocol))
    return make_sequencer(learner, meta, chosen, kind=family.kind, step_size=STEP_SIZE)


def passed(family: FewShotFamily, sequencer: Sequencer) -> Held:
    """Parameters before and after each task, and the support of each."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(1)
    supports = [few_shot_data(family, family.sample(rng, SEQUENCES), 1, "cpu").support[0] for _ in range(TASKS)]
    noise = [label_noise(support, 1, generator) for support in supports]
    with torch.no_grad():
        return list(pass_through(sequencer, supports, noise)), supports


def perceptron(params: Params, inputs: Tensor) -> Tensor:
    hidden = torch.relu(inputs @ params["weight_0"] + params["bias_0"])
    hidden = torch.relu(hidden @ params["weight_1"] + params["bias_1"])
    return hidden @ params["weight_2"] + params["bias_2"]


def plain_loop(start: Params, tasks: list[tuple[Tensor, Tensor]], *, strength: float, decay: float) -> list[Params]:
    """One sequence, with elastic weight consolidation by the examples' own labels, one example after another."""
    phi, anchor, total, found = start, start, None, []
    for inputs, targets in tasks:
        anchor = phi
        for _ in range(STEPS):
            point = {name: value.clone().requires_grad_() for name, value in phi.items()}
            loss = functional.mse_loss(perceptron(point, inputs), targets)
            slope = dict(zip(point, torch.autograd.grad(loss, list(point.values())), strict=True))
            phi = {name: value - STEP_SIZE * slope[name] for name, value in phi.items()}
            if total is not None:
                pull = {name: STEP_SIZE * strength * total[name] for name in phi}
                phi = {name: (value + pull[name] * anchor[name]) / (1.0 + pull[name]) for name, value in phi.items()}
        found.append(phi)
        fresh = {name: torch.zeros_like(value) for name, value in phi.items()}
        for x, y in zip(inputs, targets, strict=True):
            point = {name: value.clone().requires_grad_() for name, value in phi.items()}
            loss = 0.5 * (perceptron(point, x) - y).square().sum()
            for name, slope in zip(point, torch.autograd.grad(loss, list(point.values())), strict=True):
                fresh[name] = fresh[name] + slope**2 / len(inputs)
        mean = sum(value.sum() for value in fresh.values()) / sum(value.numel() for value in fresh.values())
        fresh = {name: value / mean for name, value in fresh.items()}
        total = fresh if total is None else {name: decay * total[name] + value for name, value in fresh.items()}
    return found


@pytest.mark.parametrize(("consolidate", "strength", "decay"), [("none", None, 1.0), ("empirical-fisher", 3.0, 0.5)])
def test_every_sequence_goes_as_a_plain_loop_over_it_alone(waves, consolidate, strength, decay):
    sequencer = sequencer_of(waves(), "maml", consolidate=consolidate, strength=strength, decay=decay)
    points, supports = passed(waves(), sequencer)
    assert len(points) == TASKS + 1
    for number in range(SEQUENCES):
        tasks = [(support.inputs[number], support.targets[number]) for support in supports]
        expected = plain_loop(sequencer.meta.theta, tasks, strength=strength or 0.0, decay=decay)
        for after, point in zip(expected, points[1:], strict=True):
            for name, value in after.items():
                assert_close(point[name][number], value, rtol=1e-4, atol=1e-5)


def test_parameters_go_on_from_where_the_last_task_left_them(waves):
    sequencer = sequencer_of(waves(), "maml")
    points, supports = passed(waves(), sequencer)
    inner = sequencer.learner.inner(STEPS)
    for before, after, support in zip(points, points[1:], supports, strict=False):
        expected = adapt(inner, {}, before, [support] * STEPS).phi
        assert_close(after["weight_1"], expected["weight_1"])
    with torch.no_grad():
        reset = adapt(inner, {}, points[0], [supports[1]] * STEPS).phi
    assert float((points[2]["weight_1"] - reset["weight_1"]).abs().max()) > 1e-3


def curious_points(family: FewShotFamily, algorithm: str, curiosity: CuriosityConfig, consolidate: str) -> list[Params]:
    """Where sequences go after a meta-iteration, which leaves FAME importances of its own."""
    learner = make_learner(family, config_of(algorithm, curiosity=curiosity))
    meta = learner.init(torch.Generator().manual_seed(0))
    data = few_shot_data(family, family.sample(np.random.default_rng(2), 3), 2, "cpu")
    meta = meta._replace(elastic=learner.meta_gradient(meta, data, 0).elastic)
    chosen = SequenceConfig(tasks=TASKS, steps=STEPS, consolidate=consolidate)
    return passed(family, make_sequencer(learner, meta, chosen, kind=family.kind, step_size=STEP_SIZE))[0]


@pytest.mark.parametrize(("algorithm", "consolidate"), [("maml", "none"), ("maml", "mas"), ("fame", "own")])
def test_curious_learners_go_on_with_weighted_steps_and_with_equal_weights_as_without(waves, algorithm, consolidate):
    chosen = (CuriosityConfig(), CuriosityConfig(kind="gradient", measure="uniform"), CuriosityConfig(kind="gradient"))
    plain, even, curious = (curious_points(waves(), algorithm, each, consolidate)[-1] for each in chosen)
    for name, value in plain.items():
        assert_close(even[name], value, rtol=1e-3, atol=1e-4)
    assert max(float((curious[name] - value).abs().max()) for name, value in plain.items()) > 1e-2


def test_the_state_of_a_learned_optimizer_starts_afresh_on_every_task(waves):
    sequencer = sequencer_of(waves(), "meta-lstm")
    points, supports = passed(waves(), sequencer)
    afresh = adapt(sequencer.learner.inner(STEPS), sequencer.meta.eta, points[1], [supports[1]] * STEPS).phi
    assert_close(points[2], afresh)


def test_a_pretrained_network_starts_with_an_empty_head_and_keeps_it_from_task_to_task(blobs):
    sequencer = sequencer_of(blobs(), "pretrain")
    points, _ = passed(blobs(), sequencer)
    assert float(points[0]["weight_2"].abs().max()) == 0.0
    assert points[0]["weight_2"].shape == (SEQUENCES, 5, 3)
    learned = sequencer.learner.inner(STEPS)
    with torch.no_grad():
        second = adapt(learned, {}, points[1], [passed(blobs(), sequencer)[1][1]] * STEPS).phi
    assert_close(points[2]["weight_2"], second["weight_2"])
    assert float(points[1]["weight_2"].abs().max()) > 0.0


@pytest.mark.parametrize("algorithm", ["maml", "meta-sgd", "meta-lstm", "reptile", "imaml", "anil", "random"])
def test_held_with_all_strength_nothing_moves_after_the_first_task(blobs, algorithm):
    """Where every parameter is important; with no strength they move as if nothing held."""
    sequencer = sequencer_of(blobs(), algorithm, consolidate="mas", strength=1e20)
    sequencer = sequencer._replace(
        measure=lambda model, phi, examples, noise: {name: torch.ones_like(value) for name, value in phi.items()}
    )
    points, _ = passed(blobs(), sequencer)
    assert float((points[1]["weight_2"] - points[0]["weight_2"]).abs().max()) > 1e-4
    assert_close(points[3], points[1], rtol=0.0, atol=0.0)
    weak, _ = passed(blobs(), sequencer._replace(strength=0.0))
    free, _ = passed(blobs(), sequencer_of(blobs(), algorithm, consolidate="none"))
    assert_close(weak, free, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kind", ["waves", "blobs"])
@pytest.mark.parametrize("consolidate", ["fisher", "empirical-fisher", "mas", "mas-cg"])
def test_each_importance_keeps_parameters_closer_to_the_first_task(request, kind, consolidate):
    family = request.getfixturevalue(kind)()

    def moved(**protocol: object) -> float:
        points, _ = passed(family, sequencer_of(family, "maml", **protocol))
        return float(torch.cat([(points[3][name] - points[1][name]).flatten(1) for name in points[1]], 1).norm())

    assert moved(consolidate=consolidate, strength=30.0) < 0.7 * moved(consolidate="none")


def fame(family: FewShotFamily, **elastic: object) -> tuple[object, Meta]:
    """With importances that are not all alike."""
    learner = make_learner(family, config_of("fame", elastic=ElasticConfig(**elastic)))
    meta = learner.init(torch.Generator().manual_seed(0))
    importance = {name: torch.rand_like(value) for name, value in meta.theta.items()}
    return learner, meta._replace(elastic=meta.elastic | held_by(importance))


def test_a_run_of_fame_starts_with_its_own_importances_and_strength(waves):
    learner, meta = fame(waves(), strength=2.5)
    config = SequenceConfig(tasks=TASKS, steps=STEPS)
    own = make_sequencer(learner, meta, config, kind="regression", step_size=STEP_SIZE)
    assert (own.consolidate, own.strength) == ("own", 2.5)
    assert_close(own.importance, {name: meta.elastic[f"importance/{name}"] for name in meta.theta})
    points, supports = passed(waves(), own)
    with torch.no_grad():
        first = adapt(own.held_by(own.importance), {}, points[0], [supports[0]] * STEPS).phi
    assert_close(points[1], first)
    free, _ = passed(waves(), own._replace(importance={}))
    assert not torch.equal(free[1]["weight_1"], points[1]["weight_1"]), "the first task is held as well"


def test_importance_of_training_alone_holds_each_task_alike(waves):
    learner, meta = fame(waves(), strength=2.5)
    config = SequenceConfig(tasks=TASKS, steps=STEPS, consolidate="own-fixed")
    fixed = make_sequencer(learner, meta, config, kind="regression", step_size=STEP_SIZE)
    points, supports = passed(waves(), fixed)
    with torch.no_grad():
        for before, after, support in zip(points, points[1:], supports, strict=False):
            assert_close(after, adapt(fixed.held_by(fixed.importance), {}, before, [support] * STEPS).phi)
    own = make_sequencer(learner, meta, replace(config, consolidate="own"), kind="regression", step_size=STEP_SIZE)
    other, _ = passed(waves(), own)
    assert torch.equal(other[1]["weight_1"], points[1]["weight_1"])
    assert not torch.equal(other[2]["weight_1"], points[2]["weight_1"])


def test_a_curious_run_goes_on_with_its_weights(waves):
    """Which are all one where examples count alike."""
    config, held = SequenceConfig(tasks=TASKS, steps=STEPS), fame(waves())[1].elastic

    def points(measure: Measure | None) -> list[Params]:
        curious = CuriosityConfig() if measure is None else CuriosityConfig(kind="gradient", measure=measure)
        learner = make_learner(waves(), config_of("fame", elastic=ElasticConfig(), curiosity=curious))
        meta = learner.init(torch.Generator().manual_seed(0))
        meta = meta._replace(elastic=held)
        return passed(waves(), make_sequencer(learner, meta, config, kind="regression", step_size=STEP_SIZE))[0]

    plain, uniform, loss = points(None), points("uniform"), points("loss")
    assert_close(uniform[2], plain[2])
    assert not torch.allclose(loss[2]["weight_1"], plain[2]["weight_1"])


def test_a_learned_strength_is_taken_from_where_it_was_learned_and_may_be_overruled(waves):
    learner, meta = fame(waves(), strength=2.5, schedule="learned")
    meta = meta._replace(eta=meta.eta | {LOG_STRENGTH: torch.tensor(math.log(7.0))})
    config = SequenceConfig(tasks=TASKS, steps=STEPS)
    found = make_sequencer(learner, meta, config, kind="regression", step_size=STEP_SIZE)
    assert found.strength == pytest.approx(7.0)
    told = replace(config, strength=0.5)
    assert make_sequencer(learner, meta, told, kind="regression", step_size=STEP_SIZE).strength == 0.5
    plain = replace(config, consolidate="none")
    assert make_sequencer(learner, meta, plain, kind="regression", step_size=STEP_SIZE).importance == {}


def test_learners_that_keep_nothing_of_a_task_are_refused(blobs, waves):
    learner = make_learner(blobs(), config_of("prototypes"))
    with pytest.raises(UnsuitableAlgorithm, match=r"got a ComparingLearner, which keeps nothing of the last one; try"):
        adapting(learner, learner.init(torch.Generator()))
    with pytest.raises(UnsuitableAlgorithm, match="synaptic follows no gradient that an importance could hold"):
        sequencer_of(waves(), "synaptic", consolidate="mas")
    passed(waves(), sequencer_of(waves(), "synaptic"))


def test_a_strength_where_nothing_holds_is_refused(waves):
    with pytest.raises(ValueError, match=r"nothing holds in this run, so that strength 3.0 would change nothing"):
        sequencer_of(waves(), "maml", strength=3.0)


def test_importances_that_a_run_does_not_have_are_refused(waves):
    with pytest.raises(ValueError, match="consolidate own needs a run that kept importances, as fame does"):
        sequencer_of(waves(), "maml", consolidate="own")

"""Scores of sequences: the ordinary evaluation where they coincide, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.learners import FewShotLearner
from metarl.few_shot.meta_learner import judge
from metarl.few_shot.sequence_scores import draw_sequences, judge_sequences
from metarl.few_shot.sequences import Sequencer, make_sequencer
from metarl.inner.elastic import held_by
from metarl.tasks import FewShotFamily, make_family
from metarl.types import Meta
from metarl.variants.fame import ElasticConfig
from metarl.variants.sequences import SequenceConfig

SEQUENCES, TASKS, STEPS = 5, 3, 4


def learned(family: FewShotFamily, algorithm: str = "maml", **changes: object) -> tuple[FewShotLearner, Meta]:
    net = NetConfig(hidden=(6, 5), batch_norm=True)
    inner = FewShotInnerConfig(steps=2, step_size=0.1)
    learner = make_learner(family, FewShotConfig(algorithm=algorithm, net=net, inner=inner, **changes))
    meta = learner.init(torch.Generator().manual_seed(0))
    ones = held_by({name: torch.ones_like(value) for name, value in meta.theta.items()})
    return learner, meta._replace(elastic=meta.elastic | ones) if algorithm == "fame" else meta


def sequencer_of(family: FewShotFamily, algorithm: str = "maml", task_chunk: int = 0, **protocol: object) -> Sequencer:
    learner, meta = learned(family, algorithm, task_chunk=task_chunk)
    config = SequenceConfig(tasks=TASKS, steps=STEPS, **protocol)
    return make_sequencer(learner, meta, config, kind=family.kind, step_size=0.1)


def tasks_of(family: FewShotFamily, seed: int = 0) -> np.ndarray:
    return draw_sequences(family, np.random.default_rng(seed), SEQUENCES, TASKS)


def judged(family: FewShotFamily, sequencer: Sequencer, tasks: np.ndarray, **options: object) -> dict[str, np.ndarray]:
    return judge_sequences(family, sequencer, tasks, **({"transductive": True, "device": "cpu"} | options))


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("algorithm", ["maml", "meta-lstm", "pretrain", "anil", "fame"])
@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_before_any_task_and_after_the_first_scores_are_those_of_the_ordinary_evaluation(
    request, kind, algorithm, transductive
):
    family = request.getfixturevalue(kind)()
    tasks = tasks_of(family)
    found = judged(family, sequencer_of(family, algorithm), tasks, transductive=transductive)
    learner, meta = learned(family, algorithm)
    flat = tasks.reshape(-1, tasks.shape[2])
    alone = judge(family, learner, meta, flat, steps=STEPS, transductive=transductive, device="cpu")
    for name, scores in found.items():
        each = alone[name].reshape(STEPS + 1, SEQUENCES, TASKS)
        assert scores.shape == (TASKS + 1, TASKS, SEQUENCES)
        assert_allclose(scores[0], each[0].T, rtol=1e-4, atol=1e-6)
        assert_allclose(scores[1, 0], each[STEPS, :, 0], rtol=1e-4, atol=1e-6)
        assert not np.allclose(scores[2, 1], each[STEPS, :, 1]), "there is no reset"


@pytest.mark.parametrize("measure", ["features", "plain"])
def test_the_look_ahead_of_a_curious_fame_is_held_as_in_training(waves, measure):
    """Else it would be curious about other changes than those that it learned to foresee."""
    tasks, curious = tasks_of(waves()), CuriosityConfig(kind="gradient", measure=measure)
    learner, meta = learned(waves(), "fame", curiosity=curious, elastic=ElasticConfig(strength=5.0))
    config = SequenceConfig(tasks=TASKS, steps=STEPS)
    found = judged(waves(), make_sequencer(learner, meta, config, kind="regression", step_size=0.1), tasks)["mse"]
    first = judge(waves(), learner, meta, tasks[:, 0], steps=STEPS, transductive=True, device="cpu")["mse"]
    assert_allclose(found[1, 0], first[STEPS], rtol=1e-4)


@pytest.mark.parametrize("consolidate", ["none", "mas", "empirical-fisher"])
def test_sequences_in_another_order_get_the_same_scores(blobs, consolidate):
    tasks, order = tasks_of(blobs()), np.array([3, 0, 4, 2, 1])
    sequencer = sequencer_of(blobs(), consolidate=consolidate)
    found, moved = (judged(blobs(), sequencer, each)["loss"] for each in (tasks, tasks[order]))
    assert_allclose(moved, found[:, :, order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("consolidate", ["none", "fisher", "mas"])
def test_how_many_sequences_are_learned_at_once_changes_nothing_but_rounding(waves, consolidate):
    found = [
        judged(waves(), sequencer_of(waves(), task_chunk=chunk, consolidate=consolidate), tasks_of(waves()))["mse"]
        for chunk in (5, 2, 1)
    ]
    assert_allclose(found[1], found[0], rtol=1e-3)
    assert_allclose(found[2], found[0], rtol=1e-3)


def test_more_sequences_than_are_held_at_once_are_judged_alike(waves):
    """Two hundred tasks are held, 66 sequences."""
    family, sequencer = waves(), sequencer_of(waves(), consolidate="mas")
    tasks = draw_sequences(family, np.random.default_rng(0), 70, TASKS)
    assert_allclose(
        judged(family, sequencer, tasks)["mse"][..., 60:], judged(family, sequencer, tasks[60:])["mse"], rtol=1e-4
    )


def test_labels_drawn_for_fisher_information_follow_from_the_seed(blobs):
    """Of classes, for the sign that is drawn for a single value changes nothing but rounding."""
    sequencer, tasks = sequencer_of(blobs(), consolidate="fisher", strength=10.0), tasks_of(blobs())
    first, again, other = (judged(blobs(), sequencer, tasks, seed=seed)["loss"] for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert_array_equal(first[:2], other[:2])
    assert (np.abs(other[2] / first[2] - 1.0).max(0) > 0.01).all()


def test_groups_of_sequences_draw_labels_of_their_own(blobs, monkeypatch):
    """The same sequences twice, a group each: what was measured with other labels holds otherwise."""
    monkeypatch.setattr("metarl.few_shot.sequence_scores._TASKS_HELD", SEQUENCES * TASKS)
    sequencer, tasks = sequencer_of(blobs(), consolidate="fisher", strength=10.0), tasks_of(blobs())
    found = judged(blobs(), sequencer, np.concatenate([tasks, tasks]))["loss"]
    first, second = found[..., :SEQUENCES], found[..., SEQUENCES:]
    assert_allclose(second[:2], first[:2], rtol=1e-4)
    assert (np.abs(second[2:] / first[2:] - 1.0).max((0, 1)) > 0.01).all()


def test_what_diverges_is_as_wrong_as_can_be(waves):
    learner, meta = learned(waves())
    far = meta._replace(theta={name: 1e30 * value for name, value in meta.theta.items()})
    sequencer = make_sequencer(learner, far, SequenceConfig(tasks=TASKS), kind="regression", step_size=0.1)
    assert np.isinf(judged(waves(), sequencer, tasks_of(waves()))["mse"]).any()


def test_families_say_which_tasks_conflict_and_others_give_test_tasks_as_they_come(waves):
    family = make_family("sinusoid")
    assert_array_equal(tasks_of(family), family.sequence(np.random.default_rng(0), SEQUENCES, TASKS))
    drawn = waves().sample_test(np.random.default_rng(0), SEQUENCES * TASKS)
    assert_array_equal(tasks_of(waves()).reshape(SEQUENCES * TASKS, -1), drawn)


def test_a_family_whose_sequences_have_another_shape_is_refused(waves):
    class Flat(waves):  # type: ignore[misc]
        def sequence(self, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
            return self.sample_test(rng, count * length)

    with pytest.raises(ValueError, match=r"of Flat must give an array \[5, 3, P\], .* got shape \(15, 22\)"):
        tasks_of(Flat())

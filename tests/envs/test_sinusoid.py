"""Sine curves: values by hand, distributions, what variants share, the oracle, noise, speed."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import metarl
from metarl.envs import Sinusoid
from metarl.tasks import FewShotFamily

ROW = [2.0, math.pi / 2.0, 0.0, math.pi / 2.0, math.pi, 1.0, -2.0]
"""Amplitude 2, phase a quarter turn, one support and two query points, noise on the target and on the input."""


def test_a_curve_by_hand():
    """2 sin(x - pi/2) at 0, pi/2 and pi is -2, 0 and 2."""
    episodes = Sinusoid(shots=1, queries=2).examples(np.array([ROW]))
    assert_allclose(episodes.support_inputs, [[[0.0]]])
    assert_allclose(episodes.support_targets, [[[-2.0]]])
    assert_allclose(episodes.query_inputs, [[[math.pi / 2.0], [math.pi]]], rtol=1e-6)
    assert_allclose(episodes.query_targets, [[[0.0], [2.0]]], atol=1e-6)


def test_noise_moves_support_targets_by_its_standard_deviation_and_leaves_the_query_alone():
    clean = Sinusoid(shots=1, queries=2).examples(np.array([ROW]))
    noisy = Sinusoid(shots=1, queries=2, noise=0.5).examples(np.array([ROW]))
    assert_allclose(noisy.support_targets - clean.support_targets, [[[0.5]]])
    assert_array_equal(noisy.query_targets, clean.query_targets)


def test_noise_on_inputs_moves_what_is_seen_of_the_support_and_no_target():
    clean = Sinusoid(shots=1, queries=2).examples(np.array([ROW]))
    noisy = Sinusoid(shots=1, queries=2, input_noise=0.5).examples(np.array([ROW]))
    assert_allclose(noisy.support_inputs - clean.support_inputs, [[[-1.0]]])
    assert_array_equal(noisy.support_targets, clean.support_targets)
    assert_array_equal(noisy.query_inputs, clean.query_inputs)


def test_the_oracle_sees_amplitude_and_phase_beside_x():
    family = Sinusoid(shots=1, queries=2, oracle=True)
    episodes = family.examples(np.array([ROW]))
    assert family.input_shape == (3,)
    assert_allclose(episodes.support_inputs, [[[0.0, 2.0, math.pi / 2.0]]], rtol=1e-6)
    assert_allclose(episodes.query_inputs[0, 1], [math.pi, 2.0, math.pi / 2.0], rtol=1e-6)


def test_arrays_have_the_shapes_and_types_of_the_contract():
    family = metarl.make_family("sinusoid", shots=3, queries=4)
    assert isinstance(family, FewShotFamily)
    assert (family.kind, family.input_shape, family.outputs, family.training_classes) == ("regression", (1,), 1, 0)
    episodes = family.examples(family.sample(np.random.default_rng(0), 2))
    assert [array.shape for array in episodes] == [(2, 3, 1), (2, 3, 1), (2, 4, 1), (2, 4, 1), (2, 0), (2, 0)]
    assert [array.dtype for array in episodes] == [np.float32] * 4 + [np.int64] * 2


def test_amplitude_phase_and_inputs_are_uniform_over_the_papers_ranges():
    """A uniform number's mean is the middle of its range and its standard deviation the width over sqrt(12)."""
    rows = Sinusoid().sample(np.random.default_rng(0), 5000)
    for column, low, high in ((0, 0.1, 5.0), (1, 0.0, math.pi), (2, -5.0, 5.0), (21, -5.0, 5.0)):
        values = rows[:, column]
        assert low <= values.min() < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2.0, abs=0.02 * (high - low))
        assert values.std() == pytest.approx((high - low) / math.sqrt(12.0), rel=0.03)
    assert rows[:, 22:].std() == pytest.approx(1.0, abs=0.01)


def test_the_same_generator_gives_the_same_tasks_and_another_others():
    family = Sinusoid()
    assert_array_equal(family.sample(np.random.default_rng(3), 4), family.sample(np.random.default_rng(3), 4))
    assert (family.sample(np.random.default_rng(3), 4) != family.sample(np.random.default_rng(4), 4)).all()


@pytest.mark.parametrize("name", ["1 shot", "20 shots", "label noise 0.5", "input noise 0.5"])
def test_variants_of_shots_and_noise_are_judged_on_the_same_curves_and_points(name):
    family = Sinusoid()
    pair = [each.examples(each.sample_test(np.random.default_rng(0), 3)) for each in (family, family.variants()[name])]
    assert_array_equal(pair[0].query_inputs, pair[1].query_inputs)
    assert_array_equal(pair[0].query_targets, pair[1].query_targets)


def test_variants_draw_from_ranges_that_training_never_saw():
    variants = Sinusoid().variants()
    rng = np.random.default_rng(0)
    assert [variants[f"{count} shots"].shots for count in (2, 5, 10, 20)] == [2, 5, 10, 20]
    assert variants["amplitude 5 to 10"].sample_test(rng, 100)[:, 0].min() >= 5.0
    assert variants["phase pi to 2 pi"].sample_test(rng, 100)[:, 1].min() >= math.pi
    assert all(variant.queries == 10 for variant in variants.values())


def test_curves_of_a_sequence_share_their_amplitude_and_have_a_phase_in_every_part_of_the_range():
    family = Sinusoid(phase_low=1.0, phase_high=3.0)
    tasks = family.sequence(np.random.default_rng(0), 50, 4)
    assert tasks.shape == (50, 4, family.sample(np.random.default_rng(0), 1).shape[1])
    assert (tasks[..., 0] == tasks[:, :1, 0]).all()
    assert len(set(tasks[:, 0, 0])) == 50
    phases = np.sort(tasks[..., 1], axis=1)
    assert_allclose(np.diff(phases, axis=1), 0.5, rtol=1e-12)
    assert 1.0 <= phases.min() < 1.05 < 2.95 < phases.max() <= 3.0
    assert len({tuple(order) for order in np.argsort(tasks[..., 1], axis=1)}) > 15, "of 24 orders"
    assert len(set(tasks[..., 2].ravel())) == 200, "each task has its own points"


def test_sequences_follow_from_their_generator_and_meet_the_same_curves_whatever_the_shots():
    first, again, other = (Sinusoid().sequence(np.random.default_rng(seed), 3, 5) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first[..., :2] != other[..., :2]).all()
    assert_array_equal(Sinusoid(shots=1).sequence(np.random.default_rng(0), 3, 5)[..., :2], first[..., :2])
    with pytest.raises(ValueError, match="length must be a whole number of at least 1; got 0"):
        Sinusoid().sequence(np.random.default_rng(0), 3, 0)


def test_evaluation_may_ask_for_more_query_points():
    family = replace(Sinusoid(), queries=100)
    assert family.examples(family.sample_test(np.random.default_rng(0), 2)).query_inputs.shape == (2, 100, 1)


def test_a_meta_batch_takes_less_than_a_fifth_of_a_millisecond():
    """Measured 0.05 ms; a busy machine gets four times that."""
    family, rng = Sinusoid(), np.random.default_rng(0)
    durations = []
    for _ in range(200):
        start = time.perf_counter()
        family.examples(family.sample(rng, 25))
        durations.append(time.perf_counter() - start)
    assert min(durations) < 2e-4


def test_a_task_is_described_by_its_curve():
    assert Sinusoid(shots=1, queries=2).describe(np.array(ROW)) == "2.00 sin(x - 1.57) from 1 points"


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="shots must be a whole number of at least 1; got 0"):
        Sinusoid(shots=0)
    with pytest.raises(ValueError, match=r"amplitude_low <= amplitude_high; got 6\.0 and 5\.0"):
        Sinusoid(amplitude_low=6.0)
    with pytest.raises(ValueError, match=r"noise must be finite and at least 0; got -0\.1"):
        Sinusoid(noise=-0.1)
    with pytest.raises(ValueError, match=r"input_noise must be finite and at least 0; got -1\.0"):
        Sinusoid(input_noise=-1.0)
    with pytest.raises(ValueError, match=r"shape \[M, 42\] with M >= 1 .* got shape \(1, 3\)"):
        Sinusoid().examples(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="count must be a whole number of at least 1; got 0"):
        Sinusoid().sample(np.random.default_rng(0), 0)

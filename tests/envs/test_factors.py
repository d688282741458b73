"""Factors on the parameters of a model: distribution, order, effect on the fields, bad values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from metarl.envs.body import load_model
from metarl.envs.factors import describe_factors, draw_factors, factor_count, factor_rows, scaled_fields

HOPPER = load_model("hopper.xml")
"""5 masses, 15 moments of inertia, 6 dampings, 15 frictions."""


@pytest.mark.parametrize(("file", "count"), [("hopper.xml", 41), ("walker2d.xml", 65)])
def test_there_is_a_factor_for_every_number(file, count):
    assert factor_count(load_model(file)) == count


def test_factors_are_uniform_in_the_exponent_and_independent():
    factors = draw_factors(HOPPER, np.random.default_rng(0), 4000, 3.0)
    assert factors.shape == (4000, 41)
    bases = np.repeat([1.5, 1.5, 1.3, 1.5], [5, 15, 6, 15])
    exponents = np.log(factors) / np.log(bases)
    assert np.abs(exponents).max() <= 3.0 + 1e-12
    assert (exponents.min(axis=0) < -2.98).all()
    assert (exponents.max(axis=0) > 2.98).all()
    deviation = 6.0 / np.sqrt(12.0)
    assert np.abs(exponents.mean(axis=0)).max() < 4.5 * deviation / np.sqrt(4000)
    assert_allclose(exponents.std(axis=0), deviation, rtol=0.05)
    correlation = np.corrcoef(exponents.T) - np.eye(41)
    assert np.abs(correlation).max() < 0.08  # 5 standard errors


def test_factors_at_the_published_scale_have_the_documented_bounds():
    assert pytest.approx(0.296, abs=1e-3) == 1.5**-3
    assert pytest.approx(2.197, abs=1e-3) == 1.3**3
    assert (draw_factors(HOPPER, np.random.default_rng(0), 3, 0.0) == 1.0).all()


def test_each_factor_scales_its_own_number():
    """Task 1 counts from 1 to 41; the fields take its numbers in order."""
    tasks = np.stack((np.ones(41), np.arange(1.0, 42.0)))
    fields = scaled_fields(HOPPER, tasks)
    for name, values in fields.items():
        assert_array_equal(values[0], getattr(HOPPER, name))
    assert_array_equal(fields["body_mass"][1], HOPPER.body_mass * [1, 2, 3, 4, 5])
    assert_array_equal(fields["body_inertia"][1, 1], HOPPER.body_inertia[1] * [9, 10, 11])
    assert_array_equal(fields["dof_damping"][1], HOPPER.dof_damping * [21, 22, 23, 24, 25, 26])
    assert_array_equal(fields["geom_friction"][1, 4], HOPPER.geom_friction[4] * [39, 40, 41])


def test_factors_in_words_leave_out_numbers_that_are_0():
    """The world's mass and inertia are 0, and so is the damping of the first three of six degrees of freedom."""
    task = np.ones(41)
    task[[0, 20]] = 50.0
    task[1:5] = 2.0
    task[23:26] = 0.5
    said = describe_factors(HOPPER, task)
    assert said == "mean factors mass x 2.00, inertia x 1.00, damping x 0.50, friction x 1.00"


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_factors_must_be_positive(bad):
    tasks = np.ones((3, 41))
    tasks[2, 7] = bad
    with pytest.raises(ValueError, match=r"factors must be positive; got .* in task 2"):
        factor_rows(tasks, HOPPER)


@pytest.mark.parametrize("tasks", [np.ones((2, 65)), np.ones(41), np.full((1, 41), np.inf), "heavy"])
def test_factors_must_be_as_many_finite_numbers_as_the_model_has(tasks):
    with pytest.raises(ValueError, match="factors on body_mass, body_inertia, dof_damping, geom_friction"):
        factor_rows(tasks, HOPPER)

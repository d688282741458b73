"""The study of meta-gradients on the two-state problem: its samples are the problem's, its figures are by hand."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from metarl.experiments.study_estimators import ROWS, Study, draw, figures, markdown, meta_gradient, run, sampled
from metarl.experiments.two_state import THETA, exact_meta_gradient, probability


def test_trajectories_are_sampled_with_their_probabilities():
    batch = sampled(THETA, 40_000, torch.Generator().manual_seed(3))
    states, actions = batch.observations[0].argmax(-1), batch.actions[0, ..., 0]
    rows = torch.stack([states[:, 0], actions[:, 0], states[:, 1], actions[:, 1]], 1)
    for trajectory in [(0, 0, 0, 0), (1, 1, 0, 1), (0, 1, 1, 1)]:
        share = float((rows == tensor(trajectory)).all(1).double().mean())
        expected = float(probability(THETA, trajectory))
        assert share == pytest.approx(expected, abs=5.0 * (expected / 40_000) ** 0.5)
    assert abs(float(batch.advantages.mean())) < 0.05  # measured from the exact values


def test_with_many_episodes_dice_meets_the_exact_meta_gradient():
    data = draw(20_000, torch.Generator().manual_seed(1))
    found, exact = meta_gradient(ROWS["dice"], data), exact_meta_gradient(1)
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_figures_are_relative_to_the_exact_gradient():
    found = figures(tensor([[2.0, 0.0], [4.0, 0.0]]), tensor([2.0, 0.0]))
    assert found["bias"] == pytest.approx(0.5)
    assert found["deviation"] == pytest.approx(0.5)
    assert found["error"] == pytest.approx(0.5 / 2**0.5)
    assert found["cosine"] == pytest.approx(1.0)


def test_the_study_is_decided_by_its_seed_and_gives_a_row_for_each_meta_gradient():
    study = Study(episodes=(2,), repeats=3)
    first, again = run(study), run(study)
    assert first == again
    assert run(Study(episodes=(2,), repeats=3, seed=2)) != first
    assert [line.split(" | ")[0].removeprefix("| ") for line in markdown(first).splitlines()[2:]] == list(ROWS)

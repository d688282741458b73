"""Verification of pairs: by hand, balanced, and learned."""

from __future__ import annotations

import functools
import math

import torch
from torch import tensor
from torch.testing import assert_close

from metarl.few_shot.comparing import pixels
from metarl.few_shot.siamese import pair_scores, siamese, verification_losses


def test_scores_weigh_absolute_differences():
    """Differences of 1 and 4, weighed by -1 and 0.5, and a bias of 2."""
    got = pair_scores(tensor([-1.0, 0.5]), tensor(2.0), tensor([[[1.0, 1.0]]]), tensor([[[2.0, -3.0], [1.0, 1.0]]]))
    assert_close(got, tensor([[[3.0], [2.0]]]))


def test_logits_are_mean_scores_over_shots(examples):
    theta = {"similarity/weight": tensor([-1.0]), "similarity/bias": tensor(0.5)}
    support = examples(tensor([[[0.0], [5.0], [2.0]]]), tensor([[1, 0, 1]]))
    got = siamese(pixels(1)).logits(theta, support, tensor([[[3.0]]]), 2)
    assert_close(got, tensor([[[-1.5, -1.5]]]))  # class 0 lies 2 away, class 1 lies 3 and 1 away


def test_same_and_different_pairs_weigh_the_same():
    """One same pair at even odds costs log 2, three different ones at odds of 1 to 3 cost log 4/3 each."""
    scores = tensor([[[0.0, -math.log(3.0)], [-math.log(3.0), -math.log(3.0)]]])
    got = verification_losses(scores, tensor([[[True, False], [False, False]]]))
    assert_close(got, tensor([0.5 * (math.log(2.0) + math.log(4.0 / 3.0))]))


def test_the_loss_verifies_every_pair_of_support_and_query(examples):
    theta = {"similarity/weight": tensor([-1.0]), "similarity/bias": tensor(0.0)}
    support = examples(tensor([[[0.0], [1.0]]]), tensor([[0, 1]]))
    query = examples(tensor([[[0.0]]]), tensor([[0]]))
    expected = 0.5 * (math.log(2.0) + math.log(1.0 + math.exp(-1.0)))
    assert_close(siamese(pixels(1)).loss(theta, support, query, 2), tensor([expected]))


def test_neither_the_order_of_the_support_nor_of_the_tasks_matters(linear_model, double_init, double_episode):
    method = siamese(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    expected = method.logits(theta, support, query.inputs, 3)
    order, others = tensor([5, 3, 0, 1, 4, 2]), tensor([2, 0, 1])
    turned = support._replace(inputs=support.inputs[others][:, order], targets=support.targets[others][:, order])
    assert_close(method.logits(theta, turned, query.inputs[others], 3), expected[others])


def test_renaming_classes_renames_the_logits(linear_model, double_init, double_episode):
    method = siamese(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    names = tensor([2, 0, 1])
    renamed = method.logits(theta, support._replace(targets=names[support.targets]), query.inputs, 3)
    assert_close(renamed[..., names], method.logits(theta, support, query.inputs, 3))


def test_gradients_equal_finite_differences(linear_model, assert_differentiable):
    assert_differentiable(siamese(linear_model(5, 4, normalize=True)))


def test_siamese_networks_learn_to_tell_classes_apart(linear_model, episode, train, accuracy):
    """Random features under random weights guess, one in five; learned ones see past 12 numbers of noise."""
    sample = functools.partial(episode, tasks=8, ways=5, shots=1, queries=5, noise=0.2, distractors=12)
    method = siamese(linear_model(16, 8))
    test = sample(torch.Generator().manual_seed(1))
    before = accuracy(method, method.init(torch.Generator().manual_seed(11)), test, 5)
    after = accuracy(method, train(method, sample, ways=5, iterations=300, step_size=0.02), test, 5)
    assert 1.0 - after < 0.2 * (1.0 - before)

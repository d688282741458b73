"""Distances to class means: by hand, whatever the order, and learned."""

from __future__ import annotations

import functools

import torch
from torch import tensor
from torch.testing import assert_close

from metarl.few_shot.comparing import pixels
from metarl.few_shot.prototypes import prototypes


def test_logits_are_minus_squared_distances_to_class_means(examples):
    """Class 0 has its mean at 1, class 1 at 4; the queries stand at 1 and 2."""
    support = examples(tensor([[[0.0], [4.0], [2.0]]]), tensor([[0, 1, 0]]))
    got = prototypes(pixels(1)).logits({}, support, tensor([[[1.0], [2.0]]]), 2)
    assert_close(got, tensor([[[0.0, -9.0], [-1.0, -4.0]]]))


def test_the_loss_is_the_cross_entropy_of_those_logits(examples):
    support = examples(tensor([[[0.0], [4.0], [2.0]]]), tensor([[0, 1, 0]]))
    query = examples(tensor([[[2.0]]]), tensor([[1]]))
    got = prototypes(pixels(1)).loss({}, support, query, 2)
    assert_close(got, torch.log(1.0 + torch.exp(tensor([3.0]))))


def test_neither_the_order_of_the_support_nor_of_the_tasks_matters(linear_model, double_init, double_episode):
    method = prototypes(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    expected = method.logits(theta, support, query.inputs, 3)
    order = tensor([5, 3, 0, 1, 4, 2])
    shuffled = support._replace(inputs=support.inputs[:, order], targets=support.targets[:, order])
    assert_close(method.logits(theta, shuffled, query.inputs, 3), expected)
    others = tensor([2, 0, 1])
    turned = support._replace(inputs=support.inputs[others], targets=support.targets[others])
    assert_close(method.logits(theta, turned, query.inputs[others], 3), expected[others])


def test_renaming_classes_renames_the_logits(linear_model, double_init, double_episode):
    method = prototypes(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    names = tensor([2, 0, 1])
    renamed = method.logits(theta, support._replace(targets=names[support.targets]), query.inputs, 3)
    assert_close(renamed[..., names], method.logits(theta, support, query.inputs, 3))


def test_gradients_equal_finite_differences(linear_model, assert_differentiable):
    assert_differentiable(prototypes(linear_model(5, 4, normalize=True)))


def test_prototypes_learn_which_features_tell_classes_apart(linear_model, episode, train, accuracy):
    """With 12 numbers of noise beside the 4 that count, learned features err a fifth as often as random ones."""
    sample = functools.partial(episode, tasks=8, ways=5, shots=1, queries=5, noise=0.2, distractors=12)
    method = prototypes(linear_model(16, 8))
    test = episode(torch.Generator().manual_seed(1), tasks=100, ways=5, shots=1, queries=5, noise=0.2, distractors=12)
    before = accuracy(method, method.init(torch.Generator().manual_seed(11)), test, 5)
    after = accuracy(method, train(method, sample, ways=5, iterations=200, step_size=0.02), test, 5)
    assert 1.0 - after < 0.2 * (1.0 - before)

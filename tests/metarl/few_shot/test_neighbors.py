"""The nearest support example decides."""

from __future__ import annotations

import torch
from torch import tensor
from torch.testing import assert_close

from metarl.few_shot.comparing import estimate, pixels
from metarl.few_shot.neighbors import neighbors
from metarl.types import Meta


def test_logits_are_minus_the_distance_to_the_nearest_of_each_class(examples):
    """The query at (3, 4) lies 5 from the origin, 1 from (3, 3) and 12 from (15, 4)."""
    support = examples(tensor([[[0.0, 0.0], [15.0, 4.0], [3.0, 3.0]]]), tensor([[1, 0, 1]]))
    got = neighbors(pixels(2)).logits({}, support, tensor([[[3.0, 4.0], [0.0, 0.0]]]), 2)
    assert_close(got, tensor([[[-12.0, -1.0], [-(241.0**0.5), 0.0]]]))


def test_pixels_of_pictures_are_compared_in_all_their_places(examples):
    pictures = torch.eye(4).view(1, 4, 1, 2, 2)
    got = neighbors(pixels(4)).logits({}, examples(pictures, torch.arange(4).view(1, 4)), pictures, 4)
    assert_close(got, (torch.eye(4) - 1.0).view(1, 4, 4) * 2.0**0.5)


def test_distances_of_distant_examples_keep_their_digits(examples):
    """In products of float32 numbers, 1 would be lost beside the square of 10 000."""
    support = examples(tensor([[[1e4], [1e4 + 3.0]]]).expand(30, 2, 1), tensor([[0, 1]]).expand(30, 2))
    got = neighbors(pixels(1)).logits({}, support, torch.full((30, 40, 1), 1e4 + 1.0), 2)
    assert_close(got, tensor([-1.0, -2.0]).expand(30, 40, 2), rtol=0.0, atol=0.0)


def test_neighbors_in_features_are_those_of_given_parameters(linear_model, examples):
    """A weight of 0 hides the second number, by which class 1 is nearer; a pretrained head does no harm."""
    method = neighbors(linear_model(2, 1))
    support = examples(tensor([[[0.0, 9.0], [2.0, 0.0]]]), tensor([[0, 1]]))
    query = tensor([[[0.5, 0.0]]])
    theta = {"weight": tensor([[2.0], [0.0]]), "last": torch.zeros(1, 2)}
    assert_close(method.logits(theta, support, query, 2), tensor([[[-1.0, -3.0]]]))
    assert method.logits({"weight": tensor([[1.0], [1.0]])}, support, query, 2).argmax(-1).item() == 1


def test_neighbors_train_nothing_in_pixels(double_episode):
    assert estimate(neighbors(pixels(5)), Meta({}, {}, {}), *double_episode, 3)[0] == {}


def test_renaming_classes_renames_the_logits(double_episode):
    method, (support, query) = neighbors(pixels(5)), double_episode
    names = tensor([2, 0, 1])
    renamed = method.logits({}, support._replace(targets=names[support.targets]), query.inputs, 3)
    assert_close(renamed[..., names], method.logits({}, support, query.inputs, 3))

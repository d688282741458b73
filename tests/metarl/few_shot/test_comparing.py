"""What all learners that compare have in common."""

from __future__ import annotations

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.few_shot.comparing import class_means, cross_entropies, embed, estimate, pixels, predict
from metarl.few_shot.prototypes import prototypes
from metarl.types import Meta

NOTHING = Meta({}, {}, {})


def test_class_means_weigh_each_example_of_a_class_alike():
    values = tensor([[[0.0, 2.0], [4.0, 1.0], [1.0, 4.0]]])
    got = class_means(values, tensor([[1, 0, 1]]), 2)
    assert_close(got, tensor([[[4.0, 1.0], [0.5, 3.0]]]))


def test_cross_entropies_are_means_within_a_task():
    """Even odds cost log 2 and odds of 3 to 1 log 4/3."""
    logits = torch.log(tensor([[[1.0, 1.0], [3.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    got = cross_entropies(logits, tensor([[0, 0], [1, 0]]))
    assert_close(got, torch.log(tensor([(2.0 * 4.0 / 3.0) ** 0.5, 2.0])))


def test_support_and_queries_share_their_statistics(linear_model):
    model = linear_model(5, 4, normalize=True)
    generator = torch.Generator().manual_seed(0)
    theta, inputs = model.init(generator), torch.randn(2, 6, 5, generator=generator)
    support, queries = embed(model, theta, inputs[:, :2], inputs[:, 2:])
    together = torch.cat([support, queries], 1)
    assert_close(together.mean(1), torch.zeros(2, 4))
    assert_close(together.std(1), torch.ones(2, 4))


@pytest.mark.parametrize("tasks_at_once", [1, 5, 64])
def test_a_query_answered_alone_knows_nothing_of_the_others(
    linear_model, double_init, double_episode, monkeypatch, tasks_at_once
):
    monkeypatch.setattr("metarl.few_shot.comparing._TASKS_AT_ONCE", tasks_at_once)
    method = prototypes(linear_model(5, 4, normalize=True))
    meta, (support, query) = double_init(method), double_episode
    alone = predict(method, meta, support, query.inputs, 3, False)
    for index in range(query.inputs.shape[1]):
        expected = method.logits(meta.theta, support, query.inputs[:, index : index + 1], 3)
        assert_close(alone[:, index : index + 1], expected)
    together = predict(method, meta, support, query.inputs, 3, True)
    assert_close(together, method.logits(meta.theta, support, query.inputs, 3))
    assert (together - alone).abs().max() > 0.01


def test_the_estimate_leaves_theta_as_it_was(linear_model, double_init, double_episode):
    method = prototypes(linear_model(5, 4))
    meta = double_init(method)
    before = {name: value.clone() for name, value in meta.theta.items()}
    gradient, _, losses = estimate(method, meta, *double_episode, 3)
    assert_close(meta.theta, before, rtol=0.0, atol=0.0)
    assert not any(value.requires_grad for value in (*meta.theta.values(), *gradient.values(), losses))


def test_a_method_without_parameters_has_a_loss_and_no_gradient(double_episode):
    gradient, _, losses = estimate(prototypes(pixels(5)), NOTHING, *double_episode, 3)
    assert gradient == {}
    assert losses.shape == (3,)


def test_the_head_of_a_model_is_not_trained(linear_model):
    assert prototypes(linear_model(5, 4)).init(torch.Generator().manual_seed(0)).theta.keys() == {"weight"}


def test_pixels_are_all_numbers_of_an_input_in_a_row():
    assert_close(pixels(4).features({}, torch.arange(8.0).view(1, 2, 2, 2)), torch.arange(8.0).view(1, 2, 4))

"""Attention by cosine: by hand, in the context of the whole support, and learned."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.few_shot.comparing import ComparingMethod, pixels
from metarl.few_shot.matching import MatchingConfig, attention, embed_queries, embed_support, matching
from metarl.few_shot.recurrent import lstm_init
from metarl.models import Model
from metarl.types import Params

PLAIN = functools.partial(matching, config=MatchingConfig(), full_context=False)
FULL = functools.partial(matching, config=MatchingConfig(processing_steps=2), full_context=True)
both = pytest.mark.parametrize("make", [PLAIN, FULL], ids=["plain", "full_context"])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_attention_is_the_softmax_of_scaled_cosines(scale):
    """The query (2, 0) stands at cosines 1, 0 and -1 to the support, however long that is."""
    got = attention(tensor([[[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]]]), tensor([[[2.0, 0.0]]]), scale)
    weights = tensor([math.exp(scale), 1.0, math.exp(-scale)])
    assert_close(got, (weights / weights.sum()).view(1, 1, 3))


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_a_class_is_as_likely_as_the_attention_on_its_examples(examples, scale):
    support = examples(tensor([[[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]]]), tensor([[1, 0, 1]]))
    method = matching(pixels(2), MatchingConfig(scale=scale), full_context=False)
    got = method.logits({}, support, tensor([[[2.0, 0.0]]]), 2)
    near, far = math.exp(scale), math.exp(-scale)
    total = near + 1.0 + far
    assert_close(got.exp(), tensor([[[1.0 / total, (near + far) / total]]]))


@pytest.mark.parametrize("scale", [0.0, -1.0, 41.0, math.nan])
def test_a_scale_without_sense_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be positive and at most 40"):
        MatchingConfig(scale=scale)


def still_cells(size: int) -> Params:
    """Context cells with all weights 0, which say nothing: their candidates are 0."""
    params: Params = {}
    for prefix, inputs in (("context/forward", size), ("context/backward", size), ("context/read", 2 * size)):
        fresh = lstm_init(inputs, size, torch.Generator(), prefix=prefix)
        params |= {name: torch.zeros_like(value) for name, value in fresh.items()}
    return params


def test_cells_that_say_nothing_leave_the_features_as_they_are():
    """By the skip connections of both embeddings."""
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    params = still_cells(4)
    assert_close(embed_support(params, features), features)
    assert_close(embed_queries(params, features, features, 3), features)


def test_the_support_is_embedded_by_both_directions_and_a_skip():
    """Cells that ignore all but a bias of the candidate: after one step tanh(tanh(b) / 2) / 2, after two with half the
    cell kept; one direction ends where the other begins."""
    params, bias = still_cells(1), 0.8
    params["context/forward/bias"] = tensor([0.0, 0.0, bias, 0.0])
    params["context/backward/bias"] = tensor([0.0, 0.0, -bias, 0.0])
    once, twice = 0.5 * math.tanh(0.5 * math.tanh(bias)), 0.5 * math.tanh(0.75 * math.tanh(bias))
    got = embed_support(params, tensor([[[10.0], [20.0]]]))
    assert_close(got, tensor([[[10.0 + once - twice], [20.0 + twice - once]]]))


def test_queries_read_the_support_by_content_before_every_step():
    """Only the read enters the candidate: first the mean of the support, then what the hidden state attends to."""
    params = still_cells(1)
    params["context/read/weight"][1, 2] = 1.0
    support, feature = (1.0, 3.0), 0.4
    cell = 0.5 * math.tanh(2.0)
    hidden = 0.5 * math.tanh(cell) + feature
    weights = [math.exp(hidden * value) for value in support]
    read = (weights[0] * support[0] + weights[1] * support[1]) / sum(weights)
    cell = 0.5 * cell + 0.5 * math.tanh(read)
    got = embed_queries(params, tensor(support).view(1, 2, 1), tensor([[[feature]]]), 2)
    assert_close(got, tensor([[[0.5 * math.tanh(cell) + feature]]]))


@both
def test_neither_the_order_of_the_support_nor_of_the_tasks_matters(linear_model, double_init, double_episode, make):
    method = make(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    expected = method.logits(theta, support, query.inputs, 3)
    order, others = tensor([5, 3, 0, 1, 4, 2]), tensor([2, 0, 1])
    turned = support._replace(inputs=support.inputs[others][:, order], targets=support.targets[others][:, order])
    assert_close(method.logits(theta, turned, query.inputs[others], 3), expected[others])


@both
def test_renaming_classes_renames_the_logits(linear_model, double_init, double_episode, make):
    method = make(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    names = tensor([2, 0, 1])
    renamed = method.logits(theta, support._replace(targets=names[support.targets]), query.inputs, 3)
    assert_close(renamed[..., names], method.logits(theta, support, query.inputs, 3))


def test_in_full_context_a_query_does_not_know_the_other_queries(linear_model, double_init, double_episode):
    method = FULL(linear_model(5, 4))
    theta, (support, query) = double_init(method).theta, double_episode
    together = method.logits(theta, support, query.inputs, 3)
    assert_close(method.logits(theta, support, query.inputs[:, 2:3], 3), together[:, 2:3])


def test_full_context_lets_the_rest_of_the_support_change_an_answer(linear_model, double_init, double_episode):
    """Moving one example of class 0 changes how the attention on classes 1 and 2 compares; plain cosines do not."""

    def odds(make: Callable[[Model], ComparingMethod], shift: float) -> torch.Tensor:
        method = make(linear_model(5, 4))
        support, query = double_episode
        moved = support.inputs + shift * (torch.arange(6) == support.targets.eq(0)[0].int().argmax()).view(1, 6, 1)
        logits = method.logits(double_init(method).theta, support._replace(inputs=moved), query.inputs, 3)
        return logits[..., 1] - logits[..., 2]

    assert_close(odds(PLAIN, 0.0), odds(PLAIN, 0.5))
    assert (odds(FULL, 0.0) - odds(FULL, 0.5)).abs().max() > 1e-3


@both
def test_gradients_equal_finite_differences(linear_model, assert_differentiable, make):
    assert_differentiable(make(linear_model(5, 4, normalize=True)))


@both
def test_matching_networks_learn_which_features_tell_classes_apart(linear_model, episode, train, accuracy, make):
    """With 12 numbers of noise beside the 4 that count, errors fall to less than a third."""
    sample = functools.partial(episode, tasks=8, ways=5, shots=1, queries=5, noise=0.2, distractors=12)
    method = make(linear_model(16, 8))
    test = sample(torch.Generator().manual_seed(1))
    before = accuracy(method, method.init(torch.Generator().manual_seed(11)), test, 5)
    after = accuracy(method, train(method, sample, ways=5, iterations=200, step_size=0.02), test, 5)
    assert 1.0 - after < (1.0 - before) / 3.0


def test_no_processing_steps_are_refused():
    with pytest.raises(ValueError, match="processing_steps must be at least 1, got 0"):
        MatchingConfig(processing_steps=0)

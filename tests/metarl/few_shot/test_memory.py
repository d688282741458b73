"""Least-recently-used access by hand, sequences, and learning to remember."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.few_shot.comparing import pixels, predict
from metarl.few_shot.memory import Memory, MemoryConfig, access, answer, least_used, memory_network, run, similarities
from metarl.few_shot.recurrent import shuffle
from metarl.types import Examples

SMALL = MemoryConfig(slots=5, width=3, controller_size=4, heads=2)


def test_the_least_used_rows_are_marked_one_for_each_head():
    """Usages 0.3, 0.1, 0.2 and 0.1: of two alike, the first."""
    got = least_used(tensor([[0.3, 0.1, 0.2, 0.1]]), 3)
    assert_close(got, tensor([[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]]))


def test_similarities_are_cosines_and_0_for_empty_rows():
    got = similarities(tensor([[[3.0, 4.0]]]), tensor([[[0.0, 0.5], [-30.0, -40.0], [0.0, 0.0]]]))
    assert_close(got, tensor([[[0.8, -1.0, 0.0]]]))


def test_a_write_goes_where_memory_was_read_and_to_the_cleared_least_used_row():
    """A gate of 1/4 makes write weights 0.15, 0.825 and 0.025 of read weights 0.6, 0.3 and 0.1, row 1 being unused."""
    memory = Memory(tensor([[[1.0], [5.0], [2.0]]]), tensor([[[0.6, 0.3, 0.1]]]), tensor([[0.3, 0.1, 0.2]]))
    after, read = access(memory, tensor([[[2.0]]]), tensor([[[0.25]]]), 0.5)
    rows = [1.0 + 0.15 * 2.0, 0.0 + 0.825 * 2.0, 2.0 + 0.025 * 2.0]
    assert_close(after.rows, tensor(rows).view(1, 3, 1))
    assert_close(after.reading, torch.full((1, 1, 3), 1.0 / 3.0))  # in one dimension all cosines are 1
    assert_close(read, tensor([[[sum(rows) / 3.0]]]))
    used = [0.5 * 0.3 + 1.0 / 3.0 + 0.15, 0.5 * 0.1 + 1.0 / 3.0 + 0.825, 0.5 * 0.2 + 1.0 / 3.0 + 0.025]
    assert_close(after.usage, tensor([used]))


def test_every_head_writes_its_key_to_a_row_of_its_own():
    """Gates of 0 write keys whole; what was read is then weighed by the softmax of cosines 1, 0 and 0."""
    memory = Memory(torch.zeros(1, 3, 2), torch.zeros(1, 2, 3), torch.zeros(1, 3))
    after, read = access(memory, tensor([[[2.0, 0.0], [0.0, 0.5]]]), torch.zeros(1, 2, 1), 1.0)
    assert_close(after.rows, tensor([[[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]]]))
    most, rest = math.e / (math.e + 2.0), 1.0 / (math.e + 2.0)
    assert_close(after.reading, tensor([[[most, rest, rest], [rest, most, rest]]]))
    assert_close(read, tensor([[[2.0 * most, 0.5 * rest], [2.0 * rest, 0.5 * most]]]))


def sequence(count: int) -> tuple[Tensor, Tensor]:
    """Features and classes of two sequences in float64."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(3, (2, count), generator=generator)
    features = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    return features, torch.nn.functional.one_hot(targets, 3).double()


def test_an_example_is_told_the_class_of_the_one_before_and_never_its_own(double_init):
    theta = double_init(memory_network(pixels(5), 3, SMALL)).theta
    features, classes = sequence(6)
    _, before = run(theta, SMALL, features, classes)
    changed = classes.clone()
    changed[:, 3] = classes[:, 3].roll(1, -1)
    _, after = run(theta, SMALL, features, changed)
    assert_close(after[:, :4], before[:, :4], rtol=0.0, atol=0.0)
    assert (after[:, 4] - before[:, 4]).abs().min() > 1e-9


def test_a_query_is_answered_as_the_next_example_of_the_sequence(double_init):
    """Whatever is asked beside it, and even if the same is asked twice."""
    theta = double_init(memory_network(pixels(5), 3, SMALL)).theta
    features, classes = sequence(6)
    state, _ = run(theta, SMALL, features[:, :4], classes[:, :4])
    asked = features[:, [4, 5, 4]]
    got = answer(theta, SMALL, state, asked, classes[:, 3])
    for place in range(3):
        longer = torch.cat([features[:, :4], asked[:, place : place + 1]], 1)
        _, expected = run(theta, SMALL, longer, classes[:, :5])
        assert_close(got[:, place], expected[:, 4])


def test_the_loss_is_the_mean_over_the_whole_shuffled_sequence(double_init, double_episode):
    method = memory_network(pixels(5), 3, SMALL)
    theta, (support, query) = double_init(method).theta, double_episode
    inputs = torch.cat([support.inputs, query.inputs], 1)
    targets = torch.cat([support.targets, query.targets], 1)
    whole = shuffle(Examples(inputs, targets, support.labels))
    _, logits = run(theta, SMALL, whole.inputs, torch.nn.functional.one_hot(whole.targets, 3).double())
    expected = [torch.nn.functional.cross_entropy(*task) for task in zip(logits, whole.targets, strict=True)]
    assert_close(method.loss(theta, support, query, 3), torch.stack(expected))


def test_neither_the_order_given_nor_that_of_the_tasks_matters(double_init, double_episode):
    method = memory_network(pixels(5), 3, SMALL)
    theta, (support, query) = double_init(method).theta, double_episode
    order, others = tensor([5, 3, 0, 1, 4, 2]), tensor([2, 0, 1])
    turned = support._replace(inputs=support.inputs[others][:, order], targets=support.targets[others][:, order])
    expected = method.logits(theta, support, query.inputs, 3)
    assert_close(method.logits(theta, turned, query.inputs[others], 3), expected[others])


def test_pixels_give_the_same_answers_alone_and_together(double_init, double_episode):
    method = memory_network(pixels(5), 3, SMALL)
    meta, (support, query) = double_init(method), double_episode
    alone = predict(method, meta, support, query.inputs, 3, False)
    assert_close(alone, predict(method, meta, support, query.inputs, 3, True))


@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_equal_finite_differences(linear_model, assert_differentiable, normalize):
    assert_differentiable(memory_network(linear_model(5, 4, normalize=normalize), 3, SMALL))


def test_a_memory_learns_to_bind_classes_to_what_it_saw_once(episode, train, accuracy):
    """Which of two classes is which changes from task to task, so that without binding half the answers are wrong."""
    sample = functools.partial(episode, tasks=32, ways=2, shots=1, queries=3, noise=0.1, distractors=0)
    method = memory_network(pixels(4), 2, MemoryConfig(slots=8, width=16, controller_size=64, heads=1))
    meta = train(method, sample, ways=2, iterations=250, step_size=0.01)
    test = episode(torch.Generator().manual_seed(1), tasks=300, ways=2, shots=1, queries=3, noise=0.1, distractors=0)
    got = accuracy(method, meta, test, 2)
    assert got > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "memory slots must be at least 1, got 0"),
        ({"heads": 9, "slots": 8}, "got 9 heads and 8 slots"),
        ({"usage_decay": 1.5}, r"usage_decay must lie in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**options)

"""Arithmetic on parameter dicts, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.trees import (
    add_scaled,
    concatenate,
    dot,
    expand,
    finite_tasks,
    gradients,
    heaviest_steps,
    is_finite,
    leaves,
    mean_of_sums,
    scale,
    split_examples,
    split_tasks,
    stride_steps,
    take,
    take_tasks,
    to_numpy,
)
from metarl.types import Examples, Rollouts, TaskData

FIRST = {"a": tensor([1.0, 2.0]), "b": tensor([[3.0]])}
SECOND = {"a": tensor([10.0, 20.0]), "b": tensor([[30.0]])}


def rollouts(tasks: int, episodes: int, steps: int, actions: int = 1) -> Rollouts:
    """Every field counts up, so that each entry is known by its value."""

    def count(*shape: int) -> torch.Tensor:
        return torch.arange(math.prod(shape), dtype=torch.float64).view(shape)

    lead = (tasks, episodes, steps)
    return Rollouts(
        observations=count(*lead, 3),
        actions=count(*lead, actions),
        rewards=count(*lead),
        mask=torch.ones(lead, dtype=torch.float64),
        log_probs=count(*lead),
        advantages=count(*lead),
        behavior={"mean": count(tasks, episodes * steps, actions), "log_std": count(tasks, 1, actions)},
    )


def test_dot_sums_over_all_leaves():
    """10 + 40 + 90."""
    assert dot(FIRST, SECOND) == 140.0


def test_add_scaled_and_scale_work_leaf_by_leaf():
    assert_close(add_scaled(FIRST, SECOND, -0.5), {"a": tensor([-4.0, -8.0]), "b": tensor([[-12.0]])})
    assert_close(scale(FIRST, tensor(2.0)), {"a": tensor([2.0, 4.0]), "b": tensor([[6.0]])})


def test_expanded_parameters_share_the_storage_of_the_initialization():
    expanded = expand(FIRST, 4)
    assert expanded["a"].shape == (4, 2)
    assert expanded["a"].data_ptr() == FIRST["a"].data_ptr()


def test_mean_of_sums_divides_by_tasks_not_by_groups():
    """Sums over groups of 2 and 1 tasks, 3 tasks: (1 + 5) / 3."""
    assert_close(mean_of_sums([{"x": tensor(1.0)}, {"x": tensor(5.0)}], 3), {"x": tensor(2.0)})


def test_gradient_of_an_unused_parameter_is_zero():
    point = leaves(FIRST)
    found = gradients(point["a"].square().sum(), point)
    assert_close(found, {"a": tensor([2.0, 4.0]), "b": tensor([[0.0]])})


def test_gradients_with_weights_are_a_vector_jacobian_product():
    """d(w . a^2) = 2 w a."""
    point = leaves({"a": FIRST["a"]})
    found = gradients({"y": point["a"].square()}, point, weights={"y": tensor([1.0, -3.0])})
    assert_close(found, {"a": tensor([2.0, -12.0])})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_makes_parameters_not_finite(bad):
    assert is_finite(FIRST)
    assert not is_finite(FIRST | {"b": tensor([[bad]])})


def test_taking_and_concatenating_groups_gives_the_parameters_back():
    params = {"w": torch.arange(15.0).view(5, 3)}
    groups = [take(params, slice(start, start + 2)) for start in range(0, 5, 2)]
    assert [len(group["w"]) for group in groups] == [2, 2, 1]
    assert torch.equal(concatenate(groups)["w"], params["w"])


def test_arrays_are_contiguous_also_from_views():
    array = to_numpy({"w": torch.arange(6.0).view(2, 3).T})["w"]
    assert array.flags["C_CONTIGUOUS"]
    assert np.array_equal(array, [[0, 3], [1, 4], [2, 5]])


def test_taking_tasks_takes_them_of_every_field():
    batch = rollouts(3, 2, 4)
    one = take_tasks(batch, slice(1, 2))
    assert all(field.shape[0] == 1 for field in (*one[:6], *one.behavior.values()))
    assert torch.equal(one.behavior["mean"], batch.behavior["mean"][1:2])


def test_tasks_are_split_into_groups_of_at_most_the_size():
    batch = rollouts(5, 1, 2)
    groups = split_tasks(TaskData((batch, batch), batch), 2)
    assert [len(group.query.rewards) for group in groups] == [2, 2, 1]
    assert [len(group.support) for group in groups] == [2, 2, 2]
    assert torch.equal(torch.cat([group.support[1].rewards for group in groups]), batch.rewards)


def test_a_stride_keeps_the_same_steps_of_every_field():
    """Steps 0, 2 and 4 of 5."""
    batch = rollouts(2, 3, 5, actions=2)
    thin = stride_steps(batch, 2)
    kept = [0, 2, 4]
    for field in ("observations", "actions", "rewards", "mask", "log_probs", "advantages"):
        assert torch.equal(getattr(thin, field), getattr(batch, field)[:, :, kept]), field
    mean = batch.behavior["mean"].view(2, 3, 5, 2)[:, :, kept].reshape(2, 9, 2)
    assert torch.equal(thin.behavior["mean"], mean)
    assert torch.equal(thin.behavior["log_std"], batch.behavior["log_std"])


@pytest.mark.parametrize(("episodes", "steps", "actions"), [(1, 4, 4), (1, 1, 1), (2, 2, 2), (4, 4, 4), (2, 1, 1)])
def test_a_stride_leaves_the_deviation_alone_whatever_the_sizes(episodes, steps, actions):
    """One episode with as many steps as actions must not be mistaken for a field with a time axis."""
    batch = rollouts(2, episodes, steps, actions)
    thin = stride_steps(batch, 2)
    assert torch.equal(thin.behavior["log_std"], batch.behavior["log_std"])
    mean = batch.behavior["mean"].view(2, episodes, steps, actions)[:, :, ::2].flatten(1, 2)
    assert torch.equal(thin.behavior["mean"], mean)


def test_the_heaviest_steps_are_those_with_the_greatest_advantages_at_the_weight_they_had():
    """Of four steps that count, -4 and 3 stay, each with a quarter of the weight: 1/2 of a mean of two."""
    batch = rollouts(1, 1, 5, actions=2)
    batch = batch._replace(
        advantages=torch.tensor([[[1.0, -4.0, 3.0, 0.5, 9.0]]]), mask=torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]])
    )
    part = heaviest_steps(batch, 0.4)
    assert torch.equal(part.advantages, torch.tensor([[[-2.0, 1.5]]]))
    assert torch.equal(part.observations, batch.observations[:, :, 1:3])
    assert torch.equal(part.behavior["mean"], batch.behavior["mean"][:, 1:3])
    assert torch.equal(part.behavior["log_std"], batch.behavior["log_std"])


def test_groups_of_examples_keep_each_tasks_credit():
    batch = Examples(torch.arange(5.0).view(5, 1, 1), torch.zeros(5, 1, dtype=torch.int64), torch.zeros(5, 0))
    for credit in (torch.arange(5.0), None):
        groups = split_examples(TaskData((batch,), batch, credit), 2)
        assert [len(group.query.inputs) for group in groups] == [2, 2, 1]
        for group in groups:
            assert group.credit is None if credit is None else torch.equal(group.credit, group.query.inputs[:, 0, 0])


def test_a_task_with_a_number_that_is_not_finite_is_found():
    params = {"a": torch.ones(3, 2), "b": torch.ones(3, 2, 2)}
    params["b"][1, 0, 1], params["a"][2, 0] = torch.inf, torch.nan
    assert finite_tasks(params).tolist() == [True, False, False]

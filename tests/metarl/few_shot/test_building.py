"""The parts that few-shot learners are put together from."""

from __future__ import annotations

import pytest
import torch

from metarl.algorithms import UnsuitableAlgorithm
from metarl.few_shot.building import make_model, multi_step_weights
from metarl.few_shot.config import FewShotConfig, NetConfig


@pytest.mark.parametrize(
    ("steps", "done", "weights"),
    [
        (4, 0.0, [0.25, 0.25, 0.25, 0.25]),
        (4, 0.5, [0.125, 0.125, 0.125, 0.625]),
        (4, 1.0, [0.0, 0.0, 0.0, 1.0]),
        (4, 7.0, [0.0, 0.0, 0.0, 1.0]),
        (1, 0.0, [1.0]),
    ],
)
def test_the_weights_of_the_multi_step_loss_fall_towards_the_last_step_by_hand(steps, done, weights):
    assert multi_step_weights(steps, done) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("shape", "net", "features", "leaves"),
    [
        ((3,), NetConfig(), 40, {"weight_0": (3, 40), "weight_2": (40, 3)}),
        ((2, 3), NetConfig(hidden=()), 6, {"weight_0": (6, 3)}),
        ((1, 28, 28), NetConfig(), 64, {"weight_0": (3, 3, 1, 64), "weight_4": (64, 3)}),
        ((3, 84, 84), NetConfig(), 800, {"weight_0": (3, 3, 3, 32), "weight_4": (800, 3)}),
        ((3, 32, 33), NetConfig(filters=8), 8 * 2 * 2, {"weight_0": (3, 3, 3, 8)}),
        ((1, 28, 28), NetConfig(form="mlp", hidden=(7,), batch_norm=True), 7, {"weight_0": (784, 7), "scale_0": (7,)}),
        ((1, 28, 28), NetConfig(form="pooled", filters=5), 5, {"weight_4": (5, 3)}),
    ],
)
def test_a_network_has_the_form_of_the_inputs_or_the_one_asked_for(blobs, shape, net, features, leaves):
    model = make_model(blobs(input_shape=shape), FewShotConfig(net=net))
    theta = model.init(torch.Generator())
    assert model.feature_size == features
    assert {name: tuple(theta[name].shape) for name in leaves} == leaves


def test_images_are_asked_for_where_a_network_needs_them(blobs):
    with pytest.raises(UnsuitableAlgorithm, match=r"net form strided needs images .* got inputs of shape \(4,\)"):
        make_model(blobs(), FewShotConfig(net=NetConfig(form="strided")))

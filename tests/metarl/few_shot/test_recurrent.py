"""The LSTM against torch's own, and the order of sequences."""

from __future__ import annotations

import torch
from torch import tensor
from torch.testing import assert_close

from metarl.few_shot.recurrent import LstmState, lstm, lstm_init, lstm_step, shuffle
from metarl.types import Examples

PARAMS = lstm_init(3, 4, torch.Generator().manual_seed(0), prefix="cell")


def give_weights(cell: torch.nn.LSTMCell | torch.nn.LSTM, suffix: str) -> None:
    """Gives torch's module the same weights; its second bias is redundant."""
    weight, bias = PARAMS["cell/weight"].T, PARAMS["cell/bias"]
    values = {"weight_ih": weight[:, :3], "weight_hh": weight[:, 3:], "bias_ih": bias, "bias_hh": torch.zeros(16)}
    cell.load_state_dict({f"{name}{suffix}": value for name, value in values.items()})


def test_a_step_equals_torchs_cell():
    reference = torch.nn.LSTMCell(3, 4)
    give_weights(reference, "")
    inputs, hidden, cell = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)).unbind()
    found = lstm_step(PARAMS, "cell", inputs[:, :3], LstmState(hidden, cell))
    assert_close(tuple(found), reference(inputs[:, :3], (hidden, cell)))


def test_a_sequence_equals_torchs_in_both_directions():
    reference = torch.nn.LSTM(3, 4, batch_first=True)
    give_weights(reference, "_l0")
    inputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    assert_close(lstm(PARAMS, "cell", inputs), reference(inputs)[0])
    assert_close(lstm(PARAMS, "cell", inputs, backward=True), reference(inputs.flip(1))[0].flip(1))


def test_a_shuffled_sequence_does_not_depend_on_the_order_given():
    generator = torch.Generator().manual_seed(2)
    given = Examples(torch.rand(3, 20, 2, 2, generator=generator), torch.arange(20).expand(3, -1), torch.empty(3, 0))
    order = torch.randperm(20, generator=generator)
    other = given._replace(inputs=given.inputs[:, order], targets=given.targets[:, order])
    first, second = shuffle(given), shuffle(other)
    assert_close(first.inputs, second.inputs, rtol=0.0, atol=0.0)
    assert torch.equal(first.targets, second.targets)
    assert torch.equal(first.targets.sort(1).values, given.targets)
    assert_close(first.inputs, given.inputs[torch.arange(3).unsqueeze(1), first.targets], rtol=0.0, atol=0.0)


def test_shuffling_takes_labels_along_where_there_are_any():
    inputs = tensor([[[0.3], [0.7], [0.1]]])
    found = shuffle(Examples(inputs, tensor([[0, 1, 2]]), tensor([[30, 70, 10]])))
    assert torch.equal(found.labels[0], (100.0 * found.inputs[0, :, 0]).round().long())


def test_likeness_of_examples_does_not_show_in_the_order():
    """Of two classes far apart, neighbors in a random order of 10 + 10 are of one class 9 times in 19."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(2).repeat_interleave(10).expand(500, -1)
    inputs = targets.unsqueeze(-1) + 0.1 * torch.randn(500, 20, 6, generator=generator)
    found = shuffle(Examples(inputs, targets, torch.empty(500, 0))).targets
    alike = (found[:, 1:] == found[:, :-1]).double().mean()
    assert abs(float(alike) - 9.0 / 19.0) < 0.02
    assert abs(float(found[:, 0].double().mean()) - 0.5) < 0.07


def test_binary_pictures_are_shuffled_well_too():
    """Every picture is as often first as another; 4 standard deviations of 1000 draws from 4 are 0.055."""
    generator = torch.Generator().manual_seed(4)
    pictures = (torch.rand(1000, 4, 28, 28, generator=generator) < 0.1).float()
    first = shuffle(Examples(pictures, torch.arange(4).expand(1000, -1), torch.empty(1000, 0))).targets[:, 0]
    assert ((first.bincount() / 1000.0 - 0.25).abs() < 0.055).all()

"""Networks of few-shot learners: features and a head, of many tasks at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from metarl import conv
from metarl.nets import mlp_init
from metarl.types import Params

ModelActivation = Literal["relu", "tanh", "silu", "softplus"]
ModelInitialization = Literal["fan-in", "xavier", "truncated-normal"]
ConvForm = Literal["strided", "pooled"]

_ACTIVATIONS: dict[ModelActivation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "softplus": functional.softplus,
}
_BLOCKS = 4


class Layer(NamedTuple):
    """A step of a network. What has parameters is linear in them, which gradients of single examples rest on."""

    kind: Literal["linear", "convolution", "normalization", "function"]
    """``conv.linear`` of a weight and perhaps a bias, ``conv.convolve``, ``conv.normalize``, or anything without
    parameters that treats every example alone."""
    names: tuple[str, ...]
    """Of its parameters."""
    apply: Callable[[Params, Tensor], Tensor]
    """Outputs ``[M, N, ...]``."""
    stride: int = 1
    """Of a convolution."""


class Model(NamedTuple):
    """A network as pure functions; safe under double backward in any dtype and on any device.

    Parameters lead with ``[M]``, or with ``[1]`` where all tasks share them. Normalization uses the statistics of the
    batch it is given, each task's its own.
    """

    init: Callable[[torch.Generator], Params]
    """Fresh parameters, without a task axis."""
    features: Callable[[Params, Tensor], Tensor]
    """From inputs ``[M, N, ...]`` to what the last layer sees, ``[M, N, F]``."""
    head: Callable[[Params, Tensor], Tensor]
    """From features to outputs ``[M, N, out]``."""
    head_names: tuple[str, ...]
    """The parameters of the head."""
    feature_size: int
    """F."""
    layers: tuple[Layer, ...] = ()
    """The same network step by step, from inputs to outputs, for what looks at single examples; may be left out."""

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Outputs ``[M, N, out]``."""
        return self.head(params, self.features(params, inputs))


def mlp_model(
    sizes: Sequence[int],
    *,
    activation: ModelActivation = "relu",
    batch_norm: bool = False,
    initialization: ModelInitialization = "fan-in",
) -> Model:
    """A multilayer perceptron; inputs of any shape are flattened, the last layer is the head.

    Args:
        sizes: widths from input to output; 1-40-40-1 is the regressor of Finn et al. 2017 (arXiv:1703.03400, sec. 5.1),
            784-256-128-64-64-5 with batch normalization their Omniglot network without convolutions (app. A.1).
        activation: of hidden layers.
        batch_norm: normalize every hidden layer before its activation, with learned scales, and shifts for biases.
        initialization: ``fan-in`` draws weights and biases as ``torch.nn.Linear`` does, and learns faster than
            ``truncated-normal``, which is that of Finn et al.'s code: standard deviation 0.01, cut at two of them,
            biases 0. ``xavier`` is uniform with biases 0.

    Returns:
        The model; parameters ``weight_i [in, out]`` and ``bias_i [out]``, or ``scale_i`` and ``shift_i`` for the bias.

    Raises:
        ValueError: if there are fewer than two sizes, one is not positive, or a name is unknown.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be two or more positive widths, from input to output, got {tuple(sizes)}")
    _check_choice("activation", activation, ModelActivation)
    _check_choice("initialization", initialization, ModelInitialization)
    last = len(sizes) - 2

    def init(generator: torch.Generator) -> Params:
        params = _mlp_init(sizes, initialization, generator)
        if batch_norm:
            for layer in range(last):
                bias = params.pop(f"bias_{layer}")
                params |= {f"scale_{layer}": torch.ones_like(bias), f"shift_{layer}": torch.zeros_like(bias)}
        return params

    layers = [_function(lambda hidden: hidden.flatten(2) if hidden.ndim > 2 else hidden.unsqueeze(-1))]
    for layer in range(last):
        layers.append(_linear(layer, bias=not batch_norm))
        layers += [_normalization(layer)] if batch_norm else []
        layers.append(_function(_ACTIVATIONS[activation]))
    return _model(init, layers, last, sizes[-2])


def conv_model(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    form: ConvForm = "strided",
    filters: int | None = None,
    activation: ModelActivation = "relu",
) -> Model:
    """Four blocks of 3x3 convolution, batch normalization and activation, and a linear head.

    The networks of Vinyals et al. 2016 (arXiv:1606.04080) as Finn et al. 2017 (arXiv:1703.03400, app. A.1) use them:
    ``strided`` for Omniglot, with stride 2 for pooling and the mean over what positions remain as features;
    ``pooled`` for mini-ImageNet, with 2x2 max pooling and all positions as features. Convolutions have no biases, which
    normalization would take away again. Weights are Xavier uniform, as Finn et al.'s are, scales 1, shifts and the
    head's biases 0.

    Args:
        input_shape: channels, height and width of an image; inputs are ``[M, N, channels, height, width]``.
        outputs: of the head.
        form: see above.
        filters: channels of each block; by default 64 strided, 32 pooled.
        activation: of every block.

    Returns:
        The model; parameters ``weight_i [3, 3, in, out]``, ``scale_i`` and ``shift_i [out]`` of block i, and the head's
        ``weight_4 [F, out]`` and ``bias_4 [out]``.

    Raises:
        ValueError: if a size is not positive, images are too small to be pooled four times, or a name is unknown.
    """
    filters = (64 if form == "strided" else 32) if filters is None else filters
    _check_choice("form", form, ConvForm)
    _check_choice("activation", activation, ModelActivation)
    channels, height, width = input_shape
    least = 2**_BLOCKS if form == "pooled" else 1
    if min(channels, outputs, filters) < 1 or min(height, width) < least:
        raise ValueError(
            f"a {form} network needs positive channels, outputs and filters, and at least {least} x {least} pixels, "
            f"got input_shape={tuple(input_shape)}, outputs={outputs}, filters={filters}"
        )
    feature_size = filters * (1 if form == "strided" else (height // least) * (width // least))

    def init(generator: torch.Generator) -> Params:
        return _conv_init(channels, filters, feature_size, outputs, generator)

    layers = [_function(lambda images: images.permute(0, 1, 3, 4, 2))]  # [M, N, height, width, C]
    for layer in range(_BLOCKS):
        layers += _conv_block(layer, form, activation)
    layers.append(_function(lambda hidden: hidden.mean((2, 3)) if form == "strided" else hidden.flatten(2)))
    return _model(init, layers, _BLOCKS, feature_size)


def _model(init: Callable[[torch.Generator], Params], hidden: Sequence[Layer], last: int, feature_size: int) -> Model:
    """Hidden layers and a linear head."""
    head = _linear(last)

    def features(params: Params, inputs: Tensor) -> Tensor:
        for layer in hidden:
            inputs = layer.apply(params, inputs)
        return inputs

    return Model(init, features, head.apply, head.names, feature_size, (*hidden, head))


def saved_bytes(model: Model, theta: Params, inputs: Tensor) -> int:
    """Memory that one forward pass keeps for its gradient, parameters and inputs left out.

    Args:
        model: the network.
        theta: its parameters, without a task axis.
        inputs: of one task, ``[1, N, ...]``.
    """
    phi = {name: value.detach().unsqueeze(0).requires_grad_() for name, value in theta.items()}
    given = {value.untyped_storage().data_ptr() for value in (inputs, *phi.values())}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        outputs = model(phi, inputs)
    del outputs
    return sum(kept.values())


def _conv_block(number: int, form: ConvForm, activation: ModelActivation) -> list[Layer]:
    active = _function(_ACTIVATIONS[activation])
    if form == "strided":
        return [_convolution(number, 2), _normalization(number), active]
    # pooling first is the same for what never falls, at a quarter of the work
    last = [active, _function(conv.pool)] if activation == "silu" else [_function(conv.pool), active]
    return [_convolution(number, 1), _normalization(number), *last]


def _function(function: Callable[[Tensor], Tensor]) -> Layer:
    return Layer("function", (), lambda params, hidden: function(hidden))


def _linear(number: int, *, bias: bool = True) -> Layer:
    weight, shift = f"weight_{number}", f"bias_{number}"

    def apply(params: Params, hidden: Tensor) -> Tensor:
        return conv.linear(hidden, params[weight], params[shift] if bias else None)

    return Layer("linear", (weight, shift) if bias else (weight,), apply)


def _convolution(number: int, stride: int) -> Layer:
    weight = f"weight_{number}"
    return Layer(
        "convolution", (weight,), lambda params, hidden: conv.convolve(hidden, params[weight], stride=stride), stride
    )


def _normalization(number: int) -> Layer:
    scale, shift = f"scale_{number}", f"shift_{number}"
    return Layer(
        "normalization", (scale, shift), lambda params, hidden: conv.normalize(hidden, params[scale], params[shift])
    )


def _mlp_init(sizes: Sequence[int], initialization: ModelInitialization, generator: torch.Generator) -> Params:
    if initialization != "truncated-normal":
        return mlp_init(sizes, scheme=initialization, last_layer_scale=1.0, generator=generator)
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = torch.empty(inputs, outputs)
        torch.nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02, generator=generator)
        params |= {f"weight_{layer}": weight, f"bias_{layer}": torch.zeros(outputs)}
    return params


def _conv_init(channels: int, filters: int, feature_size: int, outputs: int, generator: torch.Generator) -> Params:
    params: Params = {}
    for layer in range(_BLOCKS):
        inputs = channels if layer == 0 else filters
        bound = math.sqrt(6.0 / (9 * (inputs + filters)))
        params[f"weight_{layer}"] = (2.0 * torch.rand(3, 3, inputs, filters, generator=generator) - 1.0) * bound
        params |= {f"scale_{layer}": torch.ones(filters), f"shift_{layer}": torch.zeros(filters)}
    bound = math.sqrt(6.0 / (feature_size + outputs))
    params[f"weight_{_BLOCKS}"] = (2.0 * torch.rand(feature_size, outputs, generator=generator) - 1.0) * bound
    params[f"bias_{_BLOCKS}"] = torch.zeros(outputs)
    return params


def _check_choice(name: str, value: str, choices: object) -> None:
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")

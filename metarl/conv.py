"""Convolution, normalization and pooling of M tasks at once, channels last, safe under double backward.

A convolution is a matrix product of patches: its derivatives of every order are again matrix products of the same
patches, which are laid out once.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to variances, as ``torch.nn.BatchNorm2d`` does."""


def convolve(inputs: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """3x3 convolution of images with one pixel of zeros around them.

    Args:
        inputs: ``[M, N, height, width, in]``.
        weight: ``[M, 3, 3, in, out]``, or ``[1, 3, 3, in, out]`` for all tasks.
        stride: pixels from one position to the next.

    Returns:
        ``[M, N, ceil(height / stride), ceil(width / stride), out]``.
    """
    tasks, examples = inputs.shape[:2]
    patches = unfold(inputs.flatten(0, 1), stride)
    outputs = linear(patches.view(tasks, -1, patches.shape[-1]), weight.flatten(1, 3))
    return outputs.view(tasks, examples, *patches.shape[1:3], -1)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows ``[M, R, in]`` times weights ``[M, in, out]`` plus biases ``[M, out]``; those of all tasks lead with 1."""
    if len(weight) == 1 and len(inputs) > 1:
        rows = inputs.flatten(0, 1)
        outputs = rows @ weight[0] if bias is None else torch.addmm(bias[0], rows, weight[0])
        return outputs.view(*inputs.shape[:2], -1)
    return torch.bmm(inputs, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), inputs, weight)


def normalize(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch normalization by each task's own batch (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Args:
        inputs: ``[M, ..., C]``; statistics are over all axes between.
        scale: ``[M, C]``, or ``[1, C]`` for all tasks.
        shift: like ``scale``.

    Returns:
        Like ``inputs``; a batch of a single number per channel gives the shift.
    """
    rows = inputs.flatten(1, -2)
    centered = rows - rows.mean(1, keepdim=True)
    deviation = (centered.square().mean(1, keepdim=True) + EPSILON).rsqrt()
    return torch.addcmul(shift.unsqueeze(1), centered, deviation * scale.unsqueeze(1)).view_as(inputs)


def pool(inputs: Tensor) -> Tensor:
    """Greatest value of each 2x2 square, ``[M, N, height // 2, width // 2, C]``; an odd row or column is left out."""
    images = inputs.flatten(0, 1).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.max_pool2d(images, 2)
    return pooled.permute(0, 2, 3, 1).reshape(*inputs.shape[:2], *pooled.shape[2:], -1)


def unfold(images: Tensor, stride: int) -> Tensor:
    """3x3 patches of images ``[B, height, width, C]`` with zeros around: ``[B, height', width', 9 C]``."""
    return cast(Tensor, _Unfold.apply(images, stride))  # type: ignore[no-untyped-call]


class _Unfold(torch.autograd.Function):
    """Patches of images; the derivative of each of the two is the other."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, stride: int) -> Tensor:
        ctx.size, ctx.stride = images.shape[1:3], stride
        padded = torch.nn.functional.pad(images, (0, 0, 1, 1, 1, 1))
        windows = padded.unfold(1, 3, stride).unfold(2, 3, stride)
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Fold.apply(gradient, ctx.size, ctx.stride)), None  # type: ignore[no-untyped-call]


class _Fold(torch.autograd.Function):
    """Images whose pixels are sums over the patches that hold them."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, size: tuple[int, int], stride: int) -> Tensor:
        ctx.stride = stride
        count, down, across = patches.shape[:3]
        parts = patches.view(count, down, across, 3, 3, -1)
        # one pixel of margin on each side, and another for a stride that does not come out even
        padded = patches.new_zeros(count, size[0] + 2, size[1] + 2, parts.shape[-1])
        for row in range(3):
            for column in range(3):
                rows = slice(row, row + stride * (down - 1) + 1, stride)
                columns = slice(column, column + stride * (across - 1) + 1, stride)
                padded[:, rows, columns] += parts[:, :, :, row, column]
        return padded[:, 1:-1, 1:-1].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return unfold(gradient, ctx.stride), None, None

"""What few-shot learners need of a network: features and a head, of many tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.types import Params


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

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        """Outputs ``[M, N, out]``."""
        return self.head(params, self.features(params, inputs))

"""Observation normalization by the mean and deviation of everything seen so far.

Statistics change only between meta-iterations, so that all the data of one update was scaled alike. Rollouts hold the
scaled observations; adaptation, baseline and meta-gradient see nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from metarl.types import Params, Rollouts

_BOUND = 10.0
"""Scaled observations are clipped to this many deviations, as in OpenAI Baselines' VecNormalize."""
_LEAST_VARIANCE = 1e-8


class Scaler(NamedTuple):
    """Observations to clipped deviations from their mean."""

    mean: np.ndarray
    """``[O]``."""
    deviation: np.ndarray
    """``[O]``."""

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Scale ``[..., O]``; what is not finite becomes nan rather than the bound."""
        scaled = np.clip((observations - self.mean) / self.deviation, -_BOUND, _BOUND)
        return np.where(np.isfinite(observations), scaled, np.nan)

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """The observations ``[..., O]`` that became ``scaled``, up to clipping."""
        return np.asarray(scaled * self.deviation + self.mean)


def no_statistics(size: int) -> Params:
    """Statistics before the first observation: mean 0 and variance 1, so that nothing is scaled yet."""
    return {
        "mean": torch.zeros(size, dtype=torch.float64),
        "variance": torch.ones(size, dtype=torch.float64),
        "count": torch.zeros((), dtype=torch.float64),
    }


def make_scaler(statistics: Params) -> Scaler | None:
    """What ``statistics`` do to an observation; None where a run keeps none."""
    if not statistics:
        return None
    deviation = (statistics["variance"] + _LEAST_VARIANCE).sqrt()
    return Scaler(statistics["mean"].cpu().numpy(), deviation.cpu().numpy())


def update_statistics(statistics: Params, batches: Sequence[Rollouts]) -> Params:
    """Statistics that also count the steps of ``batches``, which were scaled by ``statistics``.

    Means and variances of parts are put together as by Chan et al. 1979 (Stanford STAN-CS-79-773, eq. 2.1).
    """
    scaler = make_scaler(statistics)
    if scaler is None:
        return statistics
    shift, factor = torch.from_numpy(scaler.mean), torch.from_numpy(scaler.deviation)
    count, mean, variance = statistics["count"], statistics["mean"], statistics["variance"]
    for batch in batches:
        for observations, mask in zip(batch.observations, batch.mask, strict=True):
            rows = observations[mask > 0.0].to(shift) * factor + shift
            if not len(rows):
                continue
            total = count + len(rows)
            distance = rows.mean(0) - mean
            spread = variance * count + rows.var(0, correction=0) * len(rows)
            variance = (spread + distance.square() * count * len(rows) / total) / total
            mean, count = mean + distance * len(rows) / total, total
    return {"mean": mean, "variance": variance, "count": count}

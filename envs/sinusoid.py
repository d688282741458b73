"""Sine curves of random amplitude and phase: regression from a few points, MAML's first experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from metarl.envs.checks import FloatArray, check_at_least, check_count, check_range, task_rows
from metarl.tasks import Episodes, register


def sine(amplitude: FloatArray, phase: FloatArray, x: FloatArray) -> FloatArray:
    """``amplitude * sin(x - phase)``, the sign of the phase as in MAML's code; shapes broadcast."""
    curve: FloatArray = amplitude * np.sin(x - phase)
    return curve


@register("sinusoid")
@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Sine curves with an amplitude and a phase of their own, to be learned from a few points.

    Task, a row of 2 + K + Q + 2 K numbers: amplitude U[0.1, 5] and phase U[0, pi] (rad); x of the K support points and
    of the Q query points, U[-5, 5]; two standard normal numbers for each support point, the noise on its target and on
    its input before it is scaled.

    Input: x, on support points plus ``input_noise`` times the row's normal number; for the oracle x, amplitude and
    phase, so that nothing is left to adapt to.

    Target: y = amplitude * sin(x - phase); on support points plus ``noise`` times the row's normal number.

    Splits: validation and test draw new curves from the same distribution, which is a continuum. From equal generators
    families that differ in ``shots``, noise or ranges get the same query points, which makes comparisons sharper.

    Sequences: the curves of one share their amplitude; their phases lie in as many equal parts of the range as there
    are tasks, one in each at the same place, in random order. So tasks disagree on most of their targets.

    Source: Finn et al. 2017 (arXiv:1703.03400, section 5.1).
    """

    shots: int = 10
    """Support points K; 5, 10 or 20 in the paper."""
    queries: int = 10
    """Query points Q."""
    amplitude_low: float = 0.1
    """Smallest amplitude."""
    amplitude_high: float = 5.0
    """Largest amplitude."""
    phase_low: float = 0.0
    """Smallest phase (rad)."""
    phase_high: float = math.pi
    """Largest phase (rad)."""
    input_low: float = -5.0
    """Smallest x."""
    input_high: float = 5.0
    """Largest x."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the targets of the support."""
    input_noise: float = 0.0
    """Standard deviation of Gaussian noise on the inputs of the support; its targets are those of the true inputs."""
    oracle: bool = False
    """Give amplitude and phase as inputs too, as the paper's upper bound does."""

    def __post_init__(self) -> None:
        check_count("shots", self.shots, 1)
        check_count("queries", self.queries, 1)
        check_range("amplitude", self.amplitude_low, self.amplitude_high)
        check_range("phase", self.phase_low, self.phase_high)
        check_range("input", self.input_low, self.input_high)
        check_at_least("noise", self.noise, 0.0)
        check_at_least("input_noise", self.input_noise, 0.0)

    @property
    def kind(self) -> Literal["regression"]:
        """Judged by the mean squared error."""
        return "regression"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """x alone, or what the oracle sees."""
        return (3,) if self.oracle else (1,)

    @property
    def outputs(self) -> int:
        """y."""
        return 1

    @property
    def training_classes(self) -> int:
        """None."""
        return 0

    def sample(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Curves and their points ``[count, 2 + K + Q + 2 K]``."""
        check_count("count", count, 1)
        amplitude = rng.uniform(self.amplitude_low, self.amplitude_high, (count, 1))
        phase = rng.uniform(self.phase_low, self.phase_high, (count, 1))
        query = rng.uniform(self.input_low, self.input_high, (count, self.queries))
        support = rng.uniform(self.input_low, self.input_high, (count, self.shots))
        noise = [rng.standard_normal((count, self.shots)) for _ in range(2)]  # the inputs' last
        return np.concatenate([amplitude, phase, support, query, *noise], axis=1)

    sample_validation = sample
    sample_test = sample

    def sequence(self, rng: np.random.Generator, count: int, length: int) -> FloatArray:
        """Sequences of curves ``[count, length, P]``."""
        check_count("count", count, 1)
        check_count("length", length, 1)
        parts = rng.permuted(np.tile(np.arange(length), (count, 1)), axis=1)
        share = (parts + rng.uniform(size=(count, 1))) / length
        tasks = self.sample_test(rng, count * length).reshape(count, length, -1)
        tasks[..., 0] = tasks[:, :1, 0]
        tasks[..., 1] = self.phase_low + (self.phase_high - self.phase_low) * share
        return tasks

    def examples(self, tasks: np.ndarray) -> Episodes:
        """Points of the curves; support inputs and targets with their noise."""
        shots = self.shots
        rows = task_rows(tasks, 2 + 3 * shots + self.queries, "amplitude, phase, x of support and query, noise")
        x = rows[:, 2 : -2 * shots]
        targets = sine(rows[:, :1], rows[:, 1:2], x)
        targets[:, :shots] += self.noise * rows[:, -2 * shots : -shots]
        inputs = np.empty((*x.shape, *self.input_shape), dtype=np.float32)
        inputs[..., 0] = x
        if self.input_noise:
            inputs[:, :shots, 0] += self.input_noise * rows[:, -shots:]
        if self.oracle:
            inputs[..., 1:] = rows[:, None, :2]
        labels = np.empty((len(rows), 0), dtype=np.int64)
        values = targets.astype(np.float32)[..., None]
        support, query = np.s_[:, :shots], np.s_[:, shots:]
        return Episodes(inputs[support], values[support], inputs[query], values[query], labels, labels)

    def variants(self) -> Mapping[str, Sinusoid]:
        """Other shots, up to the paper's, and what training never saw: larger amplitudes, other phases, noise."""
        shots = {f"{count} shot{'s' * (count > 1)}": replace(self, shots=count) for count in (1, 2, 5, 10, 20)}
        return {
            **shots,
            "amplitude 5 to 10": replace(self, amplitude_low=5.0, amplitude_high=10.0),
            "phase pi to 2 pi": replace(self, phase_low=math.pi, phase_high=2.0 * math.pi),
            "label noise 0.5": replace(self, noise=0.5),
            "input noise 0.5": replace(self, input_noise=0.5),
        }

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"{task[0]:.2f} sin(x - {task[1]:.2f}) from {self.shots} points"

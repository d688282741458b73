"""Synthetic classes, tiny models, and training in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.few_shot.comparing import ComparingMethod, predict
from metarl.few_shot.learners import ComparingLearner
from metarl.models import Model
from metarl.tasks import Episodes
from metarl.types import Examples, Meta, Params, TaskData

Episode = tuple[Examples, Examples]


def labeled(inputs: Tensor, targets: Tensor) -> Examples:
    return Examples(inputs, targets, torch.empty(len(inputs), 0, dtype=torch.int64))


@pytest.fixture
def examples() -> Callable[[Tensor, Tensor], Examples]:
    """Labeled examples without labels among all classes."""
    return labeled


def draw(
    generator: torch.Generator, *, tasks: int, ways: int, shots: int, queries: int, noise: float, distractors: int
) -> Episode:
    """Support and query of new classes: four numbers tell classes apart, the distractors are noise of unit size."""
    centers = torch.randn(tasks, ways, 1, 4, generator=generator)
    seen = centers + noise * torch.randn(tasks, ways, shots + queries, 4, generator=generator)
    aside = torch.randn(tasks, ways, shots + queries, distractors, generator=generator)
    inputs, targets = torch.cat([seen, aside], -1), torch.arange(ways).repeat_interleave(shots + queries)
    targets = targets.expand(tasks, -1).view(tasks, ways, -1)
    return (
        labeled(inputs[:, :, :shots].flatten(1, 2), targets[:, :, :shots].flatten(1, 2)),
        labeled(inputs[:, :, shots:].flatten(1, 2), targets[:, :, shots:].flatten(1, 2)),
    )


@pytest.fixture
def episode() -> Callable[..., Episode]:
    """Draws support and query of synthetic classes."""
    return draw


@pytest.fixture
def double_episode() -> Episode:
    """Three tasks of 3 classes, 2 shots and 2 queries each, in float64 and out of order."""
    generator = torch.Generator().manual_seed(3)
    support, query = draw(generator, tasks=3, ways=3, shots=2, queries=2, noise=0.5, distractors=1)
    order = torch.tensor([4, 0, 3, 5, 2, 1])
    return (
        labeled(support.inputs[:, order].double(), support.targets[:, order]),
        labeled(query.inputs[:, order].double(), query.targets[:, order]),
    )


def linear(inputs: int, outputs: int, *, normalize: bool = False) -> Model:
    """One linear layer, whose outputs each task's batch may normalize, and a head that comparing must not need."""

    def init(generator: torch.Generator) -> Params:
        scale = inputs**-0.5
        return {
            "weight": scale * torch.randn(inputs, outputs, generator=generator),
            "last": torch.randn(outputs, 2, generator=generator),
        }

    def features(params: Params, batch: Tensor) -> Tensor:
        hidden = batch @ params["weight"]
        if not normalize:
            return hidden
        return (hidden - hidden.mean(1, keepdim=True)) / hidden.std(1, keepdim=True)

    return Model(init, features, lambda params, hidden: hidden @ params["last"], ("last",), outputs)


@pytest.fixture
def linear_model() -> Callable[..., Model]:
    """Makes models of one linear layer."""
    return linear


@pytest.fixture
def double_init() -> Callable[[ComparingMethod], Meta]:
    """Fresh parameters of a method in float64."""

    def start(method: ComparingMethod) -> Meta:
        meta = method.init(torch.Generator().manual_seed(7))
        return meta._replace(theta={name: value.double() for name, value in meta.theta.items()})

    return start


@pytest.fixture
def assert_differentiable(double_init, double_episode) -> Callable[[ComparingMethod], None]:
    """Asserts that the meta-gradient is the slope of the mean loss along a direction through all of theta."""

    def check(method: ComparingMethod) -> None:
        support, query = double_episode
        meta = double_init(method)
        found = ComparingLearner(method, 3, task_chunk=2).meta_gradient(meta, TaskData((support,), query), 0)
        along = {name: torch.cos(5.0 * value + 1.0) for name, value in meta.theta.items()}

        def loss(width: float) -> float:
            moved = {name: value + width * along[name] for name, value in meta.theta.items()}
            return float(method.loss(moved, support, query, 3).mean())

        slope = sum(float((found.meta.theta[name] * along[name]).sum()) for name in along)
        assert abs(slope) > 1e-3
        assert slope == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)
        assert float(found.losses.mean()) == pytest.approx(loss(0.0), rel=1e-12)
        for name, value in found.meta.theta.items():
            assert value.shape == meta.theta[name].shape
            assert value.abs().max() > 0.0, f"nothing moves {name}"

    return check


@pytest.fixture
def train() -> Callable[..., Meta]:
    """Trains a method with Adam on episodes that ``sample`` draws."""

    def run(
        method: ComparingMethod,
        sample: Callable[[torch.Generator], Episode],
        *,
        ways: int,
        iterations: int,
        step_size: float,
    ) -> Meta:
        generator = torch.Generator().manual_seed(11)
        meta = method.init(generator)
        learner = ComparingLearner(method, ways, task_chunk=0)
        optimizer = torch.optim.Adam(list(meta.theta.values()), lr=step_size)
        for _ in range(iterations):
            support, query = sample(generator)
            gradient = learner.meta_gradient(meta, TaskData((support,), query), 0).meta.theta
            for name, value in meta.theta.items():
                value.grad = gradient[name]
            optimizer.step()
        return meta

    return run


@pytest.fixture
def accuracy() -> Callable[..., float]:
    """Fraction of queries answered right."""

    def measure(method: ComparingMethod, meta: Meta, episode: Episode, ways: int) -> float:
        support, query = episode
        answers = predict(method, meta, support, query.inputs, ways, True).argmax(-1)
        return float((answers == query.targets).double().mean())

    return measure


@dataclass(frozen=True, kw_only=True)
class Waves:
    """Sine curves of any amplitude from 1 to 4 and any phase."""

    shots: int = 10
    queries: int = 10
    oracle: bool = False
    kind: Literal["regression"] = "regression"
    outputs: int = 1
    training_classes: int = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3,) if self.oracle else (1,)

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Amplitude, phase, x."""
        points = self.shots + self.queries
        return rng.uniform([1.0, 0.0] + [-3.0] * points, [4.0, 3.0] + [3.0] * points, (count, 2 + points))

    def sample_validation(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Of phases that training does not have."""
        return self.sample(rng, count) + np.eye(2 + self.shots + self.queries)[1] * 3.0

    sample_test = sample

    def examples(self, tasks: np.ndarray) -> Episodes:
        x, targets = tasks[:, 2:], tasks[:, :1] * np.sin(tasks[:, 2:] - tasks[:, 1:2])
        inputs = np.stack([x, *np.broadcast_arrays(tasks[:, :1], tasks[:, 1:2], x)[:2]], -1)
        inputs = inputs[..., : self.input_shape[0]].astype(np.float32)
        values, labels = targets[..., None].astype(np.float32), np.empty((len(tasks), 0), np.int64)
        support, query = np.s_[:, : self.shots], np.s_[:, self.shots :]
        return Episodes(inputs[support], values[support], inputs[query], values[query], labels, labels)

    def variants(self) -> dict[str, Waves]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Blobs:
    """Three of six classes, each a cloud of points or images around a center of its own."""

    shots: int = 2
    queries: int = 3
    input_shape: tuple[int, ...] = (4,)
    noise: float = 0.3
    kind: Literal["classification"] = "classification"
    outputs: int = 3
    training_classes: int = 6

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Seeds."""
        return rng.integers(0, 2**31, (count, 1))

    sample_validation = sample_test = sample

    def examples(self, tasks: np.ndarray) -> Episodes:
        centers = np.random.default_rng(0).standard_normal((self.training_classes, 1, *self.input_shape))
        inputs, labels = [], []
        for row in tasks:
            rng = np.random.default_rng(row)
            classes = rng.permutation(self.training_classes)[: self.outputs]
            cloud = (self.outputs, self.shots + self.queries, *self.input_shape)
            inputs.append(centers[classes] + self.noise * rng.standard_normal(cloud))
            labels.append(np.repeat(classes[:, None], cloud[1], 1))
        seen, known = np.stack(inputs).astype(np.float32), np.stack(labels)
        targets = np.broadcast_to(np.arange(self.outputs)[:, None], known.shape[1:]) + np.zeros_like(known)
        parts = [array[:, :, part] for part in (np.s_[: self.shots], np.s_[self.shots :]) for array in (seen, targets)]
        names = [known[:, :, : self.shots], known[:, :, self.shots :]]
        return Episodes(
            *(np.ascontiguousarray(array.reshape(len(tasks), -1, *array.shape[3:])) for array in (*parts, *names))
        )

    def variants(self) -> dict[str, Blobs]:
        return {}


@pytest.fixture
def waves() -> type[Waves]:
    """A family of regression."""
    return Waves


@pytest.fixture
def blobs() -> type[Blobs]:
    """A family of classification."""
    return Blobs


def in_double(value: Any) -> Any:
    """Whatever holds tensors, with those of floats in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: in_double(each) for name, each in value.items()}
    return type(value)(*map(in_double, value)) if hasattr(value, "_fields") else tuple(map(in_double, value))


@pytest.fixture
def double() -> Callable[[Any], Any]:
    """Puts ``Meta`` and ``TaskData`` in float64."""
    return in_double

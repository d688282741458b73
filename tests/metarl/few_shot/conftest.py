"""Synthetic classes, tiny models, and training in a few seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metarl.few_shot.comparing import ComparingMethod, meta_gradient, predict
from metarl.models import Model
from metarl.types import Examples, Meta, Params

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
        found = meta_gradient(method, meta, support, query, 3)
        along = {name: torch.cos(5.0 * value + 1.0) for name, value in meta.theta.items()}

        def loss(width: float) -> float:
            moved = {name: value + width * along[name] for name, value in meta.theta.items()}
            return float(method.loss(moved, support, query, 3).mean())

        slope = sum(float((found.gradient[name] * along[name]).sum()) for name in along)
        assert abs(slope) > 1e-3
        assert slope == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)
        assert float(found.losses.mean()) == pytest.approx(loss(0.0), rel=1e-12)
        for name, value in found.gradient.items():
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
        optimizer = torch.optim.Adam(list(meta.theta.values()), lr=step_size)
        for _ in range(iterations):
            gradient = meta_gradient(method, meta, *sample(generator), ways).gradient
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

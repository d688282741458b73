"""Tiny runs that every test of the commands may read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from metarl.experiments.cli import main
from metarl.tasks import FAMILIES, Episodes, register

TINY = [
    *("--iterations", "4", "--meta-batch-size", "3", "--held-out-every", "2", "--held-out-tasks", "2"),
    *("--rollout.episodes", "3", "--rollout.horizon", "8", "--policy.hidden", "8", "--checkpoint-every", "2"),
]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of navigation-2d."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "navigation-2d", "--runs", str(runs), "--name", "tiny", *TINY]) == 0
    return runs / "tiny"


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Noisy copies of random black-and-white patterns of 8 x 8 pixels: 6 for training, 4 for validation, 4 for test.

    A task is its patterns and a seed of the noise.
    """

    ways: int = 3
    shots: int = 1
    queries: int = 2
    noise: float = 0.1

    kind = "classification"
    input_shape = (1, 8, 8)
    training_classes = 6

    @property
    def outputs(self) -> int:
        return self.ways

    def sample(self, rng: np.random.Generator, count: int, patterns: Sequence[int] = range(6)) -> np.ndarray:
        rows = [[*rng.choice(patterns, self.ways, replace=False), rng.integers(1000)] for _ in range(count)]
        return np.array(rows, dtype=np.int64)

    def sample_validation(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return self.sample(rng, count, range(6, 10))

    def sample_test(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return self.sample(rng, count, range(10, 14))

    def examples(self, tasks: np.ndarray) -> Episodes:
        support, query = ([], []), ([], [])
        for *patterns, seed in tasks:
            rng = np.random.default_rng(seed)
            for (inputs, labels), count in ((query, self.queries), (support, self.shots)):
                shown = np.repeat(patterns, count)
                clean = np.stack([np.random.default_rng(each).integers(0, 2, (1, 8, 8)) for each in shown])
                inputs.append((clean + self.noise * rng.standard_normal(clean.shape)).astype(np.float32))
                labels.append(shown)

        def arrays(part: tuple[list[np.ndarray], list[np.ndarray]], count: int) -> tuple[np.ndarray, ...]:
            targets = np.tile(np.repeat(np.arange(self.ways), count), (len(tasks), 1))
            return np.stack(part[0]), targets, np.stack(part[1])

        one, other = arrays(support, self.shots), arrays(query, self.queries)
        return Episodes(one[0], one[1], other[0], other[1], one[2], other[2])

    def variants(self) -> dict[str, "Shapes"]:
        return {"2 shots": replace(self, shots=2), "5 shots": replace(self, shots=5), "noisy": replace(self, noise=1.0)}

    def describe(self, task: np.ndarray) -> str:
        return "patterns " + ", ".join(str(each) for each in task[:-1])


SHORT = [
    *("--iterations", "30", "--meta-batch-size", "4", "--held-out-every", "10", "--held-out-tasks", "5"),
    *("--log-every", "5", "--net.hidden", "8"),
]


@pytest.fixture(scope="module")
def shapes() -> Iterator[None]:
    """The family ``test-shapes``, known while the tests of a module run."""
    register("test-shapes")(Shapes)
    yield
    del FAMILIES["test-shapes"]


@pytest.fixture(scope="module")
def few_shot(shapes: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of thirty iterations: ``sinusoid``, ``sinusoid-2`` of another seed, ``maml`` and ``prototypes`` of shapes,
    and ``random``, which has nothing to learn."""
    runs = tmp_path_factory.mktemp("few-shot")
    for name, family, *flags in [
        ("sinusoid", "sinusoid"),
        ("sinusoid-2", "sinusoid", "--seed", "2"),
        ("maml", "test-shapes", "--algorithm", "maml", "--net.form", "mlp", "--inner.step-size", "0.4"),
        ("prototypes", "test-shapes", "--algorithm", "prototypes", "--net.form", "mlp"),
        ("random", "sinusoid", "--algorithm", "random", "--iterations", "0"),
    ]:
        assert main(["train", family, "--runs", str(runs), "--name", name, *SHORT, *flags]) == 0
    return runs

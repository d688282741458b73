"""A tiny run that every test of the commands may read."""

from pathlib import Path

import pytest

from metarl.experiments.cli import main

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

"""Says, rather than fails, where MuJoCo has no ``mujoco.batch``, as under Meta-World's pin of 3.3.0, and finds data."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metarl
import metarl.envs
from metarl.envs.locomotion_vector import batch_available


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    try:
        result: Any = yield
    except NotImplementedError as error:
        if batch_available() or "mujoco.batch" not in str(error):
            raise
        pytest.skip(str(error))
    return result


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """In tests torch's threads wait for each other longer than they work."""
    torch.set_num_threads(1)


def _real_data() -> Path:
    return Path(os.environ.get("METARL_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, which lies beside the checkout; the test is skipped where it does not."""
    if not _real_data().is_dir():
        pytest.skip(f"no real data at {_real_data()}; METARL_TEST_DATA may name another place")
    return _real_data()


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for decoded pictures that all tests, and all processes of a run, share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "pictures"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def real_omniglot(real_data: Path, real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root with Omniglot, for one test; decoded by the first process that needs it, in some ten seconds."""
    monkeypatch.setenv("METARL_CACHE", str(real_cache))
    with (real_cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        metarl.make_family("omniglot", data=str(real_data)).sample(np.random.default_rng(0), 1)
    return real_data

"""Says, rather than fails, where MuJoCo has no ``mujoco.batch``, as under Meta-World's pin of 3.3.0."""

from collections.abc import Iterator
from typing import Any

import pytest

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

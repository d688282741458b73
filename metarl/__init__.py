"""Meta-reinforcement learning on Gymnasium, in PyTorch."""

import importlib
from typing import TYPE_CHECKING

from metarl.tasks import (
    Episodes,
    FewShotFamily,
    SamplesTestTasks,
    SupportsVector,
    Task,
    TaskFamily,
    make_family,
    register,
)

if TYPE_CHECKING:
    from metarl.deploy.adapt import AdaptConfig, adapt
    from metarl.deploy.files import load_policy, save_policy
    from metarl.deploy.policy import AdaptedPolicy
else:
    _LATER = {
        "AdaptConfig": "metarl.deploy.adapt",
        "AdaptedPolicy": "metarl.deploy.policy",
        "adapt": "metarl.deploy.adapt",
        "load_policy": "metarl.deploy.files",
        "save_policy": "metarl.deploy.files",
    }

    def __getattr__(name):
        """What needs torch, imported when it is first asked for."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LATER[name]), name)


__version__ = "0.1.0"

__all__ = [
    "AdaptConfig",
    "AdaptedPolicy",
    "Episodes",
    "FewShotFamily",
    "SamplesTestTasks",
    "SupportsVector",
    "Task",
    "TaskFamily",
    "adapt",
    "load_policy",
    "make_family",
    "register",
    "save_policy",
    "__version__",
]

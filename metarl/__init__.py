"""Meta-reinforcement learning on Gymnasium, in PyTorch."""

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

__version__ = "0.1.0"

__all__ = [
    "Episodes",
    "FewShotFamily",
    "SamplesTestTasks",
    "SupportsVector",
    "Task",
    "TaskFamily",
    "make_family",
    "register",
    "__version__",
]

"""Meta-reinforcement learning on Gymnasium, in PyTorch."""

from metarl.tasks import SupportsVector, Task, TaskFamily, make_family, register

__version__ = "0.1.0"

__all__ = ["SupportsVector", "Task", "TaskFamily", "make_family", "register", "__version__"]

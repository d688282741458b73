"""Meta-reinforcement learning on Gymnasium, in PyTorch."""

from metarl.tasks import SamplesTestTasks, SupportsVector, Task, TaskFamily, make_family, register

__version__ = "0.1.0"

__all__ = ["SamplesTestTasks", "SupportsVector", "Task", "TaskFamily", "make_family", "register", "__version__"]

"""Boolean functions of two inputs, XOR among them: the tasks that learned synaptic rules were first trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from metarl.envs.checks import check_choice, check_count, whole_task_rows
from metarl.tasks import Episodes, register

CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=np.float32)
"""The inputs of every function, ``[4, 2]``; -1 is false, 1 is true."""

TABLES = np.array([[1.0 if number >> corner & 1 else -1.0 for corner in range(4)] for number in range(16)], np.float32)
"""Outputs of function f at the four corners, ``[16, 4]``: bit c of f says whether corner c is true."""

NAMES = (
    "false", "nor", "b and not a", "not a", "a and not b", "not b", "xor", "nand",
    "and", "xnor", "b", "a implies b", "a", "b implies a", "or", "true",
)  # fmt: skip
"""What function f is called."""

INSEPARABLE = (6, 9)
"""XOR and XNOR, which no single threshold unit computes; it computes the other fourteen."""

Functions = Literal["all", "separable", "inseparable"]


def chosen(functions: Functions) -> NDArray[np.int64]:
    """Numbers of the functions in a group, ascending."""
    everything = np.arange(16)
    return {
        "all": everything,
        "separable": np.setdiff1d(everything, INSEPARABLE),
        "inseparable": np.array(INSEPARABLE),
    }[functions]


@register("boolean")
@dataclass(frozen=True, kw_only=True)
class Boolean:
    """Boolean functions of two inputs, each learned from its whole truth table.

    Task, a row of one number: which of the 16 functions, its truth table read as bits.

    Input: a and b, each -1 (false) or 1 (true).

    Target: -1 (false) or 1 (true), which suits tanh and linear outputs alike.

    Support and query coincide: both are the four rows of the truth table. A synaptic rule is asked to store a function
    in the weights, not to guess rows that it has not seen, which no learner could do from the others.

    Splits: the three draw from the same functions; with ``held_out`` XOR and XNOR come in test tasks only, which are
    then nothing else.

    Source: Bengio, Bengio and Cloutier 1991 (Learning a synaptic learning rule, IJCNN).
    """

    query_is_support: ClassVar[bool] = True
    """For ``metarl check``: that they coincide is meant."""

    functions: Functions = "all"
    """All 16, the 14 that a threshold unit computes, or XOR and XNOR."""
    held_out: bool = False
    """Keep XOR and XNOR out of training and validation, and test on them alone."""

    def __post_init__(self) -> None:
        check_choice("functions", self.functions, ("all", "separable", "inseparable"))
        if self.held_out and self.functions == "inseparable":
            raise ValueError(
                "held_out keeps XOR and XNOR out of training, so functions must be 'all' or 'separable'; "
                "got 'inseparable', which leaves nothing to train on"
            )

    @property
    def kind(self) -> Literal["regression"]:
        """Judged by the mean squared error."""
        return "regression"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """a and b."""
        return (2,)

    @property
    def outputs(self) -> int:
        """True or false."""
        return 1

    @property
    def training_classes(self) -> int:
        """None."""
        return 0

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Functions ``[count, 1]``, each as likely as any other."""
        return self._draw(rng, count, "separable" if self.held_out else self.functions)

    sample_validation = sample

    def sample_test(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """The same, or XOR and XNOR where these are held out."""
        return self._draw(rng, count, "inseparable" if self.held_out else self.functions)

    def examples(self, tasks: np.ndarray) -> Episodes:
        """The truth tables, as support and as query."""
        rows = whole_task_rows(tasks, 1, "number of the function", 16)
        targets = TABLES[rows[:, 0], :, None]
        inputs = np.tile(CORNERS, (len(rows), 1, 1))
        labels = np.empty((len(rows), 0), dtype=np.int64)
        return Episodes(inputs, targets, inputs.copy(), targets.copy(), labels, labels)

    def variants(self) -> Mapping[str, Boolean]:
        """The functions that a threshold unit computes, and those that need a hidden layer."""
        return {
            "separable": replace(self, functions="separable", held_out=False),
            "inseparable": replace(self, functions="inseparable", held_out=False),
        }

    def describe(self, task: np.ndarray) -> str:
        """The task in words."""
        return NAMES[int(task[0])]

    def _draw(self, rng: np.random.Generator, count: int, functions: Functions) -> NDArray[np.int64]:
        check_count("count", count, 1)
        return rng.choice(chosen(functions), size=(count, 1))

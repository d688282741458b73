"""What the tables of algorithms share: names, and what is said where one does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from metarl.tasks import closest

Row = TypeVar("Row")


class UnknownAlgorithm(KeyError):
    """No algorithm has the name asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnsuitableAlgorithm(ValueError):
    """An algorithm cannot learn what a family's tasks ask for, or not with these settings."""


def find(name: str, table: Mapping[str, Row]) -> Row:
    """The row of a name.

    Raises:
        UnknownAlgorithm: naming the closest known.
    """
    if name not in table:
        known = ", ".join(sorted(table))
        raise UnknownAlgorithm(f"no algorithm {name!r}{closest(name, table)} (known: {known})")
    return table[name]

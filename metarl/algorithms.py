"""What the tables of algorithms share: names, and what is said where one does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from metarl.tasks import closest

Row = TypeVar("Row")


class UsesSettings(Protocol):
    """A row of a table, as far as settings go."""

    @property
    def uses(self) -> frozenset[str]:
        """Which of the settings that not every algorithm has."""
        ...


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


def check_unused(
    name: str, table: Mapping[str, UsesSettings], optional: Sequence[str], config: Any, defaults: Any
) -> None:
    """That no setting was changed that the algorithm has no use for.

    Args:
        name: of the algorithm.
        table: it is of.
        optional: settings that not every algorithm has, as paths from ``config``.
        config: what was chosen.
        defaults: what it was chosen from.

    Raises:
        UnsuitableAlgorithm: naming the setting, and who uses it.
    """
    for path in optional:
        if path not in table[name].uses and _at(config, path) != _at(defaults, path):
            users = ", ".join(each for each, row in table.items() if path in row.uses)
            raise UnsuitableAlgorithm(
                f"{name} does not use the settings --{path.replace('_', '-')}, which were changed; leave them out, or "
                f"choose an algorithm that does: {users}"
            )


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config

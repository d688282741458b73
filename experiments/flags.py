"""Flags of booleans, which may be given bare."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Collection, Sequence
from typing import Any

SHORTHANDS = {"--curiosity": "--curiosity.kind"}
"""Flags that stand for one of a class of settings."""


def boolean_flags(kind: Any, prefix: str = "--") -> set[str]:
    """Those of a class's boolean fields, and of classes of settings among its fields.

    Args:
        kind: a dataclass, or a class whose initializer's parameters are its fields.
        prefix: what the flags begin with.
    """
    found = set()
    for name, hint in typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__).items():
        flag = prefix + name.replace("_", "-")
        if hint in (bool, bool | None):
            found.add(flag)
        elif dataclasses.is_dataclass(hint):
            found |= boolean_flags(hint, f"{flag}.")
    return found


def with_values(arguments: Sequence[str], booleans: Collection[str]) -> list[str]:
    """The arguments in full: True after each of ``booleans`` that stands bare (``--compile`` for ``--compile True``),
    and ``SHORTHANDS`` written out."""
    given = []
    arguments = [_in_full(argument) for argument in arguments]
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        given.append(argument)
        if argument.replace("_", "-") in booleans and following.title() not in ("True", "False", "None"):
            given.append("True")
    return given


def _in_full(argument: str) -> str:
    flag, sign, value = argument.partition("=")
    return SHORTHANDS.get(flag, flag) + sign + value

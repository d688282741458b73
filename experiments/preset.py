"""What a preset is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named setting of one task family."""

    summary: str
    """A line for ``metarl list``."""
    family: dict[str, Any]
    """Options of the family."""
    train: Callable[[], Any]
    minutes: float | None = None

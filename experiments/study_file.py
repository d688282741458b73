"""The file of a study: what was made is kept, and runs of other settings do not get among it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metarl.experiments.measure import machine
from metarl.experiments.runs import read_json


def open_study(path: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """The content of a study's file, or of one with no runs yet.

    Args:
        path: its JSON file, which may not be there.
        setting: what all its runs have in common.

    Raises:
        RunError: if the file cannot be read.
        SystemExit: if its runs were made under other settings.
    """
    setting = json.loads(json.dumps(setting))
    content = read_json(path) if path.is_file() else {"setting": setting, "runs": []}
    if content.get("setting") != setting:
        raise SystemExit(
            f"{path} has runs under other settings than the study has now ({_difference(content, setting)}); move it "
            "away, or name another --output"
        )
    return content | {"machine": machine()}


def _difference(content: dict[str, Any], setting: dict[str, Any]) -> str:
    """The first setting that differs, in words."""
    before = content.get("setting", {})
    name = next(name for name in {**setting, **before} if before.get(name) != setting.get(name))
    return f"{name}: {before.get(name)} there, {setting.get(name)} now"

"""What the benchmarks share: their flags' types, a repetition, and how a report is shown and written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from metarl.experiments.runs import write_json

Family = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
JsonFile = Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")]


def check_at_least_one(config: object, names: tuple[str, ...]) -> None:
    """Raise ValueError unless every one of the named fields is."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"bench {name} must be at least 1, got {getattr(config, name)}")


class Repetition(NamedTuple):
    """One repetition: the subject, and the physics alone with its actions."""

    seconds: float
    physics_s: float
    env_steps: int
    cores: float
    """Processors busy on average while the subject ran."""


def new_table(title: str, unit: str, repeats: int) -> Table:
    """A table of figures with their spread over the repetitions."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column(unit, justify="right")
    table.add_column(f"least to greatest of {repeats}", justify="right")
    return table


def add_row(table: Table, name: str, figure: dict[str, float], form: str) -> None:
    """Add a ``summary``, its numbers formatted by ``form``."""
    spread = f"{form.format(figure['min'])} to {form.format(figure['max'])}"
    table.add_row(name, form.format(figure["median"]), spread)


def widths(hidden: tuple[int, ...] | list[int]) -> str:
    """Layer widths as they are usually written: 64-64."""
    return "-".join(map(str, hidden))


def show_machine(report: dict[str, Any], console: Console) -> None:
    """Print what the figures depend on besides the code."""
    where, figures = report["machine"], report["figures"]
    load = where["load_average_before"]
    console.print(
        f"medians; peak memory of the process {figures['peak_memory_mib']:,.0f} MiB; {where['processors']} processors "
        f"of {where['processor']}, load {'unknown' if load is None else f'{load:.2f}'} before; "
        + ", ".join(f"{name} {version}" for name, version in where["versions"].items()),
        soft_wrap=True,
        highlight=False,
    )


def as_json(config: Any) -> dict[str, Any]:
    """A configuration dataclass as JSON takes it; a file by its name, for its folder is the machine's own."""
    fields = dataclasses.asdict(config)
    return {name: value.name if isinstance(value, Path) else value for name, value in fields.items()}


def write_report(report: dict[str, Any], path: Path | None, console: Console) -> None:
    """Write the report if a file is named, making its folder: figures that took minutes must not be lost."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report)
        console.print(f"written to {path}", soft_wrap=True)

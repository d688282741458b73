"""The ``metarl`` command. Commands load only when they are called, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """One verb of the command line."""

    module: str
    function: str
    help: str


COMMANDS = {
    "train": Command("commands", "train", "meta-train on a task family, or resume a run"),
    "evaluate": Command("commands", "evaluate", "returns of held-out tasks before and after adaptation"),
    "adapt": Command("commands", "adapt", "adapt a run to one task, and save the policy for plain Gymnasium"),
    "sequence": Command("commands", "sequence", "tasks one after another without reset: what is kept, what forgotten"),
    "render": Command("commands", "render", "a video of the same tasks before and after adaptation"),
    "plot": Command("commands", "plot", "learning curves, and return against gradient steps"),
    "check": Command("commands", "check", "does a task family keep the contract? what is wrong, how to mend it"),
    "results": Command("commands", "results", "the table of what runs reached; keep their small files"),
    "figure": Command("commands", "figure", "a figure of several algorithms: train, evaluate and draw what is missing"),
    "list": Command("commands", "list_all", "task families, algorithms and presets"),
    "bench": Command(
        "commands", "bench", "measure sampling (rollout), a meta-iteration, or the signal of inner gradients"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 1 a run failed, 2 the command line was wrong, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="metarl",
        description="Meta-reinforcement learning on Gymnasium.",
        epilog="'metarl COMMAND --help' lists a command's flags. Every command takes --plugin MODULE_OR_FILE, which "
        "imports\na Python module or file that registers task families of your own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        verbs.add_parser(name, help=command.help, add_help=False)
    chosen = parser.parse_args(arguments[:1]).command
    command = COMMANDS[chosen]
    module = importlib.import_module(f"metarl.experiments.{command.module}")
    status: int = getattr(module, command.function)(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())

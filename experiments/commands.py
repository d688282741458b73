"""What the commands do with their arguments: flags from the configuration classes, errors in a line."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import typing
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import metarl.envs  # noqa: F401  registers the built-in families
from metarl.algorithms import UnknownAlgorithm, UnsuitableAlgorithm
from metarl.checkpoints import CheckpointError
from metarl.deploy.adapt import AdaptationFailed
from metarl.deploy.files import PolicyFileError
from metarl.engine import TrainingStalled
from metarl.experiments import train as training
from metarl.experiments.bench_few_shot import GradientsDiffer
from metarl.experiments.config import ConfigError, RunConfig
from metarl.experiments.flags import boolean_flags, with_values
from metarl.experiments.kinds import FEW_SHOT, kind_of, kind_of_run
from metarl.experiments.presets import UnknownPreset, preset_config, preset_for, presets_of
from metarl.experiments.runs import CONFIG, RunError, load_config
from metarl.few_shot import algorithms as few_shot
from metarl.plugins import LOADED, PluginError, load_entry_points, load_plugin
from metarl.reinforcement import algorithms as reinforcement
from metarl.reinforcement.rl2 import RL2, Rl2Config
from metarl.rollout.stepping import EnvironmentFault
from metarl.rollout.workers import WorkerError
from metarl.spaces import UnsupportedSpace
from metarl.tasks import FAMILIES, DuplicateTaskFamily, MissingPackage, UnknownTaskFamily, family_factory

_USAGE_ERRORS = (
    UnknownTaskFamily,
    UnknownAlgorithm,
    DuplicateTaskFamily,
    UnknownPreset,
    PluginError,
    ConfigError,
    ValueError,
)
_RUN_ERRORS = (
    RunError,
    CheckpointError,
    TrainingStalled,
    UnsupportedSpace,
    EnvironmentFault,
    WorkerError,
    MissingPackage,
    GradientsDiffer,
    AdaptationFailed,
    PolicyFileError,
)
_RUN_FLAGS = {
    "workers": "Processes that step families without a vector form.",
    "minutes": "Stop after this much training time even if iterations are left.",
    "checkpoint_every": "Meta-iterations between checkpoints.",
    "keep_checkpoints": "Newest checkpoints to keep; the best is kept besides.",
}

console = Console()
complaints = Console(stderr=True)


def _reported(command: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """Load the plug-ins named, and turn the errors that a user can mend into one line and an exit status."""

    @wraps(command)
    def run(argv: Sequence[str]) -> int:
        try:
            for complaint in load_entry_points():
                complaints.print(f"[yellow]passed over:[/] {escape(complaint)}", soft_wrap=True)
            plugins, rest = _plugins(argv)
            for plugin in plugins:
                load_plugin(plugin)
            return command(rest)
        except _USAGE_ERRORS as error:
            complaints.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            return 2
        except _RUN_ERRORS as error:
            complaints.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            complaints.print("interrupted; the last checkpoint stands")
            return 130

    return run


def _plugins(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """``--plugin MODULE_OR_FILE``, which every command takes any number of times, and the rest."""
    parser = argparse.ArgumentParser(prog="metarl", add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE_OR_FILE")
    chosen, rest = parser.parse_known_args(argv)
    return chosen.plugin, rest


@_reported
def train(argv: Sequence[str]) -> int:
    """``metarl train FAMILY [--preset P] [flags]`` or ``metarl train --resume RUN_DIR``."""
    parser = argparse.ArgumentParser(
        prog="metarl train",
        description="Meta-train on a task family. 'metarl train FAMILY --help' lists a flag for every field.",
        epilog=f"families: {', '.join(sorted(FAMILIES))}",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("family", nargs="?", metavar="FAMILY")
    parser.add_argument("--preset", help="where the flags' defaults come from ('metarl list')")
    parser.add_argument("--algorithm", help="what learns ('metarl list'), with its own preset if there is one")
    parser.add_argument("--resume", type=Path, metavar="RUN_DIR", help="continue a run; takes no other flags")
    parser.add_argument("--name", help="folder of the run, under --runs; by default family, preset, seed and time")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    chosen, rest = parser.parse_known_args(argv)
    if chosen.resume is not None:
        if chosen.family or rest:
            parser.error("--resume takes the run's own configuration: leave out the family and the other flags")
        training.resume(chosen.resume, console)
        return 0
    if chosen.family is None:
        parser.print_help()
        return 0 if {"-h", "--help"} & set(rest) else 2
    named = chosen.preset or preset_for(chosen.family, chosen.algorithm)
    preset = dataclasses.replace(preset_config(chosen.family, named), plugins=tuple(LOADED))
    _check_preset(preset, chosen.algorithm)
    config = _run_config(preset, rest if chosen.algorithm is None else [*rest, "--algorithm", chosen.algorithm])
    directory = chosen.runs / (chosen.name or _default_name(config))
    state = training.start(config, directory, console)
    console.print(f"run: {directory} ({state.iteration} iterations). Next: metarl evaluate {directory}", soft_wrap=True)
    return 0


def _check_preset(preset: RunConfig, algorithm: str | None) -> None:
    """That a preset made for one algorithm is not taken for another; a family's default is for any of its kind.

    Raises:
        ConfigError: naming both.
    """
    own, kind = preset.train.algorithm, kind_of_run(preset)
    chosen = preset.preset != "default" and own != kind.settings().algorithm
    for_own = chosen or kind is not kind_of(preset.family, algorithm or own)
    if algorithm is not None and algorithm != own and for_own:
        raise ConfigError(
            f"preset {preset.preset!r} is for the algorithm {own}, got --algorithm {algorithm}; leave one of them out"
        )


def _run_config(preset: RunConfig, rest: Sequence[str], command: str = "train") -> RunConfig:
    """The preset with the flags of the command line: the run's own, ``--family.*`` and the algorithm's."""
    flat = tyro.conf.arg(name="")
    kind = kind_of_run(preset)
    own = [item for item in dataclasses.fields(RunConfig) if item.name in kind.run_flags]
    family: Any = Annotated[type(preset.family), flat] if kind.flat else type(preset.family)
    hints = typing.get_type_hints(RunConfig)
    form = dataclasses.make_dataclass(
        "Flags",
        [
            *((each.name, _helped(hints[each.name], each.name), getattr(preset, each.name)) for each in own),
            ("train", Annotated[kind.settings, flat], dataclasses.field(default=preset.train)),
            ("family", family, dataclasses.field(default_factory=lambda: preset.family)),
        ],
        kw_only=True,
        frozen=True,
    )
    booleans = boolean_flags(kind.settings) | boolean_flags(type(preset.family), "--" if kind.flat else "--family.")
    flags: Any = tyro.cli(
        form,
        args=with_values(rest, booleans),
        prog=f"metarl {command} {preset.family_name}",
        description=f"Meta-train on {preset.family_name}; defaults from its preset {preset.preset!r}.",
        config=(tyro.conf.FlagConversionOff,),
    )
    names = [item.name for item in dataclasses.fields(flags)]
    chosen = dataclasses.replace(preset, **{name: getattr(flags, name) for name in names})
    config: RunConfig = kind.settle(chosen, preset)
    if chosen.train.iterations not in (preset.train.iterations, config.train.iterations):
        raise UnsuitableAlgorithm(
            f"{config.train.algorithm} has nothing to train, got --iterations {chosen.train.iterations}; leave it out"
        )
    return config


def _helped(kind: Any, name: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=_RUN_FLAGS[name])]


def _default_name(config: RunConfig) -> str:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{config.family_name}-{config.preset}-seed{config.train.seed}-{now}"


@_reported
def evaluate(argv: Sequence[str]) -> int:
    """``metarl evaluate RUN_DIR [--steps K] [flags]``."""
    from metarl.experiments.evaluate import EvaluateConfig, evaluate_run
    from metarl.experiments.evaluate_few_shot import FewShotEvaluateConfig, evaluate_few_shot_run

    if _names_few_shot_run(argv):
        evaluate_few_shot_run(*_directory_and_options("evaluate", FewShotEvaluateConfig, argv), console)
    else:
        evaluate_run(*_directory_and_options("evaluate", EvaluateConfig, argv), console)
    return 0


def _names_few_shot_run(argv: Sequence[str]) -> bool:
    """Whether the first run among the arguments is one of supervised tasks; decides which flags there are."""
    runs = [Path(argument) for argument in argv if (Path(argument) / CONFIG).is_file()]
    return bool(runs) and kind_of(load_config(runs[0]).family) is FEW_SHOT


def _directory_and_options(command: str, kind: Any, argv: Sequence[str]) -> tuple[Path, Any]:
    form = dataclasses.make_dataclass(
        "Arguments",
        [
            ("directory", tyro.conf.Positional[Path]),
            ("options", Annotated[kind, tyro.conf.arg(name="")], dataclasses.field(default_factory=kind)),
        ],
    )
    arguments: Any = tyro.cli(
        form,
        args=with_values(argv, boolean_flags(kind)),
        prog=f"metarl {command}",
        description=kind.__doc__,
        config=(tyro.conf.FlagConversionOff,),
    )
    return arguments.directory, arguments.options


@_reported
def adapt(argv: Sequence[str]) -> int:
    """``metarl adapt RUN_DIR [--env-id ID] [flags]``."""
    from metarl.experiments.adapt import AdaptRunConfig, adapt_run

    adapt_run(*_directory_and_options("adapt", AdaptRunConfig, argv), console)
    return 0


@_reported
def sequence(argv: Sequence[str]) -> int:
    """``metarl sequence RUN_DIR [flags]``."""
    from metarl.experiments.sequence import SequenceRunConfig, sequence_run
    from metarl.experiments.sequence_policy import PolicySequenceRunConfig, policy_sequence_run

    if _names_policy_run(argv):
        policy_sequence_run(*_directory_and_options("sequence", PolicySequenceRunConfig, argv), console)
    else:
        sequence_run(*_directory_and_options("sequence", SequenceRunConfig, argv), console)
    return 0


def _names_policy_run(argv: Sequence[str]) -> bool:
    """Whether the first run among the arguments is one of a policy."""
    return any((Path(argument) / CONFIG).is_file() for argument in argv) and not _names_few_shot_run(argv)


@_reported
def render(argv: Sequence[str]) -> int:
    """``metarl render RUN_DIR [flags]``."""
    from metarl.experiments.render import RenderConfig, render_run
    from metarl.experiments.render_few_shot import FewShotRenderConfig, render_few_shot_run

    if _names_few_shot_run(argv):
        path = render_few_shot_run(*_directory_and_options("render", FewShotRenderConfig, argv))
    else:
        path = render_run(*_directory_and_options("render", RenderConfig, argv))
    console.print(f"written to {path}", soft_wrap=True)
    return 0


@_reported
def plot(argv: Sequence[str]) -> int:
    """``metarl plot RUN_DIR... [--output FILE]``."""
    from metarl.experiments.plot import plot_runs

    parser = argparse.ArgumentParser(
        prog="metarl plot", description="Learning curves of one or more runs, and return against gradient steps."
    )
    parser.add_argument("directories", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--output", type=Path, help="PNG to write; by default curves.png in the first run")
    arguments = parser.parse_args(argv)
    console.print(f"written to {plot_runs(arguments.directories, output=arguments.output)}", soft_wrap=True)
    return 0


@_reported
def figure(argv: Sequence[str]) -> int:
    """``metarl figure NAME [flags]``."""
    from metarl.experiments.figures import FIGURES, FigureConfig, UnknownFigure, make_figure

    parser = argparse.ArgumentParser(
        prog="metarl figure",
        description="Train, evaluate and draw what is missing. 'metarl figure NAME --help' lists the flags.",
        epilog=f"figures: {', '.join(FIGURES)}",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME")
    chosen, rest = parser.parse_known_args(argv)
    if chosen.name is None:
        parser.print_help()
        return 0 if {"-h", "--help"} & set(rest) else 2
    config = tyro.cli(FigureConfig, args=rest, prog=f"metarl figure {chosen.name}")
    try:
        make_figure(chosen.name, config, console)
    except UnknownFigure as error:
        raise ConfigError(str(error)) from error
    return 0


@_reported
def results(argv: Sequence[str]) -> int:
    """``metarl results RUN_DIR... [--into FOLDER]``."""
    from metarl.experiments.results import keep_results, markdown, rows

    parser = argparse.ArgumentParser(prog="metarl results", description="The table of what runs reached, as Markdown.")
    parser.add_argument("directories", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="also copy each run's small files there")
    arguments = parser.parse_args(argv)
    if arguments.into is not None:
        for directory in arguments.directories:
            keep_results(directory, arguments.into)
    console.print(markdown(rows(arguments.directories)), soft_wrap=True, markup=False)
    return 0


@_reported
def check(argv: Sequence[str]) -> int:
    """``metarl check FAMILY``."""
    from metarl.experiments.check import check_family
    from metarl.experiments.check_few_shot import check_few_shot_family

    parser = argparse.ArgumentParser(prog="metarl check", description="Does a task family keep the contract?")
    parser.add_argument("family", metavar="FAMILY")
    chosen, rest = parser.parse_known_args(argv)
    family = _run_config(preset_config(chosen.family), rest, "check").family
    findings = check_few_shot_family(family) if kind_of(family) is FEW_SHOT else check_family(family)
    for finding in findings:
        mark = "[green]ok[/]" if finding.fault is None else "[red]wrong[/]"
        console.print(f"{mark} {escape(finding.what)}", soft_wrap=True)
        if finding.fault is not None:
            console.print(f"   {escape(finding.fault)}", soft_wrap=True)
    return int(any(finding.fault is not None for finding in findings))


@_reported
def bench(argv: Sequence[str]) -> int:
    """``metarl bench rollout|iteration|gradient|update|few-shot FAMILY [flags]``."""
    from metarl.experiments import bench as benches

    kinds: dict[str, tuple[Any, Callable[[Any], object]]] = {
        "rollout": (benches.RolloutBench, benches.run_rollout_bench),
        "iteration": (benches.IterationBench, benches.run_iteration_bench),
        "gradient": (benches.GradientBench, benches.run_gradient_bench),
        "update": (benches.UpdateBench, benches.run_update_bench),
        "few-shot": (benches.FewShotBench, benches.run_few_shot_bench),
    }
    parser = argparse.ArgumentParser(prog="metarl bench", description="Measure this machine and this code.")
    parser.add_argument("kind", choices=kinds)
    options, measure = kinds[parser.parse_args(argv[:1]).kind]
    measure(tyro.cli(options, args=list(argv[1:]), prog=f"metarl bench {argv[0]}"))
    return 0


@_reported
def list_all(argv: Sequence[str]) -> int:
    """``metarl list``."""
    argparse.ArgumentParser(prog="metarl list", description="Task families, algorithms and presets.").parse_args(argv)
    view = Table("family", "what", "preset", "setting", title="task families and presets")
    for name in sorted(FAMILIES):
        summary = (family_factory(name).__doc__ or "").strip().split("\n")[0]
        for row, (preset, setting) in enumerate(presets_of(name).items()):
            view.add_row(name if row == 0 else "", summary if row == 0 else "", preset, setting.summary)
    console.print(view)
    algorithms = Table("of", "algorithm", "what", title="algorithms")
    for kind, table in (("policies", reinforcement.ALGORITHMS), ("few-shot", few_shot.ALGORITHMS)):
        for name, algorithm in table.items():
            algorithms.add_row(kind, name, algorithm.summary)
        if table is reinforcement.ALGORITHMS:
            algorithms.add_row(kind, Rl2Config.algorithm, RL2)
    console.print(algorithms)
    return 0

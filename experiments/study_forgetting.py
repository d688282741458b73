"""What is forgotten when tasks arrive one after another: learners, what holds them, and how firmly.

    python -m metarl.experiments.study_forgetting sinusoid
    python -m metarl.experiments.study_forgetting omniglot
    python -m metarl.experiments.study_forgetting navigation-2d
    python -m metarl.experiments.study_forgetting half-cheetah-dir --seeds 1 2 3 --learners pretrain maml-trpo fame

Every learner and seed is trained once, in a run of its own, and judged on the same sequences under every way to hold
it. What is in the output file already is not made again. ``docs/sequences.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

import metarl.envs  # noqa: F401  registers the families
from metarl.experiments import train as training
from metarl.experiments.forgetting_settings import SETTINGS, FamilyName, Holding, Setting, run_config
from metarl.experiments.forgetting_tables import draw, draw_matrices, key, markdown
from metarl.experiments.runs import CONFIG, Run, load_config, load_run, write_json
from metarl.experiments.sequence import SequenceRunConfig
from metarl.experiments.sequence import summarize as summarize_examples
from metarl.experiments.sequence_policy import PolicySequenceRunConfig
from metarl.experiments.sequence_policy import summarize as summarize_policies
from metarl.experiments.study_file import open_study
from metarl.variants.sequences import SequenceConfig


@dataclass(frozen=True, kw_only=True)
class Study:
    """Learners on sequences of one family's tasks."""

    family_name: Annotated[FamilyName, tyro.conf.Positional]
    """Whose tasks."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """A run of each learner for each."""
    learners: tuple[str, ...] = ()
    """Those to train and judge; all if left out."""
    runs: Path = Path("runs/forgetting")
    """Where runs are kept, named FAMILY-LEARNER-SEED."""
    output: Path = Path("experiments/results/forgetting")
    """Folder of FAMILY.json and the pictures."""

    def __post_init__(self) -> None:
        known = SETTINGS[self.family_name].rows
        unknown = set(self.learners) - set(known)
        if unknown:
            raise ValueError(f"learners must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}")


def main() -> None:
    """Make what is missing, then the table and the pictures."""
    study, console = tyro.cli(Study), Console()
    setting = SETTINGS[study.family_name]
    path = study.output / f"{study.family_name}.json"
    content = open_study(path, described(study.family_name))
    for seed in study.seeds:
        for name in study.learners or setting.rows:
            missing = [each for each in setting.rows[name].holdings if not _known(content, name, seed, each)]
            if not missing:
                continue
            run = load_run(_trained(study, name, seed, console))
            for holding in missing:
                content["runs"].append(_judged(setting, run, name, seed, holding))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, content)
    draw(content, path.with_suffix(".png"))
    draw_matrices(content, study.output)
    console.print(markdown(content), markup=False, soft_wrap=True)


def _known(content: dict[str, Any], name: str, seed: int, holding: Holding) -> bool:
    return any(key(name, seed, holding).items() <= run.items() for run in content["runs"])


def _trained(study: Study, name: str, seed: int, console: Console) -> Path:
    """The folder of a run, trained as far as it was not."""
    config = run_config(SETTINGS[study.family_name], name, seed)
    directory = study.runs / f"{study.family_name}-{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (directory / CONFIG).is_file():
        console.print(f"training {name}, seed {seed}, in {directory}", soft_wrap=True)
        training.start(config, directory, console)
    elif load_config(directory) != config:
        raise SystemExit(f"{directory} has other settings than the study; move it away, or name other --runs")
    elif load_run(directory).state.iteration < config.train.iterations:
        training.resume(directory, console)
    if load_run(directory).state.iteration < config.train.iterations:
        raise SystemExit(f"{directory} was stopped before its end; the same command goes on with it")
    return directory


def _judged(setting: Setting, run: Run, name: str, seed: int, holding: Holding) -> dict[str, Any]:
    protocol = SequenceConfig(
        tasks=setting.tasks,
        steps=setting.own_steps.get(setting.rows[name].algorithm, setting.steps),
        consolidate=holding.consolidate,
        strength=holding.strength,
    )
    if setting.episodes is None:
        found = summarize_examples(run, SequenceRunConfig(protocol=protocol, sequences=setting.sequences))
    else:
        options = PolicySequenceRunConfig(protocol=protocol, sequences=setting.sequences, episodes=setting.episodes)
        found = summarize_policies(run, options)
    kept = ("score", "steps", "figures", "alone", "matrix", "diverged", "date")
    return key(name, seed, holding) | {"in_force": found["strength"]} | {each: found[each] for each in kept}


def described(family_name: FamilyName) -> dict[str, Any]:
    """What all entries of a family's file have in common; a file with anything else is not gone on with."""
    setting = SETTINGS[family_name]
    runs = {name: run_config(setting, name, 1) for name in setting.rows}
    family, train = runs["fame"].family, runs["fame"].train
    return {
        "family": family_name,
        "iterations": train.iterations,
        "steps": setting.steps,
        "step_size": train.inner.step_size,
        "sequences": setting.sequences,
        "tasks": setting.tasks,
        "shots": setting.episodes or family.shots,
        "ways": getattr(family, "ways", None),
        "training": {name: _in_short(run.train) for name, run in runs.items()},
    }


def _in_short(train: Any) -> dict[str, Any]:
    return {
        "iterations": train.iterations,
        "meta_batch_size": train.meta_batch_size,
        "steps": train.inner.steps,
        "step_size": train.inner.step_size,
        "elastic": dataclasses.asdict(train.elastic),
    }


if __name__ == "__main__":
    main()

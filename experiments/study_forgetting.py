"""What is forgotten when tasks arrive one after another: learners, what holds them, and how firmly.

    python -m metarl.experiments.study_forgetting sinusoid
    python -m metarl.experiments.study_forgetting omniglot

Every learner and seed is trained once, in a run of its own, and judged on the same sequences under every way to hold
it. What is in the output file already is not made again. ``docs/sequences.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

import metarl.envs  # noqa: F401  registers the families
from metarl.experiments import train as training
from metarl.experiments.config import RunConfig
from metarl.experiments.draw_sequence import draw_sequence
from metarl.experiments.few_shot_scores import mean_and_interval, score_text, unit
from metarl.experiments.measure import machine
from metarl.experiments.runs import CONFIG, load_config, load_run, write_json
from metarl.experiments.sequence import SequenceRunConfig, summarize
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.outer.adam import OptimizerConfig
from metarl.tasks import make_family
from metarl.variants.fame import ElasticConfig
from metarl.variants.sequences import Consolidation, SequenceConfig

FamilyName = Literal["sinusoid", "omniglot"]


class Setting(NamedTuple):
    """What is the same for all learners on one family."""

    family: dict[str, Any]
    train: FewShotConfig
    others: dict[str, FewShotConfig]
    """Of the algorithms that need settings of their own."""
    sequences: int
    tasks: int


_SINUSOID = FewShotConfig(
    inner=FewShotInnerConfig(steps=5, step_size=0.01), iterations=3000, held_out_every=1000, log_every=250
)
_OMNIGLOT = FewShotConfig(
    net=NetConfig(filters=32),
    inner=FewShotInnerConfig(steps=3, step_size=0.2),
    outer=OptimizerConfig(learning_rate=0.003, schedule="cosine"),
    meta_batch_size=8,
    iterations=250,
    held_out_every=125,
    held_out_tasks=50,
    log_every=50,
)
_INTERPOLATION = OptimizerConfig(optimizer="sgd", learning_rate=1.0, schedule="linear")

SETTINGS: dict[FamilyName, Setting] = {
    "sinusoid": Setting(
        {},
        _SINUSOID,
        {
            "reptile": dataclasses.replace(
                _SINUSOID,
                inner=FewShotInnerConfig(steps=10, step_size=0.02),
                outer=_INTERPOLATION,
                meta_batch_size=5,
            ),
            "meta-lstm": dataclasses.replace(_SINUSOID, iterations=500),  # ten times as slow as the others
        },
        sequences=100,
        tasks=5,
    ),
    "omniglot": Setting(
        {"queries": 5},
        _OMNIGLOT,
        {
            "reptile": dataclasses.replace(
                _OMNIGLOT,
                inner=FewShotInnerConfig(steps=5, step_size=0.1),
                outer=_INTERPOLATION,
                meta_batch_size=5,
            ),
            "meta-lstm": dataclasses.replace(_OMNIGLOT, meta_batch_size=4, iterations=100),  # as above
            "pretrain": dataclasses.replace(_OMNIGLOT, iterations=1000),  # a third as slow, and slow to learn
        },
        sequences=20,
        tasks=5,
    ),
}


class Holding(NamedTuple):
    """What holds parameters in a sequence, and how firmly."""

    consolidate: Consolidation
    strength: float | None = None


class Row(NamedTuple):
    """A learner of the study."""

    algorithm: str
    holdings: tuple[Holding, ...]
    changes: dict[str, Any] = {}  # noqa: RUF012  nobody writes to it
    """Of the settings of training."""


_NAIVE = Holding("none")
_OWN = tuple(Holding("own", strength) for strength in (None, 1.0, 3.0, 10.0, 100.0))


def _importance(measure: Consolidation) -> tuple[Holding, ...]:
    return tuple(Holding(measure, strength) for strength in (1.0, 3.0, 10.0, 100.0))


ROWS: dict[str, Row] = {
    "pretrain": Row("pretrain", (_NAIVE, *_importance("fisher"), *_importance("mas"))),
    "maml": Row("maml", (_NAIVE, *_importance("fisher"), *_importance("mas"))),
    "reptile": Row("reptile", (_NAIVE,)),
    "meta-lstm": Row("meta-lstm", (_NAIVE,)),
    "fame": Row("fame", (_NAIVE, *_OWN, Holding("fisher", 10.0))),
    "fame, mas": Row("fame", _OWN, {"elastic": ElasticConfig(importance="mas")}),
    "fame, learned strength": Row("fame", _OWN, {"elastic": ElasticConfig(strength=1.0, schedule="learned")}),
    "fame, curious": Row("fame", _OWN, {"curiosity": CuriosityConfig(kind="gradient")}),
}
"""Naive fine-tuning, elastic weight consolidation and memory-aware synapses of a pretrained network and of MAML's; FAME
with each of its terms taken away or exchanged."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Learners on sequences of one family's tasks."""

    family_name: Annotated[FamilyName, tyro.conf.Positional]
    """Whose tasks."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """A run of each learner for each."""
    learners: tuple[str, ...] = tuple(ROWS)
    """Those to train and judge."""
    runs: Path = Path("runs/forgetting")
    """Where runs are kept."""
    output: Path = Path("experiments/results/forgetting")
    """Folder of FAMILY.json and the pictures."""

    def __post_init__(self) -> None:
        unknown = set(self.learners) - set(ROWS)
        if unknown:
            raise ValueError(f"learners must be some of {', '.join(ROWS)}, got {', '.join(sorted(unknown))}")


def main() -> None:
    """Make what is missing, then the table and the pictures."""
    study, console = tyro.cli(Study), Console()
    path = study.output / f"{study.family_name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    content |= {"machine": machine(), "setting": _described(study.family_name)}
    for seed in study.seeds:
        for name in study.learners:
            missing = [each for each in ROWS[name].holdings if not _known(content, name, seed, each)]
            if not missing:
                continue
            directory = _trained(study, name, seed, console)
            for holding in missing:
                content["runs"].append(_judged(study, directory, name, seed, holding))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, content)
    draw(content, path.with_suffix(".png"))
    draw_matrices(content, study.output)
    console.print(markdown(content), markup=False, soft_wrap=True)


def _key(name: str, seed: int, holding: Holding) -> dict[str, Any]:
    return {"learner": name, "seed": seed, "consolidate": holding.consolidate, "strength": holding.strength}


def _known(content: dict[str, Any], name: str, seed: int, holding: Holding) -> bool:
    return any(_key(name, seed, holding).items() <= run.items() for run in content["runs"])


def run_config(family_name: FamilyName, name: str, seed: int) -> RunConfig:
    """The training run of a learner."""
    setting, row = SETTINGS[family_name], ROWS[name]
    start = setting.others.get(row.algorithm, setting.train)
    config = dataclasses.replace(start, algorithm=row.algorithm, seed=seed, **row.changes)
    family = make_family(family_name, **setting.family)
    return RunConfig(family_name=family_name, preset="forgetting", family=family, train=config)


def _trained(study: Study, name: str, seed: int, console: Console) -> Path:
    """The folder of a run, trained as far as it was not."""
    config = run_config(study.family_name, name, seed)
    directory = study.runs / f"{study.family_name}-{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (directory / CONFIG).is_file():
        console.print(f"training {name}, seed {seed}, in {directory}", soft_wrap=True)
        training.start(config, directory, console)
    elif load_config(directory) != config:
        raise SystemExit(f"{directory} has other settings than the study; move it away, or name other --runs")
    elif load_run(directory).state.iteration < config.train.iterations:
        training.resume(directory, console)
    return directory


def _judged(study: Study, directory: Path, name: str, seed: int, holding: Holding) -> dict[str, Any]:
    setting = SETTINGS[study.family_name]
    strength = holding.strength if holding.consolidate != "none" else None
    protocol = SequenceConfig(
        tasks=setting.tasks,
        steps=setting.train.inner.steps,
        consolidate=holding.consolidate,
        strength=strength,
    )
    found = summarize(load_run(directory), SequenceRunConfig(protocol=protocol, sequences=setting.sequences))
    kept = ("score", "figures", "alone", "matrix", "diverged", "date")
    return _key(name, seed, holding) | {"in_force": found["strength"]} | {each: found[each] for each in kept}


def over_seeds(content: dict[str, Any], name: str, holding: Holding, figure: str) -> np.ndarray:
    """A figure of each seed, mean over sequences; ``alone`` is the K-shot score."""
    wanted = _key(name, 0, holding)
    del wanted["seed"]
    runs = [run for run in content["runs"] if all(run[key] == value for key, value in wanted.items())]
    rows = [run["alone"] if figure == "alone" else run["figures"][figure] for run in runs]
    return np.array([np.nan if row["mean"] is None else row["mean"] for row in rows])


COLUMNS = {"alone": "K-shot", "learning": "right after", "average": "at the end", "forgetting": "forgotten"}
"""Figures of the table, in the words of its head."""


def markdown(content: dict[str, Any]) -> str:
    """The table of the page."""
    score = content["runs"][0]["score"]
    lines = [
        f"| learner | held by | strength | seeds | {' | '.join(COLUMNS.values())} |",
        f"|---|---|---|---|{'---|' * len(COLUMNS)}",
    ]
    for name, row in ROWS.items():
        for holding in row.holdings:
            values = {each: over_seeds(content, name, holding, each) for each in COLUMNS}
            if not len(values["alone"]):
                continue
            strength = "its own" if holding.strength is None else f"{holding.strength:g}"
            how = ("nothing", "") if holding.consolidate == "none" else (holding.consolidate, strength)
            cells = " | ".join(score_text(score, *mean_and_interval(each)) for each in values.values())
            lines.append(f"| {name} | {how[0]} | {how[1]} | {len(values['alone'])} | {cells} |")
    return "\n".join(lines)


def draw(content: dict[str, Any], path: Path) -> None:
    """What is forgotten against what is learned: every learner a line over strengths, every seed a point."""
    figure = Figure(figsize=(10.5, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    score = content["runs"][0]["score"]
    about = unit(score)
    lines = [(name, measure) for name, row in ROWS.items() for measure in ("none", "fisher", "mas", "own")]
    palette = colormaps["tab20"]
    number = 0
    for name, measure in lines:
        holdings = [each for each in ROWS[name].holdings if each.consolidate == measure]
        held = [each for each in holdings if len(over_seeds(content, name, each, "forgetting"))]
        if not held:
            continue
        x, first, second = (
            about.factor * np.array([np.nanmean(over_seeds(content, name, each, what)) for each in held])
            for what in ("forgetting", "learning", "average")
        )
        label = name if measure == "none" else f"{name}, held by {measure}"
        for axes, y in ((left, first), (right, second)):
            axes.plot(x, y, "o-" if len(held) > 1 else "s", color=palette(number % 20), label=label, markersize=5)
        number += 1
    for axes, words in ((left, "right after it was learned"), (right, "at the end of the sequence")):
        axes.set(xlabel=f"forgotten, {about.label}", ylabel=f"{about.label}, a task {words}")
        axes.grid(alpha=0.25)
    right.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


def draw_matrices(content: dict[str, Any], folder: Path) -> None:
    """Of the first seed, what MAML and FAME know of each task after each task."""
    setting = content["setting"]
    for name, holding in (("maml", _NAIVE), ("fame", Holding("own", 10.0))):
        runs = [run for run in content["runs"] if _key(name, run["seed"], holding).items() <= run.items()]
        if runs:
            drawn = runs[0] | setting | {"strength": runs[0]["in_force"], "algorithm": name}
            draw_sequence(drawn, folder / f"{setting['family']}-{name}.png")


def _described(family_name: FamilyName) -> dict[str, Any]:
    setting = SETTINGS[family_name]
    family = make_family(family_name, **setting.family)
    return {
        "family": family_name,
        "iterations": setting.train.iterations,
        "steps": setting.train.inner.steps,
        "step_size": setting.train.inner.step_size,
        "sequences": setting.sequences,
        "tasks": setting.tasks,
        "shots": family.shots,
        "ways": getattr(family, "ways", None),
    }


if __name__ == "__main__":
    main()

"""``metarl sequence``: test tasks that arrive one after another, what is kept of them and what forgotten."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.experiments.draw_sequence import draw_sequence, title
from metarl.experiments.evaluate_few_shot import FewShotEvaluateConfig, judged_run
from metarl.experiments.few_shot_scores import MAIN, mean_and_interval, score_text, setting_of
from metarl.experiments.runs import Run, load_run, write_json
from metarl.few_shot.forgetting import sequence_figures
from metarl.few_shot.meta_learner import judge
from metarl.few_shot.sequence_scores import draw_sequences, judge_sequences
from metarl.few_shot.sequences import Sequencer, make_sequencer
from metarl.logs import write_picture
from metarl.rollout.seeding import Stream, generator
from metarl.variants.sequences import SequenceConfig

SEQUENCE = "sequence"
"""The file of a run, without its suffix."""
SEQUENCES = {"classification": 50, "regression": 200}
"""How many are drawn unless told."""

FIGURES = {
    "average": "on all tasks at the end",
    "learning": "on each task right after it",
    "backward_transfer": "what later tasks did for earlier ones",
    "forgetting": "from the best before to the end",
    "forward_transfer": "what earlier tasks did for later ones",
}
"""Figures of a sequence in words."""


@dataclass(frozen=True, kw_only=True)
class SequenceRunConfig:
    """Let test tasks arrive one after another, and judge what is kept of each: parameters are never set back."""

    protocol: Annotated[SequenceConfig, tyro.conf.arg(name="")] = field(default_factory=SequenceConfig)
    """How they are learned."""
    sequences: int | None = None
    """How many sequences (M); 50 of classification and 200 of regression if left out."""
    shots: int | None = None
    """Support examples (of each class) in a task; the run's own if left out."""
    queries: int | None = None
    """Query examples (of each class); 100 in regression, and in classification the run's own, if left out."""
    transductive: bool | None = None
    """Whether the queries of a task share their normalization statistics; the run's own choice if left out."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Best means on the training run's own validation tasks."""
    seed: int = 0
    """Of the tasks, in a stream that training does not use."""
    label: str | None = None
    """Write sequence-LABEL.json and .png beside the other ones of the run rather than sequence.json."""

    def __post_init__(self) -> None:
        check_label(self.label)
        if self.sequences is not None and self.sequences < 2:
            raise ValueError(f"sequences must be at least 2, for an interval over them, got {self.sequences}; try 50")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


def check_label(label: str | None) -> None:
    """That a label can be part of a file's name.

    Raises:
        ValueError: if not.
    """
    if label is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", label):
        raise ValueError(f"label must be of small letters, digits and hyphens, got {label!r}; try ewc")


class AnySequencer(Protocol):
    """What goes through sequences, as far as it is described."""

    @property
    def consolidate(self) -> str:
        """What holds it."""
        ...

    @property
    def strength(self) -> float:
        """Lambda."""
        ...


class Scores(NamedTuple):
    """What sequences and the same tasks from the start were judged by."""

    matrix: Mapping[str, np.ndarray]
    """By name, ``[J + 1, J, M]``; the first is what is learned for."""
    alone: np.ndarray
    """The main score after K steps from the start, ``[J, M]``."""


def sequence_run(directory: Path, options: SequenceRunConfig, console: Console) -> dict[str, Any]:
    """Judge a run on sequences, print the tables, write ``sequence.json`` and ``sequence.png``, or those of the label.

    Raises:
        RunError: if the directory is not a run.
        CheckpointError: if its checkpoint cannot be read.
        UnsuitableAlgorithm: if nothing of what learned goes on from task to task.
        ValueError: if its family or what it learned cannot be judged as asked for.
    """
    return judge_and_write(directory, options.checkpoint, options.label, lambda run: summarize(run, options), console)


def judge_and_write(
    directory: Path,
    checkpoint: str,
    label: str | None,
    judged: Callable[[Run], dict[str, Any]],
    console: Console,
) -> dict[str, Any]:
    """Load a run, judge it, print the tables, write ``sequence.json`` and ``sequence.png`` or those of the label."""
    run = load_run(directory, checkpoint)
    for complaint in run.complaints:
        console.print(f"[yellow]passed over:[/] {complaint}", soft_wrap=True)
    with console.status("learning tasks one after another"):
        result = judged(run)
    console.print(progress_table(result))
    console.print(figures_table(result))
    path = directory / f"{SEQUENCE if label is None else f'{SEQUENCE}-{label}'}.json"
    write_json(path, result)
    pixels = draw_sequence(result, path.with_suffix(".png"))
    write_picture(directory, path.stem, pixels, run.state.iteration)
    console.print(f"written to {path} and {path.with_suffix('.png')}", soft_wrap=True)
    return result


def described(
    run: Run, protocol: SequenceConfig, sequencer: AnySequencer, checkpoint: str, seed: int
) -> dict[str, Any]:
    """What stands in ``sequence.json`` of any run, and how it was judged."""
    train = run.config.train
    return {
        "family": run.config.family_name,
        "preset": run.config.preset,
        "algorithm": train.algorithm,
        "training_seed": train.seed,
        "training_steps": train.inner.steps,
        "iteration": run.state.iteration,
        "checkpoint": checkpoint,
        "tasks": protocol.tasks,
        "steps": protocol.steps,
        "consolidate": sequencer.consolidate,
        "strength": float(f"{sequencer.strength:.6g}"),  # what was kept as float32 is 0.1 again
        "decay": protocol.decay,
        "mean_one": protocol.mean_one,
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def summarize(run: Run, options: SequenceRunConfig) -> dict[str, Any]:
    """Means over sequences with their 95 % intervals (Student's t), and how they came about.

    ``matrix`` has the main score after 0..J tasks on each of the J; a mean is null where a sequence led to numbers that
    are not finite, and ``diverged`` counts such sequences.
    """
    run = judged_run(run, FewShotEvaluateConfig(shots=options.shots, queries=options.queries))
    train, family, protocol = run.config.train, run.config.family, options.protocol
    sequencer = make_sequencer(run.learner, run.state.meta, protocol, kind=family.kind, step_size=train.inner.step_size)
    count = options.sequences or SEQUENCES[family.kind]
    tasks = draw_sequences(family, generator(options.seed, Stream.EVALUATION_TASKS), count, protocol.tasks)
    transductive = train.transductive if options.transductive is None else options.transductive
    scores = _scores(run, sequencer, options, tasks, transductive)
    shown = family.examples(tasks[0, :1])
    ways, shots = setting_of(family, shown.support_inputs.shape[1])
    return described(run, protocol, sequencer, options.checkpoint, options.seed) | {
        "ways": ways,
        "shots": shots,
        "queries": shown.query_inputs.shape[1],
        "sequences": count,
        "transductive": transductive,
        **summary(scores, family.kind),
    }


def _scores(
    run: Run, sequencer: Sequencer, options: SequenceRunConfig, tasks: np.ndarray, transductive: bool
) -> Scores:
    family, device, (count, length, size) = run.config.family, run.config.train.device, tasks.shape
    matrix = judge_sequences(family, sequencer, tasks, transductive=transductive, device=device, seed=options.seed)
    alone = judge(
        family,
        run.learner,
        run.state.meta,
        tasks.reshape(-1, size),
        steps=options.protocol.steps,
        transductive=transductive,
        device=device,
    )
    return Scores(matrix, alone[MAIN[family.kind]][-1].reshape(count, length).T)


def summary(scores: Scores, kind: str) -> dict[str, Any]:
    """What of the scores stands in ``sequence.json``."""
    name = MAIN[kind]
    diverged = ~np.all([np.isfinite(each) for each in scores.matrix.values()], axis=(0, 1, 2))  # accuracy may look fine
    matrix = np.where(diverged, np.nan, scores.matrix[name])
    length = matrix.shape[1]
    figures = sequence_figures(matrix, lower_is_better=kind == "regression")
    return {
        "score": name,
        "matrix": _columns(matrix),
        "seen": _columns(np.stack([matrix[done, :done].mean(0) for done in range(1, length + 1)])),
        "figures": {each: _columns(values) for each, values in figures._asdict().items()},
        "alone": _columns(scores.alone.mean(0)),
        "diverged": int(diverged.sum()),
    }


def _columns(values: np.ndarray) -> dict[str, Any]:
    """Means over the last axis and half their intervals, in lists as deep as the other axes."""
    if values.ndim == 1:
        mean, half = mean_and_interval(values)
        return {"mean": mean, "ci95": half}
    rows = [_columns(row) for row in values]
    return {"mean": [row["mean"] for row in rows], "ci95": [row["ci95"] for row in rows]}


def progress_table(result: Mapping[str, Any]) -> Table:
    """Scores after each task."""
    name, matrix, seen = result["score"], result["matrix"], result["seen"]
    how = f"{result['sequences']} sequences of {result['tasks']} tasks, {result['steps']} steps on each"
    view = Table(title=f"{title(result)}\n{how}; {name}, 95 % interval", min_width=48)
    for column in ("tasks learned", "the last one", "all learned", "the next one"):
        view.add_column(column, justify="right")
    for done in range(result["tasks"] + 1):
        view.add_row(
            str(done),
            _text(name, matrix, done, done - 1) if done else "",
            score_text(name, seen["mean"][done - 1], seen["ci95"][done - 1]) if done else "",
            _text(name, matrix, done, done) if done < result["tasks"] else "",
        )
    return view


def _text(name: str, matrix: Mapping[str, Any], row: int, column: int) -> str:
    return score_text(name, matrix["mean"][row][column], matrix["ci95"][row][column])


def figures_table(result: Mapping[str, Any]) -> Table:
    """The figures of sequences, and the same tasks learned from the start."""
    view = Table(caption=f"diverged: {result['diverged']} sequences" if result["diverged"] else None, min_width=48)
    view.add_column(result["score"], no_wrap=True)
    view.add_column("mean, 95 % interval", justify="right", no_wrap=True)
    view.add_column("what")
    for name, words in FIGURES.items():
        figure = result["figures"][name]
        view.add_row(name.replace("_", " "), score_text(result["score"], figure["mean"], figure["ci95"]), words)
    alone = result["alone"]
    view.add_row("alone", score_text(result["score"], alone["mean"], alone["ci95"]), "each task from the start, K-shot")
    return view

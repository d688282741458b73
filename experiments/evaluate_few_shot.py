"""``metarl evaluate`` of few-shot runs: accuracy or error on test tasks after each gradient step."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from metarl.experiments.evaluate import EVALUATION
from metarl.experiments.few_shot_scores import mean_and_interval, score_text, setting_of, setting_words, shown_steps
from metarl.experiments.plot_few_shot import draw_evaluation
from metarl.experiments.runs import Run, load_run, write_json
from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.meta_learner import judge
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import FewShotFamily

TASKS = {"classification": 600, "regression": 1000}
"""Test tasks that are usual: 600 since Finn et al. 2017 (arXiv:1703.03400, app. A.1)."""
REGRESSION_QUERIES = 100
"""Query points of a task in regression, far more than in training: the error of a whole curve, not of a few points."""


@dataclass(frozen=True, kw_only=True)
class FewShotEvaluateConfig:
    """How a few-shot run is judged: on test tasks, before and after each gradient step."""

    steps: int = 10
    """Gradient steps K."""
    tasks: int | None = None
    """Test tasks; 600 of classification and 1000 of regression if left out."""
    ways: int | None = None
    """Classes in a task N; the run's own if left out."""
    shots: int | None = None
    """Support examples (of each class) K; the run's own if left out."""
    queries: int | None = None
    """Query examples (of each class); 100 in regression, and in classification the run's own, if left out."""
    transductive: bool | None = None
    """Whether the queries of a task share their normalization statistics; the run's own choice if left out."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Best means on the training run's own validation tasks."""
    variants: bool = False
    """Also judge what training did not see: other numbers of shots, ranges, noise."""
    seed: int = 0
    """Of the tasks, in a stream that training does not use."""
    label: str | None = None
    """Write evaluation-LABEL.json and .png beside the other evaluations of the run rather than evaluation.json."""

    def __post_init__(self) -> None:
        if self.label is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.label):
            raise ValueError(f"label must be of small letters, digits and hyphens, got {self.label!r}; try 20-way")
        for name in ("tasks", "ways", "shots", "queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


def evaluate_few_shot_run(directory: Path, options: FewShotEvaluateConfig, console: Console) -> dict[str, Any]:
    """Evaluate a run, print the tables and write ``evaluation.json`` and ``evaluation.png``, or those of the label.

    Raises:
        RunError: if the directory is not a run.
        CheckpointError: if its checkpoint cannot be read.
        ValueError: if its family or what it learned cannot be judged as asked for.
    """
    run = load_run(directory, options.checkpoint)
    for complaint in run.complaints:
        console.print(f"[yellow]passed over:[/] {complaint}", soft_wrap=True)
    with console.status("judging test tasks"):
        result = summarize(run, options)
    console.print(table(result))
    if result["variants"]:
        console.print(variants_table(result))
    else:
        console.print(
            f"other shots, ranges and noise: metarl evaluate {directory} --variants True", soft_wrap=True, style="dim"
        )
    path = directory / (EVALUATION if options.label is None else f"evaluation-{options.label}.json")
    write_json(path, result)
    draw_evaluation(result, path.with_suffix(".png"))
    console.print(f"written to {path} and {path.with_suffix('.png')}", soft_wrap=True)
    return result


def judged_family(family: FewShotFamily, options: FewShotEvaluateConfig) -> FewShotFamily:
    """The family whose tasks a run is judged on: its own, with the numbers that are asked for.

    Raises:
        ValueError: if the family has no such number, or refuses it.
    """
    fields: list[str] = [item.name for item in dataclasses.fields(family)] if dataclasses.is_dataclass(family) else []
    asked = {name: getattr(options, name) for name in ("ways", "shots", "queries")}
    asked = {name: value for name, value in asked.items() if value is not None}
    missing = [name for name in asked if name not in fields]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} can be told only of families that have a field of that name; "
            f"{type(family).__name__} has none: leave it out"
        )
    if family.kind == "regression" and "queries" in fields:
        asked = {"queries": REGRESSION_QUERIES} | asked
    changed: FewShotFamily = dataclasses.replace(family, **asked) if asked else family  # type: ignore[type-var]
    return changed


def judged_run(run: Run, options: FewShotEvaluateConfig) -> Run:
    """The run with the family it is judged on, and its learner for those tasks.

    Raises:
        ValueError: if what was learned is for another number of classes.
    """
    family = judged_family(run.config.family, options)
    config = dataclasses.replace(run.config, family=family)
    learner = make_learner(family, config.train)
    needed = {name: value.shape for name, value in learner.init(torch.Generator()).theta.items()}
    if needed != {name: value.shape for name, value in run.state.meta.theta.items()}:
        raise ValueError(
            f"{config.train.algorithm} learned parameters for {run.config.family.outputs} outputs, and these tasks "
            f"have {family.outputs}; train with --ways {family.outputs}, or leave --ways out"
        )
    return run._replace(config=config, learner=learner)


def summarize(run: Run, options: FewShotEvaluateConfig) -> dict[str, Any]:
    """Means over tasks with their 95 % intervals (Student's t), and how they came about.

    A mean is null after a step that led a task to numbers that are not finite; ``diverged`` counts such tasks. Of a
    learner without gradient steps there is one figure, and ``takes_steps`` is false.
    """
    trained, run = run.config.family, judged_run(run, options)
    train, family, kind = run.config.train, run.config.family, run.config.family.kind
    count = options.tasks or TASKS[kind]
    transductive = train.transductive if options.transductive is None else options.transductive

    def judged(family: FewShotFamily) -> dict[str, Any]:
        return _judged(run, family, options, count, transductive)

    own = judged(family)
    return {
        "family": run.config.family_name,
        "preset": run.config.preset,
        "algorithm": train.algorithm,
        "training_seed": train.seed,
        "training_steps": train.inner.steps,
        "training_ways": trained.outputs if kind == "classification" else None,
        "training_shots": getattr(trained, "shots", None),
        "iteration": run.state.iteration,
        "checkpoint": options.checkpoint,
        "tasks": count,
        "transductive": transductive,
        "takes_steps": options.steps == 0 or len(own["diverged"]) > 1,
        **own,
        "variants": {name: judged(each) for name, each in family.variants().items()} if options.variants else {},
        "seed": options.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _judged(
    run: Run, family: FewShotFamily, options: FewShotEvaluateConfig, count: int, transductive: bool
) -> dict[str, Any]:
    """Shots, queries and scores of one family."""
    tasks = family.sample_test(generator(options.seed, Stream.EVALUATION_TASKS), count)
    shown = family.examples(tasks[:1])
    ways, shots = setting_of(family, shown.support_inputs.shape[1])
    scores = judge(
        family,
        run.learner,
        run.state.meta,
        tasks,
        steps=options.steps,
        transductive=transductive,
        device=run.config.train.device,
    )
    return {"ways": ways, "shots": shots, "queries": shown.query_inputs.shape[1], **figures(scores)}


def figures(scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Scores ``[K + 1, M]`` as they stand in ``evaluation.json``; after 0 steps alone where steps change nothing."""
    if all((rows == rows[:1]).all() for rows in scores.values()):
        scores = {name: rows[:1] for name, rows in scores.items()}
    diverged = ~np.all([np.isfinite(rows) for rows in scores.values()], axis=0)  # the logits' maximum may look fine
    found = {}
    for name, rows in scores.items():
        pairs = [mean_and_interval(row) for row in np.where(diverged.any(1, keepdims=True), np.nan, rows)]
        found[name] = {"mean": [mean for mean, _ in pairs], "ci95": [half for _, half in pairs]}
    return {"scores": found, "diverged": diverged.sum(1).tolist()}


def table(result: dict[str, Any]) -> Table:
    """Scores after 0..K gradient steps."""
    setting = setting_words(result["ways"], result["shots"])
    how = "transductive" if result["transductive"] else "not transductive"
    view = Table(
        title=f"{result['family']} {setting}, {result['algorithm']}\n{result['tasks']} test tasks, {how}",
        caption=f"{result['queries']} queries a task, "
        + ("answered together" if result["transductive"] else "each answered alone"),
        min_width=48,
    )
    view.add_column("gradient steps", justify="right")
    for name in result["scores"]:
        view.add_column(f"{name}, 95 % interval", justify="right")
    for step, diverged in enumerate(result["diverged"]):
        cells = [_cell(result, name, step) for name in result["scores"]]
        count = f" on {diverged} tasks" if diverged else ""
        view.add_row(str(step) if result["takes_steps"] else "takes none", *(f"{cell}{count}" for cell in cells))
    return view


def variants_table(result: dict[str, Any]) -> Table:
    """The main score of what training did not see, beside that of tasks as in training."""
    main = next(iter(result["scores"]))
    view = Table(title=f"{main} on {result['tasks']} test tasks of each variant", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("test tasks", no_wrap=True)
    last = len(result["diverged"]) - 1
    steps = [step for step in shown_steps(last) if step != 5 or last == 5]  # so that 80 columns will do
    for step in steps:
        view.add_column(f"after {step}" if result["takes_steps"] else main, justify="right", no_wrap=True)
    for name, each in {"as in training": result, **result["variants"]}.items():
        view.add_row(name, *(_cell(each, main, step) for step in steps if step < len(each["diverged"])))
    return view


def _cell(judged: dict[str, Any], name: str, step: int) -> str:
    columns = judged["scores"][name]
    return score_text(name, columns["mean"][step], columns["ci95"][step])

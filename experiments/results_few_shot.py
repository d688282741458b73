"""The table of what few-shot runs reached, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl.experiments.few_shot_scores import over_seeds, score_text, setting_words, shown_steps, trained_words


class FewShotRow(NamedTuple):
    """What the runs of one setting reached."""

    family: str
    setting: str
    """Ways and shots."""
    algorithm: str
    seeds: list[int]
    minutes: list[float]
    transductive: bool
    score: str
    """What it is judged by."""
    mean: np.ndarray
    """After 0..K gradient steps, of one learner without them; nan where it diverged."""
    half_width: np.ndarray
    """Of the 95 % interval."""
    over: str
    """What the interval is over."""
    takes_steps: bool


def is_few_shot(evaluation: Mapping[str, Any]) -> bool:
    """Whether an ``evaluation.json`` is of a few-shot run."""
    return "scores" in evaluation


def few_shot_rows(runs: Sequence[tuple[Mapping[str, Any], float]]) -> list[FewShotRow]:
    """Evaluations of one setting together, each with the run's minutes, in the order in which they come."""
    groups: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], float]]] = {}
    for evaluation, minutes in runs:
        names = ("family", "preset", "algorithm", "ways", "shots", "transductive", "takes_steps")
        key = (
            *(evaluation[name] for name in names),
            *(evaluation.get(name) for name in ("training_ways", "training_shots")),
        )
        groups.setdefault(key, []).append((evaluation, minutes))
    return [_row([each for each, _ in group], [minutes for _, minutes in group]) for group in groups.values()]


def _row(evaluations: Sequence[Mapping[str, Any]], minutes: list[float]) -> FewShotRow:
    first = evaluations[0]
    score = next(iter(first["scores"]))
    mean, half_width, over = over_seeds(evaluations, score)
    own = first["preset"] in ("default", first["algorithm"])
    algorithm = first["algorithm"] if own else f"{first['algorithm']} ({first['preset']})"
    return FewShotRow(
        family=first["family"],
        setting=setting_words(first["ways"], first["shots"]),
        algorithm=algorithm + trained_words(first),
        seeds=[int(each["training_seed"]) for each in evaluations],
        minutes=minutes,
        transductive=first["transductive"],
        score=score,
        mean=mean,
        half_width=half_width,
        over=over,
        takes_steps=first["takes_steps"],
    )


def few_shot_cells(table: Sequence[FewShotRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, but for the minutes; a learner without gradient steps has one score."""
    steps = sorted({step for row in table if row.takes_steps for step in shown_steps(len(row.mean) - 1)} or {0})
    lines = []
    for row in table:
        if row.takes_steps:
            scores = [_text(row, step) if step < len(row.mean) else "" for step in steps]
        else:
            scores = [f"{_text(row, 0)} (no steps)", *[""] * (len(steps) - 1)]
        judged = [row.score, "yes" if row.transductive else "no", row.over]
        seeds = ", ".join(str(seed) for seed in row.seeds)
        lines.append([f"`{row.family}`", row.setting, row.algorithm, seeds, *judged, *scores])
    after = [f"after {step}" for step in steps]
    return ["family", "setting", "algorithm", "seeds", "score", "transductive", "95 % interval over", *after], lines


def _text(row: FewShotRow, step: int) -> str:
    return score_text(row.score, float(row.mean[step]), float(row.half_width[step]))


def variants_markdown(evaluations: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> str:
    """The main score of test tasks that differ from training's: a row for each variant, columns for runs and steps.

    Args:
        evaluations: contents of ``evaluation.json`` with the same variants.
        steps: after which scores are shown; of learners without gradient steps there is one column.
    """
    columns = [(each, step) for each in evaluations for step in (steps if each["takes_steps"] else (0,))]
    head = [
        "test tasks",
        *(f"{each['algorithm']}, after {step}" if each["takes_steps"] else each["algorithm"] for each, step in columns),
    ]
    lines = [head, ["---"] * len(head)]
    for name in ("as in training", *evaluations[0]["variants"]):
        lines.append([name, *(_variant(each, name, step) for each, step in columns)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _variant(evaluation: Mapping[str, Any], name: str, step: int) -> str:
    score = next(iter(evaluation["scores"]))
    found = evaluation["variants"].get(name, evaluation)["scores"][score]
    return score_text(score, found["mean"][step], found["ci95"][step])

"""Does it help to learn most from samples whose gradients are novel? Ways to weight the support, clean and mislabeled.

    python -m metarl.experiments.study_curiosity

Every way, setting and seed is a training run of its own on Omniglot; what is in the output file already is not made
again. ``docs/curiosity.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from scipy import stats

import metarl.envs  # noqa: F401  registers the families
from metarl.engine import meta_train
from metarl.experiments.config import RunConfig
from metarl.experiments.curiosity_pictures import draw_curiosity, mislabeled
from metarl.experiments.few_shot_scores import mean_and_interval, score_text
from metarl.experiments.kinds import kind_of
from metarl.experiments.runs import write_json
from metarl.experiments.study_file import open_study
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.curious import CuriousLearner
from metarl.few_shot.meta_learner import FewShotMetaLearner, few_shot_data, judge
from metarl.outer.adam import OptimizerConfig
from metarl.processor import single_threaded
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import make_family
from metarl.types import Meta

_GRADIENT = CuriosityConfig(kind="gradient", temperature=2.0)
WAYS: dict[str, CuriosityConfig] = {
    "none": CuriosityConfig(),
    "loss": dataclasses.replace(_GRADIENT, measure="loss"),
    "norm": dataclasses.replace(_GRADIENT, measure="norm"),
    "direction": dataclasses.replace(_GRADIENT, measure="direction"),
    "plain": dataclasses.replace(_GRADIENT, measure="plain"),
    "features": _GRADIENT,
    "features, no inverse model": dataclasses.replace(_GRADIENT, forward_weight=1.0, joint=True),
    "features, tasks too": dataclasses.replace(_GRADIENT, outer=True),
    "none, shorter steps": CuriosityConfig(),
}
"""How the support is weighted; the first is what all others are compared with. Weights by direction shorten the inner
step, so that steps of three quarters of its size stand beside them."""
SHORTER = {"none, shorter steps": 0.3}
"""Inner step sizes of the ways that have another."""

SETTINGS: dict[str, dict[str, Any]] = {
    "1 shot": {"queries": 3},
    "5 shots": {"queries": 3, "shots": 5},
    "5 shots, 20 % mislabeled": {"queries": 3, "shots": 5, "label_noise": 0.2},
}
"""Options of the family, in training and in the test."""

TRAIN = FewShotConfig(
    net=NetConfig(filters=16),
    inner=FewShotInnerConfig(steps=1, step_size=0.4),
    outer=OptimizerConfig(learning_rate=0.003, schedule="cosine"),
    meta_batch_size=4,
    iterations=150,
    held_out_every=0,
    log_every=150,
)
TEST_TASKS, SHOWN_TASKS = 300, 4
STEPS = 3
"""Where the test judges; training takes one."""


class Judged(NamedTuple):
    """What a trained learner does on test tasks."""

    accuracy: float
    """After ``STEPS`` steps, mean over tasks."""
    weight_of_mislabeled: float | None
    """Mean weight of the samples with a wrong label, those with a right one having the rest; None without any."""
    like_norm: float | None
    """Rank correlation of the weights with those by the norm of the gradient alone, mean over tasks."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Ways to weight the support on Omniglot."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """A run of each way in each setting for each."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Those to train and judge."""
    output: Path = Path("experiments/results/curiosity")
    """Folder of omniglot.json and the pictures."""
    data: str | None = None
    """Where Omniglot lies; see its family."""

    def __post_init__(self) -> None:
        unknown = set(self.ways) - set(WAYS)
        if unknown:
            raise ValueError(f"ways must be some of {', '.join(WAYS)}, got {', '.join(sorted(unknown))}")


def main() -> None:
    """Make the runs that are missing, then the table."""
    study, console = tyro.cli(Study), Console()
    path = study.output / "omniglot.json"
    content = open_study(path, {"iterations": TRAIN.iterations, "test_tasks": TEST_TASKS, "steps": STEPS})
    for seed in study.seeds:
        for setting in SETTINGS:
            for way in study.ways:
                key = {"way": way, "setting": setting, "seed": seed}
                if any(key.items() <= run.items() for run in content["runs"]):
                    continue
                found = train_and_judge(study, way, setting, seed)
                content["runs"].append(key | found._asdict())
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, content)
                console.print(f"{key}: {found.accuracy:.3f}", soft_wrap=True)
    console.print(markdown(content), markup=False, soft_wrap=True)


def run_config(study: Study, way: str, setting: str, seed: int) -> RunConfig:
    """The training run of a way to weight."""
    family = make_family("omniglot", **SETTINGS[setting], **({"data": study.data} if study.data else {}))
    inner = dataclasses.replace(TRAIN.inner, step_size=SHORTER.get(way, TRAIN.inner.step_size))
    train = dataclasses.replace(TRAIN, inner=inner, curiosity=WAYS[way], seed=seed)
    return RunConfig(family_name="omniglot", preset="curiosity", family=family, train=train)


def train_and_judge(study: Study, way: str, setting: str, seed: int) -> Judged:
    """One training run, and what its weights look at; the first seed's with a picture."""
    config = run_config(study, way, setting, seed)
    family, train = config.family, config.train
    learner, state = kind_of(family).prepare(config)
    with single_threaded():
        for iteration in meta_train(FewShotMetaLearner(family, learner, train), train, state):
            state = iteration.state
    tasks = family.sample_test(generator(0, Stream.EVALUATION_TASKS), TEST_TASKS)
    rows = judge(family, learner, state.meta, tasks, steps=STEPS, transductive=True, device="cpu")["accuracy"]
    wrong_weight, alike = None, None
    if isinstance(learner, CuriousLearner):
        wrong_weight, alike = _looked_at(family, learner, state.meta, tasks)
        if seed == study.seeds[0]:
            name = f"{way}-{setting}".replace(" %", "").replace(", ", "-").replace(" ", "-")
            study.output.mkdir(parents=True, exist_ok=True)
            picture = draw_curiosity(family, learner, state.meta, tasks[:SHOWN_TASKS])
            Image.fromarray(picture).save(study.output / f"{name}.png")
    return Judged(float(rows[STEPS].mean()), wrong_weight, alike)


def _looked_at(
    family: Any, learner: CuriousLearner, meta: Meta, tasks: np.ndarray
) -> tuple[float | None, float | None]:
    """Mean weight of mislabeled samples, and how the weights rank beside those of gradient norms."""
    support = few_shot_data(family, tasks, 1, "cpu").support[0]
    by_norm = learner._replace(
        curiosity=learner.curiosity._replace(config=dataclasses.replace(_GRADIENT, measure="norm"))
    )
    weights, norms = (each.attend(meta, support).weights.values.numpy() for each in (learner, by_norm))
    ranks = [stats.spearmanr(*pair).statistic for pair in zip(weights, norms, strict=True)]
    wrong = mislabeled(family, tasks)
    return float(weights[wrong].mean()) if wrong.any() else None, float(np.nanmean(ranks)) if ranks else None


def over_seeds(content: dict[str, Any], way: str, setting: str, figure: str) -> np.ndarray:
    """A figure of each seed, in the order of the seeds."""
    return np.array([run[figure] for run in _runs(content, way, setting).values()], dtype=float)


def _runs(content: dict[str, Any], way: str, setting: str) -> dict[int, dict[str, Any]]:
    """By their seeds, in order."""
    found = {run["seed"]: run for run in content["runs"] if (run["way"], run["setting"]) == (way, setting)}
    return dict(sorted(found.items()))


def markdown(content: dict[str, Any]) -> str:
    """The table of the page: accuracies, differences from no weights at all seed by seed, and what was looked at."""
    head = ("support", "weighted by", "seeds", "accuracy", "against none", "weight of mislabeled", "rank like the norm")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for setting in SETTINGS:
        none = _runs(content, "none", setting)
        for way in WAYS:
            accuracy = over_seeds(content, way, setting, "accuracy")
            if not len(accuracy):
                continue
            pairs = [(run, none[seed]) for seed, run in _runs(content, way, setting).items() if seed in none]
            apart = np.array([run["accuracy"] - other["accuracy"] for run, other in pairs])
            against = "" if way == "none" else _points(apart)
            wrong, alike = (over_seeds(content, way, setting, each) for each in Judged._fields[1:])
            cells = [
                score_text("accuracy", *mean_and_interval(accuracy)),
                against,
                f"{wrong.mean():.2f}" if np.isfinite(wrong).all() else "",
                f"{alike.mean():.2f}" if np.isfinite(alike).all() else "",
            ]
            lines.append(f"| {setting} | {way} | {len(accuracy)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(differences: np.ndarray) -> str:
    mean, half = mean_and_interval(100.0 * differences) if len(differences) else (None, None)
    return "" if mean is None else f"{mean:+.2f}" + ("" if half is None else f" ± {half:.2f}")


if __name__ == "__main__":
    main()

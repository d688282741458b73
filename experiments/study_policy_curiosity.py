"""Does it help policies to look for what they did not foresee? Curiosity in the inner loop on navigation.

    python -m metarl.experiments.study_policy_curiosity

Goals lie on a half-circle around the start, and are rewarded by the distance everywhere or (sparse) within 0.2 m of
them alone. Every way, setting and seed is a training run of its own; what is in the output file already is not made
again. ``docs/curiosity.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

import metarl.envs  # noqa: F401  registers the families
from metarl.engine import meta_train
from metarl.experiments.config import RunConfig
from metarl.experiments.few_shot_scores import mean_and_interval, score_text
from metarl.experiments.kinds import REINFORCEMENT
from metarl.experiments.presets import preset_config
from metarl.experiments.runs import write_json
from metarl.experiments.study_file import open_study
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.collecting import evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import make_family

_GRADIENT = CuriosityConfig(kind="gradient")
WAYS: dict[str, CuriosityConfig] = {
    "none": CuriosityConfig(),
    "transition, 0.1": CuriosityConfig(kind="transition"),
    "transition, 1": CuriosityConfig(kind="transition", strength=1.0),
    "gradient": _GRADIENT,
    "gradient, norm": dataclasses.replace(_GRADIENT, measure="norm"),
    "gradient, direction": dataclasses.replace(_GRADIENT, measure="direction"),
}
"""What the inner loop looks for; the first is what all others are compared with."""

_HALF_CIRCLE = {"goals": "half-circle", "extent": 1.0, "terminate": False}
SETTINGS: dict[str, dict[str, Any]] = {"distance": _HALF_CIRCLE, "sparse": {**_HALF_CIRCLE, "radius": 0.2}}
"""Options of the family."""

TASKS, EPISODES = 100, 20
"""Of the test: held-out goals, episodes of each and step."""


def training() -> MetaTrainConfig:
    """What all ways have in common: the family's preset with half its tasks."""
    start: MetaTrainConfig = preset_config("navigation-2d", "default").train
    rollout = dataclasses.replace(start.rollout, horizon=50)
    return dataclasses.replace(start, rollout=rollout, iterations=40, meta_batch_size=20, held_out_every=0)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Ways to be curious on navigation."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """A run of each way in each setting for each."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Those to train and judge."""
    settings: tuple[str, ...] = tuple(SETTINGS)
    """Rewards by the distance, or sparse ones."""
    output: Path = Path("experiments/results/curiosity")
    """Folder of navigation-2d.json."""

    def __post_init__(self) -> None:
        for what, asked, known in (("ways", self.ways, WAYS), ("settings", self.settings, SETTINGS)):
            unknown = set(asked) - set(known)
            if unknown:
                raise ValueError(f"{what} must be some of {'; '.join(known)}, got {'; '.join(sorted(unknown))}")


def main() -> None:
    """Make the runs that are missing, then the table."""
    study, console = tyro.cli(Study), Console()
    path = study.output / "navigation-2d.json"
    common = training()
    setting = {
        "iterations": common.iterations,
        "tasks": common.meta_batch_size,
        "horizon": common.rollout.horizon,
        "test_tasks": TASKS,
        "test_episodes": EPISODES,
    }
    content = open_study(path, setting)
    for seed in study.seeds:
        for reward in study.settings:
            for way in study.ways:
                key = {"way": way, "setting": reward, "seed": seed}
                if any(key.items() <= run.items() for run in content["runs"]):
                    continue
                returns = train_and_judge(way, reward, seed)
                content["runs"].append(key | {"returns": returns})
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, content)
                console.print(f"{key}: {' → '.join(f'{each:.1f}' for each in returns)}", soft_wrap=True)
    console.print(markdown(content), markup=False, soft_wrap=True)


def train_and_judge(way: str, setting: str, seed: int) -> list[float]:
    """Mean returns over held-out goals of one training run, before and after its gradient step, the bonus left out."""
    family = make_family("navigation-2d", **SETTINGS[setting])
    train = dataclasses.replace(training(), curiosity=WAYS[way], seed=seed)
    config = RunConfig(family_name="navigation-2d", preset="curiosity", family=family, train=train)
    policy, state = REINFORCEMENT.prepare(config)
    with REINFORCEMENT.open(config, policy) as meta_learner:
        for iteration in meta_train(meta_learner, train, state):
            state = iteration.state
    learner = make_learner(policy, train, [train.inner.step_size] * train.inner.steps, held=state.meta.elastic)
    tasks = family.sample(generator(0, Stream.EVALUATION_TASKS), TASKS)
    rollout = dataclasses.replace(train.rollout, episodes=EPISODES)
    found = evaluate(family, learner, state.meta, tasks, rollout, EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ()))
    return [float(each) for each in found.returns.mean(1)]


def by_seed(content: dict[str, Any], way: str, setting: str) -> dict[int, list[float]]:
    """Returns before and after the step of each seed that there is, in order."""
    runs = [run for run in content["runs"] if (run["way"], run["setting"]) == (way, setting)]
    return {int(run["seed"]): run["returns"] for run in sorted(runs, key=lambda run: int(run["seed"]))}


def markdown(content: dict[str, Any]) -> str:
    """The table of the page: returns, and after the step differences from no curiosity of the same seeds."""
    head = ["reward", "curiosity", "seeds", "before", "after one step", "against none"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for setting in SETTINGS:
        none = by_seed(content, "none", setting)
        for way in WAYS:
            found = by_seed(content, way, setting)
            if not found:
                continue
            cells = [
                score_text("return", *mean_and_interval(np.array(each))) for each in zip(*found.values(), strict=True)
            ]
            apart = np.array([found[seed][-1] - none[seed][-1] for seed in found if seed in none])
            paired = way != "none" and len(apart)
            against = score_text("return", *mean_and_interval(apart)) if paired else ""
            lines.append(f"| {setting} | {way} | {len(found)} | {' | '.join(cells)} | {against} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Bias and variance of meta-gradients on a problem where the exact one is known.

    python -m metarl.experiments.study_estimators

Every estimator takes the same sampled batches, many times over; ``docs/estimators.md`` reads the results.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from torch import Tensor

from metarl.experiments.measure import machine
from metarl.experiments.runs import write_json
from metarl.experiments.two_state import (
    INNER_STEP_SIZE,
    MOVES,
    POLICY,
    START,
    THETA,
    batch_of,
    exact_meta_gradient,
    expected_return,
    gradient,
    values,
)
from metarl.inner.adapt import Learner, adapt
from metarl.inner.policy_problem import PolicyProblem
from metarl.inner.rules import sgd
from metarl.losses import Estimator, make_inner_loss
from metarl.outer.linearize import linearize
from metarl.outer.objectives import SURROGATE, Objective, exploring
from metarl.processor import single_threaded
from metarl.types import Meta, Rollouts, TaskData


class Row(NamedTuple):
    """A meta-gradient to be measured."""

    estimator: Estimator
    objective: Objective
    first_order: bool


ROWS: dict[str, Row] = {
    "dice": Row("dice", SURROGATE, False),
    "lvc": Row("lvc", SURROGATE, False),
    "reinforce": Row("reinforce", SURROGATE, False),
    "first order": Row("lvc", SURROGATE, True),
    "e-maml, lvc": Row("lvc", exploring(standardized=False), False),
    "e-maml, reinforce": Row("reinforce", exploring(standardized=False), False),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Bias and variance of every meta-gradient of one inner step."""

    episodes: tuple[int, ...] = (5, 20, 80)
    """Of support and of query, each measured."""
    repeats: int = 2000
    """Independent meta-gradients of each."""
    seed: int = 1
    """Of the episodes."""
    output: Path = Path("experiments/results/estimators/estimators.json")
    """Where the figures go."""


def main() -> None:
    """Measure, write and print."""
    study, console = tyro.cli(Study), Console()
    content = {
        **run(study),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    study.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(study.output, content)
    console.print(markdown(content), markup=False, soft_wrap=True)


def run(study: Study) -> dict[str, Any]:
    """Relative bias and deviation of each row at each number of episodes."""
    exact = exact_meta_gradient(1)
    found: dict[str, dict[str, Any]] = {name: {} for name in ROWS}
    generator = torch.Generator().manual_seed(study.seed)
    with single_threaded():
        for episodes in study.episodes:
            samples = {name: torch.empty(study.repeats, 4, dtype=torch.float64) for name in ROWS}
            for index in range(study.repeats):
                data = draw(episodes, generator)
                for name, row in ROWS.items():
                    samples[name][index] = meta_gradient(row, data).view(4)
            for name, rows in samples.items():
                found[name][str(episodes)] = figures(rows, exact.view(4))
    return {"repeats": study.repeats, "seed": study.seed, "episodes": list(study.episodes), "rows": found}


def draw(episodes: int, generator: torch.Generator) -> TaskData[Rollouts]:
    """Sampled support, and a query of the policy that it leads to; the same inner gradient for every estimator."""
    support = sampled(THETA, episodes, generator)
    learner = _learner(ROWS["lvc"])
    phi = adapt(learner, {}, {"logits": THETA[None]}, (support,)).phi["logits"][0]
    query = sampled(phi, episodes, generator)
    credit = query.rewards.sum((1, 2)) / episodes - expected_return(THETA + INNER_STEP_SIZE * gradient(THETA))
    return TaskData((support,), query, credit)


def sampled(theta: Tensor, episodes: int, generator: torch.Generator) -> Rollouts:
    """Episodes of the policy ``theta``, compared with the exact values of their states."""
    policy = torch.softmax(theta, -1)

    def choose(chances: Tensor) -> Tensor:
        return torch.multinomial(chances, 1, generator=generator).squeeze(1)

    first = choose(START.expand(episodes, 2))
    action = choose(policy[first])
    second = choose(MOVES[first, action])
    other = choose(policy[second])
    of_actions, of_second = values(theta)
    baseline = torch.stack([(policy * of_actions).sum(-1)[first], of_second[second]], 1)
    return batch_of(theta, torch.stack([first, action, second, other], 1).tolist(), baseline)


def _learner(row: Row) -> Any:
    problem = PolicyProblem(POLICY, make_inner_loss(row.estimator, POLICY))
    return Learner(problem, [sgd(INNER_STEP_SIZE)], row.first_order, 1)


def meta_gradient(row: Row, data: TaskData[Rollouts]) -> Tensor:
    """Of the return after one inner step, ``[state, action]``."""
    linear = linearize(_learner(row), Meta({"logits": THETA}, {}, {}), data)
    return -linear.gradient(row.objective, data)["logits"]


def figures(rows: Tensor, exact: Tensor) -> dict[str, float]:
    """Of gradients ``[K, P]``, relative to the length of the exact one.

    Returns:
        ``bias``: of the mean; ``error``: the standard error of that mean; ``deviation``: of a single one; ``cosine``:
        mean over single ones.
    """
    length, mean = exact.norm(), rows.mean(0)
    spread = (rows - mean).square().sum(1).mean().sqrt()
    cosines = torch.nn.functional.cosine_similarity(rows, exact[None], 1)
    return {
        "bias": float((mean - exact).norm() / length),
        "error": float(spread / length / len(rows) ** 0.5),
        "deviation": float(spread / length),
        "cosine": float(cosines.mean()),
    }


def markdown(content: dict[str, Any]) -> str:
    """The table of the page."""
    episodes = [str(count) for count in content["episodes"]]
    head = ["meta-gradient", *[f"{what}, {count} episodes" for count in episodes for what in ("bias", "deviation")]]
    lines = [head, ["---"] * len(head)]
    for name, found in content["rows"].items():
        cells = [f"{found[count][what]:.2f}" for count in episodes for what in ("bias", "deviation")]
        lines.append([name, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()

"""Where should a return stop? Meta-gradients find the discount of every state of a chain of signal and noise.

    python -m metarl.experiments.study_chain

The process of Xu et al. 2018 (arXiv:1805.09801, illustrative examples): ten states in a row. Leaving an even state pays
noise from N(0, 1), leaving an odd one a signal of 0.1. A table of values learns from sampled returns that have one
discount for each state; the discounts are learned by how well the updated table predicts the next episode's
undiscounted return. The discount of a state multiplies all that follows the reward for leaving it: high after noise
lets the signal in, low after a signal keeps the next noise out.

Two layouts. In ``open``, as we read the paper, an episode goes from the first state to the last, whose discount has
nothing to multiply and stays where it began. In ``ring`` the first state follows the last and an episode makes ten
steps from a state drawn at random, so that every discount matters.

Runs that are in the output file already are not made again. ``docs/meta-gradient-rl.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from metarl.experiments.measure import machine
from metarl.outer.adam import OptimizerConfig
from metarl.processor import single_threaded
from metarl.rollout.seeding import Stream, generator
from metarl.types import Meta, Params
from metarl.variants.online import (
    OnlineConfig,
    OnlineProblem,
    Stretch,
    descent,
    online_step,
    prediction_loss,
    start_online,
)
from metarl.variants.returns import Discounting, ReturnConfig, discounting, initial_eta

Layout = Literal["ring", "open"]
STATES = 10
"""Of the chain, and steps of an episode."""
SIGNAL = 0.1
"""Reward for leaving an odd state."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs share; the numbers are ours, not the paper's."""

    updates: int = 20_000
    """One episode each."""
    step_size: float = 0.5
    """Of the table towards the sampled return: large, so that noise in the return stays in the values."""
    learning_rate: float = 0.005
    """Adam's, of the logits."""
    discount: float = 0.5
    """All discounts to start with."""
    decay: float = 0.0
    """mu: 0 counts the effect of one update only."""
    curve_every: int = 200
    """Updates from one point of the figure to the next."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Learn the discounts of both layouts."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """One run each."""
    setting: Setting = Setting()
    """What all runs share."""
    output: Path = Path("experiments/results/chain")
    """Folder of chain.json and chain.png."""


def main() -> None:
    """Make the runs that are missing, then the figure and the table.

    Raises:
        SystemExit: if the output holds runs of another setting.
    """
    study, console = tyro.cli(Study), Console()
    path = study.output / "chain.json"
    setting = dataclasses.asdict(study.setting)
    content: dict[str, Any] = {"setting": setting, "runs": []}
    if path.is_file():
        content = json.loads(path.read_text())
        if content["setting"] != setting:
            raise SystemExit(f"{path} holds runs of {content['setting']}, not of {setting}; choose another --output")
    for layout in get_args(Layout):
        for seed in study.seeds:
            if any((run["layout"], run["seed"]) == (layout, seed) for run in content["runs"]):
                continue
            taken = machine()
            content["runs"].append(
                {"layout": layout, "seed": seed, "machine": taken} | learn(study.setting, layout, seed)
            )
            final = ", ".join(f"{value:.2f}" for value in content["runs"][-1]["discounts"][-1])
            console.print(f"{layout}, seed {seed}: discounts {final}", soft_wrap=True)
            _write(path, content)
    draw(content, path.with_suffix(".png"))
    console.print(markdown(content), markup=False, soft_wrap=True)


def draw_episodes(rng: np.random.Generator, layout: Layout, count: int) -> list[Stretch]:
    """Samples of one episode each."""
    start = rng.integers(STATES, size=(count, 1, 1)) if layout == "ring" else np.zeros((count, 1, 1), np.int64)
    states = (start + np.arange(STATES + 1)) % STATES
    noise = rng.standard_normal((count, 1, STATES))
    rewards = torch.from_numpy(np.where(states[..., :-1] % 2 == 0, noise, SIGNAL)).float()
    mask = torch.ones(1, STATES)
    alive = torch.tensor([[1.0] * STATES + [0.0]])
    return [Stretch(where, pay, mask, alive) for where, pay in zip(torch.from_numpy(states), rewards, strict=True)]


def problem(setting: Setting) -> tuple[OnlineProblem, ReturnConfig]:
    """A table of values learning from the sampled, discounted return; judged by the sum of rewards."""
    config = ReturnConfig(
        learned=("discount",), discount=setting.discount, gae_lambda=1.0, depends_on="state", inputs=STATES
    )

    def loss(eta: Params, theta: Params, sample: Stretch) -> torch.Tensor:
        how = discounting(config, eta, sample.states[..., :-1])
        return prediction_loss(theta["values"][sample.states], sample, how)

    def judge(theta: Params, sample: Stretch) -> torch.Tensor:
        return prediction_loss(theta["values"][sample.states], sample, Discounting(1.0, 1.0))

    return OnlineProblem(descent(loss, setting.step_size), judge), config


def learn(setting: Setting, layout: Layout, seed: int) -> dict[str, Any]:
    """One run: the discounts along it, and its last values."""
    online, config = problem(setting)
    episodes = draw_episodes(generator(seed, Stream.TRAIN_ROLLOUTS), layout, setting.updates + 1)
    how = OnlineConfig(OptimizerConfig(learning_rate=setting.learning_rate), setting.decay)
    began, curve = time.perf_counter(), []
    with single_threaded():
        state = start_online(Meta({"values": torch.zeros(STATES)}, initial_eta(config), {}), episodes[0], how)
        for update, episode in enumerate(episodes[1:]):
            if update % setting.curve_every == 0:
                curve.append(_discounts(state.meta))
            state, _ = online_step(online, how, state, episode)
    return {
        "discounts": [*curve, _discounts(state.meta)],
        "values": [round(float(value), 4) for value in state.meta.theta["values"]],
        "seconds": round(time.perf_counter() - began, 1),
    }


def _discounts(meta: Meta) -> list[float]:
    return [round(float(value), 4) for value in torch.sigmoid(meta.eta["return/discount"])]


def final_discounts(content: dict[str, Any], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Discounts at the end of each run: of noise states and of signal states that have a successor."""
    last = np.array([run["discounts"][-1] for run in content["runs"] if run["layout"] == layout])
    return last[:, ::2], last[:, 1::2] if layout == "ring" else last[:, 1:-1:2]


def markdown(content: dict[str, Any]) -> str:
    """The table of the page."""
    lines = [
        "| layout | noise states: mean, least | signal states: mean, greatest | seeds with all noise above 0.85 and "
        "all signal below 0.15 |",
        "|---|---|---|---|",
    ]
    for layout in get_args(Layout):
        noise, signal = final_discounts(content, layout)
        met = (noise.min(1) > 0.85) & (signal.max(1) < 0.15)
        lines.append(
            f"| {layout} | {noise.mean():.2f}, {noise.min():.2f} | {signal.mean():.2f}, {signal.max():.2f} | "
            f"{met.sum()} of {len(met)} |"
        )
    return "\n".join(lines)


def draw(content: dict[str, Any], path: Path) -> None:
    """Discounts along training, every run a line, and where they end, every run a dot."""
    figure = Figure(figsize=(11, 7), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    colors = matplotlib.colormaps["tab10"](range(2))
    for (along, ends), layout in zip(figure.subplots(2, 2, sharey=True), get_args(Layout), strict=True):
        for run in content["runs"]:
            if run["layout"] != layout:
                continue
            curve = np.array(run["discounts"])
            updates = np.linspace(0, content["setting"]["updates"], len(curve))
            for state in range(STATES):
                along.plot(updates, curve[:, state], color=colors[state % 2], linewidth=0.6, alpha=0.6)
            ends.scatter(range(STATES), curve[-1], color=colors[np.arange(STATES) % 2], s=14, alpha=0.8)
        along.set(
            title=f"{layout}: each state and seed a line", xlabel="updates", ylabel="discount", ylim=(-0.02, 1.02)
        )
        ends.set(title="at the end: each seed a dot", xlabel="state: even pays noise (blue), odd a signal (orange)")
        ends.set_xticks(range(STATES))
        for axes in (along, ends):
            axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()

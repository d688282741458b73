"""``metarl render``: the same held-out tasks before and after adaptation, as a video or, in the plane, as a figure."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.engine import Clock, collect, evaluate, make_learner
from metarl.envs import Navigation2D
from metarl.experiments.runs import Run, RunError, load_run
from metarl.experiments.trajectories import Paths, draw_trajectories
from metarl.policies import GaussianPolicy
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import Task, TaskFamily
from metarl.trees import take
from metarl.types import Params, Rollouts

MAX_FPS = 50
"""Faster environments are shown in real time by leaving out frames."""
CAPTION = 64
"""Height of the caption above the pictures (pixels)."""
SHOWN = 1000
"""Seed path of the episodes in a video: none that adaptation has seen, which are numbered by their step."""
PAUSE = 1.0
"""How long the last picture of a task stays (s)."""


class RenderError(RunError):
    """A run's environments cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Which held-out tasks are shown, and how they are adapted to."""

    tasks: int | None = None
    """Tasks to show, those furthest apart among the 40 that 'metarl evaluate' draws; 2 in a video, 6 in a figure."""
    episodes: int | None = None
    """Episodes of each task to show; 1 in a video, 3 in a figure."""
    steps: int | None = None
    """Gradient steps; 1 in a video, 3 in a figure."""
    step_size: float | None = None
    """Of the first step, the run's own if left out; later steps are half of it, as in 'metarl evaluate'."""
    height: int = 480
    """Of each of the two pictures in a video (pixels)."""
    seed: int = 0
    """Of the tasks, the episodes for adaptation and those shown."""
    output: Path | None = None
    """Where to write; RUN_DIR/videos/adaptation.mp4 or trajectories.png if left out."""

    def __post_init__(self) -> None:
        for name, least in (("tasks", 1), ("episodes", 1), ("steps", 1), ("height", 64), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"render {name} must be at least {least}, got {value}")
        if self.step_size is not None and not 0.0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}")

    def step_sizes(self, inner_step_size: float, steps: int) -> list[float]:
        """The size of each step."""
        first = inner_step_size if self.step_size is None else self.step_size
        return [first, *[first / 2.0] * (steps - 1)]


class Scene(NamedTuple):
    """One episode to show twice."""

    task: Task
    words: str
    """The task, described."""
    before: Params
    after: Params
    seed: int
    """Of the reset."""
    noise: np.ndarray
    """Of the actions, ``[T, A]``."""


class Shot(NamedTuple):
    """One moment of an episode."""

    picture: Image.Image
    total: float
    """Return so far."""
    over: bool


def render_run(directory: Path, config: RenderConfig) -> Path:
    """Show what adaptation changes: the same tasks, initial states and action noise before and after it.

    Actions are sampled, as in training and evaluation, since it is the sampled return that both report. A video has
    the policy before adaptation on the left and after it on the right, in real time. 2D navigation gives a figure of
    all paths instead.

    Args:
        directory: the run's folder.
        config: what to show.

    Returns:
        The file written.

    Raises:
        RunError: if the directory is not a run, or its environments cannot be drawn.
        CheckpointError: if its checkpoint cannot be read.
    """
    run = load_run(directory)
    navigation = isinstance(run.config.family, Navigation2D)
    path = config.output or directory / "videos" / ("trajectories.png" if navigation else "adaptation.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        if navigation:
            _figure(run, config, partial)
        else:
            _video(run, config, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def held_out_tasks(family: TaskFamily, count: int, seed: int) -> list[Task]:
    """The tasks furthest apart among those that evaluation draws, so that every direction is among them.

    Args:
        family: where tasks come from.
        count: how many; tasks may repeat where the family has fewer.
        seed: as in ``EvaluateConfig``.
    """
    drawn = family.sample(generator(seed, Stream.EVALUATION_TASKS), max(40, count))
    try:
        rows = np.asarray(drawn, dtype=np.float64).reshape(len(drawn), -1)
    except (TypeError, ValueError):  # a user's tasks need not be numbers
        return list(drawn[:count])
    chosen = [int(np.argmin(rows[:, 0]))]
    nearest = np.linalg.norm(rows - rows[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(rows - rows[chosen[-1]], axis=1))
        nearest[chosen] = -1.0
    return [drawn[index] for index in chosen]


def _figure(run: Run, config: RenderConfig, path: Path) -> None:
    """Adapt to each goal and draw some of the very episodes that adaptation collected."""
    train, steps = run.config.train, config.steps or 3
    goals = held_out_tasks(run.config.family, config.tasks or 6, config.seed)
    learner = make_learner(run.policy, train, config.step_sizes(train.inner.step_size, steps))
    seeds = EpisodeSeeds(config.seed, Stream.EVALUATION_ROLLOUTS, ())
    _, batches, _ = collect(run.config.family, learner, run.state.meta, goals, train.rollout, seeds, Clock())
    positions = np.stack([_positions(batch.rollouts, config.episodes or 3) for batch in batches])
    draw_trajectories(Paths(np.array(goals), positions, np.stack([batch.returns for batch in batches])), path)


def _positions(rollouts: Rollouts, episodes: int) -> np.ndarray:
    """Positions ``[M, E, T, 2]`` of the first ``episodes``, nan after their end."""
    positions = rollouts.observations[:, :episodes].cpu().numpy()
    return np.where(rollouts.mask[:, :episodes, :, None].cpu().numpy() > 0.0, positions, np.nan)


def _video(run: Run, config: RenderConfig, path: Path) -> None:
    family = run.config.family
    _check_drawable(family)
    steps = config.steps or 1
    scenes = _scenes(run, config, steps)
    first = family.make_env(scenes[0].task, render_mode="rgb_array")
    try:
        rate = float(first.metadata.get("render_fps") or 30)
    finally:
        first.close()
    stride = math.ceil(rate / MAX_FPS)
    fps = rate / stride
    writer: Any = None
    try:
        for scene in scenes:
            for frame in _frames(family, run.policy, scene, steps, stride, fps, config.height):
                if writer is None:
                    writer = _open_writer(path, frame, fps)
                writer.send(np.ascontiguousarray(frame))
    finally:
        if writer is not None:
            writer.close()


def _check_drawable(family: TaskFamily) -> None:
    takes = inspect.signature(family.make_env).parameters
    if "render_mode" not in takes and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise RenderError(
            f"{type(family).__name__}.make_env must take render_mode='rgb_array' to be drawn, but takes only "
            f"{', '.join(takes)}; add the keyword and pass it to the environment"
        )


def _open_writer(path: Path, frame: np.ndarray, fps: float) -> Any:
    height, width = frame.shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, codec="libx264", pix_fmt_out="yuv420p", quality=7, macro_block_size=2,
        output_params=["-movflags", "+faststart", "-f", "mp4"],
    )  # fmt: skip
    writer.send(None)
    return writer


def _scenes(run: Run, config: RenderConfig, steps: int) -> list[Scene]:
    """Adapt to each task as evaluation does, on the run's own number of episodes, and pick what to show."""
    family, train = run.config.family, run.config.train
    tasks = held_out_tasks(family, config.tasks or 2, config.seed)
    learner = make_learner(run.policy, train, config.step_sizes(train.inner.step_size, steps))
    seeds = EpisodeSeeds(config.seed, Stream.EVALUATION_ROLLOUTS, ())
    adapted = evaluate(family, learner, run.state.meta, tasks, train.rollout, seeds).adapted
    shown, episodes = seeds._replace(path=(SHOWN,)), config.episodes or 1
    resets = shown.resets(len(tasks), episodes)
    noise = shown.noise(len(tasks), (episodes, train.rollout.horizon, run.policy.action_size))
    return [
        Scene(
            task,
            _words(family, task),
            take(adapted[0], slice(index, index + 1)),
            take(adapted[steps], slice(index, index + 1)),
            resets[index * episodes + episode],
            noise[index, episode],
        )
        for index, task in enumerate(tasks)
        for episode in range(episodes)
    ]


def _words(family: Any, task: Task) -> str:
    if hasattr(family, "describe"):
        return str(family.describe(task))
    return f"task {np.array2string(np.asarray(task), precision=2)}"


def _frames(
    family: Any, policy: GaussianPolicy, scene: Scene, steps: int, stride: int, fps: float, height: int
) -> Iterator[np.ndarray]:
    """Both episodes side by side ``[height, width, 3]``; one that is over waits for the other."""
    after = f"after {steps} gradient step{'s' if steps > 1 else ''}"
    sides = (("before adaptation", scene.before), (after, scene.after))
    envs = [family.make_env(scene.task, render_mode="rgb_array") for _ in sides]
    try:
        episodes = [_play(env, policy, phi, scene, stride, height) for env, (_, phi) in zip(envs, sides, strict=True)]
        shots = [next(episode) for episode in episodes]
        frame = _frame(scene.words, [title for title, _ in sides], shots)
        yield frame
        while not all(shot.over for shot in shots):
            shots = [next(episode, shot) for episode, shot in zip(episodes, shots, strict=True)]
            frame = _frame(scene.words, [title for title, _ in sides], shots)
            yield frame
        for _ in range(round(PAUSE * fps)):
            yield frame
    finally:
        for env in envs:
            env.close()


def _play(
    env: gymnasium.Env[Any, Any], policy: GaussianPolicy, phi: Params, scene: Scene, stride: int, height: int
) -> Iterator[Shot]:
    """One episode under sampled actions: a shot at the start, of every ``stride``-th step and of the last one."""
    means, log_std = policy.sampler(phi)
    space: Any = env.action_space
    seen, total = env.reset(seed=scene.seed)[0], 0.0
    yield Shot(_picture(env, height), total, False)
    for number, noise in enumerate(scene.noise, start=1):
        mean = means(np.asarray(seen, dtype=np.float32)[None, None])[0, 0]
        action = np.clip(mean + np.exp(log_std[0]) * noise, space.low, space.high).astype(space.dtype)
        seen, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated or number == len(scene.noise)
        if over or number % stride == 0:
            yield Shot(_picture(env, height), total, over)
        if over:
            return


def _picture(env: gymnasium.Env[Any, Any], height: int) -> Image.Image:
    """The environment's drawing, scaled to ``height``; both sides are even numbers of pixels, as the codec wants."""
    drawn: Any = env.render()
    if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.shape[2] != 3:
        got = f"shape {drawn.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
        raise RenderError(f"render() must return an array [height, width, 3] in mode 'rgb_array', got {got}")
    picture = Image.fromarray(drawn.astype(np.uint8))
    height += height % 2
    width = 2 * round(height * picture.width / picture.height / 2)
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)


def _frame(words: str, titles: Sequence[str], shots: Sequence[Shot]) -> np.ndarray:
    """The pictures beside each other under a caption."""
    width, height = shots[0].picture.size
    canvas = Image.new("RGB", (width * len(shots), height + CAPTION), (24, 26, 32))
    draw = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(20), ImageFont.load_default(17)
    draw.text((canvas.width / 2, 18), words, fill=(255, 255, 255), font=large, anchor="mm")
    for side, (title, shot) in enumerate(zip(titles, shots, strict=True)):
        canvas.paste(shot.picture, (side * width, CAPTION))
        line = f"{title}   return {shot.total:.1f}"
        draw.text(((side + 0.5) * width, 46), line, fill=(255, 210, 120), font=small, anchor="mm")
    draw.line([(width, CAPTION), (width, canvas.height)], fill=(24, 26, 32), width=2)
    return np.asarray(canvas)

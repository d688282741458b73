"""Episodes of one task under several policies, filmed side by side."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import imageio_ffmpeg
import numpy as np
from gymnasium.spaces import flatten
from PIL import Image, ImageDraw, ImageFont

from metarl.experiments.runs import RunError
from metarl.policies.base import Policy
from metarl.rollout.normalizer import Scaler
from metarl.spaces import action_decoder
from metarl.tasks import Task, TaskFamily
from metarl.types import Params

MAX_FPS = 50
"""Faster environments are shown in real time by leaving out frames."""
CAPTION = 64
"""Height of the caption above the pictures (pixels)."""
PAUSE = 1.0
"""How long the last picture of a scene stays (s)."""

_DARK, _WHITE, _YELLOW = (24, 26, 32), (255, 255, 255), (255, 210, 120)


class RenderError(RunError):
    """A run's environments cannot be drawn."""


class Film(NamedTuple):
    """What all scenes have in common."""

    family: Any
    """The task family; its ``make_env`` takes ``render_mode``."""
    policy: Policy
    scaler: Scaler | None
    """Of the observations."""
    titles: Sequence[str]
    """Of the policies, from left to right."""
    height: int
    """Of the pictures (pixels)."""


class Scene(NamedTuple):
    """One episode, under each of the policies."""

    task: Task
    words: str
    """The task, described."""
    policies: Sequence[Params]
    """Parameters of each title's policy, leaves ``[1, ...]``."""
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


def check_drawable(family: TaskFamily) -> None:
    """Raise RenderError unless the family can make an environment that draws."""
    takes = inspect.signature(family.make_env).parameters
    if "render_mode" not in takes and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise RenderError(
            f"{type(family).__name__}.make_env must take render_mode='rgb_array' to be drawn, but takes only "
            f"{', '.join(takes)}; add the keyword and pass it to the environment"
        )


def write_video(film: Film, scenes: Sequence[Scene], path: Path) -> None:
    """Film the scenes one after the other and write an MP4 in real time (H.264, yuv420p, which every browser plays).

    Raises:
        RenderError: if an environment does not draw.
    """
    first = film.family.make_env(scenes[0].task, render_mode="rgb_array")
    rate = float(first.metadata.get("render_fps") or 30)
    first.close()
    stride = math.ceil(rate / MAX_FPS)
    fps = rate / stride
    writer: Any = None
    try:
        for scene in scenes:
            frame = None
            for frame in shoot(film, scene, stride):
                writer = writer or _open_writer(path, frame, fps)
                writer.send(frame)
            for _ in range(round(PAUSE * fps)):
                writer.send(frame)
    finally:
        if writer is not None:
            writer.close()


def _open_writer(path: Path, frame: np.ndarray, fps: float) -> Any:
    height, width = frame.shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, codec="libx264", pix_fmt_out="yuv420p", quality=7, macro_block_size=2,
        output_params=["-movflags", "+faststart", "-f", "mp4"],
    )  # fmt: skip
    writer.send(None)
    return writer


def shoot(film: Film, scene: Scene, stride: int) -> Iterator[np.ndarray]:
    """The episodes side by side, frames ``[height, width, 3]`` of every ``stride``-th step and the last.

    An episode that is over waits for the others.
    """
    envs = [film.family.make_env(scene.task, render_mode="rgb_array") for _ in scene.policies]
    try:
        episodes = [play(env, film, phi, scene, stride) for env, phi in zip(envs, scene.policies, strict=True)]
        shots = [next(episode) for episode in episodes]
        yield _compose(scene.words, film.titles, shots)
        while not all(shot.over for shot in shots):
            shots = [next(episode, shot) for episode, shot in zip(episodes, shots, strict=True)]
            yield _compose(scene.words, film.titles, shots)
    finally:
        for env in envs:
            env.close()


def play(env: gymnasium.Env[Any, Any], film: Film, phi: Params, scene: Scene, stride: int) -> Iterator[Shot]:
    """One episode under sampled actions: a shot of the start, of every ``stride``-th step and of the last."""
    sampler = film.policy.sampler(phi)
    decode = action_decoder(env.action_space, film.policy.config.bounds)
    seen, total = env.reset(seed=scene.seed)[0], 0.0
    yield Shot(_picture(env, film.height), total, False)
    for number, noise in enumerate(scene.noise, start=1):
        row: Any = flatten(env.observation_space, seen)
        observation = np.asarray(row if film.scaler is None else film.scaler(row), dtype=np.float32)
        action, _ = sampler.act(observation[None, None], noise[None, None])
        seen, reward, terminated, truncated, _ = env.step(decode(action[0])[0])
        total += float(reward)
        over = terminated or truncated or number == len(scene.noise)
        if over or number % stride == 0:
            yield Shot(_picture(env, film.height), total, over)
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


def _compose(words: str, titles: Sequence[str], shots: Sequence[Shot]) -> np.ndarray:
    """The pictures beside each other under a caption."""
    width, height = shots[0].picture.size
    canvas = Image.new("RGB", (width * len(shots), height + CAPTION), _DARK)
    draw = ImageDraw.Draw(canvas)
    _write(draw, words, (canvas.width / 2, 18), canvas.width, 20, _WHITE)
    for side, (title, shot) in enumerate(zip(titles, shots, strict=True)):
        canvas.paste(shot.picture, (side * width, CAPTION))
        draw.line([(side * width, CAPTION), (side * width, canvas.height)], fill=_DARK, width=2)
        _write(draw, f"{title}   return {shot.total:.1f}", ((side + 0.5) * width, 46), width, 17, _YELLOW)
    return np.array(canvas)


def _write(
    draw: ImageDraw.ImageDraw, text: str, center: tuple[float, float], width: float, size: int, color: tuple[int, ...]
) -> None:
    """Text around ``center`` in the largest type up to ``size`` that fits into 0.94 of ``width``."""
    while size > 6 and draw.textlength(text, ImageFont.load_default(size)) > 0.94 * width:
        size -= 1
    draw.text(center, text, fill=color, font=ImageFont.load_default(size), anchor="mm")

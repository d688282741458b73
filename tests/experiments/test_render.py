"""Videos of tiny runs: both directions, the right length and size, the same start on both sides."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metarl.envs import HalfCheetahDir, HalfCheetahVel
from metarl.experiments.config import RunConfig
from metarl.experiments.film import CAPTION, PAUSE, RenderError, check_drawable
from metarl.experiments.presets import preset_config
from metarl.experiments.render import RenderConfig, held_out_tasks, render_run
from metarl.experiments.runs import RunError
from metarl.experiments.train import start
from metarl.policies.base import PolicyConfig
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import FAMILIES, register


def tiny_run(directory: Path, config: RunConfig, horizon: int) -> Path:
    """One iteration of a run that renders in no time."""
    train = dataclasses.replace(
        config.train,
        policy=PolicyConfig(hidden=(4,)),
        rollout=RolloutConfig(episodes=2, horizon=horizon),
        meta_batch_size=2,
        iterations=1,
        held_out_every=0,
    )
    start(dataclasses.replace(config, train=train), directory, Console(file=io.StringIO()))
    return directory


class Video(NamedTuple):
    """A video read back."""

    frames: np.ndarray
    """``[F, H, W, 3]``."""
    stream: str
    """What it says of itself, for example "h264 (High), yuv420p, 960x544, 50 fps"."""


def read_video(path: Path) -> Video:
    """All pictures of a video."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    stream = next(line for line in read.stderr.decode().splitlines() if "Video: h264" in line)
    width, height = map(int, re.search(r" (\d{2,5})x(\d{2,5})", stream).groups())  # type: ignore[union-attr]
    return Video(np.frombuffer(read.stdout, np.uint8).reshape(-1, height, width, 3), stream)


def test_direction_families_show_both_directions():
    """Ten seeds: two tasks drawn at random would agree in half of them."""
    for seed in range(10):
        tasks = held_out_tasks(HalfCheetahDir(), 2, seed)
        assert sorted(float(task[0]) for task in tasks) == [-1.0, 1.0]


def test_tasks_are_the_extremes_of_those_that_evaluation_draws():
    drawn = HalfCheetahVel().sample(generator(3, Stream.EVALUATION_TASKS), 40)[:, 0]
    low, high, middle = (float(task[0]) for task in held_out_tasks(HalfCheetahVel(), 3, 3))
    assert (low, high) == (drawn.min(), drawn.max())
    assert middle in drawn
    assert abs(middle - (low + high) / 2.0) < 0.25


def test_tasks_that_are_not_numbers_are_taken_as_they_come():
    class Words:
        def sample(self, rng: np.random.Generator, count: int) -> Sequence[str]:
            return [f"task {index}" for index in range(count)]

    assert held_out_tasks(Words(), 2, 0) == ["task 0", "task 1"]  # type: ignore[arg-type]


def test_video_shows_each_task_twice_from_the_same_start_in_real_time(tmp_path):
    """5 control steps of 0.05 s are 6 pictures at 20 per second, and a pause; a huge step must change the motion."""
    run = tiny_run(tmp_path / "run", preset_config("half-cheetah-vel"), horizon=5)
    path = render_run(run, RenderConfig(height=96, step_size=20.0))
    assert path == run / "videos" / "adaptation.mp4"
    frames, stream = read_video(path)
    assert "yuv420p" in stream
    assert " 20 fps" in stream
    scene = 6 + round(20 * PAUSE)
    assert frames.shape == (2 * scene, 96 + CAPTION, 2 * 96, 3)
    pictures = frames[:, CAPTION:].astype(int)
    apart = np.abs(pictures[:, :, 2:94] - pictures[:, :, 98:190]).mean((1, 2, 3))
    assert apart[0] < 3.0, "but for compression"
    assert apart[5] > 10.0
    assert apart[scene] < 3.0, "the second task starts alike as well"
    assert frames[0, :CAPTION].max() > 200, "a caption"
    assert sorted(run.joinpath("videos").iterdir()) == [path]


def test_a_hundred_steps_a_second_are_shown_at_fifty_pictures(tmp_path):
    """frame_skip 1: of 5 steps the start, 2, 4 and the last are shown."""
    run = tiny_run(tmp_path / "run", preset_config("half-cheetah-dir"), horizon=5)
    frames, stream = read_video(render_run(run, RenderConfig(tasks=1, height=97, output=tmp_path / "short.mp4")))
    assert " 50 fps" in stream
    assert len(frames) == 4 + round(50 * PAUSE)
    assert frames.shape[1:3] == (98 + CAPTION, 196), "even numbers of pixels"


def test_navigation_gives_a_figure_of_paths(tmp_path):
    run = tiny_run(tmp_path / "run", preset_config("navigation-2d"), horizon=10)
    path = render_run(run, RenderConfig(tasks=2, steps=2))
    assert path == run / "videos" / "trajectories.png"
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[2] == 3
    red = (np.abs(pixels - [214, 39, 40]).max(-1) < 12).sum()
    gray = (np.abs(pixels - 153).max(-1) < 12).sum()
    assert red > 200, "goals"
    assert gray > 200, "paths before adaptation"


def test_paths_of_a_policy_that_does_not_adapt_are_those_of_no_step(tmp_path):
    for algorithm, colored in (("maml-trpo", True), ("oracle", False)):
        config = preset_config("navigation-2d")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, algorithm=algorithm))
        path = render_run(tiny_run(tmp_path / algorithm, config, horizon=10), RenderConfig(tasks=2))
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        of_steps = (np.ptp(pixels, axis=-1) > 40) & (pixels[..., 0] < 180)  # the goals are red, paths of no step gray
        assert (of_steps.sum() > 50) == colored
        assert (np.abs(pixels - 153).max(-1) < 12).sum() > 200, "paths of no step"


class Blank(gymnasium.Env[Any, Any]):
    """A user's environment that forgot to draw."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action: Any) -> Any:
        return self.observation_space.low, float(action[0]), False, False, {}

    def render(self) -> Any:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlankFamily:
    """Of tasks that are all alike."""

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        return [0] * count

    def make_env(self, task: int, *, render_mode: str | None = None) -> Blank:
        return Blank()


def test_an_environment_that_draws_nothing_is_an_error_and_leaves_no_file(tmp_path):
    register("test-blank")(BlankFamily)
    try:
        run = tiny_run(tmp_path / "run", preset_config("test-blank"), horizon=3)
        with pytest.raises(RenderError, match=r"must return an array \[height, width, 3\].*got NoneType"):
            render_run(run, RenderConfig())
        assert list((run / "videos").iterdir()) == []
    finally:
        del FAMILIES["test-blank"]


def test_a_family_that_takes_no_render_mode_is_an_error():
    class Plain:
        def sample(self, rng: np.random.Generator, count: int) -> list[int]:
            return [0] * count

        def make_env(self, task: int) -> Blank:
            return Blank()

    with pytest.raises(RenderError, match=r"Plain.make_env must take render_mode='rgb_array'"):
        check_drawable(Plain())


def test_a_directory_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        render_run(tmp_path / "nothing", RenderConfig())


@pytest.mark.parametrize(
    ("option", "value"), [("tasks", 0), ("episodes", 0), ("steps", 0), ("height", 8), ("seed", -1), ("step_size", -0.1)]
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(ValueError, match=option):
        RenderConfig(**{option: value})

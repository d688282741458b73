"""``metarl render`` of few-shot runs: a figure of what the learner makes of test tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from metarl.experiments.few_shot_pictures import TAGS, draw_tasks, drawable, with_curve
from metarl.experiments.runs import RunError, load_run
from metarl.rollout.seeding import Stream, generator

_LEAST_STEPS = 3
_DPI = 130


@dataclass(frozen=True, kw_only=True)
class FewShotRenderConfig:
    """Which test tasks are shown, and how they are adapted to."""

    tasks: int = 6
    """Test tasks to show."""
    steps: int | None = None
    """Gradient steps; as many as in training, and 3 at least, if left out."""
    transductive: bool | None = None
    """Whether the queries of a task share their normalization statistics; the run's own choice if left out."""
    seed: int = 0
    """Of the tasks."""
    output: Path | None = None
    """PNG to write; RUN_DIR/predictions.png of classes, RUN_DIR/fits.png of curves, if left out."""

    def __post_init__(self) -> None:
        for name, least in (("tasks", 1), ("steps", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"render {name} must be at least {least}, got {value}")


def render_few_shot_run(directory: Path, options: FewShotRenderConfig) -> Path:
    """Draw support and query images with the classes predicted, or curves fitted after each gradient step.

    Args:
        directory: the run's folder.
        options: what to show.

    Returns:
        The file written.

    Raises:
        RunError: if the directory is not a run, or there is no picture of its tasks.
        CheckpointError: if its checkpoint cannot be read.
    """
    run = load_run(directory)
    config, train = run.config, run.config.train
    if not drawable(config.family):
        raise RunError(
            "only images to classify and single numbers to predict can be drawn, but tasks of "
            f"{config.family_name} are {config.family.kind} of inputs {tuple(config.family.input_shape)} with "
            f"{config.family.outputs} outputs"
        )
    family = with_curve(config.family)
    pixels = draw_tasks(
        family,
        run.learner,
        run.state.meta,
        family.sample_test(generator(options.seed, Stream.EVALUATION_TASKS), options.tasks),
        steps=max(train.inner.steps, _LEAST_STEPS) if options.steps is None else options.steps,
        transductive=train.transductive if options.transductive is None else options.transductive,
        device=train.device,
        dpi=_DPI,
    )
    path = options.output or directory / f"{TAGS[family.kind]}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="png")
    return path

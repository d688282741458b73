"""Pictures of what a few-shot learner makes of some tasks: images with the classes predicted, or fitted curves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from metarl.experiments import curiosity_pictures
from metarl.experiments.curiosity_pictures import draw_curiosity
from metarl.experiments.curves import after
from metarl.experiments.trajectories import colors
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.curious import CuriousLearner
from metarl.few_shot.learners import FewShotLearner
from metarl.few_shot.meta_learner import few_shot_data
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import Episodes, FewShotFamily
from metarl.types import Meta

TAGS = {"classification": "predictions", "regression": "fits"}
"""Of the pictures in TensorBoard, and the names of the files that ``metarl render`` writes."""
TASKS = 3
"""Shown while a run trains."""
CURVE_POINTS = 120
"""Query points of a fitted curve."""
MOST_PICTURES = 3
"""Images of each class in the support, and in the query, that are shown."""
MOST_CLASSES = 20
_FITS_ACROSS = 3

_RIGHT, _WRONG, _PLAIN = (40, 170, 80), (215, 50, 45), (150, 150, 150)
_FRAME, _GAP, _LINE, _MARGIN = 3, 6, 14, 54
"""Pixels: of a frame, between pictures, of a line of text, left of the pictures."""
_FONT = 11
_SIDE, _WIDTH = 48, 900
"""Pixels: of small images, which are enlarged, about; of the whole at most, unless a task is wider."""


class Shown(NamedTuple):
    """Tasks and what a learner answered."""

    examples: Episodes
    outputs: np.ndarray
    """For the queries after 0..K steps, ``[K + 1, M, Q, out]``."""
    words: Sequence[str]
    """The tasks, described."""


def drawable(family: FewShotFamily) -> bool:
    """Whether there are pictures of its tasks: of images to classify, and of a number to predict."""
    if family.kind == "classification":
        return len(family.input_shape) == 3 and family.input_shape[0] in (1, 3)
    return family.outputs == 1


def draw_tasks(
    family: FewShotFamily,
    learner: FewShotLearner,
    meta: Meta,
    tasks: np.ndarray,
    *,
    steps: int,
    transductive: bool,
    device: str,
    dpi: int = 80,
) -> np.ndarray:
    """A picture of a few tasks, red, green and blue ``[height, width, 3]``.

    Args:
        family: one that is ``drawable``.
        learner: what adapts.
        meta: what it learned.
        tasks: rows ``[M, P]``.
        steps: gradient steps; classes are those predicted after the last, fits are drawn after each.
        transductive: see ``FewShotLearner.predict``.
        device: where to compute.
        dpi: of fits, dots an inch.
    """
    data = few_shot_data(family, tasks, steps, device)
    outputs = learner.predict(meta, data.support[0], data.query.inputs, steps=steps, transductive=transductive)
    describe = getattr(family, "describe", lambda task: "")
    shown = Shown(family.examples(tasks), outputs.float().cpu().numpy(), [str(describe(task)) for task in tasks])
    return _draw_classes(shown, family.outputs) if family.kind == "classification" else _draw_fits(shown, dpi)


def pictures(
    family: FewShotFamily, learner: FewShotLearner, config: FewShotConfig, meta: Meta
) -> dict[str, np.ndarray]:
    """Of a few tasks of the validation split, the same ones every time, as a training run shows them; by their tags."""
    if not drawable(family):
        return {}
    family = with_curve(family)
    tasks = family.sample_validation(generator(config.seed, Stream.HELD_OUT_TASKS, 0), TASKS)
    drawn = draw_tasks(
        family,
        learner,
        meta,
        tasks,
        steps=config.inner.steps,
        transductive=config.transductive,
        device=config.device,
    )
    shown = {TAGS[family.kind]: drawn}
    if isinstance(learner, CuriousLearner) and family.kind == "classification":
        shown[curiosity_pictures.TAG] = draw_curiosity(family, learner, meta, tasks)
    return shown


def with_curve(family: FewShotFamily) -> FewShotFamily:
    """The family with enough query points to draw a curve through, where it lets their number be chosen."""
    names: list[str] = [item.name for item in dataclasses.fields(family)] if dataclasses.is_dataclass(family) else []
    if family.kind != "regression" or "queries" not in names:
        return family
    changed: FewShotFamily = dataclasses.replace(family, queries=CURVE_POINTS)  # type: ignore[type-var]
    return changed


def _draw_fits(shown: Shown, dpi: int) -> np.ndarray:
    """A panel for each task: the true curve, the support points, and the prediction after each step."""
    tasks = len(shown.words)
    columns = min(tasks, _FITS_ACROSS)
    rows = math.ceil(tasks / columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows + 0.6), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for task, axes in enumerate(grid[:tasks]):
        _panel(axes, shown, task)
    for axes in grid[tasks:]:
        axes.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    across = min(len(labels), 2 * columns)
    _lay_out(figure, rows, math.ceil(len(labels) / across))
    figure.legend(handles, labels, loc="lower center", ncols=across, fontsize=9, frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _lay_out(figure: Figure, rows: int, lines: int) -> None:
    """Margins in inches; finding them, as matplotlib can, takes longer than all the rest."""
    wide, high = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.4 / wide,
        right=1.0 - 0.1 / wide,
        bottom=(0.55 + 0.2 * lines) / high,
        top=1.0 - 0.3 / high,
        wspace=0.16,
        hspace=0.42,
    )


def _panel(axes: Any, shown: Shown, task: int) -> None:
    support, query = shown.examples.support_inputs[task], shown.examples.query_inputs[task]
    curve = _is_curve(query)
    x = query[:, 0] if curve else np.arange(len(query))
    order = np.argsort(x)
    style: dict[str, Any] = {} if curve else {"marker": "o", "linestyle": "none"}
    axes.plot(x[order], shown.examples.query_targets[task, order, 0], color="black", linewidth=2, label="true", **style)
    for step, color in enumerate(colors(len(shown.outputs) - 1)):
        style = {"linestyle": "--" if step == 0 else "-"} if curve else {"marker": "x", "linestyle": "none"}
        axes.plot(x[order], shown.outputs[step, task, order, 0], color=color, linewidth=1.4, label=after(step), **style)
    if curve:
        targets = shown.examples.support_targets[task, :, 0]
        axes.plot(support[:, 0], targets, "^", color="tab:purple", markersize=7, label="support")
    axes.set_title(shown.words[task], fontsize=9)
    axes.set_xlabel("input" if curve else "query")
    axes.grid(alpha=0.25)
    _fit_view(axes, shown, task)


def _is_curve(inputs: np.ndarray) -> bool:
    """Whether nothing but the first number of an input ``[Q, I]`` changes within the task."""
    return inputs.ndim == 2 and bool(np.all(inputs[:, 1:] == inputs[:1, 1:])) and len(inputs) > 1


def _fit_view(axes: Any, shown: Shown, task: int) -> None:
    """Show all of the true curve, and predictions as far as twice its height away: what diverges leaves the panel."""
    true = shown.examples.query_targets[task]
    low, high = float(true.min()), float(true.max())
    height = max(high - low, 1.0)
    seen = shown.outputs[:, task][np.isfinite(shown.outputs[:, task])]
    near = seen[(seen > low - 2 * height) & (seen < high + 2 * height)] if seen.size else true
    bounds = np.concatenate([near.ravel(), true.ravel()])
    axes.set_ylim(bounds.min() - 0.1 * height, bounds.max() + 0.1 * height)


def _draw_classes(shown: Shown, ways: int) -> np.ndarray:
    """Blocks of tasks side by side; in each a column for every class, its support on top, its queries below."""
    blocks = [_block(shown, task, min(ways, MOST_CLASSES)) for task in range(len(shown.words))]
    width, height = blocks[0].shape[1], blocks[0].shape[0]
    columns = max(1, min(len(blocks), _WIDTH // width))
    rows = math.ceil(len(blocks) / columns)
    sheet = np.full((rows * height + 2 * _LINE, columns * width, 3), 255, dtype=np.uint8)
    for place, block in enumerate(blocks):
        row, column = divmod(place, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = block
    image = Image.fromarray(sheet)
    legend = "a column a class; queries framed green if answered rightly after adaptation, else red"
    captions = "below a query: its class as predicted" + (" before > after adaptation" if _adapts(shown) else "")
    for line, text in enumerate((legend, captions)):
        _write(image, (_GAP, rows * height + line * _LINE - _GAP // 2), text, (90, 90, 90))
    return np.asarray(image)


def _block(shown: Shown, task: int, ways: int) -> np.ndarray:
    """One task: columns of classes."""
    support = [_of_class(shown.examples.support_targets[task], each) for each in range(ways)]
    query = [_of_class(shown.examples.query_targets[task], each) for each in range(ways)]
    pictures = shown.examples.support_inputs[task], shown.examples.query_inputs[task]
    scale = max(1, round(_SIDE / pictures[0].shape[-1]))
    wide, high = (scale * side + 2 * _FRAME for side in (pictures[0].shape[-1], pictures[0].shape[-2]))
    rows = max(map(len, support)), max(map(len, query))
    top = 2 * _LINE + _GAP
    below = top + rows[0] * (high + _GAP) + _GAP
    size = _MARGIN + ways * (wide + _GAP), below + rows[1] * (high + _LINE + _GAP) + _GAP
    image = Image.new("RGB", size, (255, 255, 255))
    _write(image, (_GAP, 2), _cut(shown.words[task], size[0] - 2 * _GAP), (0, 0, 0))
    _write(image, (_GAP, top), "support", (90, 90, 90))
    _write(image, (_GAP, below), "query", (90, 90, 90))
    for column in range(ways):
        left = _MARGIN + column * (wide + _GAP)
        _write(image, (left + wide // 2 - 3, _LINE + 2), str(column), (90, 90, 90))
        for row, index in enumerate(support[column]):
            image.paste(_framed(pictures[0][index], scale, _PLAIN), (left, top + row * (high + _GAP)))
        for row, index in enumerate(query[column]):
            words, right = _answer(shown, task, index, column)
            place = below + row * (high + _LINE + _GAP)
            image.paste(_framed(pictures[1][index], scale, _RIGHT if right else _WRONG), (left, place))
            _write(image, (left, place + high), words, _RIGHT if right else _WRONG)
    return np.asarray(image)


def _of_class(targets: np.ndarray, number: int) -> np.ndarray:
    """Where the first examples of a class are."""
    return np.flatnonzero(targets == number)[:MOST_PICTURES]


def _adapts(shown: Shown) -> bool:
    return not np.array_equal(shown.outputs[0], shown.outputs[-1], equal_nan=True)


def _answer(shown: Shown, task: int, query: int, target: int) -> tuple[str, bool]:
    """What is written below a query, and whether it was answered rightly."""
    answers = []
    for outputs in (shown.outputs[0, task, query], shown.outputs[-1, task, query]):
        answers.append(int(outputs.argmax()) if np.isfinite(outputs).all() else None)
    words = ["?" if answer is None else str(answer) for answer in answers]
    return " > ".join(words if _adapts(shown) else words[-1:]), answers[-1] == target


def _framed(pixels: np.ndarray, scale: int, color: tuple[int, int, int]) -> Image.Image:
    """An image ``[channels, height, width]`` of numbers from 0 to 1, larger and with a frame."""
    levels = np.nan_to_num(255.0 * pixels).clip(0.0, 255.0).astype(np.uint8).transpose(1, 2, 0)
    levels = np.broadcast_to(levels, (*levels.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)
    height, width = levels.shape[:2]
    framed = Image.new("RGB", (width + 2 * _FRAME, height + 2 * _FRAME), color)
    framed.paste(Image.fromarray(np.ascontiguousarray(levels)), (_FRAME, _FRAME))
    return framed


def _cut(text: str, width: int) -> str:
    """As much of a text as ``width`` pixels have room for."""
    font = ImageFont.load_default(_FONT)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."


def _write(image: Image.Image, place: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    ImageDraw.Draw(image).text(place, text, fill=color, font=ImageFont.load_default(_FONT))

"""What a curious learner looks at: the support pictures of a few tasks, the heaviest first."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metarl.few_shot.curious import CuriousLearner
from metarl.few_shot.meta_learner import few_shot_data
from metarl.tasks import FewShotFamily
from metarl.types import Meta

TAG = "curiosity"
"""Of the picture in TensorBoard."""
_MOST = 12
"""Pictures shown of each task: the heaviest and, where there are more, the lightest."""


def draw_curiosity(family: FewShotFamily, learner: CuriousLearner, meta: Meta, tasks: np.ndarray) -> np.ndarray:
    """Support pictures with their weights in the first inner step, red, green and blue ``[height, width, 3]``.

    A red frame: the label is not that of the picture.

    Args:
        family: of pictures.
        learner: what weights them.
        meta: what it learned, on any device.
        tasks: rows ``[M, P]``.
    """
    device = str(next(iter(meta.theta.values())).device)
    support = few_shot_data(family, tasks, 1, device).support[0]
    weights = learner.attend(meta, support).weights.values.cpu().numpy()
    images, wrong = family.examples(tasks).support_inputs, mislabeled(family, tasks)
    across = min(_MOST, weights.shape[1])
    figure = Figure(figsize=(0.9 * across, 1.25 * len(tasks)), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(tasks), across, squeeze=False)
    for task, axes_of_task in enumerate(grid):
        order = np.argsort(-weights[task], kind="stable")
        shown = np.concatenate([order[: across - across // 2], order[len(order) - across // 2 :]])
        for axes, example in zip(axes_of_task, shown, strict=True):
            picture = np.clip(images[task, example], 0.0, 1.0).transpose(1, 2, 0)
            axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray_r", vmin=0.0, vmax=1.0)
            axes.set_title(f"{weights[task, example]:.2f}", fontsize=8, pad=2)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(
                    color="tab:red" if wrong[task, example] else "0.8", linewidth=2.5 if wrong[task, example] else 1
                )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def mislabeled(family: FewShotFamily, tasks: np.ndarray) -> np.ndarray:
    """Which support examples have the target of another class, ``[M, N]``.

    Queries tell which target is whose; of a class that they do not show, or where a family gives no labels, no example
    is called wrong.
    """
    drawn = family.examples(tasks)
    wrong = np.zeros(drawn.support_targets.shape, dtype=bool)
    if not drawn.query_labels.shape[1]:
        return wrong
    for task in range(len(tasks)):
        classes = dict(zip(drawn.query_labels[task].tolist(), drawn.query_targets[task].tolist(), strict=True))
        given = zip(drawn.support_labels[task].tolist(), drawn.support_targets[task].tolist(), strict=True)
        wrong[task] = [classes.get(label, target) != target for label, target in given]
    return wrong

"""What a run writes while it trains: TensorBoard events, and the same figures as lines of JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from metarl.engine import Iteration, Scores, mean_score, score_metrics
from metarl.types import Metrics

_FEW_STEPS = 12
"""Scores after more steps than these are drawn for some of them."""
_FLUSH = 10
"""Seconds after which TensorBoard sees what was written."""


class RunLog:
    """Writes each iteration to ``metrics.jsonl`` and to ``tensorboard/``.

    Scores after 0..S steps share one chart: TensorBoard overlays the runs ``after_0`` .. ``after_S``, each with tags
    such as ``return/training_tasks`` and ``return/held_out_tasks``.
    """

    def __init__(self, directory: Path, *, steps: int, start: int) -> None:
        """Open the logs of a run.

        Args:
            directory: the run's folder.
            steps: S, the run's inner steps.
            start: iterations done; lines and events of later ones, from before an interruption, are dropped.
        """
        events = directory / "tensorboard"
        self._main = SummaryWriter(str(events), purge_step=start + 1, flush_secs=_FLUSH)
        self._after = {
            step: SummaryWriter(str(events / f"after_{step}"), purge_step=start + 1, flush_secs=_FLUSH)
            for step in range(steps + 1)
            if steps <= _FEW_STEPS or step in (0, 1, 2, 5, 10, 20, 50, steps)  # each is a thread
        }
        path = directory / "metrics.jsonl"
        kept = [line for line in _lines(path) if int(line["iteration"]) <= start]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._lines = path.open("a")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        for writer in (self._main, *self._after.values()):
            writer.close()

    def text(self, title: str, text: str) -> None:
        """A page of the TEXT tab."""
        self._main.add_text(title, text)

    def write(self, iteration: Iteration) -> Metrics:
        """Log one iteration that has metrics; returns the line written."""
        number = iteration.state.iteration
        metrics = dict(iteration.metrics)
        self._scores("training_tasks", iteration.scores, number)
        if iteration.held_out is not None:
            self._scores("held_out_tasks", iteration.held_out, number)
            metrics |= score_metrics("held_out", iteration.held_out)
        for name, value in metrics.items():
            if "_after_" not in name and math.isfinite(value):
                self._main.add_scalar(name, value, number)
        line = {"iteration": float(number), **metrics}
        self._lines.write(json.dumps({name: value if math.isfinite(value) else None for name, value in line.items()}))
        self._lines.write("\n")
        self._lines.flush()
        return line

    def hyperparameters(self, settings: dict[str, bool | int | float | str], final: Metrics) -> None:
        """The run's line of the HPARAMS tab."""
        self._main.add_hparams(settings, final, run_name=".")

    def image(self, tag: str, pixels: np.ndarray, number: int) -> None:
        """A picture ``[height, width, 3]`` of the IMAGES tab, whole numbers from 0 to 255."""
        self._main.add_image(tag, pixels, number, dataformats="HWC")

    def _scores(self, kind: str, scores: Scores, number: int) -> None:
        main = next(iter(scores), "")
        for name, rows in scores.items():
            for step, row in enumerate(rows):
                if step not in self._after:
                    continue
                writer, finite = self._after[step], row[np.isfinite(row)]
                if name == main or finite.size:
                    writer.add_scalar(f"{name}/{kind}", mean_score(row), number)
                if name == main and finite.size:
                    writer.add_histogram(f"{name}_per_task/{kind}", finite, number)


def write_picture(directory: Path, name: str, pixels: np.ndarray, number: int) -> None:
    """A picture ``[height, width, 3]`` of the IMAGES tab, made after training: under a name of its own, in a folder of
    its own, so that the events of training stay as they are."""
    with SummaryWriter(str(directory / "tensorboard" / name)) as writer:
        writer.add_image(name, pixels, number, dataformats="HWC")


def read_metrics(directory: Path) -> list[Metrics]:
    """The lines of a run's ``metrics.jsonl``; figures that were not finite come as nan."""
    lines = _lines(directory / "metrics.jsonl")
    return [{name: math.nan if value is None else float(value) for name, value in line.items()} for line in lines]


def _lines(path: Path) -> list[dict[str, float]]:
    """Whole lines of the file; a last one cut short by a crash is left out."""
    if not path.exists():
        return []
    whole = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole]

"""Pictures of few-shot learners: green where the answer is right, true curves where they are, and in TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from metarl.envs import Boolean, Sinusoid
from metarl.experiments.cli import main
from metarl.experiments.curiosity_pictures import draw_curiosity, mislabeled
from metarl.experiments.few_shot_pictures import CURVE_POINTS, draw_tasks, drawable, with_curve
from metarl.few_shot.curious_problem import Attention
from metarl.tasks import make_family
from metarl.types import Examples, Meta
from metarl.variants.curiosity import Weights

GREEN, RED, BLACK = (40, 170, 80), (215, 50, 45), (0, 0, 0)


class Says:
    """Answers every query with the same class, the first before adaptation, the last after it."""

    def __init__(self, ways: int) -> None:
        self.ways = ways

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        outputs = torch.zeros(steps + 1, *inputs.shape[:2], self.ways)
        outputs[0, ..., 0] = outputs[1:, ..., -1] = 1.0
        return outputs


def count(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((pixels == color).all(-1).sum())


def draw(family, learner, tasks: int = 2, steps: int = 1) -> np.ndarray:
    rows = family.sample_test(np.random.default_rng(0), tasks)
    return draw_tasks(
        family, learner, Meta({}, {}, {}), rows, steps=steps, transductive=True, device="cpu"
    )  # fmt: skip


@pytest.fixture
def images(shapes: None):
    return make_family("test-shapes", ways=3, queries=2)


def test_frames_are_green_for_right_answers_after_adaptation_and_red_for_wrong_ones(images):
    """One class of three is right: a third of the frames, which are all of one size."""
    pixels = draw(images, Says(3))
    assert pixels.dtype == np.uint8
    frame = (48 + 6) ** 2 - 48**2
    assert count(pixels, GREEN) >= 2 * 2 * frame
    assert count(pixels, RED) >= 2 * 4 * frame
    assert count(pixels, GREEN) < 2 * 3 * frame


def test_before_adaptation_the_first_class_is_the_one_that_is_right(images):
    """Without steps the last answers are the first: the left column of each block is green."""
    pixels = draw(images, Says(3), tasks=1, steps=0)
    green = np.flatnonzero((pixels == GREEN).all(-1).sum(0) > 20)
    red = np.flatnonzero((pixels == RED).all(-1).sum(0) > 20)
    assert green.max() < red.min()


class Knows:
    """Answers 0 before adaptation and, after it, the true curve, which goes through its support point."""

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        rows = [torch.zeros(*inputs.shape[:2], 1), *[torch.sin(inputs[..., :1]) for _ in range(steps)]]
        return torch.stack(rows)


def test_a_fit_of_the_true_curve_covers_it():
    """The curve is drawn black, and what is predicted over it: a perfect fit leaves less of the black to be seen."""
    family = with_curve(Sinusoid(amplitude_low=1.0, amplitude_high=1.0, phase_low=0.0, phase_high=0.0))
    assert family.queries == CURVE_POINTS
    before, after = draw(family, Knows(), steps=0), draw(family, Knows(), steps=1)
    assert count(before, BLACK) > 500
    assert count(after, BLACK) < 0.7 * count(before, BLACK)


def test_predictions_that_are_not_finite_are_left_out_and_do_not_widen_the_panel():
    class Wild(Knows):
        def predict(self, meta, support, inputs, *, steps, transductive):
            outputs = super().predict(meta, support, inputs, steps=steps, transductive=transductive)
            outputs[1] = torch.nan
            outputs[1, :, 0] = 1e30
            return outputs

    family = with_curve(Sinusoid())
    assert count(draw(family, Wild()), BLACK) > 100


def test_queries_that_are_no_curve_are_drawn_one_by_one():
    """The truth table of two inputs has no order."""
    assert draw(Boolean(), Knows()).shape[2] == 3


def test_only_images_and_single_numbers_can_be_drawn(images):
    assert drawable(images)
    assert drawable(Sinusoid())

    class Vectors:
        kind, input_shape, outputs = "classification", (4,), 3

    assert not drawable(Vectors())  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "tag"), [("sinusoid", "fits"), ("maml", "predictions"), ("prototypes", "predictions")])
def test_tensorboard_has_scores_and_pictures_of_held_out_tasks(few_shot: Path, run: str, tag: str):
    events = EventAccumulator(str(few_shot / run / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert tag in events.Tags()["images"]
    shown = events.Images(tag)
    assert shown[0].step == 10, "the first look at held-out tasks"
    assert shown[-1].step == 30, "the last"
    with Image.open(io.BytesIO(shown[-1].encoded_image_string)) as picture:
        assert picture.size == (shown[-1].width, shown[-1].height)
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    assert "outer/loss" in events.Tags()["scalars"]
    main_score = "mse" if tag == "fits" else "accuracy"
    for step in (0, 1):
        after = EventAccumulator(str(few_shot / run / "tensorboard" / f"after_{step}"))
        after.Reload()
        tags = after.Tags()["scalars"]
        assert {f"{main_score}/training_tasks", f"{main_score}/held_out_tasks"} <= set(tags)
        if tag == "predictions":
            assert {"loss/training_tasks", "loss/held_out_tasks"} <= set(tags)


def test_tensorboard_shows_what_a_curious_run_looks_at(shapes: None, tmp_path: Path):
    flags = ["--net.form", "mlp", "--net.hidden", "8", "--iterations", "2", "--held-out-every", "1", "--log-every", "1"]
    flags += ["--meta-batch-size", "2", "--held-out-tasks", "2", "--curiosity", "gradient"]
    assert main(["train", "test-shapes", "--runs", str(tmp_path), "--name", "curious", *flags]) == 0
    events = EventAccumulator(str(tmp_path / "curious" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert [shown.step for shown in events.Images("curiosity")] == [1, 2]
    with Image.open(io.BytesIO(events.Images("curiosity")[0].encoded_image_string)) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    assert {"curiosity/forward_loss", "curiosity/inverse_loss"} <= set(events.Tags()["scalars"])


class Looks:
    """Weights every example alike, where its parameters are."""

    def attend(self, meta: Meta, support: Examples) -> Attention:
        assert all(field.device == meta.theta["w"].device for field in support)
        even = torch.ones(support.targets.shape)  # on the processor: of "meta" nothing can be fetched
        return Attention(even, Weights(even, even[:, 0] > 1.0), None)


def test_what_is_looked_at_is_where_the_parameters_are(images):
    rows = images.sample_test(np.random.default_rng(0), 2)
    drawn = [
        draw_curiosity(images, Looks(), Meta({"w": torch.empty(1, device=device)}, {}, {}), rows)  # type: ignore[arg-type]
        for device in ("meta", "cpu")
    ]
    assert (drawn[0] == drawn[1]).all()
    assert len(np.unique(drawn[0])) > 10


def test_only_examples_with_the_target_of_another_class_are_mislabeled(shapes: None):
    family = make_family("test-shapes", shots=2)
    tasks = family.sample_test(np.random.default_rng(0), 2)
    assert not mislabeled(family, tasks).any()

    class Wrong:
        """The same with the first target of each task exchanged."""

        def examples(self, tasks):
            drawn = family.examples(tasks)
            targets = drawn.support_targets.copy()
            targets[:, 0] = 2
            return drawn._replace(support_targets=targets)

    expected = np.zeros((2, 6), dtype=bool)
    expected[:, 0] = True
    assert (mislabeled(Wrong(), tasks) == expected).all()  # type: ignore[arg-type]
    unlabeled = family.examples(tasks)
    empty = np.empty((2, 0), dtype=np.int64)

    class Unlabeled:
        """Targets alone, as a family of a user's may give them."""

        def examples(self, tasks):
            return unlabeled._replace(support_labels=empty, query_labels=empty)

    assert not mislabeled(Unlabeled(), tasks).any()  # type: ignore[arg-type]


def test_where_iterations_are_fast_most_looks_at_held_out_tasks_are_not_drawn(tmp_path: Path):
    """A picture takes as long as dozens of these iterations; the first and the last are drawn all the same."""
    flags = ["--iterations", "60", "--held-out-every", "1", "--held-out-tasks", "2", "--meta-batch-size", "2"]
    assert main(["train", "sinusoid", "--runs", str(tmp_path), "--name", "fast", *flags]) == 0
    events = EventAccumulator(str(tmp_path / "fast" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    steps = [shown.step for shown in events.Images("fits")]
    assert (steps[0], steps[-1]) == (1, 60)
    assert len(steps) < 30


def test_render_writes_the_same_kind_of_picture_of_test_tasks(few_shot: Path, tmp_path: Path, capsys):
    assert main(["render", str(few_shot / "sinusoid"), "--tasks", "2"]) == 0
    assert main(["render", str(few_shot / "maml"), "--output", str(tmp_path / "new" / "p.png")]) == 0
    shown = capsys.readouterr().out
    assert "fits.png" in shown
    assert "p.png" in shown
    with Image.open(tmp_path / "new" / "p.png") as picture:
        pixels = np.asarray(picture)
    assert count(pixels, GREEN) + count(pixels, RED) > 1000
    assert (few_shot / "sinusoid" / "fits.png").is_file()


def test_render_says_what_cannot_be_drawn(few_shot: Path, capsys):
    assert main(["render", str(few_shot / "maml"), "--tasks", "0"]) == 2
    assert "render tasks must be at least 1, got 0" in capsys.readouterr().err

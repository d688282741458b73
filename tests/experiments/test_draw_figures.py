"""Statistics of figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metarl.experiments.draw_figures import (
    crossed_interval,
    draw_curves,
    draw_steps,
    interquartile_mean,
    on_common_steps,
)
from metarl.experiments.figure_tables import steps_table


def test_curves_meet_on_the_steps_that_all_of_them_cover():
    x, rows = on_common_steps([[[0.0, 0.0], [10.0, 10.0]], [[2.0, 4.0], [8.0, 4.0]]])
    assert (x[0], x[-1]) == (2.0, 8.0)
    np.testing.assert_allclose(rows[0], x)
    np.testing.assert_allclose(rows[1], 4.0)
    assert on_common_steps([[], [[0.0, 1.0]]])[0].size == 0


def test_the_interquartile_mean_leaves_out_the_extreme_quarters():
    mean, low, high = interquartile_mean(np.array([[0.0], [1.0], [3.0], [1000.0]]))
    assert mean.tolist() == [2.0]
    assert low[0] < 2.0 < high[0]
    three, *_ = interquartile_mean(np.array([[0.0], [1.0], [5.0]]))
    assert three.tolist() == [2.0]
    alone = interquartile_mean(np.array([[7.0]]))
    assert [each.tolist() for each in alone] == [[7.0]] * 3


def test_what_takes_no_steps_is_a_line_across_and_one_cell_of_the_table(tmp_path):
    several = {"returns": [[-4.0, -2.0], [-1.0, -1.0], [0.0, 0.0]], "minutes": 1.0, "env_steps": 4_200_000}
    ceiling = {"returns": [[1.0, None]], "minutes": 2.0, "env_steps": 0}
    content = {"title": "both", "algorithms": {"maml": [several, several | {"minutes": 1.5}], "single-task": [ceiling]}}
    draw_steps(content, tmp_path / "both.png")
    with Image.open(tmp_path / "both.png") as picture:
        assert len(picture.convert("RGB").crop((100, 60, 900, 600)).getcolors(10**6)) > 20
    assert steps_table(content).splitlines()[2:] == [
        "| maml | -3.0 | -1.0 | 0.0 | 4.2 | 1.0 to 1.5 |",
        "| single-task | 1.0 |  |  | 0.0 | 2.0 |",
    ]


def test_many_curves_have_their_legend_beside_them(tmp_path):
    run = {"curve": [[0.0, 0.0], [10.0, 5.0]]}
    sizes = []
    for count in (2, 14):
        content = {"title": "all", "algorithms": {f"algorithm-{index}": [run] for index in range(count)}}
        draw_curves(content, tmp_path / "all.png")
        with Image.open(tmp_path / "all.png") as picture:
            sizes.append(picture.size)
    assert sizes == [(960, 690), (1260, 690)]


def test_the_interval_covers_seeds_and_tasks():
    """Without spread it is a point; seeds that differ widen it even where tasks do not."""
    same = np.full((3, 2, 5), 4.0)
    np.testing.assert_array_equal(crossed_interval(same), np.full((2, 2), 4.0))
    seeds = same + np.array([-1.0, 0.0, 1.0])[:, None, None]
    low, high = crossed_interval(seeds)
    assert (low < 3.5).all()
    assert (high > 4.5).all()
    one = np.random.default_rng(1).standard_normal((1, 1, 400))
    narrow, wide = crossed_interval(np.repeat(one, 3, 0))  # the same tasks in each seed say no more than one seed
    assert (wide - narrow)[0] == pytest.approx(np.subtract(*crossed_interval(one)[::-1])[0], rel=0.1)
    low, high = crossed_interval(one)
    assert 0.15 < float(high[0] - low[0]) < 0.25  # 2 * 1.96 / sqrt(400)

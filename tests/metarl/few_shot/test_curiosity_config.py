"""Settings of curiosity that are not possible, or of no use, are refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metarl.algorithms import UnsuitableAlgorithm
from metarl.few_shot.algorithms import check_settings, make_learner
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.curiosity_config import USES, CuriosityConfig
from metarl.few_shot.meta_learner import few_shot_data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "gradients"}, "curiosity kind must be one of none, gradient, got 'gradients'"),
        ({"measure": "cosine"}, "curiosity measure must be one of features, plain, .* got 'cosine'"),
        ({"gradients": "head"}, "curiosity gradients must be one of last, whole, projected, got 'head'"),
        ({"projection": 0}, "curiosity projection must be at least 1, got 0"),
        ({"hidden": 0}, "curiosity hidden must be at least 1, got 0"),
        ({"features": 1}, "curiosity features must be at least 2, .* a single number would always be 0, got 1"),
        ({"temperature": 0.0}, "curiosity temperature must be positive and finite, got 0.0"),
        ({"temperature": math.nan}, "curiosity temperature must be positive and finite, got nan"),
        ({"clip": 0.5}, "curiosity clip must be finite and at least 1, .* got 0.5"),
        ({"clip": math.inf}, "curiosity clip must be finite and at least 1, .* got inf"),
        ({"forward_weight": 1.5}, r"curiosity forward_weight must lie in \[0, 1\], got 1.5"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(fields, message):
    with pytest.raises(ValueError, match=message):
        CuriosityConfig(**fields)


PROJECTED = {"measure": "norm", "gradients": "projected", "projection": 8}
OTHERS = {
    "gradients": "whole",
    "projection": 8,
    "temperature": 2.0,
    "clip": 1.0,
    "features": 8,
    "hidden": 8,
    "forward_weight": 0.5,
    "joint": True,
    "outer": True,
}


def settled(fields, defaults=None):
    defaults = FewShotConfig() if defaults is None else defaults
    check_settings(FewShotConfig(curiosity=CuriosityConfig(kind="gradient", **fields)), defaults)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"measure": "norm", "features": 64}, r"curiosity\.features was .* measure norm .* choose .* features$"),
        (
            {"measure": "plain", "forward_weight": 0.5},
            r"curiosity\.forward-weight .* choose .*measure features$",
        ),
        ({"measure": "plain", "joint": True}, r"curiosity\.joint was changed"),
        ({"measure": "direction", "hidden": 8}, r"curiosity\.hidden was .* --curiosity.measure features or plain$"),
        ({"measure": "loss", "gradients": "whole"}, r"curiosity\.gradients .* features or plain or norm or direction$"),
        ({"measure": "uniform", "clip": 2.0}, r"curiosity\.clip was changed"),
        (
            {"projection": 8},
            r"measure features with gradients last .* and --curiosity.gradients projected$",
        ),
        (PROJECTED | {"measure": "loss", "gradients": "last"}, r"curiosity\.projection was changed"),
    ],
)
def test_what_the_measure_has_no_use_for_is_refused(fields, message):
    with pytest.raises(UnsuitableAlgorithm, match=message):
        settled(fields)


def test_what_it_has_a_use_for_is_taken_and_so_is_what_is_not_changed():
    """What was chosen from has no use for it either: a run's own settings, or those of a preset."""
    settled(PROJECTED)
    for measure, used in USES.items():
        settled({"measure": measure} | {name: OTHERS[name] for name in used - {"projection"}})
        spare = {"measure": measure} | OTHERS
        settled(spare, FewShotConfig(curiosity=CuriosityConfig(kind="gradient", **spare)))
    assert set(OTHERS) == set().union(*USES.values())


@pytest.mark.parametrize("measure", ["loss", "norm", "direction", "uniform"])
def test_weights_depend_on_what_the_measure_uses_and_on_nothing_else(blobs, measure):
    base = {"measure": measure, "gradients": "projected", "projection": 64, "clip": 2.0}
    support = few_shot_data(blobs(), blobs().sample(np.random.default_rng(0), 3), 1, "cpu").support[0]

    def weights(**fields):
        config = FewShotConfig(curiosity=CuriosityConfig(kind="gradient", **(base | fields)))
        learner = make_learner(blobs(), config)
        return learner.attend(learner.init(torch.Generator().manual_seed(0)), support).weights.values

    expected = weights()
    changing = {name for name, value in OTHERS.items() if not torch.equal(weights(**{name: value}), expected)}
    assert changing == USES[measure] - {"outer"}

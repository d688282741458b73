"""Settings of curiosity that are not possible are refused by name."""

from __future__ import annotations

import math

import pytest

from metarl.few_shot.curiosity_config import CuriosityConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "gradients"}, "curiosity kind must be one of none, gradient, got 'gradients'"),
        ({"measure": "cosine"}, "curiosity measure must be one of features, plain, .* got 'cosine'"),
        ({"gradients": "head"}, "curiosity gradients must be one of last, whole, projected, got 'head'"),
        ({"projection": 0}, "curiosity projection must be at least 1, got 0"),
        ({"hidden": 0}, "curiosity hidden must be at least 1, got 0"),
        ({"features": -1}, "curiosity features must be at least 1, got -1"),
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

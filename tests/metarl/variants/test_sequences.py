"""Settings of sequences that cannot be."""

from __future__ import annotations

import math

import pytest

from metarl.variants.sequences import SequenceConfig


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tasks": 1}, "must have at least 2 tasks, got 1"),
        ({"steps": 0}, "steps on each task must be at least 1, got 0"),
        ({"consolidate": "ewc"}, "consolidate must be one of none, own, own-fixed, fisher, .*, got 'ewc'"),
        ({"consolidate": "mas", "strength": -0.5}, r"strength must be 0 or more and finite, got -0\.5"),
        ({"consolidate": "mas", "strength": math.inf}, "strength must be 0 or more and finite, got inf"),
        ({"consolidate": "mas", "strength": math.nan}, "strength must be 0 or more and finite, got nan"),
        ({"consolidate": "none", "strength": 1.0}, r"nothing to be strong, got strength 1\.0; leave one out"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\], .* got 1\.5"),
        ({"decay": math.nan}, r"decay must lie in \[0, 1\], .* got nan"),
    ],
)
def test_impossible_settings_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        SequenceConfig(**options)

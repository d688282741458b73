"""Settings of sequences that cannot be."""

from __future__ import annotations

import math

import pytest

from metarl.variants.sequences import Consolidation, SequenceConfig, check_used


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


@pytest.mark.parametrize(
    ("how", "options", "complaint"),
    [
        ("none", {"strength": 3.0}, r"nothing holds in this run, so that strength 3\.0 would .* --consolidate fisher"),
        ("none", {"decay": 0.5}, r"nothing holds in this run, so that decay 0\.5 would change nothing"),
        ("none", {"mean_one": False, "strength": 0.0}, r"that strength 0\.0 and mean_one False would change nothing"),
        ("own-fixed", {"decay": 0.5}, r"own-fixed adds no importance .* that decay 0\.5 .* choose --consolidate own,"),
        ("own-fixed", {"mean_one": False}, "own-fixed adds no importance .* that mean_one False would change nothing"),
    ],
)
def test_what_changes_nothing_where_nothing_holds_or_nothing_is_added_is_refused(
    how: Consolidation, options, complaint
):
    with pytest.raises(ValueError, match=complaint):
        check_used(how, SequenceConfig(**options))
    check_used("fisher", SequenceConfig(**options))
    check_used("own", SequenceConfig(**options))
    check_used(how, SequenceConfig())


def test_a_strength_is_of_use_wherever_something_holds():
    check_used("own-fixed", SequenceConfig(strength=3.0))

"""What the kinds of learning prepare."""

from dataclasses import replace

import pytest

from metarl.experiments.config import RunConfig
from metarl.experiments.kinds import FEW_SHOT
from metarl.experiments.presets import preset_config
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.variants.fame import ElasticConfig


@pytest.mark.parametrize("curious", [False, True])
def test_all_that_is_learned_or_kept_is_where_it_is_computed(curious):
    """``meta`` has no numbers, but it is another device."""
    start: RunConfig = preset_config("sinusoid", "default")
    elastic = ElasticConfig(outer_strength=1.0, phase=2)
    curiosity = CuriosityConfig(kind="gradient") if curious else CuriosityConfig()
    train = replace(start.train, algorithm="fame", device="meta", elastic=elastic, curiosity=curiosity)
    meta = FEW_SHOT.prepare(replace(start, train=train))[1].meta
    for part in (meta.theta, meta.elastic, meta.eta):
        assert {value.device.type for value in part.values()} <= {"meta"}
    assert meta.elastic

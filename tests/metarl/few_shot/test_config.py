"""Settings of few-shot learning: what is refused."""

from __future__ import annotations

import math

import pytest

from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FewShotInnerConfig(steps=-1), "inner steps must be 0 or more, got -1"),
        (lambda: FewShotInnerConfig(steps=0, layer_step_sizes=True), "need inner steps of at least 1, got 0"),
        (lambda: FewShotInnerConfig(steps=0, multi_step_iterations=5), "need inner steps of at least 1, got 0"),
        (lambda: FewShotInnerConfig(step_size=math.nan), "inner step_size must be positive and finite, got nan"),
        (lambda: FewShotInnerConfig(proximity=0.0), r"inner proximity must be positive and finite, got 0\.0"),
        (lambda: FewShotInnerConfig(curvature_damping=-1.0), "inner curvature_damping must be 0 or more"),
        (lambda: FewShotInnerConfig(cg_iterations=0), "inner cg_iterations must be at least 1, got 0"),
        (lambda: NetConfig(form="dense"), "net form must be one of auto, mlp, strided, pooled, got 'dense'"),
        (lambda: NetConfig(activation="gelu"), "net activation must be one of relu, tanh, silu, softplus, got 'gelu'"),
        (lambda: NetConfig(hidden=(3, 0)), r"net hidden must be widths of at least 1, got \(3, 0\)"),
        (lambda: NetConfig(filters=0), "net filters must be at least 1, got 0"),
        (lambda: FewShotConfig(meta_batch_size=0), "meta_batch_size must be at least 1, got 0"),
        (lambda: FewShotConfig(log_every=0), "log_every must be at least 1, got 0"),
        (lambda: FewShotConfig(task_chunk=-1), "task_chunk must be 0 or more, got -1"),
        (
            lambda: FewShotConfig(device="abacus"),
            "device must be one that torch knows, such as cpu or cuda, got 'abacus'",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()

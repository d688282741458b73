"""Who is compared in the study of forgetting, trained how, and held how, on each family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from metarl.experiments.config import RunConfig
from metarl.experiments.kinds import kind_of_run
from metarl.experiments.presets import preset_config, preset_for
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.outer.adam import OptimizerConfig
from metarl.tasks import make_family
from metarl.variants.fame import ElasticConfig
from metarl.variants.sequences import Consolidation

FamilyName = Literal["sinusoid", "omniglot", "navigation-2d", "half-cheetah-dir"]


class Holding(NamedTuple):
    """What holds parameters in a sequence, and how firmly."""

    consolidate: Consolidation
    strength: float | None = None


class Row(NamedTuple):
    """A learner of the study."""

    algorithm: str
    holdings: tuple[Holding, ...]
    changes: dict[str, Any] = {}  # noqa: RUF012  nobody writes to it
    """Of the settings of training."""


class Setting(NamedTuple):
    """What is the same for all learners on one family."""

    rows: Mapping[str, Row]
    """Learners by the names that they have in the table."""
    configure: Callable[[str], RunConfig]
    """From an algorithm to the run that trains it, but for its seed and the changes of its row."""
    sequences: int
    tasks: int
    steps: int
    """On each task."""
    own_steps: Mapping[str, int]
    """The same, of the algorithms that need others."""
    pictured: tuple[tuple[str, Holding], ...]
    """Whose matrices are drawn."""
    episodes: int | None = None
    """Of each step and each judgment of a policy."""


def run_config(setting: Setting, name: str, seed: int) -> RunConfig:
    """The training run of a learner."""
    row = setting.rows[name]
    config = setting.configure(row.algorithm)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed, **row.changes))


NAIVE = Holding("none")
_OWN = tuple(Holding("own", strength) for strength in (None, 0.3, 1.0, 3.0, 10.0, 100.0))
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)


def _by(measure: Consolidation, *strengths: float) -> tuple[Holding, ...]:
    return tuple(Holding(measure, strength) for strength in strengths)


_EXAMPLES: dict[str, Row] = {
    "pretrain": Row("pretrain", (NAIVE, *_by("fisher", *_STRENGTHS), *_by("mas", *_STRENGTHS))),
    "maml": Row("maml", (NAIVE, *_by("fisher", *_STRENGTHS), *_by("mas", *_STRENGTHS))),
    "reptile": Row("reptile", (NAIVE,)),
    "meta-lstm": Row("meta-lstm", (NAIVE,)),
    "fame": Row("fame", (NAIVE, *_OWN, Holding("fisher", 10.0))),
    "fame, trained at 0.01": Row("fame", _OWN, {"elastic": ElasticConfig(strength=0.01)}),
    "fame, mas": Row("fame", _OWN, {"elastic": ElasticConfig(importance="mas")}),
    "fame, learned strength": Row("fame", _OWN, {"elastic": ElasticConfig(strength=1.0, schedule="learned")}),
    "fame, curious": Row("fame", _OWN, {"curiosity": CuriosityConfig(kind="gradient")}),
}
"""Naive fine-tuning, elastic weight consolidation and memory-aware synapses of a pretrained network and of MAML's; FAME
with each of its terms taken away or exchanged."""

_SINUSOID = FewShotConfig(
    inner=FewShotInnerConfig(steps=5, step_size=0.01), iterations=3000, held_out_every=1000, log_every=250
)
_OMNIGLOT = FewShotConfig(
    net=NetConfig(filters=32),
    inner=FewShotInnerConfig(steps=3, step_size=0.2),
    outer=OptimizerConfig(learning_rate=0.003, schedule="cosine"),
    meta_batch_size=8,
    iterations=800,
    held_out_every=400,
    held_out_tasks=50,
    log_every=100,
)
_INTERPOLATION = OptimizerConfig(optimizer="sgd", learning_rate=1.0, schedule="linear")
_OTHERS: dict[str, dict[str, FewShotConfig]] = {
    "sinusoid": {
        "reptile": dataclasses.replace(
            _SINUSOID, inner=FewShotInnerConfig(steps=10, step_size=0.02), outer=_INTERPOLATION, meta_batch_size=5
        ),
        "meta-lstm": dataclasses.replace(_SINUSOID, iterations=500),  # ten times as slow as the others
    },
    "omniglot": {
        "reptile": dataclasses.replace(
            _OMNIGLOT, inner=FewShotInnerConfig(steps=5, step_size=0.1), outer=_INTERPOLATION, meta_batch_size=5
        ),
        "meta-lstm": dataclasses.replace(_OMNIGLOT, meta_batch_size=4, iterations=100),  # as above
        # Its outputs for a new task start from chance.
        "pretrain": dataclasses.replace(_OMNIGLOT, inner=FewShotInnerConfig(steps=3, step_size=1.0), iterations=2000),
    },
}
"""Settings of the algorithms that need their own."""


def _examples(family_name: str, start: FewShotConfig, **options: Any) -> Callable[[str], RunConfig]:
    def configure(algorithm: str) -> RunConfig:
        train = dataclasses.replace(_OTHERS[family_name].get(algorithm, start), algorithm=algorithm)
        family = make_family(family_name, **options)
        return RunConfig(family_name=family_name, preset="forgetting", family=family, train=train)

    return configure


_POLICIES: dict[str, Row] = {
    "pretrain": Row("pretrain", (NAIVE, *_by("fisher", 1.0))),
    "maml-trpo": Row("maml-trpo", (NAIVE, *_by("fisher", 0.1, 1.0, 10.0))),
    "reptile": Row("reptile", (NAIVE,)),
    "fame": Row("fame", (NAIVE, Holding("own"), *_by("own", 1.0, 10.0))),
}


def _policies(family_name: str) -> Callable[[str], RunConfig]:
    """Each algorithm's own preset, 60 meta-iterations, as in the figures."""

    def configure(algorithm: str) -> RunConfig:
        preset = preset_config(family_name, preset_for(family_name, algorithm))
        train = dataclasses.replace(preset.train, algorithm=algorithm, iterations=60)
        settled: RunConfig = kind_of_run(preset).settle(dataclasses.replace(preset, train=train), preset)
        return settled

    return configure


_NAVIGATION = Setting(
    _POLICIES,
    _policies("navigation-2d"),
    sequences=10,
    tasks=5,
    steps=3,
    own_steps={},
    pictured=(("maml-trpo", NAIVE), ("fame", Holding("own", 1.0))),
    episodes=20,
)

SETTINGS: dict[FamilyName, Setting] = {
    "sinusoid": Setting(
        _EXAMPLES,
        _examples("sinusoid", _SINUSOID),
        sequences=100,
        tasks=5,
        steps=_SINUSOID.inner.steps,
        own_steps={},
        pictured=(("maml", NAIVE), ("fame", Holding("own", 10.0))),
    ),
    "omniglot": Setting(
        _EXAMPLES,
        _examples("omniglot", _OMNIGLOT, queries=5),
        sequences=20,
        tasks=5,
        steps=_OMNIGLOT.inner.steps,
        own_steps={"pretrain": 10},
        pictured=(("maml", NAIVE), ("fame", Holding("own", 1.0))),
    ),
    "navigation-2d": _NAVIGATION,
    # Two directions are all that there are, and only the first of two tasks can be forgotten.
    "half-cheetah-dir": _NAVIGATION._replace(configure=_policies("half-cheetah-dir"), tasks=2, episodes=10),
}

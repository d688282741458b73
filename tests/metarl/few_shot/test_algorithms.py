"""Algorithms by name: each one's gradient is the slope of what it is judged by, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.algorithms import UnknownAlgorithm, UnsuitableAlgorithm
from metarl.few_shot.algorithms import (
    ALGORITHMS,
    check_settings,
    family_for,
    find_algorithm,
    make_learner,
)
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.learners import FewShotLearner, GradientLearner
from metarl.few_shot.matching import MatchingConfig
from metarl.few_shot.memory import MemoryConfig
from metarl.few_shot.meta_learner import few_shot_data, score_outputs
from metarl.tasks import FewShotFamily
from metarl.trees import expand
from metarl.types import Examples, Meta, TaskData

TASKS, WIDTH = 4, 1e-6


def config_of(algorithm: str, net: NetConfig | None = None, **inner: object) -> FewShotConfig:
    fields = {"steps": 2, "step_size": 0.05} | inner
    return FewShotConfig(
        algorithm=algorithm, net=net or NetConfig(hidden=(6, 5)), inner=FewShotInnerConfig(**fields), task_chunk=3
    )


def data_of(family: FewShotFamily, steps: int = 2) -> TaskData[Examples]:
    return few_shot_data(family, family.sample(np.random.default_rng(0), TASKS), steps, "cpu")


def start(learner: FewShotLearner) -> Meta:
    return learner.init(torch.Generator().manual_seed(0))


JUDGED = {
    "maml": ("maml", {}),
    "maml, three steps": ("maml", {"steps": 3}),
    "maml without steps": ("maml", {"steps": 0}),
    "maml++'s step sizes": ("maml", {"layer_step_sizes": True}),
    "meta-sgd": ("meta-sgd", {}),
    "anil": ("anil", {}),
    "synaptic": ("synaptic", {}),
}


@pytest.mark.parametrize("row", JUDGED)
@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_the_meta_gradient_is_the_slope_of_the_query_loss_of_predictions(request, double, row, kind):
    name, inner = JUDGED[row]
    if (name, kind) == ("synaptic", "blobs"):
        return  # it regresses
    family = request.getfixturevalue(kind)()
    config = config_of(name, NetConfig(hidden=(6, 5), activation="tanh"), **inner)
    learner = make_learner(family, config)
    meta, data = double(start(learner)), double(data_of(family, config.inner.steps))

    def loss(at: Meta) -> float:
        outputs = learner.predict(at, data.support[0], data.query.inputs, steps=config.inner.steps, transductive=True)
        return float(list(score_outputs(family.kind, outputs[-1], data.query.targets).values())[-1].mean())

    found = learner.meta_gradient(meta, data, 0)
    assert float(found.losses.mean()) == pytest.approx(loss(meta), rel=1e-10)
    for part in ("theta", "eta") if name != "synaptic" else ("eta",):
        point, gradient = getattr(meta, part), getattr(found.meta, part)
        for index, (leaf, value) in enumerate(point.items()):
            along = torch.randn(value.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
            ahead, behind = (
                loss(meta._replace(**{part: point | {leaf: value + width * along}})) for width in (WIDTH, -WIDTH)
            )
            slope = float((gradient[leaf] * along).sum())
            assert slope == pytest.approx((ahead - behind) / (2.0 * WIDTH), rel=1e-5, abs=1e-8), leaf
    assert found.meta.eta.keys() == meta.eta.keys()


def suitable(name: str, family: FewShotFamily) -> bool:
    return family.kind in ALGORITHMS[name].kinds and all(hasattr(family, each) for each in ALGORITHMS[name].family)


@pytest.mark.parametrize("name", [name for name, row in ALGORITHMS.items() if row.compiles])
def test_what_is_traced_for_the_compiler_is_the_same_meta_gradient_on_other_data(waves, monkeypatch, name):
    """Without the compiler: the traced operations themselves are run."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, examples: graph)
    config = replace(config_of(name, NetConfig(hidden=(6,), batch_norm=True)), task_chunk=TASKS)
    plain, traced = (make_learner(waves(), replace(config, compile=way)) for way in (False, True))
    meta = start(plain)
    for seed in (0, 1):
        data = few_shot_data(waves(), waves().sample(np.random.default_rng(seed), TASKS), 2, "cpu")
        found, expected = (each.meta_gradient(meta, data, 0) for each in (traced, plain))
        assert_close(found, expected, rtol=1e-5, atol=1e-6)
        meta = meta._replace(theta={key: value + 0.1 for key, value in meta.theta.items()})


@pytest.mark.parametrize("name", ["imaml", "pretrain"])
def test_what_cannot_be_compiled_is_refused(waves, name):
    with pytest.raises(UnsuitableAlgorithm, match=f"{name} is not compiled .maml, fomaml, .* leave --compile out"):
        make_learner(waves(), replace(config_of(name), compile=True))


@pytest.mark.parametrize("kind", ["waves", "blobs"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_from_the_families_that_suit_it_and_refuses_the_others(request, kind, name):
    family = request.getfixturevalue(kind)()
    if not suitable(name, family):
        with pytest.raises(UnsuitableAlgorithm, match=f"{name} needs"):
            make_learner(family_for(name, family), config_of(name))
        return
    family = family_for(name, family)
    learner, data = make_learner(family, config_of(name)), data_of(family)
    meta = start(learner)
    found = learner.meta_gradient(meta, data, 0).meta
    assert {key: value.shape for key, value in found.theta.items()} == {k: v.shape for k, v in meta.theta.items()}
    assert {key: value.shape for key, value in found.eta.items()} == {k: v.shape for k, v in meta.eta.items()}
    moved = [value for value in (*found.theta.values(), *found.eta.values()) if value.any()]
    assert bool(moved) == (ALGORITHMS[name].trains or name == "random")
    assert all(torch.isfinite(value).all() for value in moved)
    outputs = learner.predict(meta, data.support[0], data.query.inputs, steps=3, transductive=True)
    assert outputs.shape == (4, TASKS, data.query.inputs.shape[1], family.outputs)


def test_a_synaptic_rule_leaves_the_weights_it_works_on_where_they_were_drawn(waves):
    learner = make_learner(waves(), config_of("synaptic", NetConfig(hidden=(6,), activation="relu", batch_norm=True)))
    meta = start(learner)
    found = learner.meta_gradient(meta, data_of(waves()), 0).meta
    assert not any(value.any() for value in found.theta.values())
    assert bool(found.eta["synaptic"].any())
    assert set(meta.theta) == {"weight_0", "bias_0", "weight_1", "bias_1"}


def test_fomaml_and_anil_differ_from_maml(blobs):
    data, found = data_of(blobs()), {}
    for name in ("maml", "fomaml", "anil"):
        learner = make_learner(blobs(), config_of(name, step_size=0.5))
        found[name] = learner.meta_gradient(start(learner), data, 0).meta.theta["weight_0"]
    assert float((found["fomaml"] - found["maml"]).norm()) > 1e-3
    assert float((found["anil"] - found["maml"]).norm()) > 1e-3


def test_the_multi_step_loss_fades_into_mamls_with_the_iterations(waves):
    data = data_of(waves())
    plain, several = (make_learner(waves(), config_of("maml", multi_step_iterations=count)) for count in (0, 10))
    meta = start(plain)
    gradients = [several.meta_gradient(meta, data, iteration).meta.theta["weight_0"] for iteration in (0, 5, 10, 99)]
    expected = plain.meta_gradient(meta, data, 0).meta.theta["weight_0"]
    distances = [float((each - expected).norm()) for each in gradients]
    assert distances[0] > distances[1] > 1e-4
    assert distances[2:] == [0.0, 0.0]


def test_step_sizes_of_each_layer_start_at_the_inner_one_and_the_last_serves_further_steps(waves):
    learner = make_learner(waves(), config_of("maml", layer_step_sizes=True))
    assert isinstance(learner, GradientLearner)
    meta = start(learner)
    assert meta.eta.keys() == {f"step_size/{name}" for name in meta.theta}
    assert all(torch.equal(value, torch.full((2,), 0.05)) for value in meta.eta.values())
    plain = make_learner(waves(), config_of("maml"))
    data = data_of(waves())
    eta = {name: torch.tensor([0.0, 0.05]) for name in meta.eta}  # the first step goes nowhere

    def after(learner: FewShotLearner, meta: Meta, steps: int) -> Tensor:
        return learner.predict(meta, data.support[0], data.query.inputs, steps=steps, transductive=True)[steps]

    assert_close(after(learner, meta._replace(eta=eta), 4), after(plain, meta, 3))


def test_meta_sgd_starts_as_maml(waves):
    learners = [make_learner(waves(), config_of(name)) for name in ("maml", "meta-sgd")]
    data = data_of(waves())
    found = [
        each.predict(start(each), data.support[0], data.query.inputs, steps=3, transductive=True) for each in learners
    ]
    assert_close(found[0], found[1])


def test_the_meta_lstm_refuses_a_step_size_that_is_none_of_a_gate(waves):
    learner = make_learner(waves(), config_of("meta-lstm", step_size=1.5))
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        start(learner)


def test_an_unknown_algorithm_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownAlgorithm, match=r"^no algorithm 'mamml'; did you mean 'maml'\? \(known: anil, fame,"):
        find_algorithm("mamml")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("prototypes", "waves", "prototypes needs tasks of classification, got regression"),
        ("mann", "waves", "mann needs tasks of classification, got regression"),
        ("synaptic", "blobs", "synaptic needs tasks of regression, got classification"),
        ("oracle", "blobs", "oracle needs tasks of regression, got classification"),
    ],
)
def test_an_algorithm_that_cannot_learn_from_a_family_is_refused_by_what_it_needs(request, name, kind, message):
    with pytest.raises(UnsuitableAlgorithm, match=message):
        make_learner(request.getfixturevalue(kind)(), config_of(name))


def test_the_oracle_sets_the_familys_option_and_asks_for_it_where_there_is_none(waves, blobs):
    family = family_for("oracle", waves(shots=7))
    assert family == waves(shots=7, oracle=True)
    assert data_of(family).query.inputs.shape[-1] == 3
    with pytest.raises(UnsuitableAlgorithm, match="oracle needs a family with the option oracle, such as sinusoid"):
        family_for("oracle", blobs())


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "oracle"])
def test_other_algorithms_take_a_family_as_it_is(waves, name):
    family = waves(shots=7)
    assert family_for(name, family) is family


@pytest.mark.parametrize("name", ["maml", "imaml", "reptile", "pretrain", "prototypes", "mann"])
def test_images_are_learned_from(blobs, name):
    family = blobs(input_shape=(1, 8, 8))
    learner = make_learner(family, config_of(name, NetConfig(filters=4)))
    data, meta = data_of(family), start(learner)
    found = learner.meta_gradient(meta, data, 0)
    assert any(value.any() for value in found.meta.theta.values())
    outputs = learner.predict(meta, data.support[0], data.query.inputs, steps=1, transductive=False)
    assert outputs.shape == (2, TASKS, 9, 3)
    assert torch.isfinite(outputs).all()


def test_only_anils_head_adapts(waves):
    learner = make_learner(waves(), config_of("anil"))
    assert isinstance(learner, GradientLearner)
    phi = expand(start(learner).theta, TASKS)
    gradient = learner.problem.local_loss(phi, data_of(waves()).support[0], differentiable=False).gradient()
    assert set(gradient) == {"weight_2", "bias_2"}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("reptile", {"layer_step_sizes": True}, r"reptile does not use .* --inner.layer-step-sizes.* maml, fomaml"),
        ("maml", {"proximity": 1.0}, r"maml does not use .* --inner.proximity.* imaml"),
        ("prototypes", {"lstm_hidden": 5}, r"prototypes does not use .* --inner.lstm-hidden.* meta-lstm"),
        ("anil", {"multi_step_iterations": 5}, r"anil does not use .* --inner.multi-step-iterations"),
    ],
)
def test_settings_without_use_are_refused_by_name(name, fields, message):
    with pytest.raises(UnsuitableAlgorithm, match=message):
        check_settings(FewShotConfig(algorithm=name, inner=FewShotInnerConfig(**fields)), FewShotConfig())


@pytest.mark.parametrize(
    ("name", "part", "users"),
    [
        ("maml", {"matching": MatchingConfig(scale=1.0)}, "--matching.scale, .*: matching, matching-full-context$"),
        ("matching", {"matching": MatchingConfig(processing_steps=2)}, "steps, .*: matching-full-context$"),
        ("prototypes", {"memory": MemoryConfig(usage_decay=0.5)}, "--memory.usage-decay, .*: mann$"),
    ],
)
def test_settings_of_what_compares_are_refused_elsewhere_and_taken_where_they_are_of_use(name, part, users):
    with pytest.raises(UnsuitableAlgorithm, match=f"{name} does not use .*{users}"):
        check_settings(FewShotConfig(algorithm=name, **part), FewShotConfig())
    for other in users.removesuffix("$").rsplit(": ")[1].split(", "):
        check_settings(FewShotConfig(algorithm=other, **part), FewShotConfig())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("matching", {"matching": MatchingConfig(scale=1.0)}),
        ("matching-full-context", {"matching": MatchingConfig(scale=1.0)}),
        ("matching-full-context", {"matching": MatchingConfig(processing_steps=1)}),
        ("mann", {"memory": MemoryConfig(usage_decay=0.1)}),
        ("mann", {"memory": MemoryConfig(slots=6)}),
    ],
)
def test_settings_of_what_compares_change_its_answers_from_the_same_parameters(blobs, name, part):
    learners = [make_learner(blobs(), replace(config_of(name), **changed)) for changed in ({}, part)]
    data, meta = data_of(blobs()), start(learners[0])
    answers = [
        each.predict(meta, data.support[0], data.query.inputs, steps=0, transductive=True)[-1] for each in learners
    ]
    assert float((answers[0] - answers[1]).abs().max()) > 1e-4


def test_sizes_of_a_memory_are_those_of_the_settings(blobs):
    memory = MemoryConfig(width=7, controller_size=11, heads=2)
    theta = start(make_learner(blobs(), replace(config_of("mann"), memory=memory))).theta
    assert theta["memory/controller/bias"].shape == (4 * 11,)
    assert theta["memory/keys/weight"].shape == (11, 2 * 7)

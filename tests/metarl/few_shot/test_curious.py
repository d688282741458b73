"""Curious learners: their meta-gradient, what the module learns beside it, and no change where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import Clock, Collected, TrainState, meta_train
from metarl.few_shot.algorithms import ALGORITHMS, check_settings, make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.curious import FALLBACKS, CuriousLearner
from metarl.few_shot.learners import FewShotLearner, GradientLearner
from metarl.few_shot.meta_learner import FewShotMetaLearner, few_shot_data
from metarl.inner.elastic import held_by
from metarl.inner.supervised_problem import SupervisedProblem
from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.tasks import FewShotFamily
from metarl.trees import expand, map_examples, zeros_like
from metarl.types import Examples, Meta, TaskData
from metarl.variants.curiosity import module_losses
from metarl.variants.fame import ElasticConfig

TASKS, WIDTH = 5, 1e-6
CURIOUS = ["maml", "fomaml", "meta-sgd", "anil", "fame"]


def config_of(algorithm: str = "maml", **fields: object) -> FewShotConfig:
    chosen = {
        "net": NetConfig(hidden=(6, 5), activation="tanh"),
        "inner": FewShotInnerConfig(steps=1, step_size=0.1),
        "curiosity": CuriosityConfig(kind="gradient"),
        "meta_batch_size": TASKS,
        "iterations": 4,
        "held_out_every": 0,
        "log_every": 1,
    }
    return FewShotConfig(algorithm=algorithm, **(chosen | fields))


def curious(family: FewShotFamily, config: FewShotConfig) -> tuple[CuriousLearner, Meta]:
    learner = make_learner(family, config)
    assert isinstance(learner, CuriousLearner)
    return learner, learner.init(torch.Generator().manual_seed(0))


def data_of(family: FewShotFamily, config: FewShotConfig, count: int = TASKS) -> TaskData[Examples]:
    return few_shot_data(family, family.sample(np.random.default_rng(0), count), config.inner.steps, "cpu")


def train(family: FewShotFamily, config: FewShotConfig, learner: FewShotLearner | None = None) -> list[TrainState]:
    learner = make_learner(family, config) if learner is None else learner
    meta = learner.init(torch.Generator().manual_seed(3))
    state = TrainState(meta, initial_moments(meta, config.outer), 0, 0, 0, 0)
    return [each.state for each in meta_train(FewShotMetaLearner(family, learner, config), config, state)]


@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_without_curiosity_training_is_maml_bit_for_bit(request, kind):
    """Against a loop of its own: one step of gradient descent, its query loss's gradient, Adam."""
    family = request.getfixturevalue(kind)()
    config = config_of(curiosity=CuriosityConfig(), task_chunk=TASKS)
    learner = make_learner(family, config)
    assert isinstance(learner, GradientLearner)
    assert isinstance(learner.problem, SupervisedProblem)
    problem, found = learner.problem, train(family, config)
    theta = learner.init(torch.Generator().manual_seed(3)).theta
    values = [value.clone().requires_grad_() for value in theta.values()]
    optimizer = torch.optim.Adam(values, lr=config.outer.learning_rate, eps=config.outer.epsilon)
    meta_learner = FewShotMetaLearner(family, learner, config)
    for state in [TrainState(found[0].meta, {}, number, 0, 0, 0) for number in range(4)]:
        data = meta_learner.collect(state, Clock(), logged=False).data
        phi = expand(dict(zip(theta, values, strict=True)), TASKS)
        loss = problem.loss(problem.model(phi, data.support[0].inputs), data.support[0].targets).sum()
        slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
        adapted = {name: phi[name] - 0.1 * slope for name, slope in zip(phi, slopes, strict=True)}
        total = problem.loss(problem.model(adapted, data.query.inputs), data.query.targets).sum()
        for value, slope in zip(values, torch.autograd.grad(total, values), strict=True):
            value.grad = slope / TASKS
        optimizer.step()
        if state.iteration == 0:
            slopes_of_first = {name: value.grad for name, value in zip(theta, values, strict=True)}
            first = learner.meta_gradient(Meta(theta, {}, {}), data, 0)
            assert all(torch.equal(first.meta.theta[name], slopes_of_first[name]) for name in theta)
            assert first.metrics == first.counts == {}
    for name, value in zip(theta, values, strict=True):
        assert_close(found[-1].meta.theta[name], value.detach(), rtol=1e-5, atol=1e-6)  # torch's Adam rounds otherwise


@pytest.mark.parametrize("name", CURIOUS)
def test_equal_weights_are_no_curiosity(blobs, name):
    uniform = CuriosityConfig(kind="gradient", measure="uniform")
    plain, even = (train(blobs(), config_of(name, curiosity=each)) for each in (CuriosityConfig(), uniform))
    for leaf, value in plain[-1].meta.theta.items():
        assert_close(even[-1].meta.theta[leaf], value, rtol=1e-4, atol=1e-5)
    assert set(even[-1].meta.eta) == {*plain[-1].meta.eta, FALLBACKS}


def test_the_initialization_is_that_without_curiosity(blobs):
    plain = make_learner(blobs(), config_of(curiosity=CuriosityConfig())).init(torch.Generator().manual_seed(0))
    _, meta = curious(blobs(), config_of())
    assert all(torch.equal(meta.theta[name], value) for name, value in plain.theta.items())


@pytest.mark.parametrize("name", ["maml", "meta-sgd", "anil"])
@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_the_meta_gradient_is_the_slope_of_the_query_loss_with_weights_held(request, double, name, kind):
    family = request.getfixturevalue(kind)()
    config = config_of(name, task_chunk=2)
    learner, meta = curious(family, config)
    meta, data = double(meta), double(data_of(family, config))
    weights = learner.attend(meta, data.support[0]).weights.values
    problem = learner.curiosity.alike

    def loss(at: Meta) -> float:
        """After one step on losses under these weights, mean over tasks."""
        phi = {leaf: value.clone().requires_grad_() for leaf, value in expand(at.theta, TASKS).items()}
        support = data.support[0]
        each = learner.curiosity.losses(problem.model(phi, support.inputs), support.targets)
        names = problem.names(phi)
        slopes = torch.autograd.grad((weights * each).mean(1).sum(), [phi[leaf] for leaf in names])
        rates = {leaf: at.eta.get(f"step_size/{leaf}", 0.1) for leaf in names}
        moved = {leaf: phi[leaf] - rates[leaf] * slope for leaf, slope in zip(names, slopes, strict=True)}
        return float(problem.outer_loss(phi | moved, data.query).mean().detach())

    found = learner.meta_gradient(meta, data, 0)
    assert float(found.losses.mean()) == pytest.approx(loss(meta), rel=1e-10)
    for part in ("theta", "eta"):
        point, gradient = getattr(meta, part), getattr(found.meta, part)
        for index, (leaf, value) in enumerate(point.items()):
            if leaf.startswith("curiosity/"):
                continue
            along = torch.randn(value.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
            ahead, behind = (
                loss(meta._replace(**{part: point | {leaf: value + width * along}})) for width in (WIDTH, -WIDTH)
            )
            slope = float((gradient[leaf] * along).sum())
            assert slope == pytest.approx((ahead - behind) / (2.0 * WIDTH), rel=1e-5, abs=1e-8), leaf


@pytest.mark.parametrize("measure", ["features", "plain"])
def test_the_module_descends_its_own_losses_on_the_support_and_no_query(blobs, double, measure):
    """Its gradient against finite differences, the transitions held; forward weight 0.3, encoder trained by both."""
    chosen = CuriosityConfig(kind="gradient", measure=measure, forward_weight=0.3, joint=True, features=3, hidden=4)
    config = config_of(curiosity=chosen, task_chunk=2)
    learner, meta = curious(blobs(), config)
    meta, data = double(meta), double(data_of(blobs(), config))
    change = learner.at(meta).problem.attend(expand(meta.theta, TASKS), data.support[0]).transition
    found = learner.meta_gradient(meta, data, 0)
    weight = 0.3 if measure == "features" else 1.0

    def loss(leaf: str, moved: Tensor) -> float:
        params = {name.removeprefix("curiosity/"): value for name, value in (meta.eta | {leaf: moved}).items()}
        forward, inverse = module_losses(params, change, joint=True)
        return float((weight * forward + (1.0 - weight) * inverse).mean())

    for leaf, value in meta.eta.items():
        along = torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        slope = (loss(leaf, value + WIDTH * along) - loss(leaf, value - WIDTH * along)) / (2.0 * WIDTH)
        assert float((found.meta.eta[leaf] * along).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8), leaf
    turned = data._replace(query=data.query._replace(targets=(data.query.targets + 1) % 3))
    other = learner.meta_gradient(meta, turned, 0)
    assert all(torch.equal(other.meta.eta[leaf], value) for leaf, value in found.meta.eta.items())
    assert not all(torch.equal(other.meta.theta[leaf], value) for leaf, value in found.meta.theta.items())
    forward, inverse = module_losses({k.removeprefix("curiosity/"): v for k, v in meta.eta.items()}, change, joint=True)
    assert_close(found.metrics["curiosity/forward_loss"], forward.mean())
    if measure == "features":
        assert_close(found.metrics["curiosity/inverse_loss"], inverse.mean())


@pytest.mark.parametrize("outer", [False, True])
def test_neither_the_order_of_tasks_nor_how_many_go_at_once_changes_the_meta_gradient(blobs, double, outer):
    config = config_of(
        inner=FewShotInnerConfig(steps=2, step_size=0.1), curiosity=CuriosityConfig(kind="gradient", outer=outer)
    )
    learner, meta = curious(blobs(), config)
    meta, data = double(meta), double(data_of(blobs(), config))
    expected = learner.meta_gradient(meta, data, 0)
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = TaskData(
        tuple(map_examples(lambda field: field[order], batch) for batch in data.support),
        map_examples(lambda field: field[order], data.query),
    )
    for chunk, batch in ((1, data), (2, data), (2, mixed)):
        found = curious(blobs(), replace(config, task_chunk=chunk))[0].meta_gradient(meta, batch, 0)
        assert_close(found.meta, expected.meta, rtol=1e-9, atol=1e-12)
        assert_close(found.metrics, expected.metrics, rtol=1e-9, atol=1e-12)
    assert_close(found.losses, expected.losses[order])


def test_tasks_count_by_their_mean_curiosity(blobs, double):
    """Each task's gradient alone, weighted by hand; the module learns from all alike."""
    config = config_of(curiosity=CuriosityConfig(kind="gradient", outer=True, temperature=0.1, clip=1.5))
    learner, meta = curious(blobs(), config)
    meta, data = double(meta), double(data_of(blobs(), config))
    weights = learner.task_weights(meta, data.support[0])
    means = learner.attend(meta, data.support[0]).curiosity.mean(1)
    assert float(weights.mean()) == pytest.approx(1.0)
    assert float(weights.max()) == pytest.approx(1.5)
    below = weights < 1.5 - 1e-4
    rates = (weights / means**10)[below]
    assert_close(rates / rates[0], torch.ones_like(rates), rtol=1e-3, atol=1e-3)
    even = curious(blobs(), config_of(curiosity=replace(config.curiosity, outer=False)))[0]
    single = [
        even.meta_gradient(
            meta,
            TaskData(
                tuple(map_examples(lambda field, task=task: field[task : task + 1], batch) for batch in data.support),
                map_examples(lambda field, task=task: field[task : task + 1], data.query),
            ),
            0,
        ).meta
        for task in range(TASKS)
    ]
    found = learner.meta_gradient(meta, data, 0)
    for name, value in found.meta.theta.items():
        expected = sum(w * each.theta[name] for w, each in zip(weights, single, strict=True)) / TASKS
        assert_close(value, expected, rtol=1e-9, atol=1e-12)
    for name, value in found.meta.eta.items():
        assert_close(value, sum(each.eta[name] for each in single) / TASKS, rtol=1e-9, atol=1e-12)
    assert_close(found.losses, even.meta_gradient(meta, data, 0).losses)


def test_fame_that_holds_nothing_is_curious_as_maml_is(blobs):
    """Lambda 0, bit for bit."""
    free = ElasticConfig(strength=0.0)
    fame, maml = train(blobs(), config_of("fame", elastic=free)), train(blobs(), config_of("maml"))
    for found, expected in zip(fame[-1].meta[:2], maml[-1].meta[:2], strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("schedule", ["constant", "learned"])
def test_fame_is_curious_and_held(blobs, schedule):
    """Importance is measured and lambda learned as without curiosity, and tasks are weighted too."""
    config = config_of(
        "fame",
        iterations=6,
        task_chunk=2,
        elastic=ElasticConfig(strength=2.0, schedule=schedule),
        curiosity=CuriosityConfig(kind="gradient", outer=True),
    )
    learner, _ = curious(blobs(), config)
    (*_, last) = train(blobs(), config, learner)
    free = train(blobs(), replace(config, elastic=ElasticConfig(strength=0.0)))[-1]
    even = train(blobs(), replace(config, curiosity=CuriosityConfig()))[-1]
    assert last.failures == 0
    assert last.meta.elastic.keys() == even.meta.elastic.keys()
    assert ("elastic/log_strength" in last.meta.eta) == (schedule == "learned")
    for other in (free, even):
        assert not torch.equal(last.meta.theta["weight_1"], other.meta.theta["weight_1"])
    data = data_of(blobs(), config)
    found = learner.meta_gradient(last.meta, data, 6)
    assert found.elastic.keys() == last.meta.elastic.keys()
    assert {"curiosity/forward_loss", "curiosity/task_weight_max"} <= found.metrics.keys()
    outputs = learner.predict(last.meta, data.support[0], data.query.inputs, steps=1, transductive=True)[-1]
    loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), data.query.targets.flatten())
    assert_close(loss, found.losses.mean(), rtol=1e-4, atol=1e-5)


def test_predictions_are_made_after_weighted_steps(blobs, double):
    config = config_of(inner=FewShotInnerConfig(steps=2, step_size=0.1))
    learner, meta = curious(blobs(), config)
    meta, data = double(meta), double(data_of(blobs(), config))
    found = learner.predict(meta, data.support[0], data.query.inputs, steps=2, transductive=True)[-1]
    assert_close(
        torch.nn.functional.cross_entropy(found.flatten(0, 1), data.query.targets.flatten()),
        learner.meta_gradient(meta, data, 0).losses.mean(),
    )
    even = make_learner(blobs(), replace(config, curiosity=CuriosityConfig()))
    other = even.predict(meta, data.support[0], data.query.inputs, steps=2, transductive=True)[-1]
    assert float((found - other).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["maml", "fame"])
def test_training_and_prediction_look_ahead_by_the_same_step(blobs, double, name):
    """Of step sizes that differ from step to step the first, of fame the held one: losses of either are the same."""
    inner = FewShotInnerConfig(steps=2, step_size=0.5, layer_step_sizes=name == "maml")
    plain = CuriosityConfig(kind="gradient", measure="plain")
    config = config_of(name, inner=inner, curiosity=plain, elastic=ElasticConfig(strength=5.0))
    learner, meta = curious(blobs(), config)
    meta, data = double(meta), double(data_of(blobs(), config))
    held = held_by({leaf: 5.0 * value.abs() for leaf, value in meta.theta.items()})
    sizes = {leaf: torch.tensor([0.5, 0.02], dtype=torch.float64) for leaf in meta.eta if leaf.startswith("step_size/")}
    meta = meta._replace(eta=meta.eta | sizes, elastic=meta.elastic | held if name == "fame" else meta.elastic)
    outputs = learner.predict(meta, data.support[0], data.query.inputs, steps=2, transductive=True)[-1]
    losses = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), data.query.targets.flatten(), reduction="none")
    found = learner.meta_gradient(meta, data, 0).losses
    assert_close(losses.view(TASKS, -1).mean(1), found, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("name", CURIOUS)
@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_every_curious_learner_trains_its_module_and_says_how(request, name, kind):
    family = request.getfixturevalue(kind)()
    config = config_of(name, iterations=60, outer=OptimizerConfig(learning_rate=0.01))
    learner, meta = curious(family, config)
    state = TrainState(meta, initial_moments(meta, config.outer), 0, 0, 0, 0)
    lines = [each.metrics for each in meta_train(FewShotMetaLearner(family, learner, config), config, state)]
    names = ["forward_loss", "inverse_loss", "weight_mean", "weight_max", "fallback_share", "fallbacks"]
    assert {f"curiosity/{each}" for each in names} == {each for each in lines[-1] if each.startswith("curiosity/")}
    first, last = (np.mean([line["curiosity/inverse_loss"] for line in some]) for some in (lines[:10], lines[-10:]))
    assert last < 0.9 * first
    assert lines[-1]["curiosity/weight_mean"] == pytest.approx(1.0, abs=1e-4)
    assert 1.0 < lines[-1]["curiosity/weight_max"] < 3.0 + 1e-4
    assert lines[-1]["curiosity/fallbacks"] == 0.0


@pytest.mark.parametrize("measure", ["features", "plain"])
def test_what_comes_again_becomes_foreseen(blobs, measure):
    """The same tasks at the same initialization: the forward loss falls, and with it the mean curiosity."""
    config = config_of(curiosity=CuriosityConfig(kind="gradient", measure=measure))
    learner, meta = curious(blobs(), config)
    data = data_of(blobs(), config)
    moments, first = initial_moments(meta, config.outer), learner.attend(meta, data.support[0]).curiosity.mean()
    losses = []
    for iteration in range(150):
        found = learner.meta_gradient(meta, data, iteration)
        held = found.meta._replace(theta=zeros_like(meta.theta))
        meta, moments, _ = step(config.outer, 0.01, meta, held, moments)
        losses.append(float(found.metrics["curiosity/forward_loss"]))
    assert losses[-1] < 0.3 * losses[0]
    assert learner.attend(meta, data.support[0]).curiosity.mean() < 0.3 * first


def test_tasks_whose_weights_cannot_be_told_are_counted_over_iterations_and_refused_updates(blobs):
    """Two steps, two of five tasks: four events an iteration; the counter is not moved by the optimizer."""
    config = config_of(inner=FewShotInnerConfig(steps=2, step_size=0.1))
    learner, meta = curious(blobs(), config)
    data = data_of(blobs(), config)
    inputs = data.support[0].inputs.clone()
    inputs[:2] = torch.nan
    spoiled = data._replace(support=tuple(batch._replace(inputs=inputs) for batch in data.support))
    state = TrainState(meta, initial_moments(meta, config.outer), 0, 0, 0, 0)
    meta_learner = FewShotMetaLearner(blobs(), learner, config)
    for count in (4.0, 8.0):
        update = meta_learner.update(state, Collected(spoiled, {}, {}, {}, 0), Clock(), logged=True)
        assert not update.accepted
        assert float(update.meta.eta[FALLBACKS]) == update.metrics["curiosity/fallbacks"] == count
        assert update.metrics["curiosity/fallback_share"] == pytest.approx(0.4)
        state = state._replace(meta=update.meta)
    update = meta_learner.update(state, Collected(data, {}, {}, {}, 0), Clock(), logged=True)
    assert update.accepted
    assert float(update.meta.eta[FALLBACKS]) == 8.0
    assert all(torch.isfinite(value).all() for value in update.meta.eta.values())


@pytest.mark.parametrize("name", ["maml", "fomaml", "meta-sgd", "anil"])
def test_what_is_traced_for_the_compiler_is_the_same_meta_gradient_on_other_data(blobs, monkeypatch, name):
    monkeypatch.setattr("torch._inductor.compile", lambda graph, examples: graph)
    config = config_of(name, task_chunk=TASKS, curiosity=CuriosityConfig(kind="gradient", outer=True))
    fast, meta = curious(blobs(), replace(config, compile=True))
    plain, _ = curious(blobs(), config)
    for seed in (0, 1):
        tasks = blobs().sample(np.random.default_rng(seed), TASKS)
        data = few_shot_data(blobs(), tasks, 1, "cpu")
        found, expected = fast.meta_gradient(meta, data, 0), plain.meta_gradient(meta, data, 0)
        assert_close(found.meta, expected.meta, rtol=1e-4, atol=1e-6)
        assert_close(found.metrics, expected.metrics, rtol=1e-4, atol=1e-6)


def test_maml_plus_plus_can_be_curious(blobs):
    inner = FewShotInnerConfig(steps=2, step_size=0.1, layer_step_sizes=True, multi_step_iterations=10)
    states = train(blobs(), config_of(inner=inner))
    assert float(states[-1].meta.eta["step_size/weight_0"].std()) > 0.0
    assert states[-1].failures == 0


def test_without_steps_there_is_nothing_to_weight(blobs):
    config = config_of(inner=FewShotInnerConfig(steps=0))
    learner, meta = curious(blobs(), config)
    found = learner.meta_gradient(meta, data_of(blobs(), config), 0)
    assert not any(value.any() for value in found.meta.eta.values())
    assert found.metrics == {}


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - set(CURIOUS)))
def test_algorithms_that_cannot_be_curious_say_so_and_who_can(blobs, waves, name):
    kinds = ALGORITHMS[name].kinds
    family = blobs() if "classification" in kinds else waves(oracle=name == "oracle")
    if "curiosity.kind" in ALGORITHMS[name].uses:
        return
    with pytest.raises(UnsuitableAlgorithm, match=f"{name} does not use .* --curiosity.kind.* maml, fomaml"):
        check_settings(FewShotConfig(algorithm=name, curiosity=CuriosityConfig(kind="gradient")), FewShotConfig())
    with pytest.raises(UnsuitableAlgorithm, match=f"{name} cannot be curious .maml, fomaml"):
        make_learner(family, config_of(name))


def test_settings_of_curiosity_without_curiosity_are_refused():
    with pytest.raises(UnsuitableAlgorithm, match=r"curiosity is none; choose --curiosity gradient"):
        check_settings(FewShotConfig(curiosity=CuriosityConfig(temperature=2.0)), FewShotConfig())
    check_settings(FewShotConfig(curiosity=CuriosityConfig(kind="gradient", temperature=2.0)), FewShotConfig())

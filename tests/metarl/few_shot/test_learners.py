"""Learners: predictions after each step, queries together or alone, pretraining and new heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from metarl.few_shot.algorithms import make_learner
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig, NetConfig
from metarl.few_shot.learners import FewShotLearner, FixedLearner, GradientLearner, PretrainedLearner
from metarl.few_shot.meta_learner import few_shot_data
from metarl.inner.adapt import adapt
from metarl.tasks import FewShotFamily
from metarl.trees import expand, map_examples
from metarl.types import Examples, Meta, TaskData

TASKS = 5


def config_of(algorithm: str, **changes: object) -> FewShotConfig:
    fields = {"net": NetConfig(hidden=(6, 5), batch_norm=True), "inner": FewShotInnerConfig(steps=2, step_size=0.1)}
    return FewShotConfig(algorithm=algorithm, **(fields | changes))


def data_of(family: FewShotFamily, seed: int = 0) -> TaskData[Examples]:
    return few_shot_data(family, family.sample(np.random.default_rng(seed), TASKS), 2, "cpu")


def set_up(family: FewShotFamily, config: FewShotConfig) -> tuple[FewShotLearner, Meta, TaskData[Examples]]:
    """A learner and a fresh start without zeros or ones."""
    learner = make_learner(family, config)
    meta = learner.init(torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    theta = {name: value + 0.1 * torch.randn(value.shape, generator=noise) for name, value in meta.theta.items()}
    return learner, meta._replace(theta=theta), data_of(family)


def predictions(learner: FewShotLearner, meta: Meta, data: TaskData[Examples], **options: object) -> Tensor:
    return learner.predict(meta, data.support[0], data.query.inputs, **({"steps": 3, "transductive": True} | options))


GRADIENT = ["maml", "meta-sgd", "anil", "reptile", "imaml", "meta-lstm"]


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("kind", ["waves", "blobs"])
def test_predictions_after_each_number_of_steps_are_those_of_as_many_steps(request, kind, name):
    learner, meta, data = set_up(request.getfixturevalue(kind)(), config_of(name))
    assert isinstance(learner, GradientLearner)
    found = predictions(learner, meta, data, steps=3)
    assert len(found) == 4
    for steps in range(4):
        with torch.no_grad():
            phi = adapt(learner.inner(steps), meta.eta, expand(meta.theta, TASKS), [data.support[0]] * steps).phi
            assert_close(found[steps], learner.problem.model(phi, data.query.inputs), rtol=1e-4, atol=1e-5)
    assert all(float((found[k + 1] - found[k]).norm()) > 1e-4 for k in range(3))
    assert not found.requires_grad


ADAPTING = [*GRADIENT, "fomaml", "random", "pretrain"]
EVERY = [*ADAPTING, "pretrain-neighbors", "neighbors", "prototypes", "matching", "siamese", "mann"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("transductive", [True, False])
def test_how_many_tasks_are_answered_at_once_changes_predictions_by_rounding_alone(blobs, name, transductive):
    """The default, groups of 2, and one by one."""
    found = []
    for chunk in (0, 2, 1):
        learner, meta, data = set_up(blobs(), config_of(name, task_chunk=chunk))
        found.append(predictions(learner, meta, data, transductive=transductive))
    assert found[0].shape == (4, TASKS, 9, 3)
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert_close(found[2], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["maml", "meta-lstm", "pretrain", "pretrain-neighbors", "prototypes"])
def test_a_query_alone_is_answered_in_a_batch_with_the_support_and_no_other_query(blobs, name):
    """Another query changes its normalization only where queries are answered together."""
    learner, meta, data = set_up(blobs(), config_of(name))
    inputs = data.query.inputs.clone()
    inputs[:, 0] += 3.0
    other = data._replace(query=data.query._replace(inputs=inputs))
    for transductive in (True, False):
        before, after = (predictions(learner, meta, each, transductive=transductive) for each in (data, other))
        same = torch.allclose(before[:, :, 1:], after[:, :, 1:], rtol=1e-4, atol=1e-5)
        assert same != transductive
        assert not torch.allclose(before[:, :, :1], after[:, :, :1], rtol=1e-4, atol=1e-5)


def test_a_query_alone_is_the_last_of_a_batch_with_the_support(blobs):
    learner, meta, data = set_up(blobs(), config_of("maml"))
    assert isinstance(learner, GradientLearner)
    found = predictions(learner, meta, data, steps=1, transductive=False)[1]
    with torch.no_grad():
        phi = adapt(learner.inner(1), {}, expand(meta.theta, TASKS), data.support[:1]).phi
        for query in range(9):
            batch = torch.cat([data.support[0].inputs, data.query.inputs[:, query : query + 1]], 1)
            expected = learner.problem.model(phi, batch)[:, -1]
            assert_close(found[:, query], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transductive", [True, False])
def test_without_normalization_queries_together_or_alone_get_the_same_answers(waves, transductive):
    learner, meta, data = set_up(waves(), config_of("maml", net=NetConfig(hidden=(6,))))
    expected = predictions(learner, meta, data, transductive=True)
    assert_close(predictions(learner, meta, data, transductive=transductive), expected, rtol=1e-5, atol=1e-6)


def test_a_comparing_learner_gives_the_same_after_every_number_of_steps(blobs):
    learner, meta, data = set_up(blobs(), config_of("prototypes"))
    found = predictions(learner, meta, data, steps=2)
    assert len(found) == 3
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_pretrained_network_knows_nothing_of_a_task_before_its_new_head_has_learned(blobs):
    """The head starts at 0: no class is likelier than another, then the support teaches it."""
    learner, meta, data = set_up(blobs(noise=0.05), config_of("pretrain"))
    found = predictions(learner, meta, data, steps=30)
    assert not found[0].any()
    assert (found[30].argmax(-1) == data.query.targets).float().mean() > 0.9


def test_a_new_head_replaces_that_of_all_classes_and_keeps_the_body(blobs):
    learner, meta, _ = set_up(blobs(), config_of("pretrain"))
    assert isinstance(learner, PretrainedLearner)
    assert meta.theta["weight_2"].shape == (5, 6)
    start = learner.start(meta)
    assert start.theta["weight_2"].shape == (5, 3)
    assert start.theta["bias_2"].shape == (3,)
    assert not start.theta["weight_2"].any()
    assert not start.theta["bias_2"].any()
    assert all(start.theta[name] is value for name, value in meta.theta.items() if not name.endswith("_2"))


def test_a_pretrained_regressor_keeps_its_head(waves):
    learner, meta, data = set_up(waves(), config_of("pretrain", net=NetConfig(hidden=(6,))))
    assert isinstance(learner, PretrainedLearner)
    assert learner.start(meta) is meta
    expected = learner.model(expand(meta.theta, 1), data.query.inputs)
    assert_close(predictions(learner, meta, data)[0], expected, rtol=1e-5, atol=1e-6)


def test_pretraining_tells_all_training_classes_apart_by_their_labels(blobs, double):
    """Loss and gradient of one batch of all examples, support and query; classes within tasks change nothing."""
    learner, meta, data = set_up(blobs(), config_of("pretrain"))
    meta, data = double(meta), double(data)
    found = learner.meta_gradient(meta, data, 0)
    theta = {name: value.clone().requires_grad_() for name, value in meta.theta.items()}
    inputs = torch.cat([data.support[0].inputs.flatten(0, 1), data.query.inputs.flatten(0, 1)])
    labels = torch.cat([data.support[0].labels.flatten(), data.query.labels.flatten()])
    assert set(labels.tolist()) == set(range(6))
    loss = functional.cross_entropy(learner.model(expand(theta, 1), inputs[None])[0], labels)
    loss.backward()
    assert found.losses.tolist() == [pytest.approx(loss.item(), rel=1e-10)]
    assert_close(found.meta.theta, {name: value.grad for name, value in theta.items()}, rtol=1e-10, atol=1e-12)
    turned = TaskData(
        tuple(batch._replace(targets=(batch.targets + 1) % 3) for batch in data.support),
        data.query._replace(targets=(data.query.targets + 1) % 3),
    )
    assert_close(learner.meta_gradient(meta, turned, 0).meta, found.meta, rtol=0.0, atol=0.0)


def test_pretraining_on_values_is_regression_on_all_examples_at_once(waves, double):
    learner, meta, data = set_up(waves(queries=4), config_of("pretrain", net=NetConfig(hidden=(6,))))
    meta, data = double(meta), double(data)
    found = learner.meta_gradient(meta, data, 0)
    theta = {name: value.clone().requires_grad_() for name, value in meta.theta.items()}
    batches = (data.support[0], data.query)
    inputs, targets = (
        torch.cat([getattr(each, part).flatten(0, 1) for each in batches]) for part in ("inputs", "targets")
    )
    assert len(inputs) == TASKS * 14
    loss = (learner.model(expand(theta, 1), inputs[None])[0] - targets).square().mean()
    loss.backward()
    assert found.losses.tolist() == [pytest.approx(loss.item(), rel=1e-12)]
    assert_close(found.meta.theta, {name: value.grad for name, value in theta.items()}, rtol=1e-10, atol=1e-12)


def test_neighbors_in_pretrained_features_are_those_of_the_network_without_its_head(blobs):
    learner, meta, data = set_up(blobs(), config_of("pretrain-neighbors"))
    changed = meta._replace(theta=meta.theta | {"weight_2": meta.theta["weight_2"] + 1.0})
    assert torch.equal(predictions(learner, meta, data), predictions(learner, changed, data))
    pretrained = make_learner(blobs(), config_of("pretrain"))
    assert isinstance(pretrained, PretrainedLearner)
    batch = torch.cat([data.support[0].inputs, data.query.inputs], 1)
    features = pretrained.model.features(expand(meta.theta, 1), batch)
    nearest = torch.cdist(features[:, 6:], features[:, :6]).argmin(-1)
    answers = predictions(learner, meta, data)[0].argmax(-1)
    assert torch.equal(answers, data.support[0].targets.gather(1, nearest))


def test_a_fixed_learner_learns_as_another_does_and_answers_without_the_support(waves):
    config = config_of("pretrain", net=NetConfig(hidden=(6,)))
    learner, meta, data = set_up(waves(oracle=True), config)
    fixed = FixedLearner(learner)
    assert_close(fixed.meta_gradient(meta, data, 0), learner.meta_gradient(meta, data, 0), rtol=0.0, atol=0.0)
    found = predictions(fixed, meta, data, steps=3)
    expected = predictions(learner, meta, data, steps=3)
    assert not torch.equal(expected[3], expected[0])
    assert all(torch.equal(each, expected[0]) for each in found)
    support = map_examples(lambda field: field + 1, data.support[0])
    assert torch.equal(predictions(fixed, meta, data._replace(support=(support,)), steps=3), found)

"""``metarl check`` of few-shot families: one broken family for every rule, and what it is told to mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.envs import Boolean, Omniglot, Sinusoid
from metarl.envs.data import InvalidPictures
from metarl.experiments.check import Finding
from metarl.experiments.check_few_shot import check_few_shot_family
from metarl.experiments.cli import main
from metarl.tasks import Episodes, make_family


@pytest.fixture
def good(shapes: None) -> Any:
    """A family of images that keeps every rule."""
    return make_family("test-shapes", ways=3, queries=2)


class Changed:
    """A family with some of its attributes replaced."""

    def __init__(self, family: Any, **changes: Any) -> None:
        self._family, self._changes = family, changes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._changes[name] if name in self._changes else getattr(self._family, name)


def faults(family: Any) -> list[Finding]:
    return [finding for finding in check_few_shot_family(family) if finding.fault is not None]


def with_examples(family: Any, change: Callable[[Episodes], Episodes]) -> Changed:
    return Changed(family, examples=lambda tasks: change(family.examples(tasks)))


def test_families_that_keep_every_rule_have_no_fault(good: Any):
    for family, rules in ((good, 11), (Sinusoid(), 9), (Boolean(), 8)):
        findings = check_few_shot_family(family)
        assert [finding.fault for finding in findings] == [None] * rules


def test_omniglot_has_no_fault(real_omniglot: Path):
    assert faults(Omniglot(data=str(real_omniglot))) == []


def own(rng: np.random.Generator, count: int) -> np.ndarray:
    return Sinusoid().sample(np.random.default_rng(), count)


def swap(drawn: Episodes) -> Episodes:
    """Query inputs of a class are of another than their targets say."""
    return drawn._replace(query_labels=np.roll(drawn.query_labels, 1, axis=1))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "clustering"}, "kind must be 'classification' or 'regression'"),
        ({"input_shape": [1]}, "input_shape must be a tuple"),
        ({"outputs": 0}, "outputs must be at least 1, got 0"),
        ({"training_classes": 4}, "must be 0 for regression, got 4"),
        ({"sample": lambda rng, count: [1.0] * count}, r"sample\(rng, 6\) must give an array of numbers .* got list"),
        ({"sample_test": lambda rng, count: np.zeros(count)}, r"sample_test.* float64 of shape \(6,\)"),
        ({"sample_validation": own}, "same rng gave different tasks"),
        ({"sample": lambda rng, count: Sinusoid().sample(rng, count + 1)}, "gave 7 tasks"),
        ({"sequence": lambda rng, count, length: own(rng, count)}, r"shape \(3, 2, 42\), .* got shape \(3, 42\)"),
        ({"sequence": lambda rng, count, length: own(rng, 6).reshape(3, 2, 42)}, "other tasks from an equal generator"),
        ({"variants": lambda: [Sinusoid()]}, "mapping from names to families, got list"),
        ({"variants": lambda: {"oracle": Sinusoid(oracle=True)}}, r"variant 'oracle' has input_shape \(3,\)"),
    ],
)
def test_a_regression_family_is_told_what_to_mend(changes, complaint):
    (finding,) = faults(Changed(Sinusoid(), **changes))
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(finding.fault)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda drawn: drawn._replace(query_inputs=drawn.query_inputs.astype(float)), "query_inputs .* got float64"),
        (lambda drawn: drawn._replace(support_targets=drawn.support_targets[..., 0]), "support_targets .* shape"),
        (lambda drawn: drawn._replace(support_targets=drawn.support_targets * np.float32(np.nan)), "nan or infinity"),
        (lambda drawn: drawn._replace(query_inputs=drawn.support_inputs), "10 of 10 queries of task 0 of sample stand"),
    ],
)
def test_examples_of_a_regression_family_are_looked_at(change, complaint):
    (finding,) = faults(with_examples(Sinusoid(), change))
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(finding.fault)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda drawn: drawn._replace(query_targets=drawn.query_targets + 1), "must be classes 0 to 2, got 1 to 3"),
        (lambda drawn: drawn._replace(support_targets=0 * drawn.support_targets), "no support example of class 1"),
        (swap, "query targets and labels do not name the same classes"),
        (lambda drawn: drawn._replace(query_targets=drawn.query_targets.astype(np.int32)), "got int32"),
    ],
)
def test_examples_of_a_classification_family_are_looked_at(good: Any, change, complaint):
    found = faults(with_examples(good, change))
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(found[0].fault)


def test_labels_beyond_the_training_classes_are_found(good: Any):
    (finding,) = faults(Changed(good, training_classes=4))
    assert "must be 0 to training_classes - 1 = 3, got 0 to 5" in str(finding.fault)


def test_classes_that_two_splits_share_are_found(good: Any):
    (finding,) = faults(Changed(good, sample_test=good.sample_validation))
    assert finding.what == "training, validation and test have no class in common"
    assert "sample_validation and sample_test both gave tasks with class 6" in str(finding.fault)


def test_examples_that_depend_on_more_than_their_task_are_found():
    rng = np.random.default_rng(0)
    noisy = faults(with_examples(Sinusoid(), lambda drawn: _shifted(drawn, rng.normal())))
    assert any("differ from call to call" in str(finding.fault) for finding in noisy)
    beside = faults(with_examples(Sinusoid(), lambda drawn: _shifted(drawn, drawn.query_inputs.mean())))
    assert any("depend on the tasks beside it" in str(finding.fault) for finding in beside)


def _shifted(drawn: Episodes, by: float) -> Episodes:
    return drawn._replace(support_targets=drawn.support_targets + np.float32(by))


def test_tasks_that_are_all_the_same_are_found():
    def first(drawn: Episodes) -> Episodes:
        alike = Sinusoid().examples(Sinusoid().sample(np.random.default_rng(0), 1))
        return Episodes(*(np.repeat(array, len(drawn.query_inputs), axis=0) for array in alike))

    (finding,) = faults(with_examples(Sinusoid(), first))
    assert "have the same support examples" in str(finding.fault)


def test_a_family_that_raises_is_reported_with_its_error():
    def broken(tasks: np.ndarray) -> Episodes:
        raise KeyError("curves")

    (finding,) = faults(Changed(Sinusoid(), examples=broken))
    assert "it raised an exception" in str(finding.fault)
    assert "KeyError: 'curves'" in str(finding.fault)


def test_coinciding_support_and_query_must_be_meant():
    (finding,) = faults(Changed(Boolean(), query_is_support=False))
    assert "query_is_support = True" in str(finding.fault)
    (finding,) = faults(Changed(Sinusoid(), query_is_support=True))
    assert "support and query inputs of sample's tasks differ" in str(finding.fault)


def test_the_command_prints_findings_and_takes_the_familys_flags(capsys):
    assert main(["check", "sinusoid", "--shots", "3"]) == 0
    assert "ok support and query share no example" in capsys.readouterr().out


def test_missing_data_are_no_fault_of_the_familys(tmp_path: Path, capsys):
    assert main(["check", "omniglot", "--data", str(tmp_path / "nowhere")]) == 2
    assert "the place of data must exist" in " ".join(capsys.readouterr().err.split())


def test_too_few_classes_for_a_sequence_are_no_fault(good: Any):
    def refuse(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
        raise InvalidPictures("a sequence needs more classes")

    assert faults(Changed(good, sequence=refuse)) == []

"""``metarl check`` of few-shot families: does one keep the contract of ``FewShotFamily``?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from metarl.envs.data import InvalidPictures
from metarl.experiments.check import Broken, Finding, check_draws, fault_of
from metarl.tasks import Episodes, FewShotFamily

_TASKS = 6
_MANY = 60
"""Tasks of each split whose classes are compared, so many that every class of a small split is likely to come."""
_AT_ONCE = 10
_SEED = 1234
_SPLITS = ("sample", "sample_validation", "sample_test")


def check_few_shot_family(family: FewShotFamily) -> list[Finding]:
    """Try every rule of the contract of ``metarl.tasks.FewShotFamily``; where a first one fails the rest are not tried.

    Raises:
        MissingPackage: if the family needs one.
        DataError: if its data are missing or broken.
    """
    labeled = family.kind == "classification"
    coincide = getattr(family, "query_is_support", False)
    rules: list[tuple[str, Callable[[Any], None]]] = [
        ("kind, input_shape, outputs and training_classes describe the tasks", _description),
        ("the three ways to sample give rows [count, P] of numbers from rng alone", _sampling),
        ("examples(tasks) gives arrays of the right shapes and types", _shapes),
        ("all numbers are finite", _numbers),
        ("examples follow from their task alone", _repeating),
        ("tasks differ", _differing),
        ("support and query coincide, as the family says", _coinciding)
        if coincide
        else ("support and query share no example", _disjoint),
    ]
    if labeled:
        rules.append(("targets are classes of the task, each with an example in the support", _targets))
        rules.append(("labels tell classes apart, those of training below training_classes", _labels))
        rules.append(("training, validation and test have no class in common", _splits))
    rules.append(("variants() are families that the same learner can answer", _variants))
    if hasattr(family, "sequence"):
        rules.append(("sequence(rng, count, length) gives test tasks [count, length, P] from rng alone", _sequences))
    findings = []
    for place, (what, rule) in enumerate(rules):
        fault = fault_of(rule, family)
        findings.append(Finding(what, fault))
        if fault is not None and place < 3:
            break
    return findings


def _rows(family: FewShotFamily, split: str, count: int, seed: int = _SEED) -> np.ndarray:
    drawn: np.ndarray = getattr(family, split)(np.random.default_rng(seed), count)
    return drawn


def _shown(family: FewShotFamily) -> Iterator[tuple[str, Episodes]]:
    """A few tasks of each split."""
    for split in _SPLITS:
        yield split, family.examples(_rows(family, split, _TASKS))


def _description(family: FewShotFamily) -> None:
    if family.kind not in ("classification", "regression"):
        raise Broken(f"kind must be 'classification' or 'regression', got {family.kind!r}")
    shape = family.input_shape
    if not isinstance(shape, tuple) or not shape or any(not isinstance(side, int) or side < 1 for side in shape):
        raise Broken(f"input_shape must be a tuple of whole numbers of at least 1, got {shape!r}")
    least = 2 if family.kind == "classification" else 1
    if family.outputs < least:
        raise Broken(
            f"outputs must be at least {least}, got {family.outputs}: classes in a task, or numbers in a target"
        )
    if family.kind == "classification" and family.training_classes < family.outputs:
        raise Broken(
            f"training_classes must be at least the {family.outputs} classes of a task, got {family.training_classes}"
        )
    if family.kind == "regression" and family.training_classes != 0:
        raise Broken(f"training_classes must be 0 for regression, got {family.training_classes}")


def _sampling(family: FewShotFamily) -> None:
    for split in _SPLITS:
        rows = _rows(family, split, _TASKS)
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
            got = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise Broken(f"{split}(rng, {_TASKS}) must give an array of numbers [{_TASKS}, P], got {got}")
        check_draws(split, getattr(family, split))


def _shapes(family: FewShotFamily) -> None:
    for split, drawn in _shown(family):
        for part in ("support", "query"):
            inputs, targets, labels = (getattr(drawn, f"{part}_{what}") for what in ("inputs", "targets", "labels"))
            count = inputs.shape[1] if inputs.ndim > 1 else 0
            where = f"{part}_{{}} of {split}'s tasks"
            _expect(inputs, (_TASKS, count, *family.input_shape), np.float32, where.format("inputs"))
            if count == 0:
                raise Broken(f"a task must have at least one {part} example, got none from {split}")
            if family.kind == "classification":
                _expect(targets, (_TASKS, count), np.int64, where.format("targets"))
                _expect(labels, (_TASKS, count), np.int64, where.format("labels"))
            else:
                _expect(targets, (_TASKS, count, family.outputs), np.float32, where.format("targets"))
                _expect(labels, (_TASKS, 0), np.int64, where.format("labels"))


def _expect(array: np.ndarray, shape: tuple[int, ...], dtype: type, what: str) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise Broken(
            f"{what} must be {np.dtype(dtype)} of shape {shape}, got {array.dtype} of shape {array.shape}; see "
            "metarl.tasks.Episodes"
        )


def _numbers(family: FewShotFamily) -> None:
    for split, drawn in _shown(family):
        for name, array in zip(drawn._fields, drawn, strict=True):
            if not np.isfinite(array).all():
                raise Broken(f"{name} of {split}'s tasks hold nan or infinity; learning needs finite numbers")


def _repeating(family: FewShotFamily) -> None:
    tasks = _rows(family, "sample", _TASKS)
    first, again = family.examples(tasks), family.examples(tasks)
    alone = family.examples(tasks[-1:])
    for name, one, other, last in zip(first._fields, first, again, alone, strict=True):
        if not np.array_equal(one, other, equal_nan=True):  # nan is another rule's concern
            raise Broken(f"{name} of the same tasks differ from call to call; all that is random must be in the row")
        if not np.array_equal(one[-1:], last, equal_nan=True):
            raise Broken(f"{name} of a task depend on the tasks beside it; make them from the task's own row")


def _differing(family: FewShotFamily) -> None:
    shown = family.examples(_rows(family, "sample", _TASKS))
    same = [
        all(np.array_equal(array[0], array[task]) for array in (shown.support_inputs, shown.support_targets))
        for task in range(1, _TASKS)
    ]
    if all(same):
        raise Broken(f"{_TASKS} tasks have the same support examples; does examples(tasks) use the rows?")


def _disjoint(family: FewShotFamily) -> None:
    for split, drawn in _shown(family):
        for task, (support, query) in enumerate(zip(drawn.support_inputs, drawn.query_inputs, strict=True)):
            known = {example.tobytes() for example in support}
            shared = sum(example.tobytes() in known for example in query)
            if shared:
                raise Broken(
                    f"{shared} of {len(query)} queries of task {task} of {split} stand in its support too, so they "
                    "tell nothing of what was learned; draw them apart, or, where storing examples is the task, say "
                    "so by an attribute query_is_support = True"
                )


def _coinciding(family: FewShotFamily) -> None:
    for split, drawn in _shown(family):
        if not np.array_equal(drawn.support_inputs, drawn.query_inputs):
            raise Broken(f"query_is_support is set, but support and query inputs of {split}'s tasks differ")


def _targets(family: FewShotFamily) -> None:
    for split, drawn in _shown(family):
        for part, targets in (("support", drawn.support_targets), ("query", drawn.query_targets)):
            if targets.min() < 0 or targets.max() >= family.outputs:
                raise Broken(
                    f"{part}_targets of {split} must be classes 0 to {family.outputs - 1}, got {targets.min()} to "
                    f"{targets.max()}"
                )
        for task, targets in enumerate(drawn.support_targets):
            missing = sorted(set(range(family.outputs)) - set(targets.tolist()))
            if missing:
                raise Broken(f"task {task} of {split} has no support example of class {missing[0]}; no query can be")


def _labels(family: FewShotFamily) -> None:
    for split, drawn in _shown(family):
        for task, (targets, labels) in enumerate(zip(drawn.query_targets, drawn.query_labels, strict=True)):
            pairs = set(zip(targets.tolist(), labels.tolist(), strict=True))
            if len(pairs) != len(set(targets.tolist())) or len(pairs) != len(set(labels.tolist())):
                raise Broken(
                    f"in task {task} of {split} query targets and labels do not name the same classes; each class of "
                    "a task must be one class of the data"
                )
    labels = _classes(family, "sample")
    if min(labels) < 0 or max(labels) >= family.training_classes:
        raise Broken(
            f"labels of training tasks must be 0 to training_classes - 1 = {family.training_classes - 1}, got "
            f"{min(labels)} to {max(labels)}"
        )


def _classes(family: FewShotFamily, split: str) -> set[int]:
    """The classes of the data that many tasks of a split show."""
    found: set[int] = set()
    rows = _rows(family, split, _MANY)
    for start in range(0, _MANY, _AT_ONCE):  # images take room
        drawn = family.examples(rows[start : start + _AT_ONCE])
        found |= {*drawn.support_labels.ravel().tolist(), *drawn.query_labels.ravel().tolist()}
    return found


def _splits(family: FewShotFamily) -> None:
    classes = {split: _classes(family, split) for split in _SPLITS}
    for one, other in (_SPLITS[:2], _SPLITS[::2], _SPLITS[1:]):
        common = sorted(classes[one] & classes[other])
        if common:
            raise Broken(
                f"{one} and {other} both gave tasks with class {common[0]}; set the classes of the splits apart, or "
                "evaluation is of classes known from training"
            )


def _variants(family: FewShotFamily) -> None:
    variants = family.variants()
    if not isinstance(variants, Mapping):
        raise Broken(f"variants() must give a mapping from names to families, got {type(variants).__name__}")
    for name, variant in variants.items():
        for what in ("kind", "input_shape", "outputs"):
            if getattr(variant, what) != getattr(family, what):
                raise Broken(
                    f"variant {name!r} has {what} {getattr(variant, what)!r} instead of {getattr(family, what)!r}, so "
                    "a learner of this family cannot answer it"
                )
        drawn = variant.examples(_rows(variant, "sample_test", 2))
        if drawn.query_inputs.shape[2:] != tuple(family.input_shape):
            raise Broken(f"variant {name!r} gives inputs of shape {drawn.query_inputs.shape[2:]}")


def _sequences(family: Any) -> None:
    try:
        rows, again = (family.sequence(np.random.default_rng(_SEED), 3, 2) for _ in range(2))
    except InvalidPictures:  # too few test classes for sequences, which is no fault of the family
        return
    size = _rows(family, "sample_test", 1).shape[1]
    if not isinstance(rows, np.ndarray) or rows.shape != (3, 2, size):
        got = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise Broken(
            f"sequence(rng, 3, 2) must give an array of the shape (3, 2, {size}), as test tasks have, got {got}"
        )
    if not np.array_equal(rows, again):
        raise Broken("sequence gave other tasks from an equal generator; draw from rng and from nothing else")
    family.examples(rows.reshape(6, size))

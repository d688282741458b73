"""The benchmark of outer updates: what it times, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metarl.experiments.bench import UpdateBench, run_update_bench
from metarl.experiments.bench_update import ADAPTING


def test_every_update_is_timed_against_the_reference_on_the_same_data(tmp_path: Path, capsys):
    config = UpdateBench(
        family_name="bandit", tasks=4, repeats=1, algorithms=("promp", "reptile"), json_file=tmp_path / "update.json"
    )
    report = run_update_bench(config)
    names = ["maml-trpo", "promp", "reptile", "meta-gradient, second order", "meta-gradient, first order"]
    assert list(report["figures"]) == names
    assert report["figures"]["maml-trpo"]["ratio"] == 1.0
    assert all(figure["seconds"] > 0.0 for figure in report["figures"].values())
    assert json.loads((tmp_path / "update.json").read_text())["figures"] == report["figures"]
    assert "of maml-trpo's" in capsys.readouterr().out


def test_what_does_not_adapt_in_training_is_refused():
    assert "oracle" not in ADAPTING
    with pytest.raises(ValueError, match=r"must adapt in training .* got oracle"):
        UpdateBench(family_name="bandit", algorithms=("oracle",))

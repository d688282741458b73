"""The contenders of the few-shot benchmark take the same meta-gradient."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from metarl.experiments.bench_few_shot import PROBLEMS, FewShotBench, GradientsDiffer, differences, run_few_shot_bench
from metarl.variants.importance import MEASURED


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.mark.parametrize("problem", ["sinusoid", "omniglot"])
def test_ours_and_the_plain_loop_take_the_same_meta_gradient(problem):
    config = FewShotBench(problem=problem, tasks=3, inner_steps=2, chunk=2, repeats=1, libraries=False)
    figures = run_few_shot_bench(config, console())["figures"]
    assert figures["difference_from_plain"]["metarl"] < 1e-3
    assert figures["difference_from_plain"]["plain loop over tasks"] == 0.0


def test_ours_and_the_plain_loop_take_the_same_meta_gradient_of_the_pooled_network(monkeypatch):
    """Of whole pictures, but few of them."""
    monkeypatch.setitem(PROBLEMS, "mini-imagenet", PROBLEMS["mini-imagenet"]._replace(query=1))
    config = FewShotBench(problem="mini-imagenet", tasks=2, inner_steps=1, chunk=1, repeats=1, libraries=False)
    report = run_few_shot_bench(config, console())
    assert report["sizes"]["query"] == [5, 3, 84, 84]
    assert report["figures"]["difference_from_plain"]["metarl"] < 1e-2  # rounding crosses kinks


def test_a_gradient_that_is_another_is_refused():
    """Of a length of 5, apart by 0.2 and by 1."""
    plain, near, far = ({"head.weight": torch.tensor([[3.0, last]])} for last in (4.0, 4.2, 5.0))
    assert differences({"near": near, "plain": plain}, plain) == pytest.approx({"near": 0.04, "plain": 0.0})
    with pytest.raises(GradientsDiffer, match=r"must be the plain loop's, .* more than 0\.05 .*: far by 0\.2; times"):
        differences({"near": near, "far": far}, plain)
    with pytest.raises(GradientsDiffer, match="none by nan"):
        differences({"none": {"head.weight": torch.full((1, 2), torch.nan)}}, plain)


def test_every_contender_is_timed_in_every_repetition_and_the_report_is_written(tmp_path):
    out = console()
    config = FewShotBench(
        problem="sinusoid", tasks=2, repeats=3, libraries=False, json_file=tmp_path / "new" / "f.json"
    )
    report = run_few_shot_bench(config, out)
    assert json.loads((tmp_path / "new" / "f.json").read_text()) == report
    assert report["sizes"] == {"tasks": 2, "inner_steps": 1, "support": [10, 1], "query": [10, 1], "chunk": 2}
    for name in ("metarl", "plain loop over tasks"):
        assert report["figures"]["seconds"][name]["min"] > 0.0
        assert name[:10] in out.file.getvalue()
    assert "differs" in out.file.getvalue()
    assert report["figures"]["times_faster_than_plain"]["plain loop over tasks"]["median"] == 1.0


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="inner_steps must be at least 1"):
        FewShotBench(problem="sinusoid", inner_steps=0)


@pytest.mark.parametrize("problem", ["sinusoid", "omniglot"])
def test_what_variants_cost_is_a_ratio_to_a_backward_pass_or_to_maml(problem, tmp_path):
    out = console()
    config = FewShotBench(
        problem=problem,
        tasks=2,
        inner_steps=1,
        repeats=1,
        libraries=False,
        variants=True,
        json_file=tmp_path / "f.json",
    )
    found = run_few_shot_bench(config, out)["variants"]
    assert set(found) == {
        "gradients of single examples",
        *(f"importance: {name}" for name in MEASURED),
        "fame",
        "maml, curious by the last layer",
        "fame, curious by the last layer",
        "maml, curious by whole gradients",
    }
    assert all(figure["median"] > 0.0 for figure in found.values())
    assert json.loads((tmp_path / "f.json").read_text())["variants"] == found
    assert "importance: fisher" in out.file.getvalue()

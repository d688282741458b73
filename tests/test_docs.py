"""The pages under docs: their links, commands and tables."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from metarl.experiments import study_chain, study_first_order
from metarl.experiments.cli import COMMANDS, main
from metarl.experiments.results import markdown, rows
from metarl.few_shot.algorithms import ALGORITHMS
from metarl.tasks import FAMILIES

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_exists(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:metarl|envs|experiments)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page):
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.strip().splitlines():
            words = shlex.split(line)
            assert words[0] == "metarl"
            assert words[1] in COMMANDS
            if words[1] == "train":
                assert words[2] in FAMILIES
            if "--algorithm" in words:
                assert words[words.index("--algorithm") + 1] in ALGORITHMS


def test_every_few_shot_algorithm_stands_in_the_page():
    text = (ROOT / "docs" / "few-shot.md").read_text()
    for name in ALGORITHMS:
        assert f"`{name}`" in text


def test_the_few_shot_table_is_what_the_committed_evaluations_say():
    kept = sorted(path.parent for path in (ROOT / "experiments/results/few-shot").glob("*/evaluation.json"))
    text = (ROOT / "docs" / "few-shot.md").read_text()
    for line in markdown(rows(kept)).splitlines():
        assert line in text


def test_the_page_on_first_order_has_the_table_of_the_study():
    content = json.loads((ROOT / "experiments/results/first-order/sinusoid.json").read_text())
    text = (ROOT / "docs" / "first-order.md").read_text()
    for line in study_first_order.markdown(content, "sinusoid").splitlines():
        assert line in text


def test_the_page_on_adapting_runs_word_for_word(tmp_path, monkeypatch, capsys):
    """Its commands, with a smaller training run, and then its snippets, each in a namespace of its own."""
    text = (ROOT / "docs" / "adapt.md").read_text()
    monkeypatch.chdir(tmp_path)
    smaller = {"train": ["--iterations", "2", "--meta-batch-size", "2", "--rollout.horizon", "20"], "adapt": []}
    (block,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in block.strip().splitlines():
        words = shlex.split(line)
        assert main([*words[1:], *smaller[words[1]]]) == 0
    short, long = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len([line for line in short.splitlines() if line]) == 5
    for name, snippet in (("short", short), ("long", long)):
        (tmp_path / f"{name}.py").write_text(snippet)
    assert runpy.run_path("short.py")["action"] in (0, 1)
    runpy.run_path("long.py")
    assert "mean return after 0, 1, 2 gradient steps: (" in capsys.readouterr().out


def test_the_page_on_meta_gradients_has_the_table_of_the_study():
    content = json.loads((ROOT / "experiments/results/chain/chain.json").read_text())
    text = (ROOT / "docs" / "meta-gradient-rl.md").read_text()
    for line in study_chain.markdown(content).splitlines():
        assert line in text


@pytest.mark.parametrize("layout", ["ring", "open"])
def test_the_committed_discounts_end_high_on_noise_and_low_on_signal_states_for_every_seed(layout):
    content = json.loads((ROOT / "experiments/results/chain/chain.json").read_text())
    noise, signal = study_chain.final_discounts(content, layout)
    assert len(noise) == 5
    assert noise.min() > 0.85
    assert signal.max() < 0.15


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "adapt"], ids=lambda page: page.name)
def test_every_snippet_of_a_page_runs(page, tmp_path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        (tmp_path / "snippet.py").write_text(block)
        runpy.run_path(str(tmp_path / "snippet.py"))

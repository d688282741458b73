"""The pages under docs: their links, commands and tables."""

import dataclasses
import json
import re
import runpy
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from metarl.experiments import (
    forgetting_tables,
    study_chain,
    study_curiosity,
    study_estimators,
    study_first_order,
    study_forgetting,
    study_phases,
    study_policy_curiosity,
)
from metarl.experiments.cli import COMMANDS, main
from metarl.experiments.descent_presets import RATES
from metarl.experiments.figure_tables import page
from metarl.experiments.forgetting_settings import SETTINGS
from metarl.experiments.kinds import FEW_SHOT, kind_of
from metarl.experiments.presets import preset_config, preset_for, presets_of
from metarl.experiments.results import markdown, rows
from metarl.experiments.results_few_shot import variants_markdown
from metarl.experiments.study_file import open_study
from metarl.few_shot.algorithms import ALGORITHMS
from metarl.reinforcement import algorithms as reinforcement
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.rl2 import Rl2Config
from metarl.tasks import FAMILIES, family_factory

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OF_ALGORITHMS = sorted((DOCS / "algorithms").glob("*.md"))
FIGURES = ROOT / "experiments/results/figures"
ESTIMATORS = ROOT / "experiments/results/estimators/estimators.json"


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


def between(text: str, start: str, end: str) -> str:
    return text.split(f"<!-- {start} -->")[1].split(f"<!-- {end} -->")[0].strip()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_links_exists(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:metarl|envs|experiments|tests|docs)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_is_one(page):
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.strip().splitlines():
            words = shlex.split(line)
            assert words[0] == "metarl"
            assert words[1] in COMMANDS
            if words[1] == "train":
                check_training(words[2], dict(pairwise(words)))


def check_training(family: str, after: dict[str, str]) -> None:
    """That family, algorithm and preset of a command exist, and of a policy's the flags.

    Args:
        family: its name.
        after: the word after each word of the command.
    """
    assert family in FAMILIES
    few_shot = kind_of(family_factory(family)) is FEW_SHOT
    table = {*ALGORITHMS} if few_shot else POLICIES
    if "--algorithm" in after:
        assert after["--algorithm"] in table
    if "--preset" in after:
        assert after["--preset"] in presets_of(family)
    if not few_shot:
        for flag in after:
            assert not flag.startswith("--") or flag in (*FLAGS, "--name", "--preset"), flag


def flags_of(settings: object, prefix: str = "--") -> list[str]:
    """The flags of a tree of settings, and of the groups among them."""
    found = []
    for field in dataclasses.fields(settings):
        value, flag = getattr(settings, field.name), prefix + field.name.replace("_", "-")
        found.append(flag)
        if dataclasses.is_dataclass(value):
            found += flags_of(value, f"{flag}.")
    return found


FLAGS = [*flags_of(MetaTrainConfig()), *flags_of(Rl2Config())]
POLICIES = {*reinforcement.ALGORITHMS, Rl2Config.algorithm}


@pytest.mark.parametrize("page", OF_ALGORITHMS, ids=name_of)
def test_every_flag_that_a_page_of_an_algorithm_names_exists(page):
    for flag in re.findall(r"`(--[\w.-]+)", page.read_text()):
        assert flag in (*FLAGS, "--preset"), flag


def test_every_algorithm_of_policies_has_a_page_and_stands_in_the_index():
    pages = {page.stem for page in OF_ALGORITHMS}
    baselines = set(re.findall(r"^## (\S+)$", (DOCS / "algorithms" / "baselines.md").read_text(), flags=re.MULTILINE))
    index = (DOCS / "README.md").read_text()
    assert pages - {"baselines"} <= POLICIES
    for name in POLICIES:
        assert name in pages | baselines, name
        assert re.search(rf"\b{name}\b", index), name


PRESETS_OF_PAGES = ("navigation-2d", "half-cheetah-dir", "half-cheetah-vel")
"""Families whose presets the pages of algorithms name."""


def algorithms_of(page: Path, text: str) -> list[tuple[str, str]]:
    """The algorithms of a page, and what it says of each: the page is of one, or has a section for each."""
    parts = re.split(r"^## (\S+)\n", text, flags=re.MULTILINE)
    sections = [(name, part) for name, part in zip(parts[1::2], parts[2::2], strict=True) if name in POLICIES]
    return sections or [(page.stem, text)]


def preset_words(algorithm: str) -> str:
    """What a page has to say of the presets of its algorithm."""
    chosen = {family: preset_for(family, algorithm) for family in PRESETS_OF_PAGES}
    (preset,) = set(chosen.values())
    clauses = [f"`{family}` ({preset_numbers(family, preset, algorithm)})" for family in PRESETS_OF_PAGES]
    return f"Preset: `{preset}` on {', '.join(clauses[:-1])} and {clauses[-1]}."


def preset_numbers(family: str, preset: str, algorithm: str) -> str:
    """Those that an algorithm uses of a preset."""
    train = preset_config(family, preset).train
    size = f"{train.iterations} iterations of {train.meta_batch_size} tasks"
    if algorithm == Rl2Config.algorithm:
        rollout = train.rollout
        rate = train.outer.optimizer.learning_rate
        return f"Adam {rate:g}, {size}, {rollout.trials} trials of {rollout.episodes} episodes"
    row = reinforcement.ALGORITHMS[algorithm]
    told = {
        "outer": f"KL {train.outer.max_kl:g}",
        "optimizer": f"Adam {train.optimizer.learning_rate:g}",
        "size": size,
        "inner.step_size": f"inner step {train.inner.step_size:g}",
        "inner.proximity": f"lambda {train.inner.proximity:.3g}",
    }
    used = row.uses | ({"size"} if row.outer is not None else set())
    return ", ".join(words for path, words in told.items() if path in used)


@pytest.mark.parametrize("page", OF_ALGORITHMS, ids=name_of)
def test_every_page_of_an_algorithm_names_its_preset_with_the_numbers_that_it_has(page):
    for name, text in algorithms_of(page, page.read_text()):
        (found,) = re.findall(r"^Preset: .*?(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL)
        assert " ".join(found.split()) == preset_words(name)


def test_the_presets_that_pages_name_have_the_rates_of_the_table():
    for family, rates in RATES.items():
        assert preset_numbers(family, "maml-vpg", "maml-vpg").startswith(f"Adam {rates.one:g}, ")
        assert preset_numbers(family, "promp", "promp").startswith(f"Adam {rates.several:g}, ")


@pytest.mark.parametrize("page", OF_ALGORITHMS, ids=name_of)
def test_every_page_of_an_algorithm_trains_it_and_leaves_the_results_to_theirs(page):
    text = page.read_text()
    sections = re.findall(r"^## (\S+)$", text, flags=re.MULTILINE)
    for name in [each for each in sections if each in reinforcement.ALGORITHMS] or [page.stem]:
        assert re.search(rf"^metarl train navigation-2d .*--algorithm {name} .*--name ", text, flags=re.MULTILINE), name
    assert text.endswith("## Results\n\nSee [results](../results.md).\n")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=name_of)
def test_every_page_stands_in_the_index(page):
    assert f"]({name_of(page)})" in (DOCS / "README.md").read_text()


@pytest.mark.skipif(not FIGURES.is_dir(), reason="no figure was made")
def test_the_page_of_results_has_every_figure():
    assert between((DOCS / "results.md").read_text(), "figures", "end of figures") == page(FIGURES)


@pytest.mark.skipif(not ESTIMATORS.is_file(), reason="the study of estimators was not run")
def test_the_page_on_estimators_has_the_figures_of_the_study():
    content, text = json.loads(ESTIMATORS.read_text()), (DOCS / "estimators.md").read_text()
    assert between(text, "estimators", "end of estimators") == study_estimators.markdown(content)
    cosines = between(text, "cosines", "end of cosines").splitlines()
    for name, found in content["rows"].items():
        cells = [f"{found[str(count)]['cosine']:.3f}" for count in content["episodes"]]
        assert "| " + " | ".join([name, *cells]) + " |" in cosines


@pytest.mark.parametrize("family", SETTINGS)
def test_the_page_of_sequences_has_the_table_of_the_study_under_its_settings(family):
    path = ROOT / f"experiments/results/forgetting/{family}.json"
    content = open_study(path, study_forgetting.described(family))
    text = (DOCS / "sequences.md").read_text()
    assert between(text, family, f"end of {family}") == forgetting_tables.markdown(content)


def test_the_page_of_fame_has_the_table_of_phases():
    content = json.loads((ROOT / "experiments/results/forgetting/phases.json").read_text())
    text = (DOCS / "algorithms" / "fame.md").read_text()
    assert between(text, "phases", "end of phases") == study_phases.markdown(content)


def test_the_page_of_curiosity_has_the_table_of_policies():
    content = json.loads((ROOT / "experiments/results/curiosity/navigation-2d.json").read_text())
    text = (DOCS / "curiosity.md").read_text()
    assert between(text, "policies", "end of policies") == study_policy_curiosity.markdown(content)


def test_the_page_of_curiosity_has_the_table_of_the_study():
    content = json.loads((ROOT / "experiments/results/curiosity/omniglot.json").read_text())
    text = (DOCS / "curiosity.md").read_text()
    assert between(text, "curiosity", "end of curiosity") == study_curiosity.markdown(content)


def test_every_few_shot_algorithm_stands_in_the_page():
    text = (ROOT / "docs" / "few-shot.md").read_text()
    for name in ALGORITHMS:
        assert f"`{name}`" in text


VARIANTS = {
    "sinusoid variants": ("sin-maml", "sin-meta-sgd", "sin-pretrain"),
}
"""Tables of the page on few-shot learning, and the kept runs that they are of."""


@pytest.mark.parametrize("table", VARIANTS)
def test_the_page_on_few_shot_learning_has_the_variants_of_its_runs(table):
    folder = ROOT / "experiments/results/few-shot"
    found = [json.loads((folder / name / "evaluation.json").read_text()) for name in VARIANTS[table]]
    text = (DOCS / "few-shot.md").read_text()
    assert between(text, table, f"end of {table}") == variants_markdown(found, (1, 10))


def test_the_few_shot_table_is_what_the_committed_evaluations_say():
    kept = sorted(path.parent for path in (ROOT / "experiments/results/few-shot").glob("*/evaluation.json"))
    text = (ROOT / "docs" / "few-shot.md").read_text()
    for line in markdown(rows(kept)).splitlines():
        assert line in text


@pytest.mark.parametrize("family", ["sinusoid", "omniglot"])
def test_the_page_on_first_order_has_the_tables_of_the_study(family):
    content = json.loads((ROOT / f"experiments/results/first-order/{family}.json").read_text())
    text = (ROOT / "docs" / "first-order.md").read_text()
    for line in study_first_order.markdown(content, family).splitlines():
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


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "adapt"], ids=name_of)
def test_every_snippet_of_a_page_runs(page, tmp_path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        (tmp_path / "snippet.py").write_text(block)
        runpy.run_path(str(tmp_path / "snippet.py"))

"""The README's commands and snippets run, and its table says what the committed results say."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from metarl.experiments.cli import COMMANDS, main
from metarl.experiments.results import markdown, rows
from metarl.tasks import FAMILIES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALL = ["--iterations", "2", "--meta-batch-size", "2", "--rollout.episodes", "2", "--rollout.horizon", "20"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(block: str) -> list[list[str]]:
    parts = re.split(r"&&|\n", block)
    return [shlex.split(part) for part in parts if part.strip()]


def test_the_first_command_sets_up_trains_evaluates_and_renders(tmp_path, monkeypatch, capsys):
    """Word for word but for the size: set-up itself is what .ci/run does."""
    setup, *metarl = [words for words in commands(blocks("bash")[0]) if words[0] in ("pip", "metarl")]
    assert setup == ["pip", "install", "-c", "constraints.txt", "-e", "."]
    assert [words[1] for words in metarl] == ["train", "evaluate", "render"]
    monkeypatch.chdir(tmp_path)
    smaller = {
        "train": SMALL,
        "evaluate": ["--tasks", "2", "--episodes", "2"],
        "render": ["--tasks", "1", "--height", "96"],
    }
    for words in metarl:
        assert main([*words[1:], *smaller[words[1]]]) == 0
    shown = capsys.readouterr().out
    assert "gradient steps" in shown
    assert (tmp_path / "runs" / "first" / "videos" / "adaptation.mp4").stat().st_size > 0
    assert "adaptation.mp4" in shown


def test_the_second_command_installs_the_test_extra_and_runs_what_ci_runs():
    words = commands(blocks("bash")[1])
    assert words[-2:] == [["pip", "install", "-c", "constraints.txt", "-e", ".[test]"], ["pytest", "-n", "2"]]
    assert "\npytest -n 2" in (ROOT / ".ci" / "run").read_text()


def test_the_family_of_the_readme_is_checked_trained_and_evaluated(tmp_path, monkeypatch, capsys):
    (snippet,) = blocks("python")
    (block,) = [block for block in blocks("bash") if "my_cartpole.py" in block]
    (tmp_path / "my_cartpole.py").write_text(snippet)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    smaller = {"train": SMALL, "evaluate": ["--tasks", "2", "--episodes", "2"], "check": []}
    try:
        for words in commands(block):
            assert words[0] == "metarl"
            assert main([*words[1:], *smaller[words[1]]]) == 0
    finally:
        FAMILIES.pop("my-cartpole", None)
        sys.modules.pop("my_cartpole", None)
    shown = capsys.readouterr().out
    assert "wrong" not in shown
    assert "gradient steps" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name):
    assert f"metarl {name}" in README


def test_every_file_that_the_readme_links_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    links += re.findall(r"`((?:metarl|experiments)/[\w/.-]+)`", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_results_table_is_what_the_committed_evaluations_say():
    folder = ROOT / "experiments" / "results"
    kept = sorted(path.parent for path in folder.glob("*/evaluation.json"))
    assert kept
    for line in markdown(rows(kept)).splitlines():
        assert line in README


def test_the_few_shot_commands_train_evaluate_and_render(tmp_path, monkeypatch, capsys):
    (block,) = [block for block in blocks("bash") if "metarl train sinusoid" in block]
    monkeypatch.chdir(tmp_path)
    smaller = {"train": ["--iterations", "3"], "evaluate": ["--tasks", "4"], "render": []}
    for words in commands(block):
        assert words[0] == "metarl"
        assert main([*words[1:], *smaller[words[1]]]) == 0
    assert "gradient steps" in capsys.readouterr().out

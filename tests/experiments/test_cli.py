"""The command line: what it refuses and how it says so, and how fast it answers."""

import subprocess
import sys

import pytest

from metarl.experiments.cli import COMMANDS, main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "half-cheeta-dir"], "did you mean 'half-cheetah-dir'"),
        (["train", "navigation-2d", "--preset", "mamml"], "did you mean 'maml'"),
        (["train", "navigation-2d", "--meta-batch-size", "0"], "meta_batch_size must be at least 1, got 0"),
        (["train", "navigation-2d", "--inner.step-size", "-0.1"], "step_size must be positive"),
        (["train", "navigation-2d", "--rollout.horizon", "0"], "horizon must be at least 1, got 0"),
        (["train", "navigation-2d", "--minutes", "0"], "minutes must be positive"),
        (
            ["train", "navigation-2d", "--inner.estimator", "dice", "--outer.fisher-support-share", "0.5"],
            "whole episodes",
        ),
        (["train", "half-cheetah-vel", "--family.velocity-low", "3"], "velocity_low"),
        (["evaluate", "nowhere", "--tasks", "0"], "tasks must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_named_with_what_must_hold(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_status(arguments) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def exit_status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stopped:  # the parser's own way out
        return int(stopped.code or 0)


def test_an_unknown_flag_is_refused_with_the_nearest_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_status(["train", "navigation-2d", "--inner.step-sise", "0.1"]) == 2
    assert "--inner.step-size" in capsys.readouterr().err


def test_an_unknown_command_is_refused(capsys):
    assert exit_status(["trian"]) == 2
    assert "train" in capsys.readouterr().err


def test_help_names_every_command_without_loading_torch():
    program = (
        "import sys; from metarl.experiments.cli import main\n"
        "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    for name in COMMANDS:
        assert name in done.stdout


def test_list_prints_families_presets_and_algorithms(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for word in ("navigation-2d", "half-cheetah-vel", "half-cheetah-dir", "ant-vel", "ant-dir", "maml-trpo", "promp"):
        assert word in shown

"""Few-shot runs: every algorithm from the command line, how they stop and go on, and what is refused."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from metarl.checkpoints import checkpoint_files
from metarl.experiments.cli import main
from metarl.experiments.config import ConfigError, from_json, to_json
from metarl.experiments.few_shot_presets import FEW_SHOT_PRESETS
from metarl.experiments.kinds import FEW_SHOT, kind_of
from metarl.experiments.presets import preset_config, preset_for
from metarl.few_shot.algorithms import ALGORITHMS
from metarl.logs import read_metrics

SMALL = [
    *("--iterations", "20", "--meta-batch-size", "4", "--net.hidden", "8", "--log-every", "5"),
    *("--held-out-every", "0", "--held-out-tasks", "5", "--checkpoint-every", "10", "--keep-checkpoints", "9"),
]
BRIEF = ["--inner.steps", "3"]
FIT = [name for name, row in ALGORITHMS.items() if "regression" in row.kinds]
HERE = Path("config.json")


def train(runs: Path, name: str, *flags: str, family: str = "sinusoid") -> int:
    return main(["train", family, "--runs", str(runs), "--name", name, *SMALL, *flags])


def tensors(run: Path) -> dict[str, bytes]:
    """All that the newest checkpoint holds, moments and eta among it, bit for bit."""
    newest = checkpoint_files(run / "checkpoints")[0]
    return {name: value.numpy().tobytes() for name, value in load_file(newest).items()}


def lines(run: Path) -> list[dict[str, float]]:
    """What was logged, but for times."""
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in read_metrics(run)]


@pytest.mark.parametrize("name", FIT)
def test_every_algorithm_that_regresses_trains_on_sinusoids(tmp_path: Path, name: str):
    done = 20 if ALGORITHMS[name].trains else 0
    assert train(tmp_path, "run", "--algorithm", name, *BRIEF, "--iterations", str(done)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["iterations"], results["failed_updates"]) == (done, 0)
    found = read_metrics(tmp_path / "run")
    assert [line["iteration"] for line in found] == [5, 10, 15, 20][: done // 5]
    assert all(math.isfinite(line[f"train/mse_after_{step}"]) for line in found for step in range(4))
    saved = checkpoint_files(tmp_path / "run" / "checkpoints")[::-1]
    assert [path.stem for path in saved] == [f"iteration_{number:08d}" for number in range(0, done + 1, 10)]
    first, last = load_file(saved[0]), load_file(saved[-1])
    moved = [key for key in first if not key.startswith("optimizer/") and not torch.equal(first[key], last[key])]
    assert bool(moved) == ALGORITHMS[name].trains


@pytest.mark.parametrize("name", [name for name, row in ALGORITHMS.items() if "classification" in row.kinds])
def test_every_algorithm_that_classifies_trains_on_pictures(shapes: None, tmp_path: Path, name: str):
    done = 2 if ALGORITHMS[name].trains else 0
    flags = ["--algorithm", name, *BRIEF, "--net.filters", "4", "--iterations", str(done), "--log-every", "1"]
    assert train(tmp_path, "run", *flags, family="test-shapes") == 0
    found = read_metrics(tmp_path / "run")
    assert len(found) == done
    assert all(0.0 <= line["train/accuracy_after_3"] <= 1.0 for line in found)


RESUMED = {
    "maml": ["--outer.schedule", "cosine", "--outer.max-norm", "1.0"],
    "maml++": ["--algorithm", "maml", "--inner.layer-step-sizes", "True", "--inner.multi-step-iterations", "15"],
    "meta-sgd": [],
    "meta-lstm": [],
    "reptile": [],
    "imaml": [],
    "synaptic": [],
    "oracle": [],
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_killed_between_checkpoints_goes_on_to_equal_the_uninterrupted_one_bit_for_bit(tmp_path: Path, name: str):
    named = [] if name == "maml++" else ["--algorithm", name]
    assert train(tmp_path, "whole", *named, *BRIEF, "--held-out-every", "20", *RESUMED[name]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "checkpoints" / "iteration_00000020.safetensors").unlink()
    (tmp_path / "killed" / "checkpoints" / "best.safetensors").unlink()
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    found = tensors(tmp_path / "killed")
    assert found == tensors(tmp_path / "whole")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    moments = [key for key in found if key.startswith("optimizer/")]
    assert bool(moments) == (name != "reptile")  # which descends without
    assert any(key.startswith("eta/") for key in found) == (name in ("maml++", "meta-sgd", "meta-lstm", "synaptic"))


def test_sigint_saves_the_iteration_it_came_in_and_the_resumed_run_equals_the_uninterrupted_one(tmp_path: Path):
    command = [sys.executable, "-m", "metarl.experiments.cli", "train", "sinusoid", "--runs", str(tmp_path)]
    flags = [*SMALL, "--checkpoint-every", "100000", "--log-every", "10"]
    process = subprocess.Popen(
        [*command, "--name", "run", *flags, "--iterations", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = tmp_path / "run"
    deadline = time.monotonic() + 120
    while not read_metrics(run):
        assert time.monotonic() < deadline, "the run logged nothing"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "metarl train --resume" in output
    done = int(checkpoint_files(run / "checkpoints")[0].stem.removeprefix("iteration_"))
    assert done >= 10
    goal = done + 3
    config = run / "config.json"
    config.write_text(config.read_text().replace('"iterations": 100000', f'"iterations": {goal}'))
    assert main(["train", "--resume", str(run)]) == 0
    assert train(tmp_path, "whole", *flags, "--iterations", str(goal)) == 0
    assert tensors(run) == tensors(tmp_path / "whole")
    assert lines(run)[-1] == lines(tmp_path / "whole")[-1]


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (["--algorithm", "meta-sgd"], "besides: eta/step_size/bias_0, eta/step_size/bias_1"),
        (["--algorithm", "maml", "--outer.optimizer", "sgd"], "missing: optimizer/count, optimizer/m/bias_0,"),
        (["--algorithm", "synaptic"], "besides: eta/synaptic"),
        (["--algorithm", "maml", "--net.hidden", "9"], "must be torch.float32 (1, 8), got torch.float32 (1, 9)"),
    ],
)
def test_a_checkpoint_of_another_algorithm_or_network_is_refused(tmp_path: Path, capsys, other, complaint):
    assert train(tmp_path, "run", "--algorithm", "maml", "--iterations", "1") == 0
    assert train(tmp_path, "other", *other, "--iterations", "1") == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "config.json describes" in message
    assert complaint in message


def test_what_does_not_train_leaves_a_run_with_its_fresh_start_that_can_be_evaluated(tmp_path: Path, capsys):
    assert train(tmp_path, "run", "--algorithm", "random", "--iterations", "0") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["iterations"] == 0
    assert read_metrics(tmp_path / "run") == []
    assert [path.stem for path in checkpoint_files(tmp_path / "run" / "checkpoints")] == ["iteration_00000000"]
    assert main(["evaluate", str(tmp_path / "run"), "--tasks", "5", "--steps", "2"]) == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "0 left" in capsys.readouterr().out


def test_the_oracle_sees_what_the_task_is_whatever_the_family_says(tmp_path: Path):
    assert train(tmp_path, "run", "--algorithm", "oracle", "--shots", "5", "--iterations", "1") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["family"]["oracle"] is True
    assert config["family"]["shots"] == 5
    assert load_file(checkpoint_files(tmp_path / "run" / "checkpoints")[0])["theta/weight_0"].shape == (3, 8)


def test_a_run_that_diverges_stops_with_what_to_try(tmp_path: Path, capsys):
    flags = ["--inner.step-size", "1e20", "--inner.steps", "5", "--max-failures", "4"]
    assert train(tmp_path, "run", *flags) == 1
    message = capsys.readouterr().err
    assert "4 meta-iterations in a row left the parameters as they were" in message
    assert "Try a smaller inner step_size" in message


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["sinusoid", "--ways", "5"], "Unrecognized options: --ways"),
        (["sinusoid", "--algorithm", "protonets"], "no algorithm 'protonets'"),
        (["sinusoid", "--algorithm", "meta-sdg"], "did you mean 'meta-sgd'?"),
        (["sinusoid", "--algorithm", "prototypes"], "prototypes needs tasks of classification, got regression"),
        (["sinusoid", "--net.form", "strided"], "net form strided needs images"),
        (["sinusoid", "--inner.steps", "-1"], "inner steps must be 0 or more, got -1"),
        (["sinusoid", "--outer.learning-rate", "0"], "outer learning_rate must be positive"),
        (["sinusoid", "--algorithm", "meta-lstm", "--inner.step-size", "2"], "between 0 and 1, got 2.0"),
        (["sinusoid", "--shots", "0"], "shots must be a whole number of at least 1; got 0"),
        (["sinusoid", "--device", "abacus"], "device must be one that torch knows"),
        (["boolean", "--algorithm", "oracle"], "oracle needs a family with the option oracle, such as sinusoid"),
        (["sinusoid", "--preset", "imamml"], "did you mean 'imaml'?"),
        (["sinusoid", "--algorithm", "imaml", "--compile", "True"], "imaml is not compiled"),
        (["sinusoid", "--algorithm", "imaml", "--compile"], "imaml is not compiled"),
        (["sinusoid", "--memory.slots", "9"], "maml does not use the settings --memory.slots"),
        (["navigation-2d", "--algorithm", "maml"], "maml learns supervised tasks, but navigation-2d has environments"),
        (
            ["sinusoid", "--algorithm", "promp"],
            "promp learns policies, but sinusoid has supervised tasks; choose one of",
        ),
        (["sinusoid", "--algorithm", "rl2"], "rl2 learns policies, but sinusoid has supervised tasks"),
        (["sinusoid", "--algorithm", "random", "--iterations", "50"], "nothing to train, got --iterations 50"),
        (["test-shapes", "--ways", "5"], "Cannot take a larger sample"),  # 6 classes for training, 4 for validation
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    shapes: None, tmp_path: Path, capsys, flags, complaint
):
    try:
        status = main(["train", *flags, "--runs", str(tmp_path / "runs"), "--name", "run"])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    captured = capsys.readouterr()
    assert complaint in " ".join((captured.out + captured.err).split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("counts", "flags", "complaint"),
    [
        ({"train": 3, "val": 2, "test": 3}, [], "3-way tasks need at least 3 validation classes"),
        ({"train": 3, "val": 3, "test": 2}, [], "3-way tasks need at least 3 test classes"),
        ({"train": 3, "val": 3, "test": 3}, ["--queries", "2"], "tasks need 1 + 2 pictures of each class"),
        ({"train": 3, "test": 3}, ["--held-out-every", "0"], None),
    ],
)
def test_every_split_that_will_be_asked_for_must_have_enough_before_anything_is_written(
    tmp_path: Path, monkeypatch, capsys, counts, flags, complaint
):
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    for place in [f"{split}/{split}{number}" for split, count in counts.items() for number in range(count)]:
        (tmp_path / "set" / place).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "set" / place / f"{number}.png")
    tasks = ["--data", str(tmp_path / "set"), "--ways", "3", "--shots", "1", "--queries", "1", "--size", "8"]
    brief = ["--net.form", "mlp", "--iterations", "1", "--name", "run", "--runs", str(tmp_path / "runs")]
    assert main(["train", "image-folder", *tasks, *brief, *flags]) == (2 if complaint else 0)
    assert (tmp_path / "runs").exists() == (complaint is None)
    assert (complaint or "") in capsys.readouterr().err


ALL = [(family, preset) for family, presets in FEW_SHOT_PRESETS.items() for preset in presets]
NEEDS_DATA = [("omniglot", "pretrain"), ("omniglot", "pretrain-neighbors")]
"""Their networks have an output for each training class."""


@pytest.mark.parametrize(("family", "preset"), ALL)
def test_every_preset_survives_the_way_to_disk_and_back(family, preset):
    config = preset_config(family, preset)
    assert kind_of(config.family) is FEW_SHOT
    assert from_json(to_json(config), HERE) == config


@pytest.mark.parametrize(("family", "preset"), sorted({*ALL} - {*NEEDS_DATA}))
def test_every_preset_builds_a_learner_without_data(family, preset, tmp_path, monkeypatch):
    monkeypatch.setenv("METARL_DATA", str(tmp_path))
    learner, state = FEW_SHOT.prepare(preset_config(family, preset))
    assert state.meta.theta
    assert state.optimizer.keys() == (
        set()
        if preset_config(family, preset).train.outer.optimizer == "sgd"
        else {"count"}
        | {f"{moment}/{name}" for moment in ("m", "v") for name in state.meta.theta}
        | {f"{moment}/eta:{name}" for moment in ("m", "v") for name in state.meta.eta}
    )
    assert learner is not None


def test_an_algorithm_brings_its_own_preset_where_there_is_one():
    assert preset_for("sinusoid", "imaml") == "imaml"
    assert preset_for("sinusoid", "anil") == "default"
    assert preset_config("sinusoid", preset_for("sinusoid", "reptile")).train.outer.optimizer == "sgd"


def test_the_sinusoid_preset_is_the_published_setting():
    """Finn et al. 2017, sec. 5.1."""
    config = preset_config("sinusoid", "maml-paper")
    assert (config.train.net.hidden, config.train.net.activation) == ((40, 40), "relu")
    assert (config.train.inner.steps, config.train.inner.step_size) == (1, 0.01)
    assert (config.train.outer.optimizer, config.train.outer.learning_rate) == ("adam", 0.001)
    assert (config.train.meta_batch_size, config.train.iterations, config.family.shots) == (25, 70_000, 10)


def test_settings_of_a_memory_have_flags_and_are_kept_with_the_run(shapes: None, tmp_path: Path):
    flags = ["--algorithm", "mann", "--iterations", "1", "--memory.slots", "9", "--memory.controller-size", "12"]
    assert train(tmp_path, "run", *flags, family="test-shapes") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert (config["memory"]["slots"], config["memory"]["controller_size"], config["memory"]["heads"]) == (9, 12, 4)
    assert config["matching"] == {"processing_steps": 5, "scale": 10.0}
    assert main(["evaluate", str(tmp_path / "run"), "--tasks", "5"]) == 0


def test_a_configuration_from_before_a_setting_was_one_is_read_with_its_default():
    config = preset_config("omniglot", "matching")
    raw = msgspec.json.decode(to_json(config))
    for part in ("matching", "memory"):
        del raw["train"][part]
    assert from_json(msgspec.json.encode(raw), HERE) == config


def changed(**fields: object) -> bytes:
    raw = msgspec.json.decode(to_json(preset_config("sinusoid", "imaml")))
    return msgspec.json.encode(raw | fields)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (changed(surprise=1), "RunConfig has no field surprise"),
        (changed(train={"iterrations": 5}), "FewShotConfig has no field iterrations"),
        (changed(train={"inner": {"step": 1}}), "FewShotInnerConfig has no field step in this version"),
        (changed(train={"outer": {"max_kl": 0.01}}), "OptimizerConfig has no field max_kl"),
        (changed(train={"net": {"filters": 0}}), "net filters must be at least 1, got 0"),
        (changed(train={"memory": {"rows": 5}}), "MemoryConfig has no field rows"),
        (changed(train={"matching": {"scale": 0}}), "matching scale must be positive"),
        (changed(train={"rollout": {}}), "FewShotConfig has no field rollout"),
        (changed(train={"outer": {"optimizer": "lion"}}), "optimizer"),
        (changed(family={"ways": 5}), "Sinusoid has no field ways"),
        (changed(family={"shots": "many"}), "shots"),
    ],
)
def test_a_configuration_with_unknown_or_impossible_fields_is_refused_by_what_is_wrong(content, complaint):
    with pytest.raises(ConfigError, match=complaint):
        from_json(content, HERE)

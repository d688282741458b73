"""Checkpoints: whole or absent, and never trusted."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from metarl.checkpoints import (
    BEST,
    FORMAT,
    CheckpointError,
    checkpoint_files,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from metarl.engine import TrainState
from metarl.types import Meta


def state_after(iteration: int, size: int = 3) -> TrainState:
    theta = {"weight_0": torch.arange(float(size)) + iteration, "log_std": torch.tensor([0.5])}
    return TrainState(Meta(theta, {}, {}), {}, iteration, 100 * iteration, 2, 1)


def test_a_loaded_checkpoint_equals_the_saved_state(tmp_path: Path):
    path = save_checkpoint(tmp_path, state_after(7), family="f", keep=3)
    loaded = load_checkpoint(path, state_after(0), family="f")
    assert loaded[2:] == (7, 700, 2, 1)
    assert_close(loaded.meta.theta, state_after(7).meta.theta, rtol=0, atol=0)


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path):
    for iteration in range(1, 6):
        save_checkpoint(tmp_path, state_after(iteration), family="f", keep=2, best=iteration == 2)
    assert [path.name for path in checkpoint_files(tmp_path)] == [
        "iteration_00000005.safetensors",
        "iteration_00000004.safetensors",
    ]
    assert load_checkpoint(tmp_path / BEST, state_after(0), family="f").iteration == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_truncated_newest_checkpoint_is_named_and_the_one_before_it_is_loaded(tmp_path: Path):
    save_checkpoint(tmp_path, state_after(1), family="f", keep=3)
    newest = save_checkpoint(tmp_path, state_after(2), family="f", keep=3)
    newest.write_bytes(newest.read_bytes()[:-5])
    loaded, complaints = load_newest(tmp_path, state_after(0), family="f")
    assert loaded.iteration == 1
    assert len(complaints) == 1
    assert "iteration_00000002" in complaints[0]
    assert "damaged or cut short" in complaints[0]


def test_an_empty_directory_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_newest(tmp_path, state_after(0), family="f")


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


def test_a_checkpoint_made_to_execute_code_is_refused_and_executes_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "iteration_00000001.safetensors"
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, state_after(0), family="f")
    assert not (tmp_path / "exploited").exists()


def test_a_file_larger_than_the_run_can_have_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "iteration_00000001.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no disk
    with pytest.raises(CheckpointError, match="at most"):
        load_checkpoint(path, state_after(0), family="f")


def good_metadata(**changes: str) -> dict[str, str]:
    counters = {"iteration": 1, "env_steps": 2, "failures": 0, "failures_in_row": 0}
    return {"format": FORMAT, "family": "f", "state": json.dumps(counters)} | changes


@pytest.mark.parametrize(
    ("tensors", "metadata", "complaint"),
    [
        (state_after(1).meta.theta, good_metadata(family="g"), "was trained on 'g'"),
        (state_after(1).meta.theta, good_metadata(format="metarl-checkpoint-9"), "this version reads"),
        (state_after(1).meta.theta, {}, "has format None"),
        (state_after(1).meta.theta, good_metadata(state="[" * 100_000), "not JSON"),
        (state_after(1).meta.theta, good_metadata(state='{"iteration": -1}'), "whole numbers"),
        (state_after(1, size=4).meta.theta, good_metadata(), r"got torch.float32 \(4,\)"),
        ({"weight_0": torch.zeros(3)}, good_metadata(), "expected"),
        (state_after(1).meta.theta | {"log_std": torch.tensor([torch.nan])}, good_metadata(), "not finite"),
        (state_after(1).meta.theta | {"log_std": torch.zeros(1).double()}, good_metadata(), "float64"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_what_is_wrong(tmp_path: Path, tensors, metadata, complaint):
    path = tmp_path / "iteration_00000001.safetensors"
    save_file({f"theta/{name}": value for name, value in tensors.items()}, path, metadata)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(path, state_after(0), family="f")


SAVE_FOREVER = """
import torch, sys
from pathlib import Path
from metarl.checkpoints import save_checkpoint
from metarl.engine import TrainState
from metarl.types import Meta
for number in range(1, 10_000_000):
    theta = {"weight_0": torch.full((300_000,), float(number)), "log_std": torch.zeros(1)}
    save_checkpoint(Path(sys.argv[1]), TrainState(Meta(theta, {}, {}), {}, number, 0, 0, 0), family="f", keep=2)
    print(number, flush=True)
"""


def test_kill_9_in_the_middle_of_saving_leaves_a_whole_checkpoint(tmp_path: Path):
    like = TrainState(Meta({"weight_0": torch.zeros(300_000), "log_std": torch.zeros(1)}, {}, {}), {}, 0, 0, 0, 0)
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 3:
        pass
    time.sleep(0.0137)
    process.send_signal(signal.SIGKILL)
    printed = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    loaded, complaints = load_newest(tmp_path, like, family="f")
    assert complaints == []
    assert loaded.iteration >= (int(printed[-1]) if printed else 3)
    assert bool((loaded.meta.theta["weight_0"] == loaded.iteration).all())


SAVE_ON_A_FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from metarl.checkpoints import CheckpointError, save_checkpoint
from metarl.engine import TrainState
from metarl.types import Meta
def state(number, size):
    return TrainState(Meta({"weight_0": torch.full((size,), float(number))}, {}, {}), {}, number, 0, 0, 0)
folder = Path(sys.argv[1])
save_checkpoint(folder, state(1, 10), family="f", keep=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as on a full disk, a write past this fails half-way
try:
    save_checkpoint(folder, state(2, 100_000), family="f", keep=1)
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_disk_that_fills_during_a_save_leaves_the_last_good_checkpoint(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", SAVE_ON_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "could not save" in done.stdout
    assert "free some space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_00000001.safetensors"]
    like = TrainState(Meta({"weight_0": torch.zeros(10)}, {}, {}), {}, 0, 0, 0, 0)
    assert load_newest(tmp_path, like, family="f")[0].iteration == 1

"""Saved policies: the same again bit for bit, whole or absent, and never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import MultiDiscrete
from safetensors.torch import load, save

import metarl
from metarl.deploy.files import PolicyFileError, check_choices, load_policy, save_policy


@pytest.mark.parametrize("kind", ["box", "discrete"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_loaded_policy_is_the_saved_one_bit_for_bit(kind, normalize, make_adapted, tmp_path: Path):
    policy = make_adapted(kind, normalize=normalize)
    loaded = metarl.load_policy(metarl.save_policy(policy, tmp_path / "deep" / "policy"), seed=0)
    assert (loaded.observation_space, loaded.action_space) == (policy.observation_space, policy.action_space)
    assert loaded.origin == policy.origin
    assert loaded.policy == policy.policy
    assert all(torch.equal(value, policy.phi[name]) for name, value in loaded.phi.items())
    policy.observation_space.seed(4)
    for number in range(20):
        observation = policy.observation_space.sample()
        for how in ({"deterministic": True}, {"rng": number}):
            one, other = (
                each.act(observation, **{**how, **({"rng": np.random.default_rng(number)} if "rng" in how else {})})
                for each in (policy, loaded)
            )
            np.testing.assert_array_equal(one, other)


def test_the_folder_holds_tensors_and_a_readable_description_and_nothing_else(make_adapted, tmp_path: Path):
    folder = save_policy(make_adapted(normalize=True), tmp_path / "policy")
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "policy.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    content = json.loads((folder / "policy.json").read_text())
    assert content["format"] == "metarl-policy-1"
    assert (content["kind"], content["observation_size"], content["action_size"]) == ("gaussian", 3, 2)
    assert content["origin"]["steps"] == 2
    assert len(content["origin"]["returns"]) == 3
    assert set(load((folder / "policy.safetensors").read_bytes())) == {
        *(f"parameters/{name}_{layer}" for name in ("weight", "bias") for layer in (0, 1)),
        *("parameters/log_std", "observations/mean", "observations/deviation"),
    }


def test_the_same_seed_samples_the_same_actions(make_adapted, tmp_path: Path):
    folder = save_policy(make_adapted(), tmp_path / "policy")
    first, second, third = (load_policy(folder, seed=seed) for seed in (1, 1, 2))
    actions = [[policy.act(np.zeros(3)).tolist() for _ in range(3)] for policy in (first, second, third)]
    assert actions[0] == actions[1] != actions[2]


def test_a_folder_that_holds_something_is_left_as_it_is(make_adapted, tmp_path: Path):
    policy = make_adapted()
    folder = save_policy(policy, tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(PolicyFileError, match="exists; an adapted policy needs a folder of its own"):
        save_policy(policy, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "empty").mkdir()
    load_policy(save_policy(policy, tmp_path / "empty"))


def test_a_disk_that_does_not_take_it_leaves_nothing(make_adapted, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PolicyFileError, match="could not save"):
        save_policy(make_adapted(), tmp_path / "file" / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_importing_metarl_does_not_load_torch_until_a_policy_is_asked_for():
    program = "import sys, metarl; print('torch' in sys.modules); metarl.load_policy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="load_polcy"):
        _ = metarl.load_polcy  # type: ignore[attr-defined]


@pytest.fixture
def folder(make_adapted, tmp_path: Path) -> Path:
    """A good policy with normalized observations."""
    return save_policy(make_adapted(normalize=True), tmp_path / "policy")


def refused(folder: Path, complaint: str) -> None:
    with pytest.raises(PolicyFileError, match=complaint):
        load_policy(folder)


def rewrite(folder: Path, change: Any, *, tensors: bytes | None = None) -> None:
    """Change the description, and the tensors with the digest that fits them."""
    content = json.loads((folder / "policy.json").read_text())
    if tensors is not None:
        (folder / "policy.safetensors").write_bytes(tensors)
        content["sha256"] = hashlib.sha256(tensors).hexdigest()
    change(content)
    (folder / "policy.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_file_that_is_missing_cut_short_or_too_large_is_refused(folder: Path, name: str):
    path = folder / name
    content = path.read_bytes()
    for length in (0, 1, 8, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        refused(folder, "damaged or cut short|does not describe a policy")
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no disk
    refused(folder, f"{name} may have at most")
    path.unlink()
    refused(folder, f"it has no {name}; 'metarl adapt RUN_DIR")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    refused(tmp_path / "nowhere", "nowhere is not an adapted policy: there is no such folder")


def test_one_flipped_bit_is_noticed(folder: Path):
    path = folder / "policy.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(folder, "damaged or cut short, or belongs to another policy")


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


def test_files_made_to_execute_code_are_refused_and_execute_nothing(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewrite(folder, lambda content: None, tensors=pickle.dumps(Exploit()))
    refused(folder, "not a file of tensors")
    (folder / "policy.json").write_bytes(pickle.dumps(Exploit()))
    refused(folder, "does not describe a policy")
    assert not (tmp_path / "exploited").exists()


def setting(*path: str, to: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (setting("format", to="metarl-policy-9"), "has format 'metarl-policy-9', this version reads"),
        (lambda content: content.pop("format"), "has format 'None'"),
        (lambda content: content.pop("config"), "missing required field `config`"),
        (setting("extra", to=1), "unknown field `extra`"),
        (setting("config", "squash", to=True), "no setting squash"),
        (setting("config", "hidden", to=[5]), r"weight_0 must be torch.float32 \(3, 5\), got torch.float32 \(3, 4\)"),
        (setting("config", "hidden", to=[10**15]), r"weight_0 must be .*1000000000000000\)"),
        (setting("config", "hidden", to=[1] * 100_000), "missing or besides"),
        (setting("config", "hidden", to=[]), "one or more widths"),
        (setting("config", "hidden", to=["4"]), "Expected `int`, got `str`"),
        (setting("config", "activation", to="__import__"), "Invalid enum value|activation must be one of"),
        (setting("kind", to="categorical"), "must be .'gaussian', 3, 2., as its spaces are, got .'categorical', 3, 2."),
        (setting("observation_size", to=4), "got .'gaussian', 4, 2."),
        (setting("normalized", to=False), "missing or besides: observations/deviation, observations/mean"),
        (setting("observation_space", "shape", to=[4]), "a bound must|must be .'gaussian', 4, 2."),
        (setting("observation_space", "shape", to=[10**6, 10**6]), "more numbers than its weights can take"),
        (setting("action_space", to={"space": "Tuple", "parts": []}), "actions must be"),
        (setting("observation_space", to={"space": "Dict", "parts": []}), "at least one number"),
        (setting("action_space", "space", to="os.system"), "Invalid value 'os.system'"),
        (setting("origin", "returns", to="many"), "Expected `array`, got `str`"),
    ],
)
def test_a_description_of_something_else_is_refused_by_what_is_wrong(folder: Path, change, complaint):
    rewrite(folder, change)
    refused(folder, complaint)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "null", '{"format": ' + "9" * 5000 + "}", "\ud800", '{"format": {"a": 1}}']
)
def test_json_that_is_no_description_is_refused(folder: Path, content: str):
    (folder / "policy.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(folder, "does not describe a policy|has format")


def test_spaces_nested_without_end_are_refused(folder: Path):
    description = (folder / "policy.json").read_text()
    deep = '{"space":"Tuple","parts":[' * 20_000 + "]}" * 20_000
    content = json.loads(description)
    content["observation_space"] = "HERE"
    (folder / "policy.json").write_text(json.dumps(content).replace('"HERE"', deep))
    refused(folder, "does not describe a policy")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("parameters/weight_0", torch.full((3, 4), torch.nan), "weight_0 holds numbers that are not finite"),
        ("parameters/weight_0", torch.zeros(4, 3), r"must be torch.float32 \(3, 4\), got torch.float32 \(4, 3\)"),
        ("parameters/weight_0", torch.zeros(3, 4).double(), "got torch.float64"),
        ("parameters/bias_0", torch.zeros(4, dtype=torch.complex64), "got torch.complex64"),
        ("parameters/weight_9", torch.zeros(1), "missing or besides: parameters/weight_9"),
        ("observations/deviation", torch.zeros(3).double(), "deviation must be positive"),
        ("observations/mean", torch.full((3,), torch.inf).double(), "mean holds numbers that are not finite"),
    ],
)
def test_tensors_of_something_else_are_refused_by_what_is_wrong(folder: Path, name, value, complaint):
    tensors = load((folder / "policy.safetensors").read_bytes()) | {name: value}
    rewrite(folder, lambda content: None, tensors=save(tensors))
    refused(folder, complaint)


def test_the_files_of_two_policies_are_not_taken_for_one(folder: Path, make_adapted, tmp_path: Path):
    other = save_policy(make_adapted(normalize=True, activation="relu"), tmp_path / "other")
    (folder / "policy.safetensors").write_bytes((other / "policy.safetensors").read_bytes())
    refused(folder, "belongs to another policy than the policy.json beside it")


def test_a_table_of_choices_larger_than_the_tensors_is_refused_before_it_is_laid_out():
    """Five thousand choices, one of five thousand options: 25 million places for a hundred kilobytes of weights."""
    sizes = (5000, *[1] * 5000)
    actions = MultiDiscrete(sizes)
    with pytest.raises(ValueError, match="5001 choices of up to 5000 options would take a table"):
        check_choices(actions, 25_000)
    check_choices(MultiDiscrete([3, 4]), 10)

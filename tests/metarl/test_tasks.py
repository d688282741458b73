"""The registry: names, options, and what is said when they are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest

from metarl.tasks import (
    FAMILIES,
    DuplicateTaskFamily,
    InvalidFamilyOption,
    SupportsVector,
    TaskFamily,
    UnknownTaskFamily,
    closest,
    family_factory,
    make_family,
    register,
)


@dataclass(frozen=True, kw_only=True)
class Pendulums:
    """A user's family of single environments."""

    gravity: float = 9.8

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.uniform(0.0, self.gravity, size=count)

    def make_env(self, task: float) -> gymnasium.Env:
        return gymnasium.make("Pendulum-v1", g=task)


@pytest.fixture
def pendulums():
    """Registered for one test."""
    register("test-pendulums")(Pendulums)
    yield
    del FAMILIES["test-pendulums"]


@pytest.mark.usefixtures("pendulums")
def test_a_registered_family_is_built_with_its_options():
    family = make_family("test-pendulums", gravity=1.5)
    assert family == Pendulums(gravity=1.5)
    assert isinstance(family, TaskFamily)
    assert not isinstance(family, SupportsVector)


@pytest.mark.usefixtures("pendulums")
def test_an_unknown_family_names_the_nearest_and_all_known():
    with pytest.raises(UnknownTaskFamily) as caught:
        make_family("test-pendulum")
    message = str(caught.value)
    assert message.startswith("no task family 'test-pendulum'; did you mean 'test-pendulums'? (known: ")
    assert "test-pendulums)" in message or "test-pendulums," in message


@pytest.mark.usefixtures("pendulums")
def test_a_name_near_nothing_gets_no_guess():
    with pytest.raises(UnknownTaskFamily, match=r"no task family 'zzz' \(known: "):
        family_factory("zzz")


@pytest.mark.usefixtures("pendulums")
def test_a_name_cannot_be_registered_twice():
    with pytest.raises(DuplicateTaskFamily, match=r"'test-pendulums' is already registered by .*Pendulums.*Other"):
        register("test-pendulums")(dataclass(type("Other", (), {})))
    assert FAMILIES["test-pendulums"] is Pendulums


@pytest.mark.usefixtures("pendulums")
def test_registering_the_same_factory_again_is_harmless():
    assert register("test-pendulums")(Pendulums) is Pendulums


@pytest.mark.usefixtures("pendulums")
def test_an_unknown_option_is_named_with_the_nearest():
    message = r"test-pendulums has no option 'gravty'; did you mean 'gravity'\? \(options: gravity\)"
    with pytest.raises(InvalidFamilyOption, match=message):
        make_family("test-pendulums", gravty=1.0)


def test_an_option_without_a_default_that_is_not_given_is_named(monkeypatch):
    monkeypatch.setitem(FAMILIES, "test-needy", lambda gravity: Pendulums(gravity=gravity))
    with pytest.raises(
        InvalidFamilyOption, match=r"test-needy: missing a required argument: 'gravity'; give every option"
    ):
        make_family("test-needy")
    assert make_family("test-needy", gravity=2.0) == Pendulums(gravity=2.0)


def test_an_unknown_option_of_a_function_is_named_too():
    @register("test-function")
    def build(*, gravity: float = 9.8) -> Pendulums:
        return Pendulums(gravity=gravity)

    try:
        assert make_family("test-function", gravity=2.0) == Pendulums(gravity=2.0)
        with pytest.raises(InvalidFamilyOption, match="test-function has no option 'gravty'; did you mean 'gravity'"):
            make_family("test-function", gravty=1.0)
    finally:
        del FAMILIES["test-function"]


def test_the_closest_name_is_only_offered_when_it_is_close():
    assert closest("half-cheetah", ["half-cheetah-vel", "ant-vel"]) == "; did you mean 'half-cheetah-vel'?"
    assert closest("zzz", ["half-cheetah-vel"]) == ""

"""The chain of signal and noise: its episodes, what its meta-gradient says, and the study's files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.experiments import study_chain
from metarl.experiments.study_chain import STATES, Setting, draw_episodes, final_discounts, learn, markdown, problem
from metarl.types import Meta
from metarl.variants.online import Stretch, online_gradient


def test_leaving_even_states_pays_noise_and_odd_ones_the_signal():
    episodes = draw_episodes(np.random.default_rng(0), "ring", 400)
    states = torch.cat([episode.states[:, :-1] for episode in episodes])
    rewards = torch.cat([episode.rewards for episode in episodes])
    assert_close(rewards[states % 2 == 1], torch.full((2000,), 0.1))
    noise = rewards[states % 2 == 0]
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1.0) < 0.1


def test_an_episode_visits_every_state_once_from_anywhere_in_the_ring_and_from_the_first_of_the_open_chain():
    for layout, starts in (("ring", set(range(STATES))), ("open", {0})):
        episodes = draw_episodes(np.random.default_rng(0), layout, 200)
        assert {int(episode.states[0, 0]) for episode in episodes} == starts
        for episode in episodes:
            assert sorted(episode.states[0, :-1].tolist()) == list(range(STATES))
            assert episode.alive[0, -1] == 0.0


def test_the_meta_gradient_of_the_last_two_discounts_by_hand():
    """Two steps through states 8 and 9 that pay 3 and 0.1, from values of 0, with discounts of 0.5 and step size 0.5.

    The value of state 8 becomes 0.5 (3 + 0.5 * 0.1) = 1.525; the next episode pays 1 + 0.1 = 1.1 from there on, so half
    the squared error has slope 0.425. Its derivative in the logit of state 8: 0.425 * 0.5 * 0.1 * 0.25.
    """
    online, _ = problem(Setting())
    states, ones, alive = tensor([[8, 9, 0]]), torch.ones(1, 2), tensor([[1.0, 1.0, 0.0]])
    sample, following = (Stretch(states, tensor([[pay, 0.1]]), ones, alive) for pay in (3.0, 1.0))
    meta = Meta({"values": torch.zeros(STATES)}, {"return/discount": torch.zeros(STATES)}, {})
    found = online_gradient(online, meta, sample, following, decay=0.0, trace={})
    assert_close(found.theta["values"], tensor([0.0] * 8 + [1.525, 0.05]))
    assert_close(found.eta["return/discount"], tensor([0.0] * 8 + [0.425 * 0.5 * 0.1 * 0.25, 0.0]))


def test_discounts_of_signal_states_fall_below_those_of_noise_states():
    last = np.array(learn(Setting(updates=400, learning_rate=0.02), "ring", 1)["discounts"][-1])
    assert last[::2].mean() > last[1::2].mean() + 0.1


def test_the_study_writes_runs_and_a_figure_and_makes_no_run_twice(tmp_path, monkeypatch, capsys):
    command = ["study_chain", "--seeds", "1", "--setting.updates", "4", "--setting.curve-every", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--output", str(tmp_path)])
    study_chain.main()
    first = json.loads((tmp_path / "chain.json").read_text())
    assert [(run["layout"], run["seed"], len(run["discounts"])) for run in first["runs"]] == [
        ("ring", 1, 3),
        ("open", 1, 3),
    ]
    assert first["runs"][0]["machine"]["processors"] >= 1
    assert (tmp_path / "chain.png").stat().st_size > 10_000
    capsys.readouterr()
    study_chain.main()
    assert json.loads((tmp_path / "chain.json").read_text()) == first
    assert capsys.readouterr().out.startswith("| layout |")
    monkeypatch.setattr("sys.argv", [*command, "--setting.discount", "0.9", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"holds runs of .*'discount': 0.5.* not of .*'discount': 0.9"):
        study_chain.main()


def test_the_discount_of_the_open_chains_last_state_is_not_judged():
    """It has nothing to multiply."""
    discounts = [0.9, 0.1] * 4 + [0.95, 0.5]
    content = {"runs": [{"layout": layout, "discounts": [discounts]} for layout in ("ring", "open")]}
    assert final_discounts(content, "open")[1].max() == 0.1
    assert final_discounts(content, "ring")[1].max() == 0.5
    ring, opened = markdown(content).splitlines()[2:]
    assert ring.endswith("| 0.91, 0.90 | 0.18, 0.50 | 0 of 1 |")
    assert opened.endswith("| 0.91, 0.90 | 0.10, 0.10 | 1 of 1 |")

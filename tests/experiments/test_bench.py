"""The benchmarks measure what they say: the same actions, the same steps, the loop that training runs."""

from __future__ import annotations

import io
import json
import statistics

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from rich.console import Console

import metarl.envs  # noqa: F401
from metarl.envs import AntVel, HalfCheetahVel, Navigation2D
from metarl.experiments.bench import (
    GradientBench,
    IterationBench,
    RolloutBench,
    run_gradient_bench,
    run_iteration_bench,
    run_rollout_bench,
)
from metarl.experiments.bench_gradient import mean_cosine
from metarl.experiments.measure import own_policies, peak_memory, resident_memory, summary
from metarl.experiments.peers import PeerSetting, measure_peers
from metarl.experiments.replay import RecordedFamily, replay, replayed_part
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.rollout.stepping import make_vector_env
from metarl.tasks import UnknownTaskFamily


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def record(family, tasks, episodes, actions, seed):
    """A recorded environment after ``actions [T, N, A]``, and its last flags."""
    recorded = RecordedFamily(family)
    env = recorded.make_vec(tasks, episodes)
    env.reset(seed=seed)
    over = np.zeros(env.num_envs, dtype=bool)
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        over = terminated | truncated
    return env, recorded.recordings[0], over


def test_physics_alone_ends_in_the_state_of_the_recorded_run():
    """Controls beyond the range are clipped in both; the next observation tells the state."""
    family = HalfCheetahVel(threads=1)
    actions = np.random.default_rng(0).normal(0.0, 2.0, (10, 4, 6)).astype(np.float32)
    env, recording, _ = record(family, [[0.5], [1.5]], 2, actions, seed=[1, 2, 3, 4])
    again = make_vector_env(family, recording.tasks, recording.episodes)
    ((seed, steps),) = recording.batches
    again.reset(seed=seed)
    for step in steps:
        again.advance(np.clip(step.actions, -1.0, 1.0).astype(np.float64), step.rows)
    assert_array_equal(env.step(actions[0])[0], again.step(actions[0])[0])
    assert 0.0 < replay(family, recording) < 5.0


def test_physics_alone_leaves_out_the_rows_whose_episode_is_over():
    """Ants that fall stay where they fell: the others are simulated on, and only their steps are counted."""
    family = AntVel(threads=1)
    actions = np.random.default_rng(1).normal(0.0, 2.0, (40, 8, 8)).astype(np.float32)
    env, recording, over = record(family, [[1.0]], 8, actions, seed=7)
    assert 0 < over.sum() < 8
    assert recording.env_steps < 40 * 8
    again = make_vector_env(family, recording.tasks, recording.episodes)
    again.reset(seed=7)
    for step in recording.batches[0][1]:
        again.advance(np.clip(step.actions, -1.0, 1.0).astype(np.float64), step.rows)
    still = np.zeros((8, 8), dtype=np.float32)
    assert_array_equal(env.step(still)[0][~over], again.step(still)[0][~over])


def test_steps_after_the_end_of_an_episode_are_not_counted():
    """One goal is reached by the first of three moves, the other by none: 1 + 3 steps."""
    goals = np.array([[0.05, 0.0], [0.5, 0.5]])
    moves = np.tile(np.array([0.05, 0.0], dtype=np.float32), (3, 2, 1))
    _, recording, over = record(Navigation2D(), goals, 1, moves, seed=0)
    assert over.tolist() == [True, False]
    assert recording.env_steps == 4


def test_a_family_without_physics_is_compared_with_its_own_step():
    assert replayed_part(Navigation2D()) == "environment's own step alone"
    assert replayed_part(HalfCheetahVel(threads=1)) == "physics alone"


def test_every_task_has_a_policy_of_its_own():
    policy = GaussianPolicy(3, 2, PolicyConfig(hidden=(4,)))
    params = own_policies(policy, 3, seed=0)
    weights = next(value for value in params.values() if value.ndim == 3)
    assert weights.shape[0] == 3
    assert not np.allclose(weights[0], weights[1])


def test_summary_is_median_and_range():
    assert summary([4.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 4.0}


def test_peak_memory_is_at_least_what_is_held_and_counted_in_mib():
    held = resident_memory()
    assert 20.0 < held <= peak_memory() + 1.0 < 100_000.0


def test_rollout_bench_prints_and_writes_the_figures_of_one_run(tmp_path):
    shown = console()
    path = tmp_path / "new" / "rollout.json"
    config = RolloutBench(
        family_name="half-cheetah-vel",
        tasks=2,
        episodes=3,
        horizon=4,
        hidden=(8,),
        repeats=3,
        threads=1,
        json_file=path,
    )
    report = run_rollout_bench(config, shown)
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    assert report["figures"]["env_steps"] == 2 * 3 * 4
    ratios = [each["physics_s"] / each["seconds"] for each in report["repetitions"]]
    assert report["figures"]["ratio"]["median"] == pytest.approx(statistics.median(ratios))
    assert len(ratios) == 3
    assert report["config"]["threads"] == 1
    assert report["machine"]["processors"] >= 1
    text = shown.file.getvalue()
    assert "2 tasks x 3 episodes x 4 steps" in text
    assert "physics alone" in text
    assert "peak memory" in text


def test_peers_step_their_environments_and_say_what_is_missing():
    setting = PeerSetting(hidden=(8,), envs=2, steps=3, repeats=2)
    sync, parallel, pool = measure_peers(Navigation2D(), "navigation-2d", setting)
    assert [len(peer.env_steps_per_s) for peer in (sync, parallel, pool)] == [2, 2, 0]
    assert min(sync.env_steps_per_s + parallel.env_steps_per_s) > 0.0
    assert pool.note == "has no such environment"


def test_peers_have_gymnasiums_cheetah_and_leave_no_log_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sync, _, _ = measure_peers(
        HalfCheetahVel(frame_skip=5), "half-cheetah-vel", PeerSetting(hidden=(8,), envs=1, steps=2, repeats=1)
    )
    assert sync.note == "1 x HalfCheetah-v5"
    assert list(tmp_path.iterdir()) == []


def test_iteration_bench_measures_the_training_loop(tmp_path):
    shown = console()
    path = tmp_path / "iteration.json"
    config = IterationBench(
        family_name="half-cheetah-vel",
        tasks=2,
        episodes=3,
        horizon=8,
        hidden=(4,),
        cg_iterations=2,
        fisher_stride=2,
        repeats=2,
        iterations=4,
        json_file=path,
    )
    report = run_iteration_bench(config, shown)
    figures = report["figures"]
    assert figures["env_steps"] == 2 * (2 * 3 * 8)  # support and query
    for repetition in report["repetitions"]:
        phases = sum(repetition[f"time/{phase}_share"] for phase in ("sampling", "inner", "outer"))
        assert 0.5 < phases < 1.0
        assert repetition["seconds"] >= repetition["time/iteration_s"] > repetition["physics_s"]
    ratios = [each["seconds"] / each["physics_s"] for each in report["repetitions"]]
    assert figures["ratio"]["median"] == pytest.approx(statistics.median(ratios))
    assert -1.0 <= figures["fisher_cosine"] <= 1.0
    assert report["train"]["outer"]["fisher_stride"] == 2
    assert report["train"]["inner"]["step_size"] == 0.05, "the preset's own"
    resident = report["memory"]["resident_mib"]
    assert len(resident) == 4
    assert report["memory"]["growth_mib"] == pytest.approx(max(resident[2:]) - max(resident[:2]))
    assert json.loads(path.read_text())["figures"]["fisher_cosine"] == figures["fisher_cosine"]
    assert "cosine" in shown.file.getvalue()


@pytest.mark.parametrize("name", ["tasks", "episodes", "horizon", "repeats"])
@pytest.mark.parametrize("kind", [RolloutBench, IterationBench])
def test_impossible_numbers_are_refused(kind, name):
    with pytest.raises(ValueError, match=f"bench {name} must be at least 1, got 0"):
        kind(family_name="navigation-2d", **{name: 0})


def test_an_unknown_family_is_named_with_the_nearest_one():
    with pytest.raises(UnknownTaskFamily, match="did you mean 'half-cheetah-vel'"):
        run_rollout_bench(RolloutBench(family_name="half-cheetah-velo"), console())


def test_mean_cosine_by_hand():
    """Two at right angles and their bisector: (0 + 2 sqrt(1/2)) / 3."""
    rows = torch.tensor([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    assert mean_cosine(rows) == pytest.approx(2.0 * 0.5**0.5 / 3.0)
    assert np.isnan(mean_cosine(rows[:1]))


def test_gradients_agree_better_with_more_episodes(tmp_path):
    path = tmp_path / "gradient.json"
    few, many = (
        run_gradient_bench(
            GradientBench(
                family_name="navigation-2d",
                batches=4,
                episodes=episodes,
                discounts=(0.9,),
                lambdas=(1.0,),
                json_file=path,
            ),
            console(),
        )["figures"][0]["mean_cosine"]
        for episodes in (1, 40)
    )
    assert few < many <= 1.0
    assert json.loads(path.read_text())["figures"][0]["mean_cosine"] == many


def test_the_generic_path_is_measured_beside_a_bare_loop_and_workers():
    report = run_rollout_bench(
        RolloutBench(family_name="cartpole", tasks=2, episodes=2, horizon=10, hidden=(4,), repeats=1, workers=(1,)),
        console(),
    )
    figures = report["figures"]
    assert figures["bare_loop_env_steps_per_s"]["median"] > 0.0
    assert figures["workers_1_env_steps_per_s"]["median"] > 0.0
    ratio = figures["generic_path_env_steps_per_s"]["median"] / figures["bare_loop_env_steps_per_s"]["median"]
    assert figures["generic_path_over_bare_loop"]["median"] == pytest.approx(ratio)

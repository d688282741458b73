"""Named random numbers: different uses differ, the same use repeats, and no use depends on another."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator, seed_sequence, torch_generator

POLICY = GaussianPolicy(3, 2, PolicyConfig())
PATHS = st.lists(st.integers(0, 1000), max_size=4).map(tuple)


def words(seed: int, stream: Stream, *path: int) -> tuple[int, ...]:
    return tuple(seed_sequence(seed, stream, *path).generate_state(4).tolist())


def test_streams_of_one_seed_are_disjoint():
    assert len({words(1, stream) for stream in Stream}) == len(Stream)
    assert len({words(1, stream, 5) for stream in Stream}) == len(Stream)


@settings(max_examples=50, deadline=None)
@given(first=PATHS, second=PATHS)
def test_numbers_are_the_same_exactly_where_the_path_is(first, second):
    same = words(3, Stream.TRAIN_ROLLOUTS, *first) == words(3, Stream.TRAIN_ROLLOUTS, *second)
    assert same == (first == second)


def test_a_path_is_not_its_beginning_its_continuation_by_zero_or_its_reverse():
    paths = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (1, 2), (2, 1)]
    for first, second in itertools.combinations(paths, 2):
        assert words(3, Stream.TRAIN_TASKS, *first) != words(3, Stream.TRAIN_TASKS, *second)


def test_other_seeds_give_other_numbers():
    assert len({words(seed, Stream.INITIALIZATION) for seed in range(100)}) == 100


def test_generators_repeat_and_do_not_touch_the_global_ones():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = (
        generator(1, Stream.TRAIN_TASKS, 2).random(3),
        torch.rand(3, generator=torch_generator(1, Stream.TRAIN_TASKS)),
    )
    again = (
        generator(1, Stream.TRAIN_TASKS, 2).random(3),
        torch.rand(3, generator=torch_generator(1, Stream.TRAIN_TASKS)),
    )
    np.testing.assert_array_equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tasks_numbers_do_not_depend_on_how_many_tasks_there_are():
    seeds = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (4, 0))
    assert seeds.resets(5, 3)[:6] == seeds.resets(2, 3)
    np.testing.assert_array_equal(seeds.noise(POLICY, 5, 3, 4)[:2], seeds.noise(POLICY, 2, 3, 4))


def test_every_episode_has_its_own_reset_and_noise():
    seeds = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (4, 0))
    assert len(set(seeds.resets(5, 20))) == 100
    assert len(np.unique(seeds.noise(POLICY, 5, 20, 10))) > 1990  # float32 numbers may meet by chance


def test_every_step_of_every_iteration_has_its_own_numbers():
    batches = [EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (iteration, step)) for iteration in (0, 1) for step in (0, 1)]
    assert len({tuple(batch.resets(2, 2)) for batch in batches}) == 4
    assert len({batch.noise(POLICY, 1, 1, 1).tobytes() for batch in batches}) == 4


def test_noise_is_standard_normal():
    noise = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, ()).noise(POLICY, 4, 50, 100)
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1.0) < 0.02


def test_a_worker_that_has_only_the_later_tasks_draws_their_numbers():
    seeds = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (3, 0))
    later = seeds._replace(first_task=2)
    np.testing.assert_array_equal(seeds.noise(POLICY, 5, 3, 4)[2:], later.noise(POLICY, 3, 3, 4))
    assert seeds.resets(5, 3)[6:] == later.resets(3, 3)

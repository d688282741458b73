"""The memory: what it takes in, against torch's own unit, and when it stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.testing import assert_allclose, assert_array_equal

from metarl.policies.categorical import CategoricalPolicy
from metarl.policies.gaussian import GaussianPolicy
from metarl.policies.recurrent import RecurrentConfig, RecurrentPolicy, make_recurrent_policy
from metarl.trees import expand
from metarl.types import Params

SEEN = Box(-1.0, 1.0, (2,), np.float32)


def fresh(policy: RecurrentPolicy, seed: int = 0) -> Params:
    return policy.init(torch.Generator().manual_seed(seed))


def choices(*sizes: int) -> RecurrentPolicy:
    return make_recurrent_policy(SEEN, MultiDiscrete(sizes), RecurrentConfig(hidden=3, last_layer_scale=1.0))


def test_spaces_choose_what_sees_the_memory():
    config = RecurrentConfig(hidden=7, initial_log_std=-0.5)
    real = make_recurrent_policy(SEEN, Box(-1.0, 1.0, (3,), np.float32), config)
    assert (real.observation_size, real.head) == (2, GaussianPolicy(7, 3, config.head()))
    assert real.input_size == 2 + 3 + 2
    one = make_recurrent_policy(Discrete(4), Discrete(5), config)
    assert (one.observation_size, one.head) == (4, CategoricalPolicy(7, (5,), config.head()))
    assert one.input_size == 4 + 5 + 2
    assert fresh(real)["log_std"].tolist() == [-0.5] * 3
    assert "log_std" not in fresh(one)


def test_a_choice_is_told_as_a_one_at_the_option_and_a_number_as_it_is():
    code = choices(3, 2).code
    expected = [[0.0, 0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0]]
    actions = np.array([[2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert code(torch.from_numpy(actions)).tolist() == expected
    assert_array_equal(code.of_arrays(actions), expected)
    real = make_recurrent_policy(SEEN, Box(-1.0, 1.0, (2,), np.float32), RecurrentConfig())
    assert_array_equal(real.code.of_arrays(actions), actions)


def test_a_step_sees_the_action_and_the_reward_before_it_and_whether_an_episode_begins():
    """Two steps by hand through ``torch.nn.GRUCell``: inputs are o, one-hot action, reward, flag."""
    policy = choices(3)
    theta = fresh(policy)
    observations = torch.tensor([[[0.1, -0.2], [0.3, 0.4]]])
    distribution, values = policy.unroll(
        theta, observations, torch.tensor([[[2.0], [0.0]]]), torch.tensor([[0.7, 0.9]]), torch.tensor([[1.0, 0.0]])
    )
    cell = torch.nn.GRUCell(7, 3)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in theta.items() if name.endswith("_l0")})
    first = cell(torch.tensor([[0.1, -0.2, 0.0, 0.0, 0.0, 0.0, 1.0]]))
    second = cell(torch.tensor([[0.3, 0.4, 0.0, 0.0, 1.0, 0.7, 0.0]]), first)
    memory = torch.cat([first, second])
    torch.testing.assert_close(distribution["logits"][0], memory @ theta["weight_0"] + theta["bias_0"])
    torch.testing.assert_close(values[0], (memory @ theta["value_weight"] + theta["value_bias"])[:, 0])


def test_the_arrays_step_is_torchs():
    """Forty trials, three steps, of which some did not happen; then an episode begins."""
    policy = choices(3)
    theta = fresh(policy, 1)
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((20, 2, 4, 2)).astype(np.float32)
    noise = rng.random((20, 2, 4, 1), dtype=np.float32)
    rewards = rng.standard_normal((4, 40))
    happened = np.ones((4, 40), dtype=bool)
    happened[1:3, ::3] = False
    sampler = policy.sampler(expand(theta, 1))
    logits, actions = [], []
    for step in range(4):
        if step in (0, 3):
            sampler.begin_episode(40)
        action, distribution = sampler.act(seen[:, :, step], noise[:, :, step])
        sampler.remember(rewards[step], happened[step])
        logits.append(distribution["logits"].reshape(40, 3))
        actions.append(action.reshape(40, 1))
    for trial in range(40):
        steps = np.flatnonzero(happened[:, trial])
        expected, _ = policy.unroll(
            theta,
            torch.from_numpy(seen.reshape(40, 4, 2)[trial, steps])[None],
            torch.from_numpy(np.stack(actions)[steps, trial])[None],
            torch.from_numpy(rewards[steps, trial].astype(np.float32))[None],
            torch.tensor([[float(step in (0, 3)) for step in steps]]),
        )
        assert_allclose(np.stack(logits)[steps, trial], expected["logits"][0], rtol=1e-5, atol=1e-6)


def test_a_trials_numbers_do_not_depend_on_how_many_are_sampled_beside_it():
    """Bit for bit, wherever it stands."""
    policy = choices(4)
    theta = expand(fresh(policy), 1)
    rng = np.random.default_rng(0)
    seen, noise = rng.standard_normal((70, 1, 2)).astype(np.float32), rng.random((70, 1, 1), dtype=np.float32)

    def logits(rows: slice) -> np.ndarray:
        sampler = policy.sampler(theta)
        count = len(seen[rows])
        sampler.begin_episode(count)
        for _ in range(3):
            _, distribution = sampler.act(seen[rows], noise[rows])
            sampler.remember(np.ones(count), np.ones(count, dtype=bool))
        return distribution["logits"]

    everyone = logits(slice(None))
    for rows in (slice(0, 1), slice(5, 9), slice(31, 66)):
        assert_array_equal(logits(rows), everyone[rows])


def test_a_memory_of_numbers_that_are_not_finite_touches_no_other_trial():
    policy = choices(4)
    found = []
    for number in (0.0, np.nan):
        sampler = policy.sampler(expand(fresh(policy), 1))
        sampler.begin_episode(2)
        seen = np.zeros((2, 1, 2), np.float32)
        seen[0] = number
        for _ in range(2):
            _, distribution = sampler.act(seen, np.full((2, 1, 1), 0.5, np.float32))
            sampler.remember(np.array([number, 1.0]), np.ones(2, dtype=bool))
        found.append(distribution["logits"])
    assert np.isnan(found[1][0]).all()
    assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "policy hidden must be at least 1, got 0"),
        ({"initial_log_std": -4.0}, "initial_log_std must be at least"),
        ({"bounds": "fold"}, "bounds must be one of"),
    ],
)
def test_settings_without_meaning_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RecurrentConfig(**change)

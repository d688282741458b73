"""Which policy fits which spaces."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from metarl.policies.base import PolicyConfig
from metarl.policies.categorical import CategoricalPolicy
from metarl.policies.gaussian import GaussianPolicy
from metarl.policies.make import make_policy
from metarl.spaces import UnsupportedSpace


def test_real_actions_get_a_gaussian_and_discrete_ones_a_categorical_policy():
    config, seen = PolicyConfig(), spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2, 2))})
    assert make_policy(seen, spaces.Box(-1, 1, (2, 3)), config) == GaussianPolicy(7, 6, config)
    assert make_policy(seen, spaces.Discrete(4), config) == CategoricalPolicy(7, (4,), config)
    assert make_policy(seen, spaces.MultiBinary(3), config) == CategoricalPolicy(7, (2, 2, 2), config)


def test_spaces_without_a_policy_are_refused_by_name():
    with pytest.raises(UnsupportedSpace, match="got Text"):
        make_policy(spaces.Text(3), spaces.Discrete(2), PolicyConfig())
    with pytest.raises(UnsupportedSpace, match=r"actions must be .* got Box"):
        make_policy(spaces.Discrete(2), spaces.Box(0, 3, (2,), np.int64), PolicyConfig())

"""The policy that fits an environment's spaces."""

from __future__ import annotations

from metarl.policies.base import Policy, PolicyConfig
from metarl.policies.categorical import CategoricalPolicy
from metarl.policies.gaussian import GaussianPolicy
from metarl.spaces import AnySpace, Coordinates, action_kind, observation_size


def make_policy(observations: AnySpace, actions: AnySpace, config: PolicyConfig) -> Policy:
    """Gaussian for real actions, categorical for discrete ones.

    Raises:
        UnsupportedSpace: naming the space, if no policy fits.
    """
    kind = action_kind(actions)
    if isinstance(kind, Coordinates):
        return GaussianPolicy(observation_size(observations), kind.number, config)
    return CategoricalPolicy(observation_size(observations), kind.sizes, config)

"""How much the parameters of a policy matter to what it does: the diagonal of its Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch

from metarl.losses import sample_weights
from metarl.policies.base import Policy
from metarl.types import Params, Rollouts

PolicyMeasure = Callable[[Policy, Params, Rollouts], Params]
"""From a policy, each task's parameters ``[M, ...]`` and its rollouts to importances of the same shape, 0 or more."""


def policy_fisher(policy: Policy, phi: Params, batch: Rollouts) -> Params:
    """The diagonal of the Fisher matrix of the actions, ``F_i = E_s E_a|s (d log pi(a|s) / d phi_i)^2``: mean over the
    time steps that count, and the exact expectation over actions.

    Of independent normal actions this is ``E_s sum_k (d mu_k / d phi_i)^2 / sigma_k^2``, and 2 for each log deviation;
    of discrete ones the sum over options of their probability times their squared score. It is the diagonal of the
    Gauss-Newton matrix of the KL, which a trust region multiplies with (Schulman et al. 2015, arXiv:1502.05477, app. C;
    as an importance: Kirkpatrick et al. 2017, arXiv:1612.00796).

    Args:
        policy: that acts.
        phi: parameters of each task, leaves ``[M, ...]``.
        batch: observations and mask are read.

    Returns:
        Leaves ``[M, ...]``, 0 or more; 0 for a task without a step that counts.
    """
    observations = batch.observations.flatten(1, 2)
    with torch.no_grad():
        roots = policy.fisher_roots(policy.distribution(phi, observations))
        return policy.squared_pulls(phi, observations, roots, sample_weights(batch))


def empirical_policy_fisher(policy: Policy, phi: Params, batch: Rollouts) -> Params:
    """``policy_fisher`` with the squared score of the actions that were taken in place of the expectation over actions.

    It is an estimate of the Fisher matrix only where the actions were drawn under ``phi``. Arguments as of
    ``policy_fisher``; the batch's actions are read too.
    """
    observations = batch.observations.flatten(1, 2)
    with torch.no_grad():
        score = policy.score(policy.distribution(phi, observations), batch.actions.flatten(1, 2))
        return policy.squared_pulls(phi, observations, [score], sample_weights(batch))


POLICY_MEASURES: dict[str, PolicyMeasure] = {
    "fisher": policy_fisher,
    "empirical-fisher": empirical_policy_fisher,
}
"""Importances of a policy's parameters by their name on the command line."""

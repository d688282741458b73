"""A policy that was adapted to one task: from a plain Gymnasium observation to an action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.deploy.spaces import Spaces, observation_row
from metarl.policies.base import Policy
from metarl.rollout.normalizer import Scaler
from metarl.spaces import action_decoder
from metarl.types import Params


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an adapted policy came from."""

    family: str
    """Task family that its initialization was meta-trained on."""
    run: str
    """Name of that run's folder."""
    iteration: int
    """Meta-iterations that the run had behind it."""
    task: str
    """The task that it was adapted to, in words."""
    steps: int
    """Gradient steps (K)."""
    step_size: float | None
    """What ``AdaptConfig`` told; None for the run's own."""
    episodes: int
    """Episodes of each step, and of each of the returns."""
    horizon: int
    """Control steps in an episode, at most."""
    seed: int
    """Of the episodes."""
    returns: tuple[float | None, ...]
    """Mean return after 0..K steps, ``[K + 1]``, under sampled actions; None where every episode diverged."""
    success: tuple[float | None, ...]
    """Share of episodes that succeeded after 0..K steps, ``[K + 1]``; None where the environment does not say."""


class AdaptedPolicy:
    """A policy for one task, in NumPy.

    Args:
        policy: the network and what becomes of its outputs.
        phi: adapted parameters, leaves ``[1, ...]``.
        scaler: of the observations; None where they are not scaled.
        spaces: of the environments that it can act in.
        origin: where it came from.
        seed: of the actions that are sampled without a generator of the caller's; None draws one.
    """

    def __init__(
        self,
        policy: Policy,
        phi: Params,
        scaler: Scaler | None,
        spaces: Spaces,
        origin: Origin,
        seed: int | None = None,
    ) -> None:
        self.policy, self.phi, self.scaler, self.origin = policy, phi, scaler, origin
        self.observation_space, self.action_space = spaces
        self._sampler = policy.sampler(phi)
        self._decode = action_decoder(spaces.actions, policy.config.bounds)
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Any, *, deterministic: bool = False, rng: np.random.Generator | None = None) -> Any:
        """The action for one observation.

        Args:
            observation: as ``reset`` and ``step`` of a Gymnasium environment return it.
            deterministic: take the likeliest action, the mean of real ones, instead of a sample. The returns that
                adaptation reports are of samples, which is what policies are trained for.
            rng: of the sample; the policy's own if left out.

        Returns:
            An action of ``action_space``, as its ``step`` takes it.

        Raises:
            ValueError: if the observation is not of ``observation_space``, or not finite.
        """
        row = observation_row(self.observation_space, observation)
        with np.errstate(over="ignore"):
            seen = np.asarray(row if self.scaler is None else self.scaler(row), dtype=np.float32)[None, None]
        if not np.isfinite(seen).all():
            raise ValueError(f"every number in an observation must be finite (float32), got {str(observation)[:200]}")
        if deterministic:
            action = self._sampler.mode(seen)
        else:
            noise = np.empty((1, 1, self.policy.action_size), dtype=np.float32)
            self.policy.draw_noise(self._rng if rng is None else rng, noise)
            action, _ = self._sampler.act(seen, noise)
        return self._decode(action[0])[0]

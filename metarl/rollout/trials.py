"""Trials: episodes of one task in a row, seen as one sequence of the steps that happened."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.rollout.sample import Episodes


class Trials(NamedTuple):
    """N trials, each with its steps at the front and padded to the length L of the longest one."""

    observations: Tensor
    """``[N, L, O]``."""
    actions: Tensor
    """``[N, L, A]`` as the policy drew them."""
    rewards: Tensor
    """``[N, L]``."""
    begins: Tensor
    """1 at the first step of each episode, else 0, ``[N, L]``."""
    mask: Tensor
    """1 for steps that happened, 0 for padding and throughout trials with an episode that diverged, ``[N, L]``."""
    log_probs: Tensor
    """Of the actions, under the policy that drew them, ``[N, L]``."""


def to_trials(episodes: Episodes, in_a_row: int, device: torch.device) -> Trials:
    """The steps of each trial in the order in which a memory saw them, without those after an episode was over.

    Args:
        episodes: of M tasks, those of a trial next to each other, ``[M, E, T]``.
        in_a_row: episodes of a trial.
        device: where to.
    """
    horizon = episodes.rewards.shape[-1]
    happened = (episodes.mask * healthy(episodes, in_a_row).repeat(in_a_row, -1)[..., None]).reshape(
        -1, in_a_row * horizon
    )
    order = np.argsort(happened == 0.0, axis=1, kind="stable")
    order = order[:, : max(1, int(happened.sum(1).max()))]
    begins = np.broadcast_to(np.arange(in_a_row * horizon) % horizon == 0, happened.shape)
    mask = np.take_along_axis(happened, order, 1)

    def gather(field: np.ndarray) -> Tensor:  # [M, E, T, ...] or [N, in_a_row * T]
        rows = field.reshape(*happened.shape, -1)
        found = np.take_along_axis(rows, order[..., None], 1) * mask[..., None]
        return torch.from_numpy(found.astype(np.float32, copy=False)).to(device)

    return Trials(
        gather(episodes.observations),
        gather(episodes.actions),
        gather(episodes.rewards).squeeze(-1),
        gather(begins).squeeze(-1),
        torch.from_numpy(mask).to(device),
        gather(episodes.log_probs).squeeze(-1),
    )


def healthy(episodes: Episodes, in_a_row: int) -> np.ndarray:
    """Which trials have no episode that diverged, ``[M, trials]`` bool."""
    tasks = len(episodes.diverged)
    return ~np.asarray(episodes.diverged.reshape(tasks, -1, in_a_row).any(-1))


def trial_rows(figures: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Mean over the healthy trials of each task of every episode's figure.

    Args:
        figures: ``[M, trials * in_a_row]``.
        kept: as ``healthy`` gives it, ``[M, trials]``.

    Returns:
        ``[in_a_row, M]``: row k is the k-th episode of a trial, counted from 0; nan for tasks without such a trial.
    """
    tasks, trials = kept.shape
    count = kept.sum(-1)[:, None]
    figures = figures.astype(np.float64).reshape(tasks, trials, -1)
    sums = np.where(kept[..., None], figures, 0.0).sum(1)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan).T


def take_trials(trials: Trials, rows: Tensor | slice) -> Trials:
    """Some of the trials."""
    return Trials(*(field[rows] for field in trials))

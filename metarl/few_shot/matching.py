"""Matching networks (Vinyals et al. 2016, arXiv:1606.04080), with and without full context embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from metarl.few_shot.comparing import ComparingMethod, cross_entropies, embed, feature_params, memberships
from metarl.few_shot.recurrent import LstmState, lstm, lstm_init, lstm_start, lstm_step, shuffle
from metarl.models import Model
from metarl.types import Examples, Meta, Params

_FORWARD, _BACKWARD, _READ = "context/forward", "context/backward", "context/read"


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """How matching networks compare (defaults: arXiv:1606.04080, app. A)."""

    processing_steps: int = 5
    """In full context, reads of the support before a query is answered (K); the paper names no number."""
    scale: float = 10.0
    """Factor of the cosines before the softmax. The paper has none; its cosines within [0, 1] cannot tell classes apart
    with certainty, which makes learning slow (Gidaris and Komodakis 2018, arXiv:1804.09458, begin at 10)."""

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 40:
            raise ValueError(
                f"matching scale must be positive and at most 40, above which attention underflows, got {self.scale}; "
                "10 is usual, 1 is the paper's"
            )
        if self.processing_steps < 1:
            raise ValueError(f"matching processing_steps must be at least 1, got {self.processing_steps}; 5 is usual")


def attention(support: Tensor, queries: Tensor, scale: float = 1.0) -> Tensor:
    """Softmax over the support of scaled cosine similarities (arXiv:1606.04080, section 2.1.1).

    Args:
        support: embeddings ``[M, N, F]``.
        queries: embeddings ``[M, Q, F]``.
        scale: factor of the cosines; 1 in the paper.

    Returns:
        Weights ``[M, Q, N]``; the N of a query sum to 1.
    """
    cosines = functional.normalize(queries, dim=-1) @ functional.normalize(support, dim=-1).mT
    return torch.softmax(scale * cosines, -1)


def matching_logits(support: Tensor, targets: Tensor, queries: Tensor, ways: int, scale: float = 1.0) -> Tensor:
    """Log probabilities ``[M, Q, ways]``: of the attention that falls on each class (arXiv:1606.04080, eq. 1).

    Args:
        support: embeddings ``[M, N, F]``.
        targets: their classes ``[M, N]``.
        queries: embeddings ``[M, Q, F]``.
        ways: classes in a task.
        scale: factor of the cosines; 1 in the paper.
    """
    return torch.log(attention(support, queries, scale) @ memberships(targets, ways, support))


def embed_support(params: Params, features: Tensor) -> Tensor:
    """g: features plus what a bidirectional LSTM over them says, ``[M, N, F]`` (arXiv:1606.04080, app. A.2)."""
    return lstm(params, _FORWARD, features) + lstm(params, _BACKWARD, features, backward=True) + features


def embed_queries(params: Params, support: Tensor, features: Tensor, steps: int) -> Tensor:
    """f: an LSTM that reads the support by content before every step (arXiv:1606.04080, app. A.1).

    Args:
        params: of the LSTM.
        support: embeddings g ``[M, N, F]``.
        features: of the queries ``[M, Q, F]``.
        steps: K.

    Returns:
        Embeddings ``[M, Q, F]``.
    """
    state = lstm_start(features, features.shape[-1])
    for _ in range(steps):
        read = torch.softmax(state.hidden @ support.mT, -1) @ support
        after = lstm_step(params, _READ, torch.cat([features, read], -1), state)
        state = LstmState(after.hidden + features, after.cell)
    return state.hidden


def matching(model: Model, config: MatchingConfig, *, full_context: bool) -> ComparingMethod:
    """Matching networks on the features of a model, trained by the cross entropy of the queries.

    In full context the support is embedded by a bidirectional LSTM over it, and queries by an LSTM that attends to it.
    The former takes the support in an order that depends on the examples alone; see ``recurrent.shuffle``.
    """

    def init(generator: torch.Generator) -> Meta:
        theta, size = feature_params(model, generator), model.feature_size
        if full_context:
            for prefix, inputs in ((_FORWARD, size), (_BACKWARD, size), (_READ, 2 * size)):
                theta |= lstm_init(inputs, size, generator, prefix=prefix)
        return Meta(theta, {}, {})

    def logits(theta: Params, support: Examples, inputs: Tensor, ways: int) -> Tensor:
        if full_context:
            support = shuffle(support)
        shown, asked = embed(model, theta, support.inputs, inputs)
        if full_context:
            shown = embed_support(theta, shown)
            asked = embed_queries(theta, shown, asked, config.processing_steps)
        return matching_logits(shown, support.targets, asked, ways, config.scale)

    def loss(theta: Params, support: Examples, query: Examples, ways: int) -> Tensor:
        return cross_entropies(logits(theta, support, query.inputs, ways), query.targets)

    return ComparingMethod(init, logits, loss)

"""Softmax losses over the whole catalogue.

The matrix product runs in the autocast precision, the softmax in fp32. What a step costs is rows × items, so callers
bound the rows, not the batch (`sample_rows`).

Shapes: P rows (predictions), K interests a row, D item dimension, N items.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_rows(rows: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """At most `limit` of the rows, drawn without replacement, in their own order."""
    if len(rows) <= limit:
        return rows
    chosen = torch.randperm(len(rows), generator=generator)[:limit].sort().values
    return rows[chosen.to(rows.device)]


def catalogue_cross_entropy(
    vectors_PD: Tensor,
    targets_P: Tensor,
    items_ND: Tensor,
    scale: Tensor,
    duplicate_cosine: float | None = None,
) -> Tensor:
    """Mean negative log-likelihood of the targets under softmax(scale · vector · item).

    Args:
        vectors_PD: unit vectors.
        duplicate_cosine: where given, items at least this similar to the target, itself excepted, are no negatives.
    """
    logits_PN = (vectors_PD * scale @ items_ND.T).float()
    if duplicate_cosine is not None:
        with torch.no_grad():
            duplicate_PN = (items_ND[targets_P] @ items_ND.T) >= duplicate_cosine
            duplicate_PN.scatter_(1, targets_P[:, None], False)
        logits_PN = logits_PN.masked_fill(duplicate_PN, -torch.inf)
    return F.cross_entropy(logits_PN, targets_P)


def merged_cross_entropy(
    interests_PKD: Tensor, targets_P: Tensor, items_ND: Tensor, scale: Tensor, gate_PK: Tensor | None = None
) -> Tensor:
    """Mean negative log-likelihood of the targets under the merge of K interests.

    The merge is a softmax over items of log Σ_k exp(scale · interest_k · item + gate_k), which is how the lists of
    several interests are merged when they are served.
    """
    rows, interests, dim = interests_PKD.shape
    logits_PKN = (interests_PKD.reshape(-1, dim) * scale @ items_ND.T).float().view(rows, interests, -1)
    if gate_PK is not None:
        logits_PKN = logits_PKN + gate_PK[..., None]
    return F.cross_entropy(logits_PKN.logsumexp(1), targets_P)

"""Softmax losses over the whole catalogue, fused: no logit outlives the block of rows it belongs to.

The merge of K interests is a softmax over items of log Σ_k exp(logit_k), so that its negative log-likelihood is

    log Σ_{k,n} exp(logit_kn) − log Σ_k exp(logit_k,target)

Notable: for a block of rows the logits, the loss and its gradient are computed at once, and only the gradients of the
inputs are kept; backward scales them. Memory is one block, whatever rows × interests × items; and the tensors are read
far fewer times than by autograd's own chain. Products run in the autocast precision, exponentials in fp32. What a step
costs is still rows × items, so callers bound the rows (`sample_rows`).

Shapes: P rows (predictions), K interests a row, D item dimension, N items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_LOGITS = 2**21  # logits held at once: what stays in the cache


def sample_rows(rows: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """At most `limit` of the rows, drawn without replacement, in their own order."""
    if len(rows) <= limit:
        return rows
    chosen = torch.randperm(len(rows), generator=generator)[:limit].sort().values
    return rows[chosen.to(rows.device)]


def sample_columns(mask_BL: Tensor, limit: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Columns of a step's predictions, the same number Q for each user, and which of them are real: [B, Q] both.

    Args:
        mask_BL: True where a prediction can be made.
        limit: predictions of all users together, about.
    """
    wanted = max(1, limit // len(mask_BL))
    lottery_BL = torch.rand(mask_BL.shape, generator=generator).to(mask_BL.device).masked_fill(~mask_BL, -1.0)
    columns_BQ = lottery_BL.topk(min(wanted, mask_BL.shape[1]), dim=1).indices
    return columns_BQ, mask_BL.gather(1, columns_BQ)


class _MergedCrossEntropy(torch.autograd.Function):
    """Mean of log Σ_{k,n} exp(logit) − log Σ_k exp(logit at the target), with its gradients; 0 without rows."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors_PKD: Tensor,
        items_ND: Tensor,
        gate_PK: Tensor,
        targets_P: Tensor,
        duplicate_cosine: float | None,
    ) -> Tensor:
        rows, interests, dim = vectors_PKD.shape
        block = max(1, BLOCK_LOGITS // (interests * len(items_ND)))
        losses, by_vector, by_gate = [], [], []
        by_item = torch.zeros_like(items_ND, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, max(rows, 1), block):
            vectors, target = vectors_PKD[start : start + block], targets_P[start : start + block]
            logits = (vectors.reshape(-1, dim) @ items_ND.T).float().view(len(target), interests, len(items_ND))
            logits += gate_PK[start : start + block, :, None]
            if duplicate_cosine is not None:
                logits.masked_fill_(_duplicates(target, items_ND, duplicate_cosine)[:, None], -torch.inf)
            at_target = logits.gather(2, target[:, None, None].expand(-1, interests, 1))
            total = logits.flatten(1).logsumexp(1)
            losses.append(total - at_target[..., 0].logsumexp(1))
            gradient = logits.sub_(total[:, None, None]).exp_()
            gradient.scatter_add_(2, target[:, None, None].expand(-1, interests, 1), -at_target.softmax(1))
            flat = gradient.flatten(0, 1)
            by_vector.append((flat @ items_ND).view_as(vectors))
            by_gate.append(gradient.sum(2))
            if by_item is not None:
                by_item += flat.T @ vectors.reshape(-1, dim)
        ctx.save_for_backward(torch.cat(by_vector), by_item, torch.cat(by_gate))
        ctx.dtypes = vectors_PKD.dtype, items_ND.dtype, gate_PK.dtype
        return torch.cat(losses).sum() / max(rows, 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_vector, by_item, by_gate = ctx.saved_tensors
        share = upstream[0] / max(len(by_gate), 1)
        scaled = [
            None if gradient is None else (gradient.float() * share).to(dtype)
            for gradient, dtype in zip((by_vector, by_item, by_gate), ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None)


def _duplicates(targets_P: Tensor, items_ND: Tensor, cosine: float) -> Tensor:
    """[P, N] items at least this similar to the target, itself excepted."""
    with torch.autocast(items_ND.device.type, enabled=False):  # bf16 does not resolve cosines near 1
        duplicate_PN = (items_ND[targets_P] @ items_ND.T) >= cosine
    return duplicate_PN.scatter_(1, targets_P[:, None], False)


def catalogue_cross_entropy(
    vectors_PD: Tensor,
    targets_P: Tensor,
    items_ND: Tensor,
    scale: Tensor,
    duplicate_cosine: float | None = None,
) -> Tensor:
    """Mean negative log-likelihood of the targets under softmax(scale · vector · item).

    Args:
        vectors_PD: unit vectors; at least one.
        duplicate_cosine: where given, items at least this similar to the target, itself excepted, are no negatives.
    """
    no_gate = vectors_PD.new_zeros(len(vectors_PD), 1, dtype=torch.float32)
    loss: Tensor = _MergedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        (vectors_PD * scale)[:, None], items_ND, no_gate, targets_P, duplicate_cosine
    )
    return loss


def merged_cross_entropy(
    interests_PKD: Tensor, targets_P: Tensor, items_ND: Tensor, scale: Tensor, gate_PK: Tensor | None = None
) -> Tensor:
    """Mean negative log-likelihood of the targets under the merge of K interests.

    The merge is a softmax over items of log Σ_k exp(scale · interest_k · item + gate_k), which is how the lists of
    several interests are merged when they are served.

    Args:
        interests_PKD: unit vectors; at least one row.
        gate_PK: log weight of every interest; all equal where None.
    """
    if gate_PK is None:
        gate_PK = interests_PKD.new_zeros(interests_PKD.shape[:2], dtype=torch.float32)
    loss: Tensor = _MergedCrossEntropy.apply(interests_PKD * scale, items_ND, gate_PK, targets_P, None)  # type: ignore[no-untyped-call]
    return loss


def sampled_cross_entropy(
    vectors_PD: Tensor,
    targets_P: Tensor,
    items_ND: Tensor,
    scale: Tensor,
    draw_N: Tensor,
    negatives: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean negative log-likelihood of the targets among sampled negatives, with the logQ correction.

    The negatives are drawn with replacement, once for all rows; the logit of each is lowered by the log of how often
    it is expected in the sample, which makes the sampled softmax an estimate of the full one. A negative that is a
    row's own target does not count in that row.

    Args:
        draw_N: weight of each item in the draw.
        negatives: how many are drawn.
    """
    share_N = (draw_N / draw_N.sum()).float().cpu()  # where the generator is
    drawn_M = torch.multinomial(share_N, negatives, replacement=True, generator=generator).to(items_ND.device)
    share_N = share_N.to(items_ND.device)
    scaled_PD = vectors_PD * scale
    logits_PM = (scaled_PD @ items_ND[drawn_M].T).float() - (share_N[drawn_M] * negatives).log()
    logits_PM = logits_PM.masked_fill(drawn_M == targets_P[:, None], -torch.inf)
    positive_P1 = (scaled_PD * items_ND[targets_P]).sum(1, keepdim=True).float()
    return (torch.cat([positive_P1, logits_PM], dim=1).logsumexp(1) - positive_P1[:, 0]).mean()

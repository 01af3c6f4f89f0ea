"""Softmax losses over the whole catalogue or over negatives, fused: no logit outlives the block of rows it belongs to.

The merge of K interests is a softmax over items of log Σ_k exp(logit_k), so that its negative log-likelihood is

    log Σ_{k,n} exp(logit_kn) − log Σ_k exp(logit_k,target)

Notable: for a block of rows the logits, the loss and its gradient are computed at once, and only the gradients of the
inputs are kept; backward scales them. Memory is one block, whatever rows × interests × items; and the tensors are read
far fewer times than by autograd's own chain. Products run in the autocast precision, exponentials in fp32. What a step
costs is still rows × items, so callers bound the rows (`sample_rows`), or the items (`negatives.py`): then the target's
logit is one more column beside the negatives', whose logits carry the logQ correction.

Shapes: P rows (predictions), p of them in a block, K interests a row, D item dimension, N items, M negatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prismrec.training.negatives import Negatives, sampled_negatives

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


class _Catalogue:
    """The columns of a block's logits: every item, the target among them."""

    def __init__(self, items_ND: Tensor, duplicate_cosine: float | None) -> None:
        self.items_ND, self.duplicate_cosine = items_ND, duplicate_cosine
        self.width = len(items_ND)

    def logits(self, vectors_PKD: Tensor, rows: slice, targets_P: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [P, K, N] without near-duplicates of the target, and each row's target column [P]."""
        logits_PKN = (vectors_PKD.flatten(0, 1) @ self.items_ND.T).float().view(*vectors_PKD.shape[:2], self.width)
        if self.duplicate_cosine is not None:
            same_PN = _duplicates(targets_P, self.items_ND, self.items_ND, self.duplicate_cosine)
            _rule_out(logits_PKN, same_PN.scatter_(1, targets_P[:, None], False))
        return logits_PKN, targets_P

    def by_vector(self, gradient_PKN: Tensor, targets_P: Tensor) -> Tensor:
        """Gradient of the vectors, given that of the logits: [P, K, D]."""
        return (gradient_PKN.flatten(0, 1) @ self.items_ND).view(*gradient_PKN.shape[:2], self.items_ND.shape[1])

    def add_by_item(self, total_ND: Tensor, gradient_PKN: Tensor, vectors_PKD: Tensor, targets_P: Tensor) -> None:
        """Add the block's gradient of the items to the total."""
        total_ND += gradient_PKN.flatten(0, 1).T @ vectors_PKD.flatten(0, 1)


class _Sample:
    """The columns of a block's logits: the negatives, and the target last."""

    def __init__(self, items_ND: Tensor, duplicate_cosine: float | None, negatives: Negatives) -> None:
        self.items_ND, self.duplicate_cosine, self.negatives = items_ND, duplicate_cosine, negatives
        self.negative_MD = items_ND[negatives.items_M]
        self.width = len(self.negative_MD) + 1

    def logits(self, vectors_PKD: Tensor, rows: slice, targets_P: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [P, K, M + 1] without false negatives, and each row's target column [P]."""
        logits_PKM = (
            (vectors_PKD.flatten(0, 1) @ self.negative_MD.T).float().view(*vectors_PKD.shape[:2], self.width - 1)
        )
        logits_PKM += self.negatives.log_weight_M
        masked_PM = self.negatives.masked(rows, targets_P)
        if self.duplicate_cosine is not None:
            masked_PM |= _duplicates(targets_P, self.items_ND, self.negative_MD, self.duplicate_cosine)
        _rule_out(logits_PKM, masked_PM)
        target_PK1 = (vectors_PKD * self.items_ND[targets_P][:, None]).sum(-1, keepdim=True).float()
        return torch.cat([logits_PKM, target_PK1], dim=2), torch.full_like(targets_P, self.width - 1)

    def by_vector(self, gradient: Tensor, targets_P: Tensor) -> Tensor:
        """Gradient of the vectors, given that of the logits: [P, K, D]."""
        negative = (gradient[..., :-1].flatten(0, 1) @ self.negative_MD).view(
            *gradient.shape[:2], self.items_ND.shape[1]
        )
        return negative + gradient[..., -1:] * self.items_ND[targets_P][:, None]

    def add_by_item(self, total_ND: Tensor, gradient: Tensor, vectors_PKD: Tensor, targets_P: Tensor) -> None:
        """Add the block's gradient of the items to the total."""
        negative_MD = gradient[..., :-1].flatten(0, 1).T @ vectors_PKD.flatten(0, 1)
        total_ND.index_add_(0, self.negatives.items_M, negative_MD.float())
        target_PD = (gradient[..., -1:] * vectors_PKD).sum(1)
        total_ND.index_add_(0, targets_P, target_PD.float())


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
        negatives: Negatives | None,
    ) -> Tensor:
        count, interests, _ = vectors_PKD.shape
        columns = (
            _Catalogue(items_ND, duplicate_cosine)
            if negatives is None
            else _Sample(items_ND, duplicate_cosine, negatives)
        )
        block = max(1, BLOCK_LOGITS // (interests * columns.width))
        losses, by_vector, by_gate = [], [], []
        by_item = torch.zeros_like(items_ND, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, max(count, 1), block):
            rows = slice(start, start + block)
            vectors, target, gate_pK = vectors_PKD[rows], targets_P[rows], gate_PK[rows]
            logits, column_p = columns.logits(vectors, rows, target)
            column_pK1 = column_p[:, None, None].expand(-1, interests, 1)
            at_target_pK = logits.gather(2, column_pK1)[..., 0] + gate_pK
            top_p1 = (logits.amax(2) + gate_pK).amax(1, keepdim=True)
            # All that follows is `total` times what it is called, and divided by it where it is small.
            share = logits.sub_((top_p1 - gate_pK)[..., None]).exp_()
            share_pK = share.sum(2)
            total_p1 = share_pK.sum(1, keepdim=True)
            losses.append((top_p1 + total_p1.log())[:, 0] - at_target_pK.logsumexp(1))
            wanted_pK = at_target_pK.softmax(1)
            gradient = _for_products(share.scatter_add_(2, column_pK1, -(wanted_pK * total_p1)[..., None]))
            by_vector.append(columns.by_vector(gradient, target) / total_p1[..., None])
            by_gate.append(share_pK / total_p1 - wanted_pK)
            if by_item is not None:
                columns.add_by_item(by_item, gradient, vectors / total_p1[..., None], target)
        ctx.save_for_backward(torch.cat(by_vector), by_item, torch.cat(by_gate))
        ctx.dtypes = vectors_PKD.dtype, items_ND.dtype, gate_PK.dtype
        return torch.cat(losses).sum() / max(count, 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_vector, by_item, by_gate = ctx.saved_tensors
        share = upstream[0] / max(len(by_gate), 1)
        scaled = [
            None if gradient is None else (gradient.float() * share).to(dtype)
            for gradient, dtype in zip((by_vector, by_item, by_gate), ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None)


def _rule_out(logits_PKN: Tensor, ruled_PN: Tensor) -> None:
    """Put -inf where no interest is to reach, in place; few items, so that a mask over all logits would cost more."""
    row_E, item_E = ruled_PN.nonzero(as_tuple=True)
    logits_PKN[row_E, :, item_E] = -torch.inf


def _for_products(gradient: Tensor) -> Tensor:
    """The gradient in the precision of products: autocast would turn it once for each of them."""
    device = gradient.device.type
    return gradient.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else gradient


def _duplicates(targets_P: Tensor, items_ND: Tensor, others_MD: Tensor, cosine: float) -> Tensor:
    """[P, M] others at least this similar to the target, itself too."""
    with torch.autocast(items_ND.device.type, enabled=False):  # bf16 does not resolve cosines near 1
        return (items_ND[targets_P] @ others_MD.T) >= cosine


def catalogue_cross_entropy(
    vectors_PD: Tensor,
    targets_P: Tensor,
    items_ND: Tensor,
    scale: Tensor,
    duplicate_cosine: float | None = None,
    negatives: Negatives | None = None,
) -> Tensor:
    """Mean negative log-likelihood of the targets under softmax(scale · vector · item).

    Args:
        vectors_PD: unit vectors; at least one.
        duplicate_cosine: where given, items at least this similar to the target, itself excepted, are no negatives.
        negatives: what the targets are compared with; the whole catalogue where None.
    """
    no_gate = vectors_PD.new_zeros(len(vectors_PD), 1, dtype=torch.float32)
    loss: Tensor = _MergedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        (vectors_PD * scale)[:, None], items_ND, no_gate, targets_P, duplicate_cosine, negatives
    )
    return loss


def merged_cross_entropy(
    interests_PKD: Tensor,
    targets_P: Tensor,
    items_ND: Tensor,
    scale: Tensor,
    gate_PK: Tensor | None = None,
    negatives: Negatives | None = None,
) -> Tensor:
    """Mean negative log-likelihood of the targets under the merge of K interests.

    The merge is a softmax over items of log Σ_k exp(scale · interest_k · item + gate_k), which is how the lists of
    several interests are merged when they are served.

    Args:
        interests_PKD: unit vectors; at least one row.
        gate_PK: log weight of every interest; all equal where None.
        negatives: what the targets are compared with; the whole catalogue where None.
    """
    if gate_PK is None:
        gate_PK = interests_PKD.new_zeros(interests_PKD.shape[:2], dtype=torch.float32)
    loss: Tensor = _MergedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        interests_PKD * scale, items_ND, gate_PK, targets_P, None, negatives
    )
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
    """Mean negative log-likelihood of the targets among negatives sampled for all rows, with the logQ correction.

    Args:
        draw_N: weight of each item in the draw.
        negatives: how many are drawn, with replacement.
    """
    drawn = sampled_negatives((draw_N / draw_N.sum()).float(), negatives, generator)
    return catalogue_cross_entropy(vectors_PD, targets_P, items_ND, scale, negatives=drawn)

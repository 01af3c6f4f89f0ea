"""Softmax losses against plain torch and plain loops."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.small import item_vectors
from prismrec.training import losses as module
from prismrec.training.losses import (
    catalogue_cross_entropy,
    merged_cross_entropy,
    sample_columns,
    sample_rows,
    sampled_cross_entropy,
)
from prismrec.training.negatives import Negatives, draw_shares, in_batch_negatives, sampled_negatives

ITEMS = item_vectors(20, 6)
SCALE = torch.tensor(9.0)


def rows(count: int, seed: int = 1) -> torch.Tensor:
    return item_vectors(count, 6, seed)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 19), min_size=1, max_size=8), st.integers(0, 1000))
def test_catalogue_cross_entropy_is_a_softmax_over_all_items(targets: list[int], seed: int) -> None:
    vectors = rows(len(targets), seed)
    expected = [-(9.0 * ITEMS @ vector).log_softmax(0)[target] for vector, target in zip(vectors, targets, strict=True)]
    found = catalogue_cross_entropy(vectors, torch.tensor(targets), ITEMS, SCALE)
    torch.testing.assert_close(found, torch.stack(expected).mean())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 19), min_size=1, max_size=8), st.floats(0.1, 1.0), st.integers(0, 1000))
def test_near_duplicates_of_a_target_are_no_negatives(targets: list[int], cosine: float, seed: int) -> None:
    items = torch.cat([ITEMS[:10], F.normalize(ITEMS[:10] + 0.1 * rows(10, 7), dim=-1)])
    similar = items @ items.T
    assume((similar - cosine).abs().min() > 1e-4)  # on the border, rounding decides
    vectors = rows(len(targets), seed)
    expected = []
    for vector, target in zip(vectors, targets, strict=True):
        logits = 9.0 * items @ vector
        kept = [item for item in range(20) if item == target or similar[target, item] < cosine]
        expected.append(torch.logsumexp(logits[kept], 0) - logits[target])
    found = catalogue_cross_entropy(vectors, torch.tensor(targets), items, SCALE, duplicate_cosine=cosine)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_a_duplicate_gets_no_gradient_and_the_target_does() -> None:
    items = ITEMS.clone()
    items[3] = items[2]
    items.requires_grad_()
    catalogue_cross_entropy(rows(1), torch.tensor([2]), items, SCALE, duplicate_cosine=0.98).backward()
    assert torch.equal(items.grad[3], torch.zeros(6))
    assert items.grad[2].abs().max() > 0
    assert items.grad[4].abs().max() > 0


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("gated", [True, False])
def test_merged_cross_entropy_is_a_softmax_of_the_log_sum_exp(interests: int, gated: bool) -> None:
    vectors = rows(5 * interests).view(5, interests, 6)
    gate = torch.randn(5, interests, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    targets = torch.tensor([0, 7, 7, 19, 3])
    expected = []
    for row in range(5):
        merged = torch.zeros(20)
        for k in range(interests):
            merged += torch.exp(9.0 * ITEMS @ vectors[row, k] + (gate[row, k] if gated else 0.0))
        expected.append(-torch.log(merged[targets[row]] / merged.sum()))
    found = merged_cross_entropy(vectors, targets, ITEMS, SCALE, gate if gated else None)
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)


def test_merge_of_one_interest_is_the_catalogue_loss() -> None:
    targets = torch.tensor([1, 2, 3])
    torch.testing.assert_close(
        merged_cross_entropy(rows(3)[:, None], targets, ITEMS, SCALE),
        catalogue_cross_entropy(rows(3), targets, ITEMS, SCALE),
    )


def test_losses_stay_in_fp32_under_autocast() -> None:
    targets = torch.tensor([1, 2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = catalogue_cross_entropy(rows(3), targets, ITEMS, SCALE)
        merged = merged_cross_entropy(rows(3)[:, None], targets, ITEMS, SCALE)
    assert found.dtype == merged.dtype == torch.float32
    torch.testing.assert_close(found, catalogue_cross_entropy(rows(3), targets, ITEMS, SCALE), atol=0.1, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 1000))
def test_sampled_rows_are_distinct_and_in_order(count: int, limit: int, seed: int) -> None:
    pairs = torch.stack([torch.arange(count), torch.arange(count) * 10], 1)
    found = sample_rows(pairs, limit, torch.Generator().manual_seed(seed))
    assert len(found) == min(count, limit)
    assert found[:, 0].tolist() == sorted(set(found[:, 0].tolist()))
    assert torch.equal(found[:, 1], found[:, 0] * 10)


def test_every_row_may_be_sampled() -> None:
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        seen.update(sample_rows(torch.arange(10), 3, generator).tolist())
    assert seen == set(range(10))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 1000))
def test_sampled_columns_are_distinct_and_real_ones_come_first(lengths: list[int], limit: int, seed: int) -> None:
    """As many as a user has and the budget gives, padding only when a user has no more; `known` says which."""
    width = max(*lengths, 1, 1)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    columns, known = sample_columns(mask, limit, torch.Generator().manual_seed(seed))
    asked = min(max(1, limit // len(lengths)), width)
    assert columns.shape == known.shape == (len(lengths), asked)
    assert torch.equal(known, mask.gather(1, columns))
    for row, length in enumerate(lengths):
        chosen = columns[row][known[row]].tolist()
        assert len(set(chosen)) == len(chosen) == min(asked, length)


def test_every_column_is_drawn_alike() -> None:
    """Two of five real columns: each in 2/5 of the draws."""
    mask = torch.tensor([[False, True, True, True, True, True]])
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(6)
    for _ in range(3000):
        counts[sample_columns(mask, 2, generator)[0][0]] += 1
    assert counts[0] == 0
    torch.testing.assert_close(counts[1:] / 3000, torch.full((5,), 0.4), atol=0.04, rtol=0)


TARGETS = torch.tensor([0, 7, 7, 19, 3])
UNEVEN = torch.arange(1, 21).double() ** 1.5  # weights of the draw, far from uniform


def sampled(negatives: int, seed: int = 0, draw: torch.Tensor = UNEVEN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sampled_cross_entropy(rows(5), TARGETS, ITEMS, SCALE, draw, negatives, generator)


def test_many_negatives_give_the_full_loss() -> None:
    full = catalogue_cross_entropy(rows(5), TARGETS, ITEMS, SCALE)
    torch.testing.assert_close(sampled(400_000), full, atol=0.01, rtol=0)
    torch.testing.assert_close(sampled(400_000, draw=torch.ones(20)), full, atol=0.01, rtol=0)


def test_log_q_makes_the_sum_over_negatives_unbiased() -> None:
    """Few uneven negatives: the mean of exp(loss), the softmax's sum over the target's term, is the full one."""
    row, target = rows(1), torch.tensor([3])
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(2.0)  # at a small scale the estimate varies little
    losses = [sampled_cross_entropy(row, target, ITEMS, scale, UNEVEN, 6, generator) for _ in range(20_000)]
    full = catalogue_cross_entropy(row, target, ITEMS, scale).exp()
    estimates = torch.stack(losses).double().exp()
    error = float(estimates.std() / len(estimates) ** 0.5)
    assert error < 0.05 * float(full)
    assert abs(float(estimates.mean() - full)) < 4 * error


def test_gradients_of_many_negatives_are_those_of_the_full_loss() -> None:
    found = []
    for negatives in (0, 400_000):
        items, vectors = ITEMS.clone().requires_grad_(), rows(5).clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        loss = (
            sampled_cross_entropy(vectors, TARGETS, items, SCALE, UNEVEN, negatives, generator)
            if negatives
            else catalogue_cross_entropy(vectors, TARGETS, items, SCALE)
        )
        loss.backward()
        found.append((vectors.grad, items.grad))
    torch.testing.assert_close(found[0], found[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_negatives_that_are_all_the_target_cost_nothing(autocast: bool) -> None:
    """The draw knows one item only; nothing becomes NaN, neither the gradient."""
    only = torch.zeros(20, dtype=torch.float64)
    only[7] = 1.0
    vectors, items = rows(2).requires_grad_(), ITEMS.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = sampled_cross_entropy(
            vectors, torch.tensor([7, 7]), items, SCALE, only, 5, torch.Generator().manual_seed(0)
        )
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(vectors.grad).all()
    assert torch.isfinite(items.grad).all()


def test_sampled_loss_without_noise_is_a_softmax_over_what_was_drawn() -> None:
    """One possible negative, drawn three times: its logit counts as if it were all of the catalogue's mass."""
    only = torch.zeros(20, dtype=torch.float64)
    only[4] = 2.0
    vector = rows(1)
    found = sampled_cross_entropy(vector, torch.tensor([7]), ITEMS, SCALE, only, 3, torch.Generator().manual_seed(0))
    logits = 9.0 * ITEMS[[7, 4]] @ vector[0]
    torch.testing.assert_close(found, logits.logsumexp(0) - logits[0])


def test_one_seed_one_sample() -> None:
    assert torch.equal(sampled(8, seed=1), sampled(8, seed=1))
    assert not torch.equal(sampled(8, seed=1), sampled(8, seed=2))


class _Largest(TorchDispatchMode):
    """Numbers in the largest tensor that an operation gives."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.found = max(self.found, tensor.numel())
        return result


@pytest.mark.parametrize("negatives", [None, sampled_negatives(torch.full((20,), 0.05), 50, torch.Generator())])
def test_blocks_bound_the_memory_and_change_nothing(
    negatives: Negatives | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three interests, 300 rows: 18,000 logits at once otherwise."""
    targets = torch.randint(0, 20, (300,), generator=torch.Generator().manual_seed(0))

    def run() -> tuple[torch.Tensor, ...]:
        vectors = rows(900).view(300, 3, 6).requires_grad_()
        items, gate = ITEMS.clone().requires_grad_(), torch.zeros(300, 3, requires_grad=True)
        loss = merged_cross_entropy(vectors, targets, items, SCALE, gate, negatives)
        loss.backward()
        return loss.detach(), vectors.grad, items.grad, gate.grad

    whole = run()
    monkeypatch.setattr(module, "BLOCK_LOGITS", 500)
    with _Largest() as largest:
        blocks = run()
    assert largest.found <= 900 * 6, "no larger than the vectors themselves"
    for one, other in zip(whole, blocks, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([None, 0.5]))
def test_losses_over_negatives_and_their_gradients_are_autograds(
    seed: int, interests: int, cosine: float | None
) -> None:
    """Against a plain chain of operations: masks, logQ, gate, gradients of vectors, items, gate and scale."""
    generator = torch.Generator().manual_seed(seed)
    users_P, targets_P = torch.tensor([0, 0, 1, 2, 2]), torch.randint(0, 20, (5,), generator=generator)
    share_N = draw_shares(torch.arange(20), 0.7)
    negatives = in_batch_negatives(targets_P, users_P, share_N, slice(0, 3)).of(users_P)
    if seed % 2:
        negatives = sampled_negatives(share_N, 12, generator)
    found = []
    for plain in (False, True):
        vectors = rows(5 * interests, seed).view(5, interests, 6).clone().requires_grad_()
        items, scale = ITEMS.clone().requires_grad_(), torch.tensor(9.0, requires_grad=True)
        gate = rows(5, seed + 1)[:, :interests].clone().requires_grad_()
        if not plain and interests == 1 and cosine is not None:
            loss = catalogue_cross_entropy(vectors[:, 0], targets_P, items, scale, cosine, negatives)
        elif plain:
            with_duplicates = cosine if interests == 1 else None
            with_gate = gate * (0.0 if interests == 1 and cosine is not None else 1.0)
            loss = _plain(vectors, targets_P, items, scale, with_gate, with_duplicates, negatives)
        else:
            loss = merged_cross_entropy(vectors, targets_P, items, scale, gate, negatives)
        loss.backward()
        grads = [vectors.grad, items.grad, scale.grad, torch.zeros(0) if gate.grad is None else gate.grad]
        found.append([loss.detach(), *grads[:3], *([grads[3]] if interests > 1 else [])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def _plain(
    vectors: torch.Tensor,
    targets: torch.Tensor,
    items: torch.Tensor,
    scale: torch.Tensor,
    gate: torch.Tensor,
    cosine: float | None,
    negatives: Negatives,
) -> torch.Tensor:
    """Row by row, negative by negative."""
    losses = []
    for row, target in enumerate(targets.tolist()):
        weights = {target: 0.0}
        for place, item in enumerate(negatives.items_M.tolist()):
            own = negatives.own_BM is not None and bool(negatives.own_BM[negatives.users_P[row], place])
            same = cosine is not None and float(ITEMS[item] @ ITEMS[target]) >= cosine
            if item != target and not own and not same:
                weights[item] = float(negatives.log_weight_M[place])
        compared = torch.tensor(list(weights))
        logits = scale * vectors[row] @ items[compared].T + gate[row][:, None] + torch.tensor(list(weights.values()))
        losses.append(logits.flatten().logsumexp(0) - logits[:, 0].logsumexp(0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("interests", [1, 3])
def test_merge_over_many_negatives_is_the_full_one(interests: int) -> None:
    vectors, gate = rows(5 * interests).view(5, interests, 6), rows(5, 2)[:, :interests]
    full = merged_cross_entropy(vectors, TARGETS, ITEMS, SCALE, gate)
    share_N, errors = draw_shares(torch.arange(20), 0.75), []
    for number in (50, 2_000, 400_000):
        drawn = [sampled_negatives(share_N, number, torch.Generator().manual_seed(seed)) for seed in range(5)]
        losses = [merged_cross_entropy(vectors, TARGETS, ITEMS, SCALE, gate, negatives) for negatives in drawn]
        errors.append(float(sum((loss - full).abs() for loss in losses) / 5))
    assert errors[0] > 2 * errors[1] > 4 * errors[2], "the more negatives, the nearer"
    assert errors[2] < 0.005


def test_a_batch_with_every_item_at_its_frequency_is_the_catalogue_without_the_users_own_targets() -> None:
    """Item i occurs i + 1 times among 210 targets of 30 users, so that logQ changes nothing."""
    order = torch.randperm(210, generator=torch.Generator().manual_seed(0))
    targets_T = torch.arange(20).repeat_interleave(torch.arange(1, 21))[order]
    users_T = torch.arange(210) // 7
    share_N = torch.arange(1, 21).float() / 210
    vectors = rows(210)
    negatives = in_batch_negatives(targets_T, users_T, share_N, slice(10, 20))
    mine = (users_T >= 10) & (users_T < 20)
    assert negatives.items_M.tolist() == list(range(20))
    torch.testing.assert_close(negatives.log_weight_M, torch.zeros(20))
    found = catalogue_cross_entropy(
        vectors[mine], targets_T[mine], ITEMS, SCALE, negatives=negatives.of(users_T[mine] - 10)
    )
    expected = []
    for row in mine.nonzero()[:, 0].tolist():
        own = set(targets_T[users_T == users_T[row]].tolist()) - {int(targets_T[row])}
        kept = [item for item in range(20) if item not in own]
        logits = 9.0 * ITEMS @ vectors[row]
        expected.append(logits[kept].logsumexp(0) - logits[targets_T[row]])
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_a_batch_of_targets_by_frequency_estimates_the_catalogue() -> None:
    """The more users a step has, the nearer; each user has one target, so that nothing is masked but the target."""
    counts = torch.arange(1, 21)
    share_N, generator = draw_shares(counts, 1.0), torch.Generator().manual_seed(0)
    full, errors = catalogue_cross_entropy(rows(5), TARGETS, ITEMS, SCALE), []
    for users in (40, 4_000, 400_000):
        others = torch.multinomial(share_N, users, replacement=True, generator=generator)
        targets_T = torch.cat([TARGETS, others])
        negatives = in_batch_negatives(targets_T, torch.arange(users + 5), share_N, slice(0, 5)).of(torch.arange(5))
        errors.append(float((catalogue_cross_entropy(rows(5), TARGETS, ITEMS, SCALE, None, negatives) - full).abs()))
    assert errors[2] < 0.01 < errors[0]


def test_draws_follow_popularity_to_the_power() -> None:
    torch.testing.assert_close(draw_shares(torch.tensor([0, 1, 16]), 0.0), torch.full((3,), 1 / 3))
    torch.testing.assert_close(draw_shares(torch.tensor([0, 1, 16]), 0.5), torch.tensor([0.5**0.5, 1, 4]) / 5.7071)
    drawn = sampled_negatives(torch.tensor([0.1, 0.2, 0.7]), 10_000, torch.Generator().manual_seed(0))
    assert drawn.items_M.tolist() == [0, 1, 2]
    torch.testing.assert_close(drawn.log_weight_M, torch.zeros(3), atol=0.1, rtol=0)

"""Softmax losses against plain torch and plain loops."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.small import item_vectors
from prismrec.training.losses import (
    catalogue_cross_entropy,
    merged_cross_entropy,
    sample_columns,
    sample_rows,
    sampled_cross_entropy,
)

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

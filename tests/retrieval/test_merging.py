"""Merges and the diversity dial, against naive ones, with the properties that its docstring claims."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.retrieval import merging

SEEDS = st.integers(0, 2**31 - 1)
DIALS = st.floats(0.0, 1.0)


def random_lists(seed: int, ties: bool = False) -> torch.Tensor:
    """Joint log-probabilities of 4 users, 5 interests, 30 items; a third of the claims are none."""
    generator = torch.Generator().manual_seed(seed)
    joint = 3 * torch.randn(4, 5, 30, generator=generator)
    joint = joint.round() if ties else joint
    joint = joint.masked_fill(torch.rand(joint.shape, generator=generator) < 0.33, -torch.inf)
    joint[:, 0, 0] = 0.0  # something may be shown
    return joint - joint.flatten(1).logsumexp(1)[:, None, None]


def owned(seed: int, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    joint = random_lists(seed, ties)
    return merging.factorised(joint), merging.owners(joint)


def top(scores: torch.Tensor, k: int) -> torch.Tensor:
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k]


def distinct(owners: torch.Tensor, scores: torch.Tensor, k: int) -> list[int]:
    """Owners among the first k that may be shown."""
    return [
        len({int(own[i]) for i in list_k if row[i] > -torch.inf})
        for own, row, list_k in zip(owners, scores, top(scores, k).tolist(), strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_places_count_the_owners_better_items(seed: int, ties: bool) -> None:
    scores, owners = owned(seed, ties)
    found = merging.places(scores, owners)
    for b in range(4):
        for i in range(30):
            mine = [(-float(scores[b, j]), j) for j in range(30) if owners[b, j] == owners[b, i]]
            assert found[b, i] == sorted(mine).index((-float(scores[b, i]), i)) + 1


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_no_diversity_is_the_likelihood(seed: int) -> None:
    scores, owners = owned(seed)
    assert torch.equal(merging.diversified(scores, owners, 0.0), scores.double())


@settings(max_examples=80, deadline=None)
@given(SEEDS, DIALS, st.booleans())
def test_the_first_item_never_changes(seed: int, dial: float, ties: bool) -> None:
    scores, owners = owned(seed, ties)
    assert torch.equal(top(merging.diversified(scores, owners, dial), 1), top(scores, 1))


@settings(max_examples=80, deadline=None)
@given(SEEDS, DIALS, DIALS, st.sampled_from([1, 3, 10, 20]), st.booleans())
def test_more_diversity_never_shows_fewer_interests(seed: int, one: float, other: float, k: int, ties: bool) -> None:
    scores, owners = owned(seed, ties)
    less, more = (merging.diversified(scores, owners, dial) for dial in sorted((one, other)))
    for few, many in zip(distinct(owners, less, k), distinct(owners, more, k), strict=True):
        assert few <= many


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([1, 4, 9]))
def test_half_way_shares_out_seats_as_dhondt_does(seed: int, seats: int) -> None:
    """A greedy count: next is the owner whose best unseated item has the largest P(i) / (seats + 1)."""
    scores, owners = owned(seed)
    found = top(merging.diversified(scores, owners, 0.5), seats)
    for b in range(4):
        seated: list[int] = []
        for _ in range(seats):
            taken = torch.bincount(owners[b, seated], minlength=5) if seated else torch.zeros(5)
            quotient = scores[b].exp().double() / (taken[owners[b]] + 1)
            quotient[seated] = -1.0
            seated.append(int(quotient.argmax()))
        assert found[b].tolist() == seated


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_all_diversity_is_round_by_round(seed: int) -> None:
    scores, owners = owned(seed)
    found, places = merging.diversified(scores, owners, 1.0), merging.places(scores, owners)
    for b in range(4):
        shown = [i for i in top(found, 30)[b].tolist() if scores[b, i] > -torch.inf]
        assert shown == sorted(shown, key=lambda i: (int(places[b, i]), -float(scores[b, i])))


@settings(max_examples=40, deadline=None)
@given(SEEDS, DIALS)
def test_what_may_not_be_shown_never_is(seed: int, dial: float) -> None:
    scores, owners = owned(seed)
    scores[:, 5] = -torch.inf
    assert (merging.diversified(scores, owners, dial)[:, 5] == -torch.inf).all()


@pytest.mark.parametrize("dial", [-0.1, 1.1])
def test_the_dial_has_ends(dial: float) -> None:
    with pytest.raises(AssertionError, match="lies in"):
        merging.diversified(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64), dial)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_merges_against_naive_ones(seed: int) -> None:
    joint = random_lists(seed)
    likelihood, pooled, rounds = merging.factorised(joint), merging.max_score(joint), merging.quotas(joint)
    for b in range(4):
        conditional = joint[b].double() - joint[b].double().logsumexp(1, keepdim=True)
        order = [row.argsort(descending=True).tolist() for row in joint[b]]
        best = []
        for i in range(30):
            some = [k for k in range(5) if joint[b, k, i] > -torch.inf]
            best.append(min((order[k].index(i) + 1 for k in some), default=None))
            total = sum(float(joint[b, k, i].double().exp()) for k in some)
            assert float(likelihood[b, i].exp()) == pytest.approx(total, abs=1e-6)
            largest = max((float(conditional[k, i]) for k in some), default=-np.inf)
            assert float(pooled[b, i]) == pytest.approx(largest, abs=1e-4)
        shown = [i for i in top(rounds, 30)[b].tolist() if best[i] is not None]
        assert shown == sorted(shown, key=lambda i: (best[i], -float(likelihood[b, i])))
        assert (rounds[b][[i for i in range(30) if best[i] is None]] == -torch.inf).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_rules_list_ends_with_what_only_other_interests_have(seed: int) -> None:
    whole = random_lists(seed)
    shown, scores = whole[:, :2], merging.factorised(whole)
    assert torch.equal(merging.listed("likelihood", shown, scores), scores.double())
    for rule, merge in (("max_score", merging.max_score), ("quotas", merging.quotas)):
        found, merged = merging.listed(rule, shown, scores), merge(shown)
        for b in range(4):
            first = [i for i in top(merged, 30)[b].tolist() if merged[b, i] > -torch.inf]
            rest = [i for i in top(scores, 30)[b].tolist() if scores[b, i] > -torch.inf and i not in first]
            assert top(found, 30)[b].tolist()[: len(first) + len(rest)] == first + rest
        assert torch.equal(found == -torch.inf, scores == -torch.inf)


def test_an_interest_with_nothing_to_show_takes_no_part() -> None:
    joint = random_lists(1)
    without = joint.clone()
    without[:, 2] = -torch.inf
    for merge in (merging.factorised, merging.max_score, merging.quotas):
        torch.testing.assert_close(merge(without), merge(joint[:, [0, 1, 3, 4]]))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_quotas_of_cells_are_the_dials_end(seed: int) -> None:
    """With one owner an item, all cells kept: lists round by round either way."""
    scores = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed)).log_softmax(1)
    cells = torch.randint(6, (30,), generator=torch.Generator().manual_seed(seed))
    joint = merging.cell_lists(scores, cells, torch.arange(6).expand(4, -1))
    torch.testing.assert_close(merging.factorised(joint), scores)
    assert torch.equal(merging.owners(joint), cells.expand(4, -1))
    expected = merging.diversified(scores, cells.expand(4, -1), 1.0)
    assert torch.equal(top(merging.quotas(joint), 30), top(expected, 30))

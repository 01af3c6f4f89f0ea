"""Slices part the targets by what they say, and their figures are those of these targets alone."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data import schema
from prismrec.data.histories import Histories
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.evaluation.slices import (
    COLD_ITEMS,
    HISTORY_LENGTH,
    METRICS,
    PLANTED,
    POPULARITY,
    Planted,
    Slice,
    popularity_deciles,
    read_planted,
    slice_figures,
    slices,
)
from prismrec.metrics.ranking import TargetRanks, per_user_metrics
from prismrec.models.events import EventTable


def world(users: int = 40, items: int = 60, seed: int = 0) -> tuple[EventTable, Cases]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 70, users)
    events = EventTable(np.concatenate([[0], np.cumsum(lengths)]), rng.integers(0, items, lengths.sum()), None)
    return events, make_cases(events, lengths * 4 // 5, lengths, "kept")


def of(parts: list[Slice], name: str) -> dict[str, np.ndarray]:
    return {part.label: part.mask_CT for part in parts if part.name == name}


def test_history_length_and_popularity_part_all_targets() -> None:
    events, cases = world()
    counts = np.arange(60) // 3
    parts = slices(cases, events, counts, None)
    assert [part.name for part in parts] == sorted(
        (part.name for part in parts), key=[HISTORY_LENGTH, POPULARITY, COLD_ITEMS].index
    )
    for name in (HISTORY_LENGTH, POPULARITY):
        assert (sum(mask.astype(int) for mask in of(parts, name).values()) == cases.mask_CT).all()
    for label, mask in of(parts, HISTORY_LENGTH).items():
        low, _, high = label.partition("-")
        inside = cases.starts_C[mask.any(1)]
        assert inside.min() >= int(low.split()[0])
        assert not high or inside.max() <= int(high)
    (cold,) = of(parts, COLD_ITEMS).values()
    assert (cold == (cases.mask_CT & (counts[cases.targets_CT] <= 5))).all()
    never = of(parts, POPULARITY)["no training event"]
    assert (never == (cases.mask_CT & (counts[cases.targets_CT] == 0))).all()


def test_empty_slices_are_left_out() -> None:
    events, cases = world()
    labels = [part.label for part in slices(cases, events, np.full(60, 7), None)]
    assert labels[-1] == "6 (7-7 events)"  # all equal: one decile, the middle one; nothing is cold
    assert "200 or more" not in labels


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_deciles_keep_order_and_equals_together(counts: list[int]) -> None:
    found = popularity_deciles(np.array(counts))
    for count, decile in zip(counts, found, strict=True):
        assert (decile == 0) == (count == 0)
        assert 0 <= decile <= 10
    by_count = sorted(zip(counts, found.tolist(), strict=True))
    assert [decile for _, decile in by_count] == sorted(found.tolist())
    assert len(set(by_count)) == len(set(counts))


def test_deciles_are_tenths_where_all_counts_differ() -> None:
    assert np.bincount(popularity_deciles(np.random.default_rng(0).permutation(50) + 1)).tolist() == [0] + [5] * 10


def test_planted_interests_are_read_by_index() -> None:
    truth = pl.DataFrame(
        [
            ("item", "i1", "sea", 0.3), ("item", "i1", "bread", 0.7), ("item", "i2", "sea", 1.0),
            ("user", "u", "sea", 0.5), ("user", "u", "bread", 0.5), ("user", "v", "sea", 1.0),
        ],
        schema=schema.PLANTED_TRUTH, orient="row",
    )  # fmt: skip
    item_map = pl.DataFrame({schema.ITEM_ID: ["i2", "i1", "i9"]})
    user_map = pl.DataFrame({schema.USER_INDEX: [0, 1, 2], schema.USER_ID: ["v", "u", "w"]})
    histories = replace(Histories.from_lists([[0], [0]]), user_index_U=np.array([1, 0]))
    planted = read_planted(truth, item_map, user_map, histories)
    assert planted is not None
    assert planted.held_U.tolist() == [2, 1]
    assert planted.interest_N.tolist() == [1, 0, -1]  # bread, sea
    assert read_planted(truth.clear(), item_map, user_map, histories) is None


def test_planted_slices_know_new_interests() -> None:
    events = EventTable(np.array([0, 4, 7]), np.array([0, 1, 2, 3, 2, 3, 0]), None)
    cases = make_cases(events, np.array([2, 2]), np.array([4, 3]), "filtered")
    planted = Planted(held_U=np.array([3, 1]), interest_N=np.array([5, 5, 5, 8]))
    found = of(slices(cases, events, np.full(4, 9), planted), PLANTED)
    assert found["3 interests"].tolist() == [[True, True], [False, False]]
    assert found["1 interest"].tolist() == [[False, False], [True, False]]
    # The first has met interest 5: of its targets 2 is old, 3 is new; the second has met both.
    assert found["target's interest in the history"].tolist() == [[True, False], [True, False]]
    assert found["target's interest is new"].tolist() == [[False, True], [False, False]]


def test_figures_are_those_of_the_targets_in_the_slice() -> None:
    rng = np.random.default_rng(0)
    events, cases = world(users=200)
    shape = cases.mask_CT.shape
    places = np.argsort(rng.random((len(shape), *shape))[0], axis=1) * 2  # distinct within a user
    mask_CT, tied_CT = torch.from_numpy(cases.mask_CT), torch.ones(shape, dtype=torch.int64)
    ranks = {
        name: TargetRanks(torch.from_numpy(places + shift), tied_CT, mask_CT)
        for name, shift in (("near", 0), ("far", 7))
    }
    parts = slices(cases, events, np.arange(60) // 3, None)
    figures = slice_figures(ranks, parts, draws=200, seed=1)
    assert [(part["slice"], part["label"]) for part in figures] == [(part.name, part.label) for part in parts]
    for figure, part in zip(figures, parts, strict=True):
        assert figure["cases"] == part.mask_CT.any(1).sum()
        assert figure["targets"] == part.mask_CT.sum()
        for name, row in ranks.items():
            values = per_user_metrics(row._replace(mask_CT=torch.from_numpy(part.mask_CT)), (10,))
            for metric in METRICS:
                value, low, high = figure["models"][name][metric]
                assert value == pytest.approx(np.nanmean(values[metric]))
                assert low <= value <= high
    assert slice_figures(ranks, parts, draws=200, seed=1) == figures


def test_slices_of_other_cases_are_a_bug() -> None:
    ranks = TargetRanks(torch.zeros(1, 2).long(), torch.ones(1, 2).long(), torch.tensor([[True, False]]))
    with pytest.raises(AssertionError, match="other cases"):
        slice_figures({"row": ranks}, [Slice("x", "y", np.array([[True, True]]))], draws=100)

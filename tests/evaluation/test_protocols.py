"""Cases: every target is counted, left out or said; none is lost in silence."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.evaluation.protocols import count, describe, make_cases
from prismrec.models.events import EventTable


def table(*histories: str) -> EventTable:
    """Histories as words: one letter an item, a = 0."""
    items = np.array([ord(letter) - ord("a") for history in histories for letter in history], np.int32)
    return EventTable(np.cumsum([0, *map(len, histories)]), items, None)


def test_the_filtered_rule_leaves_out_what_is_in_the_history() -> None:
    events = table("abca", "abcd", "abb")
    cases = make_cases(events, np.array([2, 1, 2]), np.array([4, 4, 3]), "filtered")
    assert cases.users_C.tolist() == [1, 0]  # the third has no target left; shortest history first
    assert cases.starts_C.tolist() == [1, 2]
    assert cases.targets_CT.tolist() == [[1, 2, 3], [2, 0, 0]]
    assert cases.mask_CT.tolist() == [[True, True, True], [True, False, False]]
    assert count(cases) == {"users": 2, "targets": 4, "left_out": 2, "repeated": 0, "users_left_out": 1}


def test_the_kept_rule_counts_them_and_says_so() -> None:
    events = table("abca", "abcd", "abb")
    cases = make_cases(events, np.array([2, 1, 2]), np.array([4, 4, 3]), "kept")
    assert cases.users_C.tolist() == [1, 0, 2]
    assert cases.targets_CT[cases.mask_CT].tolist() == [1, 2, 3, 2, 0, 1]
    assert count(cases) == {"users": 3, "targets": 6, "left_out": 0, "repeated": 2, "users_left_out": 0}


def test_a_target_met_twice_counts_once_and_an_empty_range_is_no_case() -> None:
    events = table("abcb", "abc", "abc")
    starts, ends = np.array([1, 3, 0], np.int32), np.array([4, 3, 0], np.int32)
    cases = make_cases(events, starts, ends, "filtered")
    assert cases.users_C.tolist() == [0]
    assert cases.targets_CT.tolist() == [[1, 2]]


def test_a_case_without_a_history_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="without a history"):
        make_cases(table("abc"), np.array([0]), np.array([2]), "filtered")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["filtered", "kept"]))
def test_every_distinct_target_is_counted_or_left_out(seed: int, history: Literal["filtered", "kept"]) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, 9)
    events = EventTable(np.concatenate([[0], np.cumsum(lengths)]), rng.integers(0, 7, lengths.sum()), None)
    starts = rng.integers(1, lengths)
    ends = rng.integers(starts, lengths + 1)
    items = events.items_E.numpy()
    asked = before = 0
    expected: dict[int, list[int]] = {}
    for user, first in enumerate(events.offsets_U1[:-1].tolist()):
        seen = set(items[first : first + starts[user]].tolist())
        targets = list(dict.fromkeys(items[first + starts[user] : first + ends[user]].tolist()))
        asked, before = asked + len(targets), before + sum(item in seen for item in targets)
        kept = [item for item in targets if history == "kept" or item not in seen]
        if kept:
            expected[user] = kept
    cases = make_cases(events, starts, ends, history)
    found = {
        user: row[mask].tolist()
        for user, row, mask in zip(cases.users_C.tolist(), cases.targets_CT, cases.mask_CT, strict=True)
    }
    assert found == expected
    assert (np.diff(cases.starts_C) >= 0).all()
    assert count(cases)["targets"] + cases.left_out == asked
    assert len(cases.users_C) + cases.users_left_out == int((ends > starts).sum()), "no user is lost in silence"
    assert (cases.left_out, cases.repeated) == ((before, 0) if history == "filtered" else (0, before))


def test_every_rule_is_put_into_words() -> None:
    split = {"name": "leave_one_out", "description": "d.", "ties": "t.", "repeats": "r.", "time": "w."}
    filtered, kept = describe(split, "filtered"), describe(split, "kept")
    assert set(filtered) == {"name", "description", "ties", "filter", "repeats", "time"}
    assert filtered["ties"].startswith("t. Items of equal score")
    assert filtered["filter"] != kept["filter"]
    expected, listed = filtered["ties"].split("Lists")
    assert "HR, Recall, NDCG and MRR" in expected
    assert "coverage" in listed

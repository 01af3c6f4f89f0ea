"""Sequences: order, repeats, k-core, append-only maps, cut points, hash; properties and real data."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data.tables import events, items, real_data, sequence_parameters, validation_parameters
from prismrec.data import schema
from prismrec.data.histories import Histories, SplitPoints
from prismrec.data.sequences import Sequences, build_sequences, keep_core, order_events
from prismrec.data.sources import read_source
from prismrec.data.splits import leave_one_out
from prismrec.data.validation import validate_tables
from prismrec.errors import DataRejected
from prismrec.parameters.sequence_building import SequenceBuildingParameters

LOOSE = sequence_parameters(min_item_events=1, min_user_events=3)
Row = tuple[str, str, int]


def build(
    rows: list[Row], known: str = "abcdefgh", previous: Sequences | None = None,
    parameters: SequenceBuildingParameters = LOOSE,
) -> Sequences:  # fmt: skip
    return build_sequences(
        events(*rows),
        items(*known),
        previous.item_map if previous else None,
        previous.user_map if previous else None,
        parameters,
    )


def item_lists(sequences: Sequences) -> dict[str, list[str]]:
    """Histories in ids: what was built, seen without indices."""
    item_ids = sequences.item_map[schema.ITEM_ID].to_list()
    user_ids = sequences.user_map[schema.USER_ID].to_list()
    return {
        user_ids[user]: [item_ids[item] for item in row]
        for user, row in sequences.histories.select(schema.USER_INDEX, schema.ITEM_INDICES).iter_rows()
    }


def test_order_is_time_then_source_row() -> None:
    rows = [("u", "d", 9), ("u", "b", 5), ("u", "a", 5), ("u", "c", 1)]
    assert item_lists(build(rows)) == {"u": ["c", "b", "a", "d"]}


def test_repeats_first_drops_later_ones_before_users_are_counted() -> None:
    rows = [
        ("u", "a", 1),
        ("u", "b", 2),
        ("u", "a", 3),
        ("u", "c", 4),
        ("v", "a", 1),
        ("v", "b", 2),
        ("v", "a", 3),
    ]
    assert item_lists(build(rows)) == {"u": ["a", "b", "c"]}
    kept = build(rows, parameters=LOOSE.model_copy(update={"repeats": "keep"}))
    assert item_lists(kept) == {"u": ["a", "b", "a", "c"], "v": ["a", "b", "a"]}


def test_one_pass_leaves_what_iterate_removes() -> None:
    # b has two events; one of them goes with user v, who is left with two.
    rows = [("u", i, t) for t, i in enumerate("abcd")] + [("v", i, t) for t, i in enumerate("bax")]
    rows += [("w", i, t) for t, i in enumerate("acd")]
    one_pass = sequence_parameters(min_item_events=2, min_user_events=3)
    assert item_lists(build(rows, parameters=one_pass)) == {"u": ["a", "b", "c", "d"], "w": ["a", "c", "d"]}
    iterate = one_pass.model_copy(update={"core": "iterate"})
    built = build(rows, parameters=iterate)
    assert item_lists(built) == {"u": ["a", "c", "d"], "w": ["a", "c", "d"]}
    assert built.item_map.filter(schema.ACTIVE)[schema.ITEM_ID].to_list() == ["a", "c", "d"]
    assert built.user_map[schema.ACTIVE].to_list() == [True, False, True]


def test_maps_know_everybody_in_a_fixed_order() -> None:
    rows = [("u2", "z", 1), ("u2", "b", 2), ("u2", "a", 3), ("u10", "y", 1)]
    built = build(rows, known="ba")
    assert built.item_map[schema.ITEM_ID].to_list() == ["b", "a", "y", "z"]  # the table's order, then sorted
    assert built.item_map[schema.TITLE].to_list() == ["Title b", "Title a", "y", "z"]
    assert built.item_map[schema.ACTIVE].to_list() == [True, True, False, True]
    assert built.user_map.rows() == [(0, "u10", False), (1, "u2", True)]


def test_an_item_that_left_the_table_keeps_its_index_and_title() -> None:
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3)]
    first = build(rows, known="abc")
    second = build([("u", "c", 1), ("u", "d", 2), ("u", "b", 3)], known="dcb", previous=first)
    assert second.item_map[schema.ITEM_ID].to_list() == ["a", "b", "c", "d"]
    assert second.item_map[schema.TITLE].to_list() == ["Title a", "Title b", "Title c", "Title d"]
    assert second.item_map[schema.ACTIVE].to_list() == [False, True, True, True]


def test_schemas_and_cut_points() -> None:
    built = build([("u", i, t) for t, i in enumerate("abcde")] + [("v", i, t) for t, i in enumerate("abc")])
    assert built.item_map.schema == schema.ITEM_MAP
    assert built.user_map.schema == schema.USER_MAP
    assert built.histories.schema == schema.HISTORIES
    assert built.splits.schema == schema.SPLITS
    assert built.splits.rows() == [(0, 3, 3, 4, 4, 5), (1, 1, 1, 2, 2, 3)]
    one_each = {"users": 2, "targets": 2, "users_without_history": 0}
    assert built.metrics["cases"] == {"validation": one_each, "test": one_each}
    assert built.metrics["users_whose_last_two_events_tie"] == 0
    assert built.metrics["items_never_in_training"] == 2  # d, e are u's last two


def test_ties_at_the_end_are_counted() -> None:
    built = build([("u", "a", 1), ("u", "b", 2), ("u", "c", 2), *(("v", i, t) for t, i in enumerate("abc"))])
    assert built.metrics["users_whose_last_two_events_tie"] == 0.5


def test_the_hash_names_the_cases_not_the_indices() -> None:
    rows = [("u", i, t) for t, i in enumerate("abcd")]
    plain = build(rows).metrics["split_hash"]
    # The same cases under other indices.
    assert build(rows, known="hgfedcba").metrics["split_hash"] == plain
    swapped = [("u", "a", 0), ("u", "b", 1), ("u", "d", 2), ("u", "c", 3)]
    assert build(swapped).metrics["split_hash"] != plain
    assert build([("x", *row[1:]) for row in rows]).metrics["split_hash"] != plain
    assert build(rows[1:]).metrics["split_hash"] != plain


def test_nobody_left_is_said() -> None:
    with pytest.raises(DataRejected, match="No user is left of 2 events"):
        build([("u", "a", 1), ("u", "b", 2)])


def test_too_short_histories_are_a_bug() -> None:
    short = pl.DataFrame({"user_index": [0], "item_indices": [[1, 2]], "timestamps": [[1, 2]]}, schema=schema.HISTORIES)
    with pytest.raises(AssertionError, match="too short"):
        leave_one_out(short)


logs = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefgh"), st.integers(0, 5)),
    min_size=3,
    max_size=80,
)


@given(logs)
def test_histories_are_what_a_plain_loop_gives(rows: list[Row]) -> None:
    ordered = sorted(enumerate(rows), key=lambda row: (row[1][2], row[0]))
    expected: dict[str, list[str]] = {}
    for _, (user, item, _) in ordered:
        if item not in expected.setdefault(user, []):
            expected[user].append(item)
    expected = {user: row for user, row in expected.items() if len(row) >= 3}
    assume(expected)
    assert item_lists(build(rows)) == expected


@given(logs, st.integers(1, 4), st.integers(3, 5), st.sampled_from(["keep", "first"]))
def test_the_iterated_core_is_a_fixed_point(rows: list[Row], least: int, fewest: int, repeats: str) -> None:
    parameters = sequence_parameters(min_item_events=least, min_user_events=fewest, core="iterate", repeats=repeats)
    core = keep_core(order_events(events(*rows)), parameters)
    assert all(count >= least for count in Counter(core[schema.ITEM_ID]).values())
    assert all(count >= fewest for count in Counter(core[schema.USER_ID]).values())
    assert keep_core(core, parameters).equals(core)
    # And the largest one: nothing that could stay was dropped, whatever the order of dropping.
    if repeats == "keep":
        left = list(rows)
        while True:
            item_counts, user_counts = Counter(r[1] for r in left), Counter(r[0] for r in left)
            kept = [r for r in left if item_counts[r[1]] >= least and user_counts[r[0]] >= fewest]
            if len(kept) == len(left):
                break
            left = kept
        assert len(core) == len(left)


@given(st.lists(logs, min_size=2, max_size=4), st.data())
def test_maps_are_append_only_over_increments(days: list[list[Row]], data: st.DataObject) -> None:
    previous: Sequences | None = None
    for day in days:
        rows = [*day, *(("always", item, 9) for item in "abc")]
        known = "".join(data.draw(st.permutations("abcdefgh"))[: data.draw(st.integers(1, 8))])
        current = build(rows, known, previous)
        for now, before, column in (
            (current.item_map, previous and previous.item_map, schema.ITEM_ID),
            (current.user_map, previous and previous.user_map, schema.USER_ID),
        ):
            assert now.to_series(0).to_list() == list(range(len(now)))
            assert now[column].is_unique().all()
            if before is not None:
                assert now[column].to_list()[: len(before)] == before[column].to_list()
        assert set(current.item_map[schema.ITEM_ID]) >= {row[1] for row in rows} | set(known)
        assert set(item_lists(current)) == set(current.user_map.filter(schema.ACTIVE)[schema.USER_ID])
        previous = current


@given(logs)
def test_flat_arrays_hold_the_same_histories(rows: list[Row]) -> None:
    built = build([*rows, *(("always", item, 9) for item in "abc")])
    flat, cuts = Histories.from_frame(built.histories), SplitPoints.from_frame(built.splits)
    assert len(flat) == len(cuts) == len(built.histories)
    assert (flat.items.dtype, flat.timestamps.dtype, flat.offsets.dtype) == (np.int32, np.int64, np.int64)
    for row, (user, item_indices, timestamps) in enumerate(built.histories.iter_rows()):
        span = slice(flat.offsets[row], flat.offsets[row + 1])
        assert flat.user_index_U[row] == user
        assert flat.items[span].tolist() == item_indices
        assert flat.timestamps[span].tolist() == timestamps
        assert flat.lengths[row] == len(item_indices)
        assert (cuts.train_end_U[row], cuts.validation_start_U[row], cuts.test_start_U[row]) == (
            len(item_indices) - 2, len(item_indices) - 2, len(item_indices) - 1,
        )  # fmt: skip
        assert (cuts.validation_end_U[row], cuts.test_end_U[row]) == (len(item_indices) - 1, len(item_indices))


REAL = [
    ("movielens_1m", "ml-1m", 999_611, 6_040, 3_416, 0.421),
    ("csv", "amazon14-beauty", 198_215, 22_332, 12_086, 0.435),
]


@pytest.mark.parametrize(("source", "folder", "events_in", "users", "active", "ties"), REAL)
def test_real_data_counts(source: str, folder: str, events_in: int, users: int, active: int, ties: float) -> None:
    parameters = validation_parameters(source=source, data_root=str(real_data(folder).parent), folder=folder)
    raw = read_source(parameters)
    tables = validate_tables(raw.interactions, raw.items, parameters)
    metrics = build_sequences(tables.interactions, tables.items, None, None, sequence_parameters()).metrics
    assert metrics["events_in"] == events_in
    assert (metrics["users"], metrics["items"], metrics["cases"]["test"]["users"]) == (users, active, users)
    assert metrics["users_whose_last_two_events_tie"] == pytest.approx(ties, abs=5e-4)

"""Sequences: order, repeats, k-core, append-only maps, cut points, hash; properties and real data."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data.tables import as_lists, events, items, real_data, sequence_parameters, validation_parameters
from prismrec.data import schema
from prismrec.data.histories import Histories, SplitPoints, blocks, trained_items
from prismrec.data.sequences import Events, Sequences, build_sequences, drop_repeats, keep_core
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
        for user, row in as_lists(sequences.histories).select("user_index", "item_indices").iter_rows()
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
    with pytest.raises(AssertionError, match="too short"):
        leave_one_out(Histories.from_lists([[1, 2]]))


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


def as_events(rows: list[Row]) -> Events:
    users, items, times = zip(*rows, strict=True)
    letters = [np.array([ord(letter) - ord("a") for letter in column], np.int32) for column in (users, items)]
    return Events(*letters, np.array(times, np.int64))


@given(logs, st.integers(1, 4), st.integers(3, 5), st.sampled_from(["keep", "first", "last"]))
def test_the_iterated_core_is_a_fixed_point(rows: list[Row], least: int, fewest: int, repeats: str) -> None:
    parameters = sequence_parameters(min_item_events=least, min_user_events=fewest, core="iterate", repeats=repeats)
    core = keep_core(as_events(rows), 26, 26, parameters)
    assert all(count >= least for count in Counter(core.items_E.tolist()).values())
    assert all(count >= fewest for count in Counter(core.users_E.tolist()).values())
    again = keep_core(core, 26, 26, parameters)
    assert all((one == two).all() for one, two in zip(again, core, strict=True))
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


@given(logs, st.integers(3, 6), st.integers(0, 5))
def test_the_newest_events_of_a_user_stay(rows: list[Row], most: int, bits: int) -> None:
    """Whatever the block in which repeats are looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prismrec.data.sequences.MOST_BLOCK_BITS", bits)
        parameters = LOOSE.model_copy(update={"repeats": "last", "max_user_events": most})
        ordered = sorted(enumerate(rows), key=lambda row: (row[1][2], row[0]))
        expected: dict[str, dict[str, None]] = {}
        for _, (user, item, _) in ordered:
            expected.setdefault(user, {}).pop(item, None)
            expected[user][item] = None
        kept = {user: list(row)[-most:] for user, row in expected.items() if len(row) >= 3}
        assume(kept)
        assert item_lists(build(rows, parameters=parameters)) == kept


@given(st.integers(0, 1000), st.sampled_from(["first", "last"]), st.integers(0, 20))
def test_repeats_are_found_among_large_indices(seed: int, rule: str, bits: int) -> None:
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice([0, 7, 2**30, 2**31 - 1], 40)).astype(np.int32)
    log = Events(users, rng.choice([0, 5, 2**31 - 1], 40).astype(np.int32), np.arange(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prismrec.data.sequences.MOST_BLOCK_BITS", bits)
        kept = drop_repeats(log, rule)
    pairs = [(int(user), int(item)) for user, item in zip(log.users_E, log.items_E, strict=True)]
    order = list(enumerate(pairs))
    places = {pair: place for place, pair in (reversed(order) if rule == "first" else order)}
    assert kept.times_E.tolist() == sorted(places.values())


def test_kinds_of_events_and_weights_choose_what_counts() -> None:
    rows = [("u", item, time) for time, item in enumerate("abcdef")]
    log = events(*rows).with_columns(
        event=pl.Series(["buy", "view", "buy", "buy", "buy", None]), weight=pl.Series([5.0, 5.0, 4.0, 3.0, 5.0, None])
    )

    def left(**changes: Any) -> list[str]:
        parameters = LOOSE.model_copy(update=changes)
        built = build_sequences(log, items(*"abcdef"), None, None, parameters)
        assert built.metrics["events_in"] == 6
        assert built.metrics["events_that_count"] == len(item_lists(built)["u"])
        return item_lists(built)["u"]

    assert left() == list("abcdef")
    assert left(events=["buy"]) == list("acde")
    assert left(min_weight=4.0) == list("abce")
    assert left(events=["buy"], min_weight=4.0) == list("ace")
    with pytest.raises(DataRejected, match="None of 6 events counts"):
        left(events=["sell"])


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


def test_an_item_that_falls_below_the_core_and_returns_keeps_its_index() -> None:
    """Ten days, each with newer events only: one more user a day, and "x" popular on the first and last days alone."""
    parameters = sequence_parameters(min_item_events=2, min_user_events=3)
    previous: Sequences | None = None
    active, places, maps = [], [], []
    for day in range(10):
        rows = [(f"u{day}{n}", item, 10 * day + t) for n in "ab" for t, item in enumerate("abcd")]
        rows += [(f"u{day}{n}", "x", 10 * day + 9) for n in ("ab" if day in (0, 8, 9) else "a")]
        previous = build(rows, known=f"abcdx{'efg'[: day % 4]}", previous=previous, parameters=parameters)
        row = previous.item_map.filter(pl.col(schema.ITEM_ID) == "x")
        active.append(row[schema.ACTIVE].item())
        places.append(row[schema.ITEM_INDEX].item())
        maps.append(previous.item_map[schema.ITEM_ID].to_list())
        met = {item for line in item_lists(previous).values() for item in line}
        assert ("x" in met) == active[-1], "active means: has events in the histories"
    assert active == [True, *[False] * 7, True, True]
    assert set(places) == {4}
    assert all(new[: len(old)] == old for old, new in pairwise(maps))
    assert previous is not None
    assert previous.user_map[schema.USER_ID].to_list() == [f"u{day}{n}" for day in range(10) for n in "ab"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 12))
def test_blocks_cover_every_row_once(lengths: list[int], size: int) -> None:
    offsets = np.cumsum([0, *lengths])
    found = list(blocks(offsets, size))
    assert [row for block in found for row in range(block.start, block.stop)] == list(range(len(lengths)))
    assert all(sum(lengths[block]) <= size or block.stop == block.start + 1 for block in found)


def test_histories_are_mapped_into_memory(tmp_path: Path) -> None:
    """A user's events are views, and the arrays cannot be changed."""
    built = build([("u", i, t) for t, i in enumerate("abcd")] + [("v", i, t) for t, i in enumerate("cba")])
    built.histories.save(tmp_path / "histories")
    loaded = Histories.load(tmp_path / "histories")
    assert as_lists(loaded).equals(as_lists(built.histories))
    items_of, times_of = loaded.of(1)
    assert items_of.tolist() == [2, 1, 0]
    for array in (loaded.user_index_U, loaded.offsets, items_of, times_of):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert (loaded.items.dtype, loaded.timestamps.dtype, loaded.offsets.dtype) == (np.int32, np.int64, np.int64)
    cuts = SplitPoints.from_frame(built.splits)
    assert trained_items(loaded, cuts.train_end_U, 8).tolist() == [True, True, True, *[False] * 5]


def _maps_of(folder: Path) -> tuple[int, list[str]]:
    """A sum that needs the items, and how the process maps their file: permissions and inode."""
    histories = Histories.load(folder)
    total = int(histories.items.sum())
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "items.npy" in line]
    return total, [f"{line[1]} {line[4]}" for line in lines]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc to see what a process maps")
def test_processes_map_the_same_file(tmp_path: Path) -> None:
    """Not copies: each maps the file itself, read-only, so that the kernel holds its pages once."""
    Histories.from_lists([[1, 2, 3], [4, 5]]).save(tmp_path / "histories")
    inode = (tmp_path / "histories" / "items.npy").stat().st_ino
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        found = list(workers.map(_maps_of, [tmp_path / "histories"] * 2))
    assert found == [(15, [f"r--s {inode}"])] * 2


# Folder, source: rows, users, items, and mean, median, longest history of the files as they are; then users and
# items of protocol A, and its share of users whose last two events tie.
REAL = [
    ("ml-1m", "movielens", (999_611, 6_040, 3_416), (165.5, 96, 2_277), (6_040, 3_416), 0.421),
    ("amazon14-beauty", "files", (198_215, 22_332, 12_086), (8.9, 6, 204), (22_332, 12_086), 0.435),
    ("steam-100k", "steam", (126_824, 10_369, 3_593), (12.2, 8, 973), (10_360, 3_593), 0.103),
    ("microlens-50k", "microlens", (359_708, 50_000, 19_220), (7.2, 6, 218), (47_031, 14_667), 0.0),
    ("ml-100k", "movielens", (100_000, 943, 1_682), (106, 65, 737), (943, 1_349), 0.441),
]


@pytest.mark.parametrize(("folder", "source", "given", "lengths", "kept", "ties"), REAL)
def test_real_data_counts(
    folder: str,
    source: str,
    given: tuple[int, int, int],
    lengths: tuple[float, int, int],
    kept: tuple[int, int],
    ties: float,
) -> None:
    parameters = validation_parameters(source=source, data_root=str(real_data(folder).parent), folder=folder)
    raw = read_source(parameters)
    tables = validate_tables(raw.interactions, raw.items, parameters)

    def metrics(**changes: Any) -> dict[str, Any]:
        return build_sequences(tables.interactions, tables.items, None, None, sequence_parameters(**changes)).metrics

    whole = metrics(min_item_events=1, min_user_events=3, repeats="keep")
    assert (whole["events_in"], whole["users"], whole["items"]) == given
    assert (whole["events"], whole["history_length_median"], whole["history_length_max"]) == (given[0], *lengths[1:])
    assert whole["history_length_mean"] == pytest.approx(lengths[0], abs=0.05)
    protocol_a = metrics()
    assert (protocol_a["users"], protocol_a["items"], protocol_a["cases"]["test"]["users"]) == (*kept, kept[0])
    assert protocol_a["users_whose_last_two_events_tie"] == pytest.approx(ties, abs=5e-4)

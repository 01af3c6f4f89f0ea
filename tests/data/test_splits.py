"""Cut points of the three protocols, their hash and their counts; distinct targets against a plain loop."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.tables import events, items, sequence_parameters
from prismrec.data import schema
from prismrec.data.histories import Histories
from prismrec.data.sequences import Sequences, build_sequences
from prismrec.data.splits import CUT_POINTS, multi_target_users
from prismrec.data.targets import distinct_targets
from prismrec.errors import DataRejected

PROTOCOLS = ("leave_one_out", "multi_target_users", "global_time")
Row = tuple[str, str, int]


def build(rows: list[Row], known: str = "abcdefgh", **changes: Any) -> Sequences:
    parameters = sequence_parameters(**{"min_item_events": 1, "min_user_events": 3, "repeats": "keep", **changes})
    return build_sequences(events(*rows), items(*known), None, None, parameters)


def world(users: int, seed: int = 0, longest: int = 12) -> list[Row]:
    """Histories of 3 events and more, at distinct times of a user."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for user in range(users):
        times = np.sort(rng.choice(1000, rng.integers(3, longest + 1), replace=False))
        rows += [(f"u{user}", "abcdefgh"[rng.integers(8)], int(time)) for time in times]
    return rows


def test_the_hash_of_leave_one_out_is_that_of_three_cut_points() -> None:
    """Frozen: hashes written down before there were other protocols name the same cases still."""
    rows = [(user, item, time) for user in "uv" for time, item in enumerate("abcd")]
    assert build(rows).metrics["split_hash"] == "8a717f5ea89fa4964b04ec16d2a46d121c36b9b2ecf62c522e142b046283f1d9"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefgh"), st.integers(0, 9)), min_size=3),
    st.sampled_from(PROTOCOLS),
    st.sampled_from([0.1, 0.25, 0.4]),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.integers(0, 20),
)
def test_parts_never_overlap_and_targets_have_a_history(
    rows: list[Row], protocol: str, holdout: float, aimed: float, seed: int
) -> None:
    """Training events come first, then validation's targets, then test's; no target trains."""
    try:
        built = build(rows, protocol=protocol, holdout_share=holdout, target_share=aimed, seed=seed)
    except DataRejected:
        assume(False)
    for length, (_, train, start, end, test_start, test_end) in zip(
        built.histories.lengths, built.splits.rows(), strict=True
    ):
        for first, last in ((start, end), (test_start, test_end)):
            assert 0 <= first <= length
            if last > first:
                assert first >= 1, "a target without a history"
                assert train <= first, "a target trains"
                assert last <= length
            else:
                assert last == first
        if end > start and test_end > test_start:
            assert end <= test_start, "a validation target tests"
    for part in built.metrics["cases"].values():
        assert part["users"] > 0
        assert part["targets"] >= part["users"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(PROTOCOLS), st.sampled_from([0.1, 0.3]))
def test_a_final_fit_trains_on_validation_and_tests_the_same(seed: int, protocol: str, holdout: float) -> None:
    rows = world(40, seed)
    parameters = sequence_parameters(
        min_item_events=1, min_user_events=3, repeats="keep", protocol=protocol, holdout_share=holdout
    )
    try:
        plain, final = (
            build_sequences(events(*rows), items(*"abcdefgh"), None, None, parameters, final) for final in (False, True)
        )
    except DataRejected:
        assume(False)
    test = [schema.TEST_START, schema.TEST_END]
    assert final.splits.select(test).equals(plain.splits.select(test))
    for (_, train, start, end, *_), (_, train_too, start_too, end_too, test_start, test_end) in zip(
        plain.splits.rows(), final.splits.rows(), strict=True
    ):
        assert start_too == end_too, "something validates"
        assert train_too == (end if end > start else train)
        assert test_end == test_start or train_too <= test_start, "a test target trains"
    assert final.metrics["split_hash"] != plain.metrics["split_hash"]
    assert final.metrics["cases"]["test"] == plain.metrics["cases"]["test"]
    assert final.metrics["cases"]["validation"]["users"] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(PROTOCOLS), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_rows(seed: int, protocol: str, shuffler: Any) -> None:
    rows = world(30, seed)
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    plain = build(rows, protocol=protocol, holdout_share=0.3)
    other = build(shuffled, known="hgfedcba", protocol=protocol, holdout_share=0.3)
    assert plain.metrics["split_hash"] == other.metrics["split_hash"]
    assert plain.splits.equals(other.splits)


def test_protocols_have_hashes_of_their_own() -> None:
    rows = world(40)
    hashes = {build(rows, protocol=protocol).metrics["split_hash"] for protocol in PROTOCOLS}
    hashes.add(build(rows, protocol="multi_target_users", target_share=0.5).metrics["split_hash"])
    hashes.add(build(rows, protocol="multi_target_users", seed=8).metrics["split_hash"])
    assert len(hashes) == 5


def test_held_out_users_do_not_train_and_the_others_train_whole() -> None:
    built = build(world(3000, longest=30), protocol="multi_target_users")
    frame = built.splits.with_columns(length=pl.Series(built.histories.lengths).cast(pl.Int32))
    validates = pl.col(schema.VALIDATION_END) > pl.col(schema.VALIDATION_START)
    tests = pl.col(schema.TEST_END) > pl.col(schema.TEST_START)
    assert frame.filter(validates & tests).is_empty()
    assert (frame.filter(~validates & ~tests)[schema.TRAIN_END] == frame.filter(~validates & ~tests)["length"]).all()
    for part, start, end in (
        (frame.filter(validates), schema.VALIDATION_START, schema.VALIDATION_END),
        (frame.filter(tests), schema.TEST_START, schema.TEST_END),
    ):
        assert len(part) / 3000 == pytest.approx(0.1, abs=0.02)
        assert (part[schema.TRAIN_END] == 0).all()
        assert (part[end] == part["length"]).all()
        assert part[start].to_list() == [length * 4 // 5 for length in part["length"]]
    assert built.metrics["cases"]["test"]["users"] == len(frame.filter(tests))


def test_a_user_keeps_its_part_when_others_come() -> None:
    """What is drawn depends on seed and user id alone."""
    few, many = (
        world(40),
        world(90)[: len(world(40))] + [(f"n{u}", i, t) for u in range(200) for t, i in enumerate("abc")],
    )
    parts: list[dict[str, tuple[int, ...]]] = []
    for rows in (few, many):
        built = build(rows, protocol="multi_target_users")
        names = built.user_map[schema.USER_ID].to_list()
        parts.append({names[row[0]]: row[1:] for row in built.splits.rows()})
    assert parts[0] == {user: parts[1][user] for user in parts[0]}


@pytest.mark.parametrize(
    ("length", "share", "start"), [(5, 0.2, 4), (10, 0.2, 8), (3, 0.2, 2), (3, 0.9, 1), (40, 0.3, 28)]
)
def test_the_last_share_of_events_is_aimed_at(length: int, share: float, start: int) -> None:
    histories = Histories.from_lists([range(length)])
    user_map = pl.DataFrame({"user_index": [0], "user_id": ["u"], "active": [True]}, schema=schema.USER_MAP)
    rows = {multi_target_users(histories, user_map, 0.4, share, seed).row(0)[1:] for seed in range(40)}
    assert rows == {
        (0, start, length, length, length),  # validates
        (0, start, start, start, length),  # tests
        (length,) * 5,  # trains
    }


def test_global_time_cuts_at_times() -> None:
    """Sixteen events at times 1 to 8: the last quarter begins at 7, the one before it at 5."""
    rows = [(user, item, time) for user in "uv" for time, item in enumerate("abcdefgh", start=1)]
    built = build(rows, protocol="global_time", holdout_share=0.25)
    assert built.splits.select(CUT_POINTS).rows() == [(4, 4, 6, 6, 8)] * 2
    assert "before 5 train" in built.metrics["protocol"]["description"]
    assert built.metrics["items_never_in_training"] == 4


def test_users_without_a_history_are_counted() -> None:
    rows = [(user, item, time) for user in "uvw" for time, item in enumerate("abcdefgh")]
    rows += [("x", item, 100 + time) for time, item in enumerate("abc")]
    rows += [("u", "a", 101)]
    built = build(rows, protocol="global_time", holdout_share=0.25)  # cuts at 4 and 7
    assert built.metrics["cases"] == {
        "validation": {"users": 3, "targets": 9, "users_without_history": 0},
        "test": {"users": 3, "targets": 4, "users_without_history": 1},
    }


def test_events_at_the_time_of_a_cut_do_not_train() -> None:
    times = (0, 1, 2, 7, 7, 7, 8, 9, 10)
    rows = [(user, item, time) for user in "uvw" for item, time in zip("abcdefgha", times, strict=True)]
    built = build(rows, protocol="global_time", holdout_share=0.25)  # the 14th of 27 events is at 7
    assert built.splits.select(CUT_POINTS).rows() == [(3, 3, 6, 6, 9)] * 3
    assert "at the very time of a cut" in built.metrics["protocol"]["ties"]


def test_nobody_to_validate_with_is_said() -> None:
    with pytest.raises(DataRejected, match="No user is left for validation"):
        build([("u", item, time) for time, item in enumerate("abc")], protocol="multi_target_users")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_says_its_rules(protocol: str) -> None:
    metrics = build(world(40), protocol=protocol).metrics
    assert set(metrics["protocol"]) == {"name", "description", "ties", "repeats", "time"}
    assert metrics["protocol"]["name"] == protocol
    assert all(metrics["protocol"].values())


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([1, 3, 4096]))
def test_targets_are_those_of_a_plain_loop(seed: int, keep_seen: bool, block: int) -> None:
    """Whatever the block: distinct, in order, those of the history left out or kept, and counted."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, 7)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = rng.integers(0, 6, lengths.sum()).astype(np.int32)
    users = rng.permutation(7)[: rng.integers(0, 8)]
    starts = rng.integers(0, lengths[users] + 1)
    ends = rng.integers(starts, lengths[users] + 1)
    expected, seen = [], 0
    for user, start, end in zip(users, starts, ends, strict=True):
        history = flat[offsets[user] : offsets[user] + start].tolist()
        targets = list(dict.fromkeys(flat[offsets[user] + start : offsets[user] + end].tolist()))
        seen += sum(item in history for item in targets)
        expected.append([item for item in targets if keep_seen or item not in history])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prismrec.data.targets.BLOCK", block)
        found = distinct_targets(offsets, flat, users, starts, ends, keep_seen)
    assert [row[mask].tolist() for row, mask in zip(found.items_CT, found.mask_CT, strict=True)] == expected
    assert found.items_CT.shape == (len(users), max((len(row) for row in expected), default=0))
    assert found.seen == seen


def test_global_time_is_refused_where_there_are_no_times() -> None:
    parameters = sequence_parameters(protocol="global_time")
    with pytest.raises(DataRejected, match="no times, so there is no time to cut them at") as refused:
        build_sequences(events(*world(9)), items(*"abcdefgh"), None, None, parameters, times_known=False)
    assert "multi_target_users" in str(refused.value)

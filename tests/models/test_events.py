"""Padded batches of events, against naive Python."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.small import histories
from prismrec.models.events import GAP_BUCKETS, NUM_GAP_BUCKETS, UNKNOWN_GAP, EventTable, gap_buckets


def bucket(seconds: int) -> int:
    """⌊log2(seconds + 1)⌋, with integers alone."""
    return min((max(seconds, 0) + 1).bit_length() - 1, GAP_BUCKETS - 1)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int, int]], int | None, int]:
    """Lengths of histories, slices (user, start, end) of them, a width, a seed."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    slices = []
    for user in draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6)):
        start = draw(st.integers(0, lengths[user]))
        slices.append((user, start, draw(st.integers(start, lengths[user]))))
    return lengths, slices, draw(st.none() | st.integers(0, 12)), draw(st.integers(0, 2**31 - 1))


@settings(max_examples=150, deadline=None)
@given(cuts())
def test_cut_holds_the_slice_on_the_right(
    case: tuple[list[int], list[tuple[int, int, int]], int | None, int],
) -> None:
    lengths, slices, width, seed = case
    offsets, items, times = histories(lengths, seed=seed)
    table = EventTable(offsets, items, times)
    users, starts, ends = (torch.tensor(column) for column in zip(*slices, strict=True))
    batch = table.cut(users, starts, ends, width)
    expected_width = max(end - start for _, start, end in slices) if width is None else width
    assert len(table) == len(lengths)
    assert batch.items_BL.shape == batch.gaps_BL.shape == batch.mask_BL.shape == (len(slices), expected_width)
    for row, (user, start, end) in enumerate(slices):
        # A width below the slice's keeps its newest events.
        events = list(range(start, end))[max(0, end - start - expected_width) :]
        padding = expected_width - len(events)
        assert batch.mask_BL[row].tolist() == [False] * padding + [True] * len(events)
        own_items, own_times = (
            items[offsets[user] : offsets[user + 1]],
            times[offsets[user] : offsets[user + 1]],
        )
        assert batch.items_BL[row, padding:].tolist() == own_items[events].tolist()
        gaps = [bucket(int(own_times[event] - own_times[event - 1])) if event else 0 for event in events]
        assert batch.gaps_BL[row, padding:].tolist() == gaps
        after = [
            bucket(int(own_times[event + 1] - own_times[event])) if event + 1 < lengths[user] else UNKNOWN_GAP
            for event in events
        ]
        assert batch.until_BL[row, padding:].tolist() == after
        assert set(batch.items_BL[row, :padding].tolist()) <= set(items.tolist()), "padding is a real item"


def test_item_at() -> None:
    table = EventTable(np.array([0, 3, 5]), np.array([7, 8, 9, 4, 5]), np.arange(5))
    assert table.item_at(torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])).tolist() == [9, 4, 5]


def whole(table: EventTable, user: int) -> list[int]:
    """The gaps of all of a user's events."""
    start, end = table.offsets_U1[user : user + 2].tolist()
    return table.cut(torch.tensor([user]), torch.tensor([0]), torch.tensor([end - start])).gaps_BL[0].tolist()


def last_until(table: EventTable, users: list[int]) -> list[int]:
    """The time until the request, after each user's last event."""
    ends = (table.offsets_U1[1:] - table.offsets_U1[:-1])[users]
    return table.cut(torch.tensor(users), ends - 1, ends).until_BL[:, 0].tolist()


def test_the_request_comes_after_the_last_event() -> None:
    offsets, items, times = histories([4, 0, 3])
    requests = np.array([times[3] + 100, 5, times[6]])
    asked = EventTable(offsets, items, times, requests=requests)
    assert last_until(asked, [0, 2]) == [bucket(100), 0]
    plain = EventTable(offsets, items, times)
    assert last_until(plain, [0, 2]) == [UNKNOWN_GAP, UNKNOWN_GAP]
    assert torch.equal(asked.gaps_E, plain.gaps_E)


def test_request_times_can_be_withheld_alone() -> None:
    timed = EventTable(*histories([4, 3]))
    some = timed.without_request_times(np.array([True, False]))
    assert torch.equal(some.gaps_E, timed.gaps_E)
    assert (some.until_E[:4] == UNKNOWN_GAP).all()
    assert torch.equal(some.until_E[4:], timed.until_E[4:])
    assert (timed.without_times(np.array([True, False])).until_E[:4] == UNKNOWN_GAP).all()


def test_unknown_times_are_a_bucket_of_their_own() -> None:
    offsets, items, times = histories([4, 3, 5])
    timed, untimed = EventTable(offsets, items, times), EventTable(offsets, items, None)
    some = timed.without_times(np.array([False, True, False]))
    assert UNKNOWN_GAP == NUM_GAP_BUCKETS - 1
    for user, length in enumerate((4, 3, 5)):
        assert whole(untimed, user) == [UNKNOWN_GAP] * length
        assert whole(some, user) == whole(untimed if user == 1 else timed, user)
        assert UNKNOWN_GAP not in whole(timed, user)
    assert torch.equal(some.items_E, timed.items_E)


def test_a_user_without_events_has_an_empty_slice() -> None:
    """As a request with an empty history has it, alone or beside others."""
    for lengths in ([0], [2, 0], [0, 2]):
        offsets, items, times = histories(lengths)
        table = EventTable(offsets, items, times)
        ends = torch.tensor(lengths)
        batch = table.cut(torch.arange(len(lengths)), torch.zeros_like(ends), ends)
        assert batch.mask_BL.sum(1).tolist() == lengths


def test_the_table_keeps_no_hold_of_its_arrays() -> None:
    """Arrays read from files may be read-only, and may change afterwards."""
    offsets, items, times = histories([4])
    for array in (offsets, items, times):
        array.flags.writeable = False
    table = EventTable(offsets, items, times)
    items.flags.writeable = True
    before = table.items_E.clone()
    items[:] = 0
    assert torch.equal(table.items_E, before)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_gap_buckets_are_the_integer_logarithm(times: list[int]) -> None:
    expected = [0] + [bucket(b - a) for a, b in pairwise(times)]
    assert gap_buckets(torch.tensor(times)).tolist() == expected


def test_buckets_at_their_borders() -> None:
    gaps = [0, 1, 2, 3, 6, 7, 86_400, 2**25 - 2, 2**25 - 1, 2**40]
    times = torch.tensor(np.concatenate([[0], np.cumsum(gaps)]))
    assert gap_buckets(times).tolist() == [0, 0, 1, 1, 2, 2, 3, 16, 24, 25, 25]
    assert gap_buckets(torch.tensor([[0, 3], [5, 5]])).tolist() == [[0, 2], [0, 0]]


def test_joined_tables_hold_the_users_one_after_another() -> None:
    offsets, items, times = histories([3, 1, 4])
    alone = [
        EventTable(
            np.array([0, end - start]), items[start:end], times[start:end], requests=np.array([times[end - 1] + 9])
        )
        for start, end in pairwise(offsets.tolist())
    ]
    together = EventTable(offsets, items, times, requests=times[offsets[1:] - 1] + 9)
    joined = EventTable.joined(alone)
    for name in ("offsets_U1", "items_E", "gaps_E", "until_E"):
        assert torch.equal(getattr(joined, name), getattr(together, name))
    assert len(joined) == 3

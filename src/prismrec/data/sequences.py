"""From validated tables to index maps and histories, as a stream: 100 million events fit a laptop's memory.

Ids become indices while the events are read (polars' streaming engine); from then on an event is three numbers in
flat arrays, and everything is sorting and counting.

Protocol A (`min_item_events` 5, `min_user_events` 5, `one_pass`, `first`): items with 5 events, order by
(timestamp, source row), repeats dropped after the first, users with 5 events left. Our choices:
- `iterate` repeats the two filters on what is left until nothing changes; the repeats rule comes before,
  in both modes after the first item filter;
- an item or user is *active* if it still has an event in the histories; maps also keep all the others,
  and an index, once given, is never given again (`previous` maps are extended, never re-sorted);
- ties of time are broken by the order of the source files and their rows, stated in the metrics with the share
  of users whose last two events tie.

Shapes: E events, U users, N items.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from prismrec.data import schema
from prismrec.data.histories import Histories, Int32Array, Int64Array, SplitPoints, blocks, trained_items
from prismrec.data.splits import EVENT_ORDER, count_cases, describe, make_splits, split_hash
from prismrec.errors import DataRejected
from prismrec.parameters.sequence_building import SequenceBuildingParameters

KEY_BITS = 63  # of the number by which events are sorted
PAIR_BITS = 64  # of the number that holds user, item and position
MOST_BLOCK_BITS = 20  # a million events at once: more are no faster


class Sequences(NamedTuple):
    """Everything the stage writes (see `prismrec.data.schema`), and its metrics."""

    item_map: pl.DataFrame
    user_map: pl.DataFrame
    histories: Histories
    splits: pl.DataFrame
    metrics: dict[str, Any]


class Events(NamedTuple):
    """Events as flat arrays."""

    users_E: Int32Array
    items_E: Int32Array
    times_E: Int64Array

    def __len__(self) -> int:
        """Number of events."""
        return len(self.users_E)

    def where(self, kept_E: np.ndarray) -> "Events":
        """The events of a mask, or of positions, in order."""
        return Events(*(column[kept_E] for column in self))


def build_sequences(
    interactions: pl.LazyFrame,
    items: pl.DataFrame,
    previous_item_map: pl.DataFrame | None,
    previous_user_map: pl.DataFrame | None,
    parameters: SequenceBuildingParameters,
    final: bool = False,
    times_known: bool = True,
) -> Sequences:
    """Build maps, histories and splits.

    Args:
        interactions: the validated events, in the order of their source.
        items: the validated items.
        previous_item_map: the item map of the workspace's last run, if any.
        previous_user_map: its user map, if any.
        parameters: which events count, k-core, repeats and protocol.
        final: train on the validation events too; nothing validates.
        times_known: False where the source has no times: events keep its order, and no model is told of any.

    Raises:
        DataRejected: no user is left, at all or to validate or test with; or times are asked for, and there are none.
    """
    if parameters.protocol == "global_time" and not times_known:
        raise DataRejected(
            "The interactions have no times, so there is no time to cut them at.",
            "sequence_building.protocol: global_time",
            "take leave_one_out or multi_target_users, or name the column that holds times",
        )
    item_ids = extend_ids(previous_item_map, _described_first(items, interactions), schema.ITEM_ID)
    user_ids = extend_ids(previous_user_map, _distinct(interactions, schema.USER_ID), schema.USER_ID)
    chosen = read_events(interactions, item_ids, user_ids, parameters)
    counts = {"events_in": _count(interactions), "events_that_count": len(chosen)}
    core = keep_core(chosen, len(user_ids), len(item_ids), parameters)
    del chosen
    if not len(core):
        raise _nobody_left(counts, parameters)
    item_map = make_item_map(item_ids, previous_item_map, items, _occurs(core.items_E, len(item_ids)))
    user_map = make_user_map(user_ids, _occurs(core.users_E, len(user_ids)))
    histories = gather_histories(core)
    splits = make_splits(histories, user_map, parameters, final)
    metrics = {
        **counts,
        **_sizes(core, item_map, user_map),
        **_difficulties(histories, splits, item_map.get_column(schema.ACTIVE).to_numpy()),
        "counted_events": list(parameters.events),
        "min_item_events": parameters.min_item_events,
        "min_user_events": parameters.min_user_events,
        "core": parameters.core,
        "repeats": parameters.repeats,
        "tie_rule": EVENT_ORDER,
        "times_known": times_known,
        "protocol": describe(histories, parameters, final),
        "final_fit": final,
        "cases": count_cases(histories, splits),
        "split_hash": split_hash(histories, splits, item_map, user_map),
    }
    if not times_known:  # all at one time: see `Histories.timed`
        histories = replace(histories, timestamps=np.zeros_like(histories.timestamps))
    return Sequences(item_map, user_map, histories, splits, metrics)


def _nobody_left(counts: dict[str, int], parameters: SequenceBuildingParameters) -> DataRejected:
    if not counts["events_that_count"]:
        return DataRejected(
            f"None of {counts['events_in']:,} events counts.",
            f"sequence_building.events: {parameters.events}, min_weight: {parameters.min_weight}",
            "name kinds of events that the data has, or lower min_weight; null weights never reach one",
        )
    return DataRejected(
        f"No user is left of {counts['events_that_count']:,} events.",
        f"items need {parameters.min_item_events} events, then users {parameters.min_user_events}",
        "lower min_item_events or min_user_events in parameters_sequence_building.yml",
    )


def _count(interactions: pl.LazyFrame) -> int:
    return int(interactions.select(pl.len()).collect(engine="streaming").item())


def _distinct(interactions: pl.LazyFrame, column: str) -> pl.Series:
    """The distinct ids, sorted (as text)."""
    return interactions.select(column).unique().collect(engine="streaming").to_series().sort()


def _described_first(items: pl.DataFrame, interactions: pl.LazyFrame) -> pl.Series:
    """Ids in the order of the items table, then, sorted, those that only have events."""
    return pl.concat([items.get_column(schema.ITEM_ID), _distinct(interactions, schema.ITEM_ID)])


def extend_ids(previous: pl.DataFrame | None, known: pl.Series, column: str) -> pl.Series:
    """Ids by index: the previous ones unchanged, then the new ones as they come."""
    old = known.clear() if previous is None else previous.get_column(column)
    return pl.concat([old, known]).unique(maintain_order=True)


def read_events(
    interactions: pl.LazyFrame, item_ids: pl.Series, user_ids: pl.Series, parameters: SequenceBuildingParameters
) -> Events:
    """The events that count, as indices, in the order of their source."""
    if parameters.events:
        interactions = interactions.filter(pl.col(schema.EVENT).is_in(parameters.events))
    if parameters.min_weight is not None:
        interactions = interactions.filter(pl.col(schema.WEIGHT) >= parameters.min_weight)
    # An enumeration's number is the place of the id among its categories: our index, without a join.
    encoded = interactions.select(
        pl.col(schema.USER_ID).cast(pl.Enum(user_ids)).to_physical().cast(pl.Int32).alias("user"),
        pl.col(schema.ITEM_ID).cast(pl.Enum(item_ids)).to_physical().cast(pl.Int32).alias("item"),
        schema.TIMESTAMP,
    ).collect(engine="streaming")
    return Events(*(column.to_numpy() for column in encoded))


def keep_core(events: Events, num_users: int, num_items: int, parameters: SequenceBuildingParameters) -> Events:
    """Filter items, apply the repeats rule, filter users; with `iterate` until nothing changes.

    Returns:
        What is left, sorted by user, time, and order of the source.
    """
    events = _frequent(events, events.items_E, num_items, parameters.min_item_events)
    events = drop_repeats(order_events(events), parameters.repeats)
    events = _frequent(events, events.users_E, num_users, parameters.min_user_events)
    before = -1
    while parameters.core == "iterate" and len(events) != before:
        before = len(events)
        events = _frequent(events, events.items_E, num_items, parameters.min_item_events)
        events = _frequent(events, events.users_E, num_users, parameters.min_user_events)
    return newest(events, parameters.max_user_events)


def _frequent(events: Events, index_E: Int32Array, size: int, fewest: int) -> Events:
    """Events whose index occurs in at least `fewest` of them."""
    frequent = np.bincount(index_E, minlength=size) >= fewest
    return events if frequent.all() else events.where(frequent[index_E])


def order_events(events: Events) -> Events:
    """Sort events by user and time, equal ones in the order they have."""
    if not len(events):
        return events
    start = int(events.times_E.min())
    time_bits = int(events.times_E.max() - start).bit_length()
    assert time_bits + int(events.users_E.max()).bit_length() <= KEY_BITS, "user and time fit one number"
    # One number to sort by is four times as fast as two columns.
    key_E = (events.users_E.astype(np.int64) << time_bits) | (events.times_E - start)
    ordered = pl.DataFrame({"key": key_E, "item": events.items_E}).sort("key", maintain_order=True)
    del key_E
    key_E = ordered.get_column("key").to_numpy()
    times_E = (key_E & ((1 << time_bits) - 1)) + start
    return Events((key_E >> time_bits).astype(np.int32), ordered.get_column("item").to_numpy(), times_E)


def drop_repeats(events: Events, rule: str) -> Events:
    """Leave of a user's events of one item the first or the last, or all of them; events are sorted by user."""
    if rule == "keep" or not len(events):
        return events
    item_bits = int(events.items_E.max()).bit_length()
    offsets = _offsets(events.users_E)
    kept_E = np.zeros(len(events), np.bool_)
    for rows in blocks(offsets, 2 ** min((PAIR_BITS - item_bits) // 2, MOST_BLOCK_BITS)):
        block = slice(offsets[rows.start], offsets[rows.stop])
        kept = _once_a_pair(events.users_E[block], events.items_E[block], item_bits, rule)
        kept_E[offsets[rows.start] + kept] = True
    return events if kept_E.all() else events.where(kept_E)


def _once_a_pair(users_E: Int32Array, items_E: Int32Array, item_bits: int, rule: str) -> np.ndarray:
    """Positions of the first or last event of every pair of user and item.

    User, item and position make one number: a plain sort of numbers, which is far faster than a stable one or a hash
    table, then puts the events of a pair side by side and in order.
    """
    place_bits = (len(users_E) - 1).bit_length()
    row_E = np.cumsum(np.diff(users_E, prepend=users_E[0]) != 0)  # without the gaps between indices
    key_E = row_E.astype(np.uint64) << np.uint64(item_bits + place_bits)
    key_E |= items_E.astype(np.uint64) << np.uint64(place_bits)
    key_E |= np.arange(len(users_E), dtype=np.uint64)
    key_E.sort()
    pair_E = key_E >> np.uint64(place_bits)
    changes = pair_E[1:] != pair_E[:-1]
    chosen = np.append(True, changes) if rule == "first" else np.append(changes, True)
    place_E: np.ndarray = (key_E[chosen] & np.uint64(2**place_bits - 1)).astype(np.int64)
    return place_E


def newest(events: Events, most: int | None) -> Events:
    """Leave each user's newest events, at most so many; None leaves all. Events are sorted by user and time."""
    if most is None or not len(events):
        return events
    offsets = _offsets(events.users_E)
    from_end_E = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(len(events))
    return events.where(from_end_E <= most)


def _offsets(users_E: Int32Array) -> Int64Array:
    """Where each user's events start, and where the last one's end; events are sorted by user."""
    starts = np.flatnonzero(np.diff(users_E, prepend=-1))
    return np.append(starts, len(users_E)).astype(np.int64)


def _occurs(index_E: Int32Array, size: int) -> np.ndarray:
    return np.bincount(index_E, minlength=size) > 0


def make_item_map(
    item_ids: pl.Series, previous: pl.DataFrame | None, items: pl.DataFrame, active_N: np.ndarray
) -> pl.DataFrame:
    """Every item ever known, by index.

    An item that the items table no longer lists keeps its last known title and text; one that it never
    listed goes by its id.
    """
    columns = [schema.ITEM_ID, schema.TITLE, schema.TEXT, schema.CATEGORIES]
    described = items.select(columns)
    if previous is not None:
        gone = previous.select(columns).join(items, on=schema.ITEM_ID, how="anti")
        described = pl.concat([described, gone])
    ids = item_ids.alias(schema.ITEM_ID).to_frame().with_row_index(schema.ITEM_INDEX)
    return (
        ids.with_columns(pl.Series(schema.ACTIVE, active_N))
        .join(described, on=schema.ITEM_ID, how="left", maintain_order="left")
        .with_columns(
            pl.col(schema.TITLE).fill_null(pl.col(schema.ITEM_ID)),
            pl.col(schema.TEXT).fill_null(""),
            pl.col(schema.CATEGORIES).fill_null([]),
        )
        .pipe(schema.conform, schema.ITEM_MAP)
    )


def make_user_map(user_ids: pl.Series, active_U: np.ndarray) -> pl.DataFrame:
    """Every user ever known, by index."""
    ids = user_ids.alias(schema.USER_ID).to_frame().with_row_index(schema.USER_INDEX)
    return ids.with_columns(pl.Series(schema.ACTIVE, active_U)).pipe(schema.conform, schema.USER_MAP)


def gather_histories(core: Events) -> Histories:
    """Histories of all users that have an event; events are sorted by user and time."""
    offsets = _offsets(core.users_E)
    return Histories(core.users_E[offsets[:-1]], offsets, core.items_E, core.times_E)


def _sizes(core: Events, item_map: pl.DataFrame, user_map: pl.DataFrame) -> dict[str, int]:
    return {
        "events": len(core),
        "users_known": len(user_map),
        "users": int(user_map.get_column(schema.ACTIVE).sum()),
        "items_known": len(item_map),
        "items": int(item_map.get_column(schema.ACTIVE).sum()),
    }


def _difficulties(histories: Histories, splits: pl.DataFrame, active_N: np.ndarray) -> dict[str, int | float]:
    """What makes the cases hard: lengths, ties at the end, items that training never shows."""
    lengths, last = histories.lengths, histories.offsets[1:] - 1
    trained_N = trained_items(histories, SplitPoints.from_frame(splits).train_end_U, len(active_N))
    ties = np.mean((histories.timestamps[last] == histories.timestamps[last - 1]) & (lengths > 1))
    return {
        "history_length_mean": round(len(histories.items) / len(histories), 3),
        "history_length_median": float(np.median(lengths)),
        "history_length_max": int(lengths.max()),
        "users_whose_last_two_events_tie": round(float(ties), 6),
        "items_never_in_training": int(active_N.sum() - (active_N & trained_N).sum()),
    }

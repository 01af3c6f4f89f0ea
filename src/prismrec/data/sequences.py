"""From validated tables to index maps and histories, in polars.

Protocol A (`min_item_events` 5, `min_user_events` 5, `one_pass`, `first`): items with 5 events, order by
(timestamp, source row), repeats dropped after the first, users with 5 events left. Our choices:
- `iterate` repeats the two filters on what is left until nothing changes; the repeats rule comes before,
  in both modes after the first item filter;
- an item or user is *active* if it still has an event in the histories; maps also keep all the others,
  and an index, once given, is never given again (`previous` maps are extended, never re-sorted);
- ties of time are broken by the order of the source file, stated in the metrics with the share of users
  whose last two events tie.
"""

from typing import Any, NamedTuple

import polars as pl

from prismrec.data import schema
from prismrec.data.splits import EVENT_ORDER, count_cases, describe, make_splits, split_hash
from prismrec.errors import DataRejected
from prismrec.parameters.sequence_building import SequenceBuildingParameters


class Sequences(NamedTuple):
    """Everything the stage writes (see `prismrec.data.schema`), and its metrics."""

    item_map: pl.DataFrame
    user_map: pl.DataFrame
    histories: pl.DataFrame
    splits: pl.DataFrame
    metrics: dict[str, Any]


def build_sequences(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    previous_item_map: pl.DataFrame | None,
    previous_user_map: pl.DataFrame | None,
    parameters: SequenceBuildingParameters,
) -> Sequences:
    """Build maps, histories and splits.

    Args:
        interactions: the validated events.
        items: the validated items.
        previous_item_map: the item map of the workspace's last run, if any.
        previous_user_map: its user map, if any.
        parameters: k-core, repeats and protocol.

    Raises:
        DataRejected: no user is left, at all or to validate or test with.
    """
    core = keep_core(order_events(interactions), parameters)
    if core.is_empty():
        raise DataRejected(
            f"No user is left of {len(interactions):,} events.",
            f"items need {parameters.min_item_events} events, then users {parameters.min_user_events}",
            "lower min_item_events or min_user_events in parameters_sequence_building.yml",
        )
    item_map = extend_item_map(previous_item_map, items, interactions, core)
    user_map = extend_user_map(previous_user_map, interactions, core)
    histories = gather_histories(core, item_map, user_map)
    splits = make_splits(histories, user_map, parameters)
    metrics = {
        **_counts(interactions, core, item_map, user_map),
        **_difficulties(core, histories, splits),
        "min_item_events": parameters.min_item_events,
        "min_user_events": parameters.min_user_events,
        "core": parameters.core,
        "repeats": parameters.repeats,
        "tie_rule": EVENT_ORDER,
        "protocol": describe(histories, parameters),
        "cases": count_cases(histories, splits),
        "split_hash": split_hash(histories, splits, item_map, user_map),
    }
    return Sequences(item_map, user_map, histories, splits, metrics)


def order_events(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sort events by user, time, and row of the source file."""
    return interactions.sort(schema.USER_ID, schema.TIMESTAMP, schema.SOURCE_ROW)


def keep_core(ordered: pl.DataFrame, parameters: SequenceBuildingParameters) -> pl.DataFrame:
    """Filter items, apply the repeats rule, filter users; with `iterate` until nothing changes.

    Args:
        ordered: events as `order_events` leaves them; their order is kept.
        parameters: k-core and repeats.
    """
    events = _frequent(ordered, schema.ITEM_ID, parameters.min_item_events)
    if parameters.repeats == "first":
        # The rows are sorted, so the first of each pair is the oldest.
        events = events.unique([schema.USER_ID, schema.ITEM_ID], keep="first", maintain_order=True)
    events = _frequent(events, schema.USER_ID, parameters.min_user_events)
    before = -1
    while parameters.core == "iterate" and len(events) != before:
        before = len(events)
        events = _frequent(events, schema.ITEM_ID, parameters.min_item_events)
        events = _frequent(events, schema.USER_ID, parameters.min_user_events)
    return events


def _frequent(events: pl.DataFrame, column: str, fewest: int) -> pl.DataFrame:
    """Events whose `column` value occurs in at least `fewest` of them."""
    frequent = events.group_by(column).len().filter(pl.col("len") >= fewest)
    return events.join(frequent, on=column, how="semi", maintain_order="left")


def extend_item_map(
    previous: pl.DataFrame | None, items: pl.DataFrame, interactions: pl.DataFrame, core: pl.DataFrame
) -> pl.DataFrame:
    """Append new items: in the order of the items table, then, sorted, those that only have events.

    An item that the items table no longer lists keeps its last known title and text; one that it never
    listed goes by its id.
    """
    seen_only = interactions.select(schema.ITEM_ID).unique().sort(schema.ITEM_ID)
    known = pl.concat([items.select(schema.ITEM_ID), seen_only])
    indices = _append_ids(previous, known, schema.ITEM_INDEX, schema.ITEM_ID)
    columns = [schema.ITEM_ID, schema.TITLE, schema.TEXT, schema.CATEGORIES]
    described = items.select(columns)
    if previous is not None:
        gone = previous.select(columns).join(items, on=schema.ITEM_ID, how="anti")
        described = pl.concat([described, gone])
    item_map = indices.join(described, on=schema.ITEM_ID, how="left", maintain_order="left")
    return item_map.with_columns(
        pl.col(schema.TITLE).fill_null(pl.col(schema.ITEM_ID)),
        pl.col(schema.TEXT).fill_null(""),
        pl.col(schema.CATEGORIES).fill_null([]),
        _is_in(core, schema.ITEM_ID),
    ).pipe(schema.conform, schema.ITEM_MAP)


def extend_user_map(previous: pl.DataFrame | None, interactions: pl.DataFrame, core: pl.DataFrame) -> pl.DataFrame:
    """Append new users, sorted by id (as text)."""
    known = interactions.select(schema.USER_ID).unique().sort(schema.USER_ID)
    indices = _append_ids(previous, known, schema.USER_INDEX, schema.USER_ID)
    return indices.with_columns(_is_in(core, schema.USER_ID)).pipe(schema.conform, schema.USER_MAP)


def _append_ids(previous: pl.DataFrame | None, known: pl.DataFrame, index_column: str, id_column: str) -> pl.DataFrame:
    """Ids with their indices: the previous ones unchanged, then the new ones as they come."""
    old = known.clear() if previous is None else previous.select(id_column)
    if previous is not None:
        indices = previous.get_column(index_column)
        assert (indices == pl.int_range(len(indices), dtype=pl.Int32, eager=True)).all(), "maps have no gaps"
    ids = pl.concat([old, known]).unique(id_column, keep="first", maintain_order=True)
    return ids.with_row_index(index_column)


def _is_in(core: pl.DataFrame, id_column: str) -> pl.Expr:
    return pl.col(id_column).is_in(core.get_column(id_column).unique().implode()).alias(schema.ACTIVE)


def gather_histories(core: pl.DataFrame, item_map: pl.DataFrame, user_map: pl.DataFrame) -> pl.DataFrame:
    """One row an active user, sorted by index: item indices and times as lists, oldest first."""
    return (
        core.lazy()
        .join(
            item_map.lazy().select(schema.ITEM_ID, schema.ITEM_INDEX),
            on=schema.ITEM_ID,
            maintain_order="left",
        )
        .group_by(schema.USER_ID, maintain_order=True)
        .agg(
            pl.col(schema.ITEM_INDEX).alias(schema.ITEM_INDICES),
            pl.col(schema.TIMESTAMP).alias(schema.TIMESTAMPS),
        )
        .join(user_map.lazy().select(schema.USER_ID, schema.USER_INDEX), on=schema.USER_ID)
        .sort(schema.USER_INDEX)
        .collect()
        .pipe(schema.conform, schema.HISTORIES)
    )


def _counts(
    interactions: pl.DataFrame, core: pl.DataFrame, item_map: pl.DataFrame, user_map: pl.DataFrame
) -> dict[str, int]:
    active_users = int(user_map.get_column(schema.ACTIVE).sum())
    return {
        "events_in": len(interactions),
        "events": len(core),
        "users_known": len(user_map),
        "users": active_users,
        "items_known": len(item_map),
        "items": int(item_map.get_column(schema.ACTIVE).sum()),
    }


def _difficulties(core: pl.DataFrame, histories: pl.DataFrame, splits: pl.DataFrame) -> dict[str, int | float]:
    """What makes the cases hard: lengths, ties at the end, items that training never shows."""
    lengths = histories.get_column(schema.ITEM_INDICES).list.len()
    times, items = pl.col(schema.TIMESTAMPS).list, pl.col(schema.ITEM_INDICES).list
    ties = histories.select((times.get(-1) == times.get(-2)).mean()).item()
    trained = histories.with_columns(splits.get_column(schema.TRAIN_END)).select(
        items.head(pl.col(schema.TRAIN_END)).explode(empty_as_null=False)
    )
    return {
        "history_length_mean": round(len(core) / len(histories), 3),
        "history_length_median": lengths.to_frame().select(pl.all().median()).item(),
        "history_length_max": lengths.to_frame().select(pl.all().max()).item(),
        "users_whose_last_two_events_tie": round(ties, 6),
        "items_never_in_training": core.get_column(schema.ITEM_ID).n_unique() - trained.to_series().n_unique(),
    }

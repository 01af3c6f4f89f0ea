"""What validated data look like: the figures behind warnings, plots and drift, computed as a stream.

Nothing here grows with the number of events but one 64-bit hash each (bursts); tables of users, items, days and kinds
are held. All figures are counts, or made from counts, so that the same data give the same bytes.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from prismrec.data import schema
from prismrec.data.pseudonyms import Pseudonyms
from prismrec.data.repeats import among, frequent_hashes

FORMAT = 1  # of the profile; another one is not compared
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
HOUR, DAY = 3600, 86_400
YEAR_1980 = 315_532_800  # the times of logs lie after it: before, their unit is in doubt
MOST_KINDS = 1000  # kinds of events beyond which the column holds no kinds
TIME_BINS = 48
ID_KINDS = {"integer": r"^(?:0|[1-9][0-9]*)$", "integer with leading zeros": r"^0[0-9]+$"}
COUNT = "len"

# What people do not see or take for the same: letters' case, blanks, invisible characters, leading zeros.
_UNSEEN = r"[\s\p{Cc}\p{Cf}]+"


class Burst(NamedTuple):
    """The users with too many events in one clock hour, and the busiest of them."""

    users: int
    user_id: str
    events: int
    hour: int  # seconds since 1970


class Figures(NamedTuple):
    """Validated tables, counted.

    Attributes:
        events: number of events.
        first: earliest time, seconds since 1970 UTC.
        last: latest time.
        before_1980: events that early.
        users: `user_id` and number of events, most events first.
        items: `item_id` and number of events, most events first.
        days: day since 1970 and number of events, in order.
        event_kinds: kind and number of events, or None where there are too many kinds.
        weights: weight, rounded to two digits, and number of events.
        burst: users with too many events in an hour, or None.
        catalogue: the validated items.
        pseudonyms: what users are called where people read of them.
        doubted_unit: what the source says of a declared unit of times that its rows do not look like; else empty.
    """

    events: int
    first: int
    last: int
    before_1980: int
    users: pl.DataFrame
    items: pl.DataFrame
    days: pl.DataFrame
    event_kinds: pl.DataFrame | None
    weights: pl.DataFrame
    burst: Burst | None
    catalogue: pl.DataFrame
    pseudonyms: Pseudonyms
    doubted_unit: str = ""


def count_figures(interactions: pl.LazyFrame, items: pl.DataFrame, burst_events: int) -> Figures:
    """Count the validated tables.

    Args:
        interactions: the validated events, one at least.
        items: the validated items.
        burst_events: events of a user in one hour that are too many.
    """
    time = pl.col(schema.TIMESTAMP)
    totals = interactions.select(
        pl.len().alias("events"),
        time.min().alias("first"),
        time.max().alias("last"),
        (time < YEAR_1980).sum().alias("early"),
        pl.col(schema.EVENT).approx_n_unique().alias("kinds"),
    )
    total = totals.collect(engine="streaming").row(0, named=True)
    return Figures(
        total["events"],
        total["first"],
        total["last"],
        total["early"],
        _sizes(interactions, pl.col(schema.USER_ID)).sort(COUNT, schema.USER_ID, descending=[True, False]),
        _sizes(interactions, pl.col(schema.ITEM_ID)).sort(COUNT, schema.ITEM_ID, descending=[True, False]),
        _sizes(interactions, (time // DAY).alias("day")).sort("day"),
        _sizes(interactions, pl.col(schema.EVENT)).sort(schema.EVENT) if total["kinds"] <= MOST_KINDS else None,
        _sizes(interactions, _two_digits(pl.col(schema.WEIGHT))).sort(schema.WEIGHT),
        _find_burst(interactions, burst_events),
        items,
        Pseudonyms(),
    )


def _sizes(interactions: pl.LazyFrame, key: pl.Expr) -> pl.DataFrame:
    return interactions.group_by(key).agg(pl.len().cast(pl.Int64)).collect(engine="streaming")


def _two_digits(number: pl.Expr) -> pl.Expr:
    """A number rounded, and one zero instead of two: -0.0 is equal to 0.0, and is written otherwise."""
    return pl.when(number == 0).then(pl.lit(0.0)).otherwise(number.round_sig_figs(2)).alias(schema.WEIGHT)


def _find_burst(interactions: pl.LazyFrame, most: int) -> Burst | None:
    hour = (pl.col(schema.TIMESTAMP) // HOUR * HOUR).alias("hour")
    key = pl.struct(pl.col(schema.USER_ID), hour).hash(0)
    hashes = frequent_hashes(interactions, key, most + 1)
    if not len(hashes):
        return None
    suspects = interactions.filter(among(key, hashes)).group_by(schema.USER_ID, hour).len()
    busy = suspects.filter(pl.col(COUNT) > most).collect(engine="streaming")
    if busy.is_empty():
        return None
    top = busy.sort(COUNT, schema.USER_ID, "hour", descending=[True, False, False]).row(0, named=True)
    return Burst(busy.get_column(schema.USER_ID).n_unique(), top[schema.USER_ID], top[COUNT], top["hour"])


def looks_of(ids: pl.Expr) -> pl.Expr:
    """An id without letters' case, blanks, invisible characters and leading zeros."""
    return ids.str.replace_all(_UNSEEN, "").str.to_lowercase().str.replace(r"^0+([0-9])", "$1")


def lookalikes(ids: pl.Series) -> pl.Series:
    """Those of some distinct ids that look like another of them, those of one look side by side."""
    table = ids.alias("id").to_frame().with_columns(looks_of(pl.col("id")).alias("look"))
    return table.filter(pl.col("look").is_duplicated()).sort("look", "id").get_column("id")


def gini(sizes: pl.Series) -> float:
    """How unequal counts are: 0 where all are equal, towards 1 where one has all."""
    ordered = np.sort(sizes.to_numpy()).astype(np.int64)
    ranks = np.arange(1, len(ordered) + 1, dtype=np.int64)
    return float(
        round(2 * float((ranks * ordered).sum()) / (len(ordered) * float(ordered.sum())) - 1 - 1 / len(ordered), 6)
    )


def make_profile(figures: Figures) -> dict[str, Any]:
    """The figures as plain data without ids: what the next run's data are compared with."""
    catalogue = figures.catalogue
    titles = catalogue.get_column(schema.TITLE).str.len_chars()
    texts = catalogue.get_column(schema.TEXT).fill_null("").str.len_chars()
    users, items = figures.users.get_column(COUNT), figures.items.get_column(COUNT)
    return {
        "format": FORMAT,
        "events": figures.events,
        "users": len(users),
        "items": len(catalogue),
        "items_with_events": len(items),
        "first_timestamp": figures.first,
        "last_timestamp": figures.last,
        "popularity_gini": gini(items),
        "history_length": quantiles(users),
        "popularity": quantiles(items),
        "title_length": quantiles(titles),
        "text_length": quantiles(texts),
        "distributions": {
            "history_length": doublings(users),
            "popularity": doublings(items),
            "text_length": doublings(texts),
            "user_id_kind": _kinds(figures.users.get_column(schema.USER_ID)),
            "item_id_kind": _kinds(catalogue.get_column(schema.ITEM_ID)),
            "event_kind": _counts(figures.event_kinds) if figures.event_kinds is not None else {},
            "weight": _counts(figures.weights),
        },
        "events_over_time": over_time(figures.days),
    }


def quantiles(sizes: pl.Series) -> dict[str, float]:
    """Mean and quantiles of whole numbers; zeros where there are none."""
    # A sum of whole numbers is exact in any order, as a mean of them would not be.
    mean = round(float(sizes.sum()) / max(len(sizes), 1), 3)
    return {"mean": mean, **{f"p{round(100 * q)}": float(sizes.quantile(q, "lower") or 0) for q in QUANTILES}}


def doublings(sizes: pl.Series) -> dict[str, int]:
    """How many lie in each of 0, 1, 2-3, 4-7, 8-15, …, by the range's smallest number."""
    value = sizes.to_numpy().astype(np.float64)
    power = np.where(value > 0, np.floor(np.log2(np.maximum(value, 1))) + 1, 0).astype(np.int64)
    counts = np.bincount(power)
    return {str(int(2 ** (place - 1)) if place else 0): int(count) for place, count in enumerate(counts) if count}


def over_time(days: pl.DataFrame) -> dict[str, Any]:
    """Events in up to `TIME_BINS` equal spans of whole days, empty ones too."""
    day = days.get_column("day").to_numpy()
    width = int(day[-1] - day[0]) // TIME_BINS + 1
    counts = np.bincount((day - day[0]) // width, weights=days.get_column(COUNT).to_numpy())
    return {"first_day": int(day[0]), "days_each": width, "events": [int(count) for count in counts]}


def _kinds(ids: pl.Series) -> dict[str, int]:
    counts = {name: int(ids.str.contains(pattern).sum()) for name, pattern in ID_KINDS.items()}
    counts["text"] = len(ids) - sum(counts.values())
    return {name: count for name, count in counts.items() if count}


def _counts(table: pl.DataFrame) -> dict[str, int]:
    """Counts by a key's text; nothing where every key is null."""
    counts = {"none" if key is None else str(key): int(count) for key, count in table.iter_rows()}
    return counts if set(counts) != {"none"} else {}

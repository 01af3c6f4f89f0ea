"""What a table as a whole may look like to deserve a warning: robots, wrong units, skew, ids that look alike.

A watch never changes a row. Whether something is wrong only people can say, so each says what was found, where, and
what to do if it is. Users have pseudonyms in what it says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from prismrec.data import schema
from prismrec.data.profile import COUNT, DAY, Figures, gini, lookalikes
from prismrec.parameters.data_validation import DataValidationParameters


class Finding(NamedTuple):
    """How many rows, users, … a watch is about, 0 for none, and what was found."""

    number: int
    detail: str = ""


NOTHING = Finding(0)
HIGHEST_START = 10_000_000  # seconds; running numbers begin below it
RUNNING_STEP = 10  # numbers an event that running numbers take at most


@dataclass(frozen=True)
class Watch:
    """What may be odd about a table.

    Attributes:
        name: short name in the reports.
        sentence: what is odd, for people.
        mend: what to do about it.
        find: looks at the table's figures.
    """

    name: str
    sentence: str
    mend: str
    find: Callable[[Figures, DataValidationParameters], Finding]


def day_of(timestamp: int) -> str:
    """The day of a time, as ISO 8601; the bare number where the calendar does not reach."""
    try:
        return datetime.fromtimestamp(timestamp, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return f"second {timestamp}"


def _burst(figures: Figures, parameters: DataValidationParameters) -> Finding:
    burst = figures.burst
    if burst is None:
        return NOTHING
    hour = datetime.fromtimestamp(burst.hour % DAY, UTC).strftime("%H:%M")
    return Finding(
        burst.users,
        f"{figures.pseudonyms(burst.user_id)} had {burst.events:,} events in the hour from {day_of(burst.hour)} "
        f"{hour}; more than {parameters.burst_events:,} are watched",
    )


def _dominant(sizes: pl.DataFrame, figures: Figures, parameters: DataValidationParameters) -> tuple[str, int] | None:
    name, count = sizes.row(0)
    # Of a handful of users or items each has a large share: twice an even one is none yet.
    most = max(parameters.max_share_of_one, 2 / len(sizes))
    return (name, count) if count > most * figures.events else None


def _dominant_user(figures: Figures, parameters: DataValidationParameters) -> Finding:
    found = _dominant(figures.users, figures, parameters)
    if found is None:
        return NOTHING
    return Finding(found[1], f"{figures.pseudonyms(found[0])} has {found[1] / figures.events:.1%} of all events")


def _dominant_item(figures: Figures, parameters: DataValidationParameters) -> Finding:
    found = _dominant(figures.items, figures, parameters)
    if found is None:
        return NOTHING
    return Finding(found[1], f"item {found[0]!r} is in {found[1] / figures.events:.1%} of all events")


def _one_second(figures: Figures, _: DataValidationParameters) -> Finding:
    if figures.events < 2 or figures.first != figures.last:
        return NOTHING
    return Finding(figures.events, f"the only time is {day_of(figures.first)}, second {figures.first}")


def _doubted_unit(figures: Figures, _: DataValidationParameters) -> Finding:
    return Finding(figures.events if figures.doubted_unit else 0, figures.doubted_unit)


def _early(figures: Figures, _: DataValidationParameters) -> Finding:
    if figures.before_1980 < figures.events or _are_running_numbers(figures):
        return NOTHING
    return Finding(figures.events, f"from {day_of(figures.first)} to {day_of(figures.last)}")


def _are_running_numbers(figures: Figures) -> bool:
    """Whether times are numbers of events rather than seconds: they start low and hardly outnumber the events."""
    return figures.first <= HIGHEST_START and figures.last <= RUNNING_STEP * figures.events


def _mixed(figures: Figures, _: DataValidationParameters) -> Finding:
    if figures.before_1980 == figures.events:
        return NOTHING
    return Finding(figures.before_1980, f"the earliest is of {day_of(figures.first)}")


def _gap(figures: Figures, parameters: DataValidationParameters) -> Finding:
    steps = figures.days.select(
        pl.col("day").shift(1).alias("before"), "day", (pl.col("day").diff() - 1).alias("empty")
    ).filter(pl.col("empty") > parameters.max_gap_days)
    if steps.is_empty():
        return NOTHING
    longest = steps.sort("empty", "day", descending=[True, False]).row(0, named=True)
    between = f"{day_of(longest['before'] * DAY)} and {day_of(longest['day'] * DAY)}"
    return Finding(len(steps), f"the longest: {longest['empty']:,} days between {between}")


def _skew(figures: Figures, parameters: DataValidationParameters) -> Finding:
    sizes = figures.items.get_column(COUNT)
    found = gini(sizes)
    if found <= parameters.max_popularity_gini:
        return NOTHING
    return Finding(len(sizes), f"Gini coefficient {found:.3f} of the items' events; 1: one item has all")


def _single(figures: Figures, _: DataValidationParameters) -> Finding:
    single = int((figures.users.get_column(COUNT) == 1).sum())
    return Finding(single, f"{single / len(figures.users):.1%} of all users")


def _too_many_kinds(figures: Figures, _: DataValidationParameters) -> Finding:
    return Finding(1, "more than 1,000 kinds") if figures.event_kinds is None else NOTHING


def _alike_users(figures: Figures, _: DataValidationParameters) -> Finding:
    alike = lookalikes(figures.users.get_column(schema.USER_ID))
    return (
        Finding(len(alike), "such as " + " and ".join(map(figures.pseudonyms, alike.head(2))))
        if len(alike)
        else NOTHING
    )


def _alike_items(figures: Figures, _: DataValidationParameters) -> Finding:
    alike = lookalikes(figures.catalogue.get_column(schema.ITEM_ID))
    return Finding(len(alike), "such as " + " and ".join(map(repr, alike.head(2)))) if len(alike) else NOTHING


def _same_titles(figures: Figures, _: DataValidationParameters) -> Finding:
    titles = figures.catalogue.get_column(schema.TITLE)
    same = titles.filter(titles.is_duplicated())
    if same.is_empty():
        return NOTHING
    title, items = same.value_counts(name="items").sort(["items", schema.TITLE], descending=[True, False]).row(0)
    shown = title if len(title) <= 60 else title[:59] + "…"
    return Finding(len(same), f"{items:,} items are called {shown!r}")


INTERACTION_WATCHES = (
    Watch(
        "user_burst",
        "Users have more events in one hour than people make.",
        "leave robots out of the export, or raise data_validation.burst_events",
        _burst,
    ),
    Watch(
        "dominant_user",
        "One user has a large share of all events.",
        "leave test accounts and robots out, or limit sequence_building.max_user_events",
        _dominant_user,
    ),
    Watch(
        "dominant_item",
        "One item is in a large share of all events.",
        "leave it out if it is no item (a home page, a carrier bag)",
        _dominant_item,
    ),
    Watch(
        "one_second",
        "All events are of one second, so that the order of the rows alone makes the histories.",
        "check which column holds the time",
        _one_second,
    ),
    Watch(
        "declared_time_unit",
        "The times do not look like the unit that is declared for them.",
        "correct time_unit of the source, or leave it at auto",
        _doubted_unit,
    ),
    Watch(
        "mixed_time_units",
        "Some events lie before 1980 and others after: perhaps times of two units are mixed.",
        "export all times in one unit, or raise data_validation.earliest_timestamp to take such rows out",
        _mixed,
    ),
    Watch(
        "early_times",
        "All events lie before 1980: perhaps the times are of another unit, or dates such as 20240131.",
        "check how the times were read, and say what they are: time_unit of the source",
        _early,
    ),
    Watch(
        "time_gap",
        "There are long times without any event.",
        "check whether files are missing, or raise data_validation.max_gap_days",
        _gap,
    ),
    Watch(
        "popularity_skew",
        "Nearly all events are of few items.",
        "expect baselines by popularity to be strong; or raise data_validation.max_popularity_gini",
        _skew,
    ),
    Watch(
        "users_with_one_event",
        "Users have a single event, which makes no history.",
        "nothing has to be done: sequence_building.min_user_events leaves them out",
        _single,
    ),
    Watch(
        "lookalike_user_ids",
        "User ids differ only by capitals, blanks, invisible characters or leading zeros.",
        "if they are one user's, export one way of writing; ids are kept as given",
        _alike_users,
    ),
    Watch(
        "many_event_kinds",
        "The column of events holds too many kinds to be one.",
        "map a column with few kinds, or none, as the event",
        _too_many_kinds,
    ),
)
ITEM_WATCHES = (
    Watch(
        "duplicate_title",
        "Items share a title, and are told apart by id alone.",
        "list variants of one thing as one item, or give them titles that differ",
        _same_titles,
    ),
    Watch(
        "lookalike_item_ids",
        "Item ids differ only by capitals, blanks, invisible characters or leading zeros.",
        "if they are one item's, export one way of writing; ids are kept as given",
        _alike_items,
    ),
)

"""The synthetic world: users with a few drifting interests, items in series, and the planted truth.

The embedded demo's data; nothing in it is measured from people. Our choices, made so that every stage
has something to find:
- an item belongs to one interest, one in five also to a neighbour; inside an interest, popularity is Zipf;
- items come in series of 3 to 8, and a user often goes on to the next of a series: the local transitions
  by which sequential models beat popularity;
- a user holds 2 to 5 interests whose weights move in a straight line from one Dirichlet draw to another,
  and keeps to one interest within a session;
- *cold* items appear at the end, only as somebody's last event, *silent* items never;
- a few broken rows, well under 1 %, give the quarantine something to show.
The same seed and parameters give the same bytes. Time steps are a loop, users within a step are not.

Legend: U users, N items, K interests, S interest slots of a user (5), T longest history.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prismrec.data import schema
from prismrec.data.vocabulary import INTERESTS
from prismrec.parameters.sources import SyntheticWorld

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SLOTS = 5  # most interests a user can hold
FEWEST_EVENTS = 5
SECOND_INTEREST_SHARE = 0.2  # of the items
SECOND_INTEREST_WEIGHT = 0.3
COLD_EVENTS = (5, 8)  # events of a cold item: from, below
COLD_USER_EVENTS = 12  # shortest history that may end in a cold item, so that the k-core keeps it
WORLD_START = 1_704_067_200  # 2024-01-01
DAY = 86_400
WORLD_SECONDS = 366 * DAY
RELEASE_SECONDS = 14 * DAY  # cold items come out this long before the end
SESSION_EVENTS = 4.0  # mean length of a session
INTERACTIONS_NAME = "synthetic/interactions"
ITEMS_NAME = "synthetic/items"
NUMERALS = ("", " II", " III", " IV", " V", " VI", " VII", " VIII")


class World(NamedTuple):
    """What the source hands on: raw tables and what was planted in them."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    truth: pl.DataFrame


@dataclass(frozen=True)
class Catalogue:
    """Items as arrays. Row order is random with respect to interests; ids follow row order."""

    interest_N: Ints  # first interest
    second_N: Ints  # second interest, or -1
    successor_N: Ints  # next item of the series, or -1
    title_N: list[str]
    text_N: list[str]
    categories_N: list[list[str]]
    weight_KN: Floats  # popularity of an item within an interest; 0: not of it, or cold, or silent
    cold: Ints  # rows of the cold items

    def __len__(self) -> int:
        return len(self.interest_N)


@dataclass(frozen=True)
class Tastes:
    """Which interests each user holds, and how strongly at the beginning and at the end."""

    interest_US: Ints
    start_US: Floats  # rows sum to 1; 0 where the user holds fewer interests
    end_US: Floats
    events_U: Ints

    def weights(self, position_U: Floats) -> Floats:
        """Weights [U, S] at a relative position in [0, 1] of each user's history."""
        return self.start_US + (self.end_US - self.start_US) * position_U[:, None]


def make_world(seed: int, world: SyntheticWorld) -> World:
    """Generate the world: raw interactions, raw items, planted truth (see `prismrec.data.schema`)."""
    item_rng, user_rng, walk_rng, time_rng, dirt_rng = np.random.default_rng(seed).spawn(5)
    catalogue = _make_catalogue(item_rng, world)
    tastes = _make_tastes(user_rng, world)
    item_UT = _walk(walk_rng, world, catalogue, tastes)
    time_UT = _make_times(time_rng, tastes)
    _end_in_cold_items(walk_rng, catalogue, tastes, item_UT, time_UT)
    events = _events_frame(tastes, item_UT, time_UT)
    return World(
        _with_broken_events(dirt_rng, events),
        _with_broken_items(dirt_rng, _items_frame(catalogue)),
        _truth_frame(catalogue, tastes),
    )


# Items


def _make_catalogue(rng: np.random.Generator, world: SyntheticWorld) -> Catalogue:
    total, interests = world.items, len(INTERESTS)
    sizes = np.full(interests, total // interests) + (np.arange(interests) < total % interests)
    order = rng.permutation(total)  # position in the list of interests -> row, so that ids tell nothing
    titles, texts, categories = [""] * total, [""] * total, [[""]] * total
    interest_N = np.empty(total, np.int64)
    successor_N = np.full(total, -1, np.int64)
    second_N = np.where(rng.random(total) < SECOND_INTEREST_SHARE, rng.integers(0, interests, total), -1)
    weight_KN = np.zeros((interests, total))
    for k, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        interest_N[rows] = k
        series = _cut_into_series(rng, rows)
        weight_KN[k, rows] = _series_popularity(rng, series, len(rows), world.zipf_exponent)
        for name, members in zip(_series_names(rng, k, len(series)), series, strict=True):
            successor_N[members[:-1]] = members[1:]
            for volume, row in enumerate(members):
                titles[row], texts[row] = _describe(rng, k, name, volume)
    second_N[second_N == interest_N] = -1
    both = np.flatnonzero(second_N >= 0)
    weight_KN[second_N[both], both] = SECOND_INTEREST_WEIGHT * weight_KN[interest_N[both], both]
    for row in range(total):
        own = [interest_N[row], second_N[row]] if second_N[row] >= 0 else [interest_N[row]]
        categories[row] = list(dict.fromkeys([*(INTERESTS[k].shelf for k in own), *(INTERESTS[k].name for k in own)]))
    apart = _last_volumes(rng, successor_N, world.cold_items + world.silent_items)
    weight_KN[:, apart] = 0
    successor_N[np.isin(successor_N, apart)] = -1
    return Catalogue(interest_N, second_N, successor_N, titles, texts, categories, weight_KN, apart[: world.cold_items])


def _cut_into_series(rng: np.random.Generator, rows: Ints) -> list[Ints]:
    """Cut one interest's rows into series of 3 to 8 items."""
    cuts = np.cumsum(rng.integers(3, 9, size=len(rows) // 3 + 1))
    return [part for part in np.split(rows, cuts[cuts < len(rows)]) if len(part)]


def _series_popularity(rng: np.random.Generator, series: list[Ints], items: int, exponent: float) -> Floats:
    """Zipf weights that sum to 1, in the order of the series laid end to end.

    First volumes tend to draw the better ranks.
    """
    volume = np.concatenate([np.arange(len(members)) for members in series])
    rank = np.empty(items)
    rank[np.argsort(rng.random(items) * (1 + volume))] = np.arange(1, items + 1)
    weights: Floats = rank**-exponent
    weights /= weights.sum()
    return weights


def _series_names(rng: np.random.Generator, k: int, count: int) -> list[str]:
    """Distinct names, an adjective and a noun each."""
    adjectives, nouns = INTERESTS[k].adjectives, INTERESTS[k].nouns
    picks = rng.choice(len(adjectives) * len(nouns), size=count, replace=False)
    return [f"{adjectives[p // len(nouns)]} {nouns[p % len(nouns)]}" for p in picks]


def _describe(rng: np.random.Generator, k: int, name: str, volume: int) -> tuple[str, str]:
    """Title and description, such as "Quiet Harbour: Sea Chronicle II"."""
    words = INTERESTS[k]
    subject, other, third = (words.subjects[i] for i in rng.choice(len(words.subjects), 3, replace=False))
    form = words.forms[rng.integers(len(words.forms))]
    adjective = words.adjectives[rng.integers(len(words.adjectives))]
    noun = words.nouns[rng.integers(len(words.nouns))].lower()
    title = f"{name}: {subject} {form}{NUMERALS[volume]}"
    text = (
        f"Part {volume + 1} of the {name} series. {adjective} {form.lower()} about {subject.lower()},"
        f" {other.lower()} and the {noun}, for everyone who cares for {third.lower()} and {words.name}."
    )
    return title, text


def _last_volumes(rng: np.random.Generator, successor_N: Ints, count: int) -> Ints:
    """Pick `count` items that end a series, so that taking them out breaks no chain."""
    return rng.permutation(np.flatnonzero(successor_N < 0))[:count]


# Users


def _make_tastes(rng: np.random.Generator, world: SyntheticWorld) -> Tastes:
    users, interests = world.users, len(INTERESTS)
    popularity_K = rng.permutation(np.arange(1, interests + 1) ** -0.5)
    # Gumbel top-k: distinct interests, drawn by popularity.
    keys_UK = np.log(popularity_K) + rng.gumbel(size=(users, interests))
    interest_US = np.argsort(-keys_UK, axis=1)[:, :SLOTS]
    tail = rng.lognormal(np.log(world.median_events), world.length_spread, users)
    events_U = np.clip(FEWEST_EVENTS - 1 + tail, FEWEST_EVENTS, world.longest_history).astype(np.int64)
    # The longest histories hold the most interests: two would not fill them.
    held_U = np.maximum(rng.integers(2, SLOTS + 1, users), np.minimum(2 + events_U // 60, SLOTS))
    held_US = np.arange(SLOTS) < held_U[:, None]

    def dirichlet() -> Floats:
        mass_US: Floats = np.where(held_US, rng.gamma(1.0, size=(users, SLOTS)) + 0.1, 0)
        mass_US /= mass_US.sum(1, keepdims=True)
        return mass_US

    return Tastes(interest_US, dirichlet(), dirichlet(), events_U)


class _Walkers:
    """What the users have met so far: the mutable state of the walk."""

    def __init__(self, users: int, items: int) -> None:
        self.seen_UN: Bools = np.zeros((users, items), np.bool_)
        self.slot_U: Ints = np.zeros(users, np.int64)
        # Item last met in each slot's interest, or -1.
        self.last_US: Ints = np.full((users, SLOTS), -1, np.int64)


def _walk(rng: np.random.Generator, world: SyntheticWorld, catalogue: Catalogue, tastes: Tastes) -> Ints:
    """Items met at each step, [U, T], -1 after the end of a history."""
    state = _Walkers(world.users, len(catalogue))
    item_UT = np.full((world.users, int(tastes.events_U.max())), -1, np.int64)
    anywhere_N = catalogue.weight_KN.sum(0)
    for step in range(item_UT.shape[1]):
        users = np.flatnonzero(tastes.events_U > step)
        _choose_slots(rng, world, tastes, state, users, step)
        items = _choose_items(rng, world, catalogue, tastes, state, users, anywhere_N)
        if step >= 2 * FEWEST_EVENTS:  # the shortest histories stay free of repeats
            again = np.flatnonzero(rng.random(len(users)) < world.repeat_share)
            items[again] = item_UT[users[again], rng.integers(0, step, len(again))]
        item_UT[users, step] = items
        state.seen_UN[users, items] = True
        state.last_US[users, state.slot_U[users]] = items
    return item_UT


def _choose_slots(
    rng: np.random.Generator, world: SyntheticWorld, tastes: Tastes, state: _Walkers, users: Ints, step: int
) -> None:
    """Keep each user's interest, or draw one anew by the weights of the moment."""
    weights_US = tastes.weights(step / np.maximum(tastes.events_U - 1, 1))[users]
    drawn = _draw_columns(rng, weights_US)
    stays = (rng.random(len(users)) < world.stay_share) & (step > 0)
    state.slot_U[users] = np.where(stays, state.slot_U[users], drawn)


def _choose_items(
    rng: np.random.Generator,
    world: SyntheticWorld,
    catalogue: Catalogue,
    tastes: Tastes,
    state: _Walkers,
    users: Ints,
    anywhere_N: Floats,
) -> Ints:
    """One unseen item a user: the next of a series, else by popularity in the interest, else anywhere."""
    interest_U = tastes.interest_US[users, state.slot_U[users]]
    seen_UN = state.seen_UN[users]
    inside_UN = np.where(seen_UN, 0, catalogue.weight_KN[interest_U])
    explores = (rng.random(len(users)) < world.explore_share) | (inside_UN.sum(1) <= 0)
    inside_UN[explores] = np.where(seen_UN[explores], 0, anywhere_N)
    items = _draw_columns(rng, inside_UN)
    last_U = state.last_US[users, state.slot_U[users]]
    successor_U = np.where(last_U >= 0, catalogue.successor_N[last_U], -1)
    follows = (successor_U >= 0) & ~explores & (rng.random(len(users)) < world.series_share)
    follows &= ~seen_UN[np.arange(len(users)), successor_U]
    return np.where(follows, successor_U, items)


def _draw_columns(rng: np.random.Generator, weights: Floats) -> Ints:
    """Draw one column a row, in proportion to the row's weights (which need not sum to 1)."""
    cumulative = np.cumsum(weights, axis=1)
    threshold = rng.random(len(weights)) * cumulative[:, -1]
    # Strictly greater: a column of weight 0 is never drawn.
    columns: Ints = (cumulative > threshold[:, None]).argmax(axis=1)
    return columns


def _make_times(rng: np.random.Generator, tastes: Tastes) -> Ints:
    """Seconds since 1970, [U, T]: sessions of minutes, days apart, somewhere within the year."""
    shape = (len(tastes.events_U), int(tastes.events_U.max()))
    minutes = 60 * rng.lognormal(np.log(8), 1.0, shape)
    days = DAY * rng.lognormal(np.log(2), 1.2, shape)
    gap_UT = np.maximum(np.where(rng.random(shape) < 1 / SESSION_EVENTS, days, minutes), 1)
    gap_UT[:, 0] = 0
    elapsed_UT = np.cumsum(gap_UT, axis=1)
    span_U = elapsed_UT[np.arange(shape[0]), tastes.events_U - 1]
    room = WORLD_SECONDS - DAY
    longest_U = room * rng.uniform(0.7, 1, shape[0])
    squeeze_U = np.minimum(1, longest_U / np.maximum(span_U, 1))
    start_U = rng.random(shape[0]) * (room - span_U * squeeze_U)
    # One more second a step keeps a squeezed history strictly ascending.
    time_UT: Ints = (start_U[:, None] + elapsed_UT * squeeze_U[:, None]).astype(np.int64)
    return time_UT + WORLD_START + np.arange(shape[1])


def _end_in_cold_items(
    rng: np.random.Generator, catalogue: Catalogue, tastes: Tastes, item_UT: Ints, time_UT: Ints
) -> None:
    """Replace, in place, some users' last event by a cold item of an interest they hold."""
    end = WORLD_START + WORLD_SECONDS
    free = tastes.events_U >= COLD_USER_EVENTS
    for item in catalogue.cold:
        holds = ((tastes.interest_US == catalogue.interest_N[item]) & (tastes.start_US > 0)).any(1)
        wanted = int(rng.integers(*COLD_EVENTS))
        # Users who hold the interest first; in a small world others fill up.
        order = np.lexsort((rng.random(len(free)), ~holds, ~free))
        users = order[:wanted]
        free[users] = False
        last = tastes.events_U[users] - 1
        earliest = np.maximum(time_UT[users, last - 1] + 1, end - RELEASE_SECONDS)
        item_UT[users, last] = item
        time_UT[users, last] = earliest + (rng.random(wanted) * (end - earliest)).astype(np.int64)


# Tables


def _ids(prefix: str, rows: Ints) -> pl.Series:
    return pl.Series([f"{prefix}{row:05d}" for row in rows], dtype=pl.String)


def _events_frame(tastes: Tastes, item_UT: Ints, time_UT: Ints) -> pl.DataFrame:
    """One row an event in the order of time, as a log would have it."""
    met = np.arange(item_UT.shape[1]) < tastes.events_U[:, None]
    user, step = np.nonzero(met)
    order = np.lexsort((step, user, time_UT[user, step]))
    user, step = user[order], step[order]
    return pl.DataFrame(
        {
            schema.USER_ID: _ids("u", user),
            schema.ITEM_ID: _ids("i", item_UT[user, step]),
            schema.TIMESTAMP: time_UT[user, step],
        }
    )


def _items_frame(catalogue: Catalogue) -> pl.DataFrame:
    return pl.DataFrame(
        {
            schema.ITEM_ID: _ids("i", np.arange(len(catalogue))),
            schema.TITLE: catalogue.title_N,
            schema.TEXT: catalogue.text_N,
            schema.CATEGORIES: catalogue.categories_N,
        },
        schema_overrides={schema.CATEGORIES: schema.STRING_LIST},
    )


def _with_broken_events(rng: np.random.Generator, events: pl.DataFrame) -> pl.DataFrame:
    """Append copies of events with something broken: about 70 rows of 100,000."""
    one = max(1, len(events) // 10_000)
    breaks = (
        pl.lit(None, pl.String).alias(schema.USER_ID),
        pl.lit(None, pl.String).alias(schema.ITEM_ID),
        pl.lit(None, pl.Int64).alias(schema.TIMESTAMP),
        (-pl.col(schema.TIMESTAMP)).alias(schema.TIMESTAMP),
        (pl.col(schema.TIMESTAMP) * 1000).alias(schema.TIMESTAMP),
        (pl.lit("removed-") + pl.col(schema.ITEM_ID)).alias(schema.ITEM_ID),
        pl.col(schema.USER_ID),  # an exact duplicate
    )
    parts = [events[np.sort(rng.choice(len(events), one, replace=False))].with_columns(broken) for broken in breaks]
    return _located(pl.concat([events, *parts]), INTERACTIONS_NAME, schema.RAW_INTERACTIONS)


def _with_broken_items(rng: np.random.Generator, items: pl.DataFrame) -> pl.DataFrame:
    """Append two items without a title and a second row of one item; blank one item's text."""
    blank, twice = rng.choice(len(items), 2, replace=False)
    described = items.with_columns(
        pl.when(pl.int_range(pl.len()) == int(blank)).then(pl.lit("")).otherwise(pl.col(schema.TEXT)).alias(schema.TEXT)
    )
    untitled = items[:2].with_columns(
        (pl.lit("untitled-") + pl.col(schema.ITEM_ID)).alias(schema.ITEM_ID),
        pl.lit(None, pl.String).alias(schema.TITLE),
    )
    return _located(pl.concat([described, untitled, items[int(twice)]]), ITEMS_NAME, schema.RAW_ITEMS)


def _located(frame: pl.DataFrame, name: str, columns: pl.Schema) -> pl.DataFrame:
    """Say of each row where it stands."""
    located = frame.with_columns(
        pl.lit(name).alias(schema.SOURCE_FILE),
        pl.int_range(pl.len(), dtype=pl.Int64).alias(schema.SOURCE_ROW),
    )
    absent = (pl.lit(None).alias(column) for column in columns if column not in located.columns)
    return schema.conform(located.with_columns(absent), columns)


def _truth_frame(catalogue: Catalogue, tastes: Tastes) -> pl.DataFrame:
    """Long table of who holds what: a user's weight is its mean over the history."""
    both = catalogue.second_N >= 0
    first_weight_N = np.where(both, 1 / (1 + SECOND_INTEREST_WEIGHT), 1.0)
    user, slot = np.nonzero(tastes.start_US > 0)
    parts = (
        (
            "user",
            "u",
            user,
            tastes.interest_US[user, slot],
            tastes.weights(np.full(len(tastes.events_U), 0.5))[user, slot],
        ),
        ("item", "i", np.arange(len(catalogue)), catalogue.interest_N, first_weight_N),
        ("item", "i", np.flatnonzero(both), catalogue.second_N[both], 1 - first_weight_N[both]),
    )
    names = np.array([interest.name for interest in INTERESTS])
    return pl.concat(
        pl.DataFrame(
            {
                "kind": [kind] * len(rows),
                "id": _ids(prefix, rows),
                "interest": names[interests],
                "weight": weights,
            },
            schema=schema.PLANTED_TRUTH,
        )
        for kind, prefix, rows, interests, weights in parts
    ).sort("kind", "id", "interest")

"""Each watch sees what it is for, names nobody, and is quiet otherwise."""

from typing import Any

import polars as pl
import pytest

from data.tables import events, items, validation_parameters
from prismrec.data import schema
from prismrec.data.contract import interactions_contract, items_contract
from prismrec.data.profile import count_figures, gini, lookalikes, make_profile, over_time
from prismrec.data.watches import Finding

DAY = 86_400
START = 1_000_000_000
PLAIN = [(f"u{user}", f"i{item}", START + DAY * item + user) for user in range(30) for item in range(30)]


def watch(
    rows: list[tuple[str, str, int]],
    catalogue: pl.DataFrame | None = None,
    kinds: list[str] | None = None,
    **changes: Any,
) -> dict[str, Finding]:
    """What is found, by watch."""
    parameters = validation_parameters(**changes)
    table = events(*rows)
    if kinds is not None:
        table = table.with_columns(pl.Series(schema.EVENT, kinds))
    known = catalogue if catalogue is not None else items(*{item: 0 for _, item, _ in rows})
    figures = count_figures(table, known, parameters.burst_events)
    contracts = (items_contract(parameters), interactions_contract(parameters, known[schema.ITEM_ID]))
    found = {w.name: w.find(figures, parameters) for contract in contracts for w in contract.watches}
    return {name: finding for name, finding in found.items() if finding.number}


def test_plain_events_raise_nothing() -> None:
    assert watch(PLAIN) == {}


def test_a_robot_is_seen_and_not_named() -> None:
    hour = START // 3600 * 3600 + 3600
    robot = [("ada", "i1", hour + second) for second in range(11)]
    found = watch(PLAIN + robot, burst_events=10)
    assert found["user_burst"].number == 1
    assert "11 events in the hour from 2001-09-09 02:00" in found["user_burst"].detail
    assert "ada" not in found["user_burst"].detail
    assert watch(PLAIN + robot, burst_events=11) == {}
    # A clock hour: the same events on both sides of its end are none.
    assert watch(PLAIN + [(u, i, t + 3595) for u, i, t in robot], burst_events=10) == {}


def test_one_user_and_one_item_in_many_events() -> None:
    many = [("ada", f"i{n % 30}", START + DAY * (n % 30) + n) for n in range(200)]
    found = watch(PLAIN + many)
    assert found["dominant_user"].number == 230 - 30
    assert "ada" not in found["dominant_user"].detail
    assert "18.2%" in found["dominant_user"].detail
    one = [(f"u{n % 30}", "home page", START + DAY * (n % 30) + n) for n in range(200)]
    assert "'home page' is in 18.2%" in watch(PLAIN + one)["dominant_item"].detail
    assert "dominant_item" in watch([(f"u{n}", "abc"[max(n - 97, 0)], START + n) for n in range(100)])


@pytest.mark.parametrize(
    ("rows", "name", "number", "detail"),
    [
        ([("u", "a", START), ("v", "b", START)], "one_second", 2, "2001-09-09"),
        ([*PLAIN, ("u1", "i1", 1_000_000)], "mixed_time_units", 1, "1970-01-12"),
        ([*PLAIN, ("u1", "i1", START + 200 * DAY)], "time_gap", 1, "170 days between 2001-10-08 and 2002-03-28"),
        ([*PLAIN, ("one", "i1", START)], "users_with_one_event", 1, "3.2%"),
        ([*PLAIN, *[(f" U{n}", "i1", START) for n in (1, 1)]], "lookalike_user_ids", 2, "user "),
        ([*PLAIN, ("u1", "I01", START), ("u1", "I1", START)], "lookalike_item_ids", 2, "'I1' and 'i1'"),
    ],
)
def test_odd_tables(rows: list[tuple[str, str, int]], name: str, number: int, detail: str) -> None:
    found = watch(rows)[name]
    assert found.number == number
    assert detail in found.detail


def test_running_numbers_for_times_are_no_mix_of_units() -> None:
    for last in (1, 20):
        assert not {"mixed_time_units", "early_times"} & set(watch([("u", "a", 0), ("u", "b", last)]))


@pytest.mark.parametrize(
    ("first", "last", "span"),
    [
        (20_240_101, 20_240_131, "1970-08-23"),  # dates taken for seconds
        (1_400_000, 1_500_000, "1970-01-17 to 1970-01-18"),  # kiloseconds
        (0, 21, "1970-01-01"),
    ],
)
def test_times_that_all_lie_before_1980_are_doubted(first: int, last: int, span: str) -> None:
    found = watch([("u", "a", first), ("u", "b", last)])
    assert found["early_times"].number == 2
    assert span in found["early_times"].detail
    assert "mixed_time_units" not in found


def test_many_numbers_that_start_high_are_no_running_numbers() -> None:
    rows = [("u", "a", 20_000_000 + n) for n in range(3_000)]
    figures = count_figures(events(*rows), items("a"), 10**6)
    (early,) = [
        w for w in interactions_contract(validation_parameters(), pl.Series(["a"])).watches if w.name == "early_times"
    ]
    many = figures._replace(events=30_000_000, before_1980=30_000_000)
    assert early.find(many, validation_parameters()).number == 30_000_000


def test_skew_titles_and_kinds() -> None:
    skewed = [("u1", "i0", START + n) for n in range(5000)]
    assert "Gini" in watch(PLAIN + skewed, max_popularity_gini=0.5)["popularity_skew"].detail
    twins = items("i0", "i1").with_columns(pl.lit("Twin").alias(schema.TITLE))
    assert watch(PLAIN[:2] + PLAIN[:2], twins)["duplicate_title"] == Finding(2, "2 items are called 'Twin'")
    kinds = [f"kind {n}" for n in range(1500)]
    assert "many_event_kinds" in watch((PLAIN * 2)[:1500], kinds=kinds)
    assert "many_event_kinds" not in watch((PLAIN * 2)[:1500], kinds=["a", "b", "c"] * 500)


def test_lookalikes_and_gini() -> None:
    ids = pl.Series(["007", "7", "0", "A b", "ab", "\u200bab", "x", "00"])
    assert lookalikes(ids).to_list() == ["0", "00", "007", "7", "A b", "ab", "\u200bab"]
    assert gini(pl.Series([3, 3, 3])) == 0
    assert gini(pl.Series([1, 2, 3, 4])) == 0.25  # by hand
    assert gini(pl.Series([1])) == 0


def test_the_profile_is_the_same_whatever_the_order_of_rows() -> None:
    weights = pl.Series([[0.0, -0.0, 4.56, 4.64, None][n % 5] for n in range(len(PLAIN))])
    table = events(*PLAIN).with_columns(weights.alias(schema.WEIGHT))
    one = make_profile(count_figures(table, items("i1"), 9))
    two = make_profile(count_figures(table.collect().sample(fraction=1, shuffle=True, seed=1).lazy(), items("i1"), 9))
    assert one == two
    assert one["distributions"]["weight"] == {"none": 180, "0.0": 360, "4.6": 360}
    assert one["distributions"]["history_length"] == {"16": 30}
    assert one["distributions"]["user_id_kind"] == {"text": 30}
    assert one["distributions"]["event_kind"] == {}


def test_events_over_time_leave_no_day_out() -> None:
    days = pl.DataFrame({"day": [10, 12, 200], "len": [1, 2, 5]})
    found = over_time(days)
    assert (found["first_day"], found["days_each"]) == (10, 4)
    assert sum(found["events"]) == 8
    assert (found["events"][0], found["events"][-1], len(found["events"])) == (3, 5, 48)

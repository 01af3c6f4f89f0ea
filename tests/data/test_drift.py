"""What moved between two versions of the data is said with how much; what did not is not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tables import events, items, validation_parameters
from prismrec.data.drift import compare, stability_index
from prismrec.data.profile import count_figures, make_profile

PARAMETERS = validation_parameters()
DAY = 86_400
LONGER = {"events", "items_with_events", "span_days", "history_length.p50", "distribution of history_length"}
counts = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 1000))


def profile(users: int = 20, length: int = 8, start: int = 0, prefix: str = "u") -> dict[str, Any]:
    rows = [(f"{prefix}{user}", f"i{event}", (start + event) * DAY) for user in range(users) for event in range(length)]
    return make_profile(count_figures(events(*rows), items("i1", "i2"), 100))


def moved(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    measures = compare(before, now, PARAMETERS)
    assert measures is not None
    return {measure["what"] for measure in measures if measure["moved"]}


def test_nothing_moves_between_equal_versions() -> None:
    assert moved(profile(), profile()) == set()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (profile(users=24), set()),  # a fifth more
        (profile(users=30), {"events", "users", "popularity.p50"}),
        (profile(length=16), LONGER),
        (profile(prefix=""), {"distribution of user_id_kind"}),
    ],
)
def test_what_moves_is_named(now: dict[str, Any], expected: set[str]) -> None:
    assert moved(profile(), now) - {"distribution of popularity"} == expected


def test_data_that_end_earlier_have_moved_and_later_ones_have_not() -> None:
    assert moved(profile(start=10), profile(start=9)) == {"last_day"}
    assert moved(profile(start=10), profile(start=11)) == set()


def test_the_change_is_relative_to_before() -> None:
    (users,) = [m for m in compare(profile(), profile(users=30), PARAMETERS) or [] if m["what"] == "users"]
    assert (users["before"], users["now"], users["change"]) == (20, 30, 0.5)


def test_nothing_is_relative_to_zero() -> None:
    before = {**profile(), "items_with_events": 0}
    (measure,) = [m for m in compare(before, profile(), PARAMETERS) or [] if m["what"] == "items_with_events"]
    assert (measure["before"], measure["now"], measure["change"], measure["moved"]) == (0, 8, None, True)
    (same,) = [m for m in compare(before, before, PARAMETERS) or [] if m["what"] == "items_with_events"]
    assert (same["change"], same["moved"]) == (0, False)


def test_there_is_nothing_to_compare_the_first_version_or_a_foreign_format_with() -> None:
    assert compare(None, profile(), PARAMETERS) is None
    assert compare({**profile(), "format": 0}, profile(), PARAMETERS) is None


def test_index_by_hand() -> None:
    assert stability_index({"a": 50, "b": 50}, {"a": 80, "b": 20}) == pytest.approx(0.415888, abs=1e-6)
    assert stability_index({}, {"a": 1}) > 0.2


@given(counts, counts)
def test_index_is_zero_for_equal_shares_symmetric_and_never_negative(one: dict[str, int], two: dict[str, int]) -> None:
    assert stability_index(one, {name: 3 * count for name, count in one.items()}) == pytest.approx(0, abs=1e-6)
    assert stability_index(one, two) == pytest.approx(stability_index(two, one), abs=1e-6)
    assert stability_index(one, two) >= 0

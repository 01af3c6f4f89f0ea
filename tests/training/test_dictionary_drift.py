"""The drift report: interests by their items, shares, plot."""

import json
from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional as F

from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.training.dictionary_drift import drift, drift_plot, interests, labels, parted
from prismrec.training.dictionary_refresh import DictionaryVectors


def found(before: Sequence[str], now: Sequence[str]) -> dict[str, list]:
    return interests(before, now, before, now)


def test_a_split_is_told_by_the_items() -> None:
    report = found(["0-0"] * 10, ["0-0"] * 6 + ["0-1"] * 4)
    assert report["interests"] == {"born": 1, "retired": 0, "moved": 0, "kept": 1}
    assert report["interests_born"] == [{"interest": "0-1", "from": "0-0", "items_shared": 4}]


def test_a_retired_interest_says_where_its_items_went() -> None:
    report = found(["0-0"] * 3 + ["1-1"] * 4, ["0-0"] * 3 + ["0-0", "2-2", "2-2", "0-0"])
    assert report["interests_retired"] == [{"interest": "1-1", "to": "0-0", "items_shared": 2}]
    assert [row["interest"] for row in report["interests_born"]] == ["2-2"]


def test_an_interest_that_lost_most_of_its_items_has_moved() -> None:
    report = found(["0-0"] * 5 + ["0-1"] * 2, ["0-1", "0-1", "0-1", "0-0", "0-0", "0-1", "0-1"])
    assert report["interests_moved"] == [{"interest": "0-0", "to": "0-1", "items_shared": 3}]
    assert report["interests"]["kept"] == 2


def test_an_interest_of_new_items_only_comes_from_nowhere() -> None:
    report = interests(["0-0"], ["0-0", "1-0"], ["0-0"], ["0-0"])
    assert report["interests_born"] == [{"interest": "1-0", "from": None, "items_shared": 0}]


def test_parted_does_not_care_for_names() -> None:
    assert parted(["a", "a", "b"], ["x", "x", "y"]) == 0
    assert parted(["a", "a", "a", "a"], ["x", "x", "x", "y"]) == pytest.approx(0.25)
    assert parted([], []) == 0


def made(seed: int) -> tuple[InterestDictionary, DictionaryVectors]:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    vectors = F.normalize(torch.randn(60, 8, generator=generator), dim=-1)
    dictionary = InterestDictionary(InterestDictionaryConfig(8, 4, 8, (3, 3))).eval()
    with torch.no_grad():
        dictionary.quantizer.start_from(dictionary.encode(vectors), seed)
    return dictionary, DictionaryVectors(torch.arange(60), vectors, vectors)


def test_the_first_report_has_nothing_before_it() -> None:
    report = drift("fitted", *made(0), None)
    assert report["kind"] == "fitted"
    assert "before" not in report
    assert report["now"]["cells"] == 9
    json.dumps(drift_plot(report), allow_nan=False)


def test_nothing_changes_between_equals() -> None:
    report = drift("refreshed", *made(0), made(0))
    assert report["items_moved"] == 0
    assert report["items_barely_moved"] == report["items_in_both"] == 60
    assert report["barely_moved_changed_share"] == 0
    assert report["interests"]["born"] == report["interests"]["retired"] == report["interests"]["moved"] == 0
    assert report["before"] == report["now"]
    assert report["items_parted_share"] == 0


def test_what_is_fitted_anew_shares_no_ids() -> None:
    """Ids of two separate fits say nothing about each other: no interest is called born or moved."""
    report = drift("fitted", *made(1), made(0))
    assert "items_moved" not in report
    assert "interests_born" not in report
    assert 0 < report["items_parted_share"] < 1
    assert report["before"]["vector_error"] > 0


def test_the_plot_shows_both_sides() -> None:
    figure = drift_plot(drift("refreshed", *made(0), made(0)))
    assert [bars["name"] for bars in figure["data"]] == ["before", "now", "interests"]
    assert figure["data"][1]["y"][0] == 1.0
    assert len(figure["data"][0]["x"]) == 6
    json.dumps(figure, allow_nan=False)


def test_labels_are_those_of_the_dictionary() -> None:
    dictionary, rows = made(0)
    cells = dictionary.cell_index(dictionary.codes_of(rows.full_ND))
    assert labels(dictionary, rows.full_ND) == [dictionary.label(int(cell)) for cell in cells]


@pytest.mark.parametrize(("sizes", "dim"), [((3, 3, 3), 8), ((4,), 8), ((3, 3), 12)])
def test_a_dictionary_of_another_shape_is_compared_as_far_as_it_goes(sizes: tuple[int, ...], dim: int) -> None:
    """Other levels, or vectors of another tower: each side has its own bars, and no vector is said to have moved."""
    torch.manual_seed(1)
    vectors = F.normalize(torch.randn(60, dim), dim=-1)
    dictionary = InterestDictionary(InterestDictionaryConfig(dim, 4, 8, sizes)).eval()
    report = drift("fitted", dictionary, DictionaryVectors(torch.arange(60), vectors, vectors), made(0))
    assert ("items_barely_moved" in report) == (dim == 8)
    assert report["items_in_both"] == 60
    before, now, _ = drift_plot(report)["data"]
    assert len(before["x"]) == 6
    assert len(now["x"]) == 2 * len(sizes) + 2


def test_few_items_are_compared_as_they_come() -> None:
    """Three vectors of eight numbers can be turned onto any others."""
    (dictionary, rows), (_, others) = made(0), made(1)
    few, fewer = (
        DictionaryVectors(part.items_N[:3], part.full_ND[:3], part.text_only_ND[:3]) for part in (rows, others)
    )
    assert drift("refreshed", dictionary, few, (dictionary, fewer))["items_barely_moved"] == 0
    assert drift("refreshed", dictionary, few, (dictionary, few))["items_barely_moved"] == 3

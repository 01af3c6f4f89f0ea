"""The catalogue: search in titles, categories, and items that are added."""

import numpy as np
import pytest

from prismrec.artifacts.bundle import CatalogueItem
from prismrec.serving.catalogue import Catalogue, folded

TITLES = ["Amélie (2001)", "The Alien", "Alien", "Aliens", "Inalienable", "A Bug's Life", "Alien, gone"]
COUNTS = np.array([1, 5, 2, 9, 7, 3, 99])


@pytest.fixture
def catalogue() -> Catalogue:
    items = [
        CatalogueItem(row, f"i{row}", title, ("Horror",) if "lien" in title else (), row != 6)
        for row, title in enumerate(TITLES)
    ]
    return Catalogue(items, COUNTS, len(items))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("alien", ["Aliens", "Alien", "The Alien", "Inalienable"]),  # beginnings, words, anywhere; by popularity
        ("AMELIE", ["Amélie (2001)"]),
        ("amélie 2001", ["Amélie (2001)"]),
        ("  life   bug ", ["A Bug's Life"]),
        ("nothing", []),
        ("", ["Aliens", "Inalienable", "The Alien", "A Bug's Life"]),
    ],
)
def test_titles_are_found(catalogue: Catalogue, query: str, found: list[str]) -> None:
    assert [item.title for item in catalogue.search(query, 4)] == found


def test_a_limit_keeps_the_best(catalogue: Catalogue) -> None:
    assert [item.title for item in catalogue.search("alien", 3)] == ["Aliens", "Alien", "The Alien"]


def test_case_accents_and_spaces_do_not_count() -> None:
    assert folded("  Straße  ÉTÉ ") == "strasse ete"


def test_categories_are_looked_up(catalogue: Catalogue) -> None:
    assert catalogue.in_categories(["Horror", "nothing"]) == [1, 2, 3, 4, 6]
    assert catalogue.places(["i5", "nobody"]) == [5]


def test_items_are_added_and_replaced_and_the_old_catalogue_stays(catalogue: Catalogue) -> None:
    changed = [CatalogueItem(6, "i6", "Back again", (), True), CatalogueItem(7, "new", "Alien 7", ("Comedy",), True)]
    grown = catalogue.with_items(changed, np.append(COUNTS, 0))
    assert [item.title for item in grown.search("again", 4)] == ["Back again"]
    assert grown.rows["new"] == 7
    assert grown.in_categories(["Comedy"]) == [7]
    assert (len(catalogue), len(grown), grown.from_bundle) == (7, 8, 7)
    assert catalogue.search("again", 4) == []

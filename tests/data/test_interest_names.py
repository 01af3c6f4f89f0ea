"""Names of interests: specific categories, and a title where they say too little."""

import numpy as np

from prismrec.data.interest_names import interest_names

COUNTS = np.array([1, 5, 3, 4, 2, 9])
TITLES = ["a", "b", "c", "d", "e", "f"]


def test_the_most_specific_categories_name_a_cell() -> None:
    cells = np.array([0, 0, 1, 1, 1, 1])
    categories = [["all", "sea", "ship"], ["all", "sea"], ["all"], ["all", "land"], ["all", "land"], ["all", "land"]]
    assert interest_names(cells, categories, TITLES, COUNTS) == {0: "sea, ship", 1: "land"}


def test_cells_of_one_name_are_told_apart_by_their_most_popular_title() -> None:
    cells = np.array([0, 0, 1, 1, 2, 2])
    categories = [["sea"], ["sea"], ["sea"], ["sea"], ["land"], ["land"]]
    assert interest_names(cells, categories, TITLES, COUNTS) == {0: "sea: b", 1: "sea: d", 2: "land"}


def test_without_categories_the_title_stands_alone() -> None:
    assert interest_names(np.array([3, 3, 7, 7, 7, 7]), [None] * 6, TITLES, COUNTS) == {3: "b", 7: "f"}


def test_without_categories_words_of_the_titles_name_a_cell() -> None:
    """The words that most of a cell's titles share, and others' do not."""
    titles = ["Red shoe, the small", "Red shoe of 1999", "The blue hat", "A blue hat", "the end", "Paris"]
    cells = np.array([0, 0, 1, 1, 2, 2])
    found = interest_names(cells, [None] * 6, titles, COUNTS)
    assert found[0] == "red, shoe"
    assert found[1] == "blue, hat"
    assert found[2] == "Paris", "no word of two of its titles"


def test_words_stand_in_for_categories_that_say_nothing() -> None:
    categories = [["all"]] * 4
    titles = ["Sea charts", "Sea songs", "Land maps", "Land laws"]
    assert interest_names(np.array([0, 0, 1, 1]), categories, titles, COUNTS[:4]) == {0: "sea", 1: "land"}

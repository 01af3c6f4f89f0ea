"""Rows of interests, their map and their table."""

import json

import numpy as np
import pytest

from prismrec.data.interest_table import as_table, interest_map, interest_rows, principal_plane

CELLS = np.array([0, 0, 2, 2, 2, 5])
COUNTED = np.array([True, True, True, True, False, True])
COUNTS = np.array([5, 20, 10, 30, 99, 35])
NAMES = {0: "Sea", 2: "Sky", 5: "Stone"}
TITLES = ["a", "b", "c", "d", "e", "f"]


def rows() -> list[dict]:
    vectors = np.eye(6, 4, dtype=np.float32)
    return interest_rows(CELLS, COUNTED, vectors, COUNTS, TITLES, NAMES, lambda cell: f"{cell // 3}-{cell % 3}")


def test_rows_count_recommendable_items_and_their_events() -> None:
    found = {row["id"]: row for row in rows()}
    assert set(found) == {"0-0", "0-2", "1-2"}
    assert found["0-0"]["items"] == 2
    assert found["0-2"]["items"] == 2, "one is not recommendable"
    assert found["0-2"]["share_of_events"] == pytest.approx(0.4)
    assert sum(row["share_of_events"] for row in found.values()) == pytest.approx(1)
    assert found["0-2"]["titles"] == ["d", "c"], "the most popular first"
    assert found["1-2"]["name"] == "Stone"


def test_the_most_used_come_first() -> None:
    shares = [row["share_of_events"] for row in rows()]
    assert shares == sorted(shares, reverse=True)


def test_the_plane_keeps_distances_of_flat_points() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(9, 2)) @ np.linalg.qr(rng.normal(size=(6, 2)))[0].T + 3
    found = principal_plane(flat)
    assert np.allclose(
        np.linalg.norm(found[:, None] - found[None], axis=-1), np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    )
    assert np.allclose(principal_plane(flat + 7), found), "where they lie in the whole does not matter"


@pytest.mark.parametrize("points", [1, 2])
def test_few_interests_have_a_plane_too(points: int) -> None:
    found = principal_plane(np.eye(points, 5))
    assert found.shape == (points, 2)
    assert np.isfinite(found).all()


def test_the_map_has_a_circle_an_interest() -> None:
    figure = interest_map(rows(), "abc")
    circles = figure["data"][0]
    assert len(circles["x"]) == len(circles["y"]) == len(circles["text"]) == 3
    assert circles["marker"]["size"] == [row["share_of_events"] for row in rows()]
    assert "Sky" in circles["text"][0]
    json.dumps(figure, allow_nan=False)


def test_the_table_shows_the_first() -> None:
    text = as_table(rows(), "abc", top=1)
    assert "dictionary abc: 3 interests" in text
    assert "Sky" in text
    assert "d · c" in text
    assert "Stone" not in text

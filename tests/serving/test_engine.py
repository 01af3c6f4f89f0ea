"""The engine: what it recommends, leaves out, reports and calls things."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.artifacts.bundle import CatalogueItem, Versions
from prismrec.errors import UserError
from prismrec.serving.engine import EMPTY_NOTE, UNKNOWN_NOTE, Engine, UnknownModel, top_k

INF = np.inf
VERSIONS = Versions(model="m", dictionary=None, data="d")


class Ranking(NamedTuple):
    scores_N: np.ndarray
    interest_scores_KN: np.ndarray
    weights_K: np.ndarray
    labels_K: list[str]


class FixedRanker:
    """Gives the same ranking to everybody, and remembers what it was asked."""

    def __init__(self, name: str, ranking: Ranking) -> None:
        self.name = name
        self.ranking = ranking
        self.asked: list[tuple[list[int], int | None]] = []
        self.asked_at: int | None = None

    def rank(
        self, items: np.ndarray, timestamps: np.ndarray | None, num_interests: int | None, now: int | None
    ) -> Ranking:
        self.asked_at = now
        self.asked.append((items.tolist(), num_interests))
        return self.ranking


def two_interests() -> Ranking:
    # Items:       a     b     c     d     e (not active)
    first = [-1.0, -2.0, -INF, -2.0, -0.1]
    second = [-INF, -3.0, -0.5, -1.0, -0.1]
    return Ranking(
        scores_N=np.array([-1.4, -2.4, -1.7, -1.9, -0.1]),
        interest_scores_KN=np.array([first, second]),
        weights_K=np.array([0.7, 0.3]),
        labels_K=["0-1", "refined-1"],
    )


@pytest.fixture
def engine() -> Engine:
    items = [
        CatalogueItem(0, "a", "Alien", ("Horror", "Sci-Fi"), True),
        CatalogueItem(1, "b", "Brazil", ("Sci-Fi",), True),
        CatalogueItem(2, "c", "Clue", ("Comedy",), True),
        CatalogueItem(3, "d", "Diner", ("Comedy", "Drama"), True),
        CatalogueItem(4, "e", "Eraserhead", ("Horror",), False),
    ]
    popular = np.log(np.array([[0.1, 0.4, 0.2, 0.2, 0.1]]))
    rankers = {
        "gemirec": FixedRanker("gemirec", two_interests()),
        "popularity": FixedRanker("popularity", Ranking(popular[0], popular, np.ones(1), ["popular"])),
    }
    return Engine(items, rankers, "gemirec", VERSIONS, {"0-1": "Space"}, "bundle-1")


def ids(items: list) -> list[str]:  # type: ignore[type-arg]
    return [item.item_id for item in items]


def test_interests_and_the_merged_list(engine: Engine) -> None:
    answer = engine.recommend(["a"], k=2)
    assert [interest.id for interest in answer.interests] == ["0-1", "refined-1"]
    assert [interest.weight for interest in answer.interests] == [0.7, 0.3]
    assert ids(answer.interests[0].items) == ["b", "d"]  # equal scores: by index
    assert ids(answer.interests[1].items) == ["c", "d"]
    assert [(item.item_id, item.title, item.score, item.interest) for item in answer.items] == [
        ("c", "Clue", -1.7, "refined-1"),
        ("d", "Diner", -1.9, "refined-1"),
    ]
    assert (answer.model, answer.versions, answer.note) == ("gemirec", VERSIONS, None)


def test_interests_are_named_by_the_bundle_or_by_their_categories(engine: Engine) -> None:
    labels = [interest.label for interest in engine.recommend(["a"]).interests]
    assert labels == ["Space", "Comedy, Drama"]


def test_seen_items_stay_only_if_asked_for(engine: Engine) -> None:
    assert "a" not in ids(engine.recommend(["a"], k=5).items)
    assert "a" not in ids(engine.recommend(["a"], k=5).interests[0].items)
    assert ids(engine.recommend(["a"], k=5, exclude_seen=False).items) == ["a", "c", "d", "b"]


def test_inactive_items_are_known_but_never_recommended(engine: Engine) -> None:
    answer = engine.recommend(["e"], k=5, exclude_seen=False)
    assert answer.unknown_items == []
    assert "e" not in ids(answer.items) + ids(answer.interests[0].items)


def test_unknown_items_are_reported_once_and_left_out(engine: Engine) -> None:
    answer = engine.recommend(["x", "b", "y", "x", "a"], num_interests=2)
    assert answer.unknown_items == ["x", "y"]
    assert engine.rankers["gemirec"].asked == [([1, 0], 2)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("history", "note"), [([], EMPTY_NOTE), (["x"], UNKNOWN_NOTE)])
def test_without_a_known_item_popular_ones_are_shown_and_said_to_be(
    engine: Engine, history: list[str], note: str
) -> None:
    answer = engine.recommend(history, k=3, model="gemirec")
    assert ids(answer.items) == ["b", "c", "d"]
    assert (answer.model, answer.note) == ("popularity", note)


def test_a_model_can_be_chosen_and_must_exist(engine: Engine) -> None:
    assert engine.recommend(["a"], model="popularity").model == "popularity"
    with pytest.raises(UnknownModel, match="gemirec, popularity"):
        engine.recommend(["a"], model="sasrec")


def test_an_item_that_no_interest_claims_has_none(engine: Engine) -> None:
    ranking = two_interests()
    ranking.interest_scores_KN[:, 3] = -INF
    engine.rankers["gemirec"].ranking = ranking  # type: ignore[attr-defined]
    assert {item.item_id: item.interest for item in engine.recommend(["a"]).items}["d"] is None


@pytest.mark.parametrize("missing", ["popularity", "hymirec"])
def test_a_bundle_without_a_needed_model_is_refused(engine: Engine, missing: str) -> None:
    rankers = {name: ranker for name, ranker in engine.rankers.items() if name != missing}
    with pytest.raises(UserError, match=missing):
        Engine([], rankers, "hymirec", VERSIONS, {}, "")


@given(
    scores=st.lists(st.sampled_from([-INF, -2.0, -1.0, 0.0, 0.5]), min_size=1, max_size=40),
    k=st.integers(1, 45),
)
def test_top_k_is_the_head_of_a_full_stable_sort(scores: list[float], k: int) -> None:
    finite = [index for index, score in enumerate(scores) if score > -INF]
    best_first = sorted(finite, key=lambda index: (-scores[index], index))
    assert top_k(np.array(scores), k).tolist() == best_first[:k]


@pytest.mark.parametrize("model", ["popularity", "lightweight_encoder", "llm_recommender", "hymirec", "gemirec"])
def test_every_model_of_a_bundle_answers(bundle_folder: Path, model: str) -> None:
    answer = Engine.load(bundle_folder).recommend(["i3", "i7", "i59"], k=59, model=model, num_interests=2)
    assert answer.model == model
    assert {"i3", "i7", "i59"}.isdisjoint(ids(answer.items))
    assert len(answer.interests) == (1 if model == "popularity" else 2)
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)
    for interest in answer.interests:
        assert interest.items, "an interest without items is none"
    if model == "gemirec":
        assert all(item.interest is not None for item in answer.items)
        assert answer.versions.dictionary is not None


def test_a_bundle_on_disk_answers(bundle_folder: Path) -> None:
    engine = Engine.load(bundle_folder)
    answer = engine.recommend(["i3", "i7"], k=5)
    assert answer.model == "hymirec"
    assert all(len(interest.items) == 5 for interest in answer.interests)
    assert {"i3", "i7", "i59"}.isdisjoint(ids(answer.items))
    assert sum(interest.weight for interest in answer.interests) == pytest.approx(1, abs=1e-5)
    assert ids(engine.recommend([], k=3).items) == ["i0", "i1", "i2"]


def test_same_history_same_answer(bundle_folder: Path) -> None:
    first, second = Engine.load(bundle_folder), Engine.load(bundle_folder)
    assert first.recommend(["i1", "i2"]) == second.recommend(["i1", "i2"])

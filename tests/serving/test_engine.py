"""The engine: what it recommends, leaves out, reports and calls things."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prismrec.artifacts.bundle import CatalogueItem, Versions
from prismrec.errors import UserError
from prismrec.models.events import EventTable
from prismrec.models.item_rows import ItemRows
from prismrec.models.item_text import NewItem
from prismrec.models.rankers import InterestRanking, one_history
from prismrec.retrieval import index as index_module
from prismrec.retrieval import narrowed as narrowed_module
from prismrec.retrieval.index import PART, RECOMMENDER_PART, ItemIndex
from prismrec.retrieval.narrowed import NarrowedRanker
from prismrec.serving.added_items import AddedItem
from prismrec.serving.answers import Reason, Recommendation
from prismrec.serving.engine import (
    EMPTY_NOTE,
    NEW_NOTE,
    UNCOUNTED_NOTE,
    UNKNOWN_NOTE,
    UNTIMED_NOTE,
    Engine,
    NoTexts,
    NotHere,
    Question,
    UnknownModel,
)
from prismrec.serving.lists import top_k
from serving.bundles import parts

INF = np.inf
VERSIONS = Versions(model="m", dictionary=None, data="d")


class FixedRanker:
    """Gives the same ranking to everybody, and remembers what it was asked."""

    held = 1
    rule = "likelihood"

    def __init__(self, name: str, ranking: InterestRanking) -> None:
        self.name = name
        self.ranking = ranking
        self.asked: list[tuple[list[int], int | None]] = []

    def rank_all(self, events: EventTable, num_interests_B: list[int | None]) -> list[InterestRanking]:
        histories = events.items_E.split(events.offsets_U1.diff().tolist())
        self.asked += zip([history.tolist() for history in histories], num_interests_B, strict=True)
        return [self.ranking] * len(events)

    def rank(self, *_: Any) -> InterestRanking:
        return self.ranking


def two_interests() -> InterestRanking:
    # Items:       a     b     c     d     e (not active)
    first = [-1.0, -2.0, -INF, -2.0, -0.1]
    second = [-INF, -3.0, -0.5, -1.0, -0.1]
    return InterestRanking(
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
        "popularity": FixedRanker("popularity", InterestRanking(popular[0], popular, np.ones(1), ["popular"])),
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
    assert top_k(np.array([scores]), k)[0].tolist() == best_first[:k]


@pytest.mark.parametrize(
    "model", ["popularity", "lightweight_encoder", "llm_recommender", "hymirec", "gemirec", "prismrec"]
)
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


def close(one: Recommendation, other: Recommendation) -> bool:
    """The same lists, with scores up to the order of float32 sums."""

    def told(answer: Recommendation) -> tuple[list[Any], list[float]]:
        lists = [answer.items, *(interest.items for interest in answer.interests)]
        facts = [(i.id, i.label, i.dictionary, i.reasons) for i in answer.interests]
        names = [[(item.item_id, item.title, item.interest) for item in items] for items in lists]
        numbers = [item.score for items in lists for item in items] + [i.weight for i in answer.interests]
        return [facts, names, answer.note, answer.model, answer.unknown_items], numbers

    (facts, numbers), (other_facts, other_numbers) = told(one), told(other)
    return facts == other_facts and numbers == pytest.approx(other_numbers, abs=1e-5)


@pytest.mark.parametrize("model", ["popularity", "hymirec", "gemirec", "prismrec"])
def test_questions_answered_together_get_what_each_gets_alone(bundle_folder: Path, model: str) -> None:
    engine = Engine.load(bundle_folder)
    questions = [
        Question(["i3", "i7", "i3"], model=model, timestamps=[100, 160, 9000]),
        Question([f"i{number}" for number in range(40)], model=model, k=3, num_interests=2),
        Question([], model=model),
        Question(["i1", NewItem("robots")], model=model),
        Question(["i5"], model=model, timestamps=[50], now=5000, deny=["i6"]),
        Question(["i5"], model="nothing"),
        Question(["i9", "nobody"], model=model, novelty=1.0, diversity=0.3),
        Question(["i2"], model=model, exclude_seen=False),
    ]
    together = engine.recommend_all(questions)
    for question, answer in zip(questions, together, strict=True):
        (alone,) = engine.recommend_all([question])
        if question.model == "nothing":
            assert isinstance(answer, UnknownModel)
        else:
            assert isinstance(answer, Recommendation)
            assert isinstance(alone, Recommendation)
            assert close(answer, alone)


def test_an_error_of_one_question_is_not_that_of_those_ranked_with_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(events: EventTable, _: list[int | None]) -> list[InterestRanking]:
        if 2 in events.items_E:
            raise RuntimeError("this one")
        return [two_interests()] * len(events)

    monkeypatch.setattr(engine.rankers["gemirec"], "rank_all", broken)
    answers = engine.recommend_all([Question(["a"]), Question(["c"]), Question(["b"])])
    assert [isinstance(answer, RuntimeError) for answer in answers] == [False, True, False]
    assert answers[2] == engine.recommend(["b"])


# Filters, dials, texts, added items: on a whole bundle.


@pytest.fixture(scope="module")
def whole(bundle_folder: Path) -> Engine:
    return Engine.load(bundle_folder)


def test_filters_hide_from_every_list(whole: Engine) -> None:
    answer = whole.recommend(["i1"], k=200, categories=["Comedy", "Nothing"], deny=["i4", "i10", "nobody"])
    expected = {f"i{number}" for number in range(1, 59, 3)} - {"i1", "i4", "i10"}
    for items in (answer.items, *(interest.items for interest in answer.interests)):
        assert set(ids(items)) == expected
    allowed = whole.recommend(["i1"], k=200, allow=["i7", "i8", "i1"], categories=["Comedy"])
    assert ids(allowed.items) == ["i7"]
    assert ids(whole.recommend(["i1"], allow=["nobody"]).items) == []


def test_diversity_takes_turns_among_interests_and_keeps_the_first(whole: Engine) -> None:
    for model in ("hymirec", "gemirec"):
        answers = [whole.recommend(["i1", "i5"], k=8, model=model, diversity=d) for d in (0.0, 0.5, 1.0)]
        assert {answer.items[0].item_id for answer in answers} == {answers[0].items[0].item_id}
        distinct = [len({item.interest for item in answer.items}) for answer in answers]
        assert distinct == sorted(distinct)
        assert distinct[-1] > 1
        assert answers[0] == whole.recommend(["i1", "i5"], k=8, model=model)


def test_a_bundles_rule_merges_gemirecs_lists_and_no_others(tmp_path: Path) -> None:
    """Quotas: the interests' first items, then their second ones, then what no interest shown has."""
    made = parts()
    made.save(tmp_path / "likelihood")
    made.parts["retrieval"].config = replace(made.parts["retrieval"].config, merge="quotas")
    made.save(tmp_path / "quotas")
    plain, engine = (Engine.load(tmp_path / rule) for rule in ("likelihood", "quotas"))
    history = ["i1", "i5"]
    answer = engine.recommend(history, k=58, model="gemirec")
    found = ids(answer.items)
    assert set(found) == set(ids(plain.recommend(history, k=58, model="gemirec").items)), "all that may be shown"
    places = {item: place for one in answer.interests for place, item in enumerate(ids(one.items))}
    shown = [places[item] for item in found if item in places]
    assert shown == sorted(shown)
    assert 0 < len(places) < len(found)
    assert set(found[: len(places)]) == set(places)
    assert len({item.interest for item in engine.recommend(history, k=2, num_interests=2, model="gemirec").items}) == 2
    for model, asked in (("prismrec", history), ("hymirec", history), ("gemirec", [])):
        mine, theirs = (each.recommend(asked, model=model).items for each in (engine, plain))
        assert mine == theirs


def test_novelty_turns_the_models_that_have_the_dial_and_is_said_of_the_others(whole: Engine) -> None:
    history = ids(whole.recommend(["i1"], model="gemirec").interests[0].items)
    plain = whole.recommend(history, model="gemirec", exclude_seen=False)
    turned = whole.recommend(history, model="gemirec", exclude_seen=False, novelty=5.0)
    assert (plain.note, turned.note) == (None, None)
    weights = [{i.id: i.weight for i in answer.interests} for answer in (plain, turned)]
    assert weights[0] != weights[1]
    assert "novelty" in (whole.recommend(["i1"], model="llm_recommender", novelty=1.0).note or "")


def test_temperature_spreads_the_interests(whole: Engine) -> None:
    shares = [
        max(interest.weight for interest in whole.recommend(["i1", "i5"], model="gemirec", temperature=t).interests)
        for t in (0.1, 1.0, 10.0)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[2]
    plain = whole.recommend(["i1"], model="llm_recommender")
    turned = whole.recommend(["i1"], model="llm_recommender", temperature=2.0)
    assert turned.items == plain.items
    assert "no temperature dial" in (turned.note or "")


def test_reasons_are_the_nearest_items_of_the_history(whole: Engine) -> None:
    answer = whole.recommend(["i1", "i2", "i3", "i4", "i2"], k=5)
    assert whole._state.rows is not None
    vectors_ND = whole._state.rows.vectors_ND.numpy()
    for interest in answer.interests:
        assert len(interest.reasons) == 3
        first = [int(item.item_id[1:]) for item in whole.recommend(["i1", "i2", "i3", "i4", "i2"], k=10).items]
        assert first  # the lists are longer than what stands for the interest
        assert {reason.item_id for reason in interest.reasons} < {"i1", "i2", "i3", "i4"}
    one = whole.recommend(["i1", "i2", "i3", "i4", "i2"], k=10).interests[0]
    mean_D = vectors_ND[[int(item.item_id[1:]) for item in one.items]].mean(0)
    nearest = sorted([1, 2, 3, 4], key=lambda row: -float(vectors_ND[row] @ mean_D))[:3]
    assert [reason.item_id for reason in one.reasons] == [f"i{row}" for row in nearest]


def test_only_cells_of_the_dictionary_carry_its_version(whole: Engine) -> None:
    cells = whole.recommend(["i1"], model="gemirec").interests
    assert {interest.dictionary for interest in cells} == {whole.versions.dictionary}
    assert {interest.dictionary for interest in whole.recommend(["i1"]).interests} == {None}


def test_a_text_stands_in_a_history_as_an_item_would(whole: Engine) -> None:
    # i57 was never trained: its vector is that of its text, up to half precision.
    by_id = whole.recommend(["i1", "i57"], k=5, exclude_seen=False, model="lightweight_encoder")
    text = NewItem("Film 57", categories=("Drama",))
    by_text = whole.recommend(["i1", text, text], k=5, exclude_seen=False, model="lightweight_encoder")
    once = whole.recommend(["i1", text], k=5, exclude_seen=False, model="lightweight_encoder")
    assert ids(once.items) == ids(by_id.items)
    assert [item.score for item in once.items] == pytest.approx([item.score for item in by_id.items], abs=1e-2)
    assert by_text.items != once.items  # twice counts twice
    assert Reason(None, "Film 57") in once.interests[0].reasons
    for model in ("hymirec", "gemirec", "llm_recommender"):
        assert len(whole.recommend([text], k=59, model=model).items) == 59  # the guest itself is never shown


def test_texts_need_a_bundle_that_reads_them(bundle_folder: Path) -> None:
    engine = Engine.load(bundle_folder)
    engine.reader = None
    with pytest.raises(NoTexts, match="no text encoder"):
        engine.recommend([NewItem("robots")])
    with pytest.raises(NoTexts):
        engine.add_items([AddedItem("n", "robots")])
    with pytest.raises(NotHere):
        Engine.load(bundle_folder).add_items([AddedItem("n", "robots")])


def test_kinds_of_events_that_do_not_count_are_left_out(engine: Engine) -> None:
    counted = Engine(engine.catalogue.items, engine.rankers, "gemirec", VERSIONS, {}, "b", counted_events=["buy"])
    counted.recommend(["a", "b", "a"], timestamps=[1, 2, 3], events=["view", "buy", "buy"])
    counted.recommend(["a", "b"])
    engine.recommend(["a"], events=["view"])  # every kind counts there
    asked = engine.rankers["gemirec"].asked  # type: ignore[attr-defined]
    assert [history for history, _ in asked] == [[1, 0], [0, 1], [0]]
    seen = counted.recommend(["a", "b"], k=5, events=["view", "buy"])
    assert {"a", "b"}.isdisjoint(ids(seen.items))
    none = counted.recommend(["a"], k=5, events=["view"])
    assert (none.note, none.model, "a" in ids(none.items)) == (UNCOUNTED_NOTE, "popularity", False)


def test_times_that_the_models_do_not_know_are_left_out(bundle_folder: Path, tmp_path: Path) -> None:
    replace(parts(), timed=False).save(tmp_path / "bundle")
    timed, untimed = Engine.load(bundle_folder), Engine.load(tmp_path / "bundle")
    times = {"timestamps": [1_000, 10_000_000], "now": 90_000_000}
    assert timed.recommend(["i3", "i7"], **times).items != timed.recommend(["i3", "i7"]).items
    plain, sent = untimed.recommend(["i3", "i7"]), untimed.recommend(["i3", "i7"], **times)
    assert sent.items == plain.items
    assert (plain.note, sent.note) == (None, UNTIMED_NOTE)
    dialled = untimed.recommend(["i3"], timestamps=[1], novelty=1.0)
    assert dialled.note == f"The model hymirec has no novelty dial. {UNTIMED_NOTE}"
    assert (timed.description.times, untimed.description.times) == (True, False)


def test_added_items_are_recommended_at_once_by_every_worker_and_after_a_restart(
    bundle_folder: Path, tmp_path: Path
) -> None:
    writer, reader = (Engine.load(bundle_folder, tmp_path / "added") for _ in range(2))
    assert writer.add_items([AddedItem("n1", "robots", "", ("Drama",))]).generation == 1
    described = writer.add_items([AddedItem("n2", "quiet"), AddedItem("i59", "Film 59 robots")])
    assert (described.items, described.active_items, described.added_items) == (62, 62, 2)
    reader.refresh()
    restarted = Engine.load(bundle_folder, tmp_path / "added")
    for model in ("hymirec", "gemirec", "popularity", "lightweight_encoder"):
        answers = [one.recommend(["i1", "n1"], k=200, model=model) for one in (writer, reader, restarted)]
        assert answers[0] == answers[1] == answers[2]
        assert {"n2", "i59"} < set(ids(answers[0].items))
        assert len(answers[0].items) == 60
    assert restarted.recommend(["n1"]).unknown_items == []
    assert "robots" in {item.title for item in restarted.similar("i3", 200)}


def test_damaged_additions_are_said_once_and_what_was_served_goes_on(
    bundle_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer, reader = (Engine.load(bundle_folder, tmp_path / "added") for _ in range(2))
    writer.add_items([AddedItem("n1", "robots")])
    reader.refresh()
    writer.add_items([AddedItem("n2", "quiet")])
    (tmp_path / "added/00000002/items.jsonl").write_text("{}")
    for _ in range(2):
        reader.refresh()
    assert reader.description.generation == 1
    assert len(caplog.records) == 1
    restarted = Engine.load(bundle_folder, tmp_path / "added")  # it starts without additions, and says so
    assert (restarted.description.generation, len(caplog.records)) == (0, 2)
    with pytest.raises(UserError, match="content is not what was written"):
        restarted.add_items([AddedItem("n3", "film")])
    shutil.rmtree(tmp_path / "added/00000002")  # what the refusal says
    restarted.refresh()
    assert restarted.description.generation == 1


def test_additions_that_were_removed_are_gone_though_their_number_comes_again(
    bundle_folder: Path, tmp_path: Path
) -> None:
    writer, reader = (Engine.load(bundle_folder, tmp_path / "added") for _ in range(2))
    writer.add_items([AddedItem("n1", "robots"), AddedItem("n2", "quiet")])
    reader.refresh()
    shutil.rmtree(tmp_path / "added")
    writer.refresh()
    assert writer.description.added_items == 0
    writer.add_items([AddedItem("n3", "film")])
    reader.refresh()
    assert (reader.description.generation, reader.description.added_items) == (1, 1)
    assert reader.recommend(["n1", "n3"]).unknown_items == ["n1"]


def test_an_item_whose_text_changes_keeps_its_behaviour(bundle_folder: Path, tmp_path: Path) -> None:
    engine = Engine.load(bundle_folder, tmp_path / "added")
    same = AddedItem("i3", "Film 3", "", ("Drama",))
    assert engine._state.rows is not None
    before_D = engine._state.rows.vectors_ND[3].clone()
    engine.add_items([same])
    assert torch.allclose(engine._state.rows.vectors_ND[3], before_D, atol=1e-2)
    engine.add_items([AddedItem("i3", "quiet robots")])
    after_D = engine._state.rows.vectors_ND[3]
    assert not torch.allclose(after_D, before_D, atol=1e-2)
    assert engine.catalogue.items[3].title == "quiet robots"
    assert len(engine.catalogue) == 60


def test_among_popular_items_each_fifth_is_new(bundle_folder: Path, tmp_path: Path) -> None:
    engine = Engine.load(bundle_folder, tmp_path / "added")
    engine.add_items([AddedItem("old", "robots"), AddedItem("young", "quiet")])
    answer = engine.recommend([], k=11)
    assert ids(answer.items) == ["i0", "i1", "i2", "i3", "young", "i4", "i5", "i6", "i7", "old", "i8"]
    assert [interest.id for interest in answer.interests] == ["popular", "new"]
    assert answer.note == EMPTY_NOTE + NEW_NOTE
    assert engine.recommend([], k=4).note == EMPTY_NOTE  # none is among them
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)


def test_a_cell_that_the_posterior_does_not_know_is_not_given_to_a_new_item(bundle_folder: Path) -> None:
    rows = ItemRows.load(bundle_folder)
    assert rows.cells_N is not None
    used = set(rows.cells_N[rows.known_R].tolist())
    vectors_XD = torch.nn.functional.normalize(torch.randn(200, rows.vectors_ND.shape[1]), dim=1)
    grown = rows.grown(torch.arange(60, 260), vectors_XD, guests=5)
    assert grown.cells_N is not None
    assert rows.dictionary is not None
    wanted = rows.dictionary.cell_index(rows.dictionary.codes_of(vectors_XD))
    given = grown.cells_N[60:260]
    assert set(given.tolist()) <= used
    known = torch.tensor([cell in used for cell in wanted.tolist()])
    assert torch.equal(given[known], wanted[known])
    assert (len(grown.vectors_ND), grown.first_guest) == (265, 260)
    assert not grown.recommendable_N[260:].any()
    assert len(rows.vectors_ND) == 60


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A bundle whose catalogue counts as large, with few candidates."""
    monkeypatch.setattr(index_module, "EXACT_ITEMS", 20)
    monkeypatch.setattr(narrowed_module, "CANDIDATES", 6)
    content = parts()
    vectors = content.parts["item_vectors"]
    shared_ND, recommendable_N = (torch.from_numpy(vectors[name]) for name in ("vectors", "recommendable"))
    with torch.no_grad():
        own_ND = content.parts["recommender"].items(shared_ND)
    tables = {PART: shared_ND, RECOMMENDER_PART: own_ND}
    indexes = {name: ItemIndex.build(table_ND, recommendable_N) for name, table_ND in tables.items()}
    content.save(tmp_path / "whole")
    replace(content, parts={**content.parts, **indexes}).save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_large_catalogue_is_ranked_by_candidates_and_lists_are_full_all_the_same(
    indexed: Path, tmp_path: Path
) -> None:
    engine, whole = Engine.load(indexed, tmp_path / "added"), Engine.load(tmp_path / "whole")
    history = ["i3", "i7", "i12"]
    for model in ("hymirec", "llm_recommender", "lightweight_encoder"):
        ranker = engine.rankers[model]
        assert isinstance(ranker, NarrowedRanker)
        assert len(ranker.candidates(one_history(np.array([3, 7, 12]), None, None))) < 50
        few = engine.recommend(history, k=3, model=model)
        assert len(few.items) == 3
        # Everything is scored where candidates do not fill the lists.
        filters: dict[str, Any]
        for filters in (
            {"k": 59},
            {"categories": ["Horror"], "k": 20},
            {"allow": ["i50", "i51"]},
            {"exclude_seen": False},
        ):
            answer, exact = (one.recommend(history, model=model, **{"k": 59, **filters}) for one in (engine, whole))
            assert close(answer, exact)
    assert close(engine.recommend(history, model="gemirec"), whole.recommend(history, model="gemirec"))
    engine.add_items([AddedItem("new", "robots", "", ("Drama",)), AddedItem("i20", "robots quiet")])
    added = engine.rankers["hymirec"]
    assert isinstance(added, NarrowedRanker)
    assert added.always_A.tolist() == [60, 20]
    assert ids(engine.recommend(history, k=2, allow=["new", "i20"]).items)


def test_each_interest_is_looked_up_among_the_items_as_its_model_ranks_them(indexed: Path) -> None:
    rankers = Engine.load(indexed).rankers
    found: Any = rankers["hymirec"]
    of_recommender, of_encoder = (found.indexes[name].items_ND for name in ("llm_recommender", "lightweight_encoder"))
    assert [teller.name for teller in found.whole.tellers] == ["llm_recommender", "lightweight_encoder"]
    assert torch.equal(of_recommender, found.whole.tellers[0].items_ND)
    assert torch.equal(of_encoder, found.whole.tellers[1].items_ND)
    assert not torch.equal(of_recommender, of_encoder)


def test_a_changed_index_is_refused(indexed: Path) -> None:
    path = indexed / PART / index_module.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"index\.faiss"):
        Engine.load(indexed)

"""The promotion verdict: who is the candidate, what it has to beat and may not break; the incumbent's ranker."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from evaluation.report_fixture import ROWS, parameters, report
from prismrec.artifacts.bundle import MANIFEST_NAME, read_bundle
from prismrec.errors import UserError
from prismrec.evaluation.promotion import (
    MIN_CASES,
    Incumbent,
    choose_candidate,
    incumbent_ranker,
    known_histories,
    read_incumbent,
    verdict,
)
from prismrec.models.events import UNKNOWN_GAP, UNKNOWN_TIME, EventTable, gap_buckets
from prismrec.models.loading import load_rankers
from prismrec.models.rankers import PopularityRanker
from serving.bundles import NUM_ITEMS, catalogue, parts

KNOWN = [item.item_id for item in catalogue()]
LATER = [f"new{number}" for number in range(5)]
DAY = 86_400
ANY_RANKER = PopularityRanker(np.ones(3), torch.ones(3, dtype=torch.bool))


def incumbent(**changes: Any) -> Incumbent:
    values = {"model": "lightweight_encoder", "bundle": "b1", "split_hash": report()["split_hash"]}
    return Incumbent(**{**values, "ranker": ANY_RANKER, "problem": "", **changes})


def guard(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [guard for guard in found["guards"] if guard["guard"] == name]
    return one


def test_a_better_candidate_that_breaks_no_guard_is_promoted() -> None:
    found = verdict(report(), incumbent(), parameters())
    assert found["promoted"]
    assert found["candidate"] == "hymirec"
    assert found["incumbent"] == {"model": "lightweight_encoder", "bundle": "b1", "same_split": True}
    assert found["difference"] == pytest.approx(ROWS["hymirec"][4] - ROWS["incumbent"][4])
    assert found["low"] > 0
    unknown = {one["guard"] for one in found["guards"] if one["value"] is None}
    assert all(one["kept"] for one in found["guards"])
    assert unknown == {"largest_interest_share"}, "its interests are guarded by their distances"


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.05, 0.05), st.floats(0.0001, 0.05))
def test_the_whole_interval_has_to_be_above_zero(difference: float, half: float) -> None:
    figures = report()
    ends = {"low": difference - half, "high": difference + half}
    figures["paired"]["against"]["incumbent"]["hymirec"] = {"difference": difference, **ends}
    found = verdict(figures, incumbent(), parameters())
    assert found["promoted"] == (difference - half > 0)
    assert ("does not beat" in found["reasons"][0]) == (not found["promoted"])


def test_without_an_incumbent_the_guards_decide() -> None:
    found = verdict(report(incumbent=False), None, parameters())
    assert found["promoted"]
    assert found["incumbent"] is found["difference"] is found["low"] is None
    assert "not applicable: there is no incumbent" in guard(found, "coverage_against_incumbent")["note"]
    assert "61 cases of cold items are too few to tell from chance" in guard(found, "cold_recall")["note"]
    assert not verdict(report(incumbent=False), None, parameters(min_coverage=0.7))["promoted"]


def test_nothing_is_promoted_over_an_incumbent_that_cannot_be_read() -> None:
    unreadable = incumbent(ranker=None, problem="It is of format 0.")
    found = verdict(report(incumbent=False), unreadable, parameters())
    assert not found["promoted"]
    assert "It is of format 0." in found["reasons"][0]


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("coverage", {"min_coverage": 0.7}),
        ("coverage_against_incumbent", {"min_coverage_share": 1.0}),
        ("interest_cosine", {"max_interest_cosine": 0.3}),
        ("effective_rank", {"min_effective_rank": 3.2}),
        ("cold_recall", {"min_cold_recall_share": 10.0}),
        ("utilisation", {"min_utilisation": 0.84}),
    ],
)
def test_every_guard_can_stop_a_run_alone(name: str, limits: dict[str, float]) -> None:
    limited = parameters() if name == "cold_recall" else parameters(**limits)
    figures = report()
    if name == "cold_recall":  # even the upper end lies below the incumbent's
        (cold,) = [part for part in figures["slices"] if part["slice"] == "cold_items"]
        cold["models"]["incumbent"]["recall@10"] = [0.5, 0.4, 0.6]
    found = verdict(figures, incumbent(), limited)
    assert not found["promoted"]
    assert [one["guard"] for one in found["guards"] if not one["kept"]] == [name]
    assert any(f"Guard {name} is broken" in reason for reason in found["reasons"])


def test_a_cold_recall_below_the_limit_by_chance_breaks_nothing() -> None:
    figures = report()
    (cold,) = [part for part in figures["slices"] if part["slice"] == "cold_items"]
    cold["models"]["hymirec"]["recall@10"] = [0.0, 0.0, 0.06]
    assert guard(verdict(figures, incumbent(), parameters()), "cold_recall")["kept"]


@pytest.mark.parametrize(("cases", "kept"), [(7, True), (MIN_CASES - 1, True), (MIN_CASES, False)])
def test_a_few_cold_items_are_left_to_chance(cases: int, kept: bool) -> None:
    figures = report()
    (cold,) = [part for part in figures["slices"] if part["slice"] == "cold_items"]
    cold["cases"] = cases
    cold["models"]["hymirec"]["recall@10"] = [0.0, 0.0, 0.0]  # the percentile bootstrap of zeros
    cold["models"]["incumbent"]["recall@10"] = [1 / cases, 0.0, 3 / cases]
    found = verdict(figures, incumbent(), parameters())
    assert found["promoted"] == guard(found, "cold_recall")["kept"] == kept
    note = f"not applicable: {cases} cases of cold items, fewer than 30, are left to chance"
    assert (guard(found, "cold_recall")["note"] == note) == kept


@pytest.mark.parametrize("with_incumbent", [True, False])
def test_cold_items_have_to_be_found_more_often_than_by_chance(with_incumbent: bool) -> None:
    figures = report(incumbent=with_incumbent)
    (cold,) = [part for part in figures["slices"] if part["slice"] == "cold_items"]
    cold["models"]["hymirec"]["recall@10"] = [0.0, 0.0, 0.0]
    if with_incumbent:  # it does not know them
        cold["models"]["incumbent"]["recall@10"] = [0.0, 0.0, 0.0]
    for cases, judged in ((1024, False), (1025, True)):  # chance would find three of 1,025
        cold["cases"] = cases
        found = verdict(figures, incumbent() if with_incumbent else None, parameters())
        assert guard(found, "cold_recall")["kept"] == found["promoted"] == (not judged)
        assert guard(found, "cold_recall")["note"].endswith("at least 0.0029, chance") == judged


def test_the_same_list_for_everybody_is_no_coverage() -> None:
    figures = report(incumbent=False)
    figures["models"]["hymirec"]["coverage@10"] = figures["models"]["popularity"]["coverage@10"]
    found = verdict(figures, None, parameters(min_coverage=0.01))
    assert not guard(found, "coverage")["kept"]
    assert guard(found, "coverage")["limit"] == pytest.approx(0.058 + 0.01 * 0.942)


def test_distances_do_not_guard_cells_of_a_dictionary_but_their_shares_do() -> None:
    figures = report()
    figures["models"]["gemirec"] |= {"interest_cosine": 0.99, "effective_rank": 1.0}
    found = verdict(figures, incumbent(), parameters(model="gemirec"))
    for name in ("interest_cosine", "effective_rank"):
        assert guard(found, name)["value"] is None
        assert "centres of distinct cells of the dictionary" in guard(found, name)["note"]
    assert guard(found, "largest_interest_share")["kept"]
    figures["models"]["gemirec"]["largest_interest_share"] = 1.0
    assert not guard(verdict(figures, incumbent(), parameters(model="gemirec")), "largest_interest_share")["kept"]


def test_collapse_does_not_apply_to_one_interest() -> None:
    found = verdict(report(), incumbent(), parameters(model="popularity"))
    assert (
        guard(found, "interest_cosine")["note"]
        == "not applicable: popularity tells no two interests apart in one space"
    )
    assert not found["promoted"]


def test_the_candidate_is_chosen_on_validation_among_served_models() -> None:
    figures = report()
    figures["models"]["sasrec"]["validation_ndcg@10"] = 0.9
    figures["models"]["gemirec"]["validation_ndcg@10"] = 0.8
    figures["models"]["popularity"]["ndcg@10"] = 0.9
    assert choose_candidate(figures, parameters()) == "gemirec"
    assert choose_candidate(figures, parameters(model="hymirec")) == "hymirec"
    with pytest.raises(UserError, match="validation_hr@7") as error:
        choose_candidate(figures, parameters(selection_metric="validation_hr@7"))
    assert "validation_ndcg@10" in error.value.mend
    del figures["models"]["hymirec"]
    with pytest.raises(UserError, match="was not evaluated"):
        choose_candidate(figures, parameters(model="hymirec"))


def test_another_split_is_said() -> None:
    found = verdict(report(), incumbent(split_hash="other"), parameters())
    assert not found["incumbent"]["same_split"]
    assert any("another split" in reason for reason in found["reasons"])


def test_a_popularity_incumbent_has_counted_test_events() -> None:
    for model, said in (("popularity", True), ("lightweight_encoder", False)):
        reasons = verdict(report(), incumbent(model=model), parameters())["reasons"]
        assert any("counts all events, those of the test too" in reason for reason in reasons) == said


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaged") / "bundle"
    parts().save(folder)
    return folder


def table(*histories: list[int]) -> EventTable:
    """Users with events a day apart."""
    items = [item for history in histories for item in history]
    days = [day for history in histories for day in range(len(history))]
    offsets = np.cumsum([0, *map(len, histories)])
    return EventTable(offsets, np.array(items), np.array(days) * DAY)


@torch.inference_mode()
def test_the_incumbent_ranks_as_its_bundle_and_never_recommends_what_came_later(bundle: Path) -> None:
    ranker = incumbent_ranker(read_bundle(bundle), KNOWN + LATER)
    events, users, ends = table([3, 9, 27], [8, 1]), torch.tensor([0, 1]), torch.tensor([3, 1])
    scores = ranker.scores(events, users, ends)
    assert ranker.reads_time
    assert scores.shape == (2, NUM_ITEMS + 5)
    assert torch.equal(scores[:, :NUM_ITEMS], load_rankers(bundle)["hymirec"].scores(events, users, ends))
    assert (scores[:, NUM_ITEMS:] == -torch.inf).all()


@torch.inference_mode()
def test_an_incumbent_that_knows_no_times_is_asked_without(tmp_path: Path) -> None:
    replace(parts(), timed=False).save(tmp_path / "bundle")
    ranker = incumbent_ranker(read_bundle(tmp_path / "bundle"), KNOWN)
    events, users, ends = table([3, 9, 27], [8, 1]), torch.tensor([0, 1]), torch.tensor([3, 1])
    untimed = events.without_times(np.ones(2, dtype=bool))
    served = load_rankers(tmp_path / "bundle")["hymirec"]
    assert not ranker.reads_time
    assert torch.equal(ranker.scores(events, users, ends), served.scores(untimed, users, ends))
    assert not torch.equal(served.scores(untimed, users, ends), served.scores(events, users, ends))


@torch.inference_mode()
def test_the_incumbent_passes_over_events_it_does_not_know(bundle: Path) -> None:
    ranker, new = incumbent_ranker(read_bundle(bundle), KNOWN + LATER), NUM_ITEMS + 2
    with_new, without = table([new, 3, 9, 27, new, 5], [new, 4]), table([3, 9, 27, 5])
    scores = ranker.scores(with_new, torch.tensor([0, 1]), torch.tensor([5, 1]))
    served = load_rankers(bundle)
    expected = served["hymirec"].scores(without, torch.tensor([0]), torch.tensor([3]))
    torch.testing.assert_close(scores[:1, :NUM_ITEMS], expected, atol=0.05, rtol=0)  # the first gap differs
    popular = served["popularity"].scores(without, torch.tensor([0]), torch.tensor([1]))
    assert torch.equal(scores[1:, :NUM_ITEMS], popular)


def test_the_incumbent_keeps_the_time_of_every_request() -> None:
    """Events of unknown items before, between and directly before the target, of several users in any order."""
    new, days = 99, np.array([0, 1, 2, 7, 9, 4, 5, 8, 20, 1, 2, 40])
    events = EventTable(np.array([0, 5, 9, 12]), np.array([new, 3, 9, new, 1, 4, new, 5, 7, new, new, 2]), days * DAY)
    users, ends = torch.tensor([2, 1, 0, 1, 0]), torch.tensor([2, 3, 4, 2, 3])
    kept, lengths = known_histories(events, users, ends, known=50)
    assert lengths.tolist() == [0, 2, 2, 1, 2]
    assert kept.items_E.tolist() == [4, 5, 3, 9, 4, 3, 9]
    some, numbers = lengths > 0, torch.arange(5)
    asked = kept.asked_at(numbers[some], lengths[some])
    assert torch.equal(asked, events.asked_at(users[some], ends[some]))
    until = kept.cut(numbers[some], lengths[some] - 1, lengths[some]).until_BL[:, 0].tolist()
    exact = gap_buckets(torch.tensor([[0, 12], [0, 7], [0, 4], [0, 5]]) * DAY)[:, 1].tolist()
    assert all(bucket - found in (0, 1) for found, bucket in zip(until, exact, strict=True))
    assert (until[0], until[3]) == (exact[0], exact[3])  # no event is left out before these requests


def test_an_incumbent_without_times_has_none_made_up() -> None:
    events = EventTable(np.array([0, 4]), np.array([3, 99, 9, 99]), None)
    kept, lengths = known_histories(events, torch.tensor([0]), torch.tensor([4]), known=50)
    assert lengths.tolist() == [2]
    assert (kept.until_E == UNKNOWN_GAP).all()
    assert (kept.asked_E == UNKNOWN_TIME).all()


def test_an_incumbent_is_read_with_its_facts(bundle: Path) -> None:
    found = read_incumbent(bundle, KNOWN)
    assert found is not None
    assert (found.model, found.split_hash, found.problem) == ("hymirec", "seed-0", "")
    assert found.ranker is not None
    assert read_incumbent(None, KNOWN) is None


def test_an_incumbent_of_another_catalogue_or_format_gives_one_reason(bundle: Path, tmp_path: Path) -> None:
    larger = read_incumbent(bundle, KNOWN[:-1])
    assert larger is not None
    assert larger.ranker is None
    assert "60 items, the workspace 59" in larger.problem
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / MANIFEST_NAME).write_text('{"format": 0}')
    old = read_incumbent(tmp_path / "old", KNOWN)
    assert old is not None
    assert old.ranker is None
    assert "format 0" in old.problem


def test_an_item_map_made_anew_is_not_comparable(bundle: Path) -> None:
    found = read_incumbent(bundle, [KNOWN[1], KNOWN[0], *KNOWN[2:], *LATER])
    assert found is not None
    assert found.ranker is None
    assert "Its item 0 is 'i0', the workspace's is 'i1'" in found.problem
    assert (found.model, found.split_hash) == ("hymirec", "seed-0")


@pytest.mark.parametrize(
    "error",
    [TypeError("no 'depth'"), ValueError("bad"), OSError("gone"), SafetensorError("cut"), AttributeError("sizes")],
)
@pytest.mark.parametrize(
    "place",
    [
        "prismrec.evaluation.promotion.load_rankers",
        "prismrec.models.rankers.RecommenderRanker.scores",
        "prismrec.models.gemirec.GemiRecRanker.cells_and_scores",
    ],
)
def test_models_that_this_version_cannot_use_are_a_reason_too(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def refuse(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(place, refuse)
    found = read_incumbent(bundle, KNOWN)
    assert found is not None
    assert found.ranker is None
    assert found.problem == f"This version cannot use its models: {type(error).__name__}: {error}"

"""All models on the same cases: figures against plain sums, intervals, paired differences, interests."""

import json
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from prismrec.evaluation import comparison
from prismrec.evaluation.comparison import Facts, Part, Row, Settings
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap
from prismrec.evaluation.promotion import IncumbentRanker
from prismrec.evaluation.protocols import make_cases
from prismrec.models.events import EventTable
from prismrec.models.rankers import Claims, Ranker, ServedRanker, claims_of
from prismrec.retrieval import chunks

USERS, ITEMS, DIM = 120, 60, 6


class Scripted(ServedRanker):
    """Scores written down; K interests, of which the strongest are the first ones."""

    def __init__(self, name: str, joint_UKN: torch.Tensor, vectors_UKD: torch.Tensor | None = None) -> None:
        self.name, self.joint_UKN, self.vectors_UKD = name, joint_UKN, vectors_UKD
        self.num_interests = joint_UKN.shape[1]
        self.items_ND = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(1))

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        return self.joint_UKN[users_B].amax(1)

    def interest_vectors(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor | None:
        return None if self.vectors_UKD is None else self.vectors_UKD[users_B]

    def strongest(
        self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor, num_interests: int
    ) -> torch.Tensor:
        return self.joint_UKN[users_B, :num_interests].amax(1)

    def interests(self, events: EventTable) -> tuple[torch.Tensor, list[str]]:
        raise NotImplementedError

    def claims(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> Claims:
        return claims_of(self.joint_UKN[users_B], [str(k) for k in range(self.num_interests)])


def world() -> tuple[EventTable, np.ndarray, np.ndarray, Facts]:
    rng = np.random.default_rng(0)
    offsets = np.arange(USERS + 1) * 8
    items = np.concatenate([rng.permutation(ITEMS)[:8] for _ in range(USERS)])
    events = EventTable(offsets, items, None)
    facts = Facts(
        torch.ones(ITEMS, dtype=torch.bool),
        np.bincount(items, minlength=ITEMS),
        rng.standard_normal((ITEMS, 5)).astype(np.float32),
        sp.csr_matrix(np.eye(4, dtype=bool)[np.arange(ITEMS) % 4]),
        np.arange(ITEMS) % 7,
    )
    return events, np.full(USERS, 6), np.full(USERS, 8), facts


def scripted(name: str, signal: float, events: EventTable, interests: int = 1, seed: int = 0) -> Scripted:
    """Noise, plus a bonus on each user's last two events, the targets, under the last interest."""
    generator = torch.Generator().manual_seed(seed)
    joint = torch.randn(USERS, interests, ITEMS, generator=generator)
    joint[:, -1].scatter_add_(1, events.items_E.view(USERS, 8)[:, 6:], torch.full((USERS, 2), signal))
    vectors = torch.nn.functional.normalize(torch.randn(USERS, interests, DIM, generator=generator), dim=-1)
    return Scripted(name, joint, vectors)


def row(ranker: Ranker, events: EventTable, time: str = "aware") -> Row:
    return Row(ranker, events, ranker.name, "prismrec", time)


@pytest.fixture(scope="module")
def parts() -> tuple[Part, Facts]:
    events, starts, ends, facts = world()
    rankers = [scripted("weak", 0.0, events), scripted("strong", 4.0, events, 3), scripted("same", 4.0, events, 3)]
    rows = {ranker.name: row(ranker, events) for ranker in rankers}
    cases = make_cases(events, starts, ends, "filtered")
    return comparison.measure(rows, cases, facts, "filtered"), facts


SETTINGS = Settings("filtered", "ndcg@10", draws=500, sample=50, seed=3)
VALIDATION = {"strong": {"ndcg@10": 0.25}}


def test_figures_are_means_over_users(parts: tuple[Part, Facts]) -> None:
    part, facts = parts
    figures = comparison.figures(VALIDATION, part, facts, SETTINGS)
    strong_row = {"strong": part.rows["strong"].ranker}
    ranked = evaluate(strong_row, part.rows["strong"].events, part.cases, facts.recommendable_N, "filtered")
    lists = ranked["strong"].lists_CK
    targets = part.cases.targets_CT
    hits = np.array([np.isin(own, best[:10]) for own, best in zip(targets, lists, strict=True)])
    strong = figures["models"]["strong"]
    assert strong["recall@10"] == pytest.approx(hits.mean())
    assert strong["hr@10"] == pytest.approx(hits.any(1).mean())
    assert strong["coverage@10"] == pytest.approx(len(np.unique(lists[:, :10])) / ITEMS)
    assert strong["validation_ndcg@10"] == 0.25
    assert not [name for name in figures["models"]["weak"] if name.startswith("validation_")], "it was not validated"
    for figure in ("novelty@10", "diversity_text@10", "diversity_category@10", "gini@10", "popularity_lift@10"):
        assert np.isfinite(strong[figure])
    json.dumps(figures, allow_nan=False)


def test_intervals_hold_the_mean_and_only_figures_with_a_value_a_user(parts: tuple[Part, Facts]) -> None:
    part, facts = parts
    figures = comparison.figures(VALIDATION, part, facts, SETTINGS)
    for name, found in figures["intervals"].items():
        assert "coverage@10" not in found
        for metric, (low, high) in found.items():
            assert low - 1e-12 <= figures["models"][name][metric] <= high + 1e-12


def test_intervals_of_many_rows_are_those_of_each_row_and_hold_one_rows_columns(
    parts: tuple[Part, Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same seed, same users, same draws; so memory does not grow with rows × metrics."""
    measured = parts[0].measured
    columns = []

    def watched(values_CM: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        columns.append(values_CM.shape[1])
        return bootstrap_means(values_CM, draws, seed)

    monkeypatch.setattr(comparison, "bootstrap_means", watched)
    found = comparison.intervals(measured, 200, 5)
    names = [(name, metric) for name, row in measured.items() for metric in row.values]
    together = np.stack([measured[name].values[metric] for name, metric in names], axis=1)
    for (name, metric), low, high in zip(names, *bootstrap_means(together, 200, 5), strict=True):
        np.testing.assert_allclose(found[name].get(metric, [np.nan, np.nan]), [low, high], rtol=1e-12)
    assert columns == [len(row.values) for row in measured.values()]


def test_paired_differences_are_those_of_each_pair_by_itself(parts: tuple[Part, Facts]) -> None:
    measured = parts[0].measured
    against = comparison.paired_differences(measured, "ndcg@10", 200, 5)
    for a, one in measured.items():
        assert set(against[a]) == set(measured) - {a}
        for b, found in against[a].items():
            expected = paired_bootstrap(measured[b].values["ndcg@10"], one.values["ndcg@10"], 200, 5)
            np.testing.assert_allclose([found["difference"], found["low"], found["high"]], expected, atol=1e-12)


def test_accuracy_is_that_of_the_whole_measurement_and_makes_no_list(
    parts: tuple[Part, Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, facts = parts

    def listed(*_: object) -> None:
        raise AssertionError("a list was made")

    monkeypatch.setattr("prismrec.evaluation.evaluate.top_k", listed)
    found = comparison.accuracy(part.rows, part.cases, facts.recommendable_N, "filtered")
    assert list(found) == list(part.rows)
    for name, row in found.items():
        assert {metric.split("@")[0] for metric in row.values} == {"hr", "recall", "ndcg", "mrr"}
        for metric, values_C in row.values.items():
            np.testing.assert_array_equal(values_C, part.measured[name].values[metric])


def test_a_better_model_wins_beyond_the_interval_and_a_twin_does_not(parts: tuple[Part, Facts]) -> None:
    part, facts = parts
    against = comparison.figures(VALIDATION, part, facts, SETTINGS)["paired"]["against"]
    assert against["weak"]["strong"]["low"] > 0
    assert against["strong"]["weak"]["high"] < 0
    assert against["strong"]["same"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    forth, back = against["weak"]["strong"], against["strong"]["weak"]
    assert (back["difference"], back["low"], back["high"]) == (-forth["difference"], -forth["high"], -forth["low"])


def test_pairs_of_further_metrics_stand_beside_the_one_that_decides(parts: tuple[Part, Facts]) -> None:
    part, facts = parts
    paired = comparison.figures(VALIDATION, part, facts, SETTINGS)["paired"]
    assert paired["metric"] == "ndcg@10"
    assert list(paired["others"]) == ["hr@10", "recall@50"]
    expected = comparison.paired_differences(part.measured, "hr@10", SETTINGS.draws, SETTINGS.seed)
    assert paired["others"]["hr@10"] == expected


def test_interests_are_described_where_there_are_several(parts: tuple[Part, Facts]) -> None:
    part, facts = parts
    figures = comparison.figures(VALIDATION, part, facts, SETTINGS)
    models = figures["models"]
    assert "effective_rank" not in models["weak"]
    assert 1 < models["strong"]["effective_rank"] <= 3
    assert -0.5 <= models["strong"]["interest_cosine"] < 1
    assert 0 <= models["strong"]["interest_jaccard@50"] <= 1
    assert 0 < models["strong"]["category_kl@10"] < math.log(100)
    assert 1 < models["strong"]["interests_shown"] <= 3
    assert 1 / 3 < models["strong"]["largest_interest_share"] <= 1
    for name in ("effective_rank", "interest_cosine", "interests_shown", "largest_interest_share"):
        low, high = figures["intervals"]["strong"][name]
        assert low < models["strong"][name] < high


def test_spread_and_curve_are_computed_within_what_a_ranker_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ranker held to its strongest interest still scores all of them."""
    events, starts, ends, facts = world()
    asked: dict[str, list[int]] = {"vectors": [], "strongest": []}
    points: list[tuple[int, int]] = []  # first user of the chunk, number of interests

    class Watching(Scripted):
        held = 7

        def interest_vectors(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
            asked["vectors"].append(len(users_B))
            assert self.vectors_UKD is not None
            return self.vectors_UKD[users_B]

        def strongest(
            self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor, num_interests: int
        ) -> torch.Tensor:
            asked["strongest"].append(len(users_B))
            points.append((int(users_B[0]), num_interests))
            return super().strongest(events, users_B, ends_B, num_interests)

    one = row(Watching("one", torch.randn(USERS, 3, ITEMS), torch.randn(USERS, 3, DIM)), events)
    cases = make_cases(events, starts, ends, "filtered")
    whole = comparison.interest_values({"one": one}, cases, facts.recommendable_N, "filtered")["one"]
    monkeypatch.setattr(chunks, "SCORES", 5 * 7 * ITEMS)
    asked["vectors"].clear()
    chunked = comparison.interest_values({"one": one}, cases, facts.recommendable_N, "filtered")["one"]
    spread = ["effective_rank", "interest_cosine", "interest_jaccard@50"]
    assert list(chunked) == [*spread, "interests_shown", "largest_interest_share"]
    for name, values_C in chunked.items():
        np.testing.assert_allclose(values_C, whole[name], rtol=1e-5)
    comparison.interest_curve({"one": one}, cases, facts, SETTINGS)
    assert max(asked["vectors"]) == max(asked["strongest"]) == 5
    assert points == sorted(points), "all points of a chunk before the next, so that what is remembered serves them all"
    assert {number for _, number in points} == {1, 2, 3}
    assert IncumbentRanker(one.ranker, one.ranker, ITEMS, appended=0, timed=True).held == 7, (
        "it has one interest, its model three"
    )


@pytest.mark.parametrize("others", [1, 3])
def test_a_member_of_one_interest_has_no_pair_but_shares_the_overlap(parts: tuple[Part, Facts], others: int) -> None:
    """Rank and cosine are of the members with several interests; where none has any, there are none."""
    part, facts = parts

    class Told(Scripted):
        """A member with vectors and items of its own."""

        def __init__(self, interests: int) -> None:
            super().__init__("told", torch.randn(USERS, interests, ITEMS), torch.randn(USERS, interests, DIM))
            self.items_ND = torch.randn(ITEMS, DIM)

    class Pooled(Told):
        tellers = property(lambda self: [Told(1), Told(others)])

    events = next(iter(part.rows.values())).events
    found = comparison.interest_values({"pool": row(Pooled(4), events)}, part.cases, facts.recommendable_N, "filtered")
    assert ("effective_rank" in found["pool"]) == ("interest_cosine" in found["pool"]) == (others > 1)
    assert f"interest_jaccard@{comparison.NEAREST}" in found["pool"]


def test_the_curve_follows_the_number_of_interests(parts: tuple[Part, Facts]) -> None:
    part, facts = parts
    curve = comparison.figures(VALIDATION, part, facts, SETTINGS)["interest_curve"]
    assert {point["model"] for point in curve} == {"strong", "same"}
    strong = [point for point in curve if point["model"] == "strong"]
    assert [point["interests"] for point in strong] == [1, 2, 3]
    assert all(point["cases"] == 50 for point in strong)
    assert all(point["intervals"]["hr@10"][0] <= point["hr@10"] <= point["intervals"]["hr@10"][1] for point in strong)
    assert strong[2]["hr@10"] > strong[0]["hr@10"] + 0.2, "only the last interest knows the targets"


def test_time_free_rows_have_no_curve_of_their_own() -> None:
    events, starts, ends, facts = world()
    rows = {"hymirec_time_free": row(scripted("hymirec", 1.0, events, 3), events, "free")}
    cases = make_cases(events, starts, ends, "filtered")
    assert comparison.interest_curve(rows, cases, facts, SETTINGS) == []


def test_rows_on_other_events_are_ranked_on_theirs() -> None:
    events, starts, ends, facts = world()
    untimed = events.without_times(np.ones(USERS, dtype=bool))
    asked = []

    class Watching(Scripted):
        def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
            asked.append((self.name, events))
            return super().scores(events, users_B, ends_B)

    joint = torch.randn(USERS, 1, ITEMS)
    rows = {"timed": row(Watching("timed", joint), events), "untimed": row(Watching("untimed", joint), untimed, "free")}
    part = comparison.measure(rows, make_cases(events, starts, ends, "filtered"), facts, "filtered")
    assert {(name, id(table)) for name, table in asked} == {("timed", id(events)), ("untimed", id(untimed))}
    assert list(part.measured) == ["timed", "untimed"]


def test_a_sample_keeps_order_and_is_the_same_each_time() -> None:
    events, starts, ends, _ = world()
    cases = make_cases(events, starts, ends, "filtered")
    first, second = comparison.sample(cases, 30, 1), comparison.sample(cases, 30, 1)
    assert len(first.users_C) == 30
    assert (np.diff(first.users_C) > 0).all()
    np.testing.assert_array_equal(first.users_C, second.users_C)
    assert comparison.sample(cases, 10_000, 1) is cases

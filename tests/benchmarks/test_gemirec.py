"""Benchmarks of GemiRec's posterior and merges on a small world: figures against their definitions."""

import numpy as np
import pytest
import torch

from benchmarks import gemirec_merges, gemirec_posterior, novelty_dial
from models.small import NUM_ITEMS, histories
from models.test_gemirec import gemirec
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.models.baselines import SASRecRanker
from prismrec.models.events import EventTable
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.posterior import Knobs
from prismrec.models.rankers import GEMIREC, PRISMREC
from prismrec.models.sasrec import SASRec, SASRecConfig

LENGTHS = [6, 9, 4, 12, 7, 5, 8, 6, 9, 3]


@pytest.fixture(scope="module")
def ranker() -> GemiRecRanker:
    return gemirec(prior=True)


@pytest.fixture(scope="module")
def world(ranker: GemiRecRanker) -> tuple[EventTable, Cases, np.ndarray]:
    """Histories of items that may be recommended; the last two events are targets."""
    offsets, items, times = histories(LENGTHS)
    known = torch.nonzero(ranker.table.recommendable_N).flatten().numpy()
    events = EventTable(offsets, known[items % len(known)], times)
    starts = np.array(LENGTHS) - 2
    return events, make_cases(events, starts, np.array(LENGTHS), "filtered"), starts


def test_posterior_figures(ranker: GemiRecRanker, world: tuple[EventTable, Cases, np.ndarray]) -> None:
    events, cases, starts = world
    torch.manual_seed(0)
    sasrec = SASRecRanker(SASRec(SASRecConfig(NUM_ITEMS, 8, 1, 2, 5, 0.0)).eval())
    ours = {GEMIREC: ranker, PRISMREC: ranker}
    report = gemirec_posterior.measure(ours, sasrec, events, cases, starts)
    cells = ranker.table.cells_N.numpy()
    new, first = 0, []
    with torch.no_grad():
        for case, (user, start) in enumerate(zip(cases.users_C, cases.starts_C, strict=True)):
            own = events.items_E.numpy()[int(events.offsets_U1[user]) :][:start]
            targets = cells[cases.targets_CT[case][cases.mask_CT[case]]]
            wanted = set(targets) - set(cells[own])
            new += sum(cell in wanted for cell in targets)
            law = ranker.cells(events, torch.tensor([user]), torch.tensor([start]))[0].numpy().copy()
            law[cells[own]] = -np.inf
            if wanted:
                first.append(float(int(law.argmax()) in wanted) / len(wanted))
    assert report["cases"] == {"users": len(cases.users_C), "targets": int(cases.mask_CT.sum()), "new": new}
    found = report["new_cell_recall@1"]["mean_low_high"]
    assert found["posterior_timed"][0] == pytest.approx(np.mean(first))
    assert found["prismrec"] == found["posterior"], "the same ranker here"
    assert set(report["new_cell_recall@5"]["minus"]["posterior"]) == {
        "popularity", "markov", "single_vector", "single_vector_mass",
    }  # fmt: skip
    assert set(report["new_cell_recall@5"]["minus"]) == {"posterior", "prismrec", "posterior_timed", "prismrec_timed"}
    assert report["log_likelihood"]["posterior"] < 0
    assert report["beam_recall"]["32"] == 1.0, "a beam as wide as the dictionary"
    assert "new_cell_recall@20" in gemirec_posterior.as_table(report)


def test_merges_figures(ranker: GemiRecRanker, world: tuple[EventTable, Cases, np.ndarray]) -> None:
    events, cases, _ = world
    report = gemirec_merges.measure(ranker, events, cases)
    for k in (10, 50):
        variety = [report[name][f"cells@{k}"][0] for name in ("likelihood", "dial_0.25", "dial_0.5", "dial_1")]
        assert variety == sorted(variety)
    assert report["likelihood"]["ndcg@10_minus_likelihood"] == [0.0, 0.0, 0.0]
    assert report["shown_quotas"]["cells@10"][0] <= 10
    assert gemirec_merges.as_table(report).count("\n") == len(report)


def test_the_novelty_dial_finds_new_interests_for_whoever_is_turned(
    ranker: GemiRecRanker, world: tuple[EventTable, Cases, np.ndarray]
) -> None:
    events, cases, _ = world
    torch.manual_seed(0)
    sasrec = SASRecRanker(SASRec(SASRecConfig(NUM_ITEMS, 8, 1, 2, 5, 0.0)).eval())
    rows = {
        "gemirec": ranker,
        "gemirec novelty 50": ranker.with_knobs(Knobs(novelty=50.0)),
        "sasrec": sasrec,
        "sasrec novelty 0": novelty_dial.Turned(sasrec, 3.0, ranker.table, 0.0),
        "sasrec novelty 50": novelty_dial.Turned(sasrec, 1.0, ranker.table, 50.0),
    }
    cells = ranker.table.cells_N.numpy()
    report = novelty_dial.measure(rows, events, cases, ranker.table.recommendable_N, cells)
    assert report["best_baseline"] == "sasrec"
    assert 0 < report["users_with_new_interests"] <= report["users"] == len(cases.users_C)
    found = report["rows"]
    for metric in (novelty_dial.NEW, novelty_dial.ALL, "ndcg@10"):
        assert found["sasrec novelty 0"][metric] == found["sasrec"][metric], "a scale moves no item"
    assert found["sasrec"]["new_to_best_baseline"] == 1.0
    assert found["sasrec"]["new_minus_best_baseline"] == [0.0, 0.0, 0.0]
    assert "users have a target of a new interest" in novelty_dial.as_table(report)
    # So far up, every item of a new cell stands before all others.
    with torch.no_grad():
        for name in ("gemirec novelty 50", "sasrec novelty 50"):
            scores = rows[name].scores(events, torch.from_numpy(cases.users_C), torch.from_numpy(cases.starts_C))
            for case, (user, start) in enumerate(zip(cases.users_C, cases.starts_C, strict=True)):
                own = events.items_E.numpy()[int(events.offsets_U1[user]) :][:start]
                new = ~np.isin(cells, cells[own]) & ranker.table.recommendable_N.numpy()
                old = np.isin(cells, cells[own]) & ranker.table.recommendable_N.numpy()
                assert not new.any() or not old.any() or scores[case, new].min() > scores[case, old].max()


def test_a_sample_keeps_the_order_of_cases(world: tuple[EventTable, Cases, np.ndarray]) -> None:
    _, cases, _ = world
    some = gemirec_posterior.sampled(cases, 4)
    assert len(some.users_C) == 4
    assert (np.diff(some.starts_C) >= 0).all()
    assert len(gemirec_posterior.sampled(cases, 100).users_C) == len(cases.users_C)

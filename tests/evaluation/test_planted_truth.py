"""The instrument on the demo, a world whose law is known: an oracle gets to the ceiling, shuffled it gets chance."""

import numpy as np
import pytest
from benchmarks.planted_oracle import Instrument, measured_world, promised, report

from prismrec.evaluation.intervals import paired_bootstrap
from prismrec.evaluation.protocols import count
from prismrec.evaluation.slices import PLANTED, read_planted, slice_figures, slices
from prismrec.metrics.ranking import per_user_metrics


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return measured_world()


def test_the_oracle_reaches_the_ceiling(instrument: Instrument) -> None:
    """What its own probabilities promise for the ten likeliest items is what evaluation finds, within three errors."""
    cases, warm_C = instrument.cases, instrument.warm_C
    nothing = {"left_out": 0, "repeated": 0, "users_left_out": 0}
    assert count(cases) == {"users": len(instrument.built.histories), "targets": len(warm_C), **nothing}
    assert 0.05 < (~warm_C).mean() < 0.2, "the demo's cold items"
    chance_C = promised(instrument)[warm_C]
    error = np.sqrt((chance_C * (1 - chance_C)).sum()) / len(chance_C)
    assert instrument.hr("oracle") == pytest.approx(chance_C.mean(), abs=3 * error)
    assert chance_C.mean() > 0.4


def test_the_oracle_is_well_above_every_heuristic(instrument: Instrument) -> None:
    values = {name: per_user_metrics(row.ranks)["ndcg@10"] for name, row in instrument.ranked.items()}
    for name in ("popularity", "decayed_markov", "item_knn"):
        _, low, _ = paired_bootstrap(values["oracle"], values[name], draws=300)
        assert low > 0.03, name


def test_shuffled_it_is_at_chance(instrument: Instrument) -> None:
    """Ten of the items that are left, within three errors."""
    chance = 10 / (instrument.recommendable.sum() - instrument.cases.starts_C[instrument.warm_C])
    error = np.sqrt((chance * (1 - chance)).sum()) / len(chance)
    assert instrument.hr("shuffled") == pytest.approx(chance.mean(), abs=3 * error)


def test_planted_slices_add_up(instrument: Instrument) -> None:
    """Users of few interests are the easier ones; a target of a new interest is hard even for the oracle."""
    built = instrument.built
    planted = read_planted(instrument.truth, built.item_map, built.user_map, built.histories)
    parts = slices(instrument.cases, instrument.events, instrument.counts, planted)
    figures = slice_figures({name: row.ranks for name, row in instrument.ranked.items()}, parts, draws=200)
    found = {part["label"]: part for part in figures if part["slice"] == PLANTED}
    held = [f"{number} interests" for number in (2, 3, 4, 5)]
    assert sum(found[label]["cases"] for label in held) == len(instrument.cases.users_C)
    recall = {label: part["models"]["oracle"]["recall@10"][0] for label, part in found.items()}
    assert recall["2 interests"] > recall["5 interests"]
    assert recall["target's interest in the history"] > 2 * recall["target's interest is new"]


def test_the_table_holds_everybody_with_intervals(instrument: Instrument) -> None:
    found = report(instrument, draws=50)
    rankers = found["rankers"]
    assert set(rankers) == {"oracle", "shuffled", "popularity", "decayed_markov", "item_knn"}
    assert set(found["rankers_all_cases"]) == set(rankers)
    low, high = rankers["oracle"]["hr@10"]["interval"]
    assert low < rankers["oracle"]["hr@10"]["mean"] == instrument.hr("oracle") < high

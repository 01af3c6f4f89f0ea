r"""The synthetic world ranked by an oracle that knows its law, by heuristics, and at random: how high one can get.

    python -m benchmarks.planted_oracle --output benchmarks/results/planted_oracle.json

The oracle knows catalogue, tastes and law of the synthetic world, but not which interest an event came from: it keeps
a belief over the user's interests and updates it event by event. Its probabilities of the next item say how often the
ten likeliest are hit (`promised`), which is the most that anyone who reads the history can reach. The world is smaller
than the demo's, and without cold items and repeats, whose law the oracle could only guess. `shuffled` has
the oracle's scores at random items, `chance` is what lists at random hit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from prismrec.artifacts.model_folder import dump_json
from prismrec.data import schema
from prismrec.data.histories import SplitPoints
from prismrec.data.sequences import Sequences, build_sequences
from prismrec.data.sources import read_source
from prismrec.data.synthetic import SLOTS, Catalogue, Tastes, _make_catalogue, _make_tastes
from prismrec.data.validation import validate_tables
from prismrec.evaluation.evaluate import Ranked, evaluate
from prismrec.evaluation.intervals import bootstrap_means
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.metrics.ranking import per_user_metrics, ranking_metrics
from prismrec.models.baselines import CountedEvents, DecayedMarkovRanker, ItemKNNRanker
from prismrec.models.events import EventTable
from prismrec.models.rankers import PopularityRanker, Ranker
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sequence_building import SequenceBuildingParameters
from prismrec.parameters.sources import SyntheticWorld

SEED = 11
# No cold items and no repeats: the law of the last event is that of all others.
WORLD = SyntheticWorld(
    users=1200, items=360, cold_items=0, silent_items=0, repeat_share=0.0, median_events=14.0, longest_history=40
)


class Truth(NamedTuple):
    """Catalogue and tastes, rows as the world numbers them."""

    catalogue: Catalogue
    tastes: Tastes


class Oracle(Ranker):
    """Probabilities of each user's next item, written down beforehand."""

    name = "oracle"

    def __init__(self, probabilities_UN: np.ndarray) -> None:
        self.log_UN = torch.from_numpy(probabilities_UN).log()

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        return self.log_UN[users_B]


def next_item(truth: Truth, items_UT: np.ndarray, ends_U: np.ndarray) -> np.ndarray:
    """P(item after each user's first `ends` events): [U, N], by the world's law.

    A belief over slots, and per slot the item it last brought forth, taken to be that of the likeliest slot.
    """
    catalogue, tastes = truth
    users, every = len(ends_U), np.arange(len(ends_U))
    seen_UN = np.zeros((users, len(catalogue)), bool)
    last_US = np.full((users, SLOTS), -1)
    belief_US = np.zeros((users, SLOTS))
    result_UN = np.zeros((users, len(catalogue)))
    for step in range(items_UT.shape[1]):
        drawn_US = tastes.weights(step / np.maximum(tastes.events_U - 1, 1))
        prior_US = drawn_US if step == 0 else WORLD.stay_share * belief_US + (1 - WORLD.stay_share) * drawn_US
        by_slot_USN = _by_slot(truth, seen_UN, last_US)
        asked = ends_U == step
        result_UN[asked] = np.einsum("us,usn->un", prior_US[asked], by_slot_USN[asked])
        item_U = items_UT[:, step]
        going = item_U >= 0
        joint_US = prior_US * by_slot_USN[every, :, item_U]
        belief_US[going] = (joint_US / np.maximum(joint_US.sum(1, keepdims=True), 1e-300))[going]
        last_US[every[going], belief_US.argmax(1)[going]] = item_U[going]
        seen_UN[every[going], item_U[going]] = True
    return result_UN


def _by_slot(truth: Truth, seen_UN: np.ndarray, last_US: np.ndarray) -> np.ndarray:
    """P(item | slot): the next of the series, or by popularity in the interest, or anywhere: [U, S, N]."""
    catalogue, tastes = truth

    def drawn(weight: np.ndarray) -> np.ndarray:
        total = weight.sum(-1, keepdims=True)
        return np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)

    inside_USN = drawn(np.where(seen_UN[:, None], 0.0, catalogue.weight_KN[tastes.interest_US]))
    anywhere_UN = drawn(np.where(seen_UN, 0.0, catalogue.weight_KN.sum(0)))
    explores_US1 = np.where(inside_USN.any(2, keepdims=True), WORLD.explore_share, 1.0)
    successor_US = np.where(last_US >= 0, catalogue.successor_N[last_US], -1)
    rows, slots = np.nonzero(successor_US >= 0)
    fresh = ~seen_UN[rows, successor_US[rows, slots]]
    rows, slots = rows[fresh], slots[fresh]
    follows_US1 = np.zeros((*successor_US.shape, 1))
    follows_US1[rows, slots] = WORLD.series_share
    result_USN = (1 - follows_US1) * inside_USN
    result_USN[rows, slots, successor_US[rows, slots]] += WORLD.series_share
    return (1 - explores_US1) * result_USN + explores_US1 * anywhere_UN[:, None]


class Instrument(NamedTuple):
    """The world as evaluation sees it, ranked by everybody."""

    built: Sequences
    truth: pl.DataFrame
    events: EventTable
    cases: Cases
    probabilities_UN: np.ndarray
    recommendable: np.ndarray
    counts: np.ndarray
    ranked: dict[str, Ranked]

    def hr(self, name: str) -> float:
        return ranking_metrics(self.ranked[name].ranks)["hr@10"]


def measured_world() -> Instrument:
    """The world made, split, and ranked by everybody."""
    parameters = DataValidationParameters(seed=SEED, source="synthetic", data_root="unused", synthetic=WORLD)
    raw = read_source(parameters)
    tables = validate_tables(raw.interactions, raw.items, parameters)
    sequences = SequenceBuildingParameters(seed=SEED, min_item_events=1, min_user_events=5)
    built = build_sequences(tables.interactions, tables.items, None, None, sequences)
    item_rng, user_rng, *_ = np.random.default_rng(SEED).spawn(5)
    truth = Truth(_make_catalogue(item_rng, WORLD), _make_tastes(user_rng, WORLD))
    histories, points = built.histories, SplitPoints.from_frame(built.splits)
    # Ids are "i" and "u" with the world's row.
    item_rows = np.array([int(name[1:]) for name in built.item_map[schema.ITEM_ID]])
    user_rows = [int(built.user_map[schema.USER_ID][int(user)][1:]) for user in histories.user_index_U]
    assert user_rows == list(range(WORLD.users)), "every user is whole, in the world's order"
    assert (histories.lengths == truth.tastes.events_U).all(), "no event is missing"
    items_UT = np.full((len(histories), int(histories.lengths.max())), -1)
    items_UT[np.arange(items_UT.shape[1]) < histories.lengths[:, None]] = item_rows[histories.items]
    probabilities_UN = next_item(truth, items_UT, points.test_start_U)[:, item_rows]
    recommendable = built.item_map[schema.ACTIVE].to_numpy()
    events = EventTable(histories.offsets, histories.items, histories.timestamps)
    counted = CountedEvents(
        histories.items, histories.timestamps, histories.offsets, points.test_start_U, len(item_rows)
    )
    mixed = np.random.default_rng(0).permuted(probabilities_UN, axis=1)
    rankers = {
        "oracle": Oracle(probabilities_UN),
        "shuffled": Oracle(mixed),
        "popularity": PopularityRanker(counted.popularity(), torch.from_numpy(recommendable)),
        "decayed_markov": DecayedMarkovRanker(counted),
        "item_knn": ItemKNNRanker(counted),
    }
    cases = make_cases(events, points.test_start_U, points.test_end_U, "filtered")
    ranked = evaluate(rankers, events, cases, torch.from_numpy(recommendable), "filtered")
    return Instrument(
        built, raw.planted_truth, events, cases, probabilities_UN, recommendable, counted.popularity(), ranked
    )


def promised(world: Instrument) -> np.ndarray:
    """Chance of a hit among the ten likeliest items, by the oracle's own probabilities: [C]."""
    open_CN = world.probabilities_UN[world.cases.users_C] * world.recommendable
    return np.sort(open_CN, axis=1)[:, -10:].sum(1)


def report(world: Instrument, draws: int = 2000) -> dict[str, object]:
    """HR@10 and NDCG@10 of every ranker with 95 % intervals, what the oracle promises, and chance."""
    figures = {}
    for name, ranked in world.ranked.items():
        values = per_user_metrics(ranked.ranks, (10,))
        figures[name] = {}
        for metric in ("hr@10", "ndcg@10"):
            low_M, high_M = bootstrap_means(values[metric][:, None], draws, SEED)
            ends = [float(low_M[0]), float(high_M[0])]
            figures[name][metric] = {"mean": float(values[metric].mean()), "interval": ends}
    chance = float((10 / (world.recommendable.sum() - world.cases.starts_C)).mean())
    cases = {"users": len(world.cases.users_C), "items": int(world.recommendable.sum()), "seed": SEED}
    return {**cases, "promised_hr@10": float(promised(world).mean()), "chance_hr@10": chance, "rankers": figures}


def main() -> None:
    """Print the table; write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args()
    found = report(measured_world())
    print(f"{found['users']} users, {found['items']} items, seed {found['seed']}")
    print(
        f"HR@10 that the oracle promises {found['promised_hr@10']:.4f}, of lists at random {found['chance_hr@10']:.4f}"
    )
    for name, figures in found["rankers"].items():
        cells = [f"{m} {f['mean']:.4f} [{f['interval'][0]:.3f} {f['interval'][1]:.3f}]" for m, f in figures.items()]
        print(f"{name:<16} {'  '.join(cells)}")
    if options.output:
        options.output.write_text(dump_json(found), encoding="utf-8")


if __name__ == "__main__":
    main()

r"""The synthetic world ranked by an oracle that knows its law, by heuristics, and at random: how high one can get.

    python -m benchmarks.planted_oracle --output benchmarks/results/planted_oracle.json

The world is the demo's, its split too. The oracle knows catalogue, tastes and law of the world, but not which interest
an event came from: it keeps a belief over the user's interests and updates it event by event. Its probabilities of the
next item say how often the ten likeliest are hit (`promised`): about the most that anyone who reads the history can
reach. Its belief is exact but for the place in a series, which it takes the likeliest interest to have moved. Cold
items lie outside the law: cases are told apart by whether their target is one, and the promise is for those whose
target is not. `shuffled` has the oracle's scores at random items, `chance` is what lists at random hit.

Shapes: U users, C cases, T longest history, S interest slots of a user, N items.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from benchmarks.peers.prepare import open_environment
from prismrec.artifacts.model_folder import dump_json
from prismrec.data import schema
from prismrec.data.histories import SplitPoints
from prismrec.data.sequences import Sequences, build_sequences
from prismrec.data.sources import read_source
from prismrec.data.synthetic import FEWEST_EVENTS, SLOTS, Catalogue, Tastes, _make_catalogue, _make_tastes
from prismrec.data.validation import validate_tables
from prismrec.evaluation.evaluate import Ranked, evaluate
from prismrec.evaluation.intervals import bootstrap_means
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.metrics.ranking import per_user_metrics
from prismrec.models.baselines import CountedEvents, DecayedMarkovRanker, ItemKNNRanker
from prismrec.models.events import EventTable
from prismrec.models.rankers import PopularityRanker, Ranker
from prismrec.parameters.data_validation import DataValidationParameters
from prismrec.parameters.sequence_building import SequenceBuildingParameters
from prismrec.parameters.sources import SyntheticWorld


class Truth(NamedTuple):
    """The world's habits, its catalogue and its users' tastes, rows as the world numbers them."""

    world: SyntheticWorld
    catalogue: Catalogue
    tastes: Tastes


class Oracle(Ranker):
    """Probabilities of each user's next item, written down beforehand."""

    name = "oracle"

    def __init__(self, cases: Cases, probabilities_CN: np.ndarray) -> None:
        self.log_CN = torch.from_numpy(probabilities_CN).log()
        self.case_of = {int(user): case for case, user in enumerate(cases.users_C)}

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        return self.log_CN[[self.case_of[user] for user in users_B.tolist()]]


def next_item(truth: Truth, walk_UT: np.ndarray, asked_U: np.ndarray) -> np.ndarray:
    """P(item of event `asked_U`, which is none of the earlier ones) by the world's law: [U, N].

    A belief over slots, and per slot the item it last brought forth, taken to be that of the likeliest slot. What is
    met again says nothing of slots.
    """
    world, catalogue, tastes = truth
    users = len(asked_U)
    seen_UN = np.zeros((users, len(catalogue)), bool)
    last_US = np.full((users, SLOTS), -1)
    belief_US = np.zeros((users, SLOTS))
    result_UN = np.zeros((users, len(catalogue)))
    for step in range(int(asked_U.max()) + 1):
        rows = np.flatnonzero(asked_U >= step)
        every, item_A = np.arange(len(rows)), walk_UT[rows, step]
        drawn_AS = tastes.weights(step / np.maximum(tastes.events_U - 1, 1))[rows]
        prior_AS = drawn_AS if step == 0 else world.stay_share * belief_US[rows] + (1 - world.stay_share) * drawn_AS
        by_slot_ASN = _by_slot(truth, tastes.interest_US[rows], seen_UN[rows], last_US[rows])
        here = asked_U[rows] == step
        result_UN[rows[here]] = np.einsum("as,asn->an", prior_AS[here], by_slot_ASN[here])
        again_A = seen_UN[rows, item_A]
        assert not again_A.any() or step >= 2 * FEWEST_EVENTS, "the world repeats nothing so early"
        joint_AS = np.where(again_A[:, None], prior_AS, prior_AS * by_slot_ASN[every, :, item_A])
        belief_US[rows] = joint_AS / np.maximum(joint_AS.sum(1, keepdims=True), 1e-300)
        last_US[rows, belief_US[rows].argmax(1)] = item_A
        seen_UN[rows, item_A] = True
    return result_UN


def _by_slot(truth: Truth, interest_US: np.ndarray, seen_UN: np.ndarray, last_US: np.ndarray) -> np.ndarray:
    """P(item | slot): the next of the series, or by popularity in the interest, or anywhere: [U, S, N]."""
    world, catalogue, _ = truth

    def drawn(weight: np.ndarray) -> np.ndarray:
        total = weight.sum(-1, keepdims=True)
        return np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)

    inside_USN = drawn(np.where(seen_UN[:, None], 0.0, catalogue.weight_KN[interest_US]))
    anywhere_UN = drawn(np.where(seen_UN, 0.0, catalogue.weight_KN.sum(0)))
    explores_US1 = np.where(inside_USN.any(2, keepdims=True), world.explore_share, 1.0)
    successor_US = np.where(last_US >= 0, catalogue.successor_N[last_US], -1)
    rows, slots = np.nonzero(successor_US >= 0)
    fresh = ~seen_UN[rows, successor_US[rows, slots]]
    rows, slots = rows[fresh], slots[fresh]
    follows_US1 = np.zeros((*successor_US.shape, 1))
    follows_US1[rows, slots] = world.series_share
    result_USN = (1 - follows_US1) * inside_USN
    result_USN[rows, slots, successor_US[rows, slots]] += world.series_share
    return (1 - explores_US1) * result_USN + explores_US1 * anywhere_UN[:, None]


class Instrument(NamedTuple):
    """The world as evaluation sees it, ranked by everybody; items as in the item map."""

    built: Sequences
    truth: pl.DataFrame
    events: EventTable
    cases: Cases
    probabilities_CN: np.ndarray  # of the target, by the oracle; rows sum to 1
    recommendable: np.ndarray
    counts: np.ndarray
    warm_C: np.ndarray  # whether the target is an item that the law knows
    ranked: dict[str, Ranked]
    seed: int

    def hr(self, name: str) -> float:
        """HR@10 of the cases whose target the law knows."""
        return float(per_user_metrics(self.ranked[name].ranks, (10,))["hr@10"][self.warm_C].mean())


def measured_world() -> Instrument:
    """The demo's world made, split, and ranked by everybody."""
    settings = open_environment("base")[2]
    parameters = DataValidationParameters.model_validate(settings["data_validation"])
    raw, world, seed = read_source(parameters), parameters.synthetic, parameters.seed
    tables = validate_tables(raw.interactions, raw.items, parameters)
    sequences = SequenceBuildingParameters.model_validate(settings["sequence_building"])
    built = build_sequences(tables.interactions, tables.items, None, None, sequences)
    histories, points = built.histories, SplitPoints.from_frame(built.splits)
    events = EventTable(histories.offsets, histories.items, histories.timestamps)
    cases = make_cases(events, points.test_start_U, points.test_end_U, "filtered")
    item_rng, user_rng, *_ = np.random.default_rng(seed).spawn(5)
    catalogue, tastes = _make_catalogue(item_rng, world), _make_tastes(user_rng, world)
    # Ids are "i" and "u" with the world's row.
    row_N = np.array([int(name[1:]) for name in built.item_map[schema.ITEM_ID]])
    user_ids = built.user_map[schema.USER_ID].gather(histories.user_index_U[cases.users_C])
    user_C = np.array([int(name[1:]) for name in user_ids])
    walk_CT = _walks(tables.interactions, tastes)[user_C]
    target_C = cases.targets_CT[:, 0]
    asked_C = (walk_CT == row_N[target_C][:, None]).argmax(1)
    held = replace(
        tastes, **{name: getattr(tastes, name)[user_C] for name in ("interest_US", "start_US", "end_US", "events_U")}
    )
    probabilities_CN = next_item(Truth(world, catalogue, held), walk_CT, asked_C)[:, row_N]
    probabilities_CN /= probabilities_CN.sum(1, keepdims=True)  # items that the split leaves out are nobody's target
    recommendable = built.item_map[schema.ACTIVE].to_numpy()
    counted = CountedEvents(histories.items, histories.timestamps, histories.offsets, points.test_start_U, len(row_N))
    mixed = np.random.default_rng(0).permuted(probabilities_CN, axis=1)
    rankers = {
        "oracle": Oracle(cases, probabilities_CN),
        "shuffled": Oracle(cases, mixed),
        "popularity": PopularityRanker(counted.popularity(), torch.from_numpy(recommendable)),
        "decayed_markov": DecayedMarkovRanker(counted),
        "item_knn": ItemKNNRanker(counted),
    }
    ranked = evaluate(rankers, events, cases, torch.from_numpy(recommendable), "filtered")
    warm_C = ~np.isin(row_N[target_C], catalogue.cold)
    return Instrument(
        built,
        raw.planted_truth,
        events,
        cases,
        probabilities_CN,
        recommendable,
        counted.popularity(),
        warm_C,
        ranked,
        seed,
    )


def _walks(interactions: pl.LazyFrame, tastes: Tastes) -> np.ndarray:
    """The items of every user's events, what was met again and what the split leaves out among them: [U, T]."""
    log = interactions.sort(schema.USER_ID, schema.TIMESTAMP).collect()
    user_E = log[schema.USER_ID].str.slice(1).cast(pl.Int64).to_numpy()
    item_E = log[schema.ITEM_ID].str.slice(1).cast(pl.Int64).to_numpy()
    count_U = np.bincount(user_E, minlength=len(tastes.events_U))
    assert (count_U == tastes.events_U).all(), "no event is missing, none is there twice"
    walk_UT = np.full((len(count_U), int(count_U.max())), -1)
    walk_UT[user_E, np.arange(len(user_E)) - (count_U.cumsum() - count_U)[user_E]] = item_E
    return walk_UT


def promised(world: Instrument) -> np.ndarray:
    """Chance of a hit among the ten likeliest items, by the oracle's own probabilities: [C]."""
    return np.sort(world.probabilities_CN * world.recommendable, axis=1)[:, -10:].sum(1)


def report(world: Instrument, draws: int = 2000) -> dict[str, Any]:
    """What the oracle promises and chance, and HR@10 and NDCG@10 of every ranker with 95 % intervals.

    `rankers` counts the cases whose target the law knows, `rankers_all_cases` all, as the demo's own table does.
    """
    parts = {"rankers": world.warm_C, "rankers_all_cases": np.ones_like(world.warm_C)}
    figures: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for name, ranked in world.ranked.items():
        values = per_user_metrics(ranked.ranks, (10,))
        for part, inside_C in parts.items():
            figures[part][name] = {}
            for metric in ("hr@10", "ndcg@10"):
                value_C = values[metric][inside_C]
                low_M, high_M = bootstrap_means(value_C[:, None], draws, world.seed)
                ends = [float(low_M[0]), float(high_M[0])]
                figures[part][name][metric] = {"mean": float(value_C.mean()), "interval": ends}
    chance_C = 10 / (world.recommendable.sum() - world.cases.starts_C)
    return {
        "cases": len(world.warm_C),
        "cases_of_cold_items": int((~world.warm_C).sum()),
        "items": int(world.recommendable.sum()),
        "seed": world.seed,
        "promised_hr@10": float(promised(world)[world.warm_C].mean()),
        "chance_hr@10": float(chance_C[world.warm_C].mean()),
        **figures,
    }


def main() -> None:
    """Print the table; write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args()
    found = report(measured_world())
    print(f"{found['cases']} cases, {found['cases_of_cold_items']} of cold items, {found['items']} items")
    print(f"HR@10 that the oracle promises {found['promised_hr@10']:.4f}, at random {found['chance_hr@10']:.4f}")
    for part, title in (("rankers", "without the cold"), ("rankers_all_cases", "all cases")):
        print(title)
        for name, figures in found[part].items():
            cells = [f"{m} {f['mean']:.4f} [{f['interval'][0]:.3f} {f['interval'][1]:.3f}]" for m, f in figures.items()]
            print(f"  {name:<16} {'  '.join(cells)}")
    if options.output:
        options.output.write_text(dump_json(found), encoding="utf-8")


if __name__ == "__main__":
    main()

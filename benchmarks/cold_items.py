r"""Recall of items that training never met: a random item hold-out, resumable.

    kedro run --env ml1m --pipelines data_validation,sequence_building,lightweight_encoder
    python -m benchmarks.cold_items --env ml1m --seeds 0 1 2 --out benchmarks/results/cold_items
    python -m benchmarks.cold_items --env ml1m --seeds 10 --lifts 0 0.3 0.6 1 --out benchmarks/results/cold_items/lifts

A share of the items with events (10 % by default) is held out: their events are taken out of every history, their texts
stay in the catalogue. Each user's first 80 % of the other events train stage 3 (`lightweight_encoder`, with the
environment's parameters; the last of them picks the epoch); the held-out items among the last 20 % of all events are
the test targets. No event that trains is later than the user's own targets.

One JSON a seed, `OUT/<workspace>-<seed>.json`; a seed whose file is there and was made with the same settings is not
run again. In it, over users: recall@10 and @50 with 95 % bootstrap intervals for three rankers, and the paired
difference to each of the others, in two settings. *full*: all items that are not in the history compete. *held_out*:
the held-out items alone. Text-kNN is the cosine of text embeddings to the history, weighted 0.7^age; its text is that
of the frozen text encoder. Chance is the expectation over all orders. With `--lifts` our ranker is measured at each of
these values of `untrained_lift` instead of the environment's, all after one training: choose by hold-outs (seeds) that
are not reported.

Shapes: U users, C cases (users with a target), N items, E width of text embeddings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.measure import machine, measured
from benchmarks.peers.prepare import open_environment
from prismrec.artifacts.model_folder import dump_json
from prismrec.data import schema
from prismrec.data.histories import Histories
from prismrec.data.splits import CUT_POINTS
from prismrec.data.targets import Targets, distinct_targets
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap
from prismrec.metrics.ranking import nowhere, per_user_metrics, rank_targets
from prismrec.models.baselines import decayed_history
from prismrec.models.events import EventTable
from prismrec.models.rankers import LightweightEncoderRanker, Ranker
from prismrec.parameters.lightweight_encoder import LightweightEncoderParameters
from prismrec.pipelines.lightweight_encoder.nodes import train_encoder
from prismrec.retrieval.topk import exclude

TRAIN_SHARE = 0.8  # of a user's events, the first ones
FEWEST = 3  # events that must be left to train on
CUTOFFS = (10, 50)
CHUNK = 256  # users ranked at once
OURS = "lightweight_encoder"


class HoldOut(NamedTuple):
    """A world without some of its items, and who met them later."""

    held_N: np.ndarray  # bool
    histories: Histories  # what is trained on and ranked from
    splits: pl.DataFrame
    users_C: np.ndarray
    targets: Targets  # of those users


class TextKNN(Ranker):
    """Cosine of an item's text to the texts of the history, weighted 0.7^age."""

    name = "text_knn"

    def __init__(self, text_NE: np.ndarray) -> None:
        self.text_NE = F.normalize(torch.from_numpy(text_NE).float(), dim=-1)

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, N] cosines."""
        profile = decayed_history(events, users_B, ends_B, len(self.text_NE)) @ self.text_NE.numpy()
        return F.normalize(torch.from_numpy(profile).float(), dim=-1) @ self.text_NE.T


class Chance(Ranker):
    """One score for all items."""

    name = "chance"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """[B, N] zeros."""
        return torch.zeros(len(users_B), self.num_items)


def hold_out(histories: Histories, num_items: int, share: float, seed: int) -> HoldOut:
    """Take `share` of the items with events out of all histories.

    Users with fewer than FEWEST events left before the cut are left out.
    """
    met = np.unique(histories.items)
    chosen = np.random.default_rng(seed).choice(met, max(1, round(share * len(met))), replace=False)
    held_N = np.zeros(num_items, np.bool_)
    held_N[chosen] = True
    user_E = np.repeat(np.arange(len(histories)), histories.lengths)
    cut_U = np.ceil(TRAIN_SHARE * histories.lengths - 1e-9).astype(np.int64)
    early_E = np.arange(len(user_E)) - histories.offsets[user_E] < cut_U[user_E]
    kept_E = early_E & ~held_N[histories.items]
    lengths_U = np.bincount(user_E[kept_E], minlength=len(histories))
    trains_U = lengths_U >= FEWEST
    kept_E &= trains_U[user_E]
    later_E = ~early_E & held_N[histories.items] & trains_U[user_E]
    row_U = np.cumsum(trains_U) - 1
    kept = Histories(
        histories.user_index_U[trains_U],
        np.concatenate([[0], np.cumsum(lengths_U[trains_U])]),
        np.asarray(histories.items[kept_E]),
        np.asarray(histories.timestamps[kept_E]),
    )
    met_later_U = np.bincount(row_U[user_E[later_E]], minlength=len(kept))
    users_C = np.flatnonzero(met_later_U)
    offsets = np.concatenate([[0], np.cumsum(met_later_U)])
    starts_C = np.zeros(len(users_C), np.int64)  # a held-out item is in no history
    targets = distinct_targets(offsets, histories.items[later_E], users_C, starts_C, met_later_U[users_C], True)
    return HoldOut(held_N, kept, _splits(kept), users_C, targets)


def _splits(histories: Histories) -> pl.DataFrame:
    """The last event of each history validates; nothing is tested."""
    last_U, end_U = histories.lengths - 1, histories.lengths
    points = dict(zip(CUT_POINTS, (last_U, last_U, end_U, end_U, end_U), strict=True))
    return schema.conform(pl.DataFrame({schema.USER_INDEX: histories.user_index_U, **points}), schema.SPLITS)


@torch.inference_mode()
def recalls(ranker: Ranker, world: HoldOut, events: EventTable, allowed_N: Tensor) -> dict[str, np.ndarray]:
    """Each case's recall by cut-off, [C], among the items allowed that are not in the history."""
    targets_CT, mask_CT = (torch.from_numpy(array) for array in world.targets[:2])
    ranks = nowhere(mask_CT)
    for start in range(0, len(world.users_C), CHUNK):
        part = slice(start, start + CHUNK)
        users_B = torch.from_numpy(world.users_C[part])
        ends_B = torch.from_numpy(world.histories.lengths[world.users_C[part]])
        seen = events.cut(users_B, torch.zeros_like(ends_B), ends_B)
        scores_BN = exclude(ranker.scores(events, users_B, ends_B).float(), seen, allowed_N)
        ranks.put(part, rank_targets(scores_BN, targets_CT[part], mask_CT[part]))
    metrics = per_user_metrics(ranks, CUTOFFS)
    return {f"recall@{k}": metrics[f"recall@{k}"] for k in CUTOFFS}


def summary(rankers: list[Ranker], world: HoldOut, events: EventTable, allowed_N: Tensor) -> dict[str, Any]:
    """Means, intervals and paired differences of ours to the others."""
    found = {ranker.name: recalls(ranker, world, events, allowed_N) for ranker in rankers}
    report: dict[str, Any] = {}
    for metric in (f"recall@{k}" for k in CUTOFFS):
        values_CM = np.stack([found[ranker.name][metric] for ranker in rankers], axis=1)
        low_M, high_M = bootstrap_means(values_CM)
        rows = {
            ranker.name: [float(values_CM[:, m].mean()), float(low_M[m]), float(high_M[m])]
            for m, ranker in enumerate(rankers)
        }
        ours_C = found[OURS][metric]
        differences = {name: list(paired_bootstrap(ours_C, found[name][metric])) for name in found if name != OURS}
        report[metric] = {"mean_low_high": rows, "ours_minus": differences}
    return report


def run_cell(
    catalog: Any, parameters: LightweightEncoderParameters, share: float, seed: int, lifts: Sequence[float] = ()
) -> dict[str, Any]:
    """Hold out, train, rank: one seed; once for each lift if there are any."""
    item_map, text = catalog.load("item_map"), catalog.load("pretrained_text_embeddings")
    facts = catalog.load("text_encoding")
    world = hold_out(catalog.load("histories"), len(item_map), share, seed)
    trained, cost = measured(lambda: train_encoder(text, facts, item_map, world.histories, world.splits, parameters))
    tower, vectors, encoder, metrics = trained[0], trained[1], trained[2], trained[-1]
    assert not vectors["trained"][world.held_N].any(), "a held-out item was trained on"
    recommendable_N, held_N = torch.from_numpy(vectors["recommendable"]), torch.from_numpy(world.held_N)
    events = EventTable(world.histories.offsets, world.histories.items, world.histories.timestamps)
    others: list[Ranker] = [TextKNN(text["embeddings"]), Chance(len(item_map))]
    about = {
        "items": {"recommendable": int(recommendable_N.sum()), "held_out": int((held_N & recommendable_N).sum())},
        "cases": {"users": len(world.users_C), "targets": int(world.targets.mask_CT.sum())},
        "validation": {name: value for name, value in metrics.items() if name.startswith("validation")},
        "training": cost.as_dict(),
    }

    def ranked(vectors_ND: Tensor) -> dict[str, Any]:
        rankers = [LightweightEncoderRanker(encoder, vectors_ND, recommendable_N), *others]
        return {
            "full": summary(rankers, world, events, recommendable_N),
            "held_out": summary(rankers, world, events, recommendable_N & held_N),
        }

    with torch.inference_mode():
        if not lifts:
            return {**about, **ranked(torch.from_numpy(vectors["vectors"]))}
        text_NE, trained_N = torch.from_numpy(trained[3]["embeddings"]), torch.from_numpy(vectors["trained"])
        unit_D, by_lift = F.normalize(tower.lift_D, dim=0), {}
        for lift in lifts:
            tower.lift_D = lift * unit_D
            by_lift[f"{lift:g}"] = ranked(tower(text_NE, trained_N))
        return {**about, "lifts": by_lift}


def as_table(cell: dict[str, Any]) -> str:
    """One line a ranker."""
    if "lifts" in cell:
        return "\n".join(f"lift {lift}\n{as_table(found)}" for lift, found in cell["lifts"].items())
    lines = [f"{'among':<10} {'metric':<10} {'ranker':<20} {'mean':>6}  interval"]
    for among in ("full", "held_out"):
        for metric, figures in cell[among].items():
            for name, (mean, low, high) in figures["mean_low_high"].items():
                lines.append(f"{among:<10} {metric:<10} {name:<20} {mean:>6.4f}  [{low:.4f}, {high:.4f}]")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the seeds that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="base", help="Kedro environment, such as base (the demo) or ml1m")
    parser.add_argument("--share", type=float, default=0.1, help="share of the items that is held out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one hold-out each")
    parser.add_argument("--lifts", type=float, nargs="+", default=[], help="values of untrained_lift to compare")
    parser.add_argument("--epochs", type=int, help="epochs of stage 3, instead of the environment's")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    catalog, settings, all_parameters = open_environment(options.env)
    of_stage = all_parameters["lightweight_encoder"]
    if options.epochs:
        of_stage["training"] |= {"epochs": options.epochs}
    parameters = LightweightEncoderParameters.model_validate(of_stage)
    made_with = {"env": options.env, "share": options.share, "parameters": parameters.model_dump()}
    if options.lifts:
        made_with["lifts"] = options.lifts
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        path = options.out / f"{settings['workspace']}-{seed}.json"
        if path.is_file() and json.loads(path.read_text())["made_with"] == {**made_with, "seed": seed}:
            print(f"{path} is there")
            continue
        cell = run_cell(catalog, parameters, options.share, seed, options.lifts)
        written = path.with_suffix(".partial")
        written.write_text(dump_json({"made_with": {**made_with, "seed": seed}, "machine": machine(), **cell}))
        written.replace(path)
        print(f"{path}\n{as_table(cell)}", flush=True)


if __name__ == "__main__":
    main()

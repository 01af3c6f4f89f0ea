"""Figures on parts of the cases: by length of history, popularity of the target, cold items, planted interests.

A slice keeps some of the targets; a case counts where it has a target left, and its figures are those of these targets
alone, still ranked among the whole catalogue. Intervals come from resampling the slice's own cases (our choice: the
size of a slice is taken as given), the same draws for all models. Empty slices are left out.

Notable: items of equal popularity are never parted (a decile may hold a little more or less than a tenth of the items),
and items that training never shows stand before the first decile.

Shapes: U users, C cases, T targets a case, N items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from prismrec.data.histories import Histories
from prismrec.evaluation.intervals import DRAWS, bootstrap_means
from prismrec.evaluation.protocols import Cases
from prismrec.metrics.interests import new_interests
from prismrec.metrics.ranking import TargetRanks, per_user_metrics
from prismrec.models.events import EventTable

if TYPE_CHECKING:
    import polars as pl

HISTORY_LENGTH, POPULARITY, COLD_ITEMS, PLANTED = (
    "history_length",
    "popularity_decile",
    "cold_items",
    "planted_interests",
)
LENGTH_EDGES = (5, 10, 20, 50, 100, 200)  # events
COLD_EVENTS = 5  # an item is cold with at most so many training events
CUTOFF = 10
METRICS = (f"hr@{CUTOFF}", f"recall@{CUTOFF}", f"ndcg@{CUTOFF}")


class Slice(NamedTuple):
    """Some of the targets."""

    name: str  # the family: history_length, popularity_decile, cold_items, planted_interests
    label: str
    mask_CT: np.ndarray  # bool


class Planted(NamedTuple):
    """What the synthetic world planted, in the order of event table and item map."""

    held_U: np.ndarray  # int64 number of interests each user holds
    interest_N: np.ndarray  # int64 main interest of every item; -1 where none is known


def read_planted(
    truth: pl.DataFrame, item_map: pl.DataFrame, user_map: pl.DataFrame, histories: Histories
) -> Planted | None:
    """The planted truth by index; None where nothing was planted (real data).

    Args:
        truth: the `planted_truth` table.
        item_map: the `item_map` table.
        user_map: the `user_map` table.
        histories: gives the users' order.
    """
    import polars as pl

    from prismrec.data.schema import ITEM_ID, USER_ID
    from prismrec.data.splits import user_ids

    if truth.is_empty():
        return None
    names = truth.get_column("interest").unique().sort()
    main = (
        truth.filter(pl.col("kind") == "item")
        .sort("id", "weight", "interest", descending=[False, True, False])
        .unique("id", keep="first", maintain_order=True)
        .with_columns(pl.col("interest").replace_strict(names, range(len(names)), return_dtype=pl.Int64))
    )
    held = truth.filter(pl.col("kind") == "user").group_by("id").len("held")
    users = user_ids(histories, user_map).alias(USER_ID).to_frame()
    held_U = users.join(held, left_on=USER_ID, right_on="id", how="left", maintain_order="left")
    interest_N = item_map.join(main, left_on=ITEM_ID, right_on="id", how="left", maintain_order="left")
    return Planted(
        held_U.get_column("held").fill_null(0).cast(pl.Int64).to_numpy(),
        interest_N.get_column("interest").fill_null(-1).to_numpy(),
    )


def slices(cases: Cases, events: EventTable, counts_N: np.ndarray, planted: Planted | None) -> list[Slice]:
    """All slices that hold a target.

    Args:
        cases: whose targets are parted.
        events: all users' events.
        counts_N: training events of every item.
        planted: what was planted, if anything.
    """
    found = [
        *_by_history_length(cases),
        *_by_popularity(cases, counts_N),
        Slice(COLD_ITEMS, f"at most {COLD_EVENTS} training events", counts_N[cases.targets_CT] <= COLD_EVENTS),
        *(_by_planted_interests(cases, events, planted) if planted is not None else ()),
    ]
    found = [part._replace(mask_CT=part.mask_CT & cases.mask_CT) for part in found]
    return [part for part in found if part.mask_CT.any()]


def _by_history_length(cases: Cases) -> Iterator[Slice]:
    edges = (1, *LENGTH_EDGES)
    for low, above in zip(edges, (*LENGTH_EDGES, None), strict=True):
        inside_C = cases.starts_C >= low
        if above is not None:
            inside_C &= cases.starts_C < above
        label = f"{low} or more" if above is None else f"{low}-{above - 1}"
        yield Slice(HISTORY_LENGTH, label, _all_targets(inside_C, cases))


def _by_popularity(cases: Cases, counts_N: np.ndarray) -> Iterator[Slice]:
    yield Slice(POPULARITY, "no training event", counts_N[cases.targets_CT] == 0)
    decile_N = popularity_deciles(counts_N)
    decile_CT = decile_N[cases.targets_CT]
    for decile in range(1, 11):
        if (decile_N == decile).any():
            inside = counts_N[decile_N == decile]
            yield Slice(POPULARITY, f"{decile} ({inside.min()}-{inside.max()} events)", decile_CT == decile)


def popularity_deciles(counts_N: np.ndarray) -> np.ndarray:
    """Decile of every trained item, 1 (least popular) to 10; 0 for items without a training event.

    A decile holds a tenth of the trained items, except that items of equal count go together, by their middle.
    """
    decile_N = np.zeros(len(counts_N), dtype=np.int64)
    trained = counts_N > 0
    if trained.any():
        _, group, size = np.unique(counts_N[trained], return_inverse=True, return_counts=True)
        middle = np.cumsum(size) - size / 2
        decile_N[trained] = np.minimum(np.floor(10 * middle / trained.sum()).astype(np.int64), 9)[group] + 1
    return decile_N


def _by_planted_interests(cases: Cases, events: EventTable, planted: Planted) -> Iterator[Slice]:
    held_C = planted.held_U[cases.users_C]
    for held in np.unique(held_C[held_C > 0]).tolist():
        label = "1 interest" if held == 1 else f"{held} interests"
        yield Slice(PLANTED, label, _all_targets(held_C == held, cases))
    interest_CT = np.where(cases.mask_CT, planted.interest_N[cases.targets_CT], -1)
    first_C = events.offsets_U1[:-1].cpu().numpy()[cases.users_C]
    items_E = events.items_E.cpu().numpy()
    new_CT = new_interests(interest_CT, items_E, first_C, first_C + cases.starts_C, planted.interest_N)
    yield Slice(PLANTED, "target's interest in the history", ~new_CT & (interest_CT >= 0))
    yield Slice(PLANTED, "target's interest is new", new_CT)


def _all_targets(inside_C: np.ndarray, cases: Cases) -> np.ndarray:
    return np.broadcast_to(inside_C[:, None], cases.mask_CT.shape)


def slice_figures(
    ranks: Mapping[str, TargetRanks], parts: list[Slice], draws: int = DRAWS, seed: int = 0
) -> list[dict[str, Any]]:
    """Every slice with its number of cases and targets, and per model value, low and high of its figures.

    Args:
        ranks: of every row, of the cases that the slices were made of.
        parts: the slices.
        draws: bootstrap resamples.
        seed: draws them.
    """
    return [_figures(ranks, part, draws, seed) for part in parts]


def _figures(ranks: Mapping[str, TargetRanks], part: Slice, draws: int, seed: int) -> dict[str, Any]:
    counted = np.flatnonzero(part.mask_CT.any(1))
    mask = torch.from_numpy(part.mask_CT[counted])
    columns = []
    for row in ranks.values():
        assert (row.mask_CT[counted] | ~mask).all(), "the slices are of other cases"
        found = per_user_metrics(TargetRanks(row.higher_CT[counted], row.tied_CT[counted], mask), (CUTOFF,))
        columns += [found[metric] for metric in METRICS]
    values_CM = np.stack(columns, axis=1)
    low_M, high_M = bootstrap_means(values_CM, draws, seed)
    triples = np.stack([values_CM.mean(0), low_M, high_M], axis=1).reshape(len(ranks), len(METRICS), 3).tolist()
    return {
        "slice": part.name,
        "label": part.label,
        "cases": len(counted),
        "targets": int(part.mask_CT.sum()),
        "models": {name: dict(zip(METRICS, row, strict=True)) for name, row in zip(ranks, triples, strict=True)},
    }

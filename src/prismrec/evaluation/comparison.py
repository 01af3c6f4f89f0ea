"""All models on the same cases: every figure of the evaluation, with intervals, and every pair of models compared.

Accuracy comes from the targets' places among the whole catalogue, the rest from the first hundred of the list. Of the
test, one value a user, metric and row is kept until the end, so that means, intervals and paired differences rest on
the same numbers; of other parts only accuracy is asked for, and only its means are kept.

Notable: coverage, Gini and popularity lift belong to all lists together and have no value a user, hence no interval.
How far a user's interests lie apart, how many of them a list shows, and what a list of fewer interests is worth, is
measured on a sample of the cases (our choice: all need a second pass of the model).

Shapes: C cases, T targets a case, N items, K places of a list, M categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from prismrec.evaluation.evaluate import Ranked, evaluate
from prismrec.evaluation.intervals import bootstrap_means, paired_intervals
from prismrec.evaluation.protocols import Cases, History
from prismrec.evaluation.rows import TIME_FREE_SUFFIX
from prismrec.metrics.calibration import category_calibration
from prismrec.metrics.diversity import category_diversity, text_diversity
from prismrec.metrics.exposure import exposure_metrics, history_popularity, novelty, popularity_lift
from prismrec.metrics.interests import (
    cells_hit,
    effective_rank,
    interest_cosine,
    interest_jaccard,
    interest_shares,
    new_interest_recall,
    new_interests,
)
from prismrec.metrics.ranking import CUTOFFS, TargetRanks, per_user_metrics
from prismrec.models.events import EventTable
from prismrec.models.rankers import Ranker, ServedRanker
from prismrec.retrieval.chunks import chunk_size
from prismrec.retrieval.topk import exclude, top_k

Progress = Callable[[Iterable[int]], Iterable[int]]
CURVE = (1, 2, 3, 4, 6, 8, 12, 16)  # numbers of interests of the accuracy-diversity curve
CURVE_CUTOFF = 10  # items of a list that the curve looks at
SHARED_OUT = 10  # items of a list whose interests are counted
NEAREST = 50  # items of an interest, where interests are compared by them
PAIRED = ("hr@10", "ndcg@10", "recall@50")  # compared in pairs beside the metric that decides


class Facts(NamedTuple):
    """What is known of the items, beside the models."""

    recommendable_N: Tensor
    counts_N: np.ndarray  # training events
    text_ND: np.ndarray  # text embeddings
    categories_NM: sp.csr_matrix  # an entry for every category that an item has
    cells_N: np.ndarray  # cell of the dictionary


class Row(NamedTuple):
    """One line of the tables: a ranker on histories with or without times."""

    ranker: Ranker
    events: EventTable
    label: str
    family: str  # heuristic, baseline, prismrec, incumbent
    time: str  # free or aware


class Measured(NamedTuple):
    """One row's figures on one set of cases."""

    values: dict[str, np.ndarray]  # metric -> [C], NaN where a user has no value
    sets: dict[str, float]  # figures of all lists together

    def means(self) -> dict[str, float]:
        """All figures as means over the users that have a value; a metric nobody has a value of is left out."""
        means = {name: float(np.nanmean(value)) for name, value in self.values.items() if not np.isnan(value).all()}
        return {**means, **{name: value for name, value in self.sets.items() if not math.isnan(value)}}


class Settings(NamedTuple):
    """How figures are made."""

    history: History  # "filtered": what a user has seen is never recommended; "kept": it may be
    metric: str  # the one that decides, and orders the rows; `PAIRED` are compared in pairs too
    draws: int  # of the bootstrap
    sample: int  # cases of what needs a second pass
    seed: int


class Part(NamedTuple):
    """All rows on one set of cases."""

    rows: Mapping[str, Row]
    cases: Cases
    ranks: dict[str, TargetRanks]
    measured: dict[str, Measured]


def measure(rows: Mapping[str, Row], cases: Cases, facts: Facts, history: History, progress: Progress = iter) -> Part:
    """Rank all cases with every row, and measure the lists, which are dropped when they have been."""
    ranks, measured = {}, {}
    for group in _by_events(rows):
        some = {name: rows[name] for name in group}
        for name, ranked in _ranked(some, cases, facts.recommendable_N, history, progress).items():
            ranks[name], measured[name] = ranked.ranks, _measured(ranked, cases, rows[name].events, facts)
    return Part(rows, cases, {name: ranks[name] for name in rows}, {name: measured[name] for name in rows})


def accuracy(
    rows: Mapping[str, Row], cases: Cases, recommendable_N: Tensor, history: History, progress: Progress = iter
) -> dict[str, Measured]:
    """The figures that come from the targets' places alone, by row; no lists are made."""
    ranked = _ranked(rows, cases, recommendable_N, history, progress, lists=False)
    return {name: Measured(per_user_metrics(ranked[name].ranks), {}) for name in rows}


def _ranked(
    rows: Mapping[str, Row],
    cases: Cases,
    recommendable_N: Tensor,
    history: History,
    progress: Progress,
    lists: bool = True,
) -> dict[str, Ranked]:
    ranked: dict[str, Ranked] = {}
    for group in _by_events(rows):
        rankers = {name: rows[name].ranker for name in group}
        ranked |= evaluate(rankers, rows[group[0]].events, cases, recommendable_N, history, progress, lists)
    return ranked


def _by_events(rows: Mapping[str, Row]) -> list[list[str]]:
    """Names of the rows that read the same events, which are ranked in one pass."""
    groups: dict[int, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(id(row.events), []).append(name)
    return list(groups.values())


def _measured(ranked: Ranked, cases: Cases, events: EventTable, facts: Facts) -> Measured:
    recommendable_N, lists_CK = facts.recommendable_N.numpy(), ranked.lists_CK
    first_C = events.offsets_U1[:-1].numpy()[cases.users_C]
    items_E = events.items_E.numpy()
    cells_CT = np.where(cases.mask_CT, facts.cells_N[cases.targets_CT], -1)
    new_CT = new_interests(cells_CT, items_E, first_C, first_C + cases.starts_C, facts.cells_N)
    values = {
        **per_user_metrics(ranked.ranks),
        **novelty(lists_CK, facts.counts_N, recommendable_N, CUTOFFS),
        **text_diversity(lists_CK, facts.text_ND, CUTOFFS),
        **category_diversity(lists_CK, facts.categories_NM, CUTOFFS),
        **category_calibration(lists_CK, items_E, first_C, first_C + cases.starts_C, facts.categories_NM, CUTOFFS),
        **cells_hit(ranked.ranks, cells_CT, CUTOFFS),
        **new_interest_recall(ranked.ranks, new_CT, CUTOFFS),
    }
    before_C = history_popularity(items_E, first_C, first_C + cases.starts_C, facts.counts_N)
    sets = {
        **exposure_metrics(lists_CK, recommendable_N, CUTOFFS),
        **popularity_lift(lists_CK, facts.counts_N, before_C, CUTOFFS),
    }
    return Measured(values, sets)


def sample(cases: Cases, size: int, seed: int) -> Cases:
    """At most `size` of the cases, drawn at random, in their own order."""
    if len(cases.users_C) <= size:
        return cases
    kept = np.sort(np.random.default_rng(seed).permutation(len(cases.users_C))[:size])
    return cases._replace(
        users_C=cases.users_C[kept],
        starts_C=cases.starts_C[kept],
        targets_CT=cases.targets_CT[kept],
        mask_CT=cases.mask_CT[kept],
    )


@torch.inference_mode()
def interest_values(
    rows: Mapping[str, Row], cases: Cases, recommendable_N: Tensor, history: History
) -> dict[str, dict[str, np.ndarray]]:
    """How far the users' interests lie apart, and how their lists share them out: [C] each, by row.

    Effective rank and mean pairwise cosine of the vectors, overlap of the items nearest to them; where members of a
    merge have interests in spaces of their own, those of the member that lie closest together, of members with
    several. Where interests are cells of a dictionary, these are the cells' centres, and rank and cosine of the user's
    vectors conditioned on them stand beside. Of a served model also how many interests the first ten items belong to,
    each item to the interest that wants it most, and the largest share of one. Models of one interest are left out.
    """
    several = {name: row for name, row in rows.items() if row.ranker.num_interests > 1}
    values: dict[str, dict[str, list[Tensor]]] = {name: {} for name in several}
    for group in _by_events(several):
        events = several[group[0]].events
        size = chunk_size(len(recommendable_N), max(several[name].ranker.held for name in group))
        for start in range(0, len(cases.users_C), size):
            users_B = torch.as_tensor(cases.users_C[start : start + size])
            ends_B = torch.as_tensor(cases.starts_C[start : start + size])
            seen = events.cut(users_B, torch.zeros_like(ends_B) if history == "filtered" else ends_B, ends_B)
            for name in group:
                ranker = several[name].ranker
                spaces = []
                for teller in ranker.tellers:
                    told_BKD = teller.interest_vectors(events, users_B, ends_B)
                    assert told_BKD is not None, "a model of several interests has their vectors"
                    spaces.append((told_BKD, teller.items_ND))
                found = {}
                if pairs := [told_BKD for told_BKD, _ in spaces if told_BKD.shape[1] > 1]:
                    found["effective_rank"] = torch.stack([effective_rank(told_BKD) for told_BKD in pairs]).amin(0)
                    found["interest_cosine"] = torch.stack([interest_cosine(told_BKD) for told_BKD in pairs]).amax(0)
                found[f"interest_jaccard@{NEAREST}"] = interest_jaccard(spaces, recommendable_N, NEAREST)
                if isinstance(ranker, ServedRanker):
                    conditioned_BKD = ranker.conditioned_vectors(events, users_B, ends_B)
                    if conditioned_BKD is not None:
                        found["conditioned_effective_rank"] = effective_rank(conditioned_BKD)
                        found["conditioned_cosine"] = interest_cosine(conditioned_BKD)
                    claims = ranker.claims(events, users_B, ends_B)
                    left_BN = exclude(claims.scores_BN, seen, recommendable_N)
                    best_Bk = top_k(ranker.listed(claims.scores_BN, left_BN), SHARED_OUT)
                    found |= interest_shares(claims.owners_BN.gather(1, best_Bk))
                for figure, value_B in found.items():
                    values[name].setdefault(figure, []).append(value_B)
    return {
        name: {figure: torch.cat(parts).double().numpy() for figure, parts in of.items()} for name, of in values.items()
    }


class _Strongest(Ranker):
    """A served ranker held to each user's strongest interests."""

    def __init__(self, ranker: ServedRanker, number: int) -> None:
        self.ranker, self.num_interests, self.name = ranker, number, ranker.name

    @property
    def held(self) -> int:
        """All interests are scored before the strongest are taken."""
        return self.ranker.held

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        return self.ranker.strongest(events, users_B, ends_B, self.num_interests)

    def listed(self, scores_BN: Tensor, left_BN: Tensor) -> Tensor:
        return self.ranker.listed(scores_BN, left_BN)


def interest_curve(rows: Mapping[str, Row], cases: Cases, facts: Facts, settings: Settings) -> list[dict[str, Any]]:
    """Accuracy, diversity and coverage of lists made of each user's one, two, … strongest interests, as served.

    The last point of a model is of all interests that it shows. All points are ranked chunk by chunk, so that rankers
    that remember what they said last are asked once.
    """
    points = {
        (name, number): row._replace(ranker=_Strongest(row.ranker, number))
        for name, row in rows.items()
        if isinstance(row.ranker, ServedRanker) and row.ranker.num_interests > 1 and not name.endswith(TIME_FREE_SUFFIX)
        for number in sorted({n for n in CURVE if n < row.ranker.num_interests} | {row.ranker.num_interests})
    }
    held = {f"{name} {number}": row for (name, number), row in points.items()}
    ranked = _ranked(held, cases, facts.recommendable_N, settings.history, iter)
    curve: list[dict[str, Any]] = []
    for name, number in points:
        of = ranked[f"{name} {number}"]
        accuracies, cutoffs = per_user_metrics(of.ranks), (CURVE_CUTOFF,)
        values = {
            **{figure: accuracies[figure] for figure in (f"hr@{CURVE_CUTOFF}", f"ndcg@{CURVE_CUTOFF}")},
            **text_diversity(of.lists_CK, facts.text_ND, cutoffs),
            **category_diversity(of.lists_CK, facts.categories_NM, cutoffs),
        }
        exposed = exposure_metrics(of.lists_CK, facts.recommendable_N.numpy(), cutoffs)
        coverage = f"coverage@{CURVE_CUTOFF}"
        found = Measured(values, {coverage: exposed[coverage]})
        point = {"model": name, "interests": number, "cases": len(cases.users_C), **found.means()}
        curve.append({**point, "intervals": intervals({name: found}, settings.draws, settings.seed)[name]})
    return curve


def intervals(measured: Mapping[str, Measured], draws: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """95 % bootstrap interval of every figure that has a value a user, the same draws for all models."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, row in measured.items():  # one by one: the seed draws the same users, and memory holds one row's columns
        low_M, high_M = bootstrap_means(np.stack(list(row.values.values()), axis=1), draws, seed)
        ends = zip(row.values, low_M.tolist(), high_M.tolist(), strict=True)
        found[name] = {metric: [low, high] for metric, low, high in ends if not math.isnan(low)}
    return found


def paired_differences(
    measured: Mapping[str, Measured], metric: str, draws: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Every model against every other on the same users: reference -> model -> difference, low, high."""
    names = list(measured)
    values_CM = np.stack([measured[name].values[metric] for name in names], axis=1)
    low_MM, high_MM = paired_intervals(values_CM, draws, seed)
    mean_M = values_CM.mean(0)
    return {
        a: {
            b: {"difference": float(mean_M[j] - mean_M[i]), "low": float(low_MM[i, j]), "high": float(high_MM[i, j])}
            for j, b in enumerate(names)
            if j != i
        }
        for i, a in enumerate(names)
    }


def figures(
    validation: Mapping[str, Mapping[str, float]], test: Part, facts: Facts, settings: Settings
) -> dict[str, Any]:
    """The figures of all rows as plain data: "models", "intervals", "paired" and "interest_curve".

    Args:
        validation: rows' accuracy on the validation cases.
        test: all rows on the test cases.
        facts: what is known of the items.
        settings: how figures are made.
    """
    sampled = sample(test.cases, settings.sample, settings.seed)
    models: dict[str, dict[str, Any]] = {}
    ends = intervals(test.measured, settings.draws, settings.seed)
    apart = interest_values(test.rows, sampled, facts.recommendable_N, settings.history)
    for name, row in test.rows.items():
        spread = Measured(apart.get(name, {}), {})
        models[name] = {
            "label": row.label,
            "family": row.family,
            "time": row.time,
            "interests": row.ranker.num_interests,
            **test.measured[name].means(),
            **spread.means(),
            **{f"validation_{key}": value for key, value in validation.get(name, {}).items()},
        }
        if spread.values:
            ends[name] |= intervals({name: spread}, settings.draws, settings.seed)[name]
    against = {
        metric: paired_differences(test.measured, metric, settings.draws, settings.seed)
        for metric in dict.fromkeys((settings.metric, *PAIRED))
    }
    return {
        "cutoffs": list(CUTOFFS),
        "models": models,
        "intervals": ends,
        "paired": {"metric": settings.metric, "against": against.pop(settings.metric), "others": against},
        "interest_curve": interest_curve(test.rows, sampled, facts, settings),
    }

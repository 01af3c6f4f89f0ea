"""The promotion verdict: is this run's best model good enough to replace what was packaged last?

A run is promoted if its candidate beats the incumbent, the default model of the bundle that the workspace packaged
last, on one test metric with the whole paired 95 % interval above 0, and breaks no guard. Without an incumbent the
guards alone decide. Our choices:

- The candidate is chosen on validation, and only the verdict looks at test.
- An incumbent that cannot be read is not comparable, and nothing is promoted over it: a person has to say so
  (`packaging.package: this_run`).
- Cold items are few, so their guard breaks only when the upper end of the candidate's interval is below the limit,
  and not at all below MIN_CASES: the bootstrap of a few zeros is the interval [0, 0], which means nothing.
- Distances between interests do not guard GemiRec and prismrec: theirs are centres of distinct cells, so distances
  describe the dictionary. They are guarded by the share of the lists that one interest owns. That guards nobody else:
  where the next item is likeliest under what a user does now, HyMiRec's "now" owns nearly all, and rightly.
- Coverage is counted from that of popularity in the same run: the same list for everybody has some, too.
- Chance is what cold items have to reach where the incumbent finds none of them, or there is none, and where chance
  would find a few.
- The incumbent answers as its bundle would: it does not know items that came later, neither in histories nor to
  recommend, and a user of whom it knows nothing gets its popular items.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from prismrec.artifacts.bundle import POPULARITY, Bundle, read_bundle
from prismrec.errors import UserError
from prismrec.models.events import UNKNOWN_GAP, UNKNOWN_TIME, EventTable, later_bucket
from prismrec.models.loading import load_rankers
from prismrec.models.rankers import GEMIREC, PRISMREC, Ranker, ServedRanker
from prismrec.parameters.promotion import PromotionParameters, ServedModel

INCUMBENT = "incumbent"  # its row in every table
COVERAGE = "coverage@10"
COSINE, RANK, LARGEST_SHARE = "interest_cosine", "effective_rank", "largest_interest_share"
COLD_ITEMS, COLD_RECALL, COLD_CUTOFF = "cold_items", "recall@10", 10
MIN_CASES = 30  # a slice of fewer cases is not judged, our choice
MIN_HITS = 3  # nor compared with chance where chance would find fewer: then it finds none often enough
# What models of another version of the code may raise when they are read or used; the bundle's checksums were right.
OTHER_VERSION = (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


class Incumbent(NamedTuple):
    """The default model of the bundle that was packaged last."""

    model: str
    bundle: str  # the bundle's version
    split_hash: str  # of the split it was made on
    ranker: Ranker | None  # None: it cannot be ranked with
    problem: str  # why not


class IncumbentRanker(Ranker):
    """A bundle's model that answers as its bundle would, on the catalogue of now.

    Items the bundle does not know score -inf, and are left out of histories; the request keeps its own time. What
    follows an event that is left out keeps its time since that event, an approximation. A history of which nothing is
    left gets the bundle's popular items. `num_interests` stays 1: how far its interests lie apart was measured when it
    was promoted.

    Args:
        ranker: the model.
        popularity: the bundle's popularity ranker.
        known: items the bundle knows, the first ones.
        appended: items that came later.
        timed: whether its models were trained on times; if not, they are left out.
    """

    name = INCUMBENT

    def __init__(self, ranker: Ranker, popularity: Ranker, known: int, appended: int, timed: bool) -> None:
        self.ranker, self.popularity, self.known, self.appended = ranker, popularity, known, appended
        self.timed, self.reads_time = timed, ranker.reads_time and timed

    @property
    def held(self) -> int:
        """What the model needs."""
        return self.ranker.held

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scores of the known items [B, N], -inf for the appended ones."""
        kept, ends_B = known_histories(events, users_B, ends_B, self.known)
        if not self.timed:
            kept = kept.without_times(np.ones(len(kept), dtype=bool))
        users_B = torch.arange(len(ends_B), device=ends_B.device)
        scores_BN = self.popularity.scores(kept, users_B, ends_B).clone()
        some_B = ends_B > 0
        if some_B.any():
            scores_BN[some_B] = self.ranker.scores(kept, users_B[some_B], ends_B[some_B]).to(scores_BN.dtype)
        return F.pad(scores_BN, (0, self.appended), value=-torch.inf)


def known_histories(events: EventTable, users_B: Tensor, ends_B: Tensor, known: int) -> tuple[EventTable, Tensor]:
    """The histories as a catalogue of the first `known` items sees them: a table of B users, and their lengths [B].

    Every request keeps its time. Where its last event is left out, the time since the last one that is known is exact
    to a bucket.
    """
    history = events.cut(users_B, torch.zeros_like(ends_B), ends_B)
    known_BL = history.mask_BL & (history.items_BL < known)
    length_B = known_BL.sum(1)
    kept = copy.copy(events)
    kept.offsets_U1 = F.pad(length_B.cumsum(0), (1, 0))
    kept.items_E, kept.gaps_E = history.items_BL[known_BL], history.gaps_BL[known_BL]
    kept.until_E = history.until_BL[known_BL]
    kept.asked_E = torch.full_like(kept.items_E, UNKNOWN_TIME)  # only that of the request is asked for
    some_B = length_B > 0
    users_S, ends_S, last_S = users_B[some_B], ends_B[some_B], kept.offsets_U1[1:][some_B] - 1
    asked_S = events.asked_at(users_S, ends_S)
    kept.asked_E[last_S] = asked_S
    left_out_S = known_BL.flip(1).int().argmax(1)[some_B]  # events after the last known one
    next_S, until_S = events.asked_at(users_S, ends_S - left_out_S), kept.until_E[last_S]
    timed_S = (asked_S != UNKNOWN_TIME) & (next_S != UNKNOWN_TIME) & (until_S != UNKNOWN_GAP)
    kept.until_E[last_S] = torch.where(timed_S, later_bucket(until_S, asked_S - next_S), UNKNOWN_GAP)
    return kept, length_B


def read_incumbent(folder: Path | None, items: Sequence[str]) -> Incumbent | None:
    """The incumbent of a workspace, or None where nothing has been packaged yet.

    Args:
        folder: the bundle that was packaged last.
        items: ids of the items known now, in the order of their indices.
    """
    if folder is None:
        return None
    try:
        bundle = read_bundle(folder)
    except UserError as error:
        return Incumbent("", "", "", None, error.what)
    model, split_hash = bundle.manifest.default_model, bundle.manifest.created_from.get("split_hash", "")
    try:
        ranker = incumbent_ranker(bundle, items)
    except UserError as error:
        return Incumbent(model, bundle.version, split_hash, None, error.what)
    return Incumbent(model, bundle.version, split_hash, ranker, "")


def incumbent_ranker(bundle: Bundle, items: Sequence[str]) -> IncumbentRanker:
    """The default model of a bundle, as a ranker of the catalogue of now.

    Args:
        bundle: the incumbent.
        items: ids of the items known now, in the order of their indices; new ones come after the bundle's.

    Raises:
        UserError: the bundle is of another catalogue, or its models cannot be used.
    """
    known = len(bundle.items)
    if known > len(items):
        raise UserError(
            f"It knows {known:,} items, the workspace {len(items):,}: they are not of one catalogue.",
            str(bundle.folder),
        )
    for item, now in zip(bundle.items, items, strict=False):
        if item.item_id != now:
            raise UserError(
                f"Its item {item.item_index} is {item.item_id!r}, the workspace's is {now!r}: the catalogue was made "
                "anew, and its indices mean other items.",
                str(bundle.folder),
            )
    rankers = usable_rankers(bundle)
    return IncumbentRanker(
        rankers[bundle.manifest.default_model],
        rankers[POPULARITY],
        known,
        appended=len(items) - known,
        timed=bundle.manifest.timed,
    )


def usable_rankers(bundle: Bundle) -> dict[str, ServedRanker]:
    """All rankers of a bundle, after each has answered a history of one event.

    Raises:
        UserError: there is none of its default model, or this version of the code cannot read or use one.
    """
    try:
        rankers = load_rankers(bundle.folder)
        for ranker in rankers.values():
            _try_out(ranker)
    except OTHER_VERSION as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"This version cannot use its models: {reason}", str(bundle.folder)) from error
    default = bundle.manifest.default_model
    if default not in rankers:
        raise UserError(f"It has no parts of its default model {default!r}.", str(bundle.folder))
    return rankers


@torch.inference_mode()
def _try_out(ranker: ServedRanker) -> None:
    """Ask once as evaluation does, and once as the service does."""
    item, time = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    ranker.scores(EventTable(np.array([0, 1]), item, time), torch.tensor([0]), torch.tensor([1]))
    ranker.rank(item, time, None)


def verdict(report: Mapping[str, Any], incumbent: Incumbent | None, parameters: PromotionParameters) -> dict[str, Any]:
    """Promoted or not, and why.

    Args:
        report: the evaluation's figures. Those of the incumbent stand in the row "incumbent", and `paired` is of the
            metric that decides.
        incumbent: what `read_incumbent` says.
        parameters: candidate, metric and limits.

    Returns:
        {"promoted", "candidate", "incumbent": {"model", "bundle", "same_split"} or None, "metric", "difference",
        "low", "high" (None without a comparison), "guards": [{"guard", "value", "limit", "kept", "note"}], "reasons"}.

    Raises:
        UserError: no model can be the candidate.
    """
    candidate = choose_candidate(report, parameters)
    guards = list(_guards(report, candidate, parameters))
    beats, difference, reasons = _comparison(report, candidate, incumbent, parameters.metric)
    broken = [guard for guard in guards if not guard["kept"]]
    reasons += [f"Guard {guard['guard']} is broken: {guard['note']}." for guard in broken]
    if not broken:
        unknown = sum(guard["value"] is None for guard in guards)
        left_out = f", {unknown} do not apply" if unknown else ""
        reasons.append(f"No guard is broken: {len(guards) - unknown} kept{left_out}.")
    return {
        "promoted": beats and not broken,
        "candidate": candidate,
        "incumbent": None if incumbent is None else _described(report, incumbent),
        "metric": parameters.metric,
        **difference,
        "guards": guards,
        "reasons": reasons,
    }


def choose_candidate(report: Mapping[str, Any], parameters: PromotionParameters) -> str:
    """The named model, or the served one that is best on validation; of equals the first in alphabetical order.

    Raises:
        UserError: the named model was not evaluated, or none has the selection metric.
    """
    models, metric = report["models"], parameters.selection_metric
    evaluated = [name for name in get_args(ServedModel) if name in models]
    if parameters.model != "auto":
        if parameters.model not in evaluated:
            raise UserError(
                f"The model {parameters.model!r} was not evaluated.",
                "evaluation.promotion.model",
                f"Choose one of: {', '.join(['auto', *evaluated])}",
            )
        return parameters.model
    scores: dict[str, float] = {name: models[name][metric] for name in sorted(evaluated) if metric in models[name]}
    if not scores:
        known = sorted({key for name in evaluated for key in models[name] if key.startswith("validation_")})
        raise UserError(
            f"No served model has the figure {metric!r}.",
            "evaluation.promotion.selection_metric",
            f"Choose one of: {', '.join(known)}; or name a model as evaluation.promotion.model.",
        )
    return max(scores, key=scores.__getitem__)


def _described(report: Mapping[str, Any], incumbent: Incumbent) -> dict[str, Any]:
    return {
        "model": incumbent.model,
        "bundle": incumbent.bundle,
        "same_split": incumbent.split_hash == report["split_hash"],
    }


def _comparison(
    report: Mapping[str, Any], candidate: str, incumbent: Incumbent | None, metric: str
) -> tuple[bool, dict[str, float | None], list[str]]:
    """Whether the candidate beats the incumbent, by how much, and what to say of it."""
    nothing: dict[str, float | None] = {"difference": None, "low": None, "high": None}
    if incumbent is None:
        return True, nothing, ["There is no incumbent: nothing has been packaged in this workspace, guards decide."]
    if incumbent.ranker is None:
        text = f"The incumbent is not comparable, so nothing is promoted over it. {incumbent.problem}"
        return False, nothing, [text]
    paired = report["paired"]
    assert paired["metric"] == metric, "the paired differences are of another metric than the verdict's"
    found: dict[str, float | None] = {key: paired["against"][INCUMBENT][candidate][key] for key in nothing}
    assert found["low"] is not None, "a paired difference has an interval"
    beats = found["low"] > 0
    word = "beats" if beats else "does not beat"
    text = (
        f"{candidate} {word} the incumbent {incumbent.model} on {metric}: difference {found['difference']:+.4f}, "
        f"95 % interval [{found['low']:+.4f}, {found['high']:+.4f}]."
    )
    reasons = [text]
    if incumbent.split_hash != report["split_hash"]:
        reasons.append(
            "The incumbent was made on another split: it may have seen test events, or lack training events."
        )
    if incumbent.model == POPULARITY:
        reasons.append("The incumbent counts all events, those of the test too: its figures are a little too good.")
    return beats, found, reasons


def _guards(report: Mapping[str, Any], candidate: str, parameters: PromotionParameters) -> Iterator[dict[str, Any]]:
    """Every guard with its value and limit."""
    row, rival = report["models"][candidate], report["models"].get(INCUMBENT)
    popular = report["models"][POPULARITY][COVERAGE]
    limit, share = popular + parameters.min_coverage * (1.0 - popular), _percent(parameters.min_coverage)
    yield _at_least("coverage", row[COVERAGE], limit, COVERAGE, f", popularity's {popular:.4f} and {share} of the rest")
    if rival is None:
        yield _not_applicable("coverage_against_incumbent", "there is no incumbent to compare with")
    else:
        limit, share = parameters.min_coverage_share * rival[COVERAGE], _percent(parameters.min_coverage_share)
        yield _at_least("coverage_against_incumbent", row[COVERAGE], limit, COVERAGE, f", {share} of the incumbent's")
    yield from _collapse(row, candidate, parameters)
    yield _cold_items(report, candidate, parameters)
    yield _utilisation(report["health"], parameters.min_utilisation)


def _collapse(row: Mapping[str, Any], candidate: str, parameters: PromotionParameters) -> Iterator[dict[str, Any]]:
    """Distances between a user's interests; where they are cells of the dictionary, how lists are shared out."""
    if COSINE not in row:
        for guard in (COSINE, RANK, LARGEST_SHARE):
            yield _not_applicable(guard, f"{candidate} tells no two interests apart in one space")
    elif candidate in (GEMIREC, PRISMREC):
        for guard in (COSINE, RANK):
            yield _not_applicable(guard, f"{candidate}'s interests are centres of distinct cells of the dictionary")
        name = "mean share of the first ten items that one interest owns"
        yield _at_most(LARGEST_SHARE, row[LARGEST_SHARE], parameters.max_interest_share, name)
    else:
        name = "mean cosine of a user's interests"
        yield _at_most(COSINE, row[COSINE], parameters.max_interest_cosine, name)
        name = "mean effective rank of a user's interests"
        yield _at_least(RANK, row[RANK], parameters.min_effective_rank, name)
        yield _not_applicable(LARGEST_SHARE, f"{candidate}'s interests are guarded by their distances")


def _cold_items(report: Mapping[str, Any], candidate: str, parameters: PromotionParameters) -> dict[str, Any]:
    found = [part for part in report["slices"] if part["slice"] == COLD_ITEMS and part["cases"]]
    assert len(found) <= 1, "cold items are one slice"
    if not found:
        return _not_applicable("cold_recall", "no test target is a cold item")
    models, cases = found[0]["models"], found[0]["cases"]
    if cases < MIN_CASES:
        return _not_applicable(
            "cold_recall", f"{cases} cases of cold items, fewer than {MIN_CASES}, are left to chance"
        )
    value, _, high = models[candidate][COLD_RECALL]
    chance = COLD_CUTOFF / report["items"]
    limit, of = (chance, "chance") if chance * cases >= MIN_HITS else (0.0, "")
    if INCUMBENT in models:
        rival = parameters.min_cold_recall_share * models[INCUMBENT][COLD_RECALL][0]
        if rival > limit:
            limit, of = rival, f"{_percent(parameters.min_cold_recall_share)} of the incumbent's"
    if not of:
        return _not_applicable("cold_recall", f"{cases} cases of cold items are too few to tell from chance")
    return {
        "guard": "cold_recall",
        "value": value,
        "limit": limit,
        "kept": high >= limit,
        "note": f"{COLD_RECALL} of cold items {value:.4f} (up to {high:.4f}), at least {limit:.4f}, {of}",
    }


def _utilisation(health: Mapping[str, Mapping[str, float]], limit: float) -> dict[str, Any]:
    """The lowest utilisation of all levels and joint codes."""
    values = {
        f"{part} {key.removeprefix('utilisation_').replace('_', ' ')}": value
        for part, figures in health.items()
        for key, value in figures.items()
        if key.startswith("utilisation_")
    }
    if not values:
        return _not_applicable("utilisation", "the run has neither codebook nor dictionary")
    lowest = min(sorted(values), key=lambda name: values[name])
    return _at_least("utilisation", values[lowest], limit, f"lowest utilisation, {lowest},")


def _at_least(guard: str, value: float, limit: float, what: str, of: str = "") -> dict[str, Any]:
    note = f"{what} {value:.4f}, at least {limit:.4f}{of}"
    return {"guard": guard, "value": value, "limit": limit, "kept": value >= limit, "note": note}


def _at_most(guard: str, value: float, limit: float, what: str) -> dict[str, Any]:
    note = f"{what} {value:.4f}, at most {limit:.4f}"
    return {"guard": guard, "value": value, "limit": limit, "kept": value <= limit, "note": note}


def _not_applicable(guard: str, why: str) -> dict[str, Any]:
    return {"guard": guard, "value": None, "limit": None, "kept": True, "note": f"not applicable: {why}"}


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")

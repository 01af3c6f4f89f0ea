"""One cell of GemiRec: stage 6 on the stages 3 to 5 of HyMiRec's reference, then ranking and figures.

The parts of stages 3 to 5 are `make.py`'s, under the same hashes: the reference cell's are taken over, and a GemiRec
cell costs stage 6 only. Its own parts are the dictionary with the items' cells, the posterior, and the retrieval head.
Ways of making lists that the product does not have (interests by the history's counts, cells' embeddings by sum) are
classes of this file.

What is measured by cells (new interests, distinct cells of a list) is measured by those of the reference's dictionary
in all cells, so that figures stand side by side whatever the dictionary of a cell.

Shapes: C cases, B users, K interests, G cells, N items, D item dimension, E width of a cell's embedding, L places of a
list.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from benchmarks.ablations.cells import GEMIREC, STAGE_6, Lists
from benchmarks.ablations.make import CHUNK, SOURCE, Data, Parts, asked, costs_of, pack, summary
from benchmarks.ablations.make import METRICS as ACCURACY
from benchmarks.peers.measure import measured
from prismrec.evaluation.comparison import sample
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.protocols import Cases
from prismrec.metrics.interests import effective_rank, interest_cosine, new_interest_recall, new_interests
from prismrec.metrics.ranking import per_user_metrics
from prismrec.models import load_model
from prismrec.models.events import EventTable
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.interest_dictionary import InterestDictionary
from prismrec.models.rankers import Ranker, RecommenderRanker
from prismrec.models.recommender import Refined
from prismrec.parameters import stage_model
from prismrec.pipelines.interest_dictionary.nodes import (
    assign_cells,
    fit_dictionary,
    gemirec_ranker,
    train_posterior,
    train_retrieval,
)
from prismrec.pipelines.llm_recommender.nodes import recommender_ranker
from prismrec.retrieval import merging
from prismrec.retrieval.topk import exclude

CODE = (SOURCE / "pipelines" / STAGE_6 / "nodes.py", Path(__file__))  # what these cells rest on beside the others'
NEW, VARIETY = "new_interest_recall@10", "cells@50"
METRICS = (*ACCURACY, NEW, VARIETY)
PAIRED = ("ndcg@10", "recall@50", NEW)  # compared with the reference's, user by user
MOST_USERS = 6_040  # ranked; all of MovieLens-1M
DEPTH = 50  # places of a list whose cells are counted
SHARED = ("texts", "encoder", "codebook", "recommender")  # parts of stages 3 to 5
MERGES = {"factorised": merging.factorised, "max_score": merging.max_score, "quotas": merging.quotas}


class Summed(InterestDictionary):
    """A dictionary whose cells are embedded by the sum of their code vectors."""

    def cell_embeddings(self) -> Tensor:
        """[G, d] summed code vectors of every cell."""
        return super().cell_embeddings().view(self.num_cells, len(self.sizes), -1).sum(1)


class HistoryInterests(GemiRecRanker):
    """P(m | u) is the share of the history's events in the cell; a cell without one is impossible."""

    def _cells(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Refined]:
        history = events.cut(users_B, torch.zeros_like(ends_B), ends_B)
        counts_BG = torch.zeros(len(users_B), len(self.table.occupied_G))
        counts_BG.scatter_add_(1, self.table.cells_N[history.items_BL], history.mask_BL.float())
        log_BG = counts_BG.log() - counts_BG.sum(1, keepdim=True).log()
        return log_BG, self.context.state(events, users_B, ends_B).refined


class ShownInterests(Ranker):
    """The items of a user's likeliest cells only, by one of the merges.

    Args:
        history: the environment's rule: what a user has seen takes no place in any interest's list if "filtered".
    """

    name = GEMIREC
    reads_time = True

    def __init__(self, gemirec: GemiRecRanker, shown: int, merge: str, history: str) -> None:
        self.gemirec, self.merge, self.history = gemirec, MERGES[merge], history
        self.num_interests = min(shown, int(gemirec.table.occupied_G.sum()))

    @property
    def held(self) -> int:
        """The interests' lists, their orders and places."""
        return self.gemirec.held + 3 * self.num_interests

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Scores of the merge; -inf for items of other cells."""
        table, claims = self.gemirec.table, self.gemirec.claims(events, users_B, ends_B)
        start_B = torch.zeros_like(ends_B) if self.history == "filtered" else ends_B
        scores_BN = exclude(claims.scores_BN, events.cut(users_B, start_B, ends_B), table.recommendable_N)
        kept_BK = claims.weights_BG.topk(self.num_interests, dim=1).indices
        return self.merge(merging.cell_lists(scores_BN, table.cells_N, kept_BK))


class GemiRecParts(Parts):
    """The parts of one GemiRec cell.

    Args:
        folder: of all parts.
        data: what they are made of.
        settings: `cells.settings_of`.
        code: `code_version` of the parts that HyMiRec's cells share.
        own_code: `code_version` with CODE.
    """

    def __init__(self, folder: Path, data: Data, settings: dict[str, Any], code: str, own_code: str) -> None:
        super().__init__(folder, data, settings, code)
        self.own_code = own_code
        self.parameters = stage_model(STAGE_6).model_validate(settings[STAGE_6])

    def dictionary(self) -> Path:
        """The cell's own dictionary, and its cells of all items."""
        return self._dictionary(self.settings[STAGE_6]["dictionary"])

    def cells_measured(self) -> np.ndarray:
        """[N] cells of the reference's dictionary, by which all cells are measured; no cost of the cell."""
        costs = dict(self.costs)
        cells_N: np.ndarray = load_file(self._dictionary(self.settings["measured_by"]) / "item_cells.safetensors")[
            "cells"
        ]
        self.costs = costs
        return cells_N

    def _dictionary(self, chosen: dict[str, Any]) -> Path:
        encoder = self.encoder()
        seed = self.parameters.seed

        def make(folder: Path) -> dict[str, Any]:
            vectors = load_file(encoder / "item_vectors.safetensors")
            stage = {**self.settings[STAGE_6], "dictionary": chosen, "refresh": False}
            kept, *_ = fit_dictionary(vectors, None, stage_model(STAGE_6).model_validate(stage))
            dictionary = kept.dictionary
            cells = assign_cells(dictionary, vectors)
            dictionary.save(folder / "model")
            save_file(cells, folder / "item_cells.safetensors")
            occupied = len(np.unique(cells["cells"][vectors["recommendable"]]))
            each = float(vectors["recommendable"].sum() / occupied)
            return {"sizes": list(dictionary.sizes), "occupied": occupied, "items_per_cell": each}

        return self._part("dictionary", [encoder.name, chosen, seed, self.own_code], make)

    def dictionary_facts(self) -> dict[str, Any]:
        """Sizes of the cell's own dictionary."""
        found = json.loads((self.dictionary() / "cost.json").read_text(encoding="utf-8"))
        return {key: found[key] for key in ("sizes", "occupied", "items_per_cell")}

    def _read(self) -> tuple[Any, ...]:
        """Dictionary and cells, recommender, codebook, codes, item vectors: what the nodes of stage 6 read."""
        recommender, (vectors, codebook, codes, _), folder = self.recommender(), self.items(), self.dictionary()
        kind = Summed if self.settings["summed"] else InterestDictionary
        cells = load_file(folder / "item_cells.safetensors")
        return kind.load(folder / "model"), cells, load_model(recommender / "model"), codebook, codes, vectors

    def posterior(self) -> Path:
        """The posterior; what trains the retrieval head takes no part in its training."""
        data, settings, dictionary, recommender = (
            self.data,
            self.settings[STAGE_6],
            self.dictionary(),
            self.recommender(),
        )

        def make(folder: Path) -> dict[str, Any]:
            posterior, curve = train_posterior(*self._read(), data.histories, data.splits, self.parameters)
            posterior.save(folder / "model")
            return {key: curve[f"posterior_{key}"] for key in ("epochs", "best_epoch", "temperature")}

        later = ("training", "posterior_share")
        head = {key: value for key, value in settings["retrieval"].items() if key not in later}
        made_from = [
            dictionary.name, recommender.name, self.data.split_hash, {**settings, "retrieval": head},
            self.settings["summed"], self.own_code,
        ]  # fmt: skip
        return self._part("posterior", made_from, make)

    def retrieval(self) -> Path:
        """The retrieval head."""
        data, trained = self.data, self.posterior()

        def make(folder: Path) -> dict[str, Any]:
            posterior, (dictionary, cells, *others) = load_model(trained / "model"), self._read()
            head, curve = train_retrieval(
                dictionary, cells, posterior, *others, data.histories, data.splits, self.parameters
            )
            head.save(folder / "model")
            return {key: curve[f"retrieval_{key}"] for key in ("epochs", "best_epoch")}

        return self._part("retrieval", [trained.name, self.settings[STAGE_6]["retrieval"]], make)

    def ranker(self) -> Ranker:
        """What the cell ranks with."""
        lists = Lists(**self.settings["lists"])
        if lists.interests == "refined":
            recommender, (vectors, codebook, codes, _) = self.recommender(), self.items()
            return recommender_ranker(load_model(recommender / "model"), codebook, codes, vectors)
        posterior, head = load_model(self.posterior() / "model"), load_model(self.retrieval() / "model")
        dictionary, cells, *others = self._read()
        gemirec = gemirec_ranker(recommender_ranker(*others), dictionary, posterior, head, cells)
        if lists.interests == "history":
            return HistoryInterests(gemirec.context, posterior, head, gemirec.table, gemirec.label)
        if lists.shown is not None:
            return ShownInterests(gemirec, lists.shown, lists.merge, self.data.history)
        return gemirec


def measure_gemirec(parts: GemiRecParts) -> dict[str, Any]:
    """Train what is not there, rank: the cell's figures. Its costs are those of stage 6 and of ranking."""
    ranker, cells_N = parts.ranker(), parts.cells_measured()
    figures, cost = measured(lambda: _figures(parts.data, ranker, cells_N))
    own = {name: each for name, each in parts.costs.items() if name not in SHARED}
    facts = None if isinstance(ranker, RecommenderRanker) else parts.dictionary_facts()
    return {**figures, "dictionary": facts, **costs_of({**own, "ranking": cost.as_dict()})}


def _figures(data: Data, ranker: Ranker, cells_N: np.ndarray) -> dict[str, Any]:
    cases, tables = asked(data, True, MOST_USERS)
    rows: dict[str, Any] = {}
    values: dict[str, Any] = {f"{metric}_of_users": {} for metric in PAIRED}
    for part, some in cases.items():
        for time, events in tables.items():
            found = _rank(ranker, events, some, cells_N, data)
            rows.setdefault(time, {})[part] = {GEMIREC: (means := summary(found))}
            for metric in PAIRED:
                if metric in means:
                    values[f"{metric}_of_users"].setdefault(time, {})[part] = {GEMIREC: pack(found[metric])}
    some = sample(cases["test"], data.sampled_users, seed=0)
    spread = interest_spread(ranker, tables["aware"], some)
    return {
        "rows": rows,
        **values,
        "users": {part: len(some.users_C) for part, some in cases.items()},
        "interests": spread,
        "effective_rank": spread["effective_rank"],
    }


def _rank(ranker: Ranker, events: EventTable, cases: Cases, cells_N: np.ndarray, data: Data) -> dict[str, np.ndarray]:
    """Figures of every case, [C] by metric."""
    recommendable_N = (ranker if isinstance(ranker, RecommenderRanker) else _gemirec(ranker).table).recommendable_N
    ranked = evaluate({GEMIREC: ranker}, events, cases, recommendable_N, data.history)[GEMIREC]
    first_C = events.offsets_U1[:-1].numpy()[cases.users_C]
    cells_CT = np.where(cases.mask_CT, cells_N[cases.targets_CT], -1)
    new_CT = new_interests(cells_CT, events.items_E.numpy(), first_C, first_C + cases.starts_C, cells_N)
    accuracy = per_user_metrics(ranked.ranks, (10, 50))
    return {
        **{metric: accuracy[metric] for metric in ACCURACY},
        **new_interest_recall(ranked.ranks, new_CT, (10,)),
        VARIETY: distinct_cells(ranked.lists_CK[:, :DEPTH], cells_N),
    }


def distinct_cells(lists_CL: np.ndarray, cells_N: np.ndarray) -> np.ndarray:
    """Distinct cells of every list, whose -1 are no items: [C] float64."""
    cells_CL = np.sort(np.where(lists_CL >= 0, cells_N[lists_CL], -1), axis=1)
    return ((cells_CL[:, :1] >= 0).sum(1) + (cells_CL[:, 1:] != cells_CL[:, :-1]).sum(1)).astype(np.float64)


def _gemirec(ranker: Ranker) -> GemiRecRanker:
    """The model that a ranker of cells rests on."""
    found = ranker.gemirec if isinstance(ranker, ShownInterests) else ranker
    assert isinstance(found, GemiRecRanker)
    return found


@torch.inference_mode()
def interest_spread(ranker: Ranker, events: EventTable, cases: Cases) -> dict[str, float | None]:
    """How far the interests shown lie apart: mean effective rank and mean pairwise cosine over users.

    Of the interests themselves (mean item vectors of the cells, as the evaluation measures them), and of the user's
    vectors conditioned on them, which retrieval searches with. None: there are no pairs, or no such vectors.
    """
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(cases.users_C), CHUNK):
        users_B = torch.as_tensor(cases.users_C[start : start + CHUNK])
        ends_B = torch.as_tensor(cases.starts_C[start : start + CHUNK])
        for name, vectors_BKD in _interests(ranker, events, users_B, ends_B).items():
            found.setdefault(f"{name}effective_rank", []).append(effective_rank(vectors_BKD))
            found.setdefault(f"{name}cosine", []).append(_pair_cosine(vectors_BKD))
    names = [f"{name}{figure}" for name in ("", "conditioned_") for figure in ("effective_rank", "cosine")]
    return {"shown": float(ranker.num_interests), **{name: _mean(found.get(name, [])) for name in names}}


def _interests(ranker: Ranker, events: EventTable, users_B: Tensor, ends_B: Tensor) -> dict[str, Tensor]:
    """Vectors of the interests shown, zero where a user has fewer, and the user's vectors under them: [B, K, D]."""
    if isinstance(ranker, RecommenderRanker):
        return {"": ranker.interest_vectors(events, users_B, ends_B)}
    gemirec = _gemirec(ranker)
    best = gemirec.cells(events, users_B, ends_B).topk(ranker.num_interests, dim=1)
    has_BK1 = best.values.isfinite()[..., None]
    user_BD = gemirec.context.state(events, users_B, ends_B).refined.next_BLD[:, -1]
    conditioned_BKD = gemirec.head(user_BD, gemirec.posterior.cells_GE[best.indices])
    return {"": gemirec.centres_GD[best.indices] * has_BK1, "conditioned_": conditioned_BKD * has_BK1}


def _pair_cosine(vectors_BKD: Tensor) -> Tensor:
    """Mean cosine of the pairs of a user's vectors that are not zero: [B]; NaN without a pair."""
    shown, own_B = vectors_BKD.shape[1], (vectors_BKD.square().sum(2) > 0).sum(1).double()
    if shown < 2:
        return torch.full((len(vectors_BKD),), torch.nan)
    pairs_B = own_B * (own_B - 1)
    return torch.where(pairs_B > 0, interest_cosine(vectors_BKD) * shown * (shown - 1) / pairs_B, torch.nan)


def _mean(parts: list[Tensor]) -> float | None:
    known = torch.cat(parts) if parts else torch.empty(0)
    known = known[~known.isnan()]
    return float(known.mean()) if len(known) else None

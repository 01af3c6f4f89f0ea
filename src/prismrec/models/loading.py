"""From a bundle's folder to its rankers, for serving and for the incumbent that evaluation ranks again.

Models are read once (`load_models`); rankers over grown tables of items (`build_rankers`) share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prismrec.errors import UserError
from prismrec.models import load_model
from prismrec.models.gemirec import GemiRecRanker, gemirec_ranker
from prismrec.models.interest_dictionary import check_version
from prismrec.models.item_rows import ItemRows
from prismrec.models.merge import MergedRanker
from prismrec.models.rankers import (
    LightweightEncoderRanker,
    PopularityRanker,
    Ranker,
    RecommenderRanker,
    ServedRanker,
    recent_and_long,
)
from prismrec.models.remembering import remembering
from prismrec.models.retrieval_head import CellTable
from prismrec.models.unified import UnifiedRanker

MODELS = ("lightweight_encoder", "recommender", "counted", "merge", "posterior", "retrieval", "unified_merge")


def load_rankers(folder: Path) -> dict[str, ServedRanker]:
    """All rankers that a bundle holds the parts of; see `prismrec.artifacts.bundle` for the layout.

    Raises:
        UserError: parts do not belong together.
    """
    return build_rankers(load_models(folder), ItemRows.load(folder), folder)


def load_models(folder: Path) -> dict[str, Any]:
    """The networks of a bundle, by the names of its parts."""
    return {name: load_model(folder / name) for name in MODELS if (folder / name).is_dir()}


def quickened(models: dict[str, Any]) -> dict[str, Any]:
    """The same networks in the forms that are made for serving; they must not learn any more."""
    if "recommender" in models:
        models["recommender"].quicken()
    return models


def build_rankers(models: dict[str, Any], rows: ItemRows, folder: Path) -> dict[str, ServedRanker]:
    """Rankers of these models over these items.

    Args:
        folder: the bundle's, for messages.

    Raises:
        UserError: parts do not belong together.
    """
    rankers: list[ServedRanker] = [PopularityRanker(rows.counts_N, rows.recommendable_N)]
    if "lightweight_encoder" in models:
        coarse = LightweightEncoderRanker(models["lightweight_encoder"], rows.vectors_ND, rows.recommendable_N)
        rankers.append(remembering(coarse, "interest_vectors"))
    if "recommender" in models:
        members = rankers[1:]
        every = _recommender(models, rows)
        rankers.append(recommender := remembering(every.predicting(1), "state"))
        if "merge" in models:
            rankers.append(_merged(models, rows, [*members, recommender], folder))
        refined = remembering(every, "state")  # one pass of the decoder for all that rest on it
        if "posterior" in models:
            rankers.append(gemirec := _gemirec(models, rows, refined, folder))
        if "unified_merge" in models:
            hymirec = _merged(models, rows, [*members, refined], folder)
            rankers.append(UnifiedRanker(hymirec, gemirec, models["unified_merge"]))
    return {ranker.name: ranker for ranker in rankers}


def _recommender(models: dict[str, Any], rows: ItemRows) -> RecommenderRanker:
    assert rows.decoded_ND is not None, "a recommender comes with a codebook"
    recommender = models["recommender"]
    recent_ND, long_ND = recent_and_long(rows.vectors_ND, rows.decoded_ND, recommender.config)
    return RecommenderRanker(recommender, rows.vectors_ND, recent_ND, long_ND, rows.recommendable_N)


def _merged(models: dict[str, Any], rows: ItemRows, rankers: Sequence[Ranker], folder: Path) -> MergedRanker:
    known: dict[str, Ranker] = {ranker.name: ranker for ranker in rankers}
    for ranker in models["counted"].widened(len(rows.vectors_ND)).rankers():
        known[ranker.name] = remembering(ranker, "scores")
    merge = models["merge"]
    missing = set(merge.config.members) - set(known)
    if missing:
        raise UserError(
            f"The merge needs {', '.join(sorted(missing))}, which the bundle does not hold.",
            str(folder),
            "kedro run --pipelines packaging",
        )
    return MergedRanker({name: known[name] for name in merge.config.members}, merge, rows.recommendable_N)


def _gemirec(models: dict[str, Any], rows: ItemRows, context: RecommenderRanker, folder: Path) -> GemiRecRanker:
    dictionary, posterior = rows.dictionary, models["posterior"]
    assert dictionary is not None, "a posterior comes with a dictionary"
    assert rows.cells_N is not None
    for name in ("posterior", "retrieval"):
        check_version(f"parameters of the {name}", models[name].config.dictionary, dictionary.version, str(folder))
    table = CellTable(rows.cells_N, rows.recommendable_N, dictionary.num_cells)
    names = [dictionary.label(cell) for cell in range(dictionary.num_cells)]  # once: each request names all cells
    return gemirec_ranker(context, posterior, models["retrieval"], table, names.__getitem__)

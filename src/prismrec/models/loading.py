"""From a bundle's folder to its rankers, for serving and for the incumbent that evaluation ranks again."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from prismrec.errors import UserError
from prismrec.models import load_model
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.linear_transitions import LINEAR_TRANSITIONS
from prismrec.models.merge import LinearTransitionsRanker, MergedRanker
from prismrec.models.rankers import (
    LightweightEncoderRanker,
    PopularityRanker,
    Ranker,
    RecommenderRanker,
    ServedRanker,
    recent_and_long,
)
from prismrec.models.retrieval_head import CellTable
from prismrec.quantization.codebook import Codes


def load_rankers(folder: Path) -> dict[str, ServedRanker]:
    """All rankers that a bundle holds the parts of; see `prismrec.artifacts.bundle` for the layout.

    Raises:
        UserError: parts do not belong together.
    """
    vectors = load_file(folder / "item_vectors.safetensors")
    items_ND, recommendable_N = vectors["vectors"], vectors["recommendable"]
    counts_N = load_file(folder / "popularity.safetensors")["counts"].numpy()
    rankers: list[ServedRanker] = [PopularityRanker(counts_N, recommendable_N)]
    if (folder / "lightweight_encoder").is_dir():
        encoder = load_model(folder / "lightweight_encoder")
        rankers.append(LightweightEncoderRanker(encoder, items_ND, recommendable_N))
    if (folder / "recommender").is_dir():
        refined = _load_recommender(folder, items_ND, recommendable_N)
        rankers.append(refined)
        if (folder / "merge").is_dir():
            rankers.append(_load_merged(folder, rankers, recommendable_N))
        if (folder / "posterior").is_dir():
            rankers.append(_load_gemirec(folder, refined))
    return {ranker.name: ranker for ranker in rankers}


def _load_recommender(folder: Path, items_ND: Tensor, recommendable_N: Tensor) -> RecommenderRanker:
    codes = load_file(folder / "item_codes.safetensors")
    decoded = load_model(folder / "codebook").decode(Codes.from_arrays(codes))
    recommender = load_model(folder / "recommender")
    recent_ND, long_ND = recent_and_long(items_ND, torch.from_numpy(decoded), recommender.config)
    return RecommenderRanker(recommender, items_ND, recent_ND, long_ND, recommendable_N)


def _load_merged(folder: Path, rankers: list[ServedRanker], recommendable_N: Tensor) -> MergedRanker:
    known: dict[str, Ranker] = {ranker.name: ranker for ranker in rankers}
    known[LINEAR_TRANSITIONS] = LinearTransitionsRanker(load_model(folder / "transitions"))
    merge = load_model(folder / "merge")
    missing = set(merge.config.members) - set(known)
    if missing:
        raise UserError(
            f"The merge needs {', '.join(sorted(missing))}, which the bundle does not hold.",
            str(folder),
            "kedro run --pipelines packaging",
        )
    return MergedRanker({name: known[name] for name in merge.config.members}, merge, recommendable_N)


def _load_gemirec(folder: Path, context: RecommenderRanker) -> GemiRecRanker:
    dictionary, posterior = load_model(folder / "dictionary"), load_model(folder / "posterior")
    if posterior.config.dictionary != dictionary.version:
        raise UserError(
            f"The posterior belongs to dictionary {posterior.config.dictionary}, "
            f"the bundle holds {dictionary.version}.",
            str(folder),
            "kedro run --pipelines interest_dictionary,evaluation,packaging",
        )
    cells_N = load_file(folder / "item_cells.safetensors")["cells"]
    table = CellTable(cells_N, context.recommendable_N, dictionary.num_cells)
    return GemiRecRanker(context, posterior, load_model(folder / "retrieval"), table, dictionary.label)

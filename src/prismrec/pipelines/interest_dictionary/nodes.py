"""Nodes of `interest_dictionary`; models and training are imported when a node runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories
from prismrec.data.schema import CATEGORIES, ITEM_ID, TITLE
from prismrec.errors import ParameterError
from prismrec.parameters.interest_dictionary import InterestDictionaryParameters
from prismrec.pipelines.inputs import training_data, training_summary
from prismrec.pipelines.llm_recommender.nodes import recommender_ranker


def fit_dictionary(
    item_vectors: dict[str, np.ndarray],
    previous_dictionary: Any | None,
    parameters: InterestDictionaryParameters,
) -> tuple[Any, dict[str, float]]:
    """Fit the dictionary on the recommendable items, each also without its behavioural part.

    Raises:
        ParameterError: the dictionary would have more cells than `max_cells`.
    """
    import torch

    from prismrec.training.dictionary import fit_dictionary as fit

    known = item_vectors["recommendable"]
    vectors = np.concatenate([item_vectors["vectors"][known], item_vectors["text_only"][known]])
    parent = previous_dictionary.version if previous_dictionary is not None else None
    dictionary, losses = fit(
        torch.from_numpy(vectors), int(known.sum()), parameters.dictionary, parent, parameters.seed
    )
    if dictionary.num_cells > parameters.max_cells:
        raise ParameterError(
            f"The dictionary has {dictionary.num_cells} cells, which is too many to score exactly.",
            "interest_dictionary.max_cells",
            "Raise interest_dictionary.dictionary.items_per_cell, or max_cells.",
        )
    return dictionary, losses


def assign_cells(dictionary: Any, item_vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes and cell of every known item."""
    import torch

    codes_NC = dictionary.codes_of(torch.from_numpy(item_vectors["vectors"]))
    return {"codes": codes_NC.numpy(), "cells": dictionary.cell_index(codes_NC).numpy()}


def label_interests(
    dictionary: Any, item_cells: dict[str, np.ndarray], item_map: pl.DataFrame, histories: Histories
) -> dict[str, str]:
    """A name for every non-empty cell, by its id: its most specific categories, or its most popular title."""
    from prismrec.data.interest_names import interest_names

    names = interest_names(
        item_cells["cells"],
        item_map.get_column(CATEGORIES).to_list(),
        item_map.get_column(TITLE).to_list(),
        np.bincount(histories.items, minlength=len(item_map)),
    )
    return {dictionary.label(cell): name for cell, name in names.items()}


def report_dictionary(
    dictionary: Any,
    dictionary_losses: dict[str, float],
    item_cells: dict[str, np.ndarray],
    item_vectors: dict[str, np.ndarray],
    item_map: pl.DataFrame,
    previous_dictionary: Any | None,
    previous_item_cells: dict[str, np.ndarray] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What moved since the parent version, and the dictionary's health."""
    from prismrec.metrics.codes import code_health
    from prismrec.training.dictionary import drift

    known = item_vectors["recommendable"]
    previous_version = previous_dictionary.version if previous_dictionary is not None else None
    ids = item_map.get_column(ITEM_ID).to_list()

    def labels(owner: Any, cells: np.ndarray) -> dict[str, str]:
        return {item: owner.label(int(cell)) for item, cell in zip(ids, cells, strict=False)}

    before = None
    if previous_dictionary is not None and previous_item_cells is not None:
        before = labels(previous_dictionary, previous_item_cells["cells"])  # indices are for ever
    changes = drift(before, labels(dictionary, item_cells["cells"]), previous_version, dictionary.version)
    health = code_health(item_cells["codes"][known], dictionary.sizes)
    return changes, {**health, **dictionary_losses}


def gemirec_ranker(context: Any, dictionary: Any, posterior: Any, retrieval: Any, cells: Any) -> Any:
    """Posterior and retrieval head on top of the recommender, ready to rank."""
    import torch

    from prismrec.models.gemirec import GemiRecRanker
    from prismrec.models.retrieval_head import CellTable

    table = CellTable(torch.from_numpy(cells["cells"]), context.recommendable_N, dictionary.num_cells)
    return GemiRecRanker(context, posterior, retrieval, table, dictionary.label)


def _new_head(context: Any, dictionary: Any, parameters: InterestDictionaryParameters) -> Any:
    import torch

    from prismrec.models.retrieval_head import RetrievalHead, RetrievalHeadConfig

    settings = parameters.retrieval
    head = RetrievalHead(
        RetrievalHeadConfig(
            context.items_ND.shape[1],
            dictionary.cell_embeddings().shape[1],
            settings.hidden,
            settings.dropout,
            parameters.num_interests,
            dictionary.version,
        )
    )
    with torch.no_grad():  # start as the recommender's own ranking inside a cell
        head.log_scale.copy_(context.recommender.log_scale)
    return head


def train_posterior(
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    recommender: Any,
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    item_vectors: dict[str, np.ndarray],
    histories: Histories,
    splits: pl.DataFrame,
    parameters: InterestDictionaryParameters,
    checkpoints: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train P(m | u) on frozen dictionary and recommender; return the posterior and its curve."""
    import torch

    from prismrec.models.posterior import Posterior, PosteriorConfig
    from prismrec.training.gemirec import PosteriorTask
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    context = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    settings = parameters.posterior
    cells_GE = dictionary.cell_embeddings()
    config = PosteriorConfig(
        context.items_ND.shape[1],
        cells_GE.shape[1],
        dictionary.sizes,
        settings.hidden,
        settings.layers,
        settings.heads,
        settings.dropout,
        dictionary.version,
    )
    occupied = np.bincount(item_cells["cells"][item_vectors["recommendable"]], minlength=math.prod(dictionary.sizes))
    posterior = Posterior(config, cells_GE, torch.from_numpy(occupied > 0))
    head = _new_head(context, dictionary, parameters).eval()
    ranker = gemirec_ranker(context, dictionary, posterior, head, item_cells)
    data = training_data(histories, splits, item_vectors["recommendable"], settings.training, parameters.seed)
    task = PosteriorTask(ranker, data, settings.training, parameters.seed)
    curve = fit(task, settings.training, parameters.seed, checkpoints)
    return posterior, {"epochs": [r.as_dict() for r in curve], **training_summary("posterior_", curve)}


def train_retrieval(
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    posterior: Any,
    recommender: Any,
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    item_vectors: dict[str, np.ndarray],
    histories: Histories,
    splits: pl.DataFrame,
    parameters: InterestDictionaryParameters,
    checkpoints: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train P(i | u, m) inside each cell; return the retrieval head and its curve."""
    import torch

    from prismrec.training.gemirec import RetrievalTask
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    context = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    settings = parameters.retrieval
    head = _new_head(context, dictionary, parameters)
    ranker = gemirec_ranker(context, dictionary, posterior, head, item_cells)
    data = training_data(histories, splits, item_vectors["recommendable"], settings.training, parameters.seed)
    task = RetrievalTask(ranker, data, settings.training, parameters.seed)
    curve = fit(task, settings.training, parameters.seed, checkpoints)
    return head, {"epochs": [r.as_dict() for r in curve], **training_summary("retrieval_", curve)}


def collect_metrics(
    dictionary: Any,
    dictionary_health: dict[str, Any],
    posterior_curve: dict[str, Any],
    retrieval_curve: dict[str, Any],
) -> dict[str, Any]:
    """The stage's figures: dictionary version and health, best epochs of posterior and retrieval."""
    curves = {**posterior_curve, **retrieval_curve}
    return {
        "dictionary": dictionary.version,
        **dictionary_health,
        **{name: value for name, value in curves.items() if name != "epochs"},
    }

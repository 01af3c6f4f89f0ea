"""Nodes of `interest_dictionary`; models and training are imported when a node runs."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories
from prismrec.data.schema import CATEGORIES, ITEM_ID, TITLE
from prismrec.errors import UserError
from prismrec.parameters.interest_dictionary import InterestDictionaryParameters
from prismrec.pipelines.choices import settled_epochs, settled_merge
from prismrec.pipelines.inputs import training_data, training_summary
from prismrec.pipelines.llm_recommender.nodes import merge_members, recommender_ranker

log = logging.getLogger(__name__)


def fit_dictionary(
    item_vectors: dict[str, np.ndarray],
    previous_dictionary: Path | None,
    parameters: InterestDictionaryParameters,
) -> tuple[Any, dict[str, Any]]:
    """Fit the dictionary on the recommendable items, each also without its behavioural part; or refresh the last one.

    Returns:
        The dictionary with the vectors it rests on, and how it came about.

    Raises:
        UserError: a refresh is wanted, and there is no previous dictionary to go on with.
    """
    from prismrec.training.dictionary import fit_dictionary as fit
    from prismrec.training.dictionary_refresh import DictionaryVectors, KeptDictionary, refresh_dictionary

    rows = DictionaryVectors.of(item_vectors)
    if not parameters.refresh:
        dictionary, losses = fit(rows.both, len(rows.items_N), parameters.dictionary, parameters.seed)
        return KeptDictionary(dictionary, rows), {"kind": "fitted", "figures": losses}
    parent = _previous(previous_dictionary)
    if parent is None:
        raise UserError(
            "There is no previous dictionary, with the vectors it rests on, to refresh.",
            "previous_dictionary",
            "Fit a dictionary anew first: interest_dictionary.refresh=false",
        )
    made = refresh_dictionary(parent.dictionary, parent.rows, rows, parameters.dictionary, parameters.seed)
    if made.kind == "new_major":
        log.warning(
            "The item vectors are too far from the previous ones (mean 1 - cosine %.3f, at best aligned): the "
            "dictionary starts anew, its interests are not those of %s.",
            made.distance_aligned,
            parent.dictionary.version,
        )
    return KeptDictionary(made.dictionary, rows), {
        "kind": made.kind,
        "figures": made.figures,
        "distance": made.distance,
        "distance_aligned": made.distance_aligned,
        "aligned": made.aligned,
    }


def _previous(folder: Path | None) -> Any | None:
    """The dictionary kept in a folder; None without one, or if it was kept without vectors, as releases before did."""
    from prismrec.training.dictionary_refresh import VECTORS_NAME, KeptDictionary

    return None if folder is None or not (folder / VECTORS_NAME).is_file() else KeptDictionary.load(folder)


def assign_cells(dictionary: Any, item_vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes and cell of every known item."""
    import torch

    from prismrec.models.interest_dictionary import stamp

    codes_NC = dictionary.codes_of(torch.from_numpy(item_vectors["vectors"]))
    cells_N = dictionary.cell_index(codes_NC)
    return {"codes": codes_NC.numpy(), "cells": cells_N.numpy(), **stamp(dictionary.version)}


def label_interests(
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    item_vectors: dict[str, np.ndarray],
    item_map: pl.DataFrame,
    histories: Histories,
) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """A name for every non-empty cell, by its id: its most specific categories, or its most popular title.

    Returns:
        Names by id; the table of interests; their map.
    """
    from prismrec.data.interest_names import interest_names
    from prismrec.data.interest_table import interest_map, interest_rows

    titles = item_map.select(pl.coalesce(TITLE, ITEM_ID)).to_series().to_list()
    counts_N = np.bincount(histories.items, minlength=len(item_map))
    cells_N = item_cells["cells"]
    names = interest_names(cells_N, item_map.get_column(CATEGORIES).to_list(), titles, counts_N)
    rows = interest_rows(
        cells_N, item_vectors["recommendable"], item_vectors["vectors"], counts_N, titles, names, dictionary.label
    )
    table = {"dictionary": dictionary.version, "interests": rows}
    return {dictionary.label(cell): name for cell, name in names.items()}, table, interest_map(rows, dictionary.version)


def report_dictionary(
    dictionary: Any,
    dictionary_losses: dict[str, Any],
    item_cells: dict[str, np.ndarray],
    item_vectors: dict[str, np.ndarray],
    previous_dictionary: Path | None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What moved since the previous version, as a report and a plot, and the dictionary's health."""
    from prismrec.metrics.codes import code_health
    from prismrec.training.dictionary_drift import drift, drift_plot
    from prismrec.training.dictionary_refresh import DictionaryVectors

    kept = _previous(previous_dictionary)
    previous = None if kept is None else (kept.dictionary, kept.rows)
    origin = {key: value for key, value in dictionary_losses.items() if key not in ("kind", "figures")}
    rows = DictionaryVectors.of(item_vectors)
    changes = {**drift(dictionary_losses["kind"], dictionary, rows, previous), **origin}
    health = code_health(item_cells["codes"][item_vectors["recommendable"]], dictionary.sizes)
    return changes, drift_plot(changes), {**health, **dictionary_losses["figures"]}


def check_one_dictionary(dictionary: Any, posterior: Any, retrieval: Any, cells: Any) -> None:
    """Refuse what rests on different dictionaries, as a run that was cut off may leave it.

    Raises:
        LineageError: naming both versions.
    """
    from prismrec.models.interest_dictionary import check_version, stamped_version

    where = "06_models of the workspace"
    check_version("item cells", stamped_version(cells), dictionary.version, where)
    check_version("parameters of the posterior", posterior.config.dictionary, dictionary.version, where)
    check_version("parameters of the retrieval head", retrieval.config.dictionary, dictionary.version, where)


def gemirec_ranker(context: Any, dictionary: Any, posterior: Any, retrieval: Any, cells: Any) -> Any:
    """Posterior and retrieval head on top of the recommender, ready to rank."""
    import torch

    from prismrec.models import gemirec
    from prismrec.models.retrieval_head import CellTable

    check_one_dictionary(dictionary, posterior, retrieval, cells)
    table = CellTable(torch.from_numpy(cells["cells"]), context.recommendable_N, dictionary.num_cells)
    return gemirec.gemirec_ranker(context, posterior, retrieval, table, dictionary.label)


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
            settings.variant,
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
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train P(m | u) on frozen dictionary and recommender; return the posterior and its curve.

    Args:
        choices: what a run before settled, for a final fit: epochs and temperature.
    """
    from dataclasses import replace

    import torch

    from prismrec.models.posterior import Posterior, PosteriorConfig
    from prismrec.training.gemirec import PosteriorTask, fit_temperature
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
        parameters.max_cells,
        parameters.beam,
        settings.prior,
    )
    occupied = np.bincount(item_cells["cells"][item_vectors["recommendable"]], minlength=math.prod(dictionary.sizes))
    posterior = Posterior(config, cells_GE, torch.from_numpy(occupied > 0))
    head = _new_head(context, dictionary, parameters).eval()
    ranker = gemirec_ranker(context, dictionary, posterior, head, item_cells)
    data = training_data(histories, splits, item_vectors["recommendable"], settings.training, parameters.seed, choices)
    task = PosteriorTask(ranker, data, settings.training, parameters.seed, settings.horizon)
    curve = fit(task, settings.training, parameters.seed, checkpoints, settled_epochs(choices, "posterior"))
    if choices is None:
        temperature = fit_temperature(ranker, data)
    else:
        temperature = choices["posterior_temperature"]
        posterior.config = replace(posterior.config, temperature=temperature)
    summary = {**training_summary("posterior_", curve), "posterior_temperature": temperature}
    return posterior, {"epochs": [r.as_dict() for r in curve], **summary}


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
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train P(i | u, m) inside each cell; return the retrieval head and its curve.

    Args:
        choices: what a run before settled, for a final fit.
    """
    import torch

    from prismrec.training.gemirec import RetrievalTask
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    context = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    settings = parameters.retrieval
    head = _new_head(context, dictionary, parameters)
    ranker = gemirec_ranker(context, dictionary, posterior, head, item_cells)
    data = training_data(histories, splits, item_vectors["recommendable"], settings.training, parameters.seed, choices)
    task = RetrievalTask(ranker, data, settings.training, parameters.seed, settings.posterior_share)
    curve = fit(task, settings.training, parameters.seed, checkpoints, settled_epochs(choices, "retrieval"))
    return head, {"epochs": [r.as_dict() for r in curve], **training_summary("retrieval_", curve)}


def fit_unified_merge(
    item_vectors: dict[str, np.ndarray],
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    recommender: Any,
    training_transitions: Any,
    merge: Any,
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    posterior: Any,
    retrieval: Any,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: InterestDictionaryParameters,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Fit the weights of HyMiRec and GemiRec in the model that unites them; return them and their figures.

    Among the figures, `ndcg@10_equal_weights` is the plain ensemble's.

    Args:
        choices: what a run before settled, for a final fit: then its weights stay.
    """
    from prismrec.models.rankers import GEMIREC, HYMIREC

    settled = settled_merge(choices, "unified_merge", dict.fromkeys((HYMIREC, GEMIREC)))
    if settled is not None:
        return settled, {f"weight_{name}": weight for name, weight in settled.weights().items()}
    from prismrec.models.merge import MergedRanker
    from prismrec.training.merging import fit_merge as fit

    context = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    members = merge_members(context, lightweight_encoder, training_transitions)
    hymirec = MergedRanker(members, merge, context.recommendable_N)
    gemirec = gemirec_ranker(context, dictionary, posterior, retrieval, item_cells)
    training = parameters.posterior.training
    data = training_data(histories, splits, item_vectors["recommendable"], training, parameters.seed)
    fitted = fit({ranker.name: ranker for ranker in (hymirec, gemirec)}, data)
    return fitted.merge, fitted.figures


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

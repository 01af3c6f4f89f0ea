"""Nodes of `interest_dictionary`; models and training are imported when a node runs."""

import logging
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from prismrec.artifacts.bundle import LABELS_OF
from prismrec.data.histories import Histories, SplitPoints
from prismrec.data.schema import CATEGORIES, ITEM_ID, TITLE
from prismrec.errors import UserError
from prismrec.parameters.interest_dictionary import InterestDictionaryParameters
from prismrec.pipelines.choices import check_members, settled_epochs, settled_merge
from prismrec.pipelines.inputs import training_data, training_summary
from prismrec.pipelines.llm_recommender.nodes import merge_members, recommender_ranker

IN_FULL = "Train posterior and retrieval head anew on the refreshed dictionary: interest_dictionary.refresh_share=1"
log = logging.getLogger(__name__)


def fit_dictionary(
    item_vectors: dict[str, np.ndarray],
    previous_dictionary: Path | None,
    parameters: InterestDictionaryParameters,
) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    """Fit the dictionary on the recommendable items, each also without its behavioural part; or refresh the last one.

    Returns:
        The dictionary with the vectors it rests on; how it came about; its origins, for what rests on its parent.

    Raises:
        UserError: a refresh is wanted, and there is no previous dictionary to go on with.
    """
    from prismrec.training.dictionary import fit_dictionary as fit
    from prismrec.training.dictionary_refresh import DictionaryVectors, KeptDictionary, Origins, refresh_dictionary

    rows = DictionaryVectors.of(item_vectors)
    if not parameters.refresh:
        dictionary, losses = fit(rows.both, len(rows.items_N), parameters.dictionary, parameters.seed)
        kept = KeptDictionary(dictionary, rows, Origins.itself(dictionary))
        return kept, {"kind": "fitted", "figures": losses}, _stamped_origins(kept)
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
            "The item vectors are too far from the previous ones, or there are none of the same items (mean 1 - cosine "
            "%.3f as they come, %.3f at best aligned): the dictionary starts anew, its interests are not those of %s.",
            made.distance,
            made.distance_aligned,
            parent.dictionary.version,
        )
    kept = KeptDictionary(made.dictionary, rows, parent.origins if made.origins is None else made.origins)
    facts = {
        "kind": made.kind,
        "figures": made.figures,
        "distance": made.distance,
        "distance_aligned": made.distance_aligned,
        "aligned": made.aligned,
    }
    return kept, facts, _stamped_origins(kept)


def _stamped_origins(kept: Any) -> dict[str, np.ndarray]:
    from prismrec.models.interest_dictionary import stamp

    return {**kept.origins.arrays(), **stamp(kept.dictionary.version)}


def _load_if_there(folder: Path | None) -> Any | None:
    from prismrec.models import load_model

    return None if folder is None else load_model(folder)


def _previous(folder: Path | None) -> Any | None:
    """The dictionary kept in a folder; None without one, or if it was kept without vectors, as releases before did."""
    from prismrec.training.dictionary_refresh import VECTORS_NAME, KeptDictionary

    return None if folder is None or not (folder / VECTORS_NAME).is_file() else KeptDictionary.load(folder)


def _beside(folder: Path | None, version: str) -> Any | None:
    """The dictionary of that version among all that are stored where one of them is; None if it is not there."""
    if folder is None:
        return None
    stored = sorted(folder.parent.parent.glob(f"*/{folder.name}"), reverse=True)
    found = (kept for kept in map(_previous, stored) if kept is not None and kept.dictionary.version == version)
    return next(found, None)


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
    """A name for every non-empty cell, by its id: its most specific categories, else title words; or its top title.

    Returns:
        Names by id, with the dictionary's version; the table of interests; their map.
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
    labels = {LABELS_OF: dictionary.version, **{dictionary.label(cell): name for cell, name in names.items()}}
    return labels, table, interest_map(rows, dictionary.version)


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
    if kept is not None and dictionary_losses["kind"] == "refreshed" and kept.dictionary.version == dictionary.version:
        # Reported once more, by a run of this node alone: the last one that is settled is this very dictionary.
        kept = _beside(previous_dictionary, dictionary.config.parent)
    previous = None if kept is None else (kept.dictionary, kept.rows)
    origin = {key: value for key, value in dictionary_losses.items() if key not in ("kind", "figures")}
    rows = DictionaryVectors.of(item_vectors)
    changes = {**drift(dictionary_losses["kind"], dictionary, rows, previous), **origin}
    health = code_health(item_cells["codes"][item_vectors["recommendable"]], dictionary.sizes)
    return changes, drift_plot(changes), {**health, **dictionary_losses["figures"]}


def check_one_dictionary(dictionary: Any, posterior: Any, retrieval: Any, cells: Any) -> None:
    """Refuse what rests on different dictionaries, as runs of single nodes may leave it.

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


def _new_head(
    context: Any,
    dictionary: Any,
    parameters: InterestDictionaryParameters,
    choices: dict[str, Any] | None,
    variant: Literal["in_cell", "mixture"] | None = None,
    basis: str = "",
) -> Any:
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
            variant or settings.variant,
            final=choices is not None,
            merge=settings.merge,
            basis=basis,
        )
    )
    with torch.no_grad():  # start as the recommender's own ranking inside a cell
        head.log_scale.copy_(context.recommender.log_scale)
    return head


def _new_posterior(
    context: Any,
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    item_vectors: dict[str, np.ndarray],
    parameters: InterestDictionaryParameters,
    choices: dict[str, Any] | None,
    basis: str,
) -> Any:
    import torch

    from prismrec.models.posterior import Posterior, PosteriorConfig

    settings, cells_GE = parameters.posterior, dictionary.cell_embeddings()
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
        final=choices is not None,
        basis=basis,
    )
    occupied = np.bincount(item_cells["cells"][item_vectors["recommendable"]], minlength=math.prod(dictionary.sizes))
    return Posterior(config, cells_GE, torch.from_numpy(occupied > 0))


class _Before(NamedTuple):
    """What a refresh goes on with: a model of the run before, and where the dictionary's codes come from in its."""

    model: Any
    origins: Any


def _before(
    name: str,
    previous: Path | None,
    dictionary: Any,
    dictionary_origins: dict[str, np.ndarray] | None,
    parameters: InterestDictionaryParameters,
    choices: dict[str, Any] | None,
) -> _Before | None:
    """The model of the run before that a training goes on with; None, and a line that says why, if it is to be full.

    Raises:
        UserError: there is a model to go on with, but it rests on another dictionary than the parent, or has been
            trained on the validation events that this run chooses by.
    """
    if not parameters.refresh or parameters.refresh_share == 1 or dictionary_origins is None:
        return None
    from prismrec.models import load_model
    from prismrec.models.interest_dictionary import check_version, stamped_version
    from prismrec.training.dictionary_refresh import Origins

    if previous is None:
        log.info("The %s is trained in full: there is no previous one.", name)
        return None
    model, parent = load_model(previous), dictionary.config.parent
    if model.config.final and choices is None:
        raise UserError(
            f"The previous {name} is that of a final fit, which trains on the validation events too: what goes on with "
            "it cannot be chosen, nor its temperature fitted, on these.",
            "interest_dictionary.refresh",
            "Refresh in a final fit (kedro run --pipelines final_fit --params interest_dictionary.refresh=true), or "
            f"{IN_FULL[0].lower()}{IN_FULL[1:]}",
        )
    found = model.config.dictionary
    if found == dictionary.version:  # the dictionary is unchanged
        return _Before(model, Origins.itself(dictionary))
    if parent is None:
        log.info("The %s is trained in full: the dictionary has no parent.", name)
        return None
    if found != parent:
        raise UserError(
            f"The previous {name} rests on the interest dictionary {found}; this one goes on with {parent}, as runs of "
            "single nodes may leave it.",
            f"previous_{name}",
            IN_FULL,
        )
    check_version("origins of the dictionary", stamped_version(dictionary_origins), dictionary.version, "06_models")
    return _Before(model, Origins.load(dictionary_origins))


def _basis(dictionary: Any, parameters: InterestDictionaryParameters, splits: pl.DataFrame, *learnt_from: Any) -> str:
    """Digest of all that a training of this stage learns from, but for the weights that it starts with."""
    from prismrec.training.held import digest

    settings = parameters.model_copy(update={"refresh": False})
    return digest(dictionary.version, settings, SplitPoints.from_frame(splits), *learnt_from)[:16]


def _learnt(name: str, before: _Before | None, basis: str) -> Any | None:
    """The model of the run before if it has been trained on all this already: a refresh leaves it as it is.

    So a refresh without news changes nothing.
    """
    if before is None or before.model.config.basis != basis:
        return None
    log.info("The %s stays as it is: it has been trained on these very data.", name)
    return before.model


class _Plan(NamedTuple):
    """How a part of the stage is trained.

    Attributes:
        training: the loop's parameters.
        part: of a refresh, the share of an epoch's batches; None: all.
        epochs: as many as are settled, by a run before or by a refresh's share; None: validation is to say.
        seed: of the training.
    """

    training: Any
    part: float | None
    epochs: int | None
    seed: int


def _plan(
    name: str,
    training: Any,
    before: _Before | None,
    events: int,
    choices: dict[str, Any] | None,
    parameters: InterestDictionaryParameters,
) -> _Plan:
    """In full, or as a refresh trains; the number of events draws other users another day.

    Raises:
        UserError: a full training is to have the epochs that a refresh had.
    """
    if before is None:
        if choices is not None and choices.get("refreshed"):
            raise UserError(
                "The run before was a refresh: how many epochs are best in a full training it does not say.",
                "interest_dictionary.refresh",
                "Refresh in the final fit too (interest_dictionary.refresh=true), or run all stages in full before it.",
            )
        return _Plan(training, None, settled_epochs(choices, name), parameters.seed)
    from prismrec.training.carry_over import refresh_schedule

    shorter, part = refresh_schedule(training, parameters.refresh_share)
    log.info("The %s goes on from the previous one: %g of a full training.", name, parameters.refresh_share)
    return _Plan(shorter, part, shorter.epochs, parameters.seed + events)


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
    dictionary_origins: dict[str, np.ndarray] | None = None,
    previous_posterior: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train P(m | u) on frozen dictionary and recommender; return the posterior and its curve.

    Args:
        choices: what a run before settled, for a final fit: epochs and temperature.
        dictionary_origins, previous_posterior: what a refresh goes on with.

    Raises:
        UserError: the previous posterior cannot be gone on with.
    """
    from dataclasses import replace

    import torch

    from prismrec.training.carry_over import carry_posterior
    from prismrec.training.gemirec import PosteriorTask, cell_figures, fit_temperature
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    context = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    settings, learnt_from = (
        parameters.posterior,
        (item_cells, recommender, item_codes, item_vectors, histories, choices),
    )
    basis = _basis(dictionary, parameters, splits, *learnt_from)
    posterior = _new_posterior(context, dictionary, item_cells, item_vectors, parameters, choices, basis)
    before = _before("posterior", previous_posterior, dictionary, dictionary_origins, parameters, choices)
    learnt = _learnt("posterior", before, basis)
    if learnt is not None:
        posterior = learnt
    elif before is not None:
        carry_posterior(before.model, posterior, before.origins)
    plan = _plan("posterior", settings.training, before, len(histories.items), choices, parameters)
    # Validated inside the cells: in the mixture an untrained head ranks as the recommender under any posterior.
    head = _new_head(context, dictionary, parameters, choices, variant="in_cell").eval()
    ranker = gemirec_ranker(context, dictionary, posterior, head, item_cells)
    data = training_data(histories, splits, item_vectors["recommendable"], plan.training, parameters.seed, choices)
    task = PosteriorTask(ranker, data, plan.training, plan.seed, settings.horizon, plan.part)
    curve = fit(task, plan.training, plan.seed, checkpoints, plan.epochs) if learnt is None else []
    figures = {}
    if choices is None:
        temperature = fit_temperature(ranker, data) if learnt is None else posterior.config.temperature
        figures = {f"posterior_validation_{name}": value for name, value in cell_figures(ranker, data).items()}
    else:
        temperature = choices["posterior_temperature"]
        posterior.config = replace(posterior.config, temperature=temperature)
    summary = {**training_summary("posterior_", curve), **figures, "posterior_temperature": temperature}
    summary["posterior_refreshed"] = before is not None
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
    dictionary_origins: dict[str, np.ndarray] | None = None,
    previous_retrieval: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train P(i | u, m) inside each cell; return the retrieval head and its curve.

    Args:
        choices: what a run before settled, for a final fit.
        dictionary_origins, previous_retrieval: what a refresh goes on with.

    Raises:
        UserError: the previous retrieval head cannot be gone on with.
    """
    import torch

    from prismrec.training.carry_over import carry_head
    from prismrec.training.gemirec import RetrievalTask
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    context = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    settings = parameters.retrieval
    learnt_from = (
        item_cells,
        posterior,
        posterior.config.temperature,
        recommender,
        item_codes,
        item_vectors,
        histories,
        choices,
    )
    basis = _basis(dictionary, parameters, splits, *learnt_from)
    head = _new_head(context, dictionary, parameters, choices, basis=basis)
    before = _before("retrieval", previous_retrieval, dictionary, dictionary_origins, parameters, choices)
    learnt = _learnt("retrieval head", before, basis)
    if learnt is not None:
        head = learnt
    elif before is not None:
        carry_head(before.model, head, before.origins)
    plan = _plan("retrieval", settings.training, before, len(histories.items), choices, parameters)
    ranker = gemirec_ranker(context, dictionary, posterior, head, item_cells)
    data = training_data(histories, splits, item_vectors["recommendable"], plan.training, parameters.seed, choices)
    task = RetrievalTask(ranker, data, plan.training, plan.seed, settings.posterior_share, plan.part)
    curve = fit(task, plan.training, plan.seed, checkpoints, plan.epochs) if learnt is None else []
    summary = {**training_summary("retrieval_", curve), "retrieval_refreshed": before is not None}
    return head, {"epochs": [r.as_dict() for r in curve], **summary}


def fit_unified_merge(
    item_vectors: dict[str, np.ndarray],
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    recommender: Any,
    training_counted: Any,
    merge: Any,
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    posterior: Any,
    retrieval: Any,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: InterestDictionaryParameters,
    choices: dict[str, Any] | None = None,
    posterior_curve: dict[str, Any] | None = None,
    previous_unified_merge: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Fit the weights of HyMiRec's members and GemiRec in the model that unites them; return them and their figures.

    Among the figures, `ndcg@10_hymirec` and `ndcg@10_plain_ensemble` are of HyMiRec as it is, alone and with GemiRec at
    equal weights, and `cell_…` of the united model's cells.

    Args:
        choices: what a run before settled, for a final fit: then its weights stay.
        posterior_curve, previous_unified_merge: where the posterior went on from the previous one, the weights stay.

    Raises:
        UserError: the weights that would stay are of other members.
    """
    from prismrec.models.rankers import GEMIREC, HYMIREC

    settled, names = None, (*merge.config.members, GEMIREC)
    if choices is not None:
        settled = settled_merge(choices, "unified_merge", dict.fromkeys(names))
    elif posterior_curve is not None and posterior_curve["posterior_refreshed"]:
        settled = _load_if_there(previous_unified_merge)
        if settled is not None and settled.config.members != (HYMIREC, GEMIREC):  # as releases before weighed the two
            check_members(settled.config.members, names, "unified_merge", IN_FULL)
    if settled is not None:
        settled = settled.resting_on(dictionary.version)
        return settled, {f"weight_{name}": weight for name, weight in settled.weights().items()}
    from prismrec.models.merge import MergedRanker
    from prismrec.models.remembering import remembering
    from prismrec.models.unified import UnifiedRanker
    from prismrec.training.gemirec import cell_figures
    from prismrec.training.merging import fit_merge as fit

    context = remembering(recommender_ranker(recommender, codebook, item_codes, item_vectors), "state")
    members = merge_members(context, lightweight_encoder, training_counted)
    hymirec = MergedRanker(members, merge, context.recommendable_N)
    gemirec = gemirec_ranker(context, dictionary, posterior, retrieval, item_cells)
    training = parameters.posterior.training
    data = training_data(histories, splits, item_vectors["recommendable"], training, parameters.seed)
    every = {**members, GEMIREC: gemirec}
    alone, ensemble = merge.widened(tuple(every)), merge.widened(tuple(every))
    for weights_M in (ensemble.timed_M, ensemble.timeless_M):
        weights_M[-1] = 1.0
    fitted = fit(every, data, {"hymirec": alone, "plain_ensemble": ensemble})
    said = cell_figures(UnifiedRanker(hymirec, gemirec, fitted.merge), data)
    unified = fitted.merge.resting_on(dictionary.version)
    return unified, {**fitted.figures, **{f"cell_{name}": value for name, value in said.items()}}


def collect_metrics(
    dictionary: Any,
    dictionary_health: dict[str, Any],
    posterior_curve: dict[str, Any],
    retrieval_curve: dict[str, Any],
    unified_merge_metrics: dict[str, float],
) -> dict[str, Any]:
    """The stage's figures: the dictionary's version and health, best epochs, and what probabilities of cells are worth.

    The last are on validation: of the posterior, and of the united model's masses (`prismrec_…`).
    """
    curves = {**posterior_curve, **retrieval_curve}
    masses = {
        name.replace("cell_", "prismrec_validation_", 1): value
        for name, value in unified_merge_metrics.items()
        if name.startswith("cell_")
    }
    return {
        "dictionary": dictionary.version,
        **dictionary_health,
        **masses,
        **{name: value for name, value in curves.items() if name != "epochs"},
    }

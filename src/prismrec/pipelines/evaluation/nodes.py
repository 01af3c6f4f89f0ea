"""Nodes of `evaluation`; models, training and metrics are imported when a node runs.

What is counted (the heuristics, linear transitions) counts every event before a user's target; what is trained by
gradient steps has seen the training events alone; in a final fit these hold the validation events too.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories, SplitPoints
from prismrec.data.schema import CATEGORIES
from prismrec.errors import UserError
from prismrec.parameters.evaluation import EvaluationParameters
from prismrec.pipelines.choices import settled_epochs, settled_merge
from prismrec.pipelines.inputs import active_items, bar, event_table, training_data
from prismrec.pipelines.interest_dictionary.nodes import gemirec_ranker
from prismrec.pipelines.llm_recommender.nodes import merge_members, recommender_ranker

# What our rows are called in tables.
OURS = {
    "lightweight_encoder": "lightweight encoder",
    "llm_recommender": "LLM recommender",
    "linear_transitions": "linear transitions",
    "hymirec": "HyMiRec",
    "hymirec_without_transitions": "HyMiRec without transitions",
    "gemirec": "GemiRec",
    "prismrec": "prismrec",
    "plain_ensemble": "plain ensemble",
}

BASELINES = {
    "sasrec": "SASRec",
    "comirec": "ComiRec-SA",
    "sasrec_transitions": "SASRec + transitions",
    "comirec_transitions": "ComiRec-SA + transitions",
}


def train_sasrec(
    item_map: pl.DataFrame,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    checkpoints: Path | None = None,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The single-vector baseline and its training curve."""
    from prismrec.models.sasrec import SASRec, SASRecConfig
    from prismrec.training.baselines import SASRecTask

    settings = parameters.baselines
    sizes = SASRecConfig(
        len(item_map), settings.dim, settings.layers, settings.heads, settings.length, settings.dropout
    )
    return _train_baseline(SASRec, sizes, SASRecTask, item_map, histories, splits, parameters, checkpoints, choices)


def train_comirec(
    item_map: pl.DataFrame,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    checkpoints: Path | None = None,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The multi-interest baseline and its training curve."""
    from prismrec.models.comirec import ComiRec, ComiRecConfig
    from prismrec.training.baselines import ComiRecTask

    settings = parameters.baselines
    if settings.comirec_weight_decay is not None:
        training = settings.training.model_copy(update={"weight_decay": settings.comirec_weight_decay})
        settings = settings.model_copy(update={"training": training})
    if settings.comirec_length is not None:
        settings = settings.model_copy(update={"length": settings.comirec_length})
    parameters = parameters.model_copy(update={"baselines": settings})
    sizes = ComiRecConfig(len(item_map), settings.dim, settings.interests, settings.length, settings.dropout)
    return _train_baseline(ComiRec, sizes, ComiRecTask, item_map, histories, splits, parameters, checkpoints, choices)


def _train_baseline(
    model_class: Any,
    sizes: Any,
    task_class: Any,
    item_map: pl.DataFrame,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    checkpoints: Path | None,
    choices: dict[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """Both start from the same item vectors and share loop, budget, batches and negatives."""
    import torch

    from prismrec.models.transitions import spectral_vectors, transition_counts
    from prismrec.training.loop import fit

    settings, num_items = parameters.baselines, len(item_map)
    data = training_data(histories, splits, active_items(item_map), settings.training, parameters.seed, choices)
    torch.manual_seed(parameters.seed)
    model = model_class(sizes)
    ends_U = SplitPoints.from_frame(splits).train_end_U
    counts = transition_counts(histories.items, histories.offsets, ends_U, num_items)
    model.start_from(spectral_vectors(counts, settings.dim, parameters.seed))
    counts_N = _counted(histories, ends_U, num_items).popularity()
    task = task_class(model, data, counts_N, settings, parameters.seed)
    curve = fit(task, settings.training, parameters.seed, checkpoints, settled_epochs(choices, model_class.kind))
    return model, {"epochs": [record.as_dict() for record in curve]}


def merge_sasrec(
    sasrec: Any,
    training_counted: Any,
    item_vectors: dict[str, np.ndarray],
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Weights that merge SASRec with what is counted, as HyMiRec merges its interests with it."""
    from prismrec.models.baselines import SASRecRanker

    members = baseline_members(SASRecRanker(sasrec), training_counted)
    return _fit_row("sasrec_merge", members, item_vectors, histories, splits, parameters, choices)


def merge_comirec(
    comirec: Any,
    training_counted: Any,
    item_vectors: dict[str, np.ndarray],
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Weights that merge ComiRec-SA with what is counted."""
    from prismrec.models.baselines import ComiRecRanker

    members = baseline_members(ComiRecRanker(comirec), training_counted)
    return _fit_row("comirec_merge", members, item_vectors, histories, splits, parameters, choices)


def merge_interests(
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    recommender: Any,
    training_counted: Any,
    item_vectors: dict[str, np.ndarray],
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Weights that HyMiRec's members get where there are no linear transitions among them."""
    refined = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    members = interest_members(merge_members(refined, lightweight_encoder, training_counted))
    return _fit_row("interests_merge", members, item_vectors, histories, splits, parameters, choices)


def _fit_row(
    merge: str,
    members: dict[str, Any],
    item_vectors: dict[str, np.ndarray],
    histories: Histories,
    splits: pl.DataFrame,
    parameters: EvaluationParameters,
    choices: dict[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """The weights of a row's members, and the figures that chose them."""
    from prismrec.training.merging import fit_merge

    if (settled := settled_merge(choices, merge, members)) is not None:
        return settled, {f"weight_{name}": weight for name, weight in settled.weights().items()}
    training = parameters.baselines.training
    data = training_data(histories, splits, item_vectors["recommendable"], training, parameters.seed)
    fitted = fit_merge(members, data)
    return fitted.merge, fitted.figures


def baseline_members(ranker: Any, counted: Any) -> dict[str, Any]:
    """What `merge_sasrec` and `merge_comirec` merge, by name: a trained baseline and what is counted."""
    return {member.name: member for member in (ranker, *counted.rankers())}


def interest_members(members: dict[str, Any]) -> dict[str, Any]:
    """What `merge_interests` merges, by name: HyMiRec's members without its linear transitions."""
    from prismrec.models.linear_transitions import LINEAR_TRANSITIONS

    return {name: member for name, member in members.items() if name != LINEAR_TRANSITIONS}


def _counted(histories: Histories, ends_U: np.ndarray, num_items: int) -> Any:
    from prismrec.models.baselines import CountedEvents

    return CountedEvents(histories.items, histories.timestamps, histories.offsets, ends_U, num_items)


def evaluate_models(
    item_vectors: dict[str, np.ndarray],
    lightweight_encoder: Any,
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    recommender: Any,
    training_counted: Any,
    counted: Any,
    merge: Any,
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    posterior: Any,
    posterior_curve: dict[str, Any],
    retrieval: Any,
    unified_merge: Any,
    sasrec: Any,
    sasrec_merge: Any,
    comirec: Any,
    comirec_merge: Any,
    interests_merge: Any,
    text_embeddings: dict[str, np.ndarray],
    item_map: pl.DataFrame,
    user_map: pl.DataFrame,
    planted_truth: pl.DataFrame,
    histories: Histories,
    splits: pl.DataFrame,
    sequence_building_metrics: dict[str, Any],
    previous_bundle: Path | None,
    parameters: EvaluationParameters,
    choices: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every model and baseline on the validation and the test cases; `validation_…` figures are for choosing.

    Args:
        choices: what a run before settled, for a final fit: its validation figures are given again.

    Returns:
        Everything the report, the model card and packaging read: figures, intervals, paired differences, slices,
        health of the codes and of the posterior over them, and the promotion verdict.
    """
    import torch

    from prismrec.evaluation import comparison, promotion, protocols, slices
    from prismrec.metrics.codes import code_health

    points, table = SplitPoints.from_frame(splits), event_table(histories)
    recommendable_N = torch.from_numpy(item_vectors["recommendable"])

    def all_rows(starts_U: np.ndarray, what_counts: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Every row for targets that start there, and why some heuristics are left out."""
        ours = our_rankers(
            item_vectors, codebook, item_codes, lightweight_encoder, recommender, what_counts, merge,
            dictionary, item_cells, posterior, retrieval, unified_merge, interests_merge,
        )  # fmt: skip
        heuristics, left_out = heuristic_rows(histories, starts_U, recommendable_N, table, parameters.recent_days)
        baselines = baseline_rankers(sasrec, comirec, what_counts, sasrec_merge, comirec_merge)
        return {**heuristics, **trained_rows(ours, baselines, table)}, left_out

    incumbent = promotion.read_incumbent(previous_bundle, item_map.get_column("item_id").to_list())
    facts = comparison.Facts(
        recommendable_N,
        _counted(histories, points.train_end_U, len(item_map)).popularity(),
        text_embeddings["embeddings"],
        categories(item_map),
        item_cells["cells"],
    )
    if choices is None:
        validation_cases = some_cases(table, points.validation_start_U, points.validation_end_U, parameters.history)
        counted_cases = case_figures(validation_cases, "validation", sequence_building_metrics)
        validation = validation_accuracy(
            lambda: all_rows(points.validation_start_U, training_counted)[0],
            validation_cases, recommendable_N, parameters,
        )  # fmt: skip
    else:
        validation, counted_cases = choices["validation"], choices["validation_cases"]
    cases = some_cases(table, points.test_start_U, points.test_end_U, parameters.history)
    rows, left_out = all_rows(points.test_start_U, counted)
    if incumbent is not None and incumbent.ranker is not None:
        rows[promotion.INCUMBENT] = _row(incumbent.ranker, table, f"incumbent: {incumbent.model}", "incumbent")
    test = comparison.measure(rows, cases, facts, parameters.history, bar("ranking test"))
    settings = comparison.Settings(
        parameters.history,
        parameters.promotion.metric,
        parameters.bootstrap_draws,
        parameters.sampled_users,
        parameters.seed,
    )
    planted = slices.read_planted(planted_truth, item_map, user_map, histories)
    found_slices = slices.slices(cases, table, facts.counts_N, planted)
    known, (layers, codes, _) = item_vectors["recommendable"], codebook.centroids_LkD.shape
    report = {
        "data_set": parameters.title,
        "data_licence": parameters.data_licence,
        "seed": parameters.seed,
        "split_hash": sequence_building_metrics["split_hash"],
        "items": int(recommendable_N.sum()),
        "protocol": protocols.describe(sequence_building_metrics["protocol"], parameters.history),
        "final_fit": choices is not None,
        "cases": {
            "validation": counted_cases,
            "test": case_figures(cases, "test", sequence_building_metrics),
        },
        **comparison.figures(validation, test, facts, settings),
        "other_history": other_history(rows, table, points, recommendable_N, sequence_building_metrics, parameters),
        "slices": slices.slice_figures(test.ranks, found_slices, parameters.bootstrap_draws, parameters.seed),
        "health": {
            "codebook": code_health(item_codes["codes"][known], (codes,) * layers),
            "dictionary": {**code_health(item_cells["codes"][known], dictionary.sizes), **told(posterior_curve)},
        },
        "left_out": left_out,
        "settings": parameters.model_dump(mode="json"),
    }
    return {**report, "promotion": promotion.verdict(report, incumbent, parameters.promotion)}


def told(posterior_curve: dict[str, Any]) -> dict[str, float]:
    """What stage 6 found of the posterior's probabilities on validation; nothing where it validated nothing."""
    names = ("posterior_validation_log_likelihood", "posterior_validation_calibration_error")
    return {name: posterior_curve[name] for name in names if name in posterior_curve}


def some_cases(table: Any, starts_U: np.ndarray, ends_U: np.ndarray, history: Any) -> Any:
    """The cases of a part.

    Raises:
        UserError: the rule on the history leaves none.
    """
    from prismrec.evaluation.protocols import make_cases

    cases = make_cases(table, starts_U, ends_U, history)
    if not len(cases.users_C):
        raise UserError(
            f"Every target of {cases.users_left_out:,} users is in their history, so there is nothing to find.",
            "sequence_building.repeats, evaluation.history",
            "Set sequence_building.repeats to first, so that repeated events are no targets, or evaluation.history to "
            "kept, so that they may be found.",
        )
    return cases


def case_figures(cases: Any, part: str, sequence_building_metrics: dict[str, Any]) -> dict[str, int]:
    """Counts of a part's cases, with the users that the split left out for want of a history."""
    from prismrec.evaluation.protocols import count

    split: dict[str, int] = sequence_building_metrics["cases"][part]
    return {**count(cases), "users_without_history": split["users_without_history"]}


def validation_accuracy(
    make_rows: Callable[[], dict[str, Any]], cases: Any, recommendable_N: Any, parameters: EvaluationParameters
) -> dict[str, dict[str, float]]:
    """Accuracy of all rows on the validation cases; rows are made here, so that the heuristics are gone on return."""
    from prismrec.evaluation.comparison import accuracy

    found = accuracy(make_rows(), cases, recommendable_N, parameters.history, bar("ranking validation"))
    return {name: row.means() for name, row in found.items()}


def _row(ranker: Any, table: Any, label: str, family: str, time_free: bool = False) -> Any:
    from prismrec.evaluation.comparison import Row

    time = "aware" if ranker.reads_time and table.timed and not time_free else "free"
    return Row(ranker, table, label, family, time)


def hymirec_rankers(
    item_vectors: dict[str, np.ndarray],
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    recommender: Any,
    counted: Any,
    merge: Any,
) -> list[Any]:
    """HyMiRec's members by themselves, the LLM recommender first, then HyMiRec.

    What several of them rest on is computed once for all.
    """
    from prismrec.models.merge import MergedRanker
    from prismrec.models.remembering import remembering

    refined = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    refined = remembering(remembering(refined, "state"), "scores")
    members = {
        name: remembering(member, "scores", "interest_vectors")
        for name, member in merge_members(refined, lightweight_encoder, counted).items()
    }
    return [*members.values(), remembering(MergedRanker(members, merge, refined.recommendable_N), "scores")]


def our_rankers(
    item_vectors: dict[str, np.ndarray],
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    recommender: Any,
    counted: Any,
    merge: Any,
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    posterior: Any,
    retrieval: Any,
    unified_merge: Any,
    interests_merge: Any,
) -> list[Any]:
    """Our models ready to rank: HyMiRec's members, HyMiRec, GemiRec, the two united, and what they are compared with.

    These are HyMiRec without its linear transitions, and the plain ensemble of HyMiRec and GemiRec.

    What several of them rest on is computed once for all.
    """
    from prismrec.models.merge import Pool, equal_weights
    from prismrec.models.remembering import remembering
    from prismrec.models.unified import UnifiedRanker

    *members, hymirec = hymirec_rankers(
        item_vectors, codebook, item_codes, lightweight_encoder, recommender, counted, merge
    )
    gemirec = remembering(gemirec_ranker(members[0], dictionary, posterior, retrieval, item_cells), "scores")
    both = {ranker.name: ranker for ranker in (hymirec, gemirec)}
    ensemble = Pool("plain_ensemble", both, equal_weights(tuple(both)))
    shown = [member for member in members if member.name in OURS]  # recency alone is a heuristic's row
    without = Pool("hymirec_without_transitions", interest_members(hymirec.pool.members), interests_merge)
    return [*shown, hymirec, gemirec, UnifiedRanker(hymirec, gemirec, unified_merge), without, ensemble]


def baseline_rankers(sasrec: Any, comirec: Any, counted: Any, sasrec_merge: Any, comirec_merge: Any) -> list[Any]:
    """The trained baselines ready to rank; each also with what HyMiRec has beside its interests."""
    from prismrec.models.baselines import ComiRecRanker, SASRecRanker
    from prismrec.models.merge import Pool
    from prismrec.models.remembering import remembering

    ranked = []
    for baseline, merge in ((SASRecRanker(sasrec), sasrec_merge), (ComiRecRanker(comirec), comirec_merge)):
        alone = remembering(baseline, "scores")
        ranked += [alone, Pool(f"{alone.name}_transitions", baseline_members(alone, counted), merge)]
    return ranked


def trained_rows(ours: list[Any], baselines: list[Any], table: Any) -> dict[str, Any]:
    """The trained baselines, and our models: as they are served, and with the times of all events withheld.

    Without any times both are the same, and stand once.
    """
    untimed = table.without_times(np.ones(len(table), dtype=bool))
    labelled = [(ranker, BASELINES[ranker.name], "baseline") for ranker in baselines]
    labelled += [(ranker, OURS[ranker.name], "prismrec") for ranker in ours]
    rows = {}
    for ranker, label, family in labelled:
        rows[ranker.name] = _row(ranker, table, label, family)
        if ranker.reads_time and table.timed:
            rows[f"{ranker.name}_time_free"] = _row(ranker, untimed, label, family, time_free=True)
    return rows


def heuristic_rows(
    histories: Histories, starts_U: np.ndarray, recommendable_N: Any, table: Any, recent_days: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is counted, not trained: rows by name, and why some are left out."""
    from prismrec.models import baselines
    from prismrec.models.rankers import PopularityRanker

    counted = _counted(histories, starts_U, len(recommendable_N))
    rows = {
        "popularity": _row(PopularityRanker(counted.popularity(), recommendable_N), table, "popularity", "heuristic")
    }
    left_out: dict[str, str] = {}
    made: dict[str, tuple[str, Callable[[], Any]]] = {
        "recent_popularity": ("recent popularity", partial(baselines.RecentPopularityRanker, counted, recent_days)),
        "decayed_markov": ("decayed Markov", partial(baselines.DecayedMarkovRanker, counted)),
        "item_knn": ("item-kNN", partial(baselines.ItemKNNRanker, counted)),
        "ease": ("EASE", partial(baselines.EASERanker, counted)),
    }
    for name, (label, make) in made.items():
        try:
            rows[name] = _row(make(), table, label, "heuristic")
        except UserError as error:
            left_out[name] = error.what
    return rows, left_out


def other_history(
    rows: dict[str, Any],
    table: Any,
    points: SplitPoints,
    recommendable_N: Any,
    sequence_building_metrics: dict[str, Any],
    parameters: EvaluationParameters,
) -> dict[str, Any] | None:
    """Test accuracy under the other rule on histories; None under leave-one-out, whose figures are those of one rule.

    Where the other rule leaves no case, the counts say so and no row has figures.
    """
    from prismrec.evaluation import comparison, protocols

    if sequence_building_metrics["protocol"]["name"] == "leave_one_out":
        return None
    other: protocols.History = "kept" if parameters.history == "filtered" else "filtered"
    cases = protocols.make_cases(table, points.test_start_U, points.test_end_U, other)
    measured: dict[str, comparison.Measured] = {}
    if len(cases.users_C):
        measured = comparison.accuracy(rows, cases, recommendable_N, other, bar(f"ranking test, history {other}"))
    return {
        "rule": other,
        "filter": protocols.FILTER_RULES[other],
        "cases": case_figures(cases, "test", sequence_building_metrics),
        "models": {name: row.means() for name, row in measured.items()},
        "intervals": comparison.intervals(measured, parameters.bootstrap_draws, parameters.seed),
    }


def categories(item_map: pl.DataFrame) -> Any:
    """[N, M] sparse: an entry for every category that an item has, categories in alphabetical order."""
    from scipy.sparse import csr_matrix

    pairs = item_map.select(CATEGORIES).with_row_index("item").explode(CATEGORIES).drop_nulls()
    names, columns = np.unique(pairs.get_column(CATEGORIES).to_numpy(), return_inverse=True)
    shape = (len(item_map), max(1, len(names)))
    return csr_matrix((np.ones(len(pairs), dtype=bool), (pairs.get_column("item").to_numpy(), columns)), shape=shape)


def render_report(
    evaluation_metrics: dict[str, Any], **curves: dict[str, Any]
) -> tuple[str, str, bytes, bytes, bytes, bytes]:
    """The figures as Markdown tables, as one offline page, and as plots."""
    from prismrec.evaluation import plots
    from prismrec.evaluation.report import as_table, report_page

    return (
        as_table(evaluation_metrics),
        report_page(evaluation_metrics, curves),
        plots.accuracy_plot(evaluation_metrics),
        plots.slices_plot(evaluation_metrics),
        plots.interest_plot(evaluation_metrics),
        plots.curves_plot(curves),
    )


def write_model_card(
    evaluation_metrics: dict[str, Any],
    data_validation_metrics: dict[str, Any],
    sequence_building_metrics: dict[str, Any],
    text_encoding: dict[str, Any],
    codebook: Any,
    recommender: Any,
    merge: Any,
    **models: Any,
) -> str:
    """The models of this run in words and figures."""
    from dataclasses import asdict

    from prismrec.evaluation.model_card import model_card

    layers, codes, dim = codebook.centroids_LkD.shape
    decoder = recommender.backbone.config
    configs = {
        "text_encoder": {
            "name": text_encoding["text_encoder"],
            "licence": text_encoding["text_encoder_licence"],
            "weights_sha256": text_encoding["text_encoder_weights_sha256"],
        },
        "codebook": {"layers": layers, "codes": codes, "dim": dim},
        "recommender": {
            **asdict(recommender.config),
            "hidden": decoder.hidden_size,
            "layers": decoder.num_hidden_layers,
            "heads": decoder.num_attention_heads,
        },
        "merge": merge.weights(),
        **{name: asdict(model.config) for name, model in models.items()},
    }
    return model_card(evaluation_metrics, data_validation_metrics, sequence_building_metrics, configs)

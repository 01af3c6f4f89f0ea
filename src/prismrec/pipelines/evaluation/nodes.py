"""Nodes of `evaluation`; rankers and metrics are imported when a node runs."""

from typing import Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories, SplitPoints
from prismrec.parameters.evaluation import EvaluationParameters
from prismrec.pipelines.inputs import bar, event_table
from prismrec.pipelines.interest_dictionary.nodes import gemirec_ranker
from prismrec.pipelines.llm_recommender.nodes import hymirec_ranker

PROTOCOL = "leave-one-out, full ranking over active items, history excluded, ties in time by source order, time-free"


def evaluate_models(
    item_vectors: dict[str, np.ndarray],
    lightweight_encoder: Any,
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    recommender: Any,
    dictionary: Any,
    item_cells: dict[str, np.ndarray],
    posterior: Any,
    retrieval: Any,
    histories: pl.DataFrame,
    splits: pl.DataFrame,
    sequence_building_metrics: dict[str, Any],
    parameters: EvaluationParameters,
) -> dict[str, Any]:
    """Rank the validation and the test events with every model; `validation_…` figures are for choosing."""
    import torch

    from prismrec.evaluation.leave_one_out import evaluate, leave_one_out_cases
    from prismrec.models.baselines import DecayedMarkovRanker
    from prismrec.models.rankers import LightweightEncoderRanker, PopularityRanker

    events, points = Histories.from_frame(histories), SplitPoints.from_frame(splits)
    num_items, table = len(item_vectors["vectors"]), event_table(histories)
    recommendable_N = torch.from_numpy(item_vectors["recommendable"])
    items_ND = torch.from_numpy(item_vectors["vectors"])
    hymirec = hymirec_ranker(recommender, codebook, item_codes, item_vectors)
    gemirec = gemirec_ranker(hymirec, dictionary, posterior, retrieval, item_cells)
    trained = [LightweightEncoderRanker(lightweight_encoder, items_ND, recommendable_N), hymirec, gemirec]
    results, cases = {}, {}
    for split, targets_U in (("validation", points.validation_U), ("test", points.test_U)):
        # Untrained heuristics count everything before the target; trained models saw the training part only.
        before_E = np.arange(len(events.items)) - np.repeat(events.offsets[:-1], events.lengths)
        counted = events.items[before_E < np.repeat(targets_U, events.lengths)]
        untrained = [
            PopularityRanker(np.bincount(counted, minlength=num_items), recommendable_N),
            DecayedMarkovRanker(events.items, events.offsets, targets_U, num_items),
        ]
        rankers = {ranker.name: ranker for ranker in (*untrained, *trained)}
        cases[split] = leave_one_out_cases(table, targets_U)
        results[split] = evaluate(rankers, table, cases[split], recommendable_N, bar(f"ranking {split}"))
    models = {
        name: {
            **evaluation.metrics,
            **{f"validation_{key}": value for key, value in results["validation"][name].metrics.items()},
        }
        for name, evaluation in results["test"].items()
    }
    return {
        "protocol": PROTOCOL,
        "repeats": sequence_building_metrics["repeats"],
        "split_hash": sequence_building_metrics["split_hash"],
        "cases": len(cases["test"].users),
        "cases_left_out_target_in_history": cases["test"].repeated,
        "items": int(recommendable_N.sum()),
        "seed": parameters.seed,
        "models": models,
    }


def render_report(evaluation_metrics: dict[str, Any], parameters: EvaluationParameters) -> tuple[str, bytes]:
    """The figures as a Markdown table and as a plot."""
    from prismrec.evaluation.leave_one_out import as_table
    from prismrec.evaluation.plots import accuracy_plot

    return as_table(evaluation_metrics), accuracy_plot(evaluation_metrics, parameters.title)

"""Nodes of `llm_recommender`; models and training are imported when a node runs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories, SplitPoints
from prismrec.errors import ParameterError
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.pipelines.choices import settled_epochs, settled_merge
from prismrec.pipelines.inputs import training_data, training_summary


def recommender_ranker(recommender: Any, codebook: Any, item_codes: dict[str, np.ndarray], vectors: Any) -> Any:
    """The recommender with the tables it reads items from, ready to rank."""
    import torch

    from prismrec.models.rankers import RecommenderRanker, recent_and_long
    from prismrec.quantization.codebook import Codes

    items_ND = torch.from_numpy(vectors["vectors"])
    decoded = codebook.decode(Codes.from_arrays(item_codes))
    recent_ND, long_ND = recent_and_long(items_ND, torch.from_numpy(decoded), recommender.config)
    return RecommenderRanker(recommender, items_ND, recent_ND, long_ND, torch.from_numpy(vectors["recommendable"]))


def merge_members(refined: Any, lightweight_encoder: Any, counted: Any) -> dict[str, Any]:
    """The members of HyMiRec's merge by name, in the order of its weights.

    Args:
        refined: the recommender's ranker, whose item vectors the lightweight encoder reads too.
    """
    from prismrec.models.rankers import LightweightEncoderRanker

    coarse = LightweightEncoderRanker(lightweight_encoder, refined.vectors_ND, refined.recommendable_N)
    return {member.name: member for member in (refined, coarse, *counted.rankers())}


def fit_merge(
    item_vectors: dict[str, np.ndarray],
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    recommender: Any,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: LLMRecommenderParameters,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Count transitions and recency, and fit the weights of all members of the merge.

    Args:
        choices: what a run before settled, for a final fit: then its weights stay.

    Returns:
        What is counted of the training events, on which the weights are fitted; of all events before the test targets,
        which is served; the weights; the stage's figures for them.
    """
    from prismrec.training.merging import fit_merge as fit

    points, num_items = SplitPoints.from_frame(splits), len(item_vectors["vectors"])
    of_training = counted_before(points.train_end_U, histories, num_items, parameters)
    refined = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    members = merge_members(refined, lightweight_encoder, of_training)
    merge = settled_merge(choices, "merge", members)
    figures = {} if merge is None else {f"weight_{name}": weight for name, weight in merge.weights().items()}
    if merge is None:
        data = training_data(histories, splits, item_vectors["recommendable"], parameters.training, parameters.seed)
        merge, figures = fit(members, data)
    return of_training, counted_before(points.test_start_U, histories, num_items, parameters), merge, figures


def counted_before(
    ends_U: np.ndarray, histories: Histories, num_items: int, parameters: LLMRecommenderParameters
) -> Any:
    """Linear transitions and recency, counted of each user's first `ends_U` events."""
    from prismrec.models.counted import Counted
    from prismrec.models.recency import Recency
    from prismrec.training.linear_transitions import Positions, fit_linear_transitions

    settings = parameters.transitions
    window = parameters.recent_days if histories.timed else 0  # recency counts days
    positions = Positions(histories.items, histories.offsets, ends_U, num_items, settings.max_items)
    transitions = fit_linear_transitions(positions, settings)
    if not window:
        return Counted.of(transitions, None)
    before_E = np.arange(len(histories.items)) < np.repeat(histories.offsets[:-1] + ends_U, histories.lengths)
    known = histories.items[before_E], histories.timestamps[before_E]
    return Counted.of(transitions, Recency.count(*known, num_items, window))


def train_recommender(
    item_vectors: dict[str, np.ndarray],
    codebook: Any,
    item_codes: dict[str, np.ndarray],
    lightweight_encoder: Any,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: LLMRecommenderParameters,
    checkpoints: Path | None = None,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Fine-tune the backbone with DMIL; return recommender (with its own encoder), curve and metrics.

    Args:
        choices: what a run before settled, for a final fit.

    Raises:
        ParameterError: the recent window does not fit the backbone.
    """
    import torch

    from prismrec.models import backbone
    from prismrec.models.recommender import Recommender, RecommenderConfig
    from prismrec.training.loop import fit
    from prismrec.training.recommender import RecommenderTask

    torch.manual_seed(parameters.seed)
    longest = parameters.recent_length + parameters.num_interests + lightweight_encoder.config.num_interests
    decoder = backbone.from_pretrained(
        parameters.backbone,
        backbone.scratch_config(
            parameters.hidden,
            parameters.layers,
            parameters.heads,
            parameters.dropout,
            longest,
            parameters.kv_heads,
            parameters.head_dim,
            parameters.intermediate,
        ),
    )
    if longest > decoder.config.max_position_embeddings:
        raise ParameterError(
            f"The backbone {parameters.backbone!r} reads {decoder.config.max_position_embeddings} positions, "
            f"the recommender would feed it {longest}.",
            "llm_recommender.recent_length",
            f"Set it to at most {parameters.recent_length - longest + decoder.config.max_position_embeddings}.",
        )
    if parameters.tuning == "lora":
        decoder = backbone.add_lora(decoder, parameters.lora_rank)
    config = RecommenderConfig(
        item_vectors["vectors"].shape[1],
        parameters.num_interests,
        parameters.recent_length,
        parameters.long_length,
        parameters.recent_from_codebook,
        parameters.dropout,
        parameters.backbone,
        parameters.long_from,
        len(item_vectors["vectors"]) if parameters.item_offset_rate else 0,
        parameters.teaches_now,
    )
    recommender = Recommender(config, lightweight_encoder, decoder)
    if parameters.item_offset_rate:
        recommender.trained_N.copy_(torch.from_numpy(item_vectors["trained"]))
        offset: Any = recommender.offset_ND
        offset.rate_share = parameters.item_offset_rate  # the loop reads it
    recommender.encoder.requires_grad_(parameters.train_encoder)
    recommender.encoder.log_scale.requires_grad_(False)  # only the encoder's own ranking uses it
    trained = sum(p.numel() for p in recommender.parameters() if p.requires_grad)
    ranker = recommender_ranker(recommender, codebook, item_codes, item_vectors)
    data = training_data(
        histories, splits, item_vectors["recommendable"], parameters.training, parameters.seed, choices
    )
    task = RecommenderTask(ranker, data, parameters)
    with backbone.economies(decoder, parameters.gradient_checkpointing, parameters.compile):
        epochs = settled_epochs(choices, "llm_recommender")
        curve = fit(task, parameters.training, parameters.seed, checkpoints, epochs)
    recommender.backbone = backbone.merge_lora(recommender.backbone)
    metrics = {
        "backbone": parameters.backbone,
        "tuning": parameters.tuning,
        "parameters": sum(p.numel() for p in recommender.parameters()),
        "parameters_trained": trained,
        **training_summary("", curve),
    }
    return recommender, {"epochs": [record.as_dict() for record in curve]}, metrics

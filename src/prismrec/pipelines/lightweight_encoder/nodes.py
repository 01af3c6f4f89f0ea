"""Nodes of `lightweight_encoder`; models and training are imported when a node runs."""

from typing import Any

import numpy as np
import polars as pl

from prismrec.data.histories import Histories, SplitPoints, trained_items
from prismrec.data.schema import CATEGORIES, TEXT, TITLE
from prismrec.parameters.lightweight_encoder import LightweightEncoderParameters
from prismrec.pipelines.inputs import active_items, bar, training_data, training_summary


def embed_texts(item_map: pl.DataFrame, parameters: LightweightEncoderParameters) -> dict[str, np.ndarray]:
    """Embed title, categories and text of every known item: {"embeddings": [N, E] float32}."""
    from prismrec.models.text_encoder import TextEncoder

    texts = item_map.select(
        pl.concat_str(
            [pl.col(TITLE), pl.col(CATEGORIES).list.join(", "), pl.col(TEXT)],
            separator=". ",
            ignore_nulls=True,
        )
    ).to_series()
    encoder = TextEncoder(parameters.text_encoder, parameters.max_tokens)
    return {"embeddings": encoder.encode(texts.to_list(), bar("item texts"))}


def train_encoder(
    text_embeddings: dict[str, np.ndarray],
    item_map: pl.DataFrame,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: LightweightEncoderParameters,
) -> tuple[Any, dict[str, np.ndarray], Any, dict[str, Any], dict[str, Any]]:
    """Train both models; return tower, item vectors (frozen from here on), encoder, curve and metrics."""
    import torch

    from prismrec.models.item_tower import ItemTower, ItemTowerConfig
    from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig
    from prismrec.models.transitions import spectral_vectors, transition_counts
    from prismrec.training.lightweight_encoder import LightweightEncoderTask
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    text_NE = torch.from_numpy(text_embeddings["embeddings"])
    recommendable_N = active_items(item_map)
    ends_U = SplitPoints.from_frame(splits).train_end_U
    trained_N = trained_items(histories, ends_U, len(item_map))
    counts = transition_counts(histories.items, histories.offsets, ends_U, len(item_map))
    tower = ItemTower(ItemTowerConfig(len(item_map), text_NE.shape[1], parameters.dim))
    tower.start_from(text_NE, spectral_vectors(counts, parameters.dim, parameters.seed), trained_N)
    encoder = LightweightEncoder(
        LightweightEncoderConfig(
            parameters.dim,
            parameters.num_interests,
            parameters.hidden,
            parameters.kernel,
            parameters.dropout,
            parameters.long_length,
        )
    )
    data = training_data(histories, splits, recommendable_N, parameters.training, parameters.seed)
    task = LightweightEncoderTask(tower, encoder, text_NE, trained_N, data, parameters)
    curve = fit(task, parameters.training, parameters.seed)
    with torch.inference_mode():
        vectors = {
            "vectors": task.item_vectors().numpy(),
            "text_only": tower(text_NE, torch.zeros(len(item_map))).numpy(),
            "trained": trained_N,
            "recommendable": recommendable_N,
        }
    metrics = {
        "items": len(item_map),
        "items_trained": int(trained_N.sum()),
        "items_recommendable": int(recommendable_N.sum()),
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "tower_parameters": sum(p.numel() for p in tower.parameters()),
        **training_summary("", curve),
    }
    return tower, vectors, encoder, {"epochs": [record.as_dict() for record in curve]}, metrics

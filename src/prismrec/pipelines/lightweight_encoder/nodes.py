"""Nodes of `lightweight_encoder`; models and training are imported when a node runs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.artifacts.model_folder import dump_json
from prismrec.data.histories import Histories, SplitPoints, trained_items
from prismrec.data.schema import CATEGORIES, TEXT, TITLE
from prismrec.parameters.lightweight_encoder import LightweightEncoderParameters
from prismrec.pipelines.choices import settled_epochs
from prismrec.pipelines.inputs import active_items, bar, device_for, training_data, training_summary


def item_texts(item_map: pl.DataFrame) -> list[str]:
    """Title, categories and text of every known item, those that say something: as `NewItem.text` joins them."""
    parts = [pl.col(TITLE), pl.col(CATEGORIES).list.join(", "), pl.col(TEXT)]
    said = [pl.when(part != "").then(part) for part in parts]
    return item_map.select(pl.concat_str(said, separator=". ", ignore_nulls=True)).to_series().to_list()


def embed_texts(
    item_map: pl.DataFrame,
    previous_text_embeddings: dict[str, np.ndarray] | None,
    parameters: LightweightEncoderParameters,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Embed the text of every known item, new and changed ones only.

    Args:
        previous_text_embeddings: what this returned in the workspace's last run.

    Returns:
        {"embeddings": [N, E] float32, "keys": [N, 32] uint8}, and facts about the encoder and its work.
    """
    from prismrec.models.text_encoder import TextEncoder, embed

    encoder = TextEncoder(parameters.text_encoder, parameters.max_tokens)
    encoder.model.to(device_for(parameters.training.device))
    found = embed(encoder, item_texts(item_map), previous_text_embeddings, bar("item texts"))
    facts = {
        "text_encoder": parameters.text_encoder,
        "max_tokens": parameters.max_tokens,
        "text_encoder_licence": encoder.licence,
        "text_encoder_weights_sha256": encoder.weights_sha256(),
        "texts_encoded": found.encoded,
        "texts_taken_over": len(item_map) - found.encoded,
    }
    return {"embeddings": found.embeddings_NE, "keys": found.keys_N32}, facts


def train_encoder(
    text_embeddings: dict[str, np.ndarray],
    text_encoding: dict[str, Any],
    item_map: pl.DataFrame,
    histories: Histories,
    splits: pl.DataFrame,
    parameters: LightweightEncoderParameters,
    checkpoints: Path | None = None,
    choices: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, np.ndarray], Any, dict[str, np.ndarray], Any, dict[str, Any], dict[str, Any]]:
    """Train the models together; the text encoder learns too unless it is frozen.

    Args:
        text_embeddings, text_encoding: what `embed_texts` returned.
        choices: what a run before settled, for a final fit.

    Returns:
        Tower, item vectors (frozen from here on), encoder, text embeddings and text model after training, curve and
        metrics.
    """
    import torch

    from prismrec.models.item_tower import ItemTower, ItemTowerConfig
    from prismrec.models.transitions import spectral_vectors, transition_counts
    from prismrec.training.lightweight_encoder import LightweightEncoderTask
    from prismrec.training.loop import fit

    torch.manual_seed(parameters.seed)
    text_NE = torch.from_numpy(text_embeddings["embeddings"])
    recommendable_N = active_items(item_map)
    data = training_data(histories, splits, recommendable_N, parameters.training, parameters.seed, choices)
    ends_U = SplitPoints.from_frame(splits).train_end_U
    trained_N = trained_items(histories, ends_U, len(item_map))
    tower = ItemTower(ItemTowerConfig(len(item_map), text_NE.shape[1], parameters.dim))
    if parameters.spectral_start:
        counts = transition_counts(histories.items, histories.offsets, ends_U, len(item_map))
        tower.start_from(text_NE, spectral_vectors(counts, parameters.dim, parameters.seed), trained_N)
    else:
        tower.start_from_noise(text_NE, trained_N)
    encoder = _new_encoder(parameters)
    texts = _texts_in_training(item_map, text_NE, parameters)
    task = LightweightEncoderTask(tower, encoder, text_NE if texts is None else texts, trained_N, data, parameters)
    epochs = settled_epochs(choices, "lightweight_encoder")
    curve = fit(task, parameters.training, parameters.seed, checkpoints, epochs)
    task.refresh()  # a training of settled epochs ranks nobody, and leaves the texts as the last epoch found them
    task.lift_untrained(parameters.untrained_lift)
    with torch.inference_mode():
        vectors = {
            "vectors": task.item_vectors().numpy(),
            "text_only": tower(task.text_embeddings(), torch.zeros(len(item_map), dtype=torch.bool)).numpy(),
            "trained": trained_N,
            "recommendable": recommendable_N,
        }
    metrics = {
        "items": len(item_map),
        "items_trained": int(trained_N.sum()),
        "items_recommendable": int(recommendable_N.sum()),
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "tower_parameters": sum(p.numel() for p in tower.parameters()),
        **text_encoding,
        "text_training": parameters.text_training,
        **training_summary("", curve),
    }
    text_model = {"text_encoder.json": dump_json(text_encoding)} if texts is None else texts.finish()
    learned = {"embeddings": task.text_embeddings().numpy()}
    return tower, vectors, encoder, learned, text_model, {"epochs": [r.as_dict() for r in curve]}, metrics


def _new_encoder(parameters: LightweightEncoderParameters) -> Any:
    from prismrec.models.lightweight_encoder import LightweightEncoder, LightweightEncoderConfig

    return LightweightEncoder(
        LightweightEncoderConfig(
            parameters.dim,
            parameters.num_interests,
            parameters.hidden,
            parameters.kernel,
            parameters.dropout,
            parameters.long_length,
            parameters.train_length if parameters.pooling == "comirec" else 0,
        )
    )


def _texts_in_training(item_map: pl.DataFrame, text_NE: Any, parameters: LightweightEncoderParameters) -> Any | None:
    """The text encoder as a part of what is trained; None where it is frozen."""
    if parameters.text_training == "frozen":
        return None
    from prismrec.models.text_encoder import TextEncoder
    from prismrec.training.item_texts import ItemTexts

    return ItemTexts(
        TextEncoder(parameters.text_encoder, parameters.max_tokens),
        item_texts(item_map),
        text_NE,
        parameters.text_items_per_step,
        parameters.text_lora_rank if parameters.text_training == "lora" else None,
        parameters.text_learning_rate / parameters.training.learning_rate,
    )

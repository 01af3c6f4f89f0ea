"""Nodes of stage 8: put the models together, try the bundle out, store it and build a Bento from it.

Notable: the default model is chosen by a validation metric. BentoML runs in a process of its own (see
`prismrec.pipelines.packaging.bento`), because building a Bento changes the working directory, the import
path and global settings of the process it runs in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.artifacts.bundle import POPULARITY, BundleParts, CatalogueItem, read_bundle
from prismrec.errors import UserError
from prismrec.parameters.packaging import PackagingParameters

# What goes into the bundle under its own name; the catalog's entries are called the same.
MODEL_PARTS: tuple[str, ...] = (
    "item_vectors",
    "item_tower",
    "lightweight_encoder",
    "codebook",
    "item_codes",
    "recommender",
    "dictionary",
    "item_cells",
    "posterior",
    "retrieval",
)
# Names of interests, from the stage that has them.
LABELS: tuple[str, ...] = ("interest_labels",)
# What each model needs to answer. Popularity is counted here, from all histories.
NEEDED_PARTS: dict[str, frozenset[str]] = {
    "popularity": frozenset({"item_vectors"}),
    "lightweight_encoder": frozenset({"item_vectors", "lightweight_encoder"}),
    "hymirec": frozenset({"item_vectors", "codebook", "item_codes", "recommender"}),
    "gemirec": frozenset(
        {"item_vectors", "codebook", "item_codes", "recommender"}
        | {"dictionary", "item_cells", "posterior", "retrieval"}
    ),
}


def assemble_bundle(
    item_map: pl.DataFrame,
    histories: pl.DataFrame,
    evaluation_metrics: dict[str, Any],
    parameters: PackagingParameters,
    interest_labels: Mapping[str, str] | None = None,
    **parts: Any,
) -> BundleParts:
    """Put catalogue, popularity and all models together.

    Args:
        item_map: every known item, in the order of the item indices.
        histories: all events, for the popularity counts.
        evaluation_metrics: to choose the default model by.
        parameters: how to choose it.
        interest_labels: names of interests by their id.
        parts: `MODEL_PARTS` as the catalog loads them.

    Raises:
        UserError: no model can be chosen; the text names what the evaluation has.
    """
    columns = ["item_index", "item_id", "title", "categories", "active"]
    items = [
        CatalogueItem(index, item, title or item, tuple(categories or ()), active)
        for index, item, title, categories, active in item_map.select(columns).iter_rows()
    ]
    return BundleParts(
        items=items,
        parts={**parts, POPULARITY: {"counts": _popularity(histories, len(items))}},
        default_model=choose_model(evaluation_metrics, parameters, set(parts)),
        labels=interest_labels or {},
        dictionary_version=parts["dictionary"].version if "dictionary" in parts else None,
        created_from={"split_hash": str(evaluation_metrics["split_hash"])},
    )


def choose_model(evaluation_metrics: dict[str, Any], parameters: PackagingParameters, parts: set[str]) -> str:
    """Return the model that answers by default: the named one, or the best evaluated one that can be served.

    Raises:
        UserError: the named model's parts are not there, or no model has the metric.
    """
    servable = [name for name, needed in NEEDED_PARTS.items() if needed <= parts]
    if parameters.default_model != "auto":
        if parameters.default_model not in servable:
            raise UserError(
                f"Parts of the model {parameters.default_model!r} are missing.",
                "packaging.default_model",
                f"Choose one of: {', '.join(['auto', *servable])}",
            )
        return parameters.default_model
    metric, models = parameters.selection_metric, evaluation_metrics["models"]
    scores = {name: models[name][metric] for name in servable if metric in models.get(name, {})}
    if not scores:
        known = sorted({key for metrics in models.values() for key in metrics})
        raise UserError(
            f"No model that can be served was evaluated by {metric!r}.",
            "packaging.selection_metric",
            f"Choose one of: {', '.join(known)}; or name a model as packaging.default_model.",
        )
    return max(sorted(scores), key=lambda name: scores[name])


def measure_bundle(bundle: Path) -> dict[str, Any]:
    """Answer once with every model, and return the bundle's figures and versions.

    Raises:
        UserError: the bundle cannot be served.
    """
    from prismrec.serving.engine import Engine

    engine = Engine.load(bundle)
    engine.warm_up()
    manifest = read_bundle(bundle).manifest
    return {
        "bundle": engine.description.bundle,
        "default_model": manifest.default_model,
        "models": engine.description.models,
        "items": engine.description.items,
        "active_items": engine.description.active_items,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files.values()),
        **{f"{name}_version": version for name, version in manifest.versions.model_dump().items()},
    }


def store_model_and_build_bento(bundle: Path) -> dict[str, str]:
    """Store the bundle as a BentoML model and build a Bento that serves it.

    Both go to BENTOML_HOME, `~/bentoml` by default. The same content keeps its tags and is not stored twice.

    Returns:
        The tags: `model` and `bento`.

    Raises:
        UserError: the project's `bentofile.yaml` is not there, or BentoML refuses to build.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from prismrec.pipelines.packaging.bento import project_folder, store_and_build

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(store_and_build, bundle.resolve(), project_folder()).result()


def _popularity(histories: pl.DataFrame, num_items: int) -> np.ndarray:
    events = histories.get_column("item_indices").explode(empty_as_null=False).to_numpy()
    return np.bincount(events, minlength=num_items).astype(np.int64)

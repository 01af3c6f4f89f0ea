"""Nodes of stage 8: put the models together, try the bundle out, store it and build a Bento from it.

Notable: a run that evaluation did not promote leaves the incumbent in place: its bundle is written again, byte by
byte, so that the latest bundle, its Bento and its tags stay what they were. Only the model that the verdict is on is
called promoted. BentoML runs in a process of its own (see `prismrec.pipelines.packaging.bento`), because building a
Bento changes the working directory, the import path and global settings of the process it runs in.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prismrec.artifacts.bundle import POPULARITY, BundleParts, CatalogueItem, KeptBundle, read_bundle
from prismrec.data.histories import Histories
from prismrec.errors import UserError
from prismrec.parameters.packaging import PackagingParameters

log = logging.getLogger(__name__)

# What goes into the bundle under its own name; the catalog's entries are called the same.
MODEL_PARTS: tuple[str, ...] = (
    "item_vectors",
    "item_tower",
    "text_embeddings",
    "lightweight_encoder",
    "codebook",
    "item_codes",
    "recommender",
    "counted",
    "merge",
    "dictionary",
    "item_cells",
    "posterior",
    "retrieval",
    "unified_merge",
)
# Names of interests, from the stage that has them.
LABELS: tuple[str, ...] = ("interest_labels",)
# Said in the manifest.
PROMOTED, NOT_PROMOTED = "promoted", "not promoted, packaged by packaging.package: this_run"
RECOMMENDER = frozenset({"item_vectors", "codebook", "item_codes", "recommender"})
HYMIREC = RECOMMENDER | {"lightweight_encoder", "counted", "merge"}
GEMIREC = RECOMMENDER | {"dictionary", "item_cells", "posterior", "retrieval"}
# What each model needs to answer. Popularity is counted here, from all histories.
NEEDED_PARTS: dict[str, frozenset[str]] = {
    "popularity": frozenset({"item_vectors"}),
    "lightweight_encoder": frozenset({"item_vectors", "lightweight_encoder"}),
    "llm_recommender": RECOMMENDER,
    "hymirec": HYMIREC,
    "gemirec": GEMIREC,
    "prismrec": HYMIREC | GEMIREC | {"unified_merge"},
}


def assemble_bundle(
    item_map: pl.DataFrame,
    histories: Histories,
    evaluation_metrics: dict[str, Any],
    model_card: str,
    previous_bundle: Path | None,
    parameters: PackagingParameters,
    interest_labels: Mapping[str, str] | None = None,
    text_model: Path | None = None,
    text_encoding: Mapping[str, Any] | None = None,
    sequence_building_metrics: Mapping[str, Any] | None = None,
    **parts: Any,
) -> BundleParts | KeptBundle:
    """Put catalogue, popularity and all models together, or keep the incumbent where this run is not promoted.

    Args:
        item_map: every known item, in the order of the item indices.
        histories: all events, for the popularity counts, and for whether times are known.
        evaluation_metrics: with the promotion verdict.
        model_card: goes into the bundle as its README.
        previous_bundle: the incumbent; None where nothing has been packaged yet.
        parameters: whether to follow the verdict.
        interest_labels: names of interests by their id, with their dictionary's version.
        text_model: the text encoder, if it was trained.
        text_encoding: which text encoder it was.
        sequence_building_metrics: which kinds of events count.
        parts: `MODEL_PARTS` as the catalog loads them.

    Raises:
        UserError: the run is not promoted and there is no incumbent to keep, or the default model's parts are missing,
            or the verdict is on another model.
    """
    verdict = evaluation_metrics["promotion"]
    if not _is_packaged(verdict, parameters):
        return _keep(previous_bundle, verdict)
    default_model = choose_model(verdict, parameters, set(parts))
    columns = ["item_index", "item_id", "title", "categories", "active"]
    items = [
        CatalogueItem(index, item, title or item, tuple(categories or ()), active)
        for index, item, title, categories, active in item_map.select(columns).iter_rows()
    ]
    if text_model is not None and text_encoding is not None:
        parts |= _text_parts(text_model, text_encoding, parts.pop("text_embeddings"))
    parts |= _index_parts(parts["item_vectors"], parts.get("recommender"))
    return BundleParts(
        items=items,
        parts={**parts, POPULARITY: {"counts": _popularity(histories, len(items))}},
        default_model=default_model,
        labels=interest_labels or {},
        dictionary_version=parts["dictionary"].version if "dictionary" in parts else None,
        created_from={
            "split_hash": str(evaluation_metrics["split_hash"]),
            "promotion": PROMOTED if _is_promoted(default_model, verdict) else NOT_PROMOTED,
        },
        card=model_card,
        events=(sequence_building_metrics or {}).get("counted_events", ()),
        timed=histories.timed,
    )


def _index_parts(item_vectors: Mapping[str, Any], recommender: Any) -> dict[str, Any]:
    """The indexes of a large catalogue, one as the recommender ranks it if that differs; a small one needs none."""
    import torch

    from prismrec.retrieval.index import PART, RECOMMENDER_PART, ItemIndex

    vectors_ND, recommendable_N = (torch.as_tensor(item_vectors[name]) for name in ("vectors", "recommendable"))
    tables = {PART: vectors_ND}
    if recommender is not None and recommender.config.num_items:
        with torch.no_grad():
            tables[RECOMMENDER_PART] = recommender.items(vectors_ND)
    indexes = {name: ItemIndex.build(table_ND, recommendable_N) for name, table_ND in tables.items()}
    return {name: index for name, index in indexes.items() if index.cells is not None}


def _text_parts(text_model: Path, text_encoding: Mapping[str, Any], embeddings: Mapping[str, Any]) -> dict[str, Any]:
    """What the service needs to read texts: the encoder, and the catalogue's embeddings in half precision."""
    from prismrec.models.new_items import TEXT_EMBEDDINGS, TEXT_ENCODER, PackedTextEncoder

    trained = (text_model / "config.json").is_file()
    # Not how many texts a run took over from an earlier one: the same content keeps its version.
    facts = {name: fact for name, fact in text_encoding.items() if name == "max_tokens" or name.startswith("text_enc")}
    encoder = PackedTextEncoder(str(text_model) if trained else text_encoding["text_encoder"], facts)
    halved = {name: np.asarray(array, dtype=np.float16) for name, array in embeddings.items()}
    return {TEXT_ENCODER: encoder, TEXT_EMBEDDINGS: halved}


def _is_packaged(verdict: Mapping[str, Any], parameters: PackagingParameters) -> bool:
    return bool(verdict["promoted"]) or parameters.package == "this_run"


def _is_promoted(default_model: str, verdict: Mapping[str, Any]) -> bool:
    """Whether the verdict promotes this very model."""
    return bool(verdict["promoted"]) and default_model == verdict["candidate"]


def _keep(previous_bundle: Path | None, verdict: Mapping[str, Any]) -> KeptBundle:
    """The incumbent, after a look at whether it is whole and its models can be used."""
    from prismrec.evaluation.promotion import usable_rankers

    reasons = " ".join(verdict["reasons"])
    if previous_bundle is None:
        raise _nothing_to_keep(f"This run is not promoted, and there is no incumbent to keep. {reasons}")
    try:
        usable_rankers(read_bundle(previous_bundle))
    except UserError as error:
        raise _nothing_to_keep(f"This run is not promoted, and the incumbent cannot be kept. {error.what}") from error
    log.warning("This run is not promoted, the incumbent stays packaged. %s", reasons)
    return KeptBundle(previous_bundle)


def _nothing_to_keep(what: str) -> UserError:
    return UserError(
        what,
        "evaluation_metrics, promotion",
        "Mend the model, or the limits of evaluation.promotion; or package the run all the same: "
        "kedro run --pipelines packaging --params packaging.package=this_run",
    )


def choose_model(verdict: Mapping[str, Any], parameters: PackagingParameters, parts: set[str]) -> str:
    """Return the model that answers by default: the verdict's candidate, or with `this_run` any that is named.

    Raises:
        UserError: the model's parts are not there, or nobody judged it.
    """
    servable = [name for name, needed in NEEDED_PARTS.items() if needed <= parts]
    wanted: str = verdict["candidate"] if parameters.default_model == "auto" else parameters.default_model
    if wanted not in servable:
        raise UserError(
            f"Parts of the model {wanted!r} are missing.",
            "packaging.default_model",
            f"Choose one of: {', '.join(['auto', *servable])}",
        )
    if wanted != verdict["candidate"] and parameters.package == "promoted":
        raise UserError(
            f"The promotion verdict is on {verdict['candidate']!r}; {wanted!r} was not judged.",
            "packaging.default_model",
            f"Have it judged: kedro run --pipelines evaluation,packaging --params evaluation.promotion.model={wanted}",
        )
    return wanted


def measure_bundle(bundle: Path, evaluation_metrics: dict[str, Any], parameters: PackagingParameters) -> dict[str, Any]:
    """Answer once with every model, and return the bundle's figures and versions, and whose models it holds.

    Raises:
        UserError: the bundle cannot be served.
    """
    from prismrec.serving.engine import Engine

    engine = Engine.load(bundle)
    engine.warm_up()
    manifest, verdict = read_bundle(bundle).manifest, evaluation_metrics["promotion"]
    return {
        "promoted": _is_promoted(manifest.default_model, verdict),
        "packaged": "this_run" if _is_packaged(verdict, parameters) else "incumbent",
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


def _popularity(histories: Histories, num_items: int) -> np.ndarray:
    return np.bincount(histories.items, minlength=num_items).astype(np.int64)

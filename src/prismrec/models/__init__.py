"""One file a model; `load_model` finds the class of a saved one by the `kind` in its config."""

from importlib import import_module
from pathlib import Path
from typing import Any

from prismrec.artifacts.model_folder import read_config
from prismrec.errors import MissingArtefact

KINDS = {
    "item_tower": ("prismrec.models.item_tower", "ItemTower"),
    "lightweight_encoder": ("prismrec.models.lightweight_encoder", "LightweightEncoder"),
    "codebook": ("prismrec.quantization.codebook", "Codebook"),
    "recommender": ("prismrec.models.recommender", "Recommender"),
    "interest_dictionary": ("prismrec.models.interest_dictionary", "InterestDictionary"),
    "linear_transitions": ("prismrec.models.linear_transitions", "LinearTransitions"),
    "counted": ("prismrec.models.counted", "Counted"),
    "merge": ("prismrec.models.merge", "Merge"),
    "posterior": ("prismrec.models.posterior", "Posterior"),
    "retrieval_head": ("prismrec.models.retrieval_head", "RetrievalHead"),
    "sasrec": ("prismrec.models.sasrec", "SASRec"),
    "comirec": ("prismrec.models.comirec", "ComiRec"),
}


def load_model(folder: Path) -> Any:
    """The model saved in a folder, in evaluation mode.

    Raises:
        MissingArtefact: the folder is no model folder, is damaged, or holds a kind this version does not know.
    """
    kind = read_config(folder)["kind"]
    if kind not in KINDS:
        raise MissingArtefact(
            f"This version of prismrec knows no model of kind {kind!r}.",
            str(folder),
            "Train the model again.",
        )
    module, name = KINDS[kind]
    return getattr(import_module(module), name).load(folder)

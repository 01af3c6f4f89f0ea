"""What a refresh replaces, as the catalog's own datasets on small models: for tests that cut it off."""

from pathlib import Path
from typing import Any

import torch
from kedro.io import Version
from safetensors.torch import load_file

from prismrec.artifacts.bundle import BundleParts, CatalogueItem, read_bundle
from prismrec.artifacts.stage_record import last_record, write_record
from prismrec.kedro_datasets import FolderDataset, ModelDataset, TensorsDataset
from prismrec.models import load_model
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig, stamp, stamped_version
from prismrec.models.retrieval_head import RetrievalHead, RetrievalHeadConfig
from prismrec.pipelines.interest_dictionary.nodes import check_one_dictionary
from prismrec.training.dictionary_refresh import DictionaryVectors, KeptDictionary, Origins

KINDS = {
    "dictionary": ModelDataset,
    "item_cells": TensorsDataset,
    "posterior": ModelDataset,
    "retrieval": ModelDataset,
}
torch.set_num_threads(1)


STAGE = "interest_dictionary"
RECORDS = "records"


class Workspace:
    """Saves whole sets, dataset by dataset in the stage's order, then the stage's record, the bundle last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def dataset(self, name: str, version: str | None = None) -> Any:
        """An entry of the catalog, on this folder, as another stage reads it."""
        standalone = name not in KINDS
        kind = KINDS.get(name, FolderDataset)
        made = kind(filepath=str(self.folder / name), standalone=standalone, version=Version(None, version))
        made.bind(name, STAGE, "", records=self.folder / RECORDS)
        return made

    def version(self, number: int) -> dict[str, Any]:
        """Everything that rests on one dictionary; only its weights, and its vectors, tell it from another."""
        share = number / 1000
        dictionary = InterestDictionary(InterestDictionaryConfig(4, 2, 4, (2, 2))).eval()
        with torch.no_grad():
            for parameter in dictionary.parameters():
                parameter.fill_(share)
        cells, vectors = torch.arange(6) % 4, torch.zeros(6, 4)
        # What carries the version is all that counts here: a head stands for the posterior.
        head = RetrievalHead(RetrievalHeadConfig(4, 4, 2, 0.0, 2, dictionary.version)).eval()
        mark = stamp(dictionary.version)
        made = {
            "dictionary": KeptDictionary(
                dictionary, DictionaryVectors(cells, torch.full((6, 4), share), vectors), Origins.itself(dictionary)
            ),
            "item_cells": {"cells": cells.numpy(), **mark},
            "posterior": head,
            "retrieval": head,
        }
        items = [CatalogueItem(index, str(index), str(index), (), True) for index in range(6)]
        made["bundle"] = BundleParts(
            items, {**made, "dictionary": dictionary}, "popularity", dictionary_version=dictionary.version
        )
        return made

    def save(self, parts: dict[str, Any]) -> None:
        """Save a set as the stages do: the record settles what is before it."""
        version = f"{int(last_record(self.folder / RECORDS, STAGE) or 0) + 1:06}"
        for dataset in map(self.dataset, KINDS):  # those of a run that was cut off have the number already
            version = max(version, f"{int(dataset.unsettled() or 0) + 1:06}")
        for name in KINDS:
            dataset = self.dataset(name, version)
            dataset.open()
            dataset.save(parts[name])
        write_record(self.folder / RECORDS / STAGE / version, {}, {})
        self.dataset("bundle").save(parts["bundle"])

    def settled(self) -> dict[str, Any]:
        """What another stage reads of every dataset."""
        return {name: self.dataset(name).load() for name in KINDS}

    def cut_between(self) -> bool:
        """Whether there are newer versions that no record has settled."""
        return any(self.dataset(name).unsettled() is not None for name in KINDS)

    def check_bundle(self) -> str:
        """The dictionary version of the newest bundle, whose parts are all of it."""
        folder = self.dataset("bundle").load()
        bundle = read_bundle(folder)
        models = {name: load_model(folder / name) for name in ("dictionary", "posterior", "retrieval")}
        cells = load_file(folder / "item_cells.safetensors")
        check_one_dictionary(models["dictionary"], models["posterior"], models["retrieval"], cells)
        assert bundle.manifest.versions.dictionary == models["dictionary"].version
        return models["dictionary"].version


def settled_version(workspace: Workspace) -> str:
    """The dictionary version of all that is read, judged part by part: it is one, and the stage's own check agrees."""
    parts = workspace.settled()
    kept = KeptDictionary.load(Path(workspace.dataset("dictionary").payload()))
    version: str = parts["dictionary"].version
    assert kept.dictionary.version == version
    assert kept.rows.full_ND[0, 0] == next(kept.dictionary.parameters()).flatten()[0], "its own vectors, always"
    heads = {parts[name].config.dictionary for name in ("posterior", "retrieval")}
    assert {version, stamped_version(parts["item_cells"]), *heads} == {version}
    check_one_dictionary(parts["dictionary"], parts["posterior"], parts["retrieval"], parts["item_cells"])
    return version

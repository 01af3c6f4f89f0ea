"""One cell of HyMiRec: its stages' parts, trained or taken over, then merge, ranking and figures.

A *part* is what a stage made: text embeddings, encoder with item vectors, codebook with codes, recommender, what is
counted. It lies in WORK/parts under the hash of everything it was made from (data, parameters, code), so that a cell
trains only what it changes. What a part cost is kept with it: a cell's seconds and memory count all its parts, whoever
made them.

The stages' own nodes do the work; ranking is the evaluation's, over at most MOST_USERS users, the rule on
histories the environment's. The merge's members are scored once a user, for their own rows and for the merge's.

Shapes: C cases, M metrics, B users, K interests, N items.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from benchmarks.peers.measure import machine, measured
from prismrec.artifacts.model_folder import dump_json
from prismrec.data.histories import Histories, SplitPoints
from prismrec.evaluation.comparison import sample
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.intervals import bootstrap_means
from prismrec.evaluation.protocols import Cases
from prismrec.metrics.interests import effective_rank
from prismrec.metrics.ranking import per_user_metrics
from prismrec.models import load_model
from prismrec.models.events import EventTable
from prismrec.models.merge import MergedRanker
from prismrec.models.rankers import Ranker, RecommenderRanker
from prismrec.parameters import stage_model
from prismrec.pipelines.codebook.nodes import encode_items, fit_codebook
from prismrec.pipelines.evaluation.nodes import some_cases
from prismrec.pipelines.inputs import event_table, training_data
from prismrec.pipelines.lightweight_encoder.nodes import embed_texts, item_texts, train_encoder
from prismrec.pipelines.llm_recommender.nodes import (
    counted_before,
    merge_members,
    recommender_ranker,
    train_recommender,
)
from prismrec.training.merging import fit_merge

SOURCE = Path(__file__).parents[2] / "src" / "prismrec"
# What can change a cell's figures; the rest of the code may change without the cells being run again.
ROOMS = ("data", "metrics", "models", "parameters", "quantization", "retrieval", "training")
NODES = ("codebook", "lightweight_encoder", "llm_recommender")
METRICS = ("ndcg@10", "hr@10", "recall@50")
COMPARED = ("llm_recommender", "hymirec")  # rows that are compared with the reference's, user by user
MOST_USERS = 10_000  # ranked, the same in all cells; ranking all of a large set would take most of a cell's time
CHUNK = 128
COUNTED = ("transitions", "recent_days")  # parameters of stage 5 that its training does not read


def digest(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(dump_json(value).encode()).hexdigest()


def code_version(*more: Path) -> str:
    """Hash of the code that cells rest on, without its comments and docstrings.

    Args:
        more: files that some cells rest on beside what all of them do.
    """
    files = sorted(
        [*(path for room in ROOMS for path in (SOURCE / room).rglob("*.py"))]
        + [SOURCE / "pipelines" / stage / "nodes.py" for stage in NODES]
        + [SOURCE / "pipelines" / "inputs.py", SOURCE / "evaluation" / "evaluate.py", Path(__file__), *more]
    )
    return digest([[path.stem, _without_words(path.read_text(encoding="utf-8"))] for path in files])


def _without_words(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


@dataclass(frozen=True)
class Data:
    """What stages 1 and 2 made of an environment."""

    histories: Histories
    splits: pl.DataFrame
    item_map: pl.DataFrame
    split_hash: str
    history: str  # the evaluation's rule on histories
    sampled_users: int  # whose interests' effective rank is measured

    def timeless(self) -> Data:
        """The same without times: all events stand at one, as where a source has none (`Histories.timed`)."""
        timeless = np.zeros_like(self.histories.timestamps)
        return replace(self, histories=replace(self.histories, timestamps=timeless))


class Parts:
    """The parts of one cell, by the stages that make them.

    Args:
        folder: of all parts.
        data: what they are made of.
        settings: `cells.settings_of`.
        code: `code_version`.
    """

    def __init__(self, folder: Path, data: Data, settings: dict[str, Any], code: str) -> None:
        self.folder, self.settings, self.code = folder, settings, code
        self.data = data if settings["timed"] else data.timeless()
        self.encoder_parameters, self.codebook_parameters, self.llm_parameters = (
            stage_model(stage).model_validate(settings[stage])
            for stage in ("lightweight_encoder", "codebook", "llm_recommender")
        )
        self.costs: dict[str, dict[str, Any]] = {}

    def _part(self, name: str, made_from: Any, make: Callable[[Path], dict[str, Any]]) -> Path:
        """The part's folder, made if it is not there; a folder that is there is whole."""
        path = self.folder / f"{name}-{digest([made_from, self.code])[:16]}"
        if not path.is_dir():
            partial = path.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            figures, cost = measured(lambda: make(partial))
            (partial / "cost.json").write_text(dump_json({**cost.as_dict(), **figures}), encoding="utf-8")
            partial.replace(path)
        self.costs[name] = json.loads((path / "cost.json").read_text(encoding="utf-8"))
        return path

    def texts(self) -> Path:
        """Text embeddings."""
        parameters, item_map = self.encoder_parameters, self.data.item_map

        def make(folder: Path) -> dict[str, Any]:
            tensors, facts = embed_texts(item_map, None, parameters)
            save_file(tensors, folder / "texts.safetensors")
            (folder / "facts.json").write_text(dump_json(facts), encoding="utf-8")
            return {}

        made_from = [item_texts(item_map), parameters.text_encoder, parameters.max_tokens]
        return self._part("texts", made_from, make)

    def encoder(self) -> Path:
        """Lightweight encoder and item vectors."""
        data, parameters, texts = self.data, self.encoder_parameters, self.texts()

        def make(folder: Path) -> dict[str, Any]:
            tensors = load_file(texts / "texts.safetensors")
            facts = json.loads((texts / "facts.json").read_text(encoding="utf-8"))
            made = train_encoder(tensors, facts, data.item_map, data.histories, data.splits, parameters)
            save_file(made[1], folder / "item_vectors.safetensors")
            made[2].save(folder / "model")
            return _trained(made[-1])

        made_from = [texts.name, data.split_hash, self.settings["lightweight_encoder"], self.settings["timed"]]
        return self._part("encoder", made_from, make)

    def codebook(self) -> Path:
        """Codebook and codes."""
        parameters, encoder = self.codebook_parameters, self.encoder()

        def make(folder: Path) -> dict[str, Any]:
            vectors = load_file(encoder / "item_vectors.safetensors")
            codebook = fit_codebook(vectors, parameters)
            codebook.save(folder / "model")
            save_file(encode_items(codebook, vectors), folder / "item_codes.safetensors")
            return {}

        return self._part("codebook", [encoder.name, self.settings["codebook"]], make)

    def items(self) -> tuple[dict[str, np.ndarray], Any, dict[str, np.ndarray], Any]:
        """Item vectors, codebook, codes, encoder: what stage 5's nodes begin with."""
        encoder, codebook = self.encoder(), self.codebook()
        return (
            load_file(encoder / "item_vectors.safetensors"),
            load_model(codebook / "model"),
            load_file(codebook / "item_codes.safetensors"),
            load_model(encoder / "model"),
        )

    def recommender(self) -> Path:
        """The LLM recommender; what the merge adds takes no part in its training."""
        data, parameters = self.data, self.llm_parameters

        def make(folder: Path) -> dict[str, Any]:
            recommender, _, metrics = train_recommender(*self.items(), data.histories, data.splits, parameters)
            recommender.save(folder / "model")
            return _trained(metrics)

        trained_with = {key: value for key, value in self.settings["llm_recommender"].items() if key not in COUNTED}
        made_from = [self.encoder().name, self.codebook().name, data.split_hash, trained_with, self.settings["timed"]]
        return self._part("recommender", made_from, make)

    def counted(self) -> Path:
        """Linear transitions and recency, of the training events and of all before the test targets."""
        data, points = self.data, SplitPoints.from_frame(self.data.splits)

        def make(folder: Path) -> dict[str, Any]:
            for name, ends_U in (("training", points.train_end_U), ("served", points.test_start_U)):
                counted_before(ends_U, data.histories, len(data.item_map), self.llm_parameters).save(folder / name)
            return {}

        counts = {key: self.settings["llm_recommender"][key] for key in COUNTED}
        return self._part("counted", [data.split_hash, counts, self.settings["timed"]], make)


def _trained(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in ("epochs", "best_epoch")}


class Once(Ranker):
    """A ranker that scores the same users once, for its own row and the merge's."""

    def __init__(self, ranker: Ranker) -> None:
        self.ranker, self.name = ranker, ranker.name
        self._asked: tuple[Any, ...] = ()
        self._scores_BN = torch.empty(0)

    @property
    def held(self) -> int:
        """The ranker's."""
        return self.ranker.held

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """The ranker's; a copy, for what is excluded from one row's must not be from another's."""
        asked = (events, users_B, ends_B)
        if not self._asked or any(a is not b for a, b in zip(asked, self._asked, strict=True)):
            self._asked, self._scores_BN = asked, self.ranker.scores(*asked)
        return self._scores_BN.clone()


def measure_cell(parts: Parts) -> dict[str, Any]:
    """Train what is not there, merge, rank: the cell's figures."""
    recommender, counted = load_model(parts.recommender() / "model"), parts.counted()
    of_training, served = (load_model(counted / name) for name in ("training", "served"))
    figures, cost = measured(lambda: _figures(parts, recommender, of_training, served))
    return {**figures, **costs_of({**parts.costs, "merge_and_ranking": cost.as_dict()})}


def costs_of(costs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all parts of a cell cost, whoever made them, and on which machine."""
    peaks = [each["peak_mb"] for each in costs.values()]
    return {
        "epochs": {
            name: {key: each[key] for key in ("epochs", "best_epoch")}
            for name, each in costs.items()
            if "best_epoch" in each
        },
        "seconds": {name: each["seconds"] for name, each in costs.items()},
        "seconds_in_all": round(sum(each["seconds"] for each in costs.values()), 1),
        "peak_mb": None if None in peaks else max(peaks),
        "machine": {**machine(), "torch": torch.__version__, "numpy": np.__version__},
    }


def asked(data: Data, timed: bool, most: int = MOST_USERS) -> tuple[dict[str, Cases], dict[str, EventTable]]:
    """Who is ranked, at most so many users a part; and the events of all users, with and without times."""
    points, table = SplitPoints.from_frame(data.splits), event_table(data.histories)
    ends = {
        "validation": (points.validation_start_U, points.validation_end_U),
        "test": (points.test_start_U, points.test_end_U),
    }
    cases = {part: sample(some_cases(table, *targets, data.history), most, seed=0) for part, targets in ends.items()}
    tables = {"aware": table} if timed else {}
    return cases, {**tables, "free": table.without_times(np.ones(len(table), dtype=bool))}


def _figures(parts: Parts, recommender: Any, of_training: Any, served: Any) -> dict[str, Any]:
    data, (vectors, codebook, codes, encoder) = parts.data, parts.items()
    refined = recommender_ranker(recommender, codebook, codes, vectors)
    training = parts.llm_parameters.training
    seed = parts.llm_parameters.seed
    validating = training_data(data.histories, data.splits, vectors["recommendable"], training, seed)
    merge, merge_figures = fit_merge(merge_members(refined, encoder, of_training), validating)
    cases, tables = asked(data, parts.settings["timed"])
    rows: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for part, counted in (("validation", of_training), ("test", served)):
        members = merge_members(refined, encoder, counted)
        for time, events in tables.items():
            found = _rank(members, merge, events, cases[part], refined.recommendable_N, data.history)
            rows.setdefault(time, {})[part] = {name: summary(metrics) for name, metrics in found.items()}
            values.setdefault(time, {})[part] = {name: pack(found[name]["ndcg@10"]) for name in COMPARED}
    table = tables.get("aware", tables["free"])
    return {
        "rows": rows,
        "ndcg@10_of_users": values,
        "users": {part: len(some.users_C) for part, some in cases.items()},
        "merge": merge_figures,
        "effective_rank": refined_rank(refined, table, sample(cases["test"], data.sampled_users, seed=0)),
    }


def _rank(
    members: dict[str, Ranker], merge: Any, events: EventTable, cases: Cases, recommendable_N: Tensor, history: Any
) -> dict[str, dict[str, np.ndarray]]:
    """Each row's figures of every case, [C] by metric."""
    once = {name: Once(member) for name, member in members.items()}
    rows: dict[str, Ranker] = {name: once[name] for name in ("llm_recommender", "lightweight_encoder")}
    rows["hymirec"] = MergedRanker(once, merge, recommendable_N)
    ranked = evaluate(rows, events, cases, recommendable_N, history, lists=False)
    found = {name: per_user_metrics(row.ranks, (10, 50)) for name, row in ranked.items()}
    return {name: {metric: metrics[metric] for metric in METRICS} for name, metrics in found.items()}


def summary(metrics: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Mean and 95 % interval of each metric over the users that have a value; left out where nobody has one."""
    known = {metric: values_C for metric, values_C in metrics.items() if not np.isnan(values_C).all()}
    values_CM = np.stack(list(known.values()), axis=1)
    columns: Iterator[Any] = zip(known, np.nanmean(values_CM, axis=0), *bootstrap_means(values_CM), strict=True)
    return {metric: [float(mean), float(low), float(high)] for metric, mean, low, high in columns}


@torch.inference_mode()
def refined_rank(ranker: RecommenderRanker, events: EventTable, cases: Cases) -> float:
    """Mean effective rank of the users' K refined interests, the "now" interest not counted; 1 to K."""
    ranks = []
    for start in range(0, len(cases.users_C), CHUNK):
        users_B = torch.as_tensor(cases.users_C[start : start + CHUNK])
        ends_B = torch.as_tensor(cases.starts_C[start : start + CHUNK])
        ranks.append(effective_rank(ranker.state(events, users_B, ends_B).refined.refined_BKD))
    return float(torch.cat(ranks).mean())


def pack(values_C: np.ndarray) -> str:
    """A figure of every case as text: float32, compressed."""
    return base64.b64encode(zlib.compress(values_C.astype("<f4").tobytes(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """What `pack` packed: float64 [C]."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4").astype(np.float64)

"""HyMiRec with the settings that every data set starts from: one of them, trained once, as a peer's first trial.

    python -m benchmarks.peers.untuned --env beauty --exchange /tmp/exchange --out /tmp/cells --workspaces /tmp/untuned

Our other rows were tuned for their data set in more trials than peers get. This one was not: stages 3 to 5 take
`conf/base` alone, as for somebody who brings logs and changes nothing; the environment says only where the data are.
Its budget is what the training took, one trial of so many seconds, which is less than peers get; the tables compare
peers with it at that. Like neural peers it learns from training events alone: its transitions and recency count no
validation event, which those of our other rows do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.peers.cells import cell_path, read_cell
from benchmarks.peers.exchange import read_exchange
from benchmarks.peers.ours import HYMIREC, UNTUNED, write_rows
from benchmarks.peers.prepare import PROJECT, open_environment
from benchmarks.peers.registry import TRAIN_ONLY
from prismrec.pipelines.evaluation import nodes
from prismrec.pipelines.inputs import event_table

RESULTS = Path(__file__).parents[1] / "results" / "peers"
BEFORE = ("data_validation", "sequence_building")
MODELS = ("item_vectors", "codebook", "item_codes", "lightweight_encoder", "recommender", "merge")


def base_settings() -> dict[str, Any]:
    """Parameters of HyMiRec's stages in `conf/base`."""
    parameters = open_environment("base")[2]
    return {stage: parameters[stage] for stage in HYMIREC}


def hash_of(settings: dict[str, Any]) -> str:
    """What tells whether a cell was made with these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def train(environment: str, settings: dict[str, Any]) -> None:
    """Run stages 1 to 5 of the environment, the last three with these settings."""
    from kedro.framework.session import KedroSession

    with KedroSession.create(PROJECT, env=environment, runtime_params=settings) as session:
        parameters = session.load_context().config_loader["parameters"]
        assert {stage: parameters[stage] for stage in settings} == settings, "the environment has settings of its own"
        session.run(pipeline_names=[*BEFORE, *HYMIREC])


def write_environment(environment: str, exchanges: Path, out: Path, results: Path) -> str:
    """Train, rank and write the cells, unless they are there; return what became of it.

    Args:
        results: folder of committed cells, which count as there.

    Raises:
        SystemExit: if the exchange folder was made from another split.
    """
    settings = base_settings()
    catalog, names, parameters = open_environment(environment)
    exchange, seed = read_exchange(exchanges / names["workspace"]), parameters["evaluation"]["seed"]
    for folder in (out, results):
        cell = read_cell(cell_path(folder, exchange.about["name"], f"prismrec_{UNTUNED}_time_free", seed)) or {}
        wanted = {
            "split_hash": exchange.about["split_hash"], "settings_hash": hash_of(settings), "trains_on": TRAIN_ONLY
        }  # fmt: skip
        if all(cell.get(key) == value for key, value in wanted.items()):
            return "is there"
    train(environment, settings)
    if exchange.about["split_hash"] != catalog.load("sequence_building_metrics")["split_hash"]:
        raise SystemExit(f"{exchanges} holds another split: run benchmarks.peers.prepare again")
    models = {name: catalog.load(name) for name in MODELS}
    hymirec = nodes.hymirec_rankers(**models, counted=catalog.load("training_counted"))[-1]
    rows = {
        name.replace("hymirec", UNTUNED): row._replace(label=f"{row.label}, untuned")
        for name, row in nodes.trained_rows([hymirec], [], event_table(catalog.load("histories"))).items()
    }
    workspace = PROJECT / names["workspaces"] / names["workspace"]
    facts = {"settings": settings, "settings_hash": hash_of(settings)}
    write_rows(rows, exchange, len(catalog.load("item_map")), out, workspace, seed, facts)
    return "done"


def main() -> None:
    """Write one environment's untuned rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, help="Kedro environment, such as ml1m or beauty")
    parser.add_argument("--exchange", type=Path, required=True, help="folder of the exchange folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--workspaces", type=Path, required=True, help="folder to train in; holds nothing else")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of committed cells")
    arguments = parser.parse_args()
    os.environ["PRISMREC_WORKSPACES"] = str(arguments.workspaces.resolve())  # globals.yml reads it
    print(write_environment(arguments.env, arguments.exchange, arguments.out, arguments.results))


if __name__ == "__main__":
    main()

"""Health of the interest dictionary over seeds, from a workspace's item vectors.

    python -m benchmarks.dictionary_health --workspace data/demo data/ml1m

For every seed: utilisation a level, joint occupancy (occupied cells among all), items in an occupied cell, perplexity,
reconstruction error. The bars: 95 % a level, 60 % jointly, 20 items. One JSON a workspace, written after every seed; a
seed that is there already, of the same vectors and parameters, is not fitted again. Parameters are those of the
environment that a workspace is named after. Seconds a seed on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from prismrec.artifacts.model_folder import dump_json
from prismrec.metrics.codes import code_health
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.dictionary import fit_dictionary
from prismrec.training.dictionary_refresh import DictionaryVectors

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "dictionary_health"
BARS = {"utilisation": 0.95, "occupancy": 0.6, "items_per_cell": 20.0}


def newest(workspace: Path, entry: str) -> Path:
    """The payload of an entry's newest version."""
    versions = sorted((workspace / entry).glob("[!.]*"))
    if not versions:
        raise SystemExit(f"{workspace / entry} holds no version: run the stages first.")
    return versions[-1] / Path(entry).name


def load_vectors(workspace: Path) -> dict[str, Any]:
    """The newest item vectors of a workspace."""
    from safetensors.numpy import load_file

    return load_file(newest(workspace, "05_model_input/item_vectors.safetensors"))


def dictionary_parameters(environment: str) -> DictionaryParameters:
    """The dictionary's parameters: those of conf/base, with what the environment's folder, if there is one, changes."""
    values: dict[str, Any] = {}
    for folder in ("base", environment):
        file = PROJECT / "conf" / folder / "parameters_interest_dictionary.yml"
        if file.exists():
            values |= yaml.safe_load(file.read_text(encoding="utf-8"))["interest_dictionary"].get("dictionary", {})
    return DictionaryParameters(**values)


def measure(rows: DictionaryVectors, parameters: DictionaryParameters, seed: int) -> dict[str, Any]:
    """Fit with one seed; figures of the full vectors."""
    start = time.perf_counter()
    dictionary, losses = fit_dictionary(rows.both, len(rows.items_N), parameters, seed)
    seconds = time.perf_counter() - start
    health = code_health(dictionary.codes_of(rows.full_ND).numpy(), dictionary.sizes)
    found = {
        "version": dictionary.version,
        "sizes": list(dictionary.sizes),
        "utilisation": [health[f"utilisation_level_{level + 1}"] for level in range(len(dictionary.sizes))],
        "occupied": int(health["occupied_cells"]),
        "occupancy": health["occupied_cells"] / dictionary.num_cells,
        "items_per_cell": health["items_per_occupied_cell"],
        "largest_cell": health["largest_cell"],
        "perplexity": health["perplexity_joint"],
        "reconstruction_loss": losses["reconstruction_loss"],
        "codes_reseeded": losses["codes_reseeded"],
        "seconds": round(seconds, 2),
    }
    return {**found, "passes": passes(found)}


def passes(found: dict[str, Any]) -> bool:
    """Whether a seed keeps all three bars."""
    return (
        min(found["utilisation"]) >= BARS["utilisation"]
        and found["occupancy"] >= BARS["occupancy"]
        and found["items_per_cell"] >= BARS["items_per_cell"]
    )


def as_table(name: str, report: dict[str, Any]) -> str:
    """A line a seed."""
    lines = [f"{name}: {report['items']:,} items", "seed  codes    used a level    cells  occupied  items  perplexity"]
    for seed, found in sorted(report["seeds"].items(), key=lambda pair: int(pair[0])):
        used = " ".join(f"{share:6.1%}" for share in found["utilisation"])
        sizes = "x".join(map(str, found["sizes"]))
        lines.append(
            f"{seed:>4}  {sizes:<8} {used:<15} {found['occupied']:>5} {found['occupancy']:>9.1%} "
            f"{found['items_per_cell']:>6.1f} {found['perplexity']:>11.1f}  {'' if found['passes'] else 'MISSES A BAR'}"
        )
    return "\n".join(lines)


def run(workspace: Path, name: str, seeds: list[int], results: Path) -> dict[str, Any]:
    """Measure the seeds that are not there yet; return the whole report."""
    from prismrec.training.dictionary import data_version

    rows, parameters = DictionaryVectors.of(load_vectors(workspace)), dictionary_parameters(name)
    facts = {
        "items": len(rows.items_N),
        "vectors": data_version(rows.both),
        "parameters": parameters.model_dump(mode="json"),
        "bars": BARS,
    }
    file = results / f"{name}.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = all(old.get(key) == value for key, value in facts.items())
    report: dict[str, Any] = {**facts, "seeds": old["seeds"] if same else {}}
    for seed in seeds:
        if str(seed) not in report["seeds"]:
            report["seeds"][str(seed)] = measure(rows, parameters, seed)
            results.mkdir(parents=True, exist_ok=True)
            file.write_text(dump_json(report), encoding="utf-8")
    return report


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, nargs="+", default=[PROJECT / "data" / "demo"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for workspace in options.workspace:
        report = run(workspace, workspace.name, options.seeds, options.results)
        print(as_table(workspace.name, report))


if __name__ == "__main__":
    main()

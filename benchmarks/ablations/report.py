"""Compare cells with the reference of their seed, user by user, and write the tables.

Validation decides; test says what came of it. Time-aware and time-free figures stand in tables of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.ablations.cells import CELLS, EPOCHS, REFERENCE
from benchmarks.ablations.make import COMPARED, METRICS, unpack
from benchmarks.peers.cells import read_cell, write_cell
from prismrec.evaluation.intervals import paired_bootstrap

LABELS = {"llm_recommender": "LLM recommender", "hymirec": "HyMiRec", "lightweight_encoder": "lightweight encoder"}
HEADINGS = {"aware": "Time-aware", "free": "Time-free: the times of events and of the request withheld"}
PARTS = ("validation", "test")
SAME = ("split_hash", "code")  # what two cells must share to be compared


def pair(folder: Path) -> None:
    """Write into every cell of an environment its differences from the reference of the same seed."""
    cells = {path: read_cell(path) or {} for path in sorted(folder.glob("*.json"))}
    for path, cell in cells.items():
        reference = cells.get(folder / f"{REFERENCE}-{cell['seed']}.json", {})
        cell.pop("paired", None)
        compares = "rows" in cell and "rows" in reference and all(cell[key] == reference[key] for key in SAME)
        if compares and cell["cell"] != REFERENCE:
            cell["paired"] = _differences(cell, reference)
        write_cell(path, cell)


def _differences(cell: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """NDCG@10 of the cell minus the reference's: mean, low, high, by time, part and row."""
    return {
        time: {
            part: {
                row: list(
                    paired_bootstrap(*(unpack(of["ndcg@10_of_users"][time][part][row]) for of in (cell, reference)))
                )
                for row in COMPARED
            }
            for part in PARTS
        }
        for time in cell["rows"]
    }


def write_tables(results: Path) -> str:
    """Pair all cells below RESULTS, write RESULTS.md, and return it."""
    lines = ["# Ablations of HyMiRec", "", *_notes()]
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        pair(folder)
        order = {name: place for place, name in enumerate(CELLS)}
        cells = [read_cell(path) or {} for path in folder.glob("*.json")]
        cells = sorted((cell for cell in cells if cell["cell"] in order), key=lambda c: (order[c["cell"]], c["seed"]))
        if cells:
            lines += _environment(folder.name, cells)
    text = "\n".join(lines)
    results.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def _notes() -> list[str]:
    return [
        "Written by `python -m benchmarks.ablations`; how to run it: [benchmarks](../README.md#ablations).",
        "",
        "Each row changes one thing in the reference. All items but those of the history are ranked. Δ: difference "
        "of NDCG@10 from the reference of the same seed over the same users, with its 95 % bootstrap interval; bold: "
        "the interval has no 0 in it. Validation decides what is kept; test is shown beside it.",
        "",
        "Seconds count all that a cell rests on: text embeddings, stages 3 to 5, merge and ranking, also where another "
        "cell had made them; memory is the largest peak of these.",
        "",
    ]


def _environment(name: str, cells: list[dict[str, Any]]) -> list[str]:
    done = [cell for cell in cells if "rows" in cell]
    lines = [f"## {name}", "", *_facts(name, done)]
    for time, heading in HEADINGS.items():
        timed = [cell for cell in done if time in cell["rows"]]
        if timed:
            lines += [f"### {heading}", "", *_table(_DIFFERENCES, [_difference_row(cell, time) for cell in timed])]
            lines += _over_seeds(timed, time)
            lines += _table(_FIGURES, [row for cell in timed for row in _figure_rows(cell, time)])
    lines += [f"- {cell['cell']}, {cell['seed']}: did not run: {cell['failed']}" for cell in cells if "failed" in cell]
    lines += [f"- {cell.name} is not run: {cell.not_in[name]}." for cell in CELLS.values() if name in cell.not_in]
    return [*lines, ""]


def _facts(name: str, done: list[dict[str, Any]]) -> list[str]:
    if not done:
        return []
    users, epochs = done[0]["users"], EPOCHS[name]
    length = (
        "Epochs as configured" if epochs is None else f"At most {epochs[0]} epochs of stage 3, {epochs[1]} of stage 5"
    )
    facts = [f"{users['validation']:,} users validate, {users['test']:,} test. {length}."]
    machines = sorted(
        {f"{m['cpu']}, {m['threads']} thread(s), torch {m['torch']}" for m in (c["machine"] for c in done)}
    )
    facts += [f"Machine: {'; '.join(machines)}."]
    versions = len({cell["code"] for cell in done})
    if versions > 1:
        facts += [f"The cells come from {versions} versions of the code; only cells of one version are compared."]
    return [*facts, ""]


_DIFFERENCES = (
    "cell", "what changes", "seed", *(f"{LABELS[row]}: Δ {part}" for row in COMPARED for part in PARTS),
    "effective rank", "seconds", "peak MB",
)  # fmt: skip
_FIGURES = ("cell", "seed", "model", *(f"{part} {m}" for part in PARTS for m in ("NDCG@10", "HR@10", "Recall@50")))


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(r)} |" for r in rows), ""]


def _difference_row(cell: dict[str, Any], time: str) -> list[str]:
    paired = cell.get("paired", {}).get(time)
    differences = [_difference(paired[part][row]) if paired else "–" for row in COMPARED for part in PARTS]
    peak = "–" if cell["peak_mb"] is None else f"{cell['peak_mb']:,.0f}"
    says = CELLS[cell["cell"]].says
    rank, seconds = f"{cell['effective_rank']:.2f}", f"{cell['seconds_in_all']:,.0f}"
    return [cell["cell"], says, str(cell["seed"]), *differences, rank, seconds, peak]


def _difference(found: list[float]) -> str:
    mean, low, high = found
    text = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _over_seeds(cells: list[dict[str, Any]], time: str) -> list[str]:
    """Mean and range of the differences of cells that were compared under several seeds."""
    lines = []
    for name in CELLS:
        paired = [cell["paired"][time] for cell in cells if cell["cell"] == name and "paired" in cell]
        if len(paired) > 1:
            each = {(row, part): [seed[part][row][0] for seed in paired] for row in COMPARED for part in PARTS}
            words = [
                f"{LABELS[row]} {part} {sum(found) / len(found):+.4f} ({min(found):+.4f} to {max(found):+.4f})"
                for (row, part), found in each.items()
            ]
            lines.append(f"- {name}, {len(paired)} seeds, mean Δ and range: {'; '.join(words)}.")
    return [*lines, ""] if lines else []


def _figure_rows(cell: dict[str, Any], time: str) -> list[list[str]]:
    rows = []
    for row, label in LABELS.items():
        figures = [cell["rows"][time][part][row][metric] for part in PARTS for metric in METRICS]
        shown = [f"{mean:.4f} [{low:.4f}, {high:.4f}]" for mean, low, high in figures]
        rows.append([cell["cell"], str(cell["seed"]), label, *shown])
    return rows

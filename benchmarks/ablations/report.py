"""Compare cells with the reference of their seed, user by user, and write the tables.

Validation decides; test says what came of it. Time-aware and time-free figures stand in tables of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.ablations.cells import CELLS, EPOCHS, GEMIREC, HYMIREC, REFERENCES, STAGE_6_LENGTHS
from benchmarks.ablations.make import COMPARED, METRICS, unpack
from benchmarks.ablations.make_gemirec import METRICS as GEMIREC_METRICS
from benchmarks.ablations.make_gemirec import NEW, PAIRED, VARIETY
from benchmarks.peers.cells import read_cell, write_cell
from prismrec.evaluation.intervals import paired_bootstrap

LABELS = {"llm_recommender": "LLM recommender", "hymirec": "HyMiRec", "lightweight_encoder": "lightweight encoder"}
METRIC_LABELS = {
    "ndcg@10": "NDCG@10", "hr@10": "HR@10", "recall@50": "Recall@50", NEW: "new interests@10", VARIETY: "cells@50",
}  # fmt: skip
HEADINGS = {"aware": "time-aware", "free": "time-free: the times of events and of the request withheld"}
PARTS = ("validation", "test")
SAME = ("split_hash", "code")  # what two cells must share to be compared


class Pair(NamedTuple):
    """A figure that is compared with the reference's, user by user."""

    label: str
    row: str
    metric: str


class Tables(NamedTuple):
    """What the tables of a model's cells hold."""

    title: str
    rows: dict[str, str]  # labels of the rows of figures
    metrics: tuple[str, ...]
    pairs: tuple[Pair, ...]


TABLES = {
    HYMIREC: Tables("HyMiRec", LABELS, METRICS, tuple(Pair(LABELS[row], row, "ndcg@10") for row in COMPARED)),
    GEMIREC: Tables(
        "GemiRec",
        {GEMIREC: "GemiRec"},
        GEMIREC_METRICS,
        tuple(Pair(METRIC_LABELS[metric], GEMIREC, metric) for metric in PAIRED),
    ),
}


def pair(folder: Path) -> None:
    """Write into every cell of an environment its differences from the reference of the same model and seed."""
    cells = {path: read_cell(path) or {} for path in sorted(folder.glob("*.json"))}
    for path, cell in cells.items():
        cell.pop("paired", None)
        if cell["cell"] in CELLS:
            model = CELLS[cell["cell"]].model
            reference = cells.get(folder / f"{REFERENCES[model]}-{cell['seed']}.json", {})
            compares = "rows" in cell and "rows" in reference and all(cell[key] == reference[key] for key in SAME)
            if compares and cell["cell"] != REFERENCES[model]:
                cell["paired"] = _differences(cell, reference, TABLES[model].pairs)
        write_cell(path, cell)


def _differences(cell: dict[str, Any], reference: dict[str, Any], pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """The cell's figures minus the reference's: mean, low, high, by time, part and label.

    A figure that no user has in both is left out.
    """
    found: dict[str, Any] = {}
    for time in cell["rows"]:
        for part in PARTS:
            of_part = found.setdefault(time, {}).setdefault(part, {})
            for label, row, metric in pairs:
                values = [of[f"{metric}_of_users"].get(time, {}).get(part, {}).get(row) for of in (cell, reference)]
                if None not in values:
                    ours_C, theirs_C = map(unpack, values)
                    if not np.isnan(ours_C - theirs_C).all():
                        of_part[label] = list(paired_bootstrap(ours_C, theirs_C))
    return found


def write_tables(results: Path) -> str:
    """Pair all cells below RESULTS, write RESULTS.md, and return it."""
    lines = ["# Ablations of HyMiRec and GemiRec", "", *_notes()]
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
        "from the reference of the same seed over the same users (HyMiRec: of NDCG@10), with its 95 % bootstrap "
        "interval; bold: the interval has no 0 in it. Validation decides what is kept; test is shown beside it.",
        "",
        "HyMiRec: seconds count all that a cell rests on: text embeddings, stages 3 to 5, merge and ranking, also "
        "where another cell had made them; memory is the largest peak of these. GemiRec: all cells rest on the stages "
        "3 to 5 of HyMiRec's reference, and seconds and memory are those of stage 6 and of ranking.",
        "",
        "GemiRec: new interests@10 is the recall of the targets whose cell no event of the history has, over users "
        "with such a target; cells@50 the distinct cells among the first 50 items of a list. Both go by the cells of "
        "the reference's dictionary in all rows. Cosine: mean of the pairs of a user's interests shown (mean vectors "
        "of the cells' items); conditioned: of the user's vectors under these interests, which retrieval searches "
        "with. Without a dictionary, the interests are the recommender's own outputs.",
        "",
    ]


def _environment(name: str, cells: list[dict[str, Any]]) -> list[str]:
    lines = [f"## {name}", ""]
    for model, tables in TABLES.items():
        own = [cell for cell in cells if CELLS[cell["cell"]].model == model]
        done = [cell for cell in own if "rows" in cell]
        lines += _facts(f"{tables.title}: {_length(name, model)}", done)
        for time, heading in HEADINGS.items():
            timed = [cell for cell in done if time in cell["rows"]]
            if timed:
                lines += [f"### {tables.title}, {heading}", ""]
                lines += _table(_difference_columns(tables), [_difference_row(cell, time, tables) for cell in timed])
                lines += _over_seeds(timed, time, tables)
                lines += _table(
                    _figure_columns(tables), [r for cell in timed for r in _figure_rows(cell, time, tables)]
                )
        if model == GEMIREC and done:
            lines += ["### GemiRec, interests", "", *_table(_INTERESTS, [_interest_row(cell) for cell in done])]
    lines += [f"- {cell['cell']}, {cell['seed']}: did not run: {cell['failed']}" for cell in cells if "failed" in cell]
    lines += [f"- {cell.name} is not run: {cell.not_in[name]}." for cell in CELLS.values() if name in cell.not_in]
    return [*lines, ""]


def _length(name: str, model: str) -> str:
    """How long trainings are."""
    lengths = EPOCHS[name] if model == HYMIREC else STAGE_6_LENGTHS[name]
    if lengths is None:
        return "epochs as configured"
    parts = ("of stage 3", "of stage 5") if model == HYMIREC else ("of the posterior", "of the retrieval head")
    return f"at most {lengths[0]} epoch(s) {parts[0]}, {lengths[1]} {parts[1]}"


def _facts(title: str, done: list[dict[str, Any]]) -> list[str]:
    if not done:
        return []
    users = done[0]["users"]
    facts = [f"{title}. {users['validation']:,} users validate, {users['test']:,} test."]
    machines = sorted(
        {f"{m['cpu']}, {m['threads']} thread(s), torch {m['torch']}" for m in (c["machine"] for c in done)}
    )
    facts += [f"Machine: {'; '.join(machines)}."]
    versions = len({cell["code"] for cell in done})
    if versions > 1:
        facts += [f"The cells come from {versions} versions of the code; only cells of one version are compared."]
    return [*facts, ""]


def _difference_columns(tables: Tables) -> tuple[str, ...]:
    differences = (f"{pair.label}: Δ {part}" for pair in tables.pairs for part in PARTS)
    return ("cell", "what changes", "seed", *differences, "effective rank", "seconds", "peak MB")


def _figure_columns(tables: Tables) -> tuple[str, ...]:
    return ("cell", "seed", "model", *(f"{part} {METRIC_LABELS[m]}" for part in PARTS for m in tables.metrics))


_INTERESTS = (
    "cell", "seed", "codes", "cells in use", "items a cell", "interests shown", "effective rank", "cosine",
    "conditioned: effective rank", "conditioned: cosine",
)  # fmt: skip


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(r)} |" for r in rows), ""]


def _difference_row(cell: dict[str, Any], time: str, tables: Tables) -> list[str]:
    paired = cell.get("paired", {}).get(time, {})
    differences = [_difference(paired.get(part, {}).get(pair.label)) for pair in tables.pairs for part in PARTS]
    says = CELLS[cell["cell"]].says
    return [
        cell["cell"], says, str(cell["seed"]), *differences,
        _number(cell["effective_rank"]), f"{cell['seconds_in_all']:,.0f}", _number(cell["peak_mb"], ",.0f"),
    ]  # fmt: skip


def _difference(found: list[float] | None) -> str:
    if found is None:
        return "–"
    mean, low, high = found
    text = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _number(found: float | None, form: str = ".2f") -> str:
    return "–" if found is None else f"{found:{form}}"


def _over_seeds(cells: list[dict[str, Any]], time: str, tables: Tables) -> list[str]:
    """Mean and range of the differences of cells that were compared under several seeds."""
    lines = []
    for name in CELLS:
        seeds = [cell["paired"][time] for cell in cells if cell["cell"] == name and "paired" in cell]
        if len(seeds) > 1:
            words = []
            for label, part in ((pair.label, part) for pair in tables.pairs for part in PARTS):
                found = [seed[part][label][0] for seed in seeds if label in seed[part]]
                if found:
                    mean = sum(found) / len(found)
                    words.append(f"{label} {part} {mean:+.4f} ({min(found):+.4f} to {max(found):+.4f})")
            lines.append(f"- {name}, {len(seeds)} seeds, mean Δ and range: {'; '.join(words)}.")
    return [*lines, ""] if lines else []


def _figure_rows(cell: dict[str, Any], time: str, tables: Tables) -> list[list[str]]:
    rows = []
    for row, label in tables.rows.items():
        figures = [cell["rows"][time][part][row].get(metric) for part in PARTS for metric in tables.metrics]
        shown = ["–" if found is None else "{:.4f} [{:.4f}, {:.4f}]".format(*found) for found in figures]
        rows.append([cell["cell"], str(cell["seed"]), label, *shown])
    return rows


def _interest_row(cell: dict[str, Any]) -> list[str]:
    interests, dictionary = cell["interests"], cell["dictionary"]
    cells = ["–"] * 3
    if dictionary is not None:
        codes = " × ".join(map(str, dictionary["sizes"]))
        cells = [codes, str(dictionary["occupied"]), f"{dictionary['items_per_cell']:.1f}"]
    spread = ("effective_rank", "cosine", "conditioned_effective_rank", "conditioned_cosine")
    shown = [f"{interests['shown']:.0f}", *(_number(interests[figure]) for figure in spread)]
    return [cell["cell"], str(cell["seed"]), *cells, *shown]

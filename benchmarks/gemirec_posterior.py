r"""GemiRec's posterior: likelihood, calibration, and recall of new interests against three baselines.

    python -m benchmarks.gemirec_posterior --env ml1m --out benchmarks/results/gemirec_posterior

On the test cases of a finished workspace, or on `--part validation` to choose by. A new interest is a target's cell
that no event of the history has. All rankers order the cells that the history does not have, and recall@k asks how
many of the targets' new cells are among the first k; history frequency could find none of them. The baselines:

- *popularity* of the cells;
- *markov*: a first-order chain over cells, from the cell of the latest event (smoothed by popularity);
- *single_vector*: the tuned SASRec's list of items, mapped to cells in the order in which the list reaches them;
- *single_vector_mass*, beyond the paper page's three: SASRec's probabilities summed by cell, as a posterior would.

Ours are GemiRec's posterior and that of the unified model (`prismrec`). The baselines read the order of events only, so
the comparison between equals is the one without times; the rows `…_timed` have the times of all events and of the
request, as they are served.

The first two count all events before the target, as all heuristics of the evaluation do; what is trained has seen the
training events alone. Figures are means over users with 95 % bootstrap intervals, differences are paired. Calibration
error: `metrics.calibration`, 15 bins of equal width, of the likeliest cell and of the cells that are shown. The beam's
recall is the share of the exact shown cells that a beam of so many prefixes finds.

Shapes: C cases, T targets, G cells, N items.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.prepare import open_environment
from prismrec.artifacts.model_folder import dump_json
from prismrec.data.histories import SplitPoints
from prismrec.evaluation.intervals import bootstrap_means, paired_bootstrap
from prismrec.evaluation.protocols import Cases, make_cases
from prismrec.metrics.calibration import calibration_error, log_likelihood, shown_cells
from prismrec.metrics.interests import best_of_cells, cell_transitions, new_cell_recall
from prismrec.models.baselines import SASRecRanker
from prismrec.models.events import EventTable
from prismrec.models.rankers import GEMIREC, PRISMREC
from prismrec.pipelines.evaluation.nodes import our_rankers
from prismrec.pipelines.inputs import event_table

CUTOFFS = (1, 5, 10, 20)
WIDTHS = (8, 16, 32)  # of the beam
CHUNK = 64  # users scored at once
LAWS = {"posterior": GEMIREC, "prismrec": PRISMREC}  # our rows, and the rankers whose P(cell | user) they are
TIMED = "_timed"


def load_rankers(catalog: Any, part: str) -> dict[str, Any]:
    """Our rankers of a workspace by name, with the transitions that this part's targets allow."""
    names = [
        "item_vectors", "codebook", "item_codes", "lightweight_encoder", "recommender",
        "counted" if part == "test" else "training_counted",
        "merge", "dictionary", "item_cells", "posterior", "retrieval", "unified_merge", "interests_merge",
    ]  # fmt: skip
    return {ranker.name: ranker for ranker in our_rankers(*(catalog.load(name) for name in names))}


def sampled(cases: Cases, users: int, seed: int = 0) -> Cases:
    """A random so many of the cases, in their order; all of them where there are no more."""
    kept = np.sort(np.random.default_rng(seed).permutation(len(cases.users_C))[:users])
    return cases._replace(
        users_C=cases.users_C[kept], starts_C=cases.starts_C[kept],
        targets_CT=cases.targets_CT[kept], mask_CT=cases.mask_CT[kept],
    )  # fmt: skip


def log_laws(
    ours: dict[str, Any], sasrec: SASRecRanker, events: EventTable, cases: Cases, starts_U: np.ndarray
) -> tuple[dict[str, Tensor], Tensor]:
    """What each ranker says of the cells of every case, [C, G] by name, and the cells of their histories."""
    gemirec = ours[GEMIREC]
    cells_N, num_cells = gemirec.table.cells_N, len(gemirec.table.occupied_G)
    cells_E, offsets = cells_N.numpy()[events.items_E.numpy()], events.offsets_U1.numpy()
    transitions_GG = torch.from_numpy(cell_transitions(cells_E, offsets, starts_U, num_cells)).log().float()
    user_E = np.repeat(np.arange(len(events)), np.diff(offsets))
    counted_E = np.arange(len(user_E)) - offsets[user_E] < starts_U[user_E]
    counts_G = torch.from_numpy(np.bincount(cells_E[counted_E], minlength=num_cells) + 1.0)  # one more each
    popularity_G = counts_G.where(gemirec.table.occupied_G, 0.0).log().log_softmax(0).float()
    hidden_N = ~gemirec.table.recommendable_N
    untimed = events.without_times(np.ones(len(events), dtype=bool))
    rows: dict[str, list[Tensor]] = {}
    seen = []
    for start in range(0, len(cases.users_C), CHUNK):
        part = slice(start, start + CHUNK)
        users_B, ends_B = torch.from_numpy(cases.users_C[part]), torch.from_numpy(cases.starts_C[part])
        items_BN = sasrec.scores(events, users_B, ends_B).float().masked_fill(hidden_N, -torch.inf)
        mass_BN = (items_BN * sasrec.model.scale).softmax(1)
        mass_BG = torch.zeros(len(users_B), num_cells).index_add_(1, cells_N, mass_BN)
        said = {
            **{name: ours[of].claims(untimed, users_B, ends_B).weights_BG for name, of in LAWS.items()},
            **{name + TIMED: ours[of].claims(events, users_B, ends_B).weights_BG for name, of in LAWS.items()},
            "popularity": popularity_G.expand(len(users_B), -1),
            "markov": transitions_GG[cells_N[events.item_at(users_B, ends_B - 1)]],
            "single_vector": best_of_cells(items_BN, cells_N, num_cells),
            "single_vector_mass": mass_BG.log(),
        }
        for name, log_BG in said.items():
            rows.setdefault(name, []).append(log_BG)
        seen.append(gemirec.table.seen(events.cut(users_B, torch.zeros_like(ends_B), ends_B)))
    return {name: torch.cat(parts) for name, parts in rows.items()}, torch.cat(seen)


def beam_recall(gemirec: Any, events: EventTable, cases: Cases) -> dict[str, float]:
    """Share of the exact shown cells that a beam finds, by its width, over the first CHUNK cases of each end."""
    both = np.r_[np.arange(len(cases.users_C))[:CHUNK], np.arange(len(cases.users_C))[-CHUNK:]]
    users_B, ends_B = torch.from_numpy(cases.users_C[both]), torch.from_numpy(cases.starts_C[both])
    states_BH, prior_BG = gemirec.states(events, users_B, ends_B)
    exact_BK = gemirec.posterior.all_cells(states_BH, prior_BG).topk(gemirec.num_interests, dim=1).indices
    found = {}
    for width in WIDTHS:
        cells_BW = gemirec.posterior.beam(states_BH, prior_BG, width).cells_PW
        found[str(width)] = float((exact_BK[:, :, None] == cells_BW[:, None]).any(2).float().mean())
    return found


def recall_figures(laws: dict[str, Tensor], seen_CG: Tensor, cells_CT: Tensor, mask_CT: Tensor) -> dict[str, Any]:
    """Recall of new interests of each ranker with intervals, and ours minus theirs, paired."""
    each = {name: new_cell_recall(law_CG, seen_CG, cells_CT, mask_CT, CUTOFFS) for name, law_CG in laws.items()}
    baselines = [name for name in laws if name.removesuffix(TIMED) not in LAWS]
    report: dict[str, Any] = {}
    for metric in each["posterior"]:
        values_CM = np.stack([found[metric] for found in each.values()], axis=1)
        low_M, high_M = bootstrap_means(values_CM)
        means_M = np.nanmean(values_CM, axis=0)
        report[metric] = {
            "mean_low_high": {
                name: [float(means_M[m]), float(low_M[m]), float(high_M[m])] for m, name in enumerate(each)
            },
            "minus": {
                name: {other: list(paired_bootstrap(each[name][metric], each[other][metric])) for other in baselines}
                for name in each
                if name not in baselines
            },
        }
    return report


@torch.inference_mode()
def measure(
    ours: dict[str, Any], sasrec: SASRecRanker, events: EventTable, cases: Cases, starts_U: np.ndarray
) -> dict[str, Any]:
    """All figures of one workspace."""
    gemirec = ours[GEMIREC]
    cells_CT, mask_CT = gemirec.table.cells_N[torch.from_numpy(cases.targets_CT)], torch.from_numpy(cases.mask_CT)
    laws, seen_CG = log_laws(ours, sasrec, events, cases, starts_U)
    errors = {}
    for name in (law for law in laws if law.removesuffix(TIMED) in LAWS):
        for told, shown in (("likeliest", 1), ("shown", gemirec.num_interests)):
            said_CK, came_CK = shown_cells(laws[name], cells_CT, mask_CT, shown)
            errors[f"{name}_{told}"] = calibration_error(said_CK.ravel(), came_CK.ravel())
    new_CT = mask_CT & ~seen_CG.gather(1, cells_CT)
    return {
        "cases": {"users": len(cases.users_C), "targets": int(mask_CT.sum()), "new": int(new_CT.sum())},
        "cells": {"occupied": int(gemirec.table.occupied_G.sum()), "seen_mean": float(seen_CG.sum(1).float().mean())},
        "log_likelihood": {
            name: float(log_likelihood(law_CG, cells_CT, mask_CT).mean())
            for name, law_CG in laws.items()
            if name != "single_vector"  # which gives an order, no probabilities
        },
        "calibration_error": errors,
        "beam_recall": beam_recall(gemirec, events, cases),
        **recall_figures(laws, seen_CG, cells_CT, mask_CT),
    }


def as_table(report: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{key}: {report[key]}" for key in ("cases", "cells", "log_likelihood", "calibration_error", "beam_recall")
    ]
    for metric, figures in report.items():
        if not metric.startswith("new_cell_recall"):
            continue
        for name, (mean, low, high) in figures["mean_low_high"].items():
            line = f"{metric:<18} {name:<20} {mean:.4f} [{low:.4f}, {high:.4f}]"
            for ours in LAWS:
                differences = figures["minus"][ours]
                if name in differences:
                    line += "  {} {:+.4f} [{:+.4f}, {:+.4f}]".format(ours, *differences[name])
            lines.append(line)
    return "\n".join(lines)


def parse(description: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """The options of what measures a workspace's cases."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="base", help="Kedro environment, such as base (the demo) or ml1m")
    parser.add_argument("--part", choices=("validation", "test"), default="test", help="which targets")
    parser.add_argument("--users", type=int, default=100_000, help="a random so many at most")
    parser.add_argument("--out", type=Path, help="folder of the JSON; printed only, where none is given")
    return parser.parse_args(arguments)


def write(folder: Path | None, workspace: str, report: dict[str, Any]) -> None:
    """Write the workspace's JSON, whole or not at all, where a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f"{workspace}.partial"
        written.write_text(dump_json(report))
        written.replace(folder / f"{workspace}.json")


def main(arguments: list[str] | None = None) -> None:
    """Measure one environment's workspace."""
    options = parse(__doc__, arguments)
    catalog, settings, _ = open_environment(options.env)
    histories, points = catalog.load("histories"), SplitPoints.from_frame(catalog.load("splits"))
    events = event_table(histories)
    starts_U, ends_U = (getattr(points, f"{options.part}_{end}_U") for end in ("start", "end"))
    cases = sampled(make_cases(events, starts_U, ends_U, "filtered"), options.users)
    ours = load_rankers(catalog, options.part)
    report = measure(ours, SASRecRanker(catalog.load("sasrec")), events, cases, starts_U)
    report["made_with"] = {"env": options.env, "part": options.part}
    print(as_table(report), flush=True)
    write(options.out, settings["workspace"], report)


if __name__ == "__main__":
    main()

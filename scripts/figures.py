"""Write docs/reference/figures.md, and the README's short table, from finished workspaces.

    python scripts/figures.py demo ml1m beauty

A data set is the environment that ran it; `demo` is the base environment. Its last evaluation is what is written, so
no figure is copied by hand. Data sets that are not named keep what stands there. An evaluation of a final fit, or under
multi-target users, goes to sections of its own, on the page alone.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prismrec.artifacts.stage_record import runs_of, stage_cost
from prismrec.commands import frame
from prismrec.commands.report import latest_metrics
from prismrec.evaluation.page_sections import metric_name
from prismrec.evaluation.report import as_table
from prismrec.evaluation.rows import TIME_FREE_SUFFIX, TIMES, clear_best, interval_of, number, rows_of, span
from prismrec.pipeline_registry import STAGES

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGE = PROJECT / "docs" / "reference" / "figures.md"
METRICS = ("hr@10", "ndcg@10", "hr@50")
USERS_METRICS = (
    "recall@20",
    "recall@50",
    "ndcg@50",
    "hr@50",
    "effective_rank",
    "cells_hit@50",
)  # under multi-target users
OTHER_METRICS = ("recall@20", "recall@50")  # there, with what a user has seen allowed again, or not
# Nodes that stand apart in the table of costs: they take most of their stage's time.
APART = {
    "llm_recommender": {"train_recommender": "training", "fit_merge": "transitions and merge"},
    "evaluation": {"train_sasrec": "SASRec", "train_comirec": "ComiRec-SA", "evaluate_models": "measuring"},
}


def environment(data: str) -> str | None:
    """The Kedro environment of a data set."""
    return None if data == "demo" else data


def filled(text: str, name: str, content: str) -> str:
    """The text with what stands between a section's two markers replaced.

    Raises:
        SystemExit: it has no such section.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise SystemExit(f"There is no section {begin} … {end}.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def figures(report: Mapping[str, Any]) -> str:
    """All rows of one data set, without the rules, which are the same for all."""
    table = as_table(report)
    parts = re.split(r"^## ", table, flags=re.MULTILINE)
    wanted = [f"**{part.splitlines()[0]}**\n{grid(part)}" for part in parts if part.splitlines()[0] in TIMES.values()]
    cases = report["cases"]["test"]
    split, seed = report["split_hash"][:12], report["seed"]
    facts = f"{cases['users']:,} cases, {report['items']:,} items, split `{split}`, seed {seed}."
    return "\n\n".join([facts, *wanted, f"Verdict: {verdict(report)}"])


def grid(part: str) -> str:
    """The table's own lines."""
    return "\n".join(["", *(line for line in part.splitlines() if line.startswith("|"))])


def verdict(report: Mapping[str, Any]) -> str:
    """One line on promotion."""
    found = report["promotion"]
    return f"{found['candidate']} is the candidate, {'promoted' if found['promoted'] else 'not promoted'}."


def section(report: Mapping[str, Any]) -> str:
    """Where an evaluation's figures go."""
    if report["protocol"]["name"] == "multi_target_users":
        return "users"
    return "final" if report.get("final_fit") else "figures"


def short(report: Mapping[str, Any], metrics: Sequence[str] = METRICS) -> str:
    """A few figures of every row, time-free and time-aware ones apart; those of the other rule on histories beside."""
    lines, other = [], report["other_history"]
    beside = [metric for metric in OTHER_METRICS if other and metrics is USERS_METRICS]
    headings = [*map(metric_name, metrics), *(f"{metric_name(m)}, {other['rule']}" for m in beside)]
    for time, heading in TIMES.items():
        names = rows_of(report, time)
        lines += [
            "",
            f"*{heading}*",
            "",
            f"| model | {' | '.join(headings)} |",
            "|---|" + "---|" * len(headings),
        ]
        best = clear_best(report, names)
        for name in names:
            label = name.removesuffix(TIME_FREE_SUFFIX)
            cells = [cell(report, name, metric) for metric in metrics]
            cells += [number(other["models"][name].get(metric)) for metric in beside]
            lines.append(f"| {f'**{label}**' if name == best else label} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def cell(report: Mapping[str, Any], name: str, metric: str) -> str:
    """A figure with its interval."""
    return f"{number(report['models'][name].get(metric))} {span(interval_of(report, name, metric))}".strip()


def all_runs(environment: str | None) -> dict[str, list[dict[str, Any]]]:
    """The `run.json` of every run of every stage that has one, oldest first."""
    workspace = frame.catalog(environment)["evaluation_metrics"].entry.parents[1]
    found = {stage: runs_of(workspace, stage) for stage in STAGES}
    return {stage: runs for stage, runs in found.items() if runs}


def costs(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Every stage's seconds and peak memory, and the seconds of its long nodes."""
    for stage, of_stage in runs.items():
        cost = stage_cost(of_stage)
        yield stage, f"{cost.seconds:,.0f} s, {cost.peak_mb / 1000:.1f} GB"
        for node, label in APART.get(stage, {}).items():
            if node in cost.nodes:
                yield f"– of which {label}", f"{cost.nodes[node]:,.0f} s"


def main() -> None:
    """Fill the sections of the data sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = ("demo", "ml1m", "beauty", "steam", "ml100k")
    parser.add_argument("data", nargs="+", choices=sets, help="data sets whose workspaces are read")
    page, readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    for data in parser.parse_args().data:
        report = json.loads(latest_metrics(environment(data)))
        name = f"{section(report)}:{data}"
        if section(report) == "users":
            facts = f"{report['cases']['test']['users']:,} users, split `{report['split_hash'][:12]}`"
            page = filled(page, name, f"{facts}, seed {report['seed']}.\n\n{short(report, USERS_METRICS)}")
            continue
        page = filled(page, name, figures(report))
        if section(report) == "final":
            continue
        cost = [
            "| stage | time and peak memory |",
            "|---|---|",
            *(f"| {a} | {b} |" for a, b in costs(all_runs(environment(data)))),
        ]
        page = filled(page, f"costs:{data}", "\n".join(cost))
        readme = filled(readme, f"figures:{data}", short(report))
    PAGE.write_text(page, encoding="utf-8")
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()

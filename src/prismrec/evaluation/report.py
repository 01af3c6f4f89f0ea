"""The evaluation for people: a table for terminals and Markdown, and one HTML page that needs nothing beside it.

Notable: both say the protocol's rules before any figure, and both show everything that was left out, with its reason.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prismrec.evaluation import page_sections as sections
from prismrec.evaluation.rows import (
    MISSING,
    TIME_FREE_SUFFIX,
    TIMES,
    case_counts,
    clear_best,
    interval_of,
    number,
    ranked_by,
    rows_of,
    span,
)
from prismrec.pages.style import STYLE

WIDTH = 120  # columns of a terminal
Column = tuple[str, str, bool]  # header, metric, whether its interval stands beside it
COLUMNS: tuple[Column, ...] = (
    ("HR@10", "hr@10", True),
    ("HR@20", "hr@20", False),
    ("HR@50", "hr@50", False),
    ("NDCG@10", "ndcg@10", True),
    ("NDCG@20", "ndcg@20", False),
    ("NDCG@50", "ndcg@50", False),
    ("cov@10", "coverage@10", False),
)
PARTS = ("validation", "test")
RULES = ("ties", "filter", "repeats", "time")


def as_table(report: Mapping[str, Any]) -> str:
    """The test figures as Markdown that also reads well in a terminal of 120 columns."""
    parts = [f"# {report['data_set']}", _rules(report)]
    for time, heading in TIMES.items():
        names = rows_of(report, time)
        if names:
            parts += [f"## {heading}", _grid(report, names, COLUMNS, clear_best(report, names))]
    note = (
        f"Brackets: 95 % interval over users. Rows stand by {ranked_by(report)}; bold: better than the next row beyond "
        "the paired interval. cov: share of the catalogue that is recommended."
    )
    parts.append(_fill(note))
    if report["left_out"]:
        parts.append("\n".join(_fill(f"- left out: {name}: {why}") for name, why in sorted(report["left_out"].items())))
    parts += _other_history(report)
    parts += ["## Verdict", verdict_text(report["promotion"])]
    return "\n\n".join(parts) + "\n"


def verdict_text(promotion: Mapping[str, Any]) -> str:
    """Promoted or not, with the reasons, as Markdown."""
    word = "promoted" if promotion["promoted"] else "not promoted"
    reasons = "\n".join(_fill(f"- {reason}") for reason in promotion["reasons"])
    return f"Candidate {promotion['candidate']}: {word}.\n\n{reasons}"


def report_page(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole report as one HTML page: no script, no file beside it, no network.

    Args:
        report: the evaluation's figures.
        curves: training curves by catalog entry, each {"epochs": [{"epoch", "loss", "parts", "validation"}]}.
    """
    title = f"Evaluation: {escape(report['data_set'])}"
    body = [
        f"<header><h1>{title}</h1>{sections.subtitle(report)}</header>",
        "<main>",
        sections.rules(report),
        sections.verdict(report),
        sections.headline(report),
        sections.bars(report),
        sections.accuracy(report),
        sections.against_baselines(report),
        sections.lists(report),
        sections.many_interests(report),
        sections.slices(report),
        sections.health(report),
        sections.training(curves),
        sections.other_history(report),
        sections.settings(report),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _rules(report: Mapping[str, Any]) -> str:
    protocol, settings = report["protocol"], report["settings"]
    lines = [f"- protocol: {protocol['name']}. {protocol['description']}"]
    lines += [f"- {rule}: {protocol[rule]}" for rule in RULES]
    lines += [f"- cases, {part}: {case_counts(report['cases'][part])}" for part in PARTS]
    lines.append(f"- {report['items']:,} items, split {report['split_hash'][:12]}, seed {report['seed']}, "
                 f"{settings['bootstrap_draws']:,} draws of users")  # fmt: skip
    return "\n".join(_fill(line) for line in lines)


def _other_history(report: Mapping[str, Any]) -> list[str]:
    """The same tables under the other rule on what a user has seen; nothing under leave-one-out."""
    found = report["other_history"]
    if not found:
        return []
    parts = [f"## History {found['rule']}", _fill(f"{found['filter']} Cases: {case_counts(found['cases'])}.")]
    figures = {"models": found["models"], "intervals": found.get("intervals", {})}
    for time, heading in TIMES.items():
        names = [name for name in rows_of(report, time) if name in found["models"]]
        if names:
            parts += [f"### {heading}", _grid(figures, names, COLUMNS[:-1], None)]
    return parts


def _grid(report: Mapping[str, Any], names: list[str], columns: Sequence[Column], best: str | None) -> str:
    lines = [["model", *(header for header, _, _ in columns)]]
    for name in names:
        shown = name.removesuffix(TIME_FREE_SUFFIX)
        lines.append([f"**{shown}**" if name == best else shown, *(_cell(report, name, c) for c in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    rows = [
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    ]
    return "\n".join([rows[0], rule, *rows[1:]])


def _cell(report: Mapping[str, Any], name: str, column: Column) -> str:
    _, metric, with_interval = column
    text = number(report["models"][name].get(metric))
    if text == MISSING or not with_interval:
        return text
    return f"{text} {span(interval_of(report, name, metric))}".strip()


def _fill(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)

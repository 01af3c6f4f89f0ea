"""How tables and charts read the evaluation's JSON: which rows stand together, in which order, how numbers look.

Time-free and time-aware rows never share a table or a chart. Rows stand by the metric of the paired comparisons, best
first, and the first is called the best only when its paired 95 % interval against the second is above 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FREE, AWARE = "free", "aware"
TIMES = {
    FREE: "Time-free: models that read the order of events only",
    AWARE: "Time-aware: models that also read times, of events or of the request",
}
TIME_FREE_SUFFIX = "_time_free"
MISSING = "–"
SHOWN = 5  # rows that a chart of slices, or a table of paired differences, has room for


def ranked_by(report: Mapping[str, Any]) -> str:
    """The metric that orders all tables."""
    metric: str = report["paired"]["metric"]
    return metric


def rows_of(report: Mapping[str, Any], time: str) -> list[str]:
    """Names of the rows of one kind, best first; of equals the first in alphabetical order."""
    models, metric = report["models"], ranked_by(report)
    names = sorted(name for name, row in models.items() if row["time"] == time)
    return sorted(names, key=lambda name: -models[name][metric])


def clear_best(report: Mapping[str, Any], names: list[str]) -> str | None:
    """The first of the rows if it is better than the second beyond the paired interval, else None."""
    if len(names) < 2:
        return None
    low: float = report["paired"]["against"][names[1]][names[0]]["low"]
    return names[0] if low > 0 else None


def contrasting_rows(report: Mapping[str, Any], names: list[str]) -> list[str]:
    """The first two rows of every family, best first, at most SHOWN in all: what fits into one chart."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(report["models"][name]["family"], []).append(name)
    kept = {name for group in families.values() for name in group[:2]}
    return [name for name in names if name in kept][:SHOWN]


def label_of(report: Mapping[str, Any], name: str) -> str:
    """A row's name for people."""
    label: str = report["models"][name]["label"]
    return label


def interval_of(report: Mapping[str, Any], name: str, metric: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure, or None where it has none."""
    found = report["intervals"].get(name, {}).get(metric)
    return None if found is None else (found[0], found[1])


def number(value: float | None, digits: int = 4) -> str:
    """A figure with so many decimals, without the zero before the point; a dash where there is none."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def span(ends: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval in brackets; nothing where there is none."""
    return "" if ends is None else f"[{number(ends[0], digits)} {number(ends[1], digits)}]"


def case_counts(counts: Mapping[str, int]) -> str:
    """How many cases there are, what became of targets that are in the history, and which users are no case."""

    def named(words: Mapping[str, str]) -> str:
        return ", ".join(f"{counts[key]:,} {word}" for key, word in words.items() if counts[key])

    text = f"{counts['users']:,} users, {counts['targets']:,} targets"
    targets = named({"left_out": "left out", "repeated": "repeated and counted"})
    text += f" (targets in the history: {targets})" if targets else ", none of them in the history"
    users = named({"users_left_out": "with no other target", "users_without_history": "without a history"})
    return text + (f"; users left out: {users}" if users else "")


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings as texts by dotted key."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        key = f"{above}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: f"{value}"}
    return found

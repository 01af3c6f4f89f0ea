"""The validation report as one HTML page for people: no script, no file beside it, no network.

Warnings come first, for they want an answer; what was quarantined next. Every value goes through `html.escape`: titles,
ids and file names are foreign text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from prismrec.data.profile import DAY
from prismrec.data.watches import day_of
from prismrec.pages.style import STYLE
from prismrec.pages.svg import column_chart

MOST_KINDS_SHOWN = 12
OWN_STYLE = """
.warning { border-left: .35rem solid var(--incumbent); background: var(--soft); border-radius: .4rem;
  padding: .5rem 1rem; margin: .6rem 0; } .warning p { margin: .15rem 0; max-width: none; }
.warning b { font-variant-numeric: tabular-nums; }
td:first-child code { overflow-wrap: normal; white-space: nowrap; } td > small { display: block; }
td > details { margin: .2rem 0; } details ul { margin: .25rem 0; padding-left: 1.2rem; }
tr.zero td, tr.zero th { color: var(--quiet); }
""".strip()


def render_page(report: Mapping[str, Any]) -> str:
    """Render the report that `prismrec.data.report.build_reports` makes."""
    body = [
        f"<header><h1>Data validation</h1>{_subtitle(report)}</header>",
        "<main>",
        _verdict(report),
        _tiles(report),
        _warnings(report["warnings"]),
        *(_quarantined(name, table) for name, table in report["tables"].items()),
        _distributions(report["profile"]),
        _drift(report["drift"]),
        _facts(report["facts"]),
        _watched(report["tables"]),
        _checks(report["tables"]),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data validation</title>\n<style>\n{STYLE}\n{OWN_STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _subtitle(report: Mapping[str, Any]) -> str:
    profile = report["profile"]
    span = " to ".join(day_of(profile[key]) for key in ("first_timestamp", "last_timestamp"))
    return f'<p class="quiet">Source <code>{escape(report["source"])}</code>, events from {escape(span)} (UTC).</p>'


def _verdict(report: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<li>{escape(name)}: {table['rows_in']:,} rows in = {table['rows_out']:,} validated + "
        f"{table['rows_quarantined']:,} quarantined ({table['quarantined_share']:.2%})</li>"
        for name, table in report["tables"].items()
    )
    forgotten = report["facts"].get("forgotten")
    if forgotten:
        lines += (
            f"<li>forgotten: {forgotten['rows']:,} rows of {forgotten['users']:,} users who asked for it were left "
            "out while reading</li>"
        )
    count = len(report["warnings"])
    warnings = f", with {count} warning{'s' if count != 1 else ''}" if count else ""
    return f'<section class="verdict yes"><h2>Accepted{warnings}</h2><ul>{lines}</ul></section>'


def _tiles(report: Mapping[str, Any]) -> str:
    profile = report["profile"]
    tiles = {
        "events": (f"{profile['events']:,}", f"median user {profile['history_length']['p50']:,.0f}"),
        "users": (f"{profile['users']:,}", f"longest history {profile['history_length']['p100']:,.0f}"),
        "items with events": (f"{profile['items_with_events']:,}", f"of {profile['items']:,} described"),
        "days": (f"{(profile['last_timestamp'] - profile['first_timestamp']) // DAY + 1:,}", "first to last event"),
        "popularity": (f"{profile['popularity_gini']:.2f}", "Gini; 1: one item has all"),
    }
    return '<ul class="tiles">' + "".join(
        f"<li>{escape(label)}<b>{escape(value)}</b><small>{escape(note)}</small></li>"
        for label, (value, note) in tiles.items()
    ) + "</ul>"  # fmt: skip


def _warnings(warnings: Sequence[Mapping[str, Any]]) -> str:
    if not warnings:
        return "<h2>Warnings</h2><p>None: nothing looks odd.</p>"
    boxes = "".join(
        f'<section class="warning"><p>{_count(w["count"])}<code>{escape(w["name"])}</code> '
        f'<span class="quiet">({escape(w["table"])})</span> {escape(w["sentence"])}</p>'
        + (f"<p>{escape(_sentence(w['detail']))}</p>" if w["detail"] else "")
        + f'<p class="quiet">{escape(_sentence(w["mend"]))}</p></section>'
        for w in warnings
    )
    return f"<h2>Warnings</h2><p>Nothing was taken out for these; somebody should look at them.</p>{boxes}"


def _count(count: int | None) -> str:
    return f"<b>{count:,}</b> × " if count is not None else ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _quarantined(name: str, table: Mapping[str, Any]) -> str:
    rules = sorted((r for r in table["rules"] if r["severity"] != "warn"), key=lambda rule: -rule["rows"])
    rows = [
        (
            "",
            [
                f"<code>{escape(rule['name'])}</code><small>{escape(rule['severity'])}</small>",
                f"{rule['rows']:,}",
                escape(rule["sentence"]) + _examples(rule),
            ],
        )
        for rule in rules
        if rule["rows"]
    ]
    kept = ", ".join(f"<code>{escape(rule['name'])}</code>" for rule in rules if not rule["rows"])
    grid = _grid(
        f"{table['rows_quarantined']:,} of {table['rows_in']:,} rows; one may break several rules",
        ["rule", "rows", "what is wrong"],
        rows,
        numbers=(1,),
    )
    return f"<h2>Rows taken out: {escape(name)}</h2>{grid if rows else '<p>None.</p>'}" + (
        f'<p class="quiet">Broken by no row: {kept}.</p>' if kept else ""
    )


def _examples(rule: Mapping[str, Any]) -> str:
    if not rule["examples"]:
        return ""
    lines = "".join(
        f"<li>{escape(e['where'])}: <code>{escape(json.dumps(e['row'], ensure_ascii=False))}</code></li>"
        for e in rule["examples"]
    )
    mend = f'<p class="quiet">{escape(_sentence(rule["mend"]))}</p>'
    return f"<details><summary>examples and mend</summary><ul>{lines}</ul>{mend}</details>"


def _distributions(profile: Mapping[str, Any]) -> str:
    counts = profile["distributions"]
    time = profile["events_over_time"]
    days = [day_of((time["first_day"] + place * time["days_each"]) * DAY) for place in range(len(time["events"]))]
    each = f"{time['days_each']:,} days a column" if time["days_each"] > 1 else "one day a column"
    charts = [
        ("Length of histories", _ranges(counts["history_length"]), "events of a user", "users"),
        ("Popularity", _ranges(counts["popularity"]), "events of an item", "items"),
        ("Events over time", list(zip(days, time["events"], strict=True)), f"first day ({each})", "events"),
        ("Length of texts", _ranges(counts["text_length"]), "characters of an item's text", "items"),
        ("Kinds of events", _most_frequent(counts["event_kind"]), "kind", "events"),
        ("Weights", _most_frequent(counts["weight"]), "weight, two digits", "events"),
    ]
    figures = "".join(
        f"<figure><h3>{escape(title)}</h3>{column_chart(title, columns, x, y)}</figure>"
        for title, columns, x, y in charts
        if columns
    )
    return f'<h2>What the data look like</h2><div class="charts">{figures}</div>{_quantiles(profile)}'


def _ranges(counts: Mapping[str, int]) -> list[tuple[str, float]]:
    """Columns of doublings, the empty ones between them too."""
    lows = [int(low) for low in counts]
    edges = [low for low in (0, *(2**power for power in range(64))) if min(lows) <= low <= max(lows)]
    return [(str(low) if low < 2 else f"{low}–{2 * low - 1}", counts.get(str(low), 0)) for low in edges]


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, float]]:
    """In the order they have, the most frequent of them, cut to a label's length."""
    kept = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_KINDS_SHOWN]
    return [(name if len(name) <= 14 else name[:13] + "…", counts[name]) for name in counts if name in kept]


def _quantiles(profile: Mapping[str, Any]) -> str:
    names = {
        "a user's history, events": "history_length",
        "an item's popularity, events": "popularity",
        "a title, characters": "title_length",
        "a text, characters": "text_length",
    }
    columns = list(profile["history_length"])
    rows = [("", [label, *(f"{profile[key][c]:,.10g}" for c in columns)]) for label, key in names.items()]
    return _grid("Means and quantiles", ["", *columns], rows, numbers=range(1, 1 + len(columns)))


def _drift(measures: Sequence[Mapping[str, Any]] | None) -> str:
    heading = "<h2>Against the last accepted version</h2>"
    if measures is None:
        return f"{heading}<p>There is none to compare with: this is the first.</p>"
    rows = [
        (
            "" if m["moved"] else "zero",
            [
                escape(m["what"].replace("_", " ")),
                *(_measured(m["what"], m[key]) for key in ("before", "now")),
                _changed(m),
                '<span class="bad">moved</span>' if m["moved"] else "",
            ],
        )
        for m in measures
    ]
    note = "a distribution's change is its population stability index, its figures are counts"
    return heading + _grid(f"What moved ({note})", ["", "before", "now", "change", ""], rows, numbers=(1, 2, 3))


def _changed(measure: Mapping[str, Any]) -> str:
    if measure["index"]:
        return f"index {measure['change']:.3f}"
    return "from 0" if measure["change"] is None else f"{measure['change']:+.1%}"


def _measured(what: str, value: float) -> str:
    return day_of(int(value) * DAY) if what == "last_day" else f"{value:,.10g}"


def _facts(facts: Mapping[str, Any]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _flat(facts))
    return f"<h2>How the source was read</h2><dl>{lines}</dl>" if lines else ""


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of nested facts by its path; lists of plain values as one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path} › {key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path} {number + 1}")
    else:
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        shown = ("no", "yes")[shown] if isinstance(shown, bool) else shown
        yield path.replace("_", " "), f"{shown:,}" if isinstance(shown, int) else str(shown)


def _watched(tables: Mapping[str, Any]) -> str:
    rows = [
        ("", [f"<code>{escape(watch['name'])}</code>", escape(name), escape(watch["sentence"])])
        for name, table in tables.items()
        for watch in table["watches"]
        if not watch["count"]
    ]
    grid = _grid("Watched, and nothing found", ["watch", "table", "what would be odd"], rows)
    return f"<details><summary>{len(rows)} things were watched and not found</summary>{grid}</details>"


def _checks(tables: Mapping[str, Any]) -> str:
    parts = []
    for name, table in tables.items():
        checks = table["expectations"]
        rows = [
            ("", [f"<code>{escape(r['rule'])}</code>", f"<code>{escape(r['kind'])}</code>",
                  f"{r['unexpected_rows']:,}", _opinion(r["success"], r["severity"])])
            for r in checks["results"]
        ]  # fmt: skip
        grid = _grid(name.capitalize(), ["rule", "expectation", "unexpected", "verdict"], rows, numbers=(2,))
        parts.append(f"<p>{escape(name.capitalize())}: computed over {escape(checks['computed'])}.</p>{grid}")
    return (
        "<h2>Second opinion: Great Expectations over the validated rows</h2><details><summary>all expectations"
        f"</summary>{''.join(parts)}</details>"
    )


def _opinion(success: bool, severity: str) -> str:
    if success:
        return '<span class="good">holds</span>'
    return f'<span class="bad">{escape(severity)}</span>'


def _grid(caption: str, header: list[str], rows: Sequence[tuple[str, list[str]]], numbers: Sequence[int] = ()) -> str:
    """A table of rows, each a class and its cells; cells are HTML already."""

    def line(tag: str, cells: list[str], kind: str = "") -> str:
        kinds = (' class="number"' if i in numbers else "" for i in range(len(cells)))
        inner = "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"

    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead>{line("th", header)}</thead><tbody>'
        + "".join(line("td", cells, kind) for kind, cells in rows)
        + "</tbody></table></div>"
    )

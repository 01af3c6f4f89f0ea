"""The validation report as one HTML page for people: no script, no file beside it, no network.

Every value goes through `html.escape`: titles and ids are foreign text.
"""

import json
from datetime import UTC, datetime
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2a7d4f; --bad: #b3541e; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--soft); border-radius: .5rem; padding: .6rem 1rem; min-width: 7rem; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; font-weight: 600; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .85em; overflow-wrap: anywhere; } .good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
""".strip()


def render_page(report: dict[str, Any]) -> str:
    """Render the report that `prismrec.data.report.build_reports` makes."""
    body = [
        "<h1>Data validation</h1>",
        f"<p>Source: <b>{escape(report['source'])}</b>. Refused rows are in the quarantine.</p>",
        _profile(report["profile"]),
        *(_table(name, table) for name, table in report["tables"].items()),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data validation</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _profile(profile: dict[str, Any]) -> str:
    span = " to ".join(_day(profile[key]) for key in ("first_timestamp", "last_timestamp"))
    tiles = _tiles(
        {
            "events": f"{profile['events']:,}",
            "users": f"{profile['users']:,}",
            "items with events": f"{profile['items_with_events']:,}",
            "time (UTC)": span,
        }
    )
    columns = list(profile["history_length"])
    rows = [
        [label, *(f"{profile[key][column]:,.10g}" for column in columns)]
        for label, key in (("a user's history", "history_length"), ("an item's popularity", "popularity"))
    ]
    return tiles + _grid("Events: mean and quantiles", ["", *columns], rows, numbers=range(1, 1 + len(columns)))


def _table(name: str, table: dict[str, Any]) -> str:
    tiles = _tiles(
        {
            "rows in": f"{table['rows_in']:,}",
            "rows out": f"{table['rows_out']:,}",
            "quarantined": f"{table['rows_quarantined']:,} ({table['quarantined_share']:.2%})",
        }
    )
    rules = [
        [f"<code>{escape(r['name'])}</code>", escape(r["severity"]), f"{r['rows']:,}",
         escape(r["sentence"]) + _examples(r["examples"])]
        for r in table["rules"]
    ]  # fmt: skip
    checks = table["expectations"]
    results = [
        [f"<code>{escape(r['rule'])}</code>", f"<code>{escape(r['kind'])}</code>",
         f"{r['unexpected_rows']:,}", _verdict(r["success"], r["severity"])]
        for r in checks["results"]
    ]  # fmt: skip
    return "\n".join(
        [
            f"<h2>{escape(name.capitalize())}</h2>",
            tiles,
            _grid("Rules", ["rule", "severity", "rows", "what is wrong"], rules, numbers=(2,)),
            _grid(
                f"Great Expectations over the validated rows ({escape(checks['computed'])})",
                ["rule", "expectation", "unexpected", "verdict"], results, numbers=(2,),
            ),
        ]
    )  # fmt: skip


def _examples(examples: list[dict[str, Any]]) -> str:
    if not examples:
        return ""
    lines = "".join(
        f"<li>{escape(e['where'])}: <code>{escape(json.dumps(e['row'], ensure_ascii=False))}</code></li>"
        for e in examples
    )
    return f"<details><summary>examples</summary><ul>{lines}</ul></details>"


def _verdict(success: bool, severity: str) -> str:
    if success:
        return '<span class="good">holds</span>'
    return f'<span class="bad">{escape(severity)}</span>'


def _day(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).date().isoformat()


def _tiles(values: dict[str, str]) -> str:
    items = "".join(f"<li>{escape(label)}<b>{escape(value)}</b></li>" for label, value in values.items())
    return f'<ul class="tiles">{items}</ul>'


def _grid(caption: str, header: list[str], rows: list[list[str]], numbers: Any) -> str:
    """A table whose cells are HTML already."""

    def line(tag: str, cells: list[str]) -> str:
        kinds = (' class="number"' if i in numbers else "" for i in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead>{line("th", header)}</thead><tbody>'
        + "".join(line("td", row) for row in rows)
        + "</tbody></table></div>"
    )

"""The parts of the evaluation page, each an HTML fragment; one with nothing to show is empty.

Every text from outside goes through `html.escape`. A chart stands beside the table of the same figures, or names them
in its description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from prismrec.evaluation.rows import (
    AWARE,
    MISSING,
    SHOWN,
    TIME_FREE_SUFFIX,
    TIMES,
    case_counts,
    clear_best,
    contrasting_rows,
    flat,
    interval_of,
    label_of,
    number,
    ranked_by,
    rows_of,
    span,
)
from prismrec.pages.svg import Axis, Bar, Point, Series, bar_chart, dot_chart, key, line_chart

NAMES = {
    "hr": "HR", "recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "coverage": "coverage", "gini": "Gini of exposure",
    "novelty": "novelty, bits", "popularity_lift": "popularity lift", "diversity_text": "text diversity",
    "diversity_category": "category diversity", "category_kl": "category divergence, nats",
    "cells_hit": "target interests hit", "cells_hit_share": "share of target interests hit",
    "new_interest_recall": "recall of new interests",
    "effective_rank": "effective rank", "interest_cosine": "mean cosine of interests",
    "conditioned_effective_rank": "effective rank, conditioned", "conditioned_cosine": "mean cosine, conditioned",
    "interest_jaccard": "overlap of interests' items",
    "interests_shown": "interests in a list of ten", "largest_interest_share": "largest share of one",
}  # fmt: skip
LIST_FIGURES = (
    "coverage@10",
    "gini@10",
    "novelty@10",
    "popularity_lift@10",
    "diversity_text@10",
    "diversity_category@10",
    "category_kl@10",
)
INTEREST_FIGURES = ("effective_rank", "interest_cosine", "conditioned_effective_rank", "conditioned_cosine",
                    "interest_jaccard@50", "interests_shown", "largest_interest_share", "cells_hit@10",
                    "cells_hit_share@10", "new_interest_recall@10", "new_interest_recall@50")  # fmt: skip
SLICES = {
    "history_length": ("History length", "events before the target"),
    "popularity_decile": ("Item popularity", "decile of the target item, 1 the least popular"),
    "cold_items": ("Cold items", "the target item"),
    "planted_interests": ("Planted interests", "what the demo planted"),
}
CURVES = {
    "lightweight_encoder_curve": "Lightweight encoder", "llm_recommender_curve": "LLM recommender",
    "posterior_curve": "Posterior over interests (GemiRec)", "retrieval_curve": "Retrieval in an interest (GemiRec)",
    "sasrec_curve": "SASRec", "comirec_curve": "ComiRec-SA",
}  # fmt: skip
RIVALS = ("heuristic", "baseline", "incumbent")
SLICE_FIGURES = ("hr@10", "ndcg@10")


def metric_name(metric: str) -> str:
    """A metric's key as people read it: `hr@10` is HR@10."""
    base, at, k = metric.partition("@")
    return NAMES.get(base, base.replace("_", " ")) + at + k


def subtitle(report: Mapping[str, Any]) -> str:
    """One line: protocol, cases, catalogue, split."""
    test = report["cases"]["test"]
    return (
        f'<p class="quiet">{escape(report["protocol"]["description"])} {test["users"]:,} test users among '
        f"{report['items']:,} items, split <code>{escape(report['split_hash'][:12])}</code>, seed {report['seed']}.</p>"
    )


def verdict(report: Mapping[str, Any]) -> str:
    """Promoted or not, why, and every guard."""
    found = report["promotion"]
    word, tone = ("Promoted", "yes") if found["promoted"] else ("Not promoted", "no")
    incumbent = found["incumbent"]
    against = f", incumbent <b>{escape(incumbent['model'] or 'unreadable')}</b>" if incumbent else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in found["reasons"])
    rows = [
        [escape(guard["guard"].replace("_", " ")), _guard_state(guard), escape(guard["note"])]
        for guard in found["guards"]
    ]
    guards = _grid("Guards", ["guard", "", "figure and limit"], rows)
    return (
        f'<section class="verdict {tone}"><h2>{word}</h2><p>Candidate <b>{escape(found["candidate"])}</b>{against}</p>'
        f"<ul>{reasons}</ul><details><summary>All {len(rows)} guards</summary>{guards}</details></section>"
    )


def _guard_state(guard: Mapping[str, Any]) -> str:
    if guard["value"] is None:
        return '<span class="quiet">–</span>'
    return '<span class="good">kept</span>' if guard["kept"] else '<span class="bad">broken</span>'


def headline(report: Mapping[str, Any]) -> str:
    """The candidate's main figures as tiles."""
    name = report["promotion"]["candidate"]
    row = report["models"][name]
    metrics = ("hr@10", "ndcg@10", "mrr@10", "hr@50", "coverage@10", "diversity_text@10", "new_interest_recall@10")
    tiles = "".join(
        f"<li>{escape(metric_name(metric))}<b>{number(row[metric])}</b>"
        f"<small>{span(interval_of(report, name, metric)) or '&nbsp;'}</small></li>"
        for metric in metrics
        if row.get(metric) is not None
    )
    kind = "time-aware" if row["time"] == AWARE else "time-free"
    return f'<h2>{escape(label_of(report, name))}, the candidate ({kind})</h2><ul class="tiles">{tiles}</ul>'


def bars(report: Mapping[str, Any]) -> str:
    """Each row's accuracy as bars with whiskers; colours say which family it is of."""
    figures = []
    for time, heading in TIMES.items():
        for metric in ("hr@10", "ndcg@10"):
            names = [name for name in rows_of(report, time) if report["models"][name].get(metric) is not None]
            if names:
                chart = bar_chart(f"{metric_name(metric)}. {heading}", [_bar(report, name, metric) for name in names])
                caption = f"{metric_name(metric)}, {heading.partition(':')[0].lower()}"
                figures.append(f"<figure><figcaption>{caption}</figcaption>{chart}</figure>")
    families = (("heuristic", "untrained"), ("baseline", "trained baseline"), ("prismrec", "ours"),
                ("incumbent", "incumbent"))  # fmt: skip
    present = {row["family"] for row in report["models"].values()}
    legend = "".join(
        f'<li><svg viewBox="0 0 14 14" aria-hidden="true"><rect class="{kind}" width="14" height="14"/></svg>'
        f"{text}</li>"
        for kind, text in families
        if kind in present
    )
    return (
        f'<h2>Against the baselines</h2><ul class="legend">{legend}</ul><p class="quiet">Whiskers: 95 % interval over '
        'users. The candidate is bold.</p><div class="charts">' + "".join(figures) + "</div>"
    )


def _bar(report: Mapping[str, Any], name: str, metric: str) -> Bar:
    row = report["models"][name]
    chosen = name.removesuffix(TIME_FREE_SUFFIX) == report["promotion"]["candidate"]
    return Bar(row["label"], row[metric], interval_of(report, name, metric), row["family"], chosen)


def accuracy(report: Mapping[str, Any]) -> str:
    """Accuracy at all cutoffs with intervals; time-free and time-aware rows apart."""
    several = report["cases"]["test"]["targets"] != report["cases"]["test"]["users"]
    metrics = ("hr", "recall", "ndcg", "mrr") if several else ("hr", "ndcg", "mrr")
    columns = [f"{metric}@{k}" for k in report["cutoffs"] for metric in metrics]
    groups = [(f"@{k}", len(metrics)) for k in report["cutoffs"]]
    heads = [NAMES[metric] for _ in report["cutoffs"] for metric in metrics]
    note = (
        f'<p class="quiet">Rows stand by {metric_name(ranked_by(report))}. It is bold where the first row is better '
        "than the second beyond the paired 95 % interval. Brackets: 95 % interval over users."
        + ("" if several else " Every user has one target, so Recall equals HR.")
        + "</p>"
    )
    return "<h2>Accuracy</h2>" + note + _both(report, lambda names: _figures(report, names, columns, heads, groups))


def lists(report: Mapping[str, Any]) -> str:
    """What the lists show beside accuracy."""
    note = (
        '<p class="quiet">Of lists of ten. Coverage: share of the catalogue in any list. Gini: 0 shows all items '
        "alike. Novelty: mean −log2 of an item's share of training events. Popularity lift: popularity of lists over "
        "that of histories. Diversity: mean distance of a list's pairs, by text embedding or by category. "
        "Category divergence: how far a list's shares of categories are from the history's; 0: the same.</p>"
    )
    return "<h2>What the lists show</h2>" + note + _both(report, lambda n: _present(report, n, LIST_FIGURES))


def many_interests(report: Mapping[str, Any]) -> str:
    """Figures of several interests, and what a list gains from each."""
    note = (
        '<p class="quiet">Effective rank and mean cosine are of a user\'s interest vectors; a dash: the model has one. '
        "Where interests are cells of the dictionary these vectors are the cells' centres; conditioned: the user's "
        "vectors under each of them, which retrieval searches with. "
        "Interests in a list of ten: to how many its items belong, and the largest share of one. Target interests are "
        "cells of the dictionary; new ones are absent from the history.</p>"
    )
    tables = _both(report, lambda names: _present(report, names, INTEREST_FIGURES))
    return "<h2>Many interests</h2>" + note + _interest_curve(report) + tables


def _interest_curve(report: Mapping[str, Any]) -> str:
    points: Sequence[Mapping[str, Any]] = report["interest_curve"]
    if not points:
        return ""
    models = {point["model"]: label_of(report, point["model"]) for point in points}
    charts = []
    for x, y in (("diversity_text@10", "ndcg@10"), ("interests", "ndcg@10"), ("interests", "coverage@10")):
        chosen = [p for p in points if p.get(x) is not None and p.get(y) is not None]
        if not chosen:
            continue
        numbered = x != "interests"
        series = [
            Series(name, [_curve_point(p, x, y, numbered=numbered) for p in chosen if p["model"] == model])
            for model, name in models.items()
        ]
        title = f"{metric_name(y)} over {metric_name(x)}"
        chart = line_chart(title, series, Axis(metric_name(x)), Axis(metric_name(y)), (460, 320))
        caption = f"{title}{', by number of interests' if numbered else ''}"
        charts.append(f"<figure><figcaption>{caption}</figcaption>{chart}</figure>")
    columns = ("hr@10", "ndcg@10", "diversity_text@10", "diversity_category@10", "coverage@10")
    rows = [
        [escape(models[p["model"]]), str(p["interests"])]
        + [_with_span(p.get(column), p.get("intervals", {}).get(column)) for column in columns]
        for p in points
    ]
    header = ["model", "interests", *(metric_name(column) for column in columns)]
    table = _grid("Lists made of the strongest interests", header, rows, numbers_from=1)
    return (
        "<h3>Accuracy and diversity over the number of interests</h3>"
        f'<p class="quiet">Lists made of each user\'s strongest interests only, on {points[0]["cases"]:,} cases.</p>'
        + key(list(models.values()))
        + f'<div class="small charts">{"".join(charts)}</div><details><summary>As a table</summary>{table}</details>'
    )


def _curve_point(point: Mapping[str, Any], x: str, y: str, *, numbered: bool) -> Point:
    """A point with its number, or with its interval: both would cover each other."""
    if numbered:
        return Point(point[x], point[y], None, str(point["interests"]))
    ends = point.get("intervals", {}).get(y)
    return Point(point[x], point[y], ends and (ends[0], ends[1]))


def against_baselines(report: Mapping[str, Any]) -> str:
    """Paired differences of each row to the best rivals of its own kind."""
    metric, tables = metric_name(ranked_by(report)), []
    for time, heading in TIMES.items():
        names = rows_of(report, time)
        rivals = [name for name in names if report["models"][name]["family"] in RIVALS][:SHOWN]
        if rivals and len(names) > 1:
            header = ["model", *(f"− {escape(label_of(report, rival))}" for rival in rivals)]
            rows = [[escape(label_of(report, name)), *(_difference(report, r, name) for r in rivals)] for name in names]
            tables.append(_grid(heading, header, rows, numbers_from=1))
    if not tables:
        return ""
    note = (
        f'<p class="quiet">{metric} of the row minus that of the column, on the same users. Coloured: the paired 95 % '
        "interval excludes 0.</p>"
    )
    return "<h2>Paired differences</h2>" + note + "".join(tables)


def _difference(report: Mapping[str, Any], reference: str, name: str) -> str:
    if name == reference:
        return MISSING
    found = report["paired"]["against"][reference][name]
    tone = "good" if found["low"] > 0 else "bad" if found["high"] < 0 else ""
    text = f"{found['difference']:+.4f}<small>[{found['low']:+.4f} {found['high']:+.4f}]</small>"
    return f'<span class="{tone}">{text}</span>' if tone else text


def slices(report: Mapping[str, Any]) -> str:
    """Every slice as a chart and a table, with its number of cases and its intervals."""
    kinds = list(dict.fromkeys(part["slice"] for part in report["slices"]))
    parts = [_slice(report, kind, [p for p in report["slices"] if p["slice"] == kind and p["cases"]]) for kind in kinds]
    shown = "".join(parts)
    return f'<h2>Slices</h2><p class="quiet">Whiskers and brackets: 95 % interval.</p>{shown}' if shown else ""


def _slice(report: Mapping[str, Any], kind: str, parts: Sequence[Mapping[str, Any]]) -> str:
    if not parts:
        return ""
    title, axis = SLICES.get(kind, (kind.replace("_", " ").capitalize(), ""))
    groups = [
        (heading, [n for n in rows_of(report, time) if n in parts[0]["models"]]) for time, heading in TIMES.items()
    ]
    groups = [(heading, names) for heading, names in groups if names]
    head = f"<h3>{escape(title)}</h3>"
    if len(parts) == 1:  # nothing to compare along an axis
        tables = "".join(f"<div>{_single_slice(report, heading, parts[0], names)}</div>" for heading, names in groups)
        return f'{head}<div class="charts">{tables}</div>'
    charts = "".join(_slice_chart(report, title, axis, parts, names) for _, names in groups)
    tables = "".join(_slice_table(report, heading, parts, names) for heading, names in groups)
    return (
        f'{head}<div class="charts">{charts}</div>'
        f"<details><summary>{escape(title)} as tables</summary>{tables}</details>"
    )


def _single_slice(report: Mapping[str, Any], heading: str, part: Mapping[str, Any], names: list[str]) -> str:
    rows = [
        [escape(label_of(report, n)), *(_with_span(*_value_and_ends(part, n, metric)) for metric in SLICE_FIGURES)]
        for n in names
    ]
    caption = f"{part['label']}: {part['cases']:,} cases. {heading.partition(':')[0]}"
    return _grid(caption, ["model", *map(metric_name, SLICE_FIGURES)], rows, numbers_from=1)


def _value_and_ends(part: Mapping[str, Any], name: str, metric: str) -> tuple[float, tuple[float, float]]:
    value, low, high = part["models"][name][metric]
    return value, (low, high)


def _slice_chart(
    report: Mapping[str, Any], title: str, axis: str, parts: Sequence[Mapping[str, Any]], names: list[str]
) -> str:
    metric = "ndcg@10"
    names = contrasting_rows(report, names)
    heading = "time-aware" if report["models"][names[0]]["time"] == AWARE else "time-free"
    series = []
    for name in names:
        figures = [part["models"][name][metric] for part in parts]
        series.append(Series(label_of(report, name), [Point(i, v, (a, b)) for i, (v, a, b) in enumerate(figures)]))
    labels = tuple(part["label"].partition(" (")[0] for part in parts)
    chart = dot_chart(
        f"{metric_name(metric)}, {title}, {heading}", series, Axis(axis, labels), Axis(metric_name(metric), (), True)
    )
    counts = ", ".join(f"{escape(part['label'])}: {part['cases']:,}" for part in parts)
    return (
        f"<figure><figcaption>{metric_name(metric)}, {heading}. Cases: {counts}</figcaption>"
        f"{key([s.name for s in series])}{chart}</figure>"
    )


def _slice_table(report: Mapping[str, Any], caption: str, parts: Sequence[Mapping[str, Any]], names: list[str]) -> str:
    rows = []
    for name in names:
        for metric in SLICE_FIGURES:
            cells = [_with_span(*_value_and_ends(part, name, metric)) for part in parts]
            rows.append([escape(label_of(report, name)), metric_name(metric), *cells])
    header = ["model", "metric", *(f"{escape(p['label'])}<small>{p['cases']:,} cases</small>" for p in parts)]
    return _grid(caption, header, rows, numbers_from=2)


def health(report: Mapping[str, Any]) -> str:
    """Utilisation, perplexity and dead codes of codebook and dictionary, a level and jointly."""
    tables = []
    for part, figures in report["health"].items():
        levels = [key_.removeprefix("utilisation_") for key_ in figures if key_.startswith("utilisation_")]
        rows = [
            [level.replace("_", " "), *(number(figures.get(f"{what}_{level}"), digits) for what, digits in
             (("utilisation", 4), ("perplexity", 1), ("dead_codes", 0)))]
            for level in levels
        ]  # fmt: skip
        if rows:
            header = ["level", "utilisation", "perplexity", "dead codes"]
            tables.append(f"<div>{_grid(part.capitalize(), header, rows, numbers_from=1)}{_other(figures)}</div>")
    if not tables:
        return ""
    note = (
        '<p class="quiet">Utilisation: share of codes in use. Perplexity: how many codes would be as even if all were '
        "used alike; far below the number in use, the codes have collapsed. Of the posterior, on validation: mean "
        "log-probability of a target's cell (nats), and how far what it says of the likeliest is from what comes.</p>"
    )
    return f'<h2>Codebook and dictionary</h2>{note}<div class="charts">{"".join(tables)}</div>'


def _other(figures: Mapping[str, float]) -> str:
    shown = [
        f"{escape(name.replace('_', ' '))} {round(value, 4):,.10g}"
        for name, value in figures.items()
        if isinstance(value, int | float) and not name.startswith(("utilisation_", "perplexity_", "dead_codes_"))
    ]
    return f'<p class="quiet">{", ".join(shown)}</p>' if shown else ""


def training(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Loss and validation NDCG@10 of everything that was trained; epoch 0 is the start, where it competes."""
    figures = []
    for name, curve in curves.items():
        title, epochs = CURVES.get(name, name.replace("_", " ")), curve["epochs"]
        if not epochs:
            continue
        lines = {
            "loss": [Point(e["epoch"], e["loss"]) for e in epochs if e["loss"] is not None],
            "validation NDCG@10": [
                Point(e["epoch"], e["validation"]["ndcg@10"])
                for e in epochs
                if e["validation"].get("ndcg@10") is not None
            ],
        }
        charts = [_curve(title, what, points) for what, points in lines.items() if points]
        figures.append(f'<div><h3>{escape(title)}</h3><div class="small pair">{"".join(charts)}</div></div>')
    starts = any(epoch["epoch"] == 0 for curve in curves.values() for epoch in curve["epochs"])
    note = '<p class="quiet">Epoch 0: as training began, which is kept where no epoch is better.</p>' if starts else ""
    return f'<h2>Training</h2>{note}<div class="charts">{"".join(figures)}</div>' if figures else ""


def _curve(title: str, what: str, points: list[Point]) -> str:
    chart = line_chart(f"{title}: {what}", [Series(what, points)], Axis("epoch"), Axis(what), (330, 200))
    return f"<figure>{chart}</figure>"


def other_history(report: Mapping[str, Any]) -> str:
    """The same figures under the other rule on what a user has seen; nothing under leave-one-out."""
    found = report["other_history"]
    if not found:
        return ""
    models, ends = found["models"], found.get("intervals", {})
    columns = [f"{metric}@{k}" for k in report["cutoffs"] for metric in ("hr", "recall", "ndcg")]
    columns = [column for column in columns if any(column in row for row in models.values())]

    def table(names: list[str]) -> str:
        rows = [
            [escape(label_of(report, name))]
            + [_with_span(models[name].get(column), ends.get(name, {}).get(column)) for column in columns]
            for name in names
            if name in models
        ]
        return _grid("", ["model", *map(metric_name, columns)], rows, numbers_from=1) if rows else ""

    rule = f"<p>{escape(found['filter'])} Cases: {case_counts(found['cases'])}.</p>"
    return f"<h2>History {escape(found['rule'])}</h2>{rule}{_both(report, table)}"


def rules(report: Mapping[str, Any]) -> str:
    """What every figure rests on: protocol, ties, filter, repeats, cases, what was left out."""
    found = report["protocol"]
    facts = {"protocol": f"{found['name']}: {found['description']}"}
    facts |= {name: found[name] for name in ("ties", "filter", "repeats", "time")}
    facts |= {f"cases, {part}": case_counts(report["cases"][part]) for part in ("validation", "test")}
    facts |= {f"left out: {name}": why for name, why in sorted(report["left_out"].items())}
    return f"<details open><summary>Rules</summary>{_facts(facts)}</details>"


def settings(report: Mapping[str, Any]) -> str:
    """What the figures can be made again with."""
    facts = {"items": f"{report['items']:,}", "split": report["split_hash"], "seed": str(report["seed"])}
    return f"<h2>Settings</h2>{_facts(facts | flat(report['settings']))}"


def _facts(facts: Mapping[str, str]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<dl>{lines}</dl>"


def _both(report: Mapping[str, Any], table: Callable[[list[str]], str]) -> str:
    """A table of the time-free rows and one of the time-aware rows, each under its heading."""
    parts = []
    for time, heading in TIMES.items():
        names = rows_of(report, time)
        content = table(names) if names else ""
        if content:
            parts.append(f"<h3>{escape(heading)}</h3>{content}")
    return "".join(parts)


def _present(report: Mapping[str, Any], names: list[str], metrics: Sequence[str]) -> str:
    """A table of those metrics that any row has."""
    columns = [m for m in metrics if any(report["models"][name].get(m) is not None for name in names)]
    return _figures(report, names, columns, [metric_name(column) for column in columns]) if columns else ""


def _figures(
    report: Mapping[str, Any],
    names: list[str],
    columns: Sequence[str],
    heads: Sequence[str],
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    best, candidate = clear_best(report, names), report["promotion"]["candidate"]
    rows = []
    for name in names:
        cells = [_with_span(report["models"][name].get(c), interval_of(report, name, c)) for c in columns]
        if name == best and ranked_by(report) in columns:
            at = list(columns).index(ranked_by(report))
            cells[at] = f"<b>{cells[at]}</b>"
        rows.append([escape(label_of(report, name)), *cells])
    return _grid("", ["model", *heads], rows, 1, groups, names.index(candidate) if candidate in names else None)


def _with_span(value: float | None, ends: tuple[float, float] | None) -> str:
    if value is None:
        return MISSING
    digits = 4 if abs(value) <= 1 else 2
    return number(value, digits) + (f"<small>{span(ends, min(digits, 3))}</small>" if ends else "")


def _grid(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers_from: int = 99,
    groups: Sequence[tuple[str, int]] = (),
    chosen: int | None = None,
) -> str:
    """A table whose cells are HTML already; the first cell of a row is its heading, `chosen` is a row to set off."""

    def cell(tag: str, index: int, content: str, scope: str) -> str:
        number_class = ' class="number"' if index >= numbers_from else ""
        return f"<{tag}{number_class}{scope}>{content}</{tag}>"

    over = "".join(f'<th class="group" scope="colgroup" colspan="{n}">{escape(text)}</th>' for text, n in groups)
    head = f"<tr><td></td>{over}</tr>" if groups else ""
    head += "<tr>" + "".join(cell("th", i, text, ' scope="col"') for i, text in enumerate(header)) + "</tr>"
    lines = []
    for index, row in enumerate(rows):
        cells = [cell("th", 0, row[0], ' scope="row"'), *(cell("td", i, text, "") for i, text in enumerate(row[1:], 1))]
        lines.append(f"<tr{' class=chosen' if index == chosen else ''}>{''.join(cells)}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'

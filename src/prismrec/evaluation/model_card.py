"""The model card: what a run's models are, what they were made from, how well they do, and where they do not.

The headings follow Mitchell et al. (2019), "Model Cards for Model Reporting". Every figure comes from the run; what
the limits say of weak slices is found by rule (our choice): a slice of at least MIN_CASES cases is weak where the
upper end of the candidate's interval lies below its overall figure. Parameters of the models are those of the models
themselves, not of the configuration of now, which may have changed since they were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prismrec.evaluation.promotion import COLD_ITEMS, MIN_CASES
from prismrec.evaluation.report import as_table
from prismrec.evaluation.rows import TIME_FREE_SUFFIX, flat, interval_of, number, ranked_by, span

MODELS = {
    "popularity": "popularity: items by their number of events, the same for everybody",
    "lightweight_encoder": "lightweight encoder: a long history as a few coarse interests",
    "llm_recommender": "LLM recommender: a decoder that refines those interests, and the interest of now",
    "hymirec": "HyMiRec: refined and coarse interests merged with linear transitions",
    "gemirec": "GemiRec: a posterior over a dictionary of interests, and retrieval inside each",
    "prismrec": "prismrec: HyMiRec and GemiRec merged, its interests the dictionary's cells",
}
SLICE_METRIC = "ndcg@10"
USE = """Top-k recommendation from the items of one catalogue, for a user whose history of item ids is given with the
request, and as several lists, one an interest. Not for decisions about people: a list says what was often taken after
similar histories, not what is good for somebody. No personal feature is read but the history and its times."""


def model_card(
    report: Mapping[str, Any],
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
) -> str:
    """The card of a run's models as Markdown.

    Args:
        report: the evaluation's figures, with its verdict.
        data: `data_validation_metrics`.
        split: `sequence_building_metrics`.
        configs: the parameters of every trained model, by its catalog name.
    """
    promotion = report["promotion"]
    parts = [
        f"# Model card: prismrec on {report['data_set']}",
        f"## Models\n\n{_models(report)}",
        f"## Intended use\n\n{' '.join(USE.split())}",
        f"## Data and licence\n\n{_data(report, data, split)}",
        f"## Split\n\n{_split(report)}",
        f"## Figures\n\n{_headline(report)}\n\n{_demoted(as_table(report))}",
        f"## Limits\n\n{_limits(report)}",
        f"## Guards\n\n{_guards(promotion)}",
        f"## Parameters of the models\n\n{_configs(configs)}",
        f"## Parameters of the evaluation\n\n{_parameters(report)}",
    ]
    return "\n\n".join(parts) + "\n"


def _models(report: Mapping[str, Any]) -> str:
    candidate = report["promotion"]["candidate"]
    lines = [
        f"- **{text}** (the candidate)" if name == candidate else f"- {text}"
        for name, text in MODELS.items()
        if name in report["models"]
    ]
    aware = report["models"][candidate]["time"] == "aware"
    lines.append(f"\nThe candidate reads {'items and their times' if aware else 'the order of items, no times'}.")
    return "\n".join(lines)


def _data(report: Mapping[str, Any], data: Mapping[str, Any], split: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            f"- data set: {report['data_set']}; licence: {report['data_licence']}",
            f"- valid: {data['events']:,} events of {data['users']:,} users on {data['items_with_events']:,} items; "
            f"of {data['interactions_rows_in']:,} rows {data['interactions_rows_quarantined']:,} were quarantined",
            f"- used: {split['events']:,} events of {split['users']:,} users on {split['items']:,} items "
            f"(items with at least {split['min_item_events']} events, users with at least {split['min_user_events']})",
            "- whether that licence also covers models made from the data is for whoever passes them on to check",
        ]
    )


def _split(report: Mapping[str, Any]) -> str:
    return f"{report['protocol']['description']} Split {report['split_hash']}, seed {report['seed']}."


def _headline(report: Mapping[str, Any]) -> str:
    name = report["promotion"]["candidate"]
    row = report["models"][name]
    figures = ", ".join(
        f"{metric} {number(row[metric])} {span(interval_of(report, name, metric))}".strip()
        for metric in ("hr@10", "ndcg@10", "coverage@10", "diversity_text@10", "new_interest_recall@10")
        if row.get(metric) is not None
    )
    return f"{row['label']} on test: {figures}. Brackets: 95 % interval over users."


def _limits(report: Mapping[str, Any]) -> str:
    name = report["promotion"]["candidate"]
    lines = [f"- weak slice: {text}" for text in _weak_slices(report, name)]
    if small := sum(part["cases"] < MIN_CASES for part in _ordinary(report)):
        lines.append(f"- slices of fewer than {MIN_CASES} cases, which say nothing: {small}")
    lines += _cold_items(report, name)
    free = report["models"].get(f"{name}{TIME_FREE_SUFFIX}")
    if free is not None:
        metric = ranked_by(report)
        lines.append(
            f"- without the times of events: {metric} {number(free[metric])} instead of "
            f"{number(report['models'][name][metric])}"
        )
    lines += [f"- not compared with {other}: {why}" for other, why in sorted(report["left_out"].items())]
    lines.append(
        "- offline figures on held-out events of one data set and one seed: what users would take of a list shown to "
        "them, and how figures vary with the seed, they do not say"
    )
    return "\n".join(lines)


def _weak_slices(report: Mapping[str, Any], name: str) -> list[str]:
    overall = report["models"][name][SLICE_METRIC]
    found = []
    for part in _ordinary(report):
        value, low, high = part["models"][name][SLICE_METRIC]
        if high < overall and part["cases"] >= MIN_CASES:
            kind = part["slice"].replace("_", " ")
            ends = f"{SLICE_METRIC} {number(value)} {span((low, high))}"
            found.append(f"{kind}, {part['label']}: {ends}, {part['cases']:,} cases (overall {number(overall)})")
    return found


def _ordinary(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All slices but the cold items, which have a line of their own."""
    return [part for part in report["slices"] if part["slice"] != COLD_ITEMS]


def _cold_items(report: Mapping[str, Any], name: str) -> list[str]:
    lines = []
    for part in report["slices"]:
        if part["slice"] == COLD_ITEMS:
            value, low, high = part["models"][name]["recall@10"]
            figures = f"recall@10 {number(value)} {span((low, high))}, {part['cases']:,} cases"
            lines.append(f"- cold items ({part['label']}): {figures}")
    return lines or ["- cold items: no test target is one, so nothing is known of them"]


def _guards(promotion: Mapping[str, Any]) -> str:
    states = [
        "not applicable" if guard["value"] is None else "kept" if guard["kept"] else "broken"
        for guard in promotion["guards"]
    ]
    lines = [
        f"- {guard['guard'].replace('_', ' ')}: {state}, {guard['note'].removeprefix('not applicable: ')}"
        for guard, state in zip(promotion["guards"], states, strict=True)
    ]
    return "\n".join(lines)


def _configs(configs: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"- {model.replace('_', ' ')}: " + ", ".join(f"{name} {value}" for name, value in flat(values).items())
        for model, values in configs.items()
    ]
    return "\n".join([*lines, "\nHow each was trained stands in the record of its stage, `08_reporting/manifests/`."])


def _parameters(report: Mapping[str, Any]) -> str:
    lines = "\n".join(f"{name}: {value}" for name, value in flat(report["settings"]).items())
    return f"```\n{lines}\n```"


def _demoted(table: str) -> str:
    """The table's headings two levels down, its title left out."""
    lines = table.rstrip("\n").split("\n")[2:]
    return "\n".join(f"#{line}" if line.startswith("## ") else line for line in lines)

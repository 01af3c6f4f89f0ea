r"""Daily refreshes of the whole of stage 6, against full trainings of it: cost, and what is ranked the next days.

    python -m benchmarks.stage_refresh --workspace data/demo --first-day 290
    python -m benchmarks.stage_refresh --workspace data/ml1m --env ml1m --first-day 221 --upstream frozen \
        --full-days 10 --seeds 1

Days are those of the workspace's own histories, its text embeddings are taken over. On the first day stage 6
(dictionary, cells, names, reports, posterior, retrieval head, weights of the unified model) is trained in full, and on
every later day refreshed from the day before, by the pipeline's own nodes on the events until that day; each user's
last event validates. On the full days it is also trained in full. Single trainings differ by more than the bar of 1 %,
so there are several of both, each with a seed of its own (`--seeds`): chains of refreshes from full trainings of the
first day, and full trainings of the full days. A case's figure is the mean over them.

Upstream (item vectors, codebook, recommender, HyMiRec's merge) is trained on the events until the day. `daily`: every
day, as the pipeline does it, whose artefacts have to be of one data version; the vectors come out turned, and the
refresh has to align them. `frozen`: on the first day only, for sets on which a day's training takes an hour; an item
that is first met later has its vector by its text.

Ranked on the full days, for users with three events before the day: what they meet in the next days (`--window`), by
the refreshed models, by the fully trained ones, and by those of the first day with the upstream of then (no refresh at
all). NDCG@10, HR@10 and recall@50 with paired 95 % bootstrap intervals over users, of each full day and of all of them
together (there a user counts once a day). Cost: CPU seconds of the stage's nodes. Bars: at most a tenth of a full
training's cost, at most 5 % of the barely moved items (cosine >= 0.99 once aligned) change cell in a refresh, figures
within 1 % of the full training's. With a tower that is trained again, hardly any item moves so little, so the share is
of those of all refreshes together; that of the worst single one stands beside it.

One JSON a workspace, written after every day; models lie in WORK. A day that is in the JSON, with the same settings and
its models still there, is not run again. On one core: the demo about twenty-five minutes; ML-1M, frozen, with one full
day about 75 minutes, of which 40 upstream.

Shapes: E events, U users, C cases, N items.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load_file, save_file

from benchmarks.ablations.make import digest, pack, unpack
from benchmarks.cold_items import _splits as last_event_validates
from benchmarks.dictionary_health import PROJECT, newest
from benchmarks.peers.measure import machine
from benchmarks.steps import load_parameters
from prismrec.artifacts.model_folder import dump_json
from prismrec.data.histories import Histories
from prismrec.data.schema import ACTIVE
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.intervals import paired_bootstrap
from prismrec.metrics.ranking import per_user_metrics
from prismrec.models import load_model
from prismrec.parameters import stage_model
from prismrec.pipelines.codebook.nodes import encode_items, fit_codebook
from prismrec.pipelines.evaluation.nodes import some_cases
from prismrec.pipelines.inputs import event_table
from prismrec.pipelines.interest_dictionary import nodes as stage_6
from prismrec.pipelines.lightweight_encoder.nodes import train_encoder
from prismrec.pipelines.llm_recommender.nodes import fit_merge, recommender_ranker, train_recommender

RESULTS = PROJECT / "benchmarks" / "results" / "stage_refresh"
DAY, FEWEST = 86_400, 3  # seconds; events of a user who takes part
METRICS = ("ndcg@10", "hr@10", "recall@50")
BARS = {"cost": 0.1, "barely_moved_changed": 0.05, "within": 0.01}
STAGES = ("lightweight_encoder", "codebook", "llm_recommender", "interest_dictionary")
MODELS = ("encoder", "codebook", "recommender", "counted", "merge")  # of the upstream
KEPT = ("dictionary", "posterior", "retrieval", "unified_merge")  # what a refresh goes on with


class World(NamedTuple):
    """A workspace's events with their days, its items and their texts, and an environment's parameters."""

    histories: Histories
    day_E: np.ndarray
    user_E: np.ndarray
    item_map: pl.DataFrame
    texts: dict[str, np.ndarray]
    settings: dict[str, Any]

    def cut(self, kept_E: np.ndarray) -> Histories:
        """Some of the events, of the users who have FEWEST of them."""
        lengths_U = np.bincount(self.user_E[kept_E], minlength=len(self.histories))
        takes_part_U = lengths_U >= FEWEST
        kept_E = kept_E & takes_part_U[self.user_E]
        return Histories(
            self.histories.user_index_U[takes_part_U],
            np.concatenate([[0], np.cumsum(lengths_U[takes_part_U])]),
            np.asarray(self.histories.items)[kept_E],
            np.asarray(self.histories.timestamps)[kept_E],
        )

    def parameters(self, stage: str) -> Any:
        """A stage's parameters."""
        return stage_model(stage).model_validate(self.settings[stage])


def load_world(workspace: Path, environment: str) -> World:
    """The newest of everything."""
    histories = Histories.load(newest(workspace, "03_primary/histories"))
    seconds = np.asarray(histories.timestamps)
    return World(
        histories,
        (seconds - seconds.min()) // DAY,
        np.repeat(np.arange(len(histories)), histories.lengths),
        pl.read_parquet(newest(workspace, "03_primary/item_map.parquet")),
        load_file(newest(workspace, "04_feature/pretrained_text_embeddings.safetensors")),
        load_parameters(environment),
    )


class Morning(NamedTuple):
    """What is known when a day begins."""

    histories: Histories
    splits: pl.DataFrame
    item_map: pl.DataFrame  # active: met by then

    @classmethod
    def of(cls, world: World, day: int) -> Morning:
        """The events before the day."""
        histories = world.cut(world.day_E < day)
        met_N = np.bincount(histories.items, minlength=len(world.item_map)) > 0
        item_map = world.item_map.with_columns(pl.Series(ACTIVE, met_N))
        return cls(histories, last_event_validates(histories), item_map)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class Folders(NamedTuple):
    """Where models lie, a folder a day."""

    upstream: Path
    chain: Path

    @classmethod
    def of(cls, options: argparse.Namespace, facts: dict[str, Any]) -> Folders:
        """By what they were made from: the upstream knows nothing of stage 6."""
        parameters = {stage: found for stage, found in facts["parameters"].items() if stage != STAGES[-1]}
        upstream_of = digest([parameters, facts["events"]])[:12]
        name = options.workspace.name
        return cls(options.work / f"{name}-upstream-{upstream_of}", options.work / f"{name}-chain-{digest(facts)[:12]}")

    def made(self, number: int, day: int) -> Path:
        """What the chain of this number made on a day."""
        return self.chain / str(number) / str(day)


def upstream(world: World, day: int, folders: Folders) -> dict[str, Any]:
    """What stage 6 rests on, trained on the events before the day, or taken over."""
    folder = folders.upstream / str(day)
    if not folder.is_dir():
        partial = _empty(folder.with_suffix(".partial"))
        _train_upstream(world, Morning.of(world, day), partial)
        partial.replace(folder)
    found = {name: load_model(folder / name) for name in MODELS}
    return {**found, **{name: load_file(folder / f"{name}.safetensors") for name in ("item_vectors", "item_codes")}}


def _train_upstream(world: World, known: Morning, folder: Path) -> None:
    events = (known.histories, known.splits)
    parameters = {stage: world.parameters(stage) for stage in STAGES}
    _, vectors, encoder, *_ = train_encoder(world.texts, {}, known.item_map, *events, parameters["lightweight_encoder"])
    codebook = fit_codebook(vectors, parameters["codebook"])
    made = (vectors, codebook, encode_items(codebook, vectors), encoder)
    recommender, *_ = train_recommender(*made, *events, parameters["llm_recommender"])
    counted, _, merge, _ = fit_merge(*made, recommender, *events, parameters["llm_recommender"])
    models = (encoder, codebook, recommender, counted, merge)
    for name, model in zip(MODELS, models, strict=True):
        model.save(folder / name)
    for name, arrays in (("item_vectors", vectors), ("item_codes", made[2])):
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / f"{name}.safetensors")


class Base(NamedTuple):
    """What a day's stage 6 rests on."""

    known: Morning
    items: dict[str, np.ndarray]
    parts: dict[str, Any]

    @classmethod
    def of(cls, world: World, day: int, upstream_day: int, folders: Folders) -> Base:
        """The upstream, and the day's events; recommendable is what was met by the day."""
        known, parts = Morning.of(world, day), upstream(world, upstream_day, folders)
        recommendable_N = known.item_map.get_column(ACTIVE).to_numpy()
        return cls(known, {**parts["item_vectors"], "recommendable": recommendable_N}, parts)

    @property
    def read(self) -> tuple[Any, ...]:
        """Recommender, codebook, codes and item vectors, as the nodes take them."""
        return self.parts["recommender"], self.parts["codebook"], self.parts["item_codes"], self.items


class Made(NamedTuple):
    """What the stage made on a day."""

    models: dict[str, Any]
    item_cells: dict[str, np.ndarray]
    drift: dict[str, Any]
    facts: dict[str, Any]

    def ranker(self, base: Base) -> Any:
        """GemiRec, ready to rank."""
        dictionary = getattr(self.models["dictionary"], "dictionary", self.models["dictionary"])
        models = (dictionary, self.models["posterior"], self.models["retrieval"])
        return stage_6.gemirec_ranker(recommender_ranker(*base.read), *models, self.item_cells)

    def save(self, folder: Path) -> None:
        """Write what the next refresh goes on with, and the cells."""
        partial = _empty(folder.with_suffix(".partial"))
        for name, model in self.models.items():
            model.save(partial / name)
        save_file(self.item_cells, partial / "item_cells.safetensors")
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)

    @classmethod
    def load(cls, folder: Path) -> Made:
        """What `save` wrote."""
        models = {name: load_model(folder / name) for name in KEPT}
        return cls(models, load_file(folder / "item_cells.safetensors"), {}, {})


def run_stage(base: Base, parameters: Any, previous: Path | None) -> Made:
    """All nodes of stage 6; a refresh where there is something to refresh."""
    parameters = parameters.model_copy(update={"refresh": previous is not None})
    before = {name: None if previous is None else previous / name for name in KEPT}
    histories, splits, item_map = base.known
    start = time.process_time()
    kept, losses, origins = stage_6.fit_dictionary(base.items, before["dictionary"], parameters)
    dictionary = kept.dictionary
    cells = stage_6.assign_cells(dictionary, base.items)
    stage_6.label_interests(dictionary, cells, base.items, item_map, histories)
    changes, *_ = stage_6.report_dictionary(dictionary, losses, cells, base.items, before["dictionary"])
    common = {"dictionary_origins": origins}
    events = (histories, splits, parameters)
    posterior, curve = stage_6.train_posterior(
        dictionary, cells, *base.read, *events, **common, previous_posterior=before["posterior"]
    )
    head, head_curve = stage_6.train_retrieval(
        dictionary, cells, posterior, *base.read, *events, **common, previous_retrieval=before["retrieval"]
    )
    merge, _ = stage_6.fit_unified_merge(
        base.items, base.parts["codebook"], base.parts["item_codes"], base.parts["encoder"], base.parts["recommender"],
        base.parts["counted"], base.parts["merge"], dictionary, cells, posterior, head, *events,
        posterior_curve=curve, previous_unified_merge=before["unified_merge"],
    )  # fmt: skip
    facts = {
        "cpu_seconds": round(time.process_time() - start, 3),
        "kind": losses["kind"],
        "aligned": losses.get("aligned", False),
        "refreshed": bool(curve["posterior_refreshed"] and head_curve["retrieval_refreshed"]),
        "posterior_epochs": curve["posterior_epochs"],
        "retrieval_epochs": head_curve["retrieval_epochs"],
    }
    return Made(dict(zip(KEPT, (kept, posterior, head, merge), strict=True)), cells, changes, facts)


def rank(world: World, day: int, window: int, base: Base, made: Made) -> dict[str, np.ndarray]:
    """Each case's figures on what users of the day's morning meet in the next days, of the items known by then: [C]."""
    known_N = base.items["recommendable"]
    before_E = world.day_E < day
    takes_part_U = np.bincount(world.user_E[before_E], minlength=len(world.histories)) >= FEWEST
    soon_E = ~before_E & (world.day_E < day + window) & known_N[np.asarray(world.histories.items)]
    asked_E = (before_E | soon_E) & takes_part_U[world.user_E]
    table_histories = world.cut(asked_E)
    starts_U = np.bincount(world.user_E[before_E], minlength=len(world.histories))[takes_part_U]
    table = event_table(table_histories)
    history = world.settings["evaluation"]["history"]
    cases = some_cases(table, starts_U, table_histories.lengths, history)
    ranked = evaluate({"gemirec": made.ranker(base)}, table, cases, torch.from_numpy(known_N), history, lists=False)
    figures = per_user_metrics(ranked["gemirec"].ranks, (10, 50))
    return {metric: figures[metric] for metric in METRICS}


def seeded(world: World, number: int) -> Any:
    """The stage's parameters with the seed of a chain, or of a full training."""
    parameters = world.parameters("interest_dictionary")
    return parameters.model_copy(update={"seed": parameters.seed + number})


def run_day(world: World, day: int, options: argparse.Namespace, folders: Folders, full: bool) -> dict[str, Any]:
    """Refresh from the day before; on a full day also train in full, and rank with both and with the first day's."""
    first, numbers = options.first_day, range(options.seeds)
    base = Base.of(world, day, day if options.upstream == "daily" else first, folders)
    made = [run_stage(base, seeded(world, number), folders.made(number, day - 1)) for number in numbers]
    chains = [_chain_facts(each) for each in made]
    row: dict[str, Any] = {
        "day": day,
        "cpu_seconds": mean_seconds(chains),
        "refreshed": all(chain["refreshed"] for chain in chains),
        "barely_moved_changed": max(chain["barely_moved_changed"] for chain in chains),
        "chains": chains,
    }
    if full:
        stale = Base.of(world, day, first, folders) if options.upstream == "daily" else base
        in_full = [run_stage(base, seeded(world, number), None) for number in numbers]
        began = [Made.load(folders.made(number, first)) for number in numbers]
        rows, seeds = {}, {}
        for name, on, models in (("refreshed", base, made), ("full", base, in_full), ("first_day", stale, began)):
            of_each = [rank(world, day, options.window, on, each) for each in models]
            rows[name] = {metric: np.mean([each[metric] for each in of_each], axis=0) for metric in METRICS}
            seeds[name] = [{metric: float(np.nanmean(each[metric])) for metric in METRICS} for each in of_each]
        row["full"] = {"cpu_seconds": mean_seconds([each.facts for each in in_full])}
        row["seeds"] = seeds
        row["of_cases"] = {name: {m: pack(found[m]) for m in METRICS} for name, found in rows.items()}
        row["figures"] = compare(rows)
    for number, each in zip(numbers, made, strict=True):
        each.save(folders.made(number, day))
    return row


def _chain_facts(made: Made) -> dict[str, Any]:
    report = made.drift
    return {
        **made.facts,
        "distance_aligned": report.get("distance_aligned"),
        "items_barely_moved_share": report["items_barely_moved"] / report["items_in_both"],
        "barely_moved_changed": report.get("barely_moved_changed_share", 1.0),
        "changed": report.get("items_moved_share", 1.0),
    }


def mean_seconds(facts: list[dict[str, Any]]) -> float:
    """CPU seconds, the mean over seeds."""
    return round(float(np.mean([each["cpu_seconds"] for each in facts])), 3)


def compare(rows: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means, ratios to the full training, and paired intervals of the differences to it, by metric."""
    found: dict[str, Any] = {"cases": len(rows["full"][METRICS[0]])}
    for metric in METRICS:
        full_C = rows["full"][metric]
        found[metric] = {
            "mean": {name: float(np.nanmean(figures[metric])) for name, figures in rows.items()},
            "to_full": {name: float(np.nanmean(rows[name][metric]) / np.nanmean(full_C)) for name in rows},
            "minus_full": {name: list(paired_bootstrap(rows[name][metric], full_C)) for name in rows if name != "full"},
        }
    return found


def summary(days: list[dict[str, Any]], first: dict[str, Any]) -> dict[str, Any]:
    """All full days together, the worst share of items that change cell, the cost, and whether the bars hold."""
    full_days = [row for row in days if "full" in row]
    cost_full = float(np.mean([first["cpu_seconds"], *(row["full"]["cpu_seconds"] for row in full_days)]))
    found: dict[str, Any] = {
        "refreshes": len(days),
        "all_refreshed": all(row["refreshed"] for row in days),
        "cpu_seconds": float(np.mean([row["cpu_seconds"] for row in days])),
        "cpu_seconds_full": cost_full,
        "cost_to_full": float(np.mean([row["cpu_seconds"] for row in days])) / cost_full,
        "barely_moved_changed": _pooled([chain for row in days for chain in row["chains"]]),
        "barely_moved_changed_worst": max(row["barely_moved_changed"] for row in days),
    }
    passes = found["all_refreshed"] and found["cost_to_full"] <= BARS["cost"]
    passes &= found["barely_moved_changed"] <= BARS["barely_moved_changed"]
    if full_days:
        names = list(full_days[0]["of_cases"])
        together = {
            name: {m: np.concatenate([unpack(row["of_cases"][name][m]) for row in full_days]) for m in METRICS}
            for name in names
        }
        found["figures"] = compare(together)
        passes &= all(found["figures"][metric]["to_full"]["refreshed"] >= 1 - BARS["within"] for metric in METRICS)
    return {**found, "passes": bool(passes and full_days)}


def _pooled(chains: list[dict[str, Any]]) -> float:
    """Share of the barely moved items of all refreshes that changed their cell; 0 where there are none."""
    barely = [chain["items_barely_moved_share"] for chain in chains]
    changed = [chain["barely_moved_changed"] * share for chain, share in zip(chains, barely, strict=True)]
    return sum(changed) / sum(barely) if sum(barely) else 0.0


def as_table(report: dict[str, Any]) -> str:
    """A line a day, then all full days together."""
    lines = ["  day  kinds       seconds  barely moved: share, changed  NDCG@10 refreshed / full / first day's"]
    for row in report["days"]:
        means = row["figures"]["ndcg@10"]["mean"] if "figures" in row else {}
        shown = " / ".join(f"{means[name]:.4f}" for name in ("refreshed", "full", "first_day")) if means else ""
        kinds = ", ".join(sorted({chain["kind"] for chain in row["chains"]}))
        barely = np.mean([chain["items_barely_moved_share"] for chain in row["chains"]])
        lines.append(
            f"{row['day']:>5}  {kinds:<10} {row['cpu_seconds']:>8.2f}  {barely:>8.1%} "
            f"{row['barely_moved_changed']:>8.2%}  {shown}"
        )
    found = report["summary"]
    for metric in METRICS if "figures" in found else ():
        each = found["figures"][metric]
        low, high = each["minus_full"]["refreshed"][1:]
        lines.append(f"{metric}: {each['to_full']['refreshed']:.4f} of the full training's, [{low:+.4f}, {high:+.4f}]")
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in found.items() if key != "figures")])


def run(options: argparse.Namespace, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """The first day, then every day that is not there yet."""
    world = load_world(options.workspace, options.env)
    facts = {
        "environment": options.env,
        "upstream": options.upstream,
        "first_day": options.first_day,
        "window": options.window,
        "seeds": options.seeds,
        "parameters": {
            stage: world.parameters(stage).model_dump(mode="json") for stage in STAGES
        },
        "events": len(world.day_E),
        "bars": BARS,
    }  # fmt: skip
    folders = Folders.of(options, facts)
    file = options.results / f"{options.workspace.name}.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    report: dict[str, Any] = {**facts, "machine": machine(), "days": []}
    first, numbers = options.first_day, range(options.seeds)

    def there(day: int) -> bool:
        return all(folders.made(number, day).is_dir() for number in numbers)

    if all(old.get(key) == value for key, value in facts.items()) and there(first):
        report |= {"first": old["first"], "days": old["days"]}
    else:
        began = [run_stage(Base.of(world, first, first, folders), seeded(world, number), None) for number in numbers]
        for number, made in enumerate(began):
            made.save(folders.made(number, first))
        report["first"] = {"cpu_seconds": mean_seconds([made.facts for made in began])}
    options.results.mkdir(parents=True, exist_ok=True)
    for number in range(1, options.refreshes + 1):
        full, day = number in options.full_days, first + number
        known = [row for row in report["days"] if row["day"] == day and ("full" in row or not full)]
        if not known or not there(day):
            report["days"] = [row for row in report["days"] if row["day"] < day]
            report["days"].append(run_day(world, day, options, folders, full))
        report["summary"] = summary(report["days"], report["first"])
        file.write_text(dump_json(report), encoding="utf-8")
        tell(f"day {day} is there")
    return report


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=PROJECT / "data" / "demo")
    parser.add_argument("--env", default="base", help="Kedro environment whose parameters count, such as ml1m")
    parser.add_argument("--first-day", type=int, required=True, help="day of the first full training, from event one")
    parser.add_argument("--refreshes", type=int, default=10)
    parser.add_argument("--full-days", type=int, nargs="*", default=[1, 5, 10], help="which refreshes are compared")
    parser.add_argument("--seeds", type=int, default=3, help="chains of refreshes, and full trainings a full day")
    parser.add_argument("--upstream", choices=("daily", "frozen"), default="daily")
    parser.add_argument("--window", type=int, default=30, help="days ahead that are ranked")
    parser.add_argument("--work", type=Path, default=PROJECT / "data" / "stage_refresh", help="folder of the models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(as_table(run(options)))


if __name__ == "__main__":
    main()

"""Write the exchange folder of an environment's workspace, from what `sequence_building` wrote.

    kedro run --env ml1m --pipelines data_validation,sequence_building
    python -m benchmarks.peers.prepare --env ml1m --out /tmp/exchange

The folder OUT/<workspace> then holds the same split that our own models train on and are evaluated on; the split's
hash goes with it into every result. Leave-one-out only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.peers.exchange import Exchange, write_exchange
from prismrec.data.histories import Histories, SplitPoints
from prismrec.data.schema import ACTIVE

PROJECT = Path(__file__).parents[2]


def make_exchange(
    histories: Histories, splits: pl.DataFrame, item_map: pl.DataFrame, about: dict[str, Any]
) -> Exchange:
    """Our tables as an exchange.

    Args:
        about: "name", "title", "split_hash" and "repeats" of the data set.

    Raises:
        SystemExit: if a split is not leave-one-out, or a target is in its own history.
    """
    points = SplitPoints.from_frame(splits)
    item_index_N = np.flatnonzero(item_map.get_column(ACTIVE).to_numpy())
    place = np.full(len(item_map), -1, np.int32)
    place[item_index_N] = np.arange(len(item_index_N), dtype=np.int32)
    assert (place[histories.items] >= 0).all(), "histories hold active items only"
    for start_U, end_U in (
        (points.validation_start_U, points.validation_end_U),
        (points.test_start_U, points.test_end_U),
    ):
        if (end_U - start_U != 1).any():
            raise SystemExit("Peers are run on the leave-one-out split; this split has several targets a user.")
    exchange = Exchange(
        offsets=histories.offsets,
        items=place[histories.items],
        timestamps=histories.timestamps,
        train_end_U=points.train_end_U,
        validation_U=points.validation_start_U,
        test_U=points.test_start_U,
        item_index_N=item_index_N.astype(np.int32),
        about={**about, "users": len(histories), "items": len(item_index_N), "events": len(histories.items)},
    )
    _check_targets(exchange)
    return exchange


def _check_targets(exchange: Exchange) -> None:
    """Every peer filters the history, so a target in it could never be hit."""
    history_E = exchange.before(exchange.test_U)
    seen = exchange.event_users[history_E] * exchange.num_items + exchange.items[history_E]
    repeated = np.isin(
        np.arange(exchange.num_users) * exchange.num_items + exchange.targets(exchange.test_U), seen
    ).sum()
    if repeated:
        raise SystemExit(f"{repeated} test targets are in their own history: run sequence_building with repeats: first")


def open_environment(environment: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The catalog, globals and parameters of a Kedro environment."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env=environment) as session:
        context = session.load_context()
        return context.catalog, context.config_loader["globals"], context.config_loader["parameters"]


def load(environment: str) -> Exchange:
    """The exchange of an environment's workspace."""
    catalog, settings, parameters = open_environment(environment)
    built = catalog.load("sequence_building_metrics")
    about = {
        "name": settings["workspace"],
        "title": parameters["evaluation"]["title"],
        "split_hash": built["split_hash"],
        "repeats": built["repeats"],
    }
    return make_exchange(catalog.load("histories"), catalog.load("splits"), catalog.load("item_map"), about)


def main() -> None:
    """Write one data set's exchange folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, help="Kedro environment, such as ml1m or beauty")
    parser.add_argument("--out", type=Path, required=True, help="folder of all exchange folders")
    arguments = parser.parse_args()
    exchange = load(arguments.env)
    folder = arguments.out / exchange.about["name"]
    write_exchange(folder, exchange)
    print(f"{folder}: {exchange.num_users} users, {exchange.num_items} items, {len(exchange.items)} events")


if __name__ == "__main__":
    main()

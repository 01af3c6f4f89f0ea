"""Run one peer on one exchanged split, with the peer's own interpreter.

    .venv-peers/bin/python -m benchmarks.peers.run --peer rectools_sasrec --data /tmp/exchange/ml1m --out /tmp/cells
    .venv-recbole/bin/python -m benchmarks.peers.run --peer recbole_gru4rec --data /tmp/exchange/ml1m --out /tmp/cells
    python -m benchmarks.peers.run --list

The tuning budget is trials × wall clock: every trial trains one of the peer's settings for at most the budget's
seconds and keeps its best epoch on validation (NDCG@10); the best trial recommends. A trial's seconds count
everything from the arrays of the exchange folder to chosen weights: the peer's own preparation and validation too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import traceback
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.peers.cells import cell_path, read_cell, stands, write_cell
from benchmarks.peers.exchange import Exchange, read_exchange
from benchmarks.peers.measure import Cost, machine, measured
from benchmarks.peers.registry import PEERS, Peer, Settings

DEFAULT_SECONDS = 1200
DEFAULT_TRIALS = 1
DEFAULT_SEED = 20260101


class Trained(NamedTuple):
    """What a trial gives.

    Attributes:
        validation: NDCG@10 on validation, of the epoch that was kept.
        epochs: how many were trained; a fraction where the seconds ended one early.
        curve: [{"epoch", "seconds", "ndcg@10"}]; empty for peers that are fitted at once.
        recommend: lists for every user's test, int32 [U, 100], -1 padded.
        resolved: what the library filled in beyond the settings, for the record.
    """

    validation: float
    epochs: float
    curve: list[dict[str, float]]
    recommend: Callable[[], np.ndarray]
    resolved: dict[str, Any]


class Train(Protocol):
    """What each module of peers offers as `train`."""

    def __call__(self, peer: str, exchange: Exchange, settings: Settings, seconds: float, seed: int) -> Trained: ...


class Trial(NamedTuple):
    settings: Settings
    trained: Trained
    cost: Cost


def best_trial(
    train: Train, peer: str, exchange: Exchange, tried: list[Settings], budget: tuple[float, int]
) -> tuple[Trial, list[dict[str, Any]]]:
    """Train all settings one after another; return the best on validation, and the record of all.

    Args:
        budget: seconds a trial, and the seed.
    """
    best, record = None, []
    for settings in tried:
        trained, cost = measured(partial(train, peer, exchange, settings, *budget))
        trial = Trial(settings, trained, cost)
        record.append(
            {
                "settings": settings,
                **cost.as_dict(),
                "validation_ndcg@10": trained.validation,
                "epochs": round(trained.epochs, 3),
                "curve": trained.curve,
                **({"resolved": trained.resolved} if trained.resolved else {}),
            }
        )
        if best is None or trained.validation > best.trained.validation:
            best = trial
    assert best is not None, "at least one trial"
    return best, record


def run_cell(name: str, peer: Peer, exchange: Exchange, identity: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Train, choose, recommend; the cell's figures and its lists [U, 100]."""
    train = importlib.import_module(f"benchmarks.peers.{peer.module}").train
    tried = peer.settings(exchange.kind, identity["trials"])
    best, record = best_trial(train, name, exchange, tried, (identity["budget_seconds"], identity["seed"]))
    lists_UK, cost = measured(best.trained.recommend)
    check_lists(exchange, lists_UK)
    cell = {
        **identity,
        "settings": best.settings,
        "validation_ndcg@10": best.trained.validation,
        "epochs": round(best.trained.epochs, 3),
        "training": best.cost.as_dict(),
        "training_seconds_all_trials": round(sum(trial["seconds"] for trial in record), 1),
        "recommending": {**cost.as_dict(), "users_per_second": round(exchange.num_users / cost.seconds, 1)},
        "tried": record,
    }
    return cell, lists_UK


def check_lists(exchange: Exchange, lists_UK: np.ndarray) -> None:
    """Check what a peer handed in: known items, none twice, none of the history.

    Raises:
        ValueError: saying what is wrong; the cell then counts as failed.
    """
    if len(lists_UK) != exchange.num_users or lists_UK.max() >= exchange.num_items:
        raise ValueError("the lists are not one a user, of known items")
    ordered_UK = np.sort(lists_UK, 1)
    if ((ordered_UK[:, 1:] == ordered_UK[:, :-1]) & (ordered_UK[:, 1:] >= 0)).any():
        raise ValueError("a list holds an item twice")
    history_E = exchange.before(exchange.test_U)
    seen = exchange.event_users[history_E] * exchange.num_items + exchange.items[history_E]
    listed = np.arange(exchange.num_users)[:, None] * exchange.num_items + lists_UK
    if np.isin(listed[lists_UK >= 0], seen).any():
        raise ValueError("a list holds an item of the user's history")


def identity_of(name: str, peer: Peer, exchange: Exchange, budget: tuple[int, float], seed: int) -> dict[str, Any]:
    """What names a cell, and what is said of its peer."""
    trials, seconds = budget
    tried = json.dumps(peer.settings(exchange.kind, trials), sort_keys=True)
    return {
        "data_set": exchange.about["name"],
        "title": exchange.about["title"],
        "split_hash": exchange.about["split_hash"],
        "users": exchange.num_users,
        "items": exchange.num_items,
        "peer": name,
        "label": peer.label,
        "family": peer.family,
        "time": peer.time,
        "trains_on": peer.trains_on,
        "seed": seed,
        "trials": trials,
        "budget_seconds": seconds,
        "settings_hash": hashlib.sha256(tried.encode()).hexdigest()[:12],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the peers and their environments, and stop")
    parser.add_argument("--peer", choices=PEERS, help="which peer")
    parser.add_argument("--data", type=Path, help="exchange folder of one data set")
    parser.add_argument("--out", type=Path, help="folder of the cells")
    parser.add_argument("--budget-seconds", type=float, default=DEFAULT_SECONDS, help="seconds a trial may train")
    parser.add_argument("--trials", type=int, default=DEFAULT_TRIALS, help="how many of the peer's settings to try")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    arguments = parser.parse_args()
    if not arguments.list and not (arguments.peer and arguments.data and arguments.out):
        parser.error("--peer, --data and --out are needed")
    return arguments


def main() -> int:
    """Run one cell unless it is there; 1 if it failed."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{name:20}{peer.environment:16}{peer.label}" for name, peer in PEERS.items()))
        return 0
    name, peer, exchange = arguments.peer, PEERS[arguments.peer], read_exchange(arguments.data)
    identity = identity_of(name, peer, exchange, (arguments.trials, arguments.budget_seconds), arguments.seed)
    path = cell_path(arguments.out, identity["data_set"], name, arguments.seed)
    if stands(read_cell(path), identity):
        print(f"{path} is there: nothing to do")
        return 0
    try:
        identity["package"] = {peer.package: metadata.version(peer.package)}
        identity["machine"] = {**machine(), "torch": _version("torch"), "numpy": np.__version__}
        cell, lists_UK = run_cell(name, peer, exchange, identity)
    except Exception as error:  # whatever the peer raises is this cell's result
        traceback.print_exc()
        write_cell(path, {**identity, "failed": f"{type(error).__name__}: {error}"})
        return 1
    write_cell(path, cell, lists_UK)
    print(json.dumps({key: cell[key] for key in ("peer", "validation_ndcg@10", "epochs", "training", "recommending")}))
    return 0


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    raise SystemExit(main())

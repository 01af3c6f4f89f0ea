"""The untrained baselines on real data give the figures that are known for them, protocol by protocol.

These figures were measured by other code on the same files, so they hold the whole way: reading, k-core, order, split,
history filter, ranking and metric.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from e2e_runs import prismrec
from prismrec.data.histories import Histories, SplitPoints
from prismrec.evaluation.evaluate import evaluate
from prismrec.evaluation.protocols import make_cases
from prismrec.metrics.ranking import ranking_metrics
from prismrec.pipelines.evaluation.nodes import heuristic_rows
from prismrec.pipelines.inputs import active_items, event_table

DATA_ROOT = Path(os.environ.get("PRISMREC_DATA_ROOT", Path(__file__).parents[3] / "shared" / "data"))
FOLDERS = {"ml1m": "ml-1m", "beauty": "amazon14-beauty", "steam": "steam-100k"}
# HR@10 and NDCG@10 under leave-one-out.
LEAVE_ONE_OUT = {
    "ml1m": {
        "popularity": (0.0364, 0.0179),
        "decayed_markov": (0.2503, 0.1428),
        "item_knn": (0.1720, 0.0959),
        "ease": (0.2253, 0.1257),
    },
    "beauty": {
        "popularity": (0.0135, 0.0061),
        "decayed_markov": (0.0857, 0.0544),
        "item_knn": (0.0750, 0.0461),
    },
    "steam": {
        "popularity": (0.0564, 0.0291),
        "decayed_markov": (0.0623, 0.0341),
        "item_knn": (0.0735, 0.0386),
    },
}
# Recall@20 and Recall@50 on held-out users, history filtered; other code drew other users.
HELD_OUT_USERS = {
    "ml1m": {
        "popularity": (0.0626, 0.1359),
        "decayed_markov": (0.1645, 0.2835),
        "item_knn": (0.1604, 0.2723),
        "ease": (0.1790, 0.2869),
    },
    "beauty": {"popularity": (0.0210, 0.0434), "decayed_markov": (0.1020, 0.1446), "item_knn": (0.0989, 0.1387)},
    "steam": {"popularity": (0.1066, 0.1770), "decayed_markov": (0.0913, 0.1539), "item_knn": (0.1013, 0.1727)},
}


def figures(workspace: Path, names: set[str]) -> dict[str, dict[str, float]]:
    """Test figures of some untrained baselines on the workspace's latest split."""

    def table(name: str) -> pl.DataFrame:
        return pl.read_parquet(sorted(workspace.glob(f"03_primary/{name}.parquet/*/{name}.parquet"))[-1])

    histories = Histories.load(max(workspace.glob("03_primary/histories/[!.]*/histories")))
    points = SplitPoints.from_frame(table("splits"))
    events = event_table(histories)
    recommendable = torch.tensor(active_items(table("item_map")))
    rows, _ = heuristic_rows(histories, points.test_start_U, recommendable, events, recent_days=30)
    cases = make_cases(events, points.test_start_U, points.test_end_U, "filtered")
    rankers = {name: rows[name].ranker for name in names}
    ranked = evaluate(rankers, events, cases, recommendable, "filtered", lists=False)
    return {name: ranking_metrics(found.ranks) for name, found in ranked.items()}


@pytest.mark.parametrize("env", list(FOLDERS))
def test_untrained_baselines_give_their_known_figures(env: str, tmp_path: Path) -> None:
    if not (DATA_ROOT / FOLDERS[env]).is_dir():
        pytest.skip(f"no {FOLDERS[env]} in {DATA_ROOT}; PRISMREC_DATA_ROOT says where the data sets lie")
    stages = ("run", "--env", env, "--pipelines", "data_validation,sequence_building")
    done = prismrec(tmp_path, *stages, PRISMREC_DATA_ROOT=str(DATA_ROOT))
    assert done.returncode == 0, done.stderr
    known = LEAVE_ONE_OUT[env]
    found = figures(tmp_path / env, set(known))
    for name, expected in known.items():
        np.testing.assert_allclose([found[name]["hr@10"], found[name]["ndcg@10"]], expected, atol=1.5e-4, err_msg=name)

    protocol = ("--params", "sequence_building.protocol=multi_target_users")
    done = prismrec(tmp_path, "run", "--env", env, "--pipelines", "sequence_building", *protocol)
    assert done.returncode == 0, done.stderr
    known = HELD_OUT_USERS[env]
    found = figures(tmp_path / env, set(known))
    for name, expected in known.items():
        recalls = [found[name]["recall@20"], found[name]["recall@50"]]
        np.testing.assert_allclose(recalls, expected, atol=0.015, err_msg=name)

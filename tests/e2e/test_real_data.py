"""MovieLens-1M and Amazon Beauty through all eight stages; minutes each, so `make test-full` only."""

import json
import os
from pathlib import Path

import pytest

from e2e_runs import prismrec

pytestmark = pytest.mark.slow
DATA_ROOT = Path(os.environ.get("PRISMREC_DATA_ROOT", Path(__file__).parents[3] / "shared" / "data"))


# HR@10 and NDCG@10 that a row has to reach: HyMiRec's without times and with them, and the single-vector baseline's,
# which has to be strong.
BARS = {
    "ml1m": {"hymirec_time_free": (0.330, 0.190), "hymirec": (0.3642, 0.2164), "sasrec": (0.295, 0.168)},
    "beauty": {"hymirec_time_free": (0.095, 0.056), "hymirec": (0.095, 0.056), "sasrec": (0.0857, 0.0544)},
}
FOLDERS = {"ml1m": "ml-1m", "beauty": "amazon14-beauty"}


@pytest.mark.parametrize("env", BARS)
def test_real_data_reaches_its_bars(env: str, tmp_path: Path) -> None:
    if not (DATA_ROOT / FOLDERS[env]).is_dir():
        pytest.skip(f"no {FOLDERS[env]} in {DATA_ROOT}; PRISMREC_DATA_ROOT says where the data sets lie")
    threads = str(os.cpu_count())
    done = prismrec(tmp_path, "run", "--env", env, PRISMREC_DATA_ROOT=str(DATA_ROOT), OMP_NUM_THREADS=threads)
    assert done.returncode == 0, done.stderr
    models = json.loads(prismrec(tmp_path, "report", "--env", env, "--json").stdout)["models"]
    for name, bars in BARS[env].items():
        reached = tuple(models[name][figure] for figure in ("hr@10", "ndcg@10"))
        assert all(figure >= bar for figure, bar in zip(reached, bars, strict=True)), (name, reached)
    assert models["sasrec"]["ndcg@10"] >= models["decayed_markov"]["ndcg@10"]
    for name in ("lightweight_encoder", "gemirec"):
        assert models[name]["ndcg@10"] > 3 * models["popularity"]["ndcg@10"]

"""MovieLens-1M and Amazon Beauty through all eight stages; minutes each, so `make test-full` only."""

import json
import os
from pathlib import Path

import pytest

from e2e_runs import prismrec

pytestmark = pytest.mark.slow
DATA_ROOT = Path(os.environ.get("PRISMREC_DATA_ROOT", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize(
    ("env", "folder", "best", "sasrec"),
    [
        # HR@10 and NDCG@10 of our best model, and of the single-vector baseline, which has to be strong.
        ("ml1m", "ml-1m", (0.3642, 0.2164), (0.295, 0.168)),
        ("beauty", "amazon14-beauty", (0.095, 0.056), (0.0857, 0.0544)),
    ],
)
def test_real_data_reaches_its_bars(
    env: str, folder: str, best: tuple[float, float], sasrec: tuple[float, float], tmp_path: Path
) -> None:
    if not (DATA_ROOT / folder).is_dir():
        pytest.skip(f"no {folder} in {DATA_ROOT}; PRISMREC_DATA_ROOT says where the data sets lie")
    threads = str(os.cpu_count())
    done = prismrec(tmp_path, "run", "--env", env, PRISMREC_DATA_ROOT=str(DATA_ROOT), OMP_NUM_THREADS=threads)
    assert done.returncode == 0, done.stderr
    report = json.loads(prismrec(tmp_path, "report", "--env", env, "--json").stdout)
    models = report["models"]
    trained = [models[name] for name in ("lightweight_encoder", "hymirec", "gemirec")]
    assert min(model["ndcg@10"] for model in trained) > 3 * models["popularity"]["ndcg@10"]
    for figure, bar, baseline_bar in zip(("hr@10", "ndcg@10"), best, sasrec, strict=True):
        assert max(model[figure] for model in trained) >= bar
        assert models["sasrec"][figure] >= max(baseline_bar, models["decayed_markov"][figure])

"""The whole demo, from the synthetic world to a bundle that answers, in one run that all these tests look at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import polars as pl
import pytest
from nbclient import NotebookClient
from safetensors.numpy import load_file

from prismrec.data.histories import Histories
from prismrec.models import load_model
from prismrec.pipeline_registry import STAGES
from prismrec.serving.engine import Engine

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = PROJECT / "notebooks"
FIRST_ITEMS = 5


@pytest.fixture(scope="module")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspaces folder in which the embedded demo has run, all eight stages, in this process."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    folder = tmp_path_factory.mktemp("workspaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRISMREC_WORKSPACES", str(folder))
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
        patch.setenv("PYTHONPATH", "")  # bootstrap_project changes it for good
        patch.chdir(PROJECT)
        bootstrap_project(PROJECT)
        with KedroSession.create(PROJECT) as session:
            session.run()
    return folder


@pytest.fixture(scope="module")
def latest(demo_workspace: Path) -> Callable[[str], Path]:
    """Payload of the newest version of an entry, by its path within the workspace."""

    def find(entry: str) -> Path:
        version = max((demo_workspace / "demo" / entry).glob("[!.]*"))
        return version / Path(entry).name

    return find


@pytest.fixture(scope="module")
def report(latest: Callable[[str], Path]) -> dict[str, Any]:
    """The evaluation's figures."""
    figures: dict[str, Any] = json.loads(latest("07_model_output/evaluation_metrics.json").read_text())
    return figures


def test_every_stage_left_a_record(demo_workspace: Path) -> None:
    for stage in STAGES:
        (version,) = (demo_workspace / "demo" / "08_reporting" / "manifests" / stage).iterdir()
        manifest = json.loads((version / "manifest.json").read_text())
        run = json.loads((version / "run.json").read_text())
        assert manifest["outputs"]
        assert manifest["metrics"]
        assert run["seconds"] > 0


def test_every_trained_model_beats_popularity_threefold(report: dict[str, Any]) -> None:
    popularity = report["models"]["popularity"]["ndcg@10"]
    assert report["cases"]["test"]["users"] == 2000
    for model in ("lightweight_encoder", "hymirec", "gemirec"):
        assert report["models"][model]["ndcg@10"] > 3 * popularity, model
        assert report["models"][model]["coverage@10"] > 3 * report["models"]["popularity"]["coverage@10"]


def test_training_improves_on_the_first_epoch(latest: Callable[[str], Path]) -> None:
    for curve in ("lightweight_encoder_curve", "llm_recommender_curve"):
        epochs = json.loads(latest(f"06_models/{curve}.json").read_text())["epochs"]
        losses = [epoch["loss"] for epoch in epochs]
        assert losses[-1] < 0.95 * losses[0]
        assert max(e["validation"]["ndcg@10"] for e in epochs) > epochs[0]["validation"]["ndcg@10"]


@pytest.fixture(scope="module")
def planted(latest: Callable[[str], Path]) -> dict[str, str]:
    """Item id → planted interest."""
    truth = pl.read_parquet(latest("02_intermediate/planted_truth.parquet")).filter(pl.col("kind") == "item")
    strongest = truth.sort("weight", descending=True).unique("id", keep="first", maintain_order=True)
    return dict(strongest.select("id", "interest").iter_rows())


def test_cells_recover_the_planted_interests(latest: Callable[[str], Path], planted: dict[str, str]) -> None:
    items = pl.read_parquet(latest("03_primary/item_map.parquet"))
    cells = load_file(latest("06_models/item_cells.safetensors"))["cells"]
    known = [(int(cells[i]), planted[item]) for i, item in enumerate(items["item_id"]) if item in planted]
    rng = np.random.default_rng(0)
    shuffled = rng.permutation([interest for _, interest in known])
    assert _purity(known) > 2 * _purity(list(zip([c for c, _ in known], shuffled, strict=True)))


def _purity(pairs: list[tuple[int, str]]) -> float:
    """Share of items whose cell mostly holds their interest."""
    table = pl.DataFrame(pairs, schema=["cell", "interest"], orient="row")
    largest = table.group_by("cell", "interest").len().group_by("cell").agg(pl.col("len").max())
    return float(largest["len"].sum()) / len(pairs)


def test_items_never_trained_lie_near_their_interest(latest: Callable[[str], Path], planted: dict[str, str]) -> None:
    items = pl.read_parquet(latest("03_primary/item_map.parquet"))["item_id"].to_list()
    arrays = load_file(latest("05_model_input/item_vectors.safetensors"))
    vectors, trained = arrays["vectors"], arrays["trained"]
    names = sorted({planted[item] for item in items if item in planted})
    label = np.array([names.index(planted[item]) if item in planted else -1 for item in items])
    centres = np.stack([vectors[trained & (label == index)].mean(0) for index in range(len(names))])
    cold = ~trained & (label >= 0)
    assert cold.sum() >= 40
    nearest = (vectors[cold] @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T).argmax(1)
    assert (nearest == label[cold]).mean() > 5 / len(names)


def test_interests_of_a_user_are_those_planted(latest: Callable[[str], Path], planted: dict[str, str]) -> None:
    engine = Engine.load(latest("07_model_output/bundle"))
    histories = Histories.load(latest("03_primary/histories"))
    ids = pl.read_parquet(latest("03_primary/item_map.parquet"))["item_id"].to_list()
    mine, others = [], []
    for row in np.random.default_rng(3).choice(len(histories), 60, replace=False):
        history, _ = histories.of(row)
        lived = {planted[ids[item]] for item in history if ids[item] in planted}
        answer = engine.recommend([ids[item] for item in history], k=FIRST_ITEMS, model="gemirec")
        shown = [planted[item.item_id] for item in answer.items if item.item_id in planted]
        mine += [interest in lived for interest in shown]
        others += [1 - len(lived) / len(set(planted.values()))] * len(shown)
    assert np.mean(mine) > 0.9
    assert np.mean(others) > 0.5  # interests a user never had are the larger part


def test_the_bundle_serves_the_model_that_is_best_on_validation(
    latest: Callable[[str], Path], report: dict[str, Any]
) -> None:
    engine = Engine.load(latest("07_model_output/bundle"))
    servable = {name: report["models"][name]["validation_ndcg@10"] for name in engine.description.models}
    assert engine.description.default_model == max(servable, key=lambda name: servable[name])


def test_every_saved_model_loads(latest: Callable[[str], Path]) -> None:
    for name in ("item_tower", "lightweight_encoder", "codebook", "recommender", "dictionary", "posterior"):
        assert load_model(latest(f"06_models/{name}")).kind
    dictionary = load_model(latest("06_models/dictionary"))
    assert load_model(latest("06_models/posterior")).config.dictionary == dictionary.version


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What the cells printed or drew, of one MIME type."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    return [output["data"][kind] for output in shown if kind in output["data"]]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )


def test_the_notebook_shows_a_user_by_both_models(demo_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRISMREC_WORKSPACES", str(demo_workspace))
    monkeypatch.delenv("PRISMREC_ENV", raising=False)
    notebook = nbformat.read(NOTEBOOKS / "01_inspect_interests.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    assert len(outputs(notebook, "image/png")) == 2
    tables = outputs(notebook, "text/html")
    assert len(tables) == 3
    assert all(name in tables[-1] for name in ("refined-1", "now"))
    assert "rank: GemiRec" in printed(notebook)

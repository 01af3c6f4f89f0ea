"""The notebooks run from top to bottom on the demo's workspace, and are committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


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


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), f"{name}: strip the outputs of cell {cell['id']}"
        assert cell.get("execution_count") is None, f"{name}: strip the execution count of cell {cell['id']}"


def test_inspect_interests_shows_a_user_by_both_models(demo_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRISMREC_WORKSPACES", str(demo_workspace))
    monkeypatch.delenv("PRISMREC_ENV", raising=False)
    notebook = nbformat.read(FOLDER / "01_inspect_interests.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert len(outputs(notebook, "image/png")) == 2
    tables = outputs(notebook, "text/html")
    assert len(tables) == 3
    assert all(name in tables[-1] for name in ("refined-1", "now"))
    assert "rank: GemiRec" in printed(notebook)

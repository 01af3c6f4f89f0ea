"""The notebooks are committed without outputs; that they run, the demo's tests see."""

from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), f"{name}: strip the outputs of cell {cell['id']}"
        assert cell.get("execution_count") is None, f"{name}: strip the execution count of cell {cell['id']}"

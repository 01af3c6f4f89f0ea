"""The folder in which a stage's trainings keep their state while they run.

It is nobody's result: it has no versions, no manifest and no part in the lineage, and it need not exist. A node gets
its path and hands it to the training loop; once the run has succeeded, a hook removes it.
"""

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from prismrec.artifacts.atomic import remove_folder


class CheckpointsDataset(AbstractDataset[Any, Path]):
    """Loads as the path of a folder that may not exist yet.

    Args:
        filepath: the folder.
        metadata: ignored here; Kedro-Viz reads the layer from it.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the folder's path."""
        return self.folder

    def save(self, data: Any) -> NoReturn:
        """Refuse: the training loop writes into the folder.

        Raises:
            DatasetError: always.
        """
        raise DatasetError(f"{self.folder} is written by the training loop.")

    def clear(self) -> None:
        """Remove the folder and what is in it."""
        if self.folder.exists():
            remove_folder(self.folder)

    def _exists(self) -> bool:
        return True  # an empty folder is as good as none

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder)}

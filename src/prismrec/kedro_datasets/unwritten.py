"""What all processes but the first hold of a node's output, where several train together."""

from typing import Any

from kedro.io import MemoryDataset


class UnwrittenDataset(MemoryDataset):
    """Keeps data in memory, and gives what the next node would read of it once written.

    Most data is read as it was saved. What is not says so by `as_read`.
    """

    def load(self) -> Any:
        """The data as it would be read."""
        data = super().load()
        return data.as_read() if hasattr(data, "as_read") else data

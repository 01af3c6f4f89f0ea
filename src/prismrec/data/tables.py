"""Tables too large for memory: what can be written as Parquet piece by piece."""

from pathlib import Path
from typing import Any, Protocol


class Sinkable(Protocol):
    """A table that writes itself; a `polars.LazyFrame` is one, computed only then, by the streaming engine."""

    def sink_parquet(self, path: Path, **options: Any) -> Any:
        """Write the table to `path`, in the order of its rows.

        Args:
            path: the file to be.
            options: those of `polars.LazyFrame.sink_parquet`, to be handed on.
        """

"""What is counted of events, not trained: linear transitions and recency, in one artefact.

They are the members of HyMiRec's merge (`merge.py`) beside the interests, and are counted twice: on the training
events, to fit the merge's weights, and on all events before the test targets, to be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prismrec.models.linear_transitions import LinearTransitions, LinearTransitionsConfig
from prismrec.models.merge import LinearTransitionsRanker
from prismrec.models.module import SavedModule
from prismrec.models.rankers import Ranker
from prismrec.models.recency import Recency, RecencyConfig, RecencyRanker


@dataclass(frozen=True)
class CountedConfig:
    """Sizes of both; see `LinearTransitionsConfig` and `RecencyConfig`. A window of 0 days: no recency."""

    num_items: int
    kept: int
    decays: tuple[float, ...]
    window: int
    pairs: int
    num_known: int | None = None


class Counted(SavedModule):
    """Linear transitions and recency."""

    kind: ClassVar[str] = "counted"
    config_class: ClassVar[type] = CountedConfig
    config: CountedConfig

    def __init__(self, config: CountedConfig) -> None:
        super().__init__(config)
        self.transitions = LinearTransitions(
            LinearTransitionsConfig(config.num_items, config.kept, config.decays, config.num_known)
        )
        self.recency = Recency(RecencyConfig(config.num_items, config.window, config.pairs))

    @classmethod
    def of(cls, transitions: LinearTransitions, recency: Recency | None) -> Counted:
        """The two as one; None: no recency."""
        window, pairs = (0, 0) if recency is None else (recency.config.window, recency.config.pairs)
        sizes = transitions.config
        counted = cls(CountedConfig(sizes.num_items, sizes.kept, sizes.decays, window, pairs, sizes.num_known))
        counted.transitions = transitions
        counted.recency = counted.recency if recency is None else recency
        counted.eval()
        return counted

    def widened(self, num_items: int) -> Counted:
        """The same counts among more items."""
        if num_items == self.config.num_items:
            return self
        recency = self.recency.widened(num_items) if self.config.window else None
        return Counted.of(self.transitions.widened(num_items), recency)

    def rankers(self) -> list[Ranker]:
        """Each ready to rank."""
        recency = [RecencyRanker(self.recency)] if self.config.window else []
        return [LinearTransitionsRanker(self.transitions), *recency]

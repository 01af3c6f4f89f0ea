"""A ranker over a large catalogue: candidates from the index, exact scores on them.

Scoring a million items for every interest of every request takes longer than the networks. Here a user's interests are
looked up in the index, and the ranker scores what is found, beside

- the best items of members that know no interests, such as the linear transitions, each on its whole score;
- items that the index does not know as they are now: added ones, and those whose text has changed.

Our choice: `CANDIDATES` items for an interest. What is told of a candidate is the ranker's own word, but probabilities
are among the candidates: those of the other items, next to nothing each, are left out of the sums. What asks for scores
of the catalogue (`scores`, `strongest`, `interests`) gets those of the whole ranker.

Shapes: B users, K interests, N rows, C candidates, A rows that are always candidates, D item dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from prismrec.models.events import EventTable
from prismrec.models.merge import MergedRanker
from prismrec.models.rankers import (
    LIGHTWEIGHT_ENCODER,
    LLM_RECOMMENDER,
    InterestRanker,
    InterestRanking,
    ServedRanker,
    everybody,
)
from prismrec.retrieval.index import PART, RECOMMENDER_PART, ItemIndex

# Of one interest: more than the longest list, and what a history hides of it. The index promises its recall for the
# first `index.LENGTH` of them; those after come from the same cells, and fewer of them may be found.
CANDIDATES = 500
# Parts of a bundle, by the ranker whose interests are looked up in them.
PARTS = {LIGHTWEIGHT_ENCODER: PART, LLM_RECOMMENDER: RECOMMENDER_PART}


class NarrowedRanker(ServedRanker):
    """A ranker that scores candidates only.

    Args:
        whole: scores everything; one pass of its networks serves interests and scores, if it remembers them.
        indexes: of the items, in the space of each ranker that tells interests (`Ranker.tellers`), by its name.
        always_A: int64 rows that are candidates for everybody.
    """

    def __init__(self, whole: InterestRanker, indexes: Mapping[str, ItemIndex], always_A: Tensor) -> None:
        self.whole, self.indexes, self.always_A = whole, indexes, always_A
        self.name, self.reads_time, self.num_interests = whole.name, whole.reads_time, whole.num_interests

    def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
        """Of the whole catalogue."""
        return self.whole.scores(events, users_B, ends_B)

    def strongest(self, events: EventTable, users_B: Tensor, ends_B: Tensor, num_interests: int) -> Tensor:
        """Of the whole catalogue."""
        return self.whole.strongest(events, users_B, ends_B, num_interests)

    def interests(self, events: EventTable) -> tuple[Tensor, list[str]]:
        """Of the whole catalogue."""
        return self.whole.interests(events)

    @torch.inference_mode()
    def rank_all(self, events: EventTable, num_interests_B: Sequence[int | None]) -> list[InterestRanking]:
        """One user at a time: each has candidates of their own."""
        ends = events.offsets_U1.diff().tolist()
        alone = [events.alone(user, end) for user, end in enumerate(ends)]
        return [self._ranked_among(*one) for one in zip(alone, num_interests_B, strict=True)]

    def _ranked_among(self, events: EventTable, num_interests: int | None) -> InterestRanking:
        rows_C = self.candidates(events)
        (ranking,) = self.whole.among(rows_C).rank_all(events, [num_interests])
        return ranking._replace(rows=rows_C.numpy())

    @torch.inference_mode()
    def candidates(self, events: EventTable) -> Tensor:
        """[C] rows, rising, that the one user of a table may get."""
        asked = events, *everybody(events)
        found = [self.always_A]
        for teller in self.whole.tellers:
            vectors_1KD = teller.interest_vectors(*asked)
            assert vectors_1KD is not None
            found.append(self.indexes[teller.name].candidates(vectors_1KD[0], CANDIDATES))
        if isinstance(self.whole, MergedRanker):
            for member in self.whole.pool.members.values():
                if not isinstance(member, InterestRanker):
                    scores_N = member.scores(*asked)[0]
                    found.append(scores_N.topk(min(CANDIDATES, len(scores_N))).indices)
        rows_C: Tensor = torch.unique(torch.cat(found))
        return rows_C[self.whole.recommendable_N[rows_C]]


def read_indexes(folder: Path, rankers: Mapping[str, ServedRanker]) -> dict[str, ItemIndex]:
    """Indexes of a bundle by the ranker whose interests they know; none where its catalogue is scored as a whole.

    Args:
        rankers: the bundle's, with the items that the indexes are of.
    """
    found = {}
    for name in PARTS.keys() & rankers.keys():
        part = folder / PARTS[name]
        part = part if part.is_dir() else folder / PART  # a recommender without offsets ranks the items as they are
        if part.is_dir():
            ranker = rankers[name]
            assert isinstance(ranker, InterestRanker)
            found[name] = ItemIndex.load(part, ranker.items_ND, ranker.recommendable_N)
    return found


def narrowed(
    rankers: Mapping[str, ServedRanker], indexes: Mapping[str, ItemIndex], always_A: Tensor
) -> dict[str, ServedRanker]:
    """The rankers, those with interests of their own over candidates if there are indexes."""
    if not indexes:
        return dict(rankers)
    return {
        name: NarrowedRanker(ranker, indexes, always_A) if isinstance(ranker, InterestRanker) else ranker
        for name, ranker in rankers.items()
    }

"""Users scored at once stay within the budget of scores."""

import pytest

from prismrec.retrieval.chunks import MOST_USERS, SCORES, chunk_size


@pytest.mark.parametrize("items", [1, 3_416, 100_000, 2**26, 2**30])
@pytest.mark.parametrize("held", [1, 4, 65])
def test_a_chunk_stays_within_the_budget(items: int, held: int) -> None:
    size = chunk_size(items, held)
    assert 1 <= size <= MOST_USERS
    assert size == 1 or size * items * held <= SCORES

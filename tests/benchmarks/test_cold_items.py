"""The item hold-out: nothing of a held-out item trains, targets are later than the history, chance is chance."""

import numpy as np
import pytest
import torch

from benchmarks import cold_items
from prismrec.data.histories import Histories
from prismrec.models.events import EventTable

ITEMS = 40


@pytest.fixture(scope="module")
def histories() -> Histories:
    rng = np.random.default_rng(0)
    return Histories.from_lists([rng.permutation(ITEMS)[: rng.integers(3, 30)].tolist() for _ in range(60)])


@pytest.fixture(scope="module")
def world(histories: Histories) -> cold_items.HoldOut:
    return cold_items.hold_out(histories, ITEMS, 0.2, seed=3)


def test_held_out_items_are_in_no_history(world: cold_items.HoldOut) -> None:
    assert world.held_N.sum() == 8
    assert not world.held_N[world.histories.items].any()
    assert world.histories.lengths.min() >= cold_items.FEWEST


def test_targets_are_the_held_out_items_after_the_cut(histories: Histories, world: cold_items.HoldOut) -> None:
    row_of = {int(user): row for row, user in enumerate(world.histories.user_index_U)}
    found = {}
    for place, row in enumerate(world.users_C):
        found[int(row)] = set(world.targets.items_CT[place][world.targets.mask_CT[place]].tolist())
    for row in range(len(histories)):
        items = histories.of(row)[0].tolist()
        cut = int(np.ceil(0.8 * len(items) - 1e-9))
        kept = [item for item in items[:cut] if not world.held_N[item]]
        if len(kept) < cold_items.FEWEST:
            assert row not in row_of
            continue
        assert world.histories.of(row_of[row])[0].tolist() == kept
        assert found.get(row_of[row], set()) == {item for item in items[cut:] if world.held_N[item]}


def test_chance_is_its_expectation(world: cold_items.HoldOut) -> None:
    events = EventTable(world.histories.offsets, world.histories.items, world.histories.timestamps)
    held = torch.from_numpy(world.held_N)
    recalls = cold_items.recalls(cold_items.Chance(ITEMS), world, events, held)
    np.testing.assert_allclose(recalls["recall@10"], 1.0)  # eight items, ten places
    everywhere = cold_items.recalls(cold_items.Chance(ITEMS), world, events, torch.ones(ITEMS, dtype=torch.bool))
    np.testing.assert_allclose(everywhere["recall@10"], 10 / (ITEMS - world.histories.lengths[world.users_C]))


def test_text_knn_follows_the_latest_text(world: cold_items.HoldOut) -> None:
    events = EventTable(world.histories.offsets, world.histories.items, world.histories.timestamps)
    users = torch.arange(10)
    ends = torch.from_numpy(world.histories.lengths[:10])
    scores = cold_items.TextKNN(np.eye(ITEMS, dtype=np.float32)).scores(events, users, ends)
    assert scores.argmax(1).tolist() == events.item_at(users, ends - 1).tolist()

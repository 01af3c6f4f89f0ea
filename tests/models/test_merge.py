"""HyMiRec's merge: a pool on one scale whose interests' lists together are the pool."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.small import NUM_ITEMS, event_table, histories
from models.test_rankers import LENGTHS, RECOMMENDABLE, members, merged
from prismrec.models import load_model
from prismrec.models.events import EventTable
from prismrec.models.merge import Merge, MergeConfig

EVENTS = event_table(LENGTHS)
USERS, ENDS = torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)


@torch.no_grad()
def test_scores_are_the_weighted_sum_of_the_members() -> None:
    weights = {"llm_recommender": 0.5, "lightweight_encoder": 0.3, "linear_transitions": 2.0}
    expected = sum(weights[name] * ranker.scores(EVENTS, USERS, ENDS) for name, ranker in members().items())
    torch.testing.assert_close(merged(weights).scores(EVENTS, USERS, ENDS), expected)


@torch.no_grad()
def test_the_interests_lists_together_are_the_pool() -> None:
    ranker = merged()
    joint_BKN = ranker.joint(EVENTS, USERS, ENDS)
    assert joint_BKN.shape[1] == ranker.num_interests == len(ranker.labels())
    torch.testing.assert_close(joint_BKN.logsumexp(1), ranker.scores(EVENTS, USERS, ENDS), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_within_a_member_interests_keep_their_proportions() -> None:
    """P(k | i) of the recommender's own interests is the recommender's."""
    joint_BKN, refined = merged().joint(EVENTS, USERS, ENDS), members()["llm_recommender"]
    own_BKN = refined.joint(EVENTS, USERS, ENDS)
    share = joint_BKN[:, : own_BKN.shape[1]]
    torch.testing.assert_close(share.log_softmax(1), own_BKN.log_softmax(1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_member_without_weight_is_out() -> None:
    weights = {"llm_recommender": 1.0, "lightweight_encoder": 0.0, "linear_transitions": 0.0}
    expected = members()["llm_recommender"].scores(EVENTS, USERS, ENDS)
    torch.testing.assert_close(merged(weights).scores(EVENTS, USERS, ENDS), expected)


@torch.no_grad()
def test_all_interests_kept_are_the_whole_merge() -> None:
    ranker = merged()
    every = ranker.strongest(EVENTS, USERS, ENDS, ranker.num_interests)
    torch.testing.assert_close(every, ranker.scores(EVENTS, USERS, ENDS), atol=1e-4, rtol=1e-4)
    few = ranker.strongest(EVENTS, USERS, ENDS, 1)
    assert (few <= every + 1e-4).all()
    assert (few < every - 1e-4)[:, RECOMMENDABLE].any()


def test_weights_survive_saving(tmp_path: Path) -> None:
    merge = Merge(MergeConfig(("a", "b")))
    merge.timed_M.copy_(torch.tensor([0.1, 17.25], dtype=torch.float64))
    merge.timeless_M.copy_(torch.tensor([0.3, 0.0], dtype=torch.float64))
    merge.save(tmp_path)
    expected = {"a": 0.1, "b": 17.25, "a_time_free": 0.3, "b_time_free": 0.0}
    assert load_model(tmp_path).weights() == expected


@torch.no_grad()
def test_users_without_a_request_time_have_weights_of_their_own() -> None:
    offsets, items, times = histories(LENGTHS)
    timed = EventTable(offsets, items, times, requests=times[offsets[1:] - 1] + 60)
    some = timed.without_request_times(np.array([False, True, False]))
    ranker = merged(timeless=[0.0, 0.0, 3.0])
    found, expected = ranker.scores(some, USERS, ENDS), ranker.scores(timed, USERS, ENDS)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
    transitions = members()["linear_transitions"].scores(some, USERS, ENDS)
    torch.testing.assert_close(found[1], 3 * transitions[1])
    assert (found[1] - expected[1]).abs().max() > 0.1


def test_members_have_to_be_those_of_the_weights() -> None:
    with pytest.raises(AssertionError):
        merged({"llm_recommender": 1.0, "lightweight_encoder": 1.0})


def test_transitions_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    transitions = members()["linear_transitions"].model
    transitions.save(tmp_path)
    again = load_model(tmp_path)
    assert again.config == transitions.config
    assert torch.equal(again.values_RM, transitions.values_RM)
    assert again.values_RM.shape == (2 * NUM_ITEMS, 6)

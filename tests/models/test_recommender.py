"""LLM recommender: no position sees its future, padding counts for nothing, a saved model is the same model."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.small import DIM, NUM_ITEMS, histories, item_vectors, randomise, small_encoder
from prismrec.artifacts.model_folder import read_config, read_tensors, write_model
from prismrec.models import backbone, load_model
from prismrec.models.events import EventBatch, EventTable
from prismrec.models.rankers import RecommenderRanker
from prismrec.models.recommender import Recommender, RecommenderConfig, Refined

RECENT, LONG, QUERIES, COARSE = 6, 12, 2, 3
LENGTHS = [30, 9, 3, 6]  # long and cut, short long part, no long part, exactly the recent window
RECENT_ND, LONG_ND = item_vectors(), item_vectors(seed=1)
KINDS = ["scratch", "packaged", "qwen3", "llama"]


def build(name: str, dropout: float = 0.3) -> Recommender:
    torch.manual_seed(0)
    decoder = backbone.from_pretrained(name, backbone.scratch_config(16, 2, 2, 0.1, 64))
    if name == "scratch":
        randomise(decoder)
    config = RecommenderConfig(DIM, QUERIES, RECENT, LONG, False, dropout, name, num_items=NUM_ITEMS)
    recommender = Recommender(config, small_encoder(COARSE), decoder)
    weights = {key: parameter.detach().clone() for key, parameter in decoder.named_parameters()}
    randomise(recommender)
    with torch.no_grad():  # the backbone keeps its own weights
        for key, parameter in decoder.named_parameters():
            parameter.copy_(weights[key])
    return recommender


@pytest.fixture(params=KINDS)
def recommender(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Recommender:
    return build(str(checkpoints.get(request.param, request.param)))


@pytest.fixture
def scratch() -> Recommender:
    return build("scratch")


def ranker(recommender: Recommender) -> RecommenderRanker:
    return RecommenderRanker(recommender, RECENT_ND, RECENT_ND, LONG_ND, torch.ones(NUM_ITEMS, dtype=torch.bool))


@torch.no_grad()
def outputs(
    recommender: Recommender, events: EventTable, users: list[int], ends: list[int]
) -> tuple[EventBatch, Refined]:
    recent, refined = ranker(recommender).state(events, torch.tensor(users), torch.tensor(ends))
    return recent, refined


def changed_from(position: int, lengths: list[int] = LENGTHS) -> EventTable:
    """The same histories, but every event at `position` or later has another item, and another time but for the first.

    When the first of them happens is when a prediction is asked for, which the model is told.
    """
    offsets, items, times = histories(lengths)
    for user in range(len(lengths)):
        later = slice(offsets[user] + position, offsets[user + 1])
        items[later] = (items[later] + 11) % NUM_ITEMS
        count = len(items[later])
        if count:
            times[later] = times[later][0] + 90_000 * np.arange(count) ** 2
    return EventTable(offsets, items, times)


def unchanged() -> EventTable:
    return EventTable(*histories(LENGTHS))


def test_no_output_sees_a_later_event(recommender: Recommender) -> None:
    """Everything from one position on is changed: what was said before it stays, what comes after moves."""
    users, ends = [0, 1, 2, 3], LENGTHS
    recent, before = outputs(recommender, unchanged(), users, ends)
    for position in range(30):
        _, after = outputs(recommender, changed_from(position), users, ends)
        move_BL = (after.next_BLD - before.next_BLD).abs().amax(-1)
        for user, end in enumerate(ends):
            for column in range(RECENT):
                if not recent.mask_BL[user, column]:
                    continue
                event = end - RECENT + column
                if event < position:
                    assert move_BL[user, column] < 1e-5, f"position {event} saw event {position}"
                else:
                    assert move_BL[user, column] > 1e-4, f"position {event} ignores its past"
            refined = (after.refined_BKD[user] - before.refined_BKD[user]).abs().amax(-1)
            gate = (after.gate_BK1[user] - before.gate_BK1[user]).abs().max()
            if position >= end:
                assert refined.max() < 1e-5
                assert gate < 1e-5
            else:
                assert refined.min() > 1e-4, "a query ignores an event"
                assert gate > 1e-5


def test_events_after_the_cut_change_nothing(recommender: Recommender) -> None:
    """A cut in the middle of the history, as in training: targets and everything later stay out."""
    ends = [17, 8, 2, 5]
    _, before = outputs(recommender, unchanged(), [0, 1, 2, 3], ends)
    for user, end in enumerate(ends):
        _, after = outputs(recommender, changed_from(end), [user], [end])
        _, alone = outputs(recommender, unchanged(), [user], [end])
        for changed, same in zip(after, alone, strict=True):
            assert torch.equal(changed, same)
        torch.testing.assert_close(after.refined_BKD[0], before.refined_BKD[user], atol=1e-5, rtol=0)


def test_the_time_of_the_request_is_read(recommender: Recommender) -> None:
    offsets, items, times = histories(LENGTHS)
    soon, late = (EventTable(offsets, items, times, requests=times[offsets[1:] - 1] + wait) for wait in (1, 1_000_000))
    _, before = outputs(recommender, soon, [0, 1, 2, 3], LENGTHS)
    _, after = outputs(recommender, late, [0, 1, 2, 3], LENGTHS)
    assert (after.refined_BKD - before.refined_BKD).abs().amax(-1).min() > 1e-4
    assert (after.next_BLD - before.next_BLD)[:, -1].abs().amax(-1).min() > 1e-4
    assert torch.equal(after.next_BLD[:, :-1], before.next_BLD[:, :-1])


class SeenByEncoder:
    """What the recommender gives to its lightweight encoder."""

    def __init__(self, recommender: Recommender) -> None:
        self.results: list[Tensor] = []
        recommender.encoder.register_forward_hook(lambda _module, _inputs, result: self.results.append(result))


def test_recent_events_do_not_reach_the_coarse_interests(scratch: Recommender) -> None:
    seen = SeenByEncoder(scratch)
    for events in (unchanged(), changed_from(30 - RECENT), changed_from(29 - RECENT)):
        outputs(scratch, events, [0], [30])
    assert torch.equal(seen.results[0], seen.results[1]), "an event of the recent window got into the long branch"
    assert (seen.results[0] - seen.results[2]).abs().max() > 1e-4, "the event before it must"


def test_long_events_beyond_the_long_length_are_not_read(scratch: Recommender) -> None:
    offsets, items, times = histories([30])
    other = items.copy()
    other[: 30 - RECENT - LONG] = (other[: 30 - RECENT - LONG] + 11) % NUM_ITEMS
    _, before = outputs(scratch, EventTable(offsets, items, times), [0], [30])
    _, after = outputs(scratch, EventTable(offsets, other, times), [0], [30])
    assert torch.equal(before.refined_BKD, after.refined_BKD)


def test_recent_positions_do_not_see_the_queries(recommender: Recommender) -> None:
    _, before = outputs(recommender, unchanged(), [0, 1], [30, 9])
    with torch.no_grad():
        recommender.query_KH.add_(torch.randn(recommender.query_KH.shape))
    _, after = outputs(recommender, unchanged(), [0, 1], [30, 9])
    torch.testing.assert_close(after.next_BLD[0], before.next_BLD[0], atol=1e-5, rtol=0)
    assert (after.refined_BKD - before.refined_BKD).abs().amax(-1).min() > 1e-4


def test_a_user_alone_gets_what_a_user_in_a_batch_gets(recommender: Recommender) -> None:
    recent, together = outputs(recommender, unchanged(), [0, 1, 2, 3], LENGTHS)
    assert torch.isfinite(together.next_BLD).all()
    for user, end in enumerate(LENGTHS):
        _, alone = outputs(recommender, unchanged(), [user], [end])
        real = recent.mask_BL[user]
        torch.testing.assert_close(together.next_BLD[user][real], alone.next_BLD[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.refined_BKD[user], alone.refined_BKD[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.gate_BK1[user], alone.gate_BK1[0], atol=1e-5, rtol=0)


def test_shapes_lengths_and_weights(recommender: Recommender) -> None:
    _, refined = outputs(recommender, unchanged(), [0, 1, 2], [30, 9, 3])
    assert refined.refined_BKD.shape == (3, QUERIES, DIM)
    assert refined.next_BLD.shape == (3, RECENT, DIM)
    assert torch.equal(refined.interests[:, :-1], refined.refined_BKD)
    assert torch.equal(refined.interests[:, -1], refined.next_BLD[:, -1])
    for vectors in (refined.refined_BKD, refined.next_BLD):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    torch.testing.assert_close(refined.gate_BK1.exp().sum(1), torch.ones(3))


def test_a_gate_belongs_to_its_interest(scratch: Recommender) -> None:
    """Changing the last query alone moves its own logit, not those of the first query and of "now"."""
    _, before = outputs(scratch, unchanged(), [0], [30])
    with torch.no_grad():
        scratch.query_KH[1].mul_(-2)
    _, after = outputs(scratch, unchanged(), [0], [30])
    first, last, now = range(3)
    change = (after.gate_BK1 - before.gate_BK1)[0]  # all shift alike by the normalisation
    assert change[now] - change[first] == pytest.approx(0, abs=1e-5)
    assert abs(change[last] - change[now]) > 1e-3
    assert abs(before.gate_BK1[0, now] - before.gate_BK1[0, first]) > 1e-3
    # "Now" is the one that has not moved with any of the queries, and the last in `interests` too.
    with torch.no_grad():
        scratch.query_KH[0].mul_(-2)
    _, both = outputs(scratch, unchanged(), [0], [30])
    moved = (both.interests - after.interests)[0].abs().amax(-1)
    assert moved[now] < 1e-5
    assert moved[first] > 1e-4
    assert abs((both.gate_BK1 - after.gate_BK1)[0, first] - (both.gate_BK1 - after.gate_BK1)[0, now]) > 1e-3


def test_without_now_the_refined_interests_are_merged_alone(scratch: Recommender, tmp_path: Path) -> None:
    """What they are does not change; "now" takes no weight from them, also in a saved model."""
    _, with_now = outputs(scratch, unchanged(), [0, 1], [30, 9])
    scratch.config = replace(scratch.config, now=False)
    scratch.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Recommender)
    found = ranker(loaded)
    assert (found.labels(), found.num_interests) == (["refined-1", "refined-2"], QUERIES)
    _, refined = outputs(loaded, unchanged(), [0, 1], [30, 9])
    torch.testing.assert_close(refined.interests, with_now.refined_BKD)
    torch.testing.assert_close(refined.gate_BK1, with_now.gate_BK1[:, :-1].log_softmax(1))
    with torch.no_grad():
        assert loaded.interest_scores(refined, RECENT_ND).shape == (2, QUERIES, NUM_ITEMS)


def test_scores_are_the_gated_scaled_cosines(scratch: Recommender) -> None:
    _, refined = outputs(scratch, unchanged(), [0, 1], [30, 9])
    with torch.no_grad():
        found = scratch.interest_scores(refined, RECENT_ND)
        for user in range(2):
            for interest in range(QUERIES + 1):
                cosine = RECENT_ND @ refined.interests[user, interest]
                expected = scratch.scale * cosine + refined.gate_BK1[user, interest]
                torch.testing.assert_close(found[user, interest], expected, atol=1e-4, rtol=0)


def test_null_vectors_stand_in_where_there_is_no_long_history(scratch: Recommender) -> None:
    table = unchanged()
    long = table.cut(torch.tensor([0, 2]), torch.tensor([12, 0]), torch.tensor([24, 0]))
    none = table.cut(torch.tensor([2]), torch.tensor([0]), torch.tensor([0]))
    with torch.no_grad():
        mixed, alone = scratch.coarse(long, LONG_ND), scratch.coarse(none, LONG_ND)
    assert torch.equal(mixed[1], scratch.null_CD)
    assert torch.equal(alone[0], scratch.null_CD)
    assert (mixed[0] - scratch.null_CD).abs().max() > 1e-3
    _, before = outputs(scratch, table, [0, 2], [30, 3])
    with torch.no_grad():
        scratch.null_CD.mul_(-1)
    _, after = outputs(scratch, table, [0, 2], [30, 3])
    move = (before.refined_BKD - after.refined_BKD).abs().amax((1, 2))
    assert move[0] == 0
    assert move[1] > 1e-4


def test_every_part_learns_also_beside_a_user_without_long_history(scratch: Recommender) -> None:
    _, refined = ranker(scratch).state(unchanged(), torch.tensor([0, 2]), torch.tensor([30, 3]))
    scratch.interest_scores(refined, RECENT_ND).logsumexp(1).log_softmax(-1)[:, 5].sum().backward()
    silent = {"encoder.key.bias", "encoder.log_scale", "gate.bias", "backbone.embed_tokens.weight"}
    for name, parameter in scratch.named_parameters():
        if name in silent:
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_recent_and_long_items_are_read_from_their_own_tables(scratch: Recommender) -> None:
    table = unchanged()
    where = torch.tensor([0]), torch.tensor([30])
    mask = torch.ones(NUM_ITEMS, dtype=torch.bool)
    zero = torch.zeros_like(LONG_ND)
    seen = SeenByEncoder(scratch)
    with torch.no_grad():
        plain = RecommenderRanker(scratch, RECENT_ND, RECENT_ND, LONG_ND, mask).state(table, *where).refined
        other = RecommenderRanker(scratch, RECENT_ND, zero, LONG_ND, mask).state(table, *where).refined
        RecommenderRanker(scratch, RECENT_ND, RECENT_ND, zero, mask).state(table, *where)
    assert torch.equal(seen.results[0], seen.results[1])
    assert not torch.equal(seen.results[0], seen.results[2])
    assert not torch.equal(plain.next_BLD, other.next_BLD)


def test_items_are_read_and_ranked_with_their_offsets(scratch: Recommender) -> None:
    scratch.trained_N[::3] = False
    table, where = unchanged(), (torch.tensor([0, 1]), torch.tensor([20, 9]))
    with torch.no_grad():
        own_ND = torch.where(scratch.trained_N[:, None], RECENT_ND + scratch.offset_ND, RECENT_ND)
        own_ND = F.normalize(own_ND, dim=-1)
        found = ranker(scratch)
        torch.testing.assert_close(found.items_ND, own_ND)
        state = found.state(table, *where).refined
        plain = Recommender(replace(scratch.config, num_items=0), scratch.encoder, scratch.backbone).eval()
        weights = scratch.state_dict()
        plain.load_state_dict({**weights, "offset_ND": weights["offset_ND"][:0], "trained_N": weights["trained_N"][:0]})
        same = RecommenderRanker(plain, own_ND, own_ND, LONG_ND, found.recommendable_N).state(table, *where).refined
    for one, other in zip(state, same, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_items_that_a_catalogue_gains_have_no_offset(scratch: Recommender) -> None:
    grown_ND = torch.cat([RECENT_ND, item_vectors(3, seed=5)])
    with torch.no_grad():
        own_ND = scratch.items(grown_ND)
        torch.testing.assert_close(own_ND[NUM_ITEMS:], grown_ND[NUM_ITEMS:])
        assert torch.equal(own_ND[:NUM_ITEMS], scratch.items(RECENT_ND))
        last = torch.tensor([[NUM_ITEMS - 1, NUM_ITEMS, NUM_ITEMS + 2]])
        torch.testing.assert_close(scratch._read(grown_ND, last), own_ND[last])


@pytest.mark.parametrize("name", KINDS)
def test_save_and_load_without_the_original(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = name
    if name in checkpoints:
        source = str(shutil.copytree(checkpoints[name], tmp_path / "checkpoint"))
    made = build(source)
    if name in checkpoints:
        shutil.rmtree(source)
    made.save(tmp_path / "a")
    made.save(tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    loaded = load_model(tmp_path / "a")
    assert isinstance(loaded, Recommender)
    assert loaded.config == made.config
    assert loaded.encoder.config == made.encoder.config
    assert not loaded.training
    _, expected = outputs(made, unchanged(), [0, 1, 2], [30, 9, 3])
    _, found = outputs(loaded, unchanged(), [0, 1, 2], [30, 9, 3])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    loaded.save(tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == (tmp_path / "a" / "model.safetensors").read_bytes()


def test_a_folder_from_before_there_were_offsets_is_read(scratch: Recommender, tmp_path: Path) -> None:
    made = Recommender(replace(scratch.config, num_items=0), scratch.encoder, scratch.backbone).eval()
    made.save(tmp_path)
    config, tensors = read_config(tmp_path), read_tensors(tmp_path)
    del config["recommender"]["num_items"], config["recommender"]["now"], tensors["offset_ND"], tensors["trained_N"]
    write_model(tmp_path, Recommender.kind, config, tensors)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Recommender)
    assert loaded.config.now, "it always had that interest"
    _, expected = outputs(made, unchanged(), [0, 1], [30, 9])
    _, found = outputs(loaded, unchanged(), [0, 1], [30, 9])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["packaged", "qwen3", "llama"])
def test_merged_adapters_save_like_a_plain_model(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    made = build(str(checkpoints.get(name, name)))
    _, plain = outputs(made, unchanged(), [0, 1], [30, 9])
    made.backbone = backbone.add_lora(made.backbone, rank=2)
    with torch.no_grad():
        for key, parameter in made.backbone.named_parameters():
            if "lora_" in key:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    made.eval()
    _, adapted = outputs(made, unchanged(), [0, 1], [30, 9])
    assert (adapted.refined_BKD - plain.refined_BKD).abs().max() > 1e-3
    made.backbone = backbone.merge_lora(made.backbone)
    _, merged = outputs(made, unchanged(), [0, 1], [30, 9])
    for a, b in zip(merged, adapted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    made.save(tmp_path)
    _, loaded = outputs(load_model(tmp_path), unchanged(), [0, 1], [30, 9])
    for a, b in zip(loaded, merged, strict=True):
        assert torch.equal(a, b)

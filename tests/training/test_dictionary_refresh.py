"""Refresh of the dictionary: identity of codes, stability, alignment, numbering."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from prismrec.errors import ParameterError
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.dictionary import data_version, fit_dictionary
from prismrec.training.dictionary_births import copied
from prismrec.training.dictionary_refresh import (
    DictionaryVectors,
    Refresh,
    common,
    fit_output,
    move_codes,
    number_after,
    procrustes,
    refresh_dictionary,
    turn,
)

ITEMS, DIM = 180, 12


def parameters(**changes: Any) -> DictionaryParameters:
    values = {
        "levels": 2, "items_per_cell": 12, "codes_per_level": None, "code_dim": 6, "hidden": 24, "commitment": 0.25,
        "warm_up_steps": 60, "steps": 120, "batch_size": 64, "learning_rate": 0.005,
    }  # fmt: skip
    return DictionaryParameters(**{**values, **changes})


def rows(items: int = ITEMS, seed: int = 0, first: int = 0) -> DictionaryVectors:
    """Nine clusters; text-only vectors are a little off."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = torch.randn(3, DIM, generator=generator) * 2, torch.randn(3, DIM, generator=generator) * 0.7
    centres = coarse.repeat_interleave(3, 0) + fine.repeat(3, 1)
    label = torch.arange(items) % 9
    full = F.normalize(centres[label] + 0.3 * torch.randn(items, DIM, generator=generator), dim=-1)
    text = F.normalize(full + 0.1 * torch.randn(items, DIM, generator=generator), dim=-1)
    return DictionaryVectors(torch.arange(first, first + items), full, text)


def nudged(before: DictionaryVectors, by: float, seed: int = 5) -> DictionaryVectors:
    generator = torch.Generator().manual_seed(seed)

    def moved(vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors + by * torch.randn(vectors.shape, generator=generator), dim=-1)

    return DictionaryVectors(before.items_N, moved(before.full_ND), moved(before.text_only_ND))


def turned(before: DictionaryVectors, seed: int = 3) -> tuple[DictionaryVectors, torch.Tensor]:
    map_DD = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(seed))).Q
    return DictionaryVectors(before.items_N, before.full_ND @ map_DD, before.text_only_ND @ map_DD), map_DD


@pytest.fixture(scope="module")
def parent() -> InterestDictionary:
    return fit_dictionary(rows().both, ITEMS, parameters(), seed=1)[0]


def refreshed(parent: InterestDictionary, before: DictionaryVectors, now: DictionaryVectors) -> Refresh:
    return refresh_dictionary(parent, before, now, parameters(), seed=1)


def test_unchanged_vectors_give_the_parent_itself(parent: InterestDictionary) -> None:
    made = refreshed(parent, rows(), rows())
    assert made.kind == "unchanged"
    assert made.dictionary is parent


def test_unchanged_vectors_give_the_parent_whatever_the_parameters_ask_for(parent: InterestDictionary) -> None:
    """A refresh is run again on the same vectors: it must not grow further."""
    more = refresh_dictionary(parent, rows(), rows(), parameters(items_per_cell=7), seed=1)
    assert more.dictionary is parent
    assert more.figures == {"codes_waiting": 4.0}, "5 x 5 are asked for"
    fewer = refresh_dictionary(parent, rows(), rows(), parameters(items_per_cell=40), seed=1)
    assert fewer.figures == {"codes_waiting": 0.0}, "a level never shrinks"


def test_codes_of_unchanged_vectors_do_not_move(parent: InterestDictionary) -> None:
    """Not by the short cut of equal data: the movement itself is nothing."""
    child = InterestDictionary(parent.config)
    child.load_state_dict(parent.state_dict())
    move_codes(parent, child, rows(), rows())
    used = parent.codes_of(rows().both)
    for level in range(2):
        torch.testing.assert_close(child.quantizer.codes(level), parent.quantizer.codes(level), rtol=0, atol=0)
        assert len(used[:, level].unique()) == parent.sizes[level], "no code is dead in this test"
    assert torch.equal(child.codes_of(rows().both), used)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(40, 120), st.integers(1, 3), st.integers(2, 5))
def test_unchanged_vectors_change_nothing_whatever_they_are(seed: int, items: int, levels: int, size: int) -> None:
    torch.manual_seed(seed)
    given_rows = rows(items, seed=seed)
    made = InterestDictionary(InterestDictionaryConfig(DIM, 4, 8, (size,) * levels)).eval()
    with torch.no_grad():
        made.quantizer.start_from(made.encode(given_rows.both), seed)
    child = InterestDictionary(made.config)
    child.load_state_dict(made.state_dict())
    move_codes(made, child, given_rows, given_rows)
    for level in range(levels):
        assert torch.equal(child.quantizer.codes(level), made.quantizer.codes(level))


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing(shuffle: Any) -> None:
    order = list(range(ITEMS))
    shuffle.shuffle(order)
    place = torch.tensor(order)
    parent = fit_dictionary(rows().both, ITEMS, parameters(warm_up_steps=10, steps=10), seed=1)[0]
    before, now = rows(), nudged(rows(), 0.02)

    def permuted(given: DictionaryVectors) -> DictionaryVectors:
        return DictionaryVectors(given.items_N[place], given.full_ND[place], given.text_only_ND[place])

    one, other = refreshed(parent, before, now), refreshed(parent, permuted(before), permuted(now))
    for level in range(2):
        torch.testing.assert_close(one.dictionary.quantizer.codes(level), other.dictionary.quantizer.codes(level))
    same = one.dictionary.codes_of(now.full_ND) == other.dictionary.codes_of(now.full_ND)
    assert same.float().mean() > 0.99, "rounding may move an item that lies on a border"


@pytest.mark.parametrize("by", [0.002, 0.01])
def test_items_that_barely_move_keep_their_cells(parent: InterestDictionary, by: float) -> None:
    now = nudged(rows(), by)
    assert F.cosine_similarity(now.full_ND, rows().full_ND).min() > 0.99
    made = refreshed(parent, rows(), now)
    assert made.kind == "refreshed"
    assert not made.aligned
    assert made.dictionary.config.parent == parent.version
    assert made.dictionary.config.data == data_version(now.both)
    changed = (made.dictionary.codes_of(now.full_ND) != parent.codes_of(rows().full_ND)).any(1)
    assert changed.float().mean() <= 0.05


def test_only_codes_and_the_output_layer_move(parent: InterestDictionary) -> None:
    made = refreshed(parent, rows(), nudged(rows(), 0.02)).dictionary
    for name, tensor in parent.state_dict().items():
        if not name.startswith(("quantizer", "decode.2")):
            assert torch.equal(made.state_dict()[name], tensor)
    assert not torch.equal(made.quantizer.codes(0), parent.quantizer.codes(0))


def test_a_turned_tower_is_aligned(parent: InterestDictionary) -> None:
    now, _ = turned(nudged(rows(), 0.002))
    made = refreshed(parent, rows(), now)
    assert made.kind == "refreshed"
    assert made.aligned
    assert made.distance > 0.2
    assert made.distance_aligned < 0.01
    changed = (made.dictionary.codes_of(now.full_ND) != parent.codes_of(rows().full_ND)).any(1)
    assert changed.float().mean() <= 0.05


def test_turning_keeps_codes_and_turns_what_is_decoded(parent: InterestDictionary) -> None:
    now, map_DD = turned(rows())
    child = InterestDictionary(parent.config)
    child.load_state_dict(parent.state_dict())
    turn(child, map_DD.T)  # the map that leads back
    torch.testing.assert_close(child.encode(now.full_ND), parent.encode(rows().full_ND), atol=1e-5, rtol=1e-4)
    z = parent.encode(rows().full_ND)
    torch.testing.assert_close(child.decode(z), parent.decode(z) @ map_DD, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(by=st.floats(0.0, 0.3), seed=st.integers(0, 1000))
def test_the_output_layer_gives_back_more_and_moves_no_cell(parent: InterestDictionary, by: float, seed: int) -> None:
    vectors = nudged(rows(), by, seed).both
    child = copied(parent, parent.config)
    fit_output(child, vectors)
    assert torch.equal(child.codes_of(vectors), parent.codes_of(vectors))
    with torch.no_grad():
        errors = [float(made.loss(vectors, 0.0)[0]) for made in (child, parent)]
    assert errors[0] <= errors[1] + 1e-6


def test_procrustes_finds_the_map() -> None:
    now, map_DD = turned(rows())
    torch.testing.assert_close(procrustes(rows().full_ND, now.full_ND), map_DD, atol=1e-5, rtol=1e-4)


def test_vectors_that_are_too_far_start_a_new_major_version(parent: InterestDictionary) -> None:
    now = rows()
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    made = refreshed(parent, rows(), DictionaryVectors(now.items_N, now.full_ND[order], now.text_only_ND[order]))
    assert made.kind == "new_major"
    assert made.distance_aligned > 0.1
    assert made.dictionary.config.parent is None
    assert {"reconstruction_loss", "codes_reseeded"} <= set(made.figures)


@pytest.mark.parametrize("shared", [0, DIM - 1])
def test_few_other_items_in_both_start_a_new_major_version(parent: InterestDictionary, shared: int) -> None:
    """So few can be turned onto anything, which does not count."""
    made = refreshed(parent, rows(), rows(seed=9, first=ITEMS - shared))
    assert made.kind == "new_major"
    assert made.distance_aligned == made.distance


def test_few_items_are_gone_on_with_where_they_have_not_moved(parent: InterestDictionary) -> None:
    """A catalogue smaller than its dimensions keeps its interests when an item comes."""
    whole, few = rows(), DIM - 2
    before, now = (
        DictionaryVectors(whole.items_N[:size], whole.full_ND[:size], whole.text_only_ND[:size])
        for size in (few, few + 1)
    )
    made = refreshed(parent, before, now)
    assert made.kind == "refreshed"
    assert made.distance == pytest.approx(0.0, abs=1e-6)
    assert not made.aligned
    assert torch.equal(parent.codes_of(before.full_ND), made.dictionary.codes_of(before.full_ND))


def test_more_codes_than_vectors_are_refused_before_the_fit() -> None:
    few = DictionaryVectors(torch.arange(10), rows().full_ND[:10], rows().text_only_ND[:10])
    with pytest.raises(ParameterError, match="32 codes a level need as many vectors") as refused:
        fit_dictionary(few.both, 10, parameters(codes_per_level=32), seed=1)
    assert refused.value.where == "interest_dictionary.dictionary.codes_per_level"
    assert "At most 20" in str(refused.value)


def test_more_cells_than_are_held_are_refused_with_the_configuration() -> None:
    with pytest.raises(ValueError, match="268,435,456 cells"):
        parameters(levels=4, codes_per_level=128)
    parameters(levels=2, codes_per_level=1024)


def small_dictionary(codes: list[list[float]]) -> InterestDictionary:
    """One level of these codes in the plane; vectors are their own encoding."""
    made = InterestDictionary(InterestDictionaryConfig(2, 2, 4, (len(codes),)))
    made.encode = made.decode = torch.nn.Sequential(torch.nn.Identity())
    made.quantizer.codes(0).copy_(torch.tensor(codes))
    return made


def test_new_items_pull_their_code_as_one_each() -> None:
    """One level, identity encoder: a code of two rows and one new item moves a third of the way; one of none stays."""
    made, child = (small_dictionary([[1.0, 0.0], [0.0, 9.0]]) for _ in range(2))
    one, moved = torch.tensor([[1.0, 0.5]]), torch.tensor([[2.0, 0.5]])
    before = DictionaryVectors(torch.tensor([4]), one, one)
    now = DictionaryVectors(
        torch.tensor([4, 7]),
        torch.cat([moved, torch.tensor([[3.0, 0.0]])]),
        torch.cat([moved, torch.tensor([[0.0, 8.0]])]),
    )
    move_codes(made, child, before, now)
    # Code 0 goes along to (2, 0), then a third of the way to the new (3, 0); code 1 had nothing, its place is its id.
    torch.testing.assert_close(child.quantizer.codes(0), torch.tensor([[2 + 1 / 3, 0.0], [0.0, 9.0]]))


def test_common_items_by_their_index() -> None:
    before, now = common(torch.tensor([2, 5, 9]), torch.tensor([9, 3, 2]))
    assert (before.tolist(), now.tolist()) == ([0, 2], [2, 0])


@pytest.mark.parametrize("seed", range(3))
def test_numbers_follow_the_items(parent: InterestDictionary, seed: int) -> None:
    """Codes that were shuffled, level by level, get their numbers back."""
    shuffled = InterestDictionary(parent.config)
    shuffled.load_state_dict(parent.state_dict())
    rng = np.random.default_rng(seed)
    for level in range(2):
        order = torch.from_numpy(rng.permutation(3))
        for name in (f"codes_{level}", f"load_{level}"):
            getattr(shuffled.quantizer, name).copy_(getattr(parent.quantizer, name)[order])
    vectors = rows().full_ND
    number_after(shuffled, parent.codes_of(vectors), shuffled.codes_of(vectors), parent.sizes)
    assert torch.equal(shuffled.codes_of(vectors), parent.codes_of(vectors))


def test_a_refresh_keeps_the_shape(parent: InterestDictionary) -> None:
    with pytest.raises(ParameterError, match="keeps the shape"):
        refresh_dictionary(parent, rows(), nudged(rows(), 0.1), parameters(levels=3), seed=1)


def test_rows_come_back_from_their_arrays() -> None:
    loaded = DictionaryVectors.load(rows(first=7).arrays())
    assert torch.equal(loaded.items_N, torch.arange(7, 7 + ITEMS))
    assert torch.equal(loaded.both, rows().both)


def test_a_refresh_repeats_itself(parent: InterestDictionary) -> None:
    versions = {refreshed(parent, rows(), nudged(rows(), 0.05)).dictionary.version for _ in range(2)}
    assert len(versions) == 1

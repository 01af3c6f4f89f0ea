"""Births in a refresh: growth and dead codes within the bar on items that barely move; what an id means day by day."""

import pytest
import torch
from torch.nn import functional as F

from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.dictionary import fit_dictionary
from prismrec.training.dictionary_births import Room, grow_code, idle_codes, put_to_work, revive_codes
from prismrec.training.dictionary_drift import drift
from prismrec.training.dictionary_refresh import DictionaryVectors, Refresh, refresh_dictionary

DIM = 24
BAR = 0.05  # of the items that barely move, those that may change their cell in a refresh


def parameters(items_per_cell: int = 20) -> DictionaryParameters:
    return DictionaryParameters(
        levels=2, items_per_cell=items_per_cell, codes_per_level=None, code_dim=8, hidden=32, commitment=0.25,
        warm_up_steps=100, steps=100, batch_size=256, learning_rate=0.005,
    )  # fmt: skip


def catalogue(items: int, seed: int, groups: int = 60) -> DictionaryVectors:
    """Groups of unequal size, that run into each other; text-only vectors are a little off."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, DIM, generator=generator)
    group = torch.multinomial(1 / torch.arange(1.0, groups + 1), items, replacement=True, generator=generator)
    full = F.normalize(centres[group] + 0.6 * torch.randn(items, DIM, generator=generator), dim=-1)
    text = F.normalize(full + 0.1 * torch.randn(items, DIM, generator=generator), dim=-1)
    return DictionaryVectors(torch.arange(items), full, text)


def part(whole: DictionaryVectors, kept: torch.Tensor) -> DictionaryVectors:
    return DictionaryVectors(whole.items_N[kept], whole.full_ND[kept], whole.text_only_ND[kept])


def first(whole: DictionaryVectors, items: int) -> DictionaryVectors:
    return part(whole, torch.arange(len(whole.items_N)) < items)


def fitted(rows: DictionaryVectors, seed: int) -> InterestDictionary:
    return fit_dictionary(rows.both, len(rows.items_N), parameters(), seed)[0]


def report(
    before: InterestDictionary, previous: DictionaryVectors, made: Refresh, rows: DictionaryVectors
) -> dict[str, object]:
    return drift(made.kind, made.dictionary, rows, (before, previous))


# The day a level grows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("before", "after", "size"), [(1615, 1622, 8), (3370, 3384, 12)])
def test_items_that_do_not_move_keep_their_cells_while_the_levels_grow(
    seed: int, before: int, after: int, size: int
) -> None:
    """The rule asks for one more code a level: they come one after the other, day by day, as new items do."""
    whole = catalogue(after + 2, seed)
    rows = first(whole, before)
    dictionary = fitted(rows, seed)
    sizes = [dictionary.sizes]
    for items in range(after, after + 3):
        now = first(whole, items)
        made = refresh_dictionary(dictionary, rows, now, parameters(), seed)
        found = report(dictionary, rows, made, now)
        assert found["items_barely_moved"] == len(rows.items_N)
        assert found["barely_moved_changed_share"] <= BAR
        assert found["now"]["vector_error"] < 1.01 * found["before"]["vector_error"], "births do no harm"
        assert min(found["now"][f"utilisation_level_{level}"] for level in (1, 2)) == 1.0
        dictionary, rows = made.dictionary, now
        sizes.append(dictionary.sizes)
    assert sizes == [(size, size), (size + 1, size), (size + 1, size + 1), (size + 1, size + 1)]
    assert made.figures == {"codes_born": 0.0, "codes_waiting": 0.0}


def test_refreshes_reach_the_sizes_that_the_rule_asks_for() -> None:
    """It asks for two more a level now, the groups do not part evenly, and vectors move a little every day."""
    whole, wanted = catalogue(800, seed=1, groups=9), parameters(items_per_cell=12)
    rows, dictionary, noise = whole, fitted(whole, 1), torch.Generator().manual_seed(0)
    assert dictionary.sizes == (6, 6)
    waiting = []
    for _ in range(6):
        full = F.normalize(whole.full_ND + 0.002 * torch.randn(800, DIM, generator=noise), dim=-1)
        now = DictionaryVectors(whole.items_N, full, whole.text_only_ND)
        made = refresh_dictionary(dictionary, rows, now, wanted, 1)
        assert report(dictionary, rows, made, now)["barely_moved_changed_share"] <= BAR
        assert made.origins is not None
        for codes_M, size, before in zip(made.origins.codes_CM, made.dictionary.sizes, dictionary.sizes, strict=True):
            assert codes_M[:before].tolist() == list(range(before)), "codes keep their index"
            assert len(codes_M) == size
            assert (codes_M < before).all(), "what is new comes from a code of the parent"
        dictionary, rows = made.dictionary, now
        waiting.append(made.figures["codes_waiting"])
    assert dictionary.sizes == (8, 8)
    assert waiting == sorted(waiting, reverse=True)
    assert waiting[-1] == 0


def test_no_code_is_added_where_all_vectors_have_one() -> None:
    made = line([1.0, 3.0])
    vectors = torch.tensor([[1.0], [3.0]]).repeat(20, 1)
    births = revive_codes(made, idle_codes(made, vectors), torch.cat([vectors, vectors]), free(80))
    grown, births = grow_code(made, (4,), torch.cat([vectors, vectors]), births)
    assert grown is made
    assert births.born == 0


# Codes without items


def test_an_interest_whose_items_are_gone_is_retired_and_its_id_rests_for_a_refresh() -> None:
    """Yesterday's code of delisted items is nobody's today, and only tomorrow part of another interest."""
    whole = catalogue(900, seed=2)
    dictionary = fitted(whole, 2)
    code = 1
    kept = part(whole, dictionary.codes_of(whole.full_ND)[:, 0] != code)
    gone = refresh_dictionary(dictionary, whole, kept, parameters(), 2)
    found = report(dictionary, whole, gone, kept)
    assert gone.figures == {"codes_born": 0.0, "codes_waiting": 1.0}
    assert {row["interest"].split("-")[0] for row in found["interests_retired"]} == {str(code)}
    assert found["interests"]["born"] == 0
    assert torch.equal(gone.dictionary.quantizer.codes(0)[code], dictionary.quantizer.codes(0)[code])

    later = part(kept, torch.arange(len(kept.items_N)) > 0)
    back = refresh_dictionary(gone.dictionary, kept, later, parameters(), 2)
    found = report(gone.dictionary, kept, back, later)
    assert back.figures == {"codes_born": 1.0, "codes_waiting": 0.0}
    born = [row for row in found["interests_born"] if row["interest"].split("-")[0] == str(code)]
    assert born
    assert all(row["from"] is not None for row in born)
    assert found["barely_moved_changed_share"] <= BAR
    assert found["now"]["utilisation_level_1"] == 1.0


def test_what_is_new_where_an_interest_was_has_its_old_id_and_does_not_move_it() -> None:
    """A new item at the border: the code that has lost all others does not follow it into another interest."""
    whole = catalogue(900, seed=2)
    dictionary = fitted(whole, 2)
    codes_N = dictionary.codes_of(whole.full_ND)[:, 0]
    kept = part(whole, codes_N != 1)
    margin_N = (
        torch.cdist(dictionary.encode(whole.full_ND), dictionary.quantizer.codes(0)).topk(2, largest=False).values
    )
    outermost = torch.where(codes_N == 1, margin_N[:, 1] - margin_N[:, 0], torch.inf).argmin()
    now = DictionaryVectors(
        torch.cat([kept.items_N, torch.tensor([5000])]),
        torch.cat([kept.full_ND, whole.full_ND[outermost][None]]),
        torch.cat([kept.text_only_ND, whole.text_only_ND[outermost][None]]),
    )
    made = refresh_dictionary(dictionary, whole, now, parameters(), 2)
    assert made.dictionary.codes_of(now.full_ND)[-1, 0] == 1
    assert torch.equal(made.dictionary.quantizer.codes(0)[1], dictionary.quantizer.codes(0)[1])
    assert report(dictionary, whole, made, now)["barely_moved_changed_share"] <= BAR


def test_all_dead_codes_are_revived_one_after_the_other() -> None:
    """Two codes a level point nowhere; after a few days they are in use, within the bar on every one."""
    whole = catalogue(1000, seed=3)
    dictionary, noise = fitted(whole, 3), torch.Generator().manual_seed(0)
    for level in (0, 1):
        dictionary.quantizer.codes(level)[:2] = 1e3 + torch.arange(2.0)[:, None]
    rows, found = whole, {}
    for _ in range(6):
        full = F.normalize(whole.full_ND + 0.001 * torch.randn(1000, DIM, generator=noise), dim=-1)
        now = DictionaryVectors(whole.items_N, full, whole.text_only_ND)
        made = refresh_dictionary(dictionary, rows, now, parameters(), 3)
        found = report(dictionary, rows, made, now)
        assert found["barely_moved_changed_share"] <= BAR
        dictionary, rows = made.dictionary, now
    assert [found["now"][f"utilisation_level_{level}"] for level in (1, 2)] == [1.0, 1.0]


# One birth


def test_a_birth_takes_a_part_of_another_codes_items_and_moves_no_other_code() -> None:
    rows = catalogue(600, seed=4)
    dictionary = fitted(rows, 4)
    dictionary.quantizer.codes(1)[2] = 1e4
    before, codes_MD = dictionary.quantizer(dictionary.encode(rows.both)), dictionary.quantizer.codes(1).clone()
    errors = [error(dictionary, rows)]
    birth = put_to_work(dictionary, 1, 2, rows.both, free(1200))
    assert birth is not None
    after = dictionary.quantizer(dictionary.encode(rows.both))
    assert torch.equal(after.codes_nC[:, 1] == 2, birth.taken_n)
    kept = (after.codes_nC == before.codes_nC).all(1) | birth.taken_n
    assert kept.all(), "items change only to the code that was born"
    others = torch.arange(len(codes_MD)) != 2
    assert torch.equal(dictionary.quantizer.codes(1)[others], codes_MD[others])
    left, had = (
        torch.bincount(codes_nC[:, 1], minlength=len(codes_MD)) for codes_nC in (after.codes_nC, before.codes_nC)
    )
    assert (2 * left >= had)[others].all(), "it becomes no other code under another number"
    assert error(dictionary, rows) < errors[0]


@pytest.mark.parametrize("most", [1, 5, 30])
def test_a_birth_keeps_to_its_room(most: int) -> None:
    rows = catalogue(600, seed=4)
    dictionary = fitted(rows, 4)
    calm_n = torch.arange(1200) % 3 == 0
    dictionary.quantizer.codes(0)[1] = 1e4
    birth = put_to_work(dictionary, 0, 1, rows.both, Room(calm_n, most))
    assert birth is not None
    after = dictionary.quantizer(dictionary.encode(rows.both)).codes_nC[:, 0] == 1
    assert torch.equal(after, birth.taken_n)
    assert 0 <= Room(calm_n, most).after(after).most < most or not (after & calm_n).any()


def test_without_room_nothing_is_born() -> None:
    rows = catalogue(600, seed=4)
    dictionary = fitted(rows, 4)
    dictionary.quantizer.codes(0)[1] = 1e4
    assert put_to_work(dictionary, 0, 1, rows.both, Room(torch.ones(1200, dtype=torch.bool), 0)) is None
    assert (dictionary.quantizer.codes(0)[1] == 1e4).all(), "the code stays where it is"


def test_a_group_too_large_to_be_taken_is_divided() -> None:
    """On a line: 40 items about 10 have a code far off at 0; no more than ten of them may change, and ten do."""
    made = line([0.0, 1e4])
    vectors = torch.cat([torch.zeros(60, 1), torch.linspace(9.5, 10.5, 40)[:, None]])
    vectors_nD = torch.cat([vectors, vectors])
    birth = put_to_work(made, 0, 1, vectors_nD, Room(torch.arange(200) < 100, 10))
    assert birth is not None
    assert int(birth.taken_n[:100].sum()) == 10
    assert float(vectors_nD[birth.taken_n].min()) == pytest.approx(10.26, abs=0.02), "the ones farthest off"


def test_more_codes_than_distinct_vectors() -> None:
    """Three places for five codes: two are born, the others stay without work."""
    made = line([1.0, 50.0, 51.0, 52.0, 53.0])
    vectors = torch.tensor([[1.0], [2.0], [4.0]]).repeat(20, 1)
    births = revive_codes(made, idle_codes(made, vectors), torch.cat([vectors, vectors]), free(120))
    found = made.quantizer(vectors)
    assert births.born == 2
    assert float(found.distances_n.max()) == pytest.approx(0.0, abs=1e-10)
    assert made.quantizer.codes(0)[3:].flatten().tolist() == [52.0, 53.0]
    assert births.codes_CM[0].tolist() == [0, 0, 0, 3, 4]


def free(rows: int) -> Room:
    """Room for everything: no row is calm."""
    return Room(torch.zeros(rows, dtype=torch.bool), 1)


def line(codes: list[float]) -> InterestDictionary:
    """One level of codes on a line; vectors are their own encoding."""
    made = InterestDictionary(InterestDictionaryConfig(1, 1, 4, (len(codes),)))
    made.encode = made.decode = torch.nn.Sequential(torch.nn.Identity())
    made.quantizer.codes(0).copy_(torch.tensor(codes)[:, None])
    return made


@torch.no_grad()
def error(dictionary: InterestDictionary, rows: DictionaryVectors) -> float:
    decoded = dictionary.decode(dictionary.quantizer(dictionary.encode(rows.both)).chosen_CnD.sum(0))
    return float((decoded - rows.both).square().sum())

"""Births in a refresh of the interest dictionary: where codes without work go, and whose items they take (our choice).

A code is born into another one's items: at the mean of the outermost half, quarter or eighth of them, at either end of
one of their longest axes. What is nearer to it than to its own code is taken. Items that have barely moved should keep
their cells, so only so many of these may be taken (`Room`). Where the mean would take more, the code is put farther out
on the same line, where as many are nearer to it as may be:

    |x - e - s u|² < |x - e'|²,  s >= 1        e the code that is split, e + u the mean, e' the code of row x

Of all births that fit, the one after which the decoded vectors are nearest to the vectors is done. The error of the
codes is no guide: it falls most with codes far out, and there the decoder overshoots, for it has learned from codes in
the midst of their items; nor does it say whether the later levels' codes suit what a new one leaves to them.

Shapes: n rows (full vectors, then text-only ones), o rows of one code, N items, C levels, M codes a level, A axes,
K places to be born at, d code width, D item dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig

AXES = 4  # longest axes of a code's items that births are tried at
PARTS = (0.5, 0.25, 0.125)  # of a code's items, those at one end that a birth begins with
FEWEST = 0.05  # items of a birth, as a share of an even load
TRIED = 100  # births that fit, of the codes with the largest error, of which the best is done


class Room(NamedTuple):
    """What births may do to items that have barely moved.

    Attributes:
        calm_n: rows that have barely moved.
        most: how many of them may change their cell.
    """

    calm_n: Tensor
    most: int

    def after(self, taken_n: Tensor) -> Room:
        """What is left of it when a birth has taken these rows."""
        return self._replace(most=self.most - int((taken_n & self.calm_n).sum()))


class Birth(NamedTuple):
    """A code's new place, the code that it is split off, and the rows [n] that it takes."""

    code_D: Tensor
    off: int
    taken_n: Tensor


class Births(NamedTuple):
    """What was done.

    Attributes:
        born: how many codes were put to work.
        codes_CM: of each level, what every code was split off, or itself.
        room: what is left of it.
    """

    born: int
    codes_CM: tuple[Tensor, ...]
    room: Room

    def with_one(self, level: int, code: int, birth: Birth) -> Births:
        """This one too; a code behind the last has been added to its level."""
        origin_M = self.codes_CM[level]
        if code == len(origin_M):
            origin_M = torch.cat([origin_M, origin_M[:1]])
        origin_M = origin_M.index_fill(0, torch.tensor(code), int(origin_M[birth.off]))
        codes_CM = (*self.codes_CM[:level], origin_M, *self.codes_CM[level + 1 :])
        return Births(self.born + 1, codes_CM, self.room.after(birth.taken_n))


@torch.no_grad()
def idle_codes(dictionary: InterestDictionary, full_ND: Tensor) -> tuple[Tensor, ...]:
    """Of each level, which codes [M] no item has by its full vector, which is what its interest follows from."""
    codes_NC = dictionary.codes_of(full_ND)
    return tuple(
        torch.bincount(code_N, minlength=size) == 0 for code_N, size in zip(codes_NC.T, dictionary.sizes, strict=True)
    )


@torch.no_grad()
def revive_codes(dictionary: InterestDictionary, rested: tuple[Tensor, ...], vectors_nD: Tensor, room: Room) -> Births:
    """Put idle codes to work, as far as there is room, if they were idle in the parent already.

    Args:
        rested: of each level, the codes [M] that were. Another one rests for a refresh first, so that no id means one
            thing yesterday and another today.
    """
    births = Births(0, tuple(torch.arange(size) for size in dictionary.sizes), room)
    for level, rested_M in enumerate(rested):
        idle_M = idle_codes(dictionary, _full(vectors_nD))[level]  # anew: what births take falls into other codes here
        for code in torch.nonzero(rested_M & idle_M).flatten().tolist():
            birth = put_to_work(dictionary, level, code, vectors_nD, births.room)
            births = births if birth is None else births.with_one(level, code, birth)
    return births


@torch.no_grad()
def grow_code(
    dictionary: InterestDictionary, wanted: tuple[int, ...], vectors_nD: Tensor, births: Births
) -> tuple[InterestDictionary, Births]:
    """Add one code to the smallest of the levels that have fewer than wanted, if there is room for it.

    One a refresh, on one level, since what codes take adds up.

    Args:
        births: what was done before.

    Returns:
        The dictionary, another one if it has grown; what was done, this birth included.
    """
    behind = [level for level, size in enumerate(dictionary.sizes) if size < wanted[level]]
    if not behind:
        return dictionary, births
    level = min(behind, key=lambda level: dictionary.sizes[level])
    code, sizes = dictionary.sizes[level], list(dictionary.sizes)
    sizes[level] += 1
    grown = copied(dictionary, replace(dictionary.config, sizes=tuple(sizes)))
    birth = put_to_work(grown, level, code, vectors_nD, births.room)
    return (dictionary, births) if birth is None else (grown, births.with_one(level, code, birth))


@torch.no_grad()
def copied(dictionary: InterestDictionary, config: InterestDictionaryConfig) -> InterestDictionary:
    """The dictionary with another config, whose levels may be longer; added codes lie out of everyone's way."""
    copy = InterestDictionary(config)
    for level in range(len(config.sizes)):
        copy.quantizer.codes(level).fill_(torch.inf)
    for name, tensor in dictionary.state_dict().items():
        copy.state_dict()[name][: len(tensor)] = tensor
    return copy.eval()


@torch.no_grad()
def put_to_work(dictionary: InterestDictionary, level: int, code: int, vectors_nD: Tensor, room: Room) -> Birth | None:
    """Move a code that no item has to where it lowers the error of the decoded vectors most; the others stay.

    Returns:
        The birth; None, and the code stays where it is, if none fits: there is no room, or no error left.
    """
    if room.most <= 0:
        return None
    codes_MD = dictionary.quantizer.codes(level)
    place_D, codes_MD[code] = codes_MD[code].clone(), torch.inf  # out of the way
    inputs_nD = dictionary.encode(vectors_nD)
    found, error_n = dictionary.quantizer(inputs_nD), _errors(dictionary, vectors_nD, inputs_nD)

    def gain(birth: Birth) -> float:
        codes_MD[code], own_n = birth.code_D, birth.taken_n
        return float((error_n[own_n] - _errors(dictionary, vectors_nD[own_n], inputs_nD[own_n])).sum())

    births = _births(found.residuals_CnD[level], found.chosen_CnD[level], found.codes_nC[:, level], room)
    best = max(islice(births, TRIED), key=gain, default=None)
    codes_MD[code] = place_D if best is None else best.code_D
    return best


def _full(rows_n: Tensor) -> Tensor:
    return rows_n[: len(rows_n) // 2]


def _errors(dictionary: InterestDictionary, vectors_nD: Tensor, inputs_nD: Tensor) -> Tensor:
    """[n] squared distance of the decoded vectors to the vectors."""
    decoded_nD = dictionary.decode(dictionary.quantizer(inputs_nD).chosen_CnD.sum(0))
    error_n: Tensor = (vectors_nD - decoded_nD).double().square().sum(1)
    return error_n


def _births(residual_nD: Tensor, chosen_nD: Tensor, code_n: Tensor, room: Room) -> Iterator[Birth]:
    """The births that fit, those off the codes with most error first.

    A birth takes no more than there is room for, not so few items that it is hardly a code, and not most of any code's
    rows, which would only be called otherwise then.
    """
    distance_n, held_M = (residual_nD - chosen_nD).norm(dim=1), torch.bincount(code_n)
    error_M = torch.bincount(code_n, weights=distance_n.double().square())
    fewest = FEWEST * len(_full(code_n)) / (int((held_M > 0).sum()) + 1)
    for off in error_M.argsort(descending=True, stable=True)[: int((error_M > 0).sum())].tolist():
        own_n = code_n == off
        place_D = chosen_nD[own_n][0]
        ways_KD = _ways(residual_nD[own_n] - place_D)
        reach_nK = _reach(residual_nD[room.calm_n] - place_D, distance_n[room.calm_n], ways_KD)
        codes_KD = place_D + _stretch(reach_nK, room.most)[:, None] * ways_KD
        distance_Kn = torch.cdist(codes_KD, residual_nD, compute_mode="donot_use_mm_for_euclid_dist")
        for code_D, taken_n in zip(codes_KD, distance_Kn < distance_n, strict=True):
            lost_M = torch.bincount(code_n[taken_n], minlength=len(held_M))
            many = _full(taken_n).sum() >= fewest
            if many and (2 * lost_M <= held_M).all() and room.after(taken_n).most >= 0:
                yield Birth(code_D, off, taken_n)


def _ways(offset_oD: Tensor) -> Tensor:
    """[K, d] from a code to the means of the outermost parts of its rows."""
    axes_AD = torch.linalg.svd(offset_oD.double(), full_matrices=False).Vh[:AXES].to(offset_oD.dtype)
    ways = []
    for axis_D in axes_AD:
        order_o = (offset_oD @ axis_D).argsort(stable=True)
        for part in PARTS:
            size = max(1, int(part * len(order_o)))
            ways += [offset_oD[order_o[-size:]].mean(0), offset_oD[order_o[:size]].mean(0)]
    ways_KD = torch.stack(ways)
    return ways_KD[ways_KD.any(1)]


def _reach(offset_nD: Tensor, distance_n: Tensor, ways_KD: Tensor) -> Tensor:
    """[n, K] the largest s of the formula above at which a row is still taken, 0 where it never is.

    Args:
        offset_nD: from the code that is split to the rows; distance_n: from the rows to their own codes.
    """
    along_nK, size_K = offset_nD @ ways_KD.T, ways_KD.square().sum(1)
    farther_n = (offset_nD.square().sum(1) - distance_n.square()).clamp_min(0)  # 0: a row of the code itself
    inside_nK = along_nK.square() - size_K * farther_n[:, None]
    return ((along_nK + inside_nK.clamp_min(0).sqrt()) / size_K).where((inside_nK >= 0) & (along_nK > 0), 0)


def _stretch(reach_nK: Tensor, most: int) -> Tensor:
    """[K] the s of each way: 1, or as much more as it takes that no more than `most` rows reach it."""
    if len(reach_nK) <= most:
        return torch.ones(reach_nK.shape[1])
    farthest_mK = reach_nK.topk(most + 1, dim=0).values
    return (farthest_mK[-2:].mean(0)).where(farthest_mK[-1] > 1, 1.0)

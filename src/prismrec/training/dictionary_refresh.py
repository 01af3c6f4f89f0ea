"""Refresh of the interest dictionary: a new version that goes on with its parent's cells (our choice throughout).

Encoder and decoder stay frozen. Every code moves with the items it had: by the mean change of their residuals, level
1 first; items that are new to it count one each. Then a code that no item has left is put to work where the error is
largest: it takes over a part of the worst code's items. A level grows only if the catalogue's rule asks for more codes.

    e'_m = (n_m (e_m + mean_{i in m} (r'_i - r_i)) + sum_{new i} r'_i) / (n_m + new_m)

Identity: a code keeps its index, so an interest keeps its id. Stability comes from this movement alone, not from a
table of items: an item whose neighbours moved with it stays in its cell, unchanged vectors change nothing, and
`codes_of` stays a function of the vector.

A tower that was trained again may have turned all vectors. If an orthogonal map (Procrustes, on items in both) brings
them clearly nearer to the parent's, it is folded into encoder and decoder. If they are then still far from it, nothing
can be gone on with: a dictionary is fitted anew, without a parent, and its codes are numbered after the old ones whose
items they share.

What rests on the dictionary may go on too (`carry_over.py`): for that, `Origins` says where each code comes from.

Shapes: n rows (full vectors, then text-only ones), N items, C levels, M codes a level, d code width, D item dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.artifacts.model_folder import write_tensors
from prismrec.errors import ParameterError
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.dictionary import data_version, fit_dictionary, wanted_sizes
from prismrec.training.loop import repeatable

FARTHEST = 0.1  # mean of 1 - cosine to the parent's vectors beyond which a dictionary starts anew
TURNED = 0.5  # the map is used if it brings that mean below this share of what it is without
SPLIT_STEPS = 10  # of 2-means, when a code is split

VECTORS_NAME = "vectors.safetensors"  # beside the model's own files

Kind = Literal["fitted", "refreshed", "unchanged", "new_major"]


@dataclass(frozen=True)
class DictionaryVectors:
    """The vectors that a dictionary rests on: those of the recommendable items, full and text-only.

    `items_N` are the item indices of the rows; an item keeps its index for ever.
    """

    items_N: Tensor
    full_ND: Tensor
    text_only_ND: Tensor

    @classmethod
    def of(cls, item_vectors: dict[str, np.ndarray]) -> DictionaryVectors:
        """The rows of stage 3's item vectors."""
        known_N = item_vectors["recommendable"]
        return cls(
            torch.from_numpy(np.flatnonzero(known_N)),
            torch.from_numpy(item_vectors["vectors"][known_N]),
            torch.from_numpy(item_vectors["text_only"][known_N]),
        )

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray]) -> DictionaryVectors:
        """The rows that `arrays` wrote."""
        return cls(*(torch.from_numpy(arrays[name]) for name in ("items", "full", "text_only")))

    def arrays(self) -> dict[str, np.ndarray]:
        """The rows as named arrays."""
        return {"items": self.items_N.numpy(), "full": self.full_ND.numpy(), "text_only": self.text_only_ND.numpy()}

    @property
    def both(self) -> Tensor:
        """[2 N, D] full vectors, then text-only ones."""
        return torch.cat([self.full_ND, self.text_only_ND])


@dataclass(frozen=True)
class Origins:
    """Where a dictionary's codes, and the vectors it reads, come from in its parent.

    Attributes:
        codes_CM: of each level, the parent's code that each code goes on with: its own number, or, for one put to work
            anew, that of the code it was split off.
        map_DD: the orthogonal map, applied from the right, onto the parent's vectors; the identity if none was used.
    """

    codes_CM: tuple[Tensor, ...]
    map_DD: Tensor

    @classmethod
    def itself(cls, dictionary: InterestDictionary) -> Origins:
        """Those of a dictionary that is its own origin: a fitted one."""
        return cls(tuple(torch.arange(size) for size in dictionary.sizes), torch.eye(dictionary.config.dim))

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray]) -> Origins:
        """The origins that `arrays` wrote."""
        levels = sum(name.startswith("origins_") for name in arrays)
        codes = (torch.from_numpy(arrays[f"origins_{level}"]) for level in range(levels))
        return cls(tuple(codes), torch.from_numpy(arrays["map"]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The origins as named arrays."""
        codes = {f"origins_{level}": codes_M.numpy() for level, codes_M in enumerate(self.codes_CM)}
        return {**codes, "map": self.map_DD.numpy()}


@dataclass(frozen=True)
class KeptDictionary:
    """A dictionary with the vectors it rests on and its origins, as the next refresh needs them: one folder of all.

    Read as a model the folder gives the dictionary alone, which is all that the later stages and a bundle want.
    """

    kind: ClassVar[str] = InterestDictionary.kind
    dictionary: InterestDictionary
    rows: DictionaryVectors
    origins: Origins

    def as_read(self) -> InterestDictionary:
        """What the later stages read of it."""
        return self.dictionary

    def save(self, folder: Path) -> None:
        """Write the model folder with the vectors in it."""
        self.dictionary.save(folder)
        write_tensors(folder / VECTORS_NAME, {**self.rows.arrays(), **self.origins.arrays()})

    @classmethod
    def load(cls, folder: Path) -> KeptDictionary:
        """Read a folder that `save` wrote.

        Raises:
            MissingArtefact: the folder is not a model folder, or is damaged.
        """
        from safetensors.numpy import load_file

        dictionary, arrays = InterestDictionary.load(folder), load_file(folder / VECTORS_NAME)
        origins = Origins.load(arrays) if "map" in arrays else Origins.itself(dictionary)  # kept by a release before
        return cls(dictionary, DictionaryVectors.load(arrays), origins)


@dataclass(frozen=True)
class Refresh:
    """A dictionary and how it came about.

    Attributes:
        kind: the parent's cells gone on with, the parent itself, or fitted anew since nothing could be gone on with.
        origins: None if it is the parent itself, whose own they then are.
        figures: losses of a fit; how many codes were put to work.
        distance: mean of 1 - cosine to the parent's vectors, over items in both.
        distance_aligned: the same after the best orthogonal map; as they come, where too few items are in both to
            tell one.
        aligned: whether that map was used.
    """

    dictionary: InterestDictionary
    origins: Origins | None
    kind: Kind
    figures: dict[str, float]
    distance: float
    distance_aligned: float
    aligned: bool


@repeatable()
def refresh_dictionary(
    parent: InterestDictionary,
    previous: DictionaryVectors,
    rows: DictionaryVectors,
    parameters: DictionaryParameters,
    seed: int,
) -> Refresh:
    """Make the version that follows `parent` on new vectors.

    Args:
        parent: the dictionary to go on with.
        previous: the rows it rests on.
        rows: the rows of today.

    Returns:
        The parent itself if the rows are the same and it is large enough; a refreshed one; or one fitted anew if the
        vectors are too far from the previous ones, or no item is in both.

    Raises:
        ParameterError: the parameters ask for another shape than the parent's.
    """
    _check_shape(parent, rows, parameters)
    data, wanted = data_version(rows.both), wanted_sizes(len(rows.items_N), parameters)
    sizes = tuple(max(pair) for pair in zip(parent.sizes, wanted, strict=True))
    if data == data_version(previous.both) and sizes == parent.sizes:
        return Refresh(parent, None, "unchanged", {}, 0.0, 0.0, aligned=False)
    before_B, now_B = common(previous.items_N, rows.items_N)
    old_BD, new_BD = previous.full_ND[before_B], rows.full_ND[now_B]
    map_DD = procrustes(new_BD, old_BD) if tells_a_map(old_BD) else torch.eye(parent.config.dim)
    distance, distance_aligned = _distance(new_BD, old_BD), _distance(new_BD @ map_DD, old_BD)
    if min(distance, distance_aligned) > FARTHEST:
        anew, losses = fit_dictionary(rows.both, len(rows.items_N), parameters, seed)
        number_after(anew, parent.codes_of(old_BD), anew.codes_of(new_BD), parent.sizes)
        return Refresh(anew, Origins.itself(anew), "new_major", losses, distance, distance_aligned, aligned=False)
    aligned = distance_aligned < TURNED * distance
    child = _copy(parent, replace(parent.config, sizes=sizes, parent=parent.version, data=data))
    if aligned:
        turn(child, map_DD)
    move_codes(parent, child, previous, rows)
    revived = revive_codes(child, parent.sizes, rows.both)
    origins = Origins(revived.codes_CM, map_DD if aligned else torch.eye(len(map_DD)))
    figures = {"codes_born": float(revived.born)}
    return Refresh(child, origins, "refreshed", figures, distance, distance_aligned, aligned)


def common(before_N: Tensor, now_N: Tensor) -> tuple[Tensor, Tensor]:
    """Places in both lists of the items that are in both, in one order."""
    _, before_B, now_B = np.intersect1d(before_N.numpy(), now_N.numpy(), return_indices=True)
    return torch.from_numpy(before_B), torch.from_numpy(now_B)


def procrustes(from_BD: Tensor, to_BD: Tensor) -> Tensor:
    """The orthogonal map [D, D], applied from the right, that brings the first rows nearest to the second."""
    left, _, right = torch.linalg.svd(from_BD.double().T @ to_BD.double())
    map_DD: Tensor = left @ right
    return map_DD.to(from_BD.dtype)


def tells_a_map(rows_BD: Tensor) -> bool:
    """Whether these rows can tell an orthogonal map: fewer rows than dimensions can always be turned onto others."""
    return rows_BD.shape[0] >= rows_BD.shape[1]


def _distance(rows_BD: Tensor, others_BD: Tensor) -> float:
    cosine_B = F.cosine_similarity(rows_BD.double(), others_BD.double())
    return float(1 - cosine_B.mean()) if len(cosine_B) else 1.0


@torch.no_grad()
def turn(dictionary: InterestDictionary, map_DD: Tensor) -> None:
    """Fold an orthogonal map of its inputs into a dictionary: it then does with v what it did with v · map."""
    first, last = dictionary.encode[0], dictionary.decode[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    first.weight.copy_(first.weight @ map_DD.T)
    last.weight.copy_(map_DD @ last.weight)
    last.bias.copy_(map_DD @ last.bias)


@torch.no_grad()
def move_codes(
    parent: InterestDictionary, child: InterestDictionary, previous: DictionaryVectors, rows: DictionaryVectors
) -> None:
    """Move the child's codes, which are still the parent's, with the items they had."""
    before_B, now_B = common(previous.items_N, rows.items_N)
    before_b = torch.cat([before_B, before_B + len(previous.items_N)])
    now_b = torch.cat([now_B, now_B + len(rows.items_N)])
    new_a = torch.ones(2 * len(rows.items_N), dtype=torch.bool)
    new_a[now_b] = False
    old_bD, both_nD = parent.encode(previous.both[before_b]), child.encode(rows.both)
    held_bC = parent.quantizer(old_bD).codes_nC
    now_bD, added_aD = both_nD[now_b], both_nD[new_a]
    for level, size in enumerate(parent.sizes):
        old_MD, held_b = parent.quantizer.codes(level), held_bC[:, level]
        codes_MD = child.quantizer.codes(level)[:size]  # a view: what the level has grown by comes later
        codes_MD += _mean_by(held_b, now_bD - old_bD, size)
        added_a = torch.cdist(added_aD, codes_MD, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        share_M = _count(added_a, size) / (_count(added_a, size) + _count(held_b, size)).clamp_min(1)
        codes_MD += share_M[:, None] * _mean_by(added_a, added_aD - codes_MD[added_a], size)
        old_bD, now_bD = old_bD - old_MD[held_b], now_bD - codes_MD[held_b]
        added_aD = added_aD - codes_MD[added_a]


def _count(code_n: Tensor, size: int) -> Tensor:
    return torch.bincount(code_n, minlength=size).float()


def _mean_by(code_n: Tensor, rows_nD: Tensor, size: int) -> Tensor:
    """[M, d] mean of the rows of each code, 0 where it has none; in float64, so that their order hardly matters."""
    sum_MD = torch.zeros(size, rows_nD.shape[1], dtype=torch.float64).index_add_(0, code_n, rows_nD.double())
    return (sum_MD / _count(code_n, size).clamp_min(1)[:, None]).to(rows_nD.dtype)


class Revived(NamedTuple):
    """What `revive_codes` did: how many codes were put to work, and what every code was split off, or itself."""

    born: int
    codes_CM: tuple[Tensor, ...]


@torch.no_grad()
def revive_codes(dictionary: InterestDictionary, kept: tuple[int, ...], vectors_nD: Tensor) -> Revived:
    """Put codes that no item has, and those a level has grown by, to work where the error is largest.

    Args:
        kept: codes a level that the parent has.

    Returns:
        How many codes were put to work, and their origins. Where every vector has a code of its own, there is no work
        for more: an idle code stays where it is, and one that its level has grown by lies on the level's first code.
    """
    quantizer, born, origins = dictionary.quantizer, 0, []
    for level, size in enumerate(kept):
        found = quantizer(dictionary.encode(vectors_nD))
        residual_nD, counts_M = found.residuals_CnD[level], _count(found.codes_nC[:, level], dictionary.sizes[level])
        codes_MD = quantizer.codes(level)
        grown = torch.arange(len(codes_MD)) >= size
        idle = torch.nonzero((counts_M == 0) | grown).flatten()
        places_MD = codes_MD.where(~grown[:, None], codes_MD[0])
        origin_M = torch.arange(len(codes_MD)).where(~grown, 0)
        codes_MD[idle] = torch.inf  # out of the way until its turn has come
        for code in idle.tolist():
            split = _split_off(residual_nD, codes_MD)
            codes_MD[code] = places_MD[code] if split is None else split.code_D
            if split is not None:
                origin_M[code] = origin_M[split.off]
        load_M = getattr(quantizer, f"load_{level}")
        load_M.copy_(_count(quantizer(dictionary.encode(vectors_nD)).codes_nC[:, level], len(codes_MD)))
        born += int((load_M[idle] > 0).sum())
        origins.append(origin_M)
    return Revived(born, tuple(origins))


class _Split(NamedTuple):
    code_D: Tensor
    off: int  # the code that it takes items from


def _split_off(residual_nD: Tensor, codes_MD: Tensor) -> _Split | None:
    """Where a further code takes most of the error off the code that has most of it; the others stay where they are.

    None: there is no error left.
    """
    distance_n, code_n = _nearest(residual_nD, codes_MD)
    error_M = torch.zeros(len(codes_MD), dtype=torch.float64).index_add_(0, code_n, distance_n.double().square())
    worst = int(error_M.argmax())
    if error_M[worst] == 0:
        return None
    offset_nD = residual_nD[code_n == worst] - codes_MD[worst]
    axis_D = torch.linalg.svd(offset_nD.double(), full_matrices=False).Vh[0].to(offset_nD.dtype)
    along_n = offset_nD @ axis_D
    side_n = along_n * along_n[along_n.abs().argmax()].sign() > 0  # an axis has no direction: towards the farthest
    born_D: Tensor = codes_MD[worst] + offset_nD[side_n].mean(0)
    for _ in range(SPLIT_STEPS):
        own_n = (residual_nD - born_D).norm(dim=1) < distance_n
        if own_n.any():
            born_D = residual_nD[own_n].mean(0)
    return _Split(born_D, worst)


def _nearest(rows_nD: Tensor, codes_MD: Tensor) -> tuple[Tensor, Tensor]:
    distance_nM = torch.cdist(rows_nD, codes_MD, compute_mode="donot_use_mm_for_euclid_dist")
    found = distance_nM.min(1)
    return found.values, found.indices


@torch.no_grad()
def number_after(
    dictionary: InterestDictionary, before_BC: Tensor, now_BC: Tensor, previous_sizes: tuple[int, ...]
) -> None:
    """Number a dictionary's codes after those of another that share most of their items, level 1 first.

    Args:
        before_BC: codes of the items in both under the other dictionary, now_BC under this one.
        previous_sizes: its codes a level.
    """
    from scipy.optimize import linear_sum_assignment

    same_b = torch.ones(len(now_BC), dtype=torch.bool)
    for level, (old, new) in enumerate(zip(previous_sizes, dictionary.sizes, strict=True)):
        pairs_b = before_BC[same_b, level] * new + now_BC[same_b, level]
        shared_MM = torch.bincount(pairs_b, minlength=old * new).reshape(old, new)
        olds, news = linear_sum_assignment(shared_MM.numpy(), maximize=True)
        number_M = _numbers({int(n): int(o) for o, n in zip(olds, news, strict=True) if o < new}, new)
        for name in (f"codes_{level}", f"load_{level}"):
            buffer = getattr(dictionary.quantizer, name)
            buffer[number_M] = buffer.clone()
        # A level-2 code means something only beside its level-1 code.
        same_b &= number_M[now_BC[:, level]] == before_BC[:, level]


def _numbers(matched: dict[int, int], size: int) -> Tensor:
    """Every code's number: the one it is matched with, or one that is free."""
    free = iter(sorted(set(range(size)) - set(matched.values())))
    return torch.tensor([matched[code] if code in matched else next(free) for code in range(size)])


@torch.no_grad()
def _copy(parent: InterestDictionary, config: InterestDictionaryConfig) -> InterestDictionary:
    """The parent with another config, whose levels may be longer; the added codes lie out of everyone's way."""
    child = InterestDictionary(config)
    for level in range(len(config.sizes)):
        child.quantizer.codes(level).fill_(torch.inf)
    for name, tensor in parent.state_dict().items():
        child.state_dict()[name][: len(tensor)] = tensor
    return child.eval()


def _check_shape(parent: InterestDictionary, rows: DictionaryVectors, parameters: DictionaryParameters) -> None:
    wanted = (rows.full_ND.shape[1], parameters.code_dim, parameters.hidden, parameters.levels)
    found = (parent.config.dim, parent.config.code_dim, parent.config.hidden, len(parent.sizes))
    if wanted != found:
        raise ParameterError(
            "A refresh keeps the shape of its parent: item dimension, code_dim, hidden and levels are to be "
            f"{wanted}, but dictionary {parent.version} has {found}.",
            "interest_dictionary.dictionary",
            "Set them as they were, or fit a dictionary anew: interest_dictionary.refresh=false",
        )

"""Refresh of the interest dictionary: a new version that goes on with its parent's cells (our choice throughout).

The encoder stays frozen. Every code moves with the items it had: by the mean change of their residuals, level
1 first; items that are new to it count one each. A code that none has left stays where it is.

    e'_m = (n_m (e_m + mean_{i in m} (r'_i - r_i)) + sum_{new i} r'_i) / (n_m + new_m)

Then codes that no item has are put to work, and a level grows by one code if the catalogue's rule asks for more
(`dictionary_births.py`), as far as the items that have barely moved allow it: no more than MAY_CHANGE of them are to
change their cell. What finds no room waits for the next refresh. Last, the decoder's output layer, on which no cell
rests, is fitted to the day's vectors in closed form: a decoder that is older than its codes errs more every day.

Identity: a code keeps its index, so an interest keeps its id. A code that has lost its items rests for a refresh before
it is put elsewhere, so no id means two things on consecutive days. Stability comes from all this, not from a table of
items: an item whose neighbours moved with it stays in its cell, unchanged vectors give back the parent itself, and
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
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prismrec.artifacts.model_folder import write_tensors
from prismrec.errors import ParameterError
from prismrec.models.interest_dictionary import InterestDictionary
from prismrec.parameters.interest_dictionary import DictionaryParameters
from prismrec.training.dictionary import data_version, fit_dictionary, wanted_sizes
from prismrec.training.dictionary_births import Room, copied, grow_code, idle_codes, revive_codes
from prismrec.training.loop import repeatable

FARTHEST = 0.1  # mean of 1 - cosine to the parent's vectors beyond which a dictionary starts anew
TURNED = 0.5  # the map is used if it brings that mean below this share of what it is without
CALM = 0.99  # cosine to the previous vector from which an item has barely moved
MAY_CHANGE = 0.04  # share of these that moving codes and births may put into another cell; the bar is 0.05
AT_ANY_RATE = 0.005  # share that births may, even if moving codes have used up the other
PULL = 1e-4  # of the decoder's weights to what they were, against the mean squared error

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
        figures: losses of a fit; how many codes were put to work, and how many wait for it.
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
        The parent itself if the rows are the same, whatever waits: so a refresh without news changes nothing;
        a refreshed one; or one fitted anew if the vectors are too far from the previous ones, or no item is in both.

    Raises:
        ParameterError: the parameters ask for another shape than the parent's.
    """
    _check_shape(parent, rows, parameters)
    data, wanted = data_version(rows.both), wanted_sizes(len(rows.items_N), parameters)
    if data == data_version(previous.both):
        figures = {"codes_waiting": _waiting(parent, wanted, rows)}
        return Refresh(parent, None, "unchanged", figures, 0.0, 0.0, aligned=False)
    before_B, now_B = common(previous.items_N, rows.items_N)
    old_BD, new_BD = previous.full_ND[before_B], rows.full_ND[now_B]
    map_DD = procrustes(new_BD, old_BD) if tells_a_map(old_BD) else torch.eye(parent.config.dim)
    distance, distance_aligned = _distance(new_BD, old_BD), _distance(new_BD @ map_DD, old_BD)
    if min(distance, distance_aligned) > FARTHEST:
        anew, losses = fit_dictionary(rows.both, len(rows.items_N), parameters, seed)
        number_after(anew, parent.codes_of(old_BD), anew.codes_of(new_BD), parent.sizes)
        return Refresh(anew, Origins.itself(anew), "new_major", losses, distance, distance_aligned, aligned=False)
    aligned = distance_aligned < TURNED * distance
    child = copied(parent, replace(parent.config, parent=parent.version, data=data))
    if aligned:
        turn(child, map_DD)
    move_codes(parent, child, previous, rows)
    room = _room(parent, child, previous, rows)
    births = revive_codes(child, idle_codes(parent, previous.full_ND), rows.both, room)
    child, births = grow_code(child, wanted, rows.both, births)
    fit_output(child, rows.both)
    _note_loads(child, rows.both)
    origins = Origins(births.codes_CM, map_DD if aligned else torch.eye(len(map_DD)))
    figures = {"codes_born": float(births.born), "codes_waiting": _waiting(child, wanted, rows)}
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


def calm(old_BD: Tensor, new_BD: Tensor) -> Tensor:
    """Which items [B] have barely moved: by their vectors as they come, or best aligned, whichever fits better."""
    plain_B = F.cosine_similarity(new_BD, old_BD)
    if not tells_a_map(old_BD):
        return plain_B >= CALM
    turned_B = F.cosine_similarity(new_BD @ procrustes(new_BD, old_BD), old_BD)
    return (turned_B if turned_B.mean() > plain_B.mean() else plain_B) >= CALM


def _room(
    parent: InterestDictionary, child: InterestDictionary, previous: DictionaryVectors, rows: DictionaryVectors
) -> Room:
    """What births may still do after the codes have moved: what is left of MAY_CHANGE, and some at any rate."""
    before_B, now_B = common(previous.items_N, rows.items_N)
    old_BD, new_BD = previous.full_ND[before_B], rows.full_ND[now_B]
    calm_B = calm(old_BD, new_BD)
    changed_B = (parent.codes_of(old_BD) != child.codes_of(new_BD)).any(1)
    items, changed = int(calm_B.sum()), int((changed_B & calm_B).sum())
    calm_n = torch.zeros(2 * len(rows.items_N), dtype=torch.bool)
    calm_n[now_B] = calm_B
    return Room(calm_n, max(1, int(MAY_CHANGE * items) - changed, int(AT_ANY_RATE * items)))


def _waiting(dictionary: InterestDictionary, wanted: tuple[int, ...], rows: DictionaryVectors) -> float:
    """How many codes are idle, or asked for by the catalogue's rule and not there yet."""
    missing = sum(max(0, most - size) for most, size in zip(wanted, dictionary.sizes, strict=True))
    return float(missing + sum(int(idle_M.sum()) for idle_M in idle_codes(dictionary, rows.full_ND)))


@torch.no_grad()
def _note_loads(dictionary: InterestDictionary, vectors_nD: Tensor) -> None:
    codes_nC = dictionary.codes_of(vectors_nD)
    for level, size in enumerate(dictionary.sizes):
        getattr(dictionary.quantizer, f"load_{level}").copy_(_count(codes_nC[:, level], size))


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
def fit_output(dictionary: InterestDictionary, vectors_nD: Tensor) -> None:
    """Fit the decoder's last layer to what the codes are to give back: least squares, pulled to the weights it has."""
    output = dictionary.decode[-1]
    assert isinstance(output, nn.Linear)
    chosen_nD = dictionary.quantizer(dictionary.encode(vectors_nD)).chosen_CnD.sum(0)
    hidden_nH = dictionary.decode[:-1](chosen_nD).double()
    inputs_nI = torch.cat([hidden_nH, torch.ones(len(hidden_nH), 1, dtype=torch.float64)], dim=1)
    weights_ID = torch.cat([output.weight.T, output.bias[None]]).double()
    missing_nD = vectors_nD.double() - inputs_nI @ weights_ID
    pull_II = PULL * len(inputs_nI) * torch.eye(inputs_nI.shape[1], dtype=torch.float64)
    weights_ID = weights_ID + torch.linalg.solve(inputs_nI.T @ inputs_nI + pull_II, inputs_nI.T @ missing_nD)
    output.weight.copy_(weights_ID[:-1].T)
    output.bias.copy_(weights_ID[-1])


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
        codes_MD = child.quantizer.codes(level)
        codes_MD += _mean_by(held_b, now_bD - old_bD, size)
        added_a = torch.cdist(added_aD, codes_MD, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        share_M = _count(added_a, size) / (_count(added_a, size) + _count(held_b, size)).clamp_min(1)
        share_M[_count(held_b[: len(now_B)], size) == 0] = 0  # no item left: its place is all that its id still means
        codes_MD += share_M[:, None] * _mean_by(added_a, added_aD - codes_MD[added_a], size)
        old_bD, now_bD = old_bD - old_MD[held_b], now_bD - codes_MD[held_b]
        added_aD = added_aD - codes_MD[added_a]


def _count(code_n: Tensor, size: int) -> Tensor:
    return torch.bincount(code_n, minlength=size).float()


def _mean_by(code_n: Tensor, rows_nD: Tensor, size: int) -> Tensor:
    """[M, d] mean of the rows of each code, 0 where it has none; in float64, so that their order hardly matters."""
    sum_MD = torch.zeros(size, rows_nD.shape[1], dtype=torch.float64).index_add_(0, code_n, rows_nD.double())
    return (sum_MD / _count(code_n, size).clamp_min(1)[:, None]).to(rows_nD.dtype)


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

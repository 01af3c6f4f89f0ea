"""The nearline job: a parquet file of users in, recommendations and their strongest interests out, as parquet.

    OUT/part-00000/recommendations.parquet    user_id, rank, item_id, score, interest
    OUT/part-00000/interests.parquet          user_id, rank, interest, weight, dictionary
    OUT/part-00001/…
    OUT/manifest.json                         written last: what the parts were made from, and their checksums

The input has one row a user: `user_id`, `history` (a list of item ids, oldest first) and, where times are known,
`timestamps` (a list of as many seconds since 1970 UTC). It is read once, a part of PART users at a time, so memory does
not grow with the number of users. The interests are GemiRec's nearline posterior: the top K of P(k | u), to be kept by
whoever answers online, for as long as their dictionary is the one that is served.

Our choices: a part appears whole or not at all, and carries what it was made from. A job that was killed goes on after
its last part and ends with the same bytes as one that was not. Parts of another bundle, input or number of items are
refused before anything is changed, never mixed in. Lists are those of `POST /recommend` (exact top k; what the user has
seen is left out); a user whose history holds nothing the catalogue knows gets popular items and has no interests. User
ids are not compared with each other: a user with two rows is answered twice.

Shapes: U users of a part, B of a chunk, E events, N items, G interests of the model, K of them kept, k items of a list.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from prismrec.artifacts.atomic import atomic_folder, remove_folder, sha256_file
from prismrec.artifacts.bundle import POPULARITY, Bundle, read_bundle
from prismrec.artifacts.model_folder import dump_json
from prismrec.errors import UserError
from prismrec.models.events import EventTable
from prismrec.models.loading import load_rankers
from prismrec.models.rankers import ServedRanker
from prismrec.retrieval.chunks import chunk_size
from prismrec.retrieval.topk import exclude, top_k
from prismrec.serving.users_file import UserEvents, UsersFile, look_up

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
PART = 4096  # users; what a kill can cost
MANIFEST_NAME, LOCK_NAME = "manifest.json", ".lock"
RECOMMENDATIONS, INTERESTS = "recommendations", "interests"
MADE_FROM = b"prismrec"  # key of the parts' parquet metadata
OTHER_SCORES = 3  # score vectors a user beside the ranker's own: masked, normalised, owners


@dataclass(frozen=True)
class BatchJob:
    """What is asked for.

    Attributes:
        users: the parquet file.
        out: folder of the results.
        bundle: folder of the bundle.
        k: items of a list.
        interests: interests kept of a user.
        model: name of a ranker; the bundle's default if None.
    """

    users: Path
    out: Path
    bundle: Path
    k: int = 50
    interests: int = 8
    model: str | None = None


class PartRows(NamedTuple):
    """Columns of a part's two tables, with users by their place in the part."""

    recommended: list[np.ndarray]  # user, rank, item, score, interest: its place in labels
    interests: list[np.ndarray]  # user, rank, interest: its place in labels, weight
    labels: list[str]


def run(job: BatchJob, progress: Callable[[int], None] = lambda more: None, redo: bool = False) -> dict[str, Any]:
    """Write all parts that are not there yet, and the manifest.

    Args:
        progress: told how many more users are done.
        redo: make parts of other jobs anew, and remove those beyond the input, instead of refusing them.

    Returns:
        The manifest.

    Raises:
        UserError: pyarrow is not installed; the input, the bundle or what lies in the output folder is not usable.
    """
    table, bundle = UsersFile(job.users), read_bundle(job.bundle)
    rankers = load_rankers(job.bundle)
    name = job.model or bundle.manifest.default_model
    if name not in rankers:
        raise UserError(f"The bundle has no model {name!r}.", "--model", f"Choose one of: {', '.join(sorted(rankers))}")
    made_from = {
        "format": FORMAT,
        "bundle": bundle.version,
        "dictionary": rankers[name].dictionary,
        "model": name,
        "k": job.k,
        "interests": job.interests,
        "part": PART,
        "users": sha256_file(job.users),
    }
    scorer = _Scorer(bundle, rankers[name], rankers[POPULARITY], job.k, job.interests)
    with _alone_in(job.out):
        others = _of_other_jobs(job.out, -(-table.num_users // PART), made_from, redo)
        (job.out / MANIFEST_NAME).unlink(missing_ok=True)  # until all parts are this job's
        for folder in others:
            remove_folder(folder)
        done = 0
        for number, rows in enumerate(table.parts(PART)):
            folder = job.out / _part_name(number)
            if folder.exists():
                progress(len(rows))
            else:
                part = look_up(rows, scorer.item_ids, done)
                _write_part(folder, part, scorer.rows(part, progress), scorer.item_ids, made_from)
            done += len(rows)
        return _write_manifest(job.out, made_from, done)


class _Scorer:
    """A ranker, and what it takes to turn its scores into rows."""

    def __init__(self, bundle: Bundle, ranker: ServedRanker, popularity: ServedRanker, k: int, interests: int) -> None:
        import pyarrow as pa

        self.ranker, self.k, self.interests, self.timed = ranker, k, interests, bundle.manifest.timed
        self.item_ids = pa.array([item.item_id for item in bundle.items], pa.string())
        self.active_N = torch.tensor([item.active for item in bundle.items])
        nobody = EventTable(np.zeros(2), np.zeros(0), None)
        claims = popularity.claims(nobody, torch.tensor([0]), torch.tensor([0]))
        self.popular = _lists(claims.scores_BN.masked_fill(~self.active_N, -torch.inf), k)
        self.popular_label = claims.labels_G[0]

    @torch.inference_mode()
    def rows(self, part: UserEvents, progress: Callable[[int], None]) -> PartRows:
        """Recommendations and interests of a part's users."""
        table = EventTable(part.offsets_U1, part.items_E, part.times_E).without_times(~(part.timed_U & self.timed))
        ends_U = torch.from_numpy(np.diff(part.offsets_U1))
        known = torch.nonzero(ends_U).flatten()
        cold = torch.nonzero(ends_U == 0).flatten().numpy()
        listed, kept, labels = [self._popular(cold)], [], [self.popular_label]  # whose place is 0
        size = chunk_size(len(self.active_N), self.ranker.held + OTHER_SCORES)
        for start in range(0, len(known), size):
            users_B = known[start : start + size]
            ends_B = ends_U[users_B]
            claims = self.ranker.claims(table, users_B, ends_B)
            labels = [self.popular_label, *claims.labels_G]
            seen = table.cut(users_B, torch.zeros_like(ends_B), ends_B)
            left_BN = exclude(claims.scores_BN, seen, self.active_N)
            rows, ranks, items, scores = _lists(left_BN, self.k, self.ranker.listed(claims.scores_BN, left_BN))
            owners = claims.owners_BN.numpy()[rows, items] + 1
            listed.append((users_B.numpy()[rows], ranks, items, scores, owners))
            kept.append(_strongest(users_B, claims.weights_BG, self.interests))
            progress(len(users_B))
        progress(len(cold))
        by_user = [np.concatenate(column) for column in zip(*listed, strict=True)]
        order = np.lexsort((by_user[1], by_user[0]))
        empty = [(np.zeros(0, np.int64),) * 3 + (np.zeros(0, np.float32),)]
        interests = [np.concatenate(column) for column in zip(*(kept or empty), strict=True)]
        return PartRows([column[order] for column in by_user], interests, labels)

    def _popular(self, cold: np.ndarray) -> tuple[np.ndarray, ...]:
        """The popular list, for every user who gets it."""
        _, ranks, items, scores = (np.tile(column, len(cold)) for column in self.popular)
        return np.repeat(cold, len(self.popular[1])), ranks, items, scores, np.zeros(len(items), np.int64)


def _lists(scores_BN: torch.Tensor, k: int, order_BN: torch.Tensor | None = None) -> tuple[np.ndarray, ...]:
    """The k best of each row, by the scores or another order, that are not at -inf: row, rank from 1, item, score."""
    best_Bk = top_k(scores_BN if order_BN is None else order_BN, k)
    score_Bk = scores_BN.gather(1, best_Bk)
    row, place = torch.nonzero(score_Bk > -torch.inf, as_tuple=True)
    return row.numpy(), place.numpy() + 1, best_Bk[row, place].numpy(), score_Bk[row, place].float().numpy()


def _strongest(users_B: torch.Tensor, weights_BG: torch.Tensor, interests: int) -> tuple[np.ndarray, ...]:
    """The strongest interests of each user: user, rank from 1, interest, and weight, of which a user's sum to 1."""
    best_BK = weights_BG.argsort(dim=1, descending=True, stable=True)[:, :interests]
    weight_BK = weights_BG.gather(1, best_BK).softmax(1)
    row, place = torch.nonzero(weight_BK > 0, as_tuple=True)
    return (
        users_B[row].numpy(),
        place.numpy() + 1,
        best_BK[row, place].numpy() + 1,
        weight_BK[row, place].float().numpy(),
    )


def _write_part(folder: Path, part: UserEvents, rows: PartRows, item_ids: pa.Array, made_from: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = pa.array(rows.labels, pa.string())
    users, ranks, items, scores, owners = map(pa.array, rows.recommended)
    recommendations = {
        "user_id": part.user_ids.take(users),
        "rank": ranks.cast(pa.int32()),
        "item_id": item_ids.take(items),
        "score": scores,
        "interest": labels.take(owners),
    }
    users, ranks, kept, weights = map(pa.array, rows.interests)
    interests = {
        "user_id": part.user_ids.take(users),
        "rank": ranks.cast(pa.int32()),
        "interest": labels.take(kept),
        "weight": weights,
        "dictionary": pa.array([made_from["dictionary"]] * len(kept), pa.string()),
    }
    with atomic_folder(folder) as temporary:
        for name, columns in ((RECOMMENDATIONS, recommendations), (INTERESTS, interests)):
            table = pa.table(columns).replace_schema_metadata({MADE_FROM: json.dumps(made_from, sort_keys=True)})
            pq.write_table(table, temporary / f"{name}.parquet", compression="zstd")


def _part_name(number: int) -> str:
    return f"part-{number:05d}"


def _of_other_jobs(out: Path, number: int, made_from: dict[str, Any], redo: bool) -> list[Path]:
    """Parts that another job made, or a longer input; they are refused unless they are to be made anew.

    Args:
        number: parts of this job.

    Raises:
        UserError: there is one.
    """
    ours = {_part_name(place) for place in range(number)}
    others = []
    for folder in sorted(out.glob("part-*")):
        differing = _differences(folder, made_from) if folder.name in ours else ["it belongs to a longer input"]
        if differing and not redo:
            raise UserError(
                f"This part was made by another job: {'; '.join(differing)}.",
                str(folder),
                "Choose another --out folder, or make it anew: add --redo.",
            )
        others += [folder] if differing else []
    return others


def _differences(folder: Path, made_from: dict[str, Any]) -> list[str]:
    """What the part was made from, where that is not this job's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, Any] = {}
    for name in (RECOMMENDATIONS, INTERESTS):
        try:
            metadata = pq.read_schema(folder / f"{name}.parquet").metadata or {}
            found = json.loads(metadata[MADE_FROM])
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return [f"{name}.parquet is not readable"]
        if found != made_from:
            return [
                f"{key} {found.get(key)} instead of {made_from[key]}"
                for key in made_from
                if found.get(key) != made_from[key]
            ]
    return []


def _write_manifest(out: Path, made_from: dict[str, Any], users: int) -> dict[str, Any]:
    """The last file to appear: all parts are there."""
    parts = sorted(out.glob("part-*"))
    files = {file.relative_to(out).as_posix(): sha256_file(file) for part in parts for file in sorted(part.iterdir())}
    manifest = {**made_from, "num_users": users, "files": files}
    temporary = out / f".{MANIFEST_NAME}"
    temporary.write_text(dump_json(manifest), encoding="utf-8")
    temporary.replace(out / MANIFEST_NAME)
    return manifest


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep a second job out of the folder; the lock goes with the process.

    Raises:
        UserError: there is one, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"The output folder cannot be written to: {error.strerror}.", str(out)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(
            "Another batch job writes here now.", str(out), "Wait for it, or choose another --out folder."
        ) from error
    finally:
        os.close(lock)

r"""Speed of exact retrieval: against the bare matrix product, and against RecTools' rankers.

    python benchmarks/ranking_speed.py --help
    python benchmarks/ranking_speed.py --users 100000 --items 100000 --output benchmarks/results/ranking_speed.json
    PYTHONPATH=src .venv-peers/bin/python benchmarks/ranking_speed.py --against-rectools --users 20000 --items 100000 \
        --output benchmarks/results/ranking_speed.json

First command: `prismrec.retrieval.search` on random unit vectors, seen items left out, next to the time of the matrix
product alone in the same run. The product is timed in every way we know to do it (the search's own blocks, and the
plainest loop over users with one reused buffer; each with torch's threads inside an operation and with one thread a
chunk), and the ratio is against the fastest of them. Beside it, `evaluate`, which ranks for the tables: any model hands
it the scores of all items, so they are stored, read for the target's place, and read again for the list; its ratio is
to the same product. Working memory is the process's peak above its inputs, results included. Second command
(interpreter with `rectools` installed): one interest, the same vectors, seen items, k and number of threads given to
RecTools' ImplicitRanker and TorchRanker; times, and whether the lists are the same.

Notable: rounds interleave what is compared, and the best round counts, for everybody alike. Lists are compared
position by position; where items differ, their scores are taken again in float64: a gap of rounding size means that
two items of one score changed places. Results of the two commands are kept side by side in one JSON.

Shapes: U users, K interests, D dimensions, N items, R rows of a product (users × interests).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from prismrec.retrieval import search as retrieval
from prismrec.retrieval.search import Seen, search

PLAIN_ROWS = 512  # rows of the plain product: more do not make it faster
SPLIT_USERS = 1024  # users on which the parts of the search are timed one by one
MIB = 2**20


class Inputs(NamedTuple):
    """The arguments of `search`: what is searched for, in what, how many, and what is left out."""

    interests_UKD: Tensor
    items_ND: Tensor
    k: int
    seen: Seen


class Shape(NamedTuple):
    """Users and items of one product."""

    users: int
    items: int


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the command; returns what it adds to the JSON."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    inputs = make_inputs(options)
    name, measure = ("rectools", against_rectools) if options.against_rectools else ("search", against_product)
    report = {**describe(options), **measure(inputs, options.rounds)}
    if options.output is not None:
        kept = json.loads(options.output.read_text()) if options.output.exists() else {}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**kept, name: report}, indent=2, sort_keys=True) + "\n")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000, help="time is linear in it: a few thousand tell the ratio")
    parser.add_argument("--items", type=int, default=20_000, help="size of the catalogue")
    parser.add_argument("--interests", type=int, default=4, help="vectors a user; 1 with --against-rectools")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--k", type=int, default=100, help="length of a list")
    parser.add_argument("--seen", type=int, nargs=2, default=(50, 150), metavar=("FROM", "TO"), help="items a user has")
    parser.add_argument("--threads", type=int, help="torch's own choice when not given")
    parser.add_argument("--rounds", type=int, default=3, help="everything is timed so often; the best counts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--against-rectools", action="store_true", help="compare with RecTools (must be installed)")
    parser.add_argument("--output", type=Path, help="JSON to write to; the other command's part of it is kept")
    options = parser.parse_args(arguments)
    if options.items < options.k + options.seen[1]:
        parser.error("--items must be at least --k plus the most items a user has seen: every list is to be full")
    if options.against_rectools:
        options.interests = 1
    return options


def make_inputs(options: argparse.Namespace) -> Inputs:
    """Random unit vectors and random seen items; made in place, so that the peak of memory is the search's own."""
    random = torch.Generator().manual_seed(options.seed)
    interests_UKD = torch.randn(options.users, options.interests, options.dimensions, generator=random)
    items_ND = torch.randn(options.items, options.dimensions, generator=random)
    for vectors in (interests_UKD, items_ND):
        vectors.div_(torch.linalg.vector_norm(vectors, dim=-1, keepdim=True))
    low, high = options.seen
    lengths_U = torch.randint(low, high + 1, (options.users,), generator=random)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_U.cumsum(0)])
    seen = Seen(offsets[:-1], offsets[1:], torch.randint(options.items, (int(offsets[-1]),), generator=random))
    return Inputs(interests_UKD, items_ND, options.k, seen)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """The sizes and the machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "sizes": {name: getattr(options, name) for name in ("users", "items", "interests", "dimensions", "k", "seed")}
        | {"seen": list(options.seen)},
        "machine": {
            "cpu": models[0].split(":")[1].strip() if models else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": options.rounds,
    }


def against_product(inputs: Inputs, rounds: int) -> dict[str, Any]:
    """Search and bare products, round by round."""
    search(inputs.interests_UKD[:1], inputs.items_ND, inputs.k)  # libraries load
    before = resident()
    ways: dict[str, Callable[[], Any]] = {"search": lambda: search(*inputs), "evaluate": evaluation(inputs)}
    for name, shape in shapes_of(inputs).items():
        ways[f"product, {name}, threads inside"] = partial(multiply, inputs, shape)
        if torch.get_num_threads() > 1:
            ways[f"product, {name}, a thread a chunk"] = partial(multiply_on_all_threads, inputs, shape)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    working_memory: int | None = None
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(elapsed(way))
            if working_memory is None:  # after the very first, which is the search
                working_memory = peak() - before
    best = {name: min(times) for name, times in seconds.items()}
    fastest = min((name for name in best if name.startswith("product")), key=lambda name: best[name])
    return {
        "seconds": best,
        "fastest_product": fastest,
        "ratio": best["search"] / best[fastest],
        "ratio_of_evaluate": best["evaluate"] / best[fastest],
        "working_memory_mib": working_memory / MIB,
        "users_per_second": len(inputs.interests_UKD) / best["search"],
        "microseconds_a_user_on_one_thread": split(inputs),
    }


def evaluation(inputs: Inputs) -> Callable[[], Any]:
    """The evaluation of the same users: lists and a target's place each.

    RecTools' interpreter lacks what the models need, hence the late imports.
    """
    from prismrec.evaluation.evaluate import evaluate
    from prismrec.evaluation.protocols import Cases
    from prismrec.models.events import EventTable
    from prismrec.models.rankers import Ranker

    class Nearest(Ranker):
        """Items by their largest inner product with one of the user's vectors, as ComiRec-SA ranks them."""

        name, num_interests = "nearest", inputs.interests_UKD.shape[1]

        def scores(self, events: EventTable, users_B: Tensor, ends_B: Tensor) -> Tensor:
            return retrieval.largest_products(inputs.interests_UKD[users_B], inputs.items_ND)

    users, items = len(inputs.interests_UKD), len(inputs.items_ND)
    offsets = np.append(inputs.seen.starts_U.numpy(), len(inputs.seen.items_E))
    events, target_U = EventTable(offsets, inputs.seen.items_E.numpy(), None), np.arange(users) % items
    one_U1 = np.ones((users, 1), dtype=bool)
    cases = Cases(np.arange(users), np.diff(offsets), target_U[:, None], one_U1, 0, 0, 0)
    recommendable_N = torch.ones(items, dtype=torch.bool)
    return lambda: evaluate({Nearest.name: Nearest()}, events, cases, recommendable_N, "filtered")


def shapes_of(inputs: Inputs) -> dict[str, Shape]:
    """The search's own blocks, and the plainest: some users times the whole catalogue."""
    _, interests, _ = inputs.interests_UKD.shape
    items = len(inputs.items_ND)
    return {
        "blocks": Shape(retrieval.CHUNK, retrieval.items_per_block(interests, items)),
        "plain": Shape(-(-PLAIN_ROWS // interests), items),
    }


def multiply(inputs: Inputs, shape: Shape, starts: Iterable[int] | None = None) -> None:
    """The matrix product and nothing else, into one reused buffer: all chunks, or those that start at `starts`."""
    users, interests, _ = inputs.interests_UKD.shape
    buffer = torch.empty(shape.users * interests * shape.items)
    for start in range(0, users, shape.users) if starts is None else starts:
        query_RD = inputs.interests_UKD[start : start + shape.users].flatten(0, 1)
        for items_MD in inputs.items_ND.split(shape.items):
            out_RM = buffer[: len(query_RD) * len(items_MD)].view(len(query_RD), -1)
            torch.mm(query_RD, items_MD.T, out=out_RM)


def multiply_on_all_threads(inputs: Inputs, shape: Shape) -> None:
    """As the search does it: threads take whole chunks and work alone."""
    starts = range(0, len(inputs.interests_UKD), shape.users)
    shared = iter(starts)
    retrieval.run_on_all_threads(lambda: multiply(inputs, shape, shared), len(starts))


def split(inputs: Inputs) -> dict[str, float]:
    """Microseconds a user of each part of the search, on one thread and a sample of users."""
    few = inputs._replace(interests_UKD=inputs.interests_UKD[:SPLIT_USERS])
    few = few._replace(seen=Seen(few.seen.starts_U[:SPLIT_USERS], few.seen.ends_U[:SPLIT_USERS], few.seen.items_E))
    spent: dict[str, float] = {}

    def timed(name: str) -> Callable[..., Any]:
        function = getattr(retrieval, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return result

        return call

    # The parts are the search's own functions; a part renamed there fails here at once.
    parts = ("_score", "group_maxima", "_flatten", "_hide", "best_of_groups", "best_at_least")
    with retrieval.one_thread_each(), ExitStack() as stack:
        for name in parts:
            stack.enter_context(mock.patch.object(retrieval, name, timed(name)))
        search(*few)
        product = elapsed(partial(multiply, few, shapes_of(few)["blocks"]))
    spent = {name: spent.get(name, 0.0) for name in parts}
    seconds = {
        "product": product,
        "largest over interests, stores, calls": spent["_score"] - spent["group_maxima"] - product,
        "group maxima": spent["group_maxima"],
        "seen items": spent["_flatten"] + spent["_hide"],
        "top-k": spent["best_of_groups"] + spent["best_at_least"],
    }
    return {name: 1e6 * value / len(few.interests_UKD) for name, value in seconds.items()}


def against_rectools(inputs: Inputs, rounds: int) -> dict[str, Any]:
    """Both of RecTools' rankers at one interest. Needs `rectools[torch]`, scipy and threadpoolctl."""
    from rectools.models.rank import Distance, ImplicitRanker, TorchRanker
    from scipy import sparse
    from threadpoolctl import threadpool_limits

    users, items = len(inputs.interests_UKD), len(inputs.items_ND)
    queries, vectors = inputs.interests_UKD[:, 0].numpy(), inputs.items_ND.numpy()
    offsets = np.append(inputs.seen.starts_U.numpy(), len(inputs.seen.items_E))
    ones = np.ones(len(inputs.seen.items_E), dtype=np.float32)
    filtered = sparse.csr_matrix((ones, inputs.seen.items_E.numpy(), offsets), shape=(users, items))
    filtered.sum_duplicates()
    threads = torch.get_num_threads()
    rankers = {
        "ImplicitRanker": ImplicitRanker(Distance.DOT, queries, vectors, num_threads=threads),
        "TorchRanker": TorchRanker(Distance.DOT, "cpu", queries, vectors),
    }
    best, lists = {}, {}
    for name in ["search", *rankers] * rounds:
        if name == "search":
            way: Callable[[], Any] = lambda: search(*inputs).items_Bk.numpy()  # noqa: E731
        else:
            way = partial(rankers[name].rank, np.arange(users), inputs.k, filtered)
        # implicit spreads users over its own threads and asks for a BLAS that does not.
        with threadpool_limits(1 if name == "ImplicitRanker" else threads, "blas"):
            start = time.perf_counter()
            lists[name] = way()
            best[name] = min(best.get(name, np.inf), time.perf_counter() - start)
    fastest = min(rankers, key=lambda name: best[name])
    ours = lists.pop("search")
    return {
        "seconds": best,
        "fastest": fastest,
        "times_faster": best[fastest] / best["search"],
        "users_per_second": {name: users / seconds for name, seconds in best.items()},
        "lists": {
            name: compare(inputs, ours, np.asarray(found[1]).reshape(ours.shape)) for name, found in lists.items()
        },
    }


def compare(inputs: Inputs, ours_Uk: np.ndarray, theirs_Uk: np.ndarray) -> dict[str, float]:
    """Places with another item, and the largest gap between the two items' scores there, in float64."""
    user_S, place_S = np.nonzero(ours_Uk != theirs_Uk)
    queries_SD = inputs.interests_UKD[:, 0].double().numpy()[user_S]
    vectors_ND = inputs.items_ND.double().numpy()
    gap_SD = vectors_ND[ours_Uk[user_S, place_S]] - vectors_ND[theirs_Uk[user_S, place_S]]
    gap_S = np.abs((queries_SD * gap_SD).sum(1))
    return {"places": ours_Uk.size, "different": len(gap_S), "largest_gap": float(gap_S.max(initial=0.0))}


def elapsed(way: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def resident() -> int:
    """Bytes of memory the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Bytes of memory the process held at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def as_table(report: dict[str, Any]) -> str:
    """Seconds of every way, then the other figures."""
    lines = [f"{seconds:10.2f} s  {name}" for name, seconds in report["seconds"].items()]
    rest = {name: value for name, value in report.items() if name != "seconds"}
    for name, value in rest.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, figure in parts:
            shown = f"{figure:.3f}" if isinstance(figure, float) else figure
            lines.append(f"{' '.join([name.replace('_', ' '), *([part] if part else [])])}: {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_table(main()))

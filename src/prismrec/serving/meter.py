"""What is counted while serving, and the Prometheus metrics that show it at `GET /metrics`.

    prismrec_requests_total{path, status}    answers by route and status, refusals too; "*" where no key was brought
    prismrec_request_seconds{path}           from the whole body to the whole answer
    prismrec_step_seconds{step}              encode, posterior, search, merge of one recommendation
    prismrec_answers_total{kind}             warm: from a history; cold: popular items, for lack of one
    prismrec_cache_total{cache, outcome}     hit or miss: texts (embeddings), interests (kept for users)

The base class counts nothing; the engine and the web layer know no more than it. Labels are routes, never paths: these
hold users' ids, and anybody can make up as many as they like. So BentoML's own metrics, which have them, are off.
"""

from __future__ import annotations

import os
from functools import cache

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds


class Meter:
    """Takes notice of what happens; this one forgets it."""

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""

    def step(self, step: str, seconds: float) -> None:
        """A step of a recommendation took so long."""

    def answer(self, cold: bool) -> None:
        """A recommendation was made, with (warm) or without (cold) a known history."""

    def cache(self, cache: str, hits: int, misses: int) -> None:
        """Something was looked up so many times."""


class PrometheusMeter(Meter):
    """Counts for Prometheus; see `prometheus`."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self._requests = Counter("prismrec_requests", "Answers by route and status.", ["path", "status"])
        self._seconds = Histogram("prismrec_request_seconds", "Time to answer.", ["path"], buckets=BUCKETS)
        self._steps = Histogram("prismrec_step_seconds", "Time of a step.", ["step"], buckets=BUCKETS)
        self._answers = Counter("prismrec_answers", "Recommendations with and without a known history.", ["kind"])
        self._caches = Counter("prismrec_cache", "Lookups in a cache.", ["cache", "outcome"])

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count it and its time."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def step(self, step: str, seconds: float) -> None:
        """Observe its time."""
        self._steps.labels(step).observe(seconds)

    def answer(self, cold: bool) -> None:
        """Count it by its kind."""
        self._answers.labels("cold" if cold else "warm").inc()

    def cache(self, cache: str, hits: int, misses: int) -> None:
        """Count both outcomes."""
        self._caches.labels(cache, "hit").inc(hits)
        self._caches.labels(cache, "miss").inc(misses)


@cache
def prometheus() -> PrometheusMeter:
    """The meter of this process. Ask for it in a worker: `prometheus_client` looks for its folder when imported."""
    return PrometheusMeter()


def exposition() -> tuple[bytes, str]:
    """The counts of all workers as Prometheus reads them, and the media type of that."""
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # as BentoML sets it; each worker writes a file there
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST

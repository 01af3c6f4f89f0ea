"""Drift: what moved between the last accepted version of the data and this one, and by how much.

Numbers are compared by their relative change, distributions by the population stability index: the sum of
(now - before) * ln(now / before) over the shares of all bins. Our choice: a share is taken as one in ten thousand at
least, so that a new bin counts and does not count infinitely.
"""

import math
from collections.abc import Mapping
from typing import Any

from prismrec.data.profile import DAY, FORMAT
from prismrec.parameters.data_validation import DataValidationParameters

NUMBERS = ("events", "users", "items", "items_with_events", "span_days", "popularity_gini")
QUANTILED = ("history_length", "popularity", "text_length")
SMALLEST_SHARE = 1e-4


def compare(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], parameters: DataValidationParameters
) -> list[dict[str, Any]] | None:
    """Compare two profiles (see `prismrec.data.profile`).

    Args:
        before: that of the last accepted version; None if there is none.
        now: that of this version.
        parameters: from where on something has moved.

    Returns:
        A measure each: `what`, `before`, `now`, `change` (relative, or the index; None from 0, to which nothing is
        relative), `index` (whether it is that) and `moved`. None where there is nothing to compare with.
    """
    if before is None or before.get("format") != FORMAT:
        return None
    numbers = [
        _number(name, _figure(before, name), _figure(now, name), parameters.drift_change)
        for name in (*NUMBERS, *(f"{name}.p50" for name in QUANTILED))
    ]
    distributions = [
        _distribution(name, before["distributions"].get(name, {}), counts, parameters.drift_index)
        for name, counts in now["distributions"].items()
    ]
    return [*numbers, _latest(before, now), *distributions]


def stability_index(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """The population stability index of two sets of counts by bin; 0 where both are equal or empty."""
    if not before and not now:
        return 0.0
    index = 0.0
    for name in sorted({*before, *now}):
        was, is_ = _share(before, name), _share(now, name)
        index += (is_ - was) * math.log(is_ / was)
    return round(index, 6)


def _share(counts: Mapping[str, int], name: str) -> float:
    return max(counts.get(name, 0) / max(sum(counts.values()), 1), SMALLEST_SHARE)


def _figure(profile: Mapping[str, Any], name: str) -> float:
    if name == "span_days":
        return float((profile["last_timestamp"] - profile["first_timestamp"]) // DAY)
    value: Any = profile
    for part in name.split("."):
        value = value[part]
    return float(value)


def _number(name: str, before: float, now: float, limit: float) -> dict[str, Any]:
    if now == before:
        change: float | None = 0.0
    else:
        change = round((now - before) / abs(before), 6) if before else None
    return {
        "what": name,
        "before": before,
        "now": now,
        "change": change,
        "index": False,
        "moved": change is None or abs(change) > limit,
    }


def _latest(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The latest event's day: data that end earlier than before have lost something."""
    was, is_ = (float(profile["last_timestamp"] // DAY) for profile in (before, now))
    return {**_number("last_day", was, is_, math.inf), "moved": is_ < was}


def _distribution(name: str, before: Mapping[str, int], now: Mapping[str, int], limit: float) -> dict[str, Any]:
    index = stability_index(before, now)
    return {
        "what": f"distribution of {name}",
        "before": sum(before.values()),
        "now": sum(now.values()),
        "change": index,
        "index": True,
        "moved": index > limit,
    }

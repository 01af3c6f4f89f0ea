"""What a run settles on its validation events, and a final fit takes over.

A run that validates picks epochs, weights of merges and a temperature on events that its models have not seen. A *final
fit* (the pipeline `final_fit`) then trains once more, on these events too, with all of that as it was: the newest event
of every user is what says most of the next one. Nothing is picked in it, so nothing is picked on what was trained on.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prismrec.errors import UserError

PREVIOUS_CHOICES = "previous_choices"
FIRST = "Run all stages first, which validates: kedro run"


def check_choices(choices: Mapping[str, Any] | None, protocol: str) -> None:
    """Refuse choices that were made under another protocol; None is none.

    Raises:
        UserError: naming both.
    """
    if choices is not None and choices["protocol"] != protocol:
        raise UserError(
            f"The run before chose under the protocol {choices['protocol']}, this one has {protocol}.",
            "sequence_building.protocol",
            FIRST,
        )


def settled_epochs(choices: Mapping[str, Any] | None, training: str) -> int | None:
    """How many epochs a training gets; None where validation is to say."""
    return None if choices is None else int(choices["epochs"][training])


def settled_merge(choices: Mapping[str, Any] | None, merge: str, members: Mapping[str, Any]) -> Any | None:
    """A merge's weights; None where they are to be fitted.

    Raises:
        UserError: the merge had other members, or none.
    """
    if choices is None:
        return None
    import torch

    from prismrec.models.merge import Merge, MergeConfig

    found = choices["merges"].get(merge, {"members": []})
    check_members(found["members"], members, merge, FIRST)
    settled = Merge(MergeConfig(tuple(members)))
    settled.timed_M.copy_(torch.tensor(found["timed"], dtype=torch.float64))
    settled.timeless_M.copy_(torch.tensor(found["timeless"], dtype=torch.float64))
    return settled.eval()


def check_members(before: Iterable[str], members: Iterable[str], merge: str, mend: str) -> None:
    """Refuse weights of an earlier run that are of other members.

    Raises:
        UserError: naming both, and what to do.
    """
    if tuple(before) != tuple(members):
        raise UserError(
            f"The run before merged {', '.join(before) or 'nothing'}; this one has {', '.join(members)}.", merge, mend
        )


def collect_choices(
    evaluation_metrics: dict[str, Any],
    lightweight_encoder_curve: dict[str, Any],
    llm_recommender_curve: dict[str, Any],
    posterior_curve: dict[str, Any],
    retrieval_curve: dict[str, Any],
    sasrec_curve: dict[str, Any],
    comirec_curve: dict[str, Any],
    posterior: Any,
    **merges: Any,
) -> dict[str, Any]:
    """What this run settled: protocol, epochs, weights, temperature, and the validation figures that did it."""
    curves = {
        "lightweight_encoder": lightweight_encoder_curve,
        "llm_recommender": llm_recommender_curve,
        "posterior": posterior_curve,
        "retrieval": retrieval_curve,
        "sasrec": sasrec_curve,
        "comirec": comirec_curve,
    }
    return {
        "protocol": evaluation_metrics["protocol"]["name"],
        "split_hash": evaluation_metrics["split_hash"],
        "epochs": {name: best_epoch(curve["epochs"]) for name, curve in curves.items()},
        "merges": {
            name: {
                "members": list(merge.config.members),
                "timed": merge.timed_M.tolist(),
                "timeless": merge.timeless_M.tolist(),
            }
            for name, merge in merges.items()
        },
        "posterior_temperature": posterior.config.temperature,
        "refreshed": posterior_curve.get("posterior_refreshed", False),
        "validation_cases": evaluation_metrics["cases"]["validation"],
        "validation": {
            name: {
                metric.removeprefix("validation_"): value
                for metric, value in row.items()
                if metric.startswith("validation_")
            }
            for name, row in evaluation_metrics["models"].items()
        },
    }


def best_epoch(epochs: list[dict[str, Any]]) -> int:
    """The epoch that validation picked, 0 for the start: of equals the earliest, as the loop has it; else the last."""
    if not epochs[-1]["validation"]:
        return len(epochs)
    best: int = max(epochs, key=lambda record: record["validation"]["ndcg@10"])["epoch"]
    return best

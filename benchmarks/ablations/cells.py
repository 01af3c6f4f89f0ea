"""The cells: what each changes in the parameters of stages 3 to 6, and how long its trainings are.

A cell is named changes to an environment's configuration. HyMiRec's change stages 3 to 5. GemiRec's rest on the stages
3 to 5 of HyMiRec's reference; they change stage 6, or only how lists are made of what it trained (`Lists`).

Training has no limit in seconds, so its length is stated in epochs: `EPOCHS` and `STAGE_6_LENGTHS` lower them where a
whole cell would not end within ten minutes on one core. All cells of an environment share them, the reference too, so
that differences are between equals; absolute figures are therefore below those of a full run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from prismrec.parameters import stage_model

STAGES = ("lightweight_encoder", "codebook", "llm_recommender")
STAGE_6 = "interest_dictionary"
HYMIREC, GEMIREC = "hymirec", "gemirec"  # whose parts a cell is about
REFERENCE = "reference"
REFERENCES = {HYMIREC: REFERENCE, GEMIREC: "gemirec"}  # what a model's cells are compared with
ENVIRONMENTS = {"demo": "base", "ml1m": "ml1m", "beauty": "beauty"}  # our name: Kedro's
# Epochs of stages 3 and 5 that leave a cell about ten minutes on one core; None: as configured.
EPOCHS: dict[str, tuple[int, int] | None] = {"demo": None, "ml1m": (1, 3), "beauty": (2, 2)}
# In the same way, epochs of posterior and retrieval head, and the users ranked after each.
STAGE_6_LENGTHS: dict[str, tuple[int, int, int] | None] = {
    "demo": None, "ml1m": (3, 2, 2000), "beauty": (2, 1, 2000),
}  # fmt: skip
SHOWN = 8  # interests shown, where merges are compared
TOO_BIG = "one epoch of the packaged backbone takes longer than a cell may, on one core"


class Times(NamedTuple):
    """So many times the environment's value, a whole number."""

    factor: float

    def of(self, value: int) -> int:
        """The value to take."""
        return round(value * self.factor)


class Lists(NamedTuple):
    """How a GemiRec cell makes lists of what is trained; nothing of it is trained.

    Attributes:
        interests: "posterior"; "history": cells weighed by the history's counts of them; "refined": no dictionary,
            the LLM recommender's refined interests and "now" by themselves.
        shown: so many of the likeliest cells only; None: all.
        merge: of the cells shown, as `retrieval.merging` names them.
    """

    interests: Literal["posterior", "history", "refined"] = "posterior"
    shown: int | None = None
    merge: Literal["factorised", "max_score", "quotas"] = "factorised"


class Cell(NamedTuple):
    """One variant.

    Attributes:
        name: of its JSON.
        says: what changes, for the table.
        changes: new values by dotted parameter.
        timed: False withholds the times of all events, in training and in use.
        not_in: environments that it is not run in, and why.
        model: whose parts it is about.
        lists: GemiRec: how its lists are made.
        summed: GemiRec: a cell's embedding is the sum of its code vectors, not their concatenation.
    """

    name: str
    says: str
    changes: Mapping[str, Any] = {}
    timed: bool = True
    not_in: Mapping[str, str] = {}
    model: str = HYMIREC
    lists: Lists = Lists()
    summed: bool = False


def _llm(name: str, says: str, **changes: Any) -> Cell:
    return Cell(name, says, {f"llm_recommender.{key}": value for key, value in changes.items()})


def _encoder(name: str, says: str, **changes: Any) -> Cell:
    return Cell(name, says, {f"lightweight_encoder.{key}": value for key, value in changes.items()})


def _codebook(name: str, says: str, **changes: Any) -> Cell:
    return Cell(name, says, {f"codebook.{key}": value for key, value in changes.items()})


def _gemirec(name: str, says: str, **changes: Any) -> Cell:
    """A GemiRec cell; `dictionary__levels` is the parameter `interest_dictionary.dictionary.levels`."""
    dotted = {f"{STAGE_6}.{key.replace('__', '.')}": value for key, value in changes.items()}
    return Cell(name, says, dotted, model=GEMIREC)


def _lists(name: str, says: str, **lists: Any) -> Cell:
    """A GemiRec cell that trains nothing of its own."""
    return Cell(name, says, model=GEMIREC, lists=Lists(**lists))


def _shown(number: int) -> Cell:
    says = f"K = {number}: items of the {'likeliest cell' if number == 1 else f'{number} likeliest cells'} only"
    return _lists(f"gemirec_k_{number}", says, shown=number)


def _mixture(name: str, says: str, posterior_share: float) -> Cell:
    says = f"mixture of catalogue-wide conditionals, {says}"
    return _gemirec(name, says, retrieval__variant="mixture", retrieval__posterior_share=posterior_share)


def _packaged(tuning: str, learning_rate: float) -> Cell:
    return Cell(
        f"packaged_{tuning}",
        f"pretrained MiniLM as backbone, {tuning}; 2 epochs, 8 users a step, rate {learning_rate:g}",
        {
            "llm_recommender.backbone": "packaged",
            "llm_recommender.tuning": tuning,
            "llm_recommender.training.epochs": 2,
            "llm_recommender.training.batch_size": 8,
            "llm_recommender.training.learning_rate": learning_rate,
        },
        not_in={"ml1m": TOO_BIG, "beauty": TOO_BIG},
    )


CELLS = {
    cell.name: cell
    for cell in (
        Cell(REFERENCE, "as configured"),
        _llm("no_long_branch", "no long branch", long_length=0),
        _llm("single_query", "K = 1: a single query, no groups of DMIL", num_interests=1),
        _llm("k_2", "K = 2", num_interests=2),
        _llm("k_4", "K = 4", num_interests=4),
        _llm("k_8", "K = 8", num_interests=8),
        _encoder("kc_1", "K_c = 1", num_interests=1),
        _encoder("kc_2", "K_c = 2", num_interests=2),
        _encoder("kc_4", "K_c = 4", num_interests=4),
        _encoder("kc_8", "K_c = 8", num_interests=8),
        _llm("no_matching", "no matching loss (DMIL) in stage 5", matching_weight=0.0),
        _llm("matching_whole", "the matching loss (DMIL) of stage 5 at weight 1, the paper's", matching_weight=1.0),
        _llm("matching_fifth", "the matching loss (DMIL) of stage 5 at weight .2", matching_weight=0.2),
        _llm("no_next_item", "no next-item loss in stage 5", next_item_weight=0.0),
        _llm("no_merge_loss", "no loss on the gate in stage 5", merge_weight=0.0),
        _llm(
            "paper",
            "the paper's stage 5: matching loss alone, no “now” interest, no offsets of items",
            next_item_weight=0.0,
            merge_weight=0.0,
            item_offset_rate=0.0,
        ),
        _llm("w_3", "W = 3 in stage 5", target_window=3),
        _llm("w_10", "W = 10 in stage 5", target_window=10),
        _llm("w_20", "W = 20 in stage 5", target_window=20),
        _llm("no_item_offsets", "no offsets of items in stage 5 (the paper)", item_offset_rate=0.0),
        _llm("no_codebook", "long history from raw item vectors", long_from="raw"),
        _llm("recent_from_codebook", "recent items decoded too", recent_from_codebook=True),
        _codebook("euclidean", "Euclidean residual quantisation", assignment="euclidean"),
        _codebook("codes_only", "codes only, no coefficients of the item", coefficients="centroid"),
        _codebook("codes_only_9", "9 layers, codes only: the reference's bytes", layers=9, coefficients="centroid"),
        _llm("recent_half", "recent window halved", recent_length=Times(0.5)),
        _llm("recent_double", "recent window doubled", recent_length=Times(2)),
        _llm("long_half", "long history halved", long_length=Times(0.5)),
        _llm("long_double", "long history doubled", long_length=Times(2)),
        _packaged("full", 0.0003),
        _packaged("lora", 0.001),
        Cell("no_transitions", "merge without linear transitions", {"llm_recommender.transitions.decays": []}),
        _llm("no_recency", "merge without recency", recent_days=0),
        Cell("no_times", "times withheld, in training and in use", timed=False),
        _encoder("normal_start", "item vectors start from noise, not from transitions", spectral_start=False),
        _encoder("comirec_pooling", "ComiRec-SA's pooling in the lightweight encoder", pooling="comirec"),
        _gemirec(REFERENCES[GEMIREC], "as configured: all cells, merged by likelihood"),
        _lists(
            "gemirec_no_dictionary",
            "no dictionary: the recommender's refined interests and “now” by themselves; stage 6 is not trained",
            interests="refined",
        ),
        _gemirec("gemirec_one_level", "C = 1 level, about as many cells", dictionary__levels=1),
        _gemirec("gemirec_three_levels", "C = 3 levels, about as many cells", dictionary__levels=3),
        _gemirec("gemirec_small_cells", "M for half as many items a cell", dictionary__items_per_cell=Times(0.5)),
        _gemirec("gemirec_large_cells", "M for twice as many items a cell", dictionary__items_per_cell=Times(2)),
        Cell("gemirec_sum", "a cell's embedding is the sum of its code vectors", model=GEMIREC, summed=True),
        _lists("gemirec_history", "cells weighed by the history's counts, no posterior", interests="history"),
        *(_shown(number) for number in (1, 2, 4, SHOWN, 16)),
        _lists(
            "gemirec_max_score",
            f"K = {SHOWN}, merged by best score (beside gemirec_k_{SHOWN})",
            shown=SHOWN,
            merge="max_score",
        ),
        _lists(
            "gemirec_quotas", f"K = {SHOWN}, merged by quotas (beside gemirec_k_{SHOWN})", shown=SHOWN, merge="quotas"
        ),
        _mixture("gemirec_mixture_teacher", "trained under the target's own interest (teacher forcing)", 0.0),
        _mixture("gemirec_mixture", "half of the positions under an interest drawn from the posterior", 0.5),
        _gemirec("gemirec_no_prior", "posterior without prior", posterior__prior=False),
        _gemirec("gemirec_horizon_5", "posterior of the cells of the next 5 items", posterior__horizon=5),
    )
}


def settings_of(cell: Cell, environment: str, parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The parameters of the cell's stages, checked; whether it has times; the rule on histories.

    GemiRec's cells have more: how embeddings and lists are made, and the reference's dictionary parameters, by whose
    cells all of them are measured.

    Args:
        parameters: of the environment, by stage.
    """
    names = STAGES if cell.model == HYMIREC else (*STAGES, STAGE_6)
    stages = {stage: copy.deepcopy(parameters[stage]) | {"seed": seed} for stage in names}
    if epochs := EPOCHS[environment]:
        stages["lightweight_encoder"]["training"]["epochs"], stages["llm_recommender"]["training"]["epochs"] = epochs
    more: dict[str, Any] = {}
    if cell.model == GEMIREC:
        parts = stages[STAGE_6]
        if lengths := STAGE_6_LENGTHS[environment]:
            for part, epochs in zip(("posterior", "retrieval"), lengths[:2], strict=True):
                parts[part]["training"] |= {"epochs": epochs, "validation_users": lengths[2]}
        measured_by = copy.deepcopy(parts["dictionary"])
        more = {"summed": cell.summed, "lists": cell.lists._asdict(), "measured_by": measured_by}
    for key, value in cell.changes.items():
        *path, last = key.split(".")
        block: Any = stages
        for name in path:
            block = block[name]
        block[last] = value.of(block[last]) if isinstance(value, Times) else value
    checked = {
        stage: stage_model(stage).model_validate(found).model_dump(mode="json") for stage, found in stages.items()
    }
    return {**checked, "timed": cell.timed, "history": parameters["evaluation"]["history"], **more}


def why_not(cell: Cell, environment: str, parameters: Mapping[str, Any], seed: int) -> str | None:
    """Why a cell is not run in an environment; None where it is."""
    if environment in cell.not_in:
        return cell.not_in[environment]
    reference = CELLS[REFERENCES[cell.model]]
    same = settings_of(cell, environment, parameters, seed) == settings_of(reference, environment, parameters, seed)
    return "it is the reference here" if same and cell.name != reference.name else None

"""The eight stages in order, each imported only when it is asked for, and the final fit, which is all of them again.

Our choice: a lazy mapping instead of Kedro's discovery by folder, so that `kedro run --pipelines codebook`
imports one stage, and the order is written down in one place.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from prismrec.pipelines.choices import PREVIOUS_CHOICES

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

STAGES = (
    "data_validation",
    "sequence_building",
    "lightweight_encoder",
    "codebook",
    "llm_recommender",
    "interest_dictionary",
    "evaluation",
    "packaging",
)
DEFAULT = "__default__"
# All stages once more, trained on the validation events too, with what the run before settled on them.
FINAL_FIT = "final_fit"
CHOOSING = ("sequence_building", "lightweight_encoder", "llm_recommender", "interest_dictionary", "evaluation")


class StagePipelines(Mapping[str, "Pipeline"]):
    """Pipelines by stage name, all of them together as `__default__`, and as `final_fit`."""

    def __getitem__(self, name: str) -> "Pipeline":
        if name in (DEFAULT, FINAL_FIT):
            from kedro.pipeline import Pipeline

            return sum((_stage(stage, final=name == FINAL_FIT) for stage in STAGES), start=Pipeline([]))
        if name not in STAGES:
            raise KeyError(name)
        return _stage(name)

    def __iter__(self) -> Iterator[str]:
        return iter((*STAGES, DEFAULT, FINAL_FIT))

    def __len__(self) -> int:
        return len(STAGES) + 2


def _stage(name: str, final: bool = False) -> "Pipeline":
    """A stage; of a final fit if it chooses anything."""
    create = import_module(f"prismrec.pipelines.{name}.pipeline").create_pipeline
    stage: Pipeline = create((PREVIOUS_CHOICES,)) if final and name in CHOOSING else create()
    return stage


def register_pipelines() -> Mapping[str, "Pipeline"]:
    """Return the project's pipelines by name; Kedro calls this."""
    return StagePipelines()

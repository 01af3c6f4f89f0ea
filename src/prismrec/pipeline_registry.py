"""The eight stages in order, each imported only when it is asked for.

Our choice: a lazy mapping instead of Kedro's discovery by folder, so that `kedro run --pipelines codebook`
imports one stage, and the order is written down in one place.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

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


class StagePipelines(Mapping[str, "Pipeline"]):
    """Pipelines by stage name, and all of them together as `__default__`."""

    def __getitem__(self, name: str) -> "Pipeline":
        if name == DEFAULT:
            from kedro.pipeline import Pipeline

            return sum((self[stage] for stage in STAGES), start=Pipeline([]))
        if name not in STAGES:
            raise KeyError(name)
        stage: Pipeline = import_module(f"prismrec.pipelines.{name}.pipeline").create_pipeline()
        return stage

    def __iter__(self) -> Iterator[str]:
        return iter((*STAGES, DEFAULT))

    def __len__(self) -> int:
        return len(STAGES) + 1


def register_pipelines() -> Mapping[str, "Pipeline"]:
    """Return the project's pipelines by name; Kedro calls this."""
    return StagePipelines()

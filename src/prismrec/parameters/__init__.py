"""Typed parameters: one pydantic model a stage, checked by Kedro before anything runs.

`conf/base/parameters_<stage>.yml` holds the values; a node that takes `params:<stage>` annotates the
argument with the stage's model from `prismrec.parameters.<stage>`. Our choice: unknown keys are
refused and instances are frozen, so that a misspelt key can never be silently unused.
"""

from importlib import import_module

from pydantic import BaseModel, ConfigDict, Field


class StageParameters(BaseModel):
    """Base class of every stage's parameters: frozen, no unknown keys, one seed."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    seed: int = Field(ge=0, lt=2**31, description="Seed of everything random in the stage; ${globals:seed} by default.")


def stage_model(stage: str) -> type[StageParameters]:
    """Return a stage's parameter model: the one `StageParameters` that `prismrec.parameters.<stage>` defines.

    Args:
        stage: the stage's name.

    Raises:
        ModuleNotFoundError: if the stage has no such module.
    """
    module = import_module(f"{__name__}.{stage}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, StageParameters) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} defines {len(found)} StageParameters, not one"
    return found[0]

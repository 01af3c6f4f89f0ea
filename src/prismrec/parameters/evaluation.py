"""Parameters of stage 7, `evaluation`."""

from pydantic import Field

from prismrec.parameters import StageParameters


class EvaluationParameters(StageParameters):
    """Protocol A needs no settings but a title for its plot."""

    title: str = Field(min_length=1, max_length=80, description="Name of the data set above the plot.")

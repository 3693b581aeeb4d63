"""What a model's outputs tell people: probabilities, a value with its unit, the risk by the horizon."""

from __future__ import annotations

from pmfed.errors import UsageError
from pmfed.runs.description import Answer
from pmfed.runs.links import LINKS, Columns, Floats


def told(answer: Answer, outputs: Floats) -> Columns:
    """Return what is told of each record, by name.

    Parameters
    ----------
    answer
        What the outputs mean.
    outputs : (R, out)
        Of the model, recalibrated.

    Raises
    ------
    UsageError
        The answer is a picture, which has no place in a table.
    """
    if outputs.ndim != 2:
        raise UsageError(
            "this model marks every pixel of a picture, which is no line of a table.",
            "Read its masks in Python: pmfed.runs.predictors.predictor gives them.",
        )
    return LINKS[answer.link].told(answer, outputs)


def horizon(answer: Answer) -> str:
    """Return what is predicted, in words, with its unit and horizon."""
    return LINKS[answer.link].sentence(answer)

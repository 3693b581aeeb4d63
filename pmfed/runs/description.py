"""``model.json``: what a finished model is, whichever method made it.

The numbers lie beside it in ``model.safetensors``. Two files, so that a person and any program can read what the model
expects and answers without a tensor library; and so that a recalibration or a figure added later leaves the bytes of
the trained numbers, and whatever was compared with them, as they were.

Keys that are not listed here are refused. A key that is absent means what its class says, always.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from pmfed.modality import Name
from pmfed.modality.inputs import Input
from pmfed.study.outcome import Link
from pmfed.validate import Frozen
from pmfed.wire import Fingerprint

NAME = "model.json"
ARRAYS = "model.safetensors"
VERSION: Literal[1] = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Dtype = Literal["F64", "F32", "I64", "I32", "U8", "BOOL"]
Side = Annotated[int, Field(ge=0, lt=2**40)]
Role = Literal["parameter", "statistics", "centre", "residuals"]


class Array(Frozen):
    """One array of ``model.safetensors``.

    ``role`` is what it is for: ``parameter``, what the method learned; ``statistics``, the noised sum that means and
    scales were solved from (kept as evidence: the solved ones are in ``inputs``); ``centre``, what is taken away from
    the features of the modality it is named after (``centre.NAME``); ``residuals``, a released histogram of errors.
    ``sha256`` is that of its numbers, little-endian, in C order.
    """

    role: Role
    dtype: Dtype
    shape: Annotated[tuple[Side, ...], Field(max_length=8)]
    sha256: Digest


class Part(Frozen):
    """One modality as the model is given it: numbers of ``shape`` per record.

    ``inputs`` names them along the last axis; pictures have none, and are ``(pixel - mean) / scale`` of pixels between
    0 and 1. ``weights`` tells the public, frozen network in front of it; absent, there is none. ``absent`` is what the
    model does with a record without this modality: it ``adds nothing``, a ``learned`` stand-in takes its place, or
    there is ``no answer``.
    """

    kind: str
    shape: tuple[Side, ...]
    inputs: tuple[Input, ...] = ()
    mean: float | None = None
    scale: PositiveFloat | None = None
    weights: str | None = None
    absent: Literal["adds nothing", "learned", "no answer"]

    @property
    def named(self) -> bool:
        """Whether a record is one row of inputs with names: neither a picture nor a series."""
        return bool(self.inputs) and self.shape == (len(self.inputs),)


class IndexMoment(Frozen):
    """The moment of the prediction: nothing at or after it is an input.

    ``column`` is the cohort table's; ``day`` says that a date without a time of day is its first second.
    """

    column: str
    reads: Literal["strictly before"]
    day: Literal["first second"]


class Answer(Frozen):
    """What the outputs mean: ``link`` leads from them to what is told to people.

    ``logistic``: one output, the logit of the second of ``classes``. ``softmax``: one output per class, of each pixel
    in a segmentation. ``regression``: one output z; the value is ``back(z * scale + centre)``, ``back`` being the
    inverse of ``transform``, within ``minimum`` to ``maximum``. ``hazards``: one output per interval that ends at
    ``intervals``, the logit of the chance of the event there for who came so far; the risk told is that by ``horizon``.
    ``rate``: one output, the logarithm of the expected count, which ends at ``maximum``. ``grades``: one output per class
    but the first, the logit of the chance of that class or a later one, each taken for no larger than the one before.
    ``labels``: one output per class, each the logit of its being there.
    """

    column: str
    task: str
    link: Link
    outputs: Annotated[int, Field(ge=1)]
    classes: tuple[str, ...] = ()
    unit: str | None = None
    transform: Literal["none", "sqrt", "log"] = "none"
    centre: float | None = None
    scale: PositiveFloat | None = None
    minimum: float | None = None
    maximum: float | None = None
    intervals: tuple[PositiveFloat, ...] = ()
    horizon: PositiveFloat | None = None

    @property
    def column_told(self) -> int:
        """Which output a single figure is of: the interval that ends at the horizon, or the first and only one."""
        return self.intervals.index(self.horizon) if self.horizon is not None else 0


class Straight(Frozen):
    """``kind = "straight"``: each output becomes ``intercept + slope * output``, cut off at ``bound`` either way before.

    An intercept per output; absent ``bound`` means that nothing is cut off.
    """

    kind: Literal["straight"]
    intercept: Annotated[tuple[float, ...], Field(min_length=1)]
    slope: PositiveFloat
    bound: PositiveFloat | None = None


class Steps(Frozen):
    """``kind = "steps"``: the one output is looked up between points ``at`` and ``value``, both rising; flat outside."""

    kind: Literal["steps"]
    at: Annotated[tuple[float, ...], Field(min_length=2, max_length=10_000)]
    value: Annotated[tuple[float, ...], Field(min_length=2, max_length=10_000)]

    @model_validator(mode="after")
    def _rises(self) -> Steps:
        if len(self.at) != len(self.value):
            raise ValueError("'at' and 'value' have a number each per point")
        if any(b <= a for a, b in zip(self.at, self.at[1:], strict=False)):
            raise ValueError("'at' rises from point to point")
        if any(b < a for a, b in zip(self.value, self.value[1:], strict=False)):
            raise ValueError("'value' never falls: a recalibration keeps the order of patients")
        return self


Map = Annotated[Straight | Steps, Field(discriminator="kind")]


class RecalibrationStep(Frozen):
    """What is done to the outputs before they are told, and on whom it was fitted, in a sentence."""

    map: Map
    fitted_on: Annotated[str, Field(min_length=1, max_length=500)]


class Description(Frozen):
    """``model.json``.

    ``method`` names what made the model and so what its arrays mean: ``gradient`` for a network or linear model.
    ``absent_parts`` are parameters that never left the sites: without a site's own the model gives no answer.
    ``index`` absent: the study has no moment of prediction. ``recalibration`` absent: outputs are told as they are.
    """

    what: Literal["pmfed model"]
    version: Literal[1]
    method: Name
    pmfed: Annotated[str, Field(min_length=1, max_length=64)]
    study: Fingerprint
    arrays: Annotated[dict[Annotated[str, Field(min_length=1, max_length=512)], Array], Field(max_length=65_536)]
    parts: Annotated[dict[Name, Part], Field(min_length=1)]
    answer: Answer
    index: IndexMoment | None = None
    absent_parts: tuple[str, ...] = ()
    recalibration: RecalibrationStep | None = None

"""Scans: DICOM folders and NIfTI files, as pictures or as volumes."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pmfed.modality.pictures import Pictures, beside
from pmfed.modality.weights import source_of
from pmfed.validate import Frozen

Two = tuple[PositiveInt, PositiveInt]
Three = tuple[PositiveInt, PositiveInt, PositiveInt]
Pattern = Annotated[str, Field(min_length=1, max_length=128)]

# What decides how a scan is made, as opposed to which one it is: the cache is keyed by it.
MAKING = {
    "kind", "size", "spacing", "fit", "orientation", "view", "window", "channels", "volume", "mean", "scale", "weights",
    "unit",
}  # fmt: skip
LARGEST = 2**26  # voxels of one input: 256 x 512 x 512, a quarter of a gigabyte


class Series(Frozen):
    """Which of a patient's series is taken.

    ``modality``, ``body_part`` and ``description`` are patterns (``*`` any text, ``?`` any letter) that are compared
    with Modality, BodyPartExamined and SeriesDescription without regard to case; one of a list must fit the whole
    text, an empty list takes any. Patterns rather than regular expressions: a site must not be kept busy for ever by
    an expression that somebody else wrote.
    """

    modality: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    body_part: tuple[Pattern, ...] = ()
    description: tuple[Pattern, ...] = ()
    take: Literal["latest", "earliest"] = "latest"


class Link(Frozen):
    """A table that says whose a scan is, where its PatientID is not the patient's id in the cohort."""

    table: str
    by: Literal["patient", "accession", "study", "series", "folder"]
    column: str


class Scan(Pictures):
    """What DICOM and NIfTI have in common: from decoded values to an input."""

    size: Two | Three
    spacing: tuple[PositiveFloat, PositiveFloat] | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    orientation: Annotated[str, Field(pattern=r"^[RLAPSI]{3}$")] = "SPL"
    view: Literal["middle", "brightest"] = "middle"

    @model_validator(mode="after")
    def _fits_size(self) -> Scan:
        if math.prod(self.picture) > LARGEST:
            raise ValueError(f"'size' holds {math.prod(self.picture):,} numbers, more than {LARGEST:,}")
        if self.weights is not None and len(self.size) == 3:
            raise ValueError("'weights' are for pictures; give 'size' two numbers, or leave them out")
        if self.spacing is not None and len(self.spacing) != len(self.size):
            raise ValueError("'spacing' needs one number per number in 'size'")
        if self.spacing is not None and self.fit != "exact":
            raise ValueError("'spacing' already says how a scan is brought to 'size'; leave out 'fit'")
        if len({pair for letter in self.orientation for pair in ("RL", "AP", "SI") if letter in pair}) != 3:
            raise ValueError("'orientation' needs one letter of each of R/L, A/P and S/I")
        if self.view != "middle" and len(self.size) == 3:
            raise ValueError("'view' belongs to pictures, whose 'size' has two numbers")
        return self

    @property
    def picture(self) -> tuple[int, ...]:
        """Shape of one scan: channels, then ``size``."""
        return (1, *self.size)

    def no_masks(self, name: str, table: str, record: str | None) -> str:
        if record is not None:
            return "cohort.record: of scans one per patient is read; leave it out, and list a row per patient"
        return "" if self.view == "middle" else f"modalities.{name}.view: of a mask only the middle slice is known"


class Dicom(Scan):
    """A modality of DICOM series: one picture (``size`` of two numbers) or one volume (three) per record.

    ``window`` maps values to 0..1: ``[centre, width]`` in the units after rescale (Hounsfield units in CT), ``"bits"``
    from the least to the greatest number the stored bits can hold, ``"own"`` from the 1st to the 99th percentile of the
    scan itself. ``mean`` and ``scale`` are public constants on that range.

    ``unit`` is what the window is in, as RescaleType or a PET's Units have it; ``"SUV"`` is computed (by body weight). A
    scan in another unit is an error. Without it a window of numbers is in Hounsfield units for CT and without a unit for
    all others, so that a dual-energy map of iodine or a PET needs one.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"unit"})

    kind: Literal["dicom"] = "dicom"
    series: Series
    window: tuple[float, PositiveFloat] | Literal["bits", "own"]
    unit: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    channels: Literal[1, 3] = 1
    link: Link | None = None
    burned_in: Literal["stop", "skip", "take"] = "stop"

    @property
    def picture(self) -> tuple[int, ...]:
        """Shape of one scan: channels, then ``size``."""
        return (self.channels, *self.size)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.folder, *([self.link.table] if self.link else []), *source_of(self.weights))


class Nifti(Scan):
    """A modality of NIfTI files listed in a table: one picture or one volume per record.

    ``date`` is the table's column with the day (or time) of the scan: needed where the study has an index date or a
    patient has several files. ``volume`` is which volume of a file of several is taken, counted from 0.
    """

    kind: Literal["nifti"] = "nifti"
    table: str
    file: str = "file"
    date: str | None = None
    take: Literal["latest", "earliest"] = "latest"
    volume: Annotated[int, Field(ge=0)] | None = None
    window: tuple[float, PositiveFloat] | Literal["own"]

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.folder, self.table, *source_of(self.weights))

    @property
    def beside_masks(self) -> tuple[str, ...]:
        return (self.file,)

    def no_masks(self, name: str, table: str, record: str | None) -> str:
        return super().no_masks(name, table, record) if self.table == table else beside(name, table)

"""The virtual hospitals: whom they see, what they measure, what they write it in."""

from __future__ import annotations

from typing import Literal, NamedTuple

Units = Literal["SI", "conventional", "both"]


class Scanner(NamedTuple):
    """What makes and writes a hospital's pictures.

    A value v of the scene is written as ``(v - intercept) / slope``; of ``-v`` where black is the greatest value.
    """

    modality: Literal["CT", "CR"]
    inverted: bool  # MONOCHROME1: the greatest value is black
    slope: float
    intercept: float
    signed: bool
    syntax: Literal["explicit", "implicit", "rle"]
    description: str
    brightness: float  # of the background, 0..1
    contrast: float
    noise: float  # standard deviation of the pixel noise, 0..1


class Laboratory(NamedTuple):
    """How a sequencing laboratory writes its calls.

    ``reversed`` variants are written on the other strand; of ``exchanged`` ones REF and ALT have changed places.
    """

    phased: bool
    prefix: str  # before the number of a chromosome
    failed: float  # share of calls that failed
    reversed: tuple[str, ...] = ()
    exchanged: tuple[str, ...] = ()


class RecordHabits(NamedTuple):
    """How a hospital keeps health records.

    ``numbered`` patients have plain numbers as ids. ``icd`` diagnoses are coded in ICD-10-CM, others in SNOMED CT.
    ``dated`` records have no time of day. ``spelled`` are units that the hospital spells its own way.
    """

    form: Literal["omop", "fhir"]
    units: Units
    numbered: bool = False
    icd: bool = False
    dated: bool = False
    spelled: tuple[tuple[str, str], ...] = ()


class Habits(NamedTuple):
    """What is a hospital's own: size, case mix, records, laboratory and scanner. None: it has no such thing."""

    title: str
    weight: float  # size relative to the others
    age: float  # mean, years
    male: float  # shares of patients, here and below
    diabetes: float
    hypertension: float
    visits: float  # a year
    measured: float  # share of visits at which a value is measured
    never: float  # of whom a value is never measured
    unasked: float  # whose smoking is not recorded
    covered: float  # with genotypes, and with pictures, where the hospital has them
    records: RecordHabits
    laboratory: Laboratory | None
    scanner: Scanner | None


HABITS = (
    Habits(
        "University hospital", 1.6, 61, 0.58, 0.15, 0.35, 2.4, 0.80, 0.03, 0.03, 0.95,
        RecordHabits("omop", "SI", icd=True),
        Laboratory(True, "chr", 0.01),
        Scanner("CT", False, 1.0, -1024.0, False, "explicit", "Coronary lesion, axial", 0.30, 1.00, 0.04),
    ),
    Habits(
        "City hospital", 1.4, 65, 0.55, 0.20, 0.45, 1.8, 0.70, 0.08, 0.06, 0.90,
        RecordHabits("fhir", "conventional", icd=True),
        Laboratory(False, "", 0.02, reversed=("rs1799983", "rs5186")),
        Scanner("CR", True, 0.25, -300.0, False, "implicit", "LESION AP", 0.38, 0.85, 0.06),
    ),
    Habits(
        "County hospital", 0.9, 68, 0.52, 0.18, 0.55, 1.2, 0.60, 0.15, 0.10, 0.85,
        RecordHabits("omop", "conventional", numbered=True, dated=True, spelled=(("mg/dL", "MG PER DL"), ("mm[Hg]", "mm Hg"))),
        Laboratory(False, "chr", 0.03, exchanged=("rs10757278",)),
        None,
    ),
    Habits(
        "Diabetes clinic", 0.7, 59, 0.50, 0.75, 0.50, 3.0, 0.90, 0.04, 0.05, 0.90,
        RecordHabits("fhir", "SI"),
        None,
        Scanner("CR", True, 2.0, -1000.0, False, "explicit", "Lesion view", 0.25, 1.15, 0.05),
    ),
    Habits(
        "Rural hospital", 0.4, 55, 0.62, 0.10, 0.30, 0.8, 0.55, 0.20, 0.15, 0.85,
        RecordHabits("omop", "both"),
        Laboratory(True, "", 0.04, reversed=("rs12740374",), exchanged=("rs9349379", "rs699")),
        Scanner("CT", False, 0.5, 0.0, True, "rle", "lesion 64", 0.42, 0.90, 0.08),
    ),
)  # fmt: skip

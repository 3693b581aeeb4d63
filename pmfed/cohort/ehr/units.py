"""Units of measured values: UCUM, converted by pint through ucumvert.

UCUM (https://ucum.org) is the system FHIR and OMOP write units in. A unit that a study asks for itself needs no
library: the identity is not computed.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

from pmfed.cohort.ehr.spellings import harmless, plain, qualified
from pmfed.errors import DataError
from pmfed.modality.ehr import EventFeature

LONGEST = 60

_ANNOTATION = re.compile(r"\{[^{}]*\}")
_HUGE = re.compile(r"\d{4}")  # no clinical unit has such an exponent, and pint would compute 10^99999999

Line = tuple[float, float]
"""Slope and intercept of a conversion: Fahrenheit to Celsius is not a mere factor."""


def conversion(unit: str, spec: EventFeature) -> Line | None:
    """Return how values in a source's unit become values in the study's, or None when they cannot.

    Parameters
    ----------
    unit
        As the source writes it, "" for none. No unit is no conversion, unless the study lists ``""`` in ``units``.
    spec
        The study's unit, the factors it states and the molar mass.

    Raises
    ------
    DataError
        pint or ucumvert is not installed and the two units differ.
    """
    assert spec.unit is not None
    unit = unit.strip()
    if unit in spec.units:
        return spec.units[unit], 0.0
    if unit == spec.unit:
        return 1.0, 0.0
    factors = {plain(one): factor for one, factor in spec.units.items()}
    if unit and plain(unit) in factors:
        return factors[plain(unit)], 0.0
    return convert(plain(unit), plain(spec.unit), spec.molar_mass)


@lru_cache(maxsize=4096)
def convert(unit: str, target: str, molar_mass: float | None = None) -> Line | None:
    """Return slope and intercept from one UCUM unit to another; None when there is no such line.

    What UCUM equates and clinics do not is refused: milliequivalents are millimoles only of ions of charge one,
    mmol/mol is a tenth of a percent in arithmetic but not as the two scales of HbA1c, and what stands in braces may be
    another quantity: a microgram of FEU is about half a microgram of DDU, and mL/min is not mL/min per 1.73 m2.

    Parameters
    ----------
    unit, target
        UCUM codes.
    molar_mass
        In g/mol: with it amounts of mass and of substance convert into each other.
    """
    if unit == target:
        return 1.0, 0.0
    if qualified(unit) != qualified(target):
        return None
    given, wanted = _quantity(unit), _quantity(target)
    if given is None or wanted is None or _differ("equivalent", given, wanted):
        return None
    if given.dimensionless and wanted.dimensionless and _differ("mole", given, wanted):
        return None
    line = _line(given, wanted)
    if line is None and molar_mass is not None:
        per_mole = molar_mass * _registry().from_ucum("g/mol")
        line = _line(given, wanted, per_mole**-1) or _line(given, wanted, per_mole)
    return line


def _differ(word: str, given: Any, wanted: Any) -> bool:
    return (word in str(given.units)) != (word in str(wanted.units))


def _line(given: Any, wanted: Any, times: Any = None) -> Line | None:
    """Two points make the line, a third one proves it straight."""

    def at(value: float) -> float:
        there = type(given)(value * given.magnitude, given.units)
        there = there if times is None else there * times  # not even by 1: a temperature cannot be multiplied
        return float(there.to(wanted.units).magnitude / wanted.magnitude)

    try:
        intercept, middle, end = at(0.0), at(0.5), at(1.0)
    except Exception:  # pint has many, and a unit nobody expected may raise any
        return None
    slope = end - intercept
    straight = abs(middle - (intercept + slope / 2)) <= 1e-9 * max(1.0, abs(slope), abs(intercept))
    return (slope, intercept) if straight and 0 < abs(slope) < 1e30 else None  # pH and decibel are logarithms


@lru_cache(maxsize=4096)
def _quantity(unit: str) -> Any:
    """Return a UCUM unit as a pint quantity; None when it is none."""
    plain = _ANNOTATION.sub("", unit)
    if len(unit) > LONGEST or _HUGE.search(plain) or plain.count("(") > 1:
        return None
    registry = _registry()
    try:
        found = registry.from_ucum(unit)
        if not hasattr(found, "units"):  # a mere annotation, such as {score}, is the unit 1
            found = registry.from_ucum("1")
        found.to_root_units()
    except Exception:  # lark, pint and plain arithmetic raise errors of many kinds
        return None
    return found


@lru_cache(maxsize=1)
def _registry() -> Any:
    try:
        from ucumvert import PintUcumRegistry  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(
            "units of measured values differ from the study's, and the packages that convert them are not installed.",
            "Install them: pip install 'pmfed[ehr]'.",
        ) from None
    return PintUcumRegistry()


def named(unit: str) -> str:
    """Return a unit for a message: only what is a unit, for a cell may hold anything."""
    if not unit:
        return "no unit"
    known = plain(unit) != unit or (len(unit) <= 20 and harmless(unit) and _quantity(unit) is not None)
    return f"'{unit}'" if known else "others"


def shown(units: Counter[str]) -> str:
    """Return units for a message with their numbers, most frequent first."""
    listed: list[str] = []
    odd = 0
    for unit, number in units.most_common():
        name = named(unit)
        if name == "others" or (unit and len(listed) >= 4):
            odd += number
        else:
            listed.append(f"{name}: {number:,}")
    return ", ".join([*listed, f"others: {odd:,}"] if odd else listed)

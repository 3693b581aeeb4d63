"""What a DICOM header says of measures: the distance between pixels in the patient, and the unit of grey values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pmfed.cohort.imaging.failures import NO_SUV, ScanError

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS = (
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacingCalibrationType",
    "EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient",
    "SequenceOfUltrasoundRegions", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "Units",
    "SUVType", "DoseGridScaling", "DoseUnits",
)  # fmt: skip
"""Attributes that are read here; the functional groups of frames have some of them instead."""

HOUNSFIELD, UNSPECIFIED, STORED, UPTAKE = "HU", "US", "", "SUV"
HALF = " without intercept"
CENTIMETRES = 3  # PhysicalUnitsXDirection (PS3.3 section C.8.5.5.1.15)


def numbers(value: Any, length: int, otherwise: Any = None) -> Any:
    """Return a header's numbers as a tuple of finite floats; ``otherwise`` where there are not ``length`` of them."""
    parts = [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") else list(value)
    try:
        found = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return otherwise
    return found if len(found) == length and all(abs(part) < 1e12 for part in found) else otherwise


def spacing(data: Dataset) -> tuple[float, float] | None:
    """Return the distance between rows and between columns in the patient in mm; None where the header does not say.

    What is measured on a detector is that much smaller in the patient as the picture is magnified there (PS3.3 section
    10.7.1.3): PixelSpacing equal to ImagerPixelSpacing, and nobody having calibrated it, is measured on the detector.
    """
    said, detector = _pair(data.get("PixelSpacing")), _pair(data.get("ImagerPixelSpacing"))
    if said is not None and (detector != said or data.get("PixelSpacingCalibrationType")):
        return said
    detector = detector or _pair(data.get("NominalScannedPixelSpacing"))
    if detector is not None:
        larger = magnified(data)
        return detector[0] / larger, detector[1] / larger
    return _ultrasound(data)


def magnified(data: Dataset) -> float:
    """Return how many times larger things are on the detector than in the patient; 1 where the header does not say."""
    said = _one(data.get("EstimatedRadiographicMagnificationFactor"))
    if said is None:
        far, near = _one(data.get("DistanceSourceToDetector")), _one(data.get("DistanceSourceToPatient"))
        said = far / near if far is not None and near is not None else None
    return said if said is not None and 1 <= said < 20 else 1.0


def _ultrasound(data: Any) -> tuple[float, float] | None:
    """Return the spacing of a picture whose only region is measured in centimetres."""
    regions: Any = data.get("SequenceOfUltrasoundRegions") or ()
    if len(regions) != 1:
        return None
    region = regions[0]
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    rows, columns = _one(region.get("PhysicalDeltaY")), _one(region.get("PhysicalDeltaX"))
    if units != (CENTIMETRES, CENTIMETRES) or rows is None or columns is None:
        return None
    return 10 * rows, 10 * columns


def _pair(value: Any) -> tuple[float, float] | None:
    found: tuple[float, float] | None = numbers(value, 2)
    return found if found is not None and min(found) > 0 else None


def _one(value: Any) -> float | None:
    found = numbers(value, 1)
    return float(found[0]) if found is not None and found[0] > 0 else None


def quantity(data: Dataset, transformed: Dataset | None = None) -> str:
    """Return the unit of grey values after rescale: ``"HU"``, a RescaleType, a PET's Units; "" for stored values.

    Parameters
    ----------
    data
        A header.
    transformed
        The frame's PixelValueTransformationSequence item, where it has one.
    """
    of = transformed if transformed is not None else data
    slope, intercept = (
        str(of.get(name) if of.get(name) is not None else "") for name in ("RescaleSlope", "RescaleIntercept")
    )
    if data.get("DoseGridScaling") is not None:
        return str(data.get("DoseUnits") or "RELATIVE").strip().upper()
    table: Any = data.get("ModalityLUTSequence")
    if table:
        return str(table[0].get("ModalityLUTType") or UNSPECIFIED).strip().upper()
    if not slope and not intercept:
        return STORED
    half = "" if slope and intercept else HALF
    if data.get("Modality") in ("PT", "NM") and data.get("Units"):
        return str(data.Units).strip().upper() + half
    usual = HOUNSFIELD if data.get("Modality") == "CT" else UNSPECIFIED
    return str(of.get("RescaleType") or usual).strip().upper() + half


def fits_window(found: str, modality: str, unit: str | None, numeric: bool) -> bool:
    """Return whether grey values of a unit may go through the study's window.

    Parameters
    ----------
    found
        As `quantity` returns it.
    modality
        Of the series.
    unit
        That the study says; None when it leaves it to the modality: Hounsfield units of CT, numbers without a unit of all
        others, so that PET needs one.
    numeric
        Whether the window is of numbers. One that is taken from the scan itself fits any unit the study does not name.
    """
    if unit == UPTAKE:
        return found in ("GML", "BQML", "CNTS")
    if unit is not None:
        return found == unit
    if modality == "PT":
        return not numeric  # whose numbers are in a unit always: that it is not said makes them no others
    usual = {STORED, UNSPECIFIED, UNSPECIFIED + HALF, *({HOUNSFIELD, HOUNSFIELD + HALF} if modality == "CT" else ())}
    return not numeric or found in usual


def uptake(data: Dataset) -> float:
    """Return what a PET's grey values times are standardised uptake values by body weight (g/ml), as QIBA has it.

    Raises
    ------
    ScanError
        The header lacks weight, dose or times, or says that decay was not corrected.
    """
    unit = str(data.get("Units") or "")
    if unit == "GML" and data.get("SUVType") in (None, "", "BW"):
        return 1.0
    if unit == "CNTS":
        factor = _one(data[0x70531000].value) if 0x70531000 in data else None  # Philips' own
        if factor is None:
            raise ScanError(NO_SUV)
        return factor
    drugs: Any = data.get("RadiopharmaceuticalInformationSequence") or ()
    weight = _one(data.get("PatientWeight"))
    if unit != "BQML" or len(drugs) != 1 or weight is None or "DECY" not in str(data.get("CorrectedImage") or ""):
        raise ScanError(NO_SUV)
    dose, life = _one(drugs[0].get("RadionuclideTotalDose")), _one(drugs[0].get("RadionuclideHalfLife"))
    if dose is None or life is None:
        raise ScanError(NO_SUV)
    correction = data.get("DecayCorrection")
    if correction == "ADMIN":
        waited = 0.0
    elif correction == "START":
        waited = _waited(data, drugs[0])
    else:
        raise ScanError(NO_SUV)
    return 1000 * weight / (dose * math.pow(2.0, -waited / life))


def _waited(data: Dataset, drug: Dataset) -> float:
    """Return the seconds from injection to the start of the series."""
    scanned, given = _clock(data.get("SeriesTime")), _clock(drug.get("RadiopharmaceuticalStartTime"))
    started = str(drug.get("RadiopharmaceuticalStartDateTime") or "")
    acquired = _clock(data.get("AcquisitionTime"))
    if given is None and len(started) >= 14:
        given = _clock(started[8:])
    if scanned is None or given is None or (acquired is not None and acquired < scanned):
        raise ScanError(NO_SUV)  # a series time after the acquisition is that of a later processing
    waited = scanned - given
    return waited if waited >= 0 else waited + 86400  # past midnight


def _clock(value: Any) -> float | None:
    text = str(value or "").replace(":", "").split("+")[0].split("-")[0]
    try:
        return 3600 * int(text[:2]) + 60 * int(text[2:4]) + float(text[4:])
    except ValueError:
        return None

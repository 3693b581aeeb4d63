"""Codes and units of what happens to patients: LOINC, SNOMED CT, ICD-10-CM, RxNorm, UCUM and their ids in OMOP."""

from __future__ import annotations

from typing import NamedTuple


class WrittenCode(NamedTuple):
    """A code of a system, with its id and domain in the OMOP vocabulary."""

    system: str
    code: str
    concept: int
    domain: str
    name: str


class Unit(NamedTuple):
    """A UCUM unit: how much of it one of the model's unit is, and how many decimals laboratories write."""

    code: str
    concept: int
    per: float
    decimals: int


DIAGNOSES = {
    "diabetes": (
        WrittenCode("SNOMED", "44054006", 201826, "Condition", "Type 2 diabetes mellitus"),
        WrittenCode("ICD10CM", "E11.9", 35206882, "Condition", "Type 2 diabetes mellitus without complications"),
    ),
    "hypertension": (
        WrittenCode("SNOMED", "59621000", 320128, "Condition", "Essential hypertension"),
        WrittenCode("ICD10CM", "I10", 35207668, "Condition", "Essential (primary) hypertension"),
    ),
    # OMOP hospitals did not map the ICD code of this one: 0 is "no matching concept".
    "infarction": (
        WrittenCode("SNOMED", "22298006", 4329847, "Condition", "Myocardial infarction"),
        WrittenCode("ICD10CM", "I21.9", 0, "Condition", "Acute myocardial infarction, unspecified"),
    ),
}
"""By name: the SNOMED CT code, which is OMOP's standard, and the ICD-10-CM code."""

STATINS = (
    WrittenCode("RxNorm", "312961", 1539411, "Drug", "simvastatin 20 MG Oral Tablet"),
    WrittenCode("RxNorm", "259255", 1545959, "Drug", "atorvastatin 80 MG Oral Tablet"),
)

SMOKING_STATUS = WrittenCode("LOINC", "72166-2", 43054909, "Observation", "Tobacco smoking status")
SMOKING_ANSWERS = (
    WrittenCode("SNOMED", "266919005", 4144272, "Observation", "Never smoked tobacco"),
    WrittenCode("SNOMED", "8517006", 4310250, "Observation", "Ex-smoker"),
    WrittenCode("SNOMED", "449868002", 42709996, "Observation", "Smokes tobacco daily"),
)
BLOOD_PRESSURE = WrittenCode("LOINC", "85354-9", 0, "Measurement", "Blood pressure panel")


def _measured(code: str, concept: int, unit: Unit, name: str) -> tuple[WrittenCode, Unit]:
    return WrittenCode("LOINC", code, concept, "Measurement", name), unit


_BMI = _measured("39156-5", 3038553, Unit("kg/m2", 9531, 1.0, 1), "Body mass index (BMI) [Ratio]")
_HBA1C = _measured("4548-4", 3004410, Unit("%", 8554, 1.0, 1), "Hemoglobin A1c/Hemoglobin.total in Blood")
_SYSTOLIC = _measured("8480-6", 3004249, Unit("mm[Hg]", 8876, 1.0, 0), "Systolic blood pressure")
_TROPONIN = _measured("89579-7", 36306105, Unit("ng/L", 8725, 1.0, 0), "Troponin I.cardiac by High sensitivity method")

MEASURED = {
    "bmi": (_BMI, _BMI),
    "creatinine": (
        _measured("14682-9", 3020564, Unit("umol/L", 8749, 1.0, 0), "Creatinine [Moles/volume] in Serum or Plasma"),
        _measured("2160-0", 3016723, Unit("mg/dL", 8840, 113.12e-4, 2), "Creatinine [Mass/volume] in Serum or Plasma"),
    ),
    "hba1c": (_HBA1C, _HBA1C),
    "ldl": (
        _measured("22748-8", 3001308, Unit("mmol/L", 8753, 1.0, 2), "Cholesterol in LDL [Moles/volume] in Serum"),
        _measured(
            "18262-6", 3009966, Unit("mg/dL", 8840, 38.665, 0), "Cholesterol in LDL [Mass/volume] by Direct assay"
        ),
    ),
    "systolic": (_SYSTOLIC, _SYSTOLIC),
    "troponin": (_TROPONIN, _TROPONIN),
}
"""By name: code and unit in SI units, and in conventional ones. Creatinine has 113.12 g/mol, cholesterol 386.65."""

VISITS = {
    "outpatient": (9202, "Outpatient Visit", "AMB"),
    "inpatient": (9201, "Inpatient Visit", "IMP"),
    "emergency": (9203, "Emergency Room Visit", "EMER"),
}
"""OMOP concept, its name, and FHIR's Encounter.class."""

OTHER_CONCEPTS = (
    (0, "No matching concept", "Metadata", "None", "Undefined", "No matching concept"),
    (8507, "MALE", "Gender", "Gender", "Gender", "M"),
    (8532, "FEMALE", "Gender", "Gender", "Gender", "F"),
    (32817, "EHR", "Type Concept", "Type Concept", "Type Concept", "OMOP4976890"),
    (9202, "Outpatient Visit", "Visit", "Visit", "Visit", "OP"),
    (9201, "Inpatient Visit", "Visit", "Visit", "Visit", "IP"),
    (9203, "Emergency Room Visit", "Visit", "Visit", "Visit", "ER"),
)
"""Concepts of no code above: id, name, domain, vocabulary, class, code."""

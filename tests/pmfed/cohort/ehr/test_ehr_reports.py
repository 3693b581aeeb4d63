"""Inputs in the manner of public reports: each has its right value, or a sentence that says what is wrong.

docs/formats.md lists them with where they come from.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reports import (
    COUNT,
    DIABETES,
    GLUCOSE,
    MED,
    SNOMED,
    STATIN,
    TAKES,
    condition,
    described,
    drug,
    measured,
    ndjson,
    observation,
    omop,
    patient,
    read,
    table,
)

pytest.importorskip("sqlalchemy")

NAN = math.nan
Writer = Callable[[Path], Path]


def fhir(*resources: Any, name: str = "x.ndjson") -> Writer:
    """Return a writer of a Patient and other resources."""
    return lambda folder: ndjson(folder / name, patient(), *resources)


def coded(system: str, code: str = "2345-7") -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def rows(*lines: str) -> Writer:
    return lambda folder: table(folder / "events.csv", *lines)


def omop_of(**tables: list[str]) -> Writer:
    return lambda folder: omop(folder, **tables)


def glucose(cell: str, unit: str = "mg/dL", date: str = "2020-06-01") -> Writer:
    return rows(f'1,{date},LOINC:2345-7,"{cell}",{unit}')


def written(text: str, *lines: str, head: str = "patient_id,when,code,value,unit", encoding: str = "utf-8") -> Writer:
    """Return a writer of a table and of a description that says how it is written."""

    def write(folder: Path) -> Path:
        (folder / "e.csv").write_bytes("".join(f"{line}\r\n" for line in (head, *lines)).encode(encoding))
        return described(folder / "r.toml", f'[[tables]]\nfile = "e.csv"\n[written]\n{text}\n')

    return write


def by_number(*resources: Any) -> Writer:
    """Return a writer of an export whose patients are known by their record numbers."""

    def write(folder: Path) -> Path:
        ndjson(folder / "x.ndjson", *resources)
        return described(folder / "r.toml", '[fhir]\nfiles = "x.ndjson"\nidentifier = "urn:mrn"\n')

    return write


def number(value: str, **rest: Any) -> dict[str, Any]:
    return {"system": "urn:mrn", "value": value, **rest}


def link(other: str, kind: str = "replaced-by") -> dict[str, Any]:
    return {"link": [{"other": {"reference": f"Patient/{other}"}, "type": kind}]}


def meta(number: str = "", updated: str = "") -> dict[str, Any]:
    told = {"versionId": number, "lastUpdated": updated}
    return {"meta": {key: value for key, value in told.items() if value}}


EGFR = {"codes": ["LOINC:33914-3"], "value": "last", "unit": "mL/min/{1.73_m2}"}
CELLS = {"codes": ["LOINC:6690-2"], "value": "last", "unit": "10*3/uL"}
DIMER = {"codes": ["LOINC:48065-7"], "value": "last", "unit": "ug/mL{DDU}"}
INPATIENT = {"codes": ["VISIT:inpatient"], "value": "count"}
CANCER = {"codes": ["ICD10CM:Z85.3"], "value": "ever"}
ANGINA = {"codes": ["ICD10CM:I25.110"], "value": "ever"}
E119 = {"codes": ["ICD10CM:E11.9"], "value": "ever"}
BUNDLE = {"resourceType": "Bundle", "type": "history"}


def bundle(*entries: dict[str, Any]) -> Writer:
    def write(folder: Path) -> Path:
        (folder / "b.json").write_text(json.dumps({**BUNDLE, "entry": [{"resource": patient()}, *entries]}))
        return folder / "b.json"

    return write


RIGHT: dict[str, tuple[Writer, dict[str, Any], list[float], tuple[str, ...]]] = {
    # identity and version
    "the corrected version": (fhir(observation("o", 300, **meta("1")), observation("o", 100, status="corrected", **meta("2"))), GLUCOSE, [100], ("1",)),
    "versions out of order": (fhir(observation("o", 100, **meta("2")), observation("o", 300, **meta("1"))), GLUCOSE, [100], ("1",)),
    "version 10 after 9": (fhir(observation("o", 100, **meta("10")), observation("o", 300, **meta("9"))), GLUCOSE, [100], ("1",)),
    "lastUpdated in two zones": (
        fhir(observation("o", 100, **meta("", "2020-06-02T00:30:00+02:00")), observation("o", 300, **meta("", "2020-06-01T22:00:00Z"))), GLUCOSE, [100], ("1",)),
    "lastUpdated to the millisecond": (
        fhir(observation("o", 100, **meta("", "2020-06-02T00:30:00.002Z")), observation("o", 300, **meta("", "2020-06-02T00:30:00.001Z"))), GLUCOSE, [100], ("1",)),
    "preliminary and final, no version": (fhir(observation("o", 300, status="preliminary"), observation("o", 100)), GLUCOSE, [100], ("1",)),
    "withdrawn later": (fhir(observation("o", 300, **meta("1")), observation("o", 300, status="entered-in-error", **meta("2"))), GLUCOSE, [NAN], ("1",)),
    "cancelled without a code": (
        fhir(observation("o", 300, **meta("1")), {**observation("o", status="cancelled", **meta("2")), "code": {"text": "gone"}}), GLUCOSE, [NAN], ("1",)),
    "deleted in a history": (bundle({"resource": observation("o", 300)}, {"request": {"method": "DELETE", "url": "Observation/o"}}), GLUCOSE, [NAN], ("1",)),
    "the same twice": (fhir(observation("o", 100), observation("o", 100)), COUNT, [1], ("1",)),
    "the same twice, keys in another order": (fhir(observation("o", 100), dict(reversed(observation("o", 100).items()))), COUNT, [1], ("1",)),
    "two ids, one content": (fhir(observation("o", 100), observation("q", 100)), COUNT, [2], ("1",)),
    "moved to another patient": (fhir(patient("2"), observation("o", 100, **meta("1")), observation("o", 100, who="2", **meta("2"))), GLUCOSE, [NAN, 100], ("1", "2")),
    "a row twice": (rows(*["1,2020-06-01T10:00,LOINC:2345-7,100,mg/dL"] * 2), COUNT, [1], ("1",)),
    "a key of OMOP twice": (omop_of(measurement=[measured(), measured()]), COUNT, [1], ("1",)),
    "two keys of OMOP, one content": (omop_of(measurement=[measured(), measured(key=2)]), COUNT, [2], ("1",)),
    # drugs, files
    "the order before the drug": (fhir(drug(intent="order", medicationReference={"reference": "Medication/d1"}), MED), TAKES, [1], ("1",)),
    "a newer drug": (fhir({**MED, "code": {"coding": []}, **meta("1")}, {**MED, **meta("2")}, drug(medicationReference={"reference": "Medication/d1"})), TAKES, [1], ("1",)),
    "lines in a file called .json": (fhir(observation("o", 100), name="all.json"), GLUCOSE, [100], ("1",)),
    # releases
    "STU3: refuted": (fhir(condition(verificationStatus="refuted")), DIABETES, [0], ("1",)),
    "STU3: not taken": (fhir(drug("MedicationStatement", taken="n", medicationCodeableConcept=STATIN)), TAKES, [0], ("1",)),
    "STU3: not done": (
        fhir({"resourceType": "Procedure", "id": "p", "status": "completed", "notDone": True, "code": coded(SNOMED, "44054006"), "subject": {"reference": "Patient/1"}, "performedDateTime": "2020"}),
        DIABETES, [0], ("1",)),
    "STU3: asserted": (fhir({**condition(assertedDate="2021-02-01"), "onsetDateTime": "2019"}), DIABETES, [0], ("1",)),
    "R4: differential": (fhir(condition(verificationStatus=coded("http://x", "differential"))), DIABETES, [0], ("1",)),
    "R4: a proposal": (fhir(drug(intent="proposal", medicationCodeableConcept=STATIN)), TAKES, [0], ("1",)),
    "R4: a reflex order": (fhir(drug(intent="reflex-order", medicationCodeableConcept=STATIN)), TAKES, [1], ("1",)),
    "R5: a drug by its concept": (fhir(drug(medication={"concept": STATIN})), TAKES, [1], ("1",)),
    "R5: a drug by reference": (fhir(drug(medication={"reference": {"reference": "Medication/d1"}}), MED), TAKES, [1], ("1",)),
    "R5: adherence": (fhir(drug("MedicationStatement", medication={"concept": STATIN}, adherence={"code": coded("http://x", "not-taking")})), TAKES, [0], ("1",)),
    "R5: a stay": (
        fhir({"resourceType": "Encounter", "id": "e", "status": "completed", "class": [coded("http://x", "IMP")], "subject": {"reference": "Patient/1"}, "actualPeriod": {"start": "2020-01-01"}}),
        INPATIENT, [1], ("1",)),
    # what qualifies a value
    "about a child not yet born": (fhir(observation("o", 100, focus=[{"reference": "RelatedPerson/baby"}])), GLUCOSE, [NAN], ("1",)),
    "about the patient after all": (fhir(observation("o", 100, focus=[{"reference": "Patient/1"}])), GLUCOSE, [100], ("1",)),
    "a modifier": (fhir(observation("o", 100, modifierExtension=[{"url": "http://x/not", "valueBoolean": True}])), GLUCOSE, [NAN], ("1",)),
    # code systems
    "LOINC by https": (fhir(observation("o", 100, code=coded("https://loinc.org"))), GLUCOSE, [100], ("1",)),
    "LOINC with a slash and a version": (fhir(observation("o", 100, code=coded("http://loinc.org/|2.74"))), GLUCOSE, [100], ("1",)),
    "an edition of SNOMED": (fhir(condition(code=coded("http://snomed.info/sct/900000000000207008/version/20200131", "44054006"))), DIABETES, [1], ("1",)),
    "ICD-10-GM of DIMDI": (
        fhir(condition(code=coded("http://fhir.de/CodeSystem/dimdi/icd-10-gm", "E11.90"))), {"codes": ["ICD10GM:E11*"], "value": "ever"}, [1], ("1",)),
    # who
    "the usual number after an old one": (
        by_number(patient("p", identifier=[number("A1", use="old"), number("B2", use="usual")]), observation("o", 100, who="p")), GLUCOSE, [100], ("B2",)),
    "an old number": (by_number(patient("p", identifier=[number("A1", use="old"), number("B2")]), observation("o", 100, who="p")), GLUCOSE, [100], ("A1",)),
    "an old number that another has now": (
        by_number(
            patient("p", identifier=[number("A1", period={"end": "2019-01-01"}), number("B2")]),
            patient("q", birthDate="1960-01-01", identifier=[number("A1")]),
            observation("o", 100, who="p"), observation("r", 90, who="q"),
        ), GLUCOSE, [90], ("A1",)),
    "by an identifier instead of a reference": (
        by_number(patient("p", identifier=[number("B2")]), {**observation("o", 100), "subject": {"identifier": number("B2")}}), GLUCOSE, [100], ("B2",)),
    "a record that was replaced": (fhir(patient("2"), patient("old", **link("1")), observation("o", 100, who="old"), observation("q", 90, who="2")), GLUCOSE, [100, 90], ("1", "2")),
    "a record that replaces": (lambda d: ndjson(d / "x.ndjson", patient("1", **link("old", "replaces")), patient("old"), observation("o", 100, who="old")), GLUCOSE, [100], ("1",)),
    "a negative id": (omop_of(person=["-17,8532,1957,3,4,x,F"], measurement=[measured(person=-17)]), GLUCOSE, [100], ("-17",)),
    "an id of 19 digits": (
        omop_of(person=["5863112450987564321,8532,1957,3,4,x,F"], measurement=[measured(person=5863112450987564321)]), GLUCOSE, [100], ("5863112450987564321",)),
    # numbers
    "a unit in the cell": (glucose("5.4 mmol/L", ""), GLUCOSE, [97.284], ("1",)),
    "a laboratory's flag": (glucose("105 H"), GLUCOSE, [105], ("1",)),
    "a limit": (glucose("<10"), GLUCOSE, [10], ("1",)),
    "a limit that is missing": (glucose("<10"), {**GLUCOSE, "censored": "missing"}, [NAN], ("1",)),
    "a comparator": (fhir(observation("o", valueQuantity={"value": 10, "comparator": "<", "code": "mg/dL"})), {**GLUCOSE, "censored": "missing"}, [NAN], ("1",)),
    "an operator": (omop_of(measurement=[measured(10, operator=4171756)]), {**GLUCOSE, "censored": "missing"}, [NAN], ("1",)),
    "only the source's text": (omop_of(measurement=[measured("", source="105")]), GLUCOSE, [105], ("1",)),
    "a declared comma": (written('decimal = ","\nthousands = "."', '1,2020-06-01,LOINC:2345-7,"1.105,4",mg/dL'), GLUCOSE, [1105.4], ("1",)),
    "a code for missing": (written('missing = { value = ["-9"] }', "1,2020-06-01,LOINC:2345-7,-9,mg/dL"), GLUCOSE, [NAN], ("1",)),
    # dates
    "Windows": (
        written('separator = ";"\nencoding = "cp1252"\ndecimal = ","\ndates = "day-first"', "1;01.06.2020 10:30;LOINC:2345-7;5,4;mg/dL;Müller", ";;;;;", head="patient_id;when;code;value;unit;arzt", encoding="cp1252"),
        GLUCOSE, [5.4], ("1",)),
    "sep=;": (written('decimal = ","', "patient_id;when;code;value;unit", "1;2020-06-01;LOINC:2345-7;5,4;mg/dL", head="sep=;"), GLUCOSE, [5.4], ("1",)),
    "afternoon": (written('dates = "month-first"', "1,12/31/2020 11:30:00 PM,LOINC:2345-7,100,mg/dL"), GLUCOSE, [100], ("1",)),
    "HL7": (written('dates = "compact"', "1,20201231233000,LOINC:2345-7,100,mg/dL"), GLUCOSE, [100], ("1",)),
    "a spreadsheet's days": (written('dates = "spreadsheet"', "1,44196.5,LOINC:2345-7,100,mg/dL"), GLUCOSE, [100], ("1",)),
    "compact dates of OMOP, declared": (
        lambda d: described(omop(d, measurement=[measured(date="20200601", moment="")]) / "r.toml", '[omop]\ndatabase = "."\n[written]\ndates = "compact"\n'), GLUCOSE, [100], ("1",)),
    "tabs of Athena": (
        lambda d: described(_tabs(omop(d, measurement=[measured()])) / "r.toml", '[omop]\ndatabase = "."\n[written]\nseparator = "\\t"\n'), GLUCOSE, [100], ("1",)),
    # mappings of OMOP
    "history of something else": (omop_of(observation=["1,1,1340204,2020-01-01,,,,317009,Z82.5,0,,"]), CANCER, [0], ("1",)),
    "history of just that": (omop_of(observation=["1,1,1340204,2020-01-01,,,,4112853,Z85.3,0,,"]), CANCER, [1], ("1",)),
    "one of two concepts": (omop_of(condition_occurrence=["1,1,317576,2020-01-01,,I25.10,0"]), ANGINA, [0], ("1",)),
    "by its source concept": (omop_of(condition_occurrence=["1,1,317576,2020-01-01,,I25.110,45500001"]), ANGINA, [1], ("1",)),
    "a sister that maps to the same": (omop_of(condition_occurrence=["1,1,201826,2020-01-01,,E11.8,45500003"]), E119, [0], ("1",)),
    "no source concept": (omop_of(condition_occurrence=["1,1,201826,2020-01-01,,,0"]), E119, [1], ("1",)),
    # units
    "10E9/L": (rows("1,2020-06-01,LOINC:6690-2,5,10E9/L"), CELLS, [5], ("1",)),
    "x10^9/l": (rows("1,2020-06-01,LOINC:6690-2,5,x10^9/l"), CELLS, [5], ("1",)),
    "10⁹/L": (rows("1,2020-06-01,LOINC:6690-2,5,10⁹/L"), CELLS, [5], ("1",)),
    "both letters for micro": (rows("1,2020-06-01,LOINC:2345-7,5550.7,\u00b5mol/L", "1,2020-06-01,LOINC:2345-7,5550.7,\u03bcmol/L"), GLUCOSE, [99.999], ("1",)),
    "an area in three spellings": (
        rows("1,2020-06-01,LOINC:33914-3,60,mL/min/1.73m²", "1,2020-06-01,LOINC:33914-3,60,mL/min/1.73 m2", "1,2020-06-01,LOINC:33914-3,60,ml/min/{1.73_m2}"), EGFR, [60], ("1",)),
}  # fmt: skip


def _tabs(folder: Path) -> Path:
    for path in folder.glob("*.csv"):
        path.write_text(path.read_text().replace(",", "\t"))
    return folder


@pytest.mark.parametrize("case", RIGHT)
def test_the_right_value(case: str, tmp_path: Path) -> None:
    write, feature, want, patients = RIGHT[case]
    got, problems, _ = read(write(tmp_path), feature, patients)
    assert not problems
    assert got == pytest.approx(want, abs=2e-3, nan_ok=True)


REFUSED: dict[str, tuple[Writer, dict[str, Any], str, tuple[str, ...]]] = {
    "two contents under one id": (fhir(observation("o", 100), observation("o", 300)), GLUCOSE, "x.ndjson: line 2 and .*x.ndjson: line 3", ("1",)),
    "two signs of age that disagree": (
        fhir(observation("o", 100, **meta("1", "2020-06-02T00:00:00Z")), observation("o", 300, **meta("2", "2020-06-01T00:00:00Z"))), GLUCOSE, "nothing tells which is newer", ("1",)),
    "two rows under one key": (omop_of(measurement=[measured(), measured(300)]), GLUCOSE, "'measurement': two different rows have one measurement_id", ("1",)),
    "two people of one number": (
        by_number(patient("p", identifier=[number("A1")]), patient("q", birthDate="1960-01-01", identifier=[number("A1")])), GLUCOSE, "1 patient with more than one Patient", ("A1",)),
    "one person twice in the cohort": (fhir(patient("old", **link("1")), observation("o", 100)), GLUCOSE, "under two ids of one person", ("1", "old")),
    "links in a circle": (lambda d: ndjson(d / "x.ndjson", patient("1", **link("2")), patient("2", **link("1"))), GLUCOSE, "in a circle", ("1",)),
    "an id a spreadsheet cut": (rows("1.23E+11,2020-06-01,LOINC:2345-7,100,mg/dL"), GLUCOSE, "last digits were cut off", ("123000000000",)),
    "an id of OMOP a spreadsheet cut": (omop_of(person=["5.86311E+18,8532,1957,3,4,x,F"]), GLUCOSE, "'person_id': 1 cell with no whole number", ("5",)),
    "an undeclared comma": (glucose("5,4"), GLUCOSE, r"'value': 1 cell with a comma .* \(first at row 2\)", ("1",)),
    "a comma in a text of FHIR": (fhir(observation("o", valueString="5,4")), GLUCOSE, r"1 value written as text with a comma .*line 2", ("1",)),
    "a comma in OMOP": (omop_of(measurement=[measured('"5,4"')]), GLUCOSE, "'measurement': 1 value with a comma", ("1",)),
    "a refused limit": (glucose("<10"), {**GLUCOSE, "censored": "refuse"}, "1 value that is only a limit", ("1",)),
    "day first": (glucose("100", date="13.06.2020"), GLUCOSE, r"'when': 1 cell with a date .*perhaps day-first \(first at row 2\)", ("1",)),
    "either first": (glucose("100", date="01/06/2020"), GLUCOSE, "perhaps day-first or month-first", ("1",)),
    "month first, a 13th month": (written('dates = "month-first"', "1,13/06/2020,LOINC:2345-7,100,mg/dL"), GLUCOSE, "perhaps day-first", ("1",)),
    "a serial number": (glucose("100", date="43983"), GLUCOSE, "perhaps spreadsheet", ("1",)),
    "compact": (glucose("100", date="202006011030"), GLUCOSE, "perhaps compact", ("1",)),
    "compact dates of OMOP": (omop_of(measurement=[measured(date="20200601", moment="")]), GLUCOSE, "'measurement_date': 1 cell with a date .*perhaps compact", ("1",)),
    "words beside compact dates of OMOP": (
        omop_of(measurement=[measured(date="20200601", moment=""), *(measured(date="soon", moment="", key=key) for key in (2, 3))]), GLUCOSE, "'measurement_date': 1 cell with a date", ("1",)),
    "micrograms of FEU": (rows("1,2020-06-01,LOINC:48065-7,1,ug/mL{FEU}"), DIMER, r"does not convert to 'ug/mL\{DDU\}' \('ug/mL\{FEU\}': 1\)", ("1",)),
    "not per area": (rows("1,2020-06-01,LOINC:33914-3,60,mL/min"), EGFR, "does not convert", ("1",)),
    "a text without a unit": (fhir(observation("o", valueString="105")), GLUCOSE, "no unit: 1", ("1",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_sentence_instead_of_a_guess(case: str, tmp_path: Path) -> None:
    write, feature, says, patients = REFUSED[case]
    _, problems, _ = read(write(tmp_path), feature, patients)
    assert re.search(says, problems), problems
    for value in ("5,4", "13.06.2020", "43983", "202006011030", "1957", "5.86"):
        assert value not in problems.replace(str(tmp_path), "")


COUNTED: dict[str, tuple[Writer, dict[str, Any], str]] = {
    "an unknown system": (fhir(observation("o", 100, code=coded("http://lab.example.org"))), GLUCOSE, "unknown code system (http://lab.example.org)"),
    "a system that is no URI": (fhir(observation("o", 100, code=coded("Jane Doe"))), GLUCOSE, "unknown code system (no URI)"),
    "a range": (fhir(observation("o", valueRange={"low": {"value": 90}, "high": {"value": 110}})), GLUCOSE, "a range"),
    "no date": (fhir(observation("o", 100, effectiveDateTime="some day")), GLUCOSE, "no date"),
    "a remark": (glucose("haemolysed"), GLUCOSE, "no number"),
    "a grade": (glucose("++"), GLUCOSE, "a grade such as ++"),
    "two units": (glucose("5.4 mmol/L"), GLUCOSE, "two units"),
    "impossible": (fhir(observation("o", 1e9), observation("q", 100, effectiveDateTime="2020-05-01T10:00:00Z")), GLUCOSE, "outside the possible values"),
    "a modifier": (fhir(observation("o", 100, modifierExtension=[{"url": "http://x"}])), GLUCOSE, "an extension that changes its meaning"),
    "no zone": (fhir(observation("o", 100, effectiveDateTime="2020-12-31T23:30:00Z")), GLUCOSE, "an offset, and no time zone to show it in"),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTED)
def test_what_is_lost_is_counted_with_its_reason_and_told(case: str, tmp_path: Path) -> None:
    write, feature, reason = COUNTED[case]
    _, _, block = read(write(tmp_path), feature)
    assert block.uses["x"].lost == {reason: 1}
    assert any("values lost" in line and reason in line for line in block.warnings)
    assert not any("Jane" in line for line in block.warnings)


def test_what_is_passed_over_is_not_lost(tmp_path: Path) -> None:
    events = [
        observation("a", 100, **meta("1")), observation("a", 90, **meta("2")), observation("a", 90, **meta("2")),
        observation("b", status="cancelled"), observation("c", 80, effectiveDateTime="2022-01-01"), observation("d"),
    ]  # fmt: skip
    got, problems, block = read(fhir(*events)(tmp_path), GLUCOSE)
    assert got == [90]
    assert not problems
    use = block.uses["x"]
    assert (use.used, use.lost, use.share) == (1, {}, 0)
    assert use.passed == {
        "an older version": 1,
        "the same record again": 1,
        "what did not happen": 1,
        "after the index date": 1,
        "no value": 1,
    }


@pytest.mark.parametrize(
    ("resource", "named"),
    [
        (condition(verificationStatus="confirmed"), "STU3"),
        (drug(medication={"concept": STATIN}), "R5"),
        ({**drug(medicationCodeableConcept=STATIN), "resourceType": "MedicationOrder"}, "DSTU2"),
    ],
)
def test_other_releases_are_named(resource: dict[str, Any], named: str, tmp_path: Path) -> None:
    _, _, block = read(fhir(resource)(tmp_path), TAKES)
    assert any(f"1 record in the shape of FHIR {named}" in line for line in block.warnings)
    _, _, block = read(fhir(condition())(tmp_path), TAKES)
    assert not any("in the shape of" in line for line in block.warnings)


def test_files_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    ndjson(folder / "Patient_1.ndjson", patient(), patient("2"), patient("3"))
    ndjson(folder / "MedicationRequest_1.ndjson", drug(medicationReference={"reference": "Medication/d1"}))
    ndjson(folder / "Medication_1.ndjson", MED)
    (folder / "more.json").write_text(json.dumps([observation("o", 100)]))
    ndjson(folder / "part-0", observation("q", 90, who="2"))
    (folder / "o.ndjson.gzip").write_bytes(gzip.compress(json.dumps(observation("r", 80, who="3")).encode()))
    (folder / "readme.txt").write_text("about this export")
    got, problems, block = read(folder, GLUCOSE, ("1", "2", "3"))
    assert (got, problems) == ([100, 90, 80], "")
    assert read(folder, TAKES, ("1", "2"))[0] == [1, 0]
    assert block.counts["files that hold no FHIR"] == 1
    assert any("1 file holding no FHIR in JSON passed over (.txt: 1)" in line for line in block.warnings)


def test_two_servers_with_equal_ids(tmp_path: Path) -> None:
    for server, birth in (("a", "1957-03-04"), ("b", "1960-01-01")):
        entries = [
            {"fullUrl": f"http://{server}/fhir/Patient/1", "resource": patient(birthDate=birth, **meta("", f"2020-01-0{1 + (server == 'b')}T00:00:00Z"))},
            {"fullUrl": f"http://{server}/fhir/Observation/1", "resource": observation("1", 100)},
        ]  # fmt: skip
        (tmp_path / f"{server}.json").write_text(json.dumps({**BUNDLE, "entry": entries}))
    assert "exports of two servers belong into two sources" in read(tmp_path, GLUCOSE)[1]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_an_instant_does_not_depend_on_where_the_process_thinks_it_is(
    zone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23:30 by UTC is half past midnight in Berlin, on the index day."""
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        frame = pd.DataFrame({"patient_id": ["1"], "when": pd.to_datetime(["2020-12-31T23:30:00Z"]), "value": [100.0]})
        frame.assign(code="LOINC:2345-7", unit="mg/dL").to_parquet(tmp_path / "e.parquet")
        tables = described(tmp_path / "t.toml", 'timezone = "Europe/Berlin"\n[[tables]]\nfile = "e.parquet"\n')
        database = described(tmp_path / "o.toml", 'timezone = "Europe/Berlin"\n[omop]\ndatabase = "o.duckdb"\n')
        _zoned(tmp_path / "o.duckdb")
        for source in (tables, database):
            assert read(source, GLUCOSE)[0] == pytest.approx([NAN], nan_ok=True)
            assert read(source, GLUCOSE, when="2021-01-01T00:30:01")[0] == [100]
    finally:
        monkeypatch.undo()
        time.tzset()


def _zoned(path: Path) -> None:
    """Write an OMOP database whose moments have a time zone."""
    import duckdb
    from worlds import Event, World, write_omop

    world = World(
        {"1": ("1957-03-04", "female")},
        [Event("1", "2020-12-31T12:00:00", "measurement", "LOINC:2345-7", 100.0, "mg/dL")],
    )
    write_omop(world, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE measurement DROP COLUMN measurement_datetime")
        connection.execute("ALTER TABLE measurement ADD COLUMN measurement_datetime TIMESTAMPTZ")
        connection.execute("UPDATE measurement SET measurement_datetime = '2020-12-31 23:30:00+00'")


def test_ids_of_parquet_keep_their_digits_beside_an_empty_cell(tmp_path: Path) -> None:
    ids = pd.array([5863112450987564321, None], dtype="Int64")
    frame = pd.DataFrame(
        {"patient_id": ids, "when": "2020-06-01", "code": "LOINC:2345-7", "value": 100.0, "unit": "mg/dL"}
    )
    frame.to_parquet(tmp_path / "e.parquet")
    assert read(tmp_path / "e.parquet", GLUCOSE, ("5863112450987564321",))[0] == [100]
    frame["patient_id"] = [5863112450987564321.0, 1.0]
    frame.to_parquet(tmp_path / "e.parquet")
    assert "last digits were cut off" in read(tmp_path / "e.parquet", GLUCOSE)[1]


def test_a_spreadsheet(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([])
    sheet.append(["patient_id", "when", "code", "value", "unit"])
    sheet.append([42, datetime(2020, 6, 1), "LOINC:2345-7", 100.0, "mg/dL"])
    sheet["A3"].number_format = "00000"
    book.save(tmp_path / "e.xlsx")
    assert read(tmp_path / "e.xlsx", GLUCOSE, ("00042",))[0] == [100]
    sheet["D3"] = "=10*10"
    book.save(tmp_path / "e.xlsx")
    assert "a formula was never computed (cell D3)" in read(tmp_path / "e.xlsx", GLUCOSE, ("00042",))[1]
    sheet["D3"] = 100
    book.create_sheet("second").append(["x"])
    book.save(tmp_path / "e.xlsx")
    assert "has 2 filled sheets" in read(tmp_path / "e.xlsx", GLUCOSE, ("00042",))[1]


def test_notes_count_once(tmp_path: Path) -> None:
    from readings import read_notes
    from worlds import dates

    from pmfed.cohort.tables import Problems
    from pmfed.modality.ehr import Notes

    head = "patient_id,when,text"
    path = table(tmp_path / "n.csv", *["1,2020-06-01,fever fever"] * 2, "1,2020-06-02,cough", head=head)
    problems = Problems("x")
    block = read_notes(
        Notes(source="n", vocabulary={"fever": 1.0, "cough": 1.0}), path, ["1"], dates("2021-01-01"), problems
    )
    problems.raise_any()
    assert block.inputs[0].tolist() == pytest.approx([1 / 5**0.5, 2 / 5**0.5])


def test_monthly_exports_that_overlap(tmp_path: Path) -> None:
    row, other = "1,2020-06-01T10:00,LOINC:2345-7,100,mg/dL", "1,2020-06-02T10:00,LOINC:2345-7,90,mg/dL"
    table(tmp_path / "june.csv", row, other)
    table(tmp_path / "july.csv", other)
    text = '[[tables]]\nfile = "june.csv"\n[[tables]]\nfile = "july.csv"\n'
    assert read(described(tmp_path / "r.toml", text), COUNT)[0] == [2]


def test_tables_that_are_not_read_are_told(tmp_path: Path) -> None:
    table(tmp_path / "events.csv", "1,2020-06-01T10:00,LOINC:2345-7,100,mg/dL")
    table(tmp_path / "events_2021.csv", "1,2020-07-01T10:00,LOINC:2345-7,90,mg/dL")
    got, _, block = read(tmp_path, COUNT)
    assert got == [1]
    assert any("1 table beside events, persons and notes not read" in line for line in block.warnings)
    table(tmp_path / "events.tsv", "1")
    assert "two of its tables have one name" in read(tmp_path, COUNT)[1]


def test_when_it_was_entered_may_need_the_zone_too(tmp_path: Path) -> None:
    entered = observation("o", 100, effectiveDateTime="2020-06-01", issued="2020-12-31T23:30:00Z")
    _, _, block = read(fhir(entered)(tmp_path), GLUCOSE)
    assert block.uses["x"].lost == {"an offset, and no time zone to show it in": 1}

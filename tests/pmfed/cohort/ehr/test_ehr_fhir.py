"""FHIR: exports as they are, with dangling references, cut lines, and what never happened."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readings import read_events
from worlds import PEOPLE_DATES, SMALL, dates, fhir_resources, write_ndjson

import pmfed.cohort.ehr.exports as exports
from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import NO_ZONE
from pmfed.cohort.ehr import open_source
from pmfed.cohort.ehr.resources import KINDS, target, value
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import Events

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
PATIENT = {"resourceType": "Patient", "id": "p", "birthDate": "1950-01-01", "gender": "female"}
INDEX = dates("2020-02-01")


def observation(loinc: str, value: Any = None, unit: str = "mg/dL", **rest: Any) -> dict[str, Any]:
    out: dict[str, Any] = {
        "resourceType": "Observation", "status": "final", "subject": {"reference": "Patient/p"},
        "code": {"coding": [{"system": LOINC, "code": loinc}]}, "effectiveDateTime": "2020-01-01T10:00:00Z",
    }  # fmt: skip
    if value is not None:
        out["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return out | rest


def feature(code: str = "LOINC:1", **rest: Any) -> dict[str, Any]:
    if rest.get("value") in ("ever", "count"):
        return {"codes": [code], **({"maximum": 9, "mean": 0, "scale": 1} if rest["value"] == "count" else {}), **rest}
    return {
        "codes": [code],
        "value": "last",
        "unit": "mg/dL",
        "minimum": 0,
        "maximum": 99,
        "mean": 0,
        "scale": 1,
        **rest,
    }


def write(folder: Path, *resources: Any, name: str = "all.ndjson") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in resources)
    (folder / name).write_text(text)
    return folder


def read(source: Path, features: dict[str, Any], patients: tuple[str, ...] = ("p",), when: Any = INDEX) -> Block:
    problems = Problems("north")
    spec = Events.model_validate({"source": "x", "features": features})
    block = read_events(spec, source, patients, when, problems)
    problems.raise_any()
    return block


def test_components_of_a_blood_pressure(tmp_path: Path) -> None:
    parts = [
        {
            "code": {"coding": [{"system": LOINC, "code": code}]},
            "valueQuantity": {"value": value, "code": "mm[Hg]", "system": UCUM},
        }
        for code, value in (("8480-6", 120), ("8462-4", 80))
    ]
    block = read(
        write(tmp_path / "x", PATIENT, observation("85354-9", component=parts)),
        {
            "panel": feature("LOINC:85354-9", value="count"),
            "s": feature("LOINC:8480-6", unit="mm[Hg]", maximum=300),
            "d": feature("LOINC:8462-4", unit="kPa"),
        },
    )
    assert block.inputs[0].tolist() == pytest.approx([80 * 0.133322387, 1, 120])


def test_answers_integers_and_booleans(tmp_path: Path) -> None:
    source = write(
        tmp_path / "x",
        PATIENT,
        observation("1", valueCodeableConcept={"coding": [{"system": SNOMED, "code": "7"}, {"display": "Yes, daily"}]}),
        observation("2", valueInteger=14),
        observation("3", valueBoolean=True),
        observation("4", 5, comparator="<"),
    )
    block = read(
        source,
        {
            "a": feature(value="ever", answers=["SNOMED:7"]),
            "b": feature(value="ever", answers=["yes, daily"]),
            "c": feature(value="ever", answers=["SNOMED:8", "no"]),
            "d": feature("LOINC:2", unit="1"),
            "e": feature("LOINC:3", value="ever", answers=["true"]),
            "f": feature("LOINC:4"),
        },
    )
    assert block.inputs[0].tolist() == [1, 1, 0, 14, 1, 5]


@pytest.mark.parametrize(
    ("rest", "counted"),
    [
        ({"status": "entered-in-error"}, "records of what did not happen"),
        ({"status": "cancelled"}, "records of what did not happen"),
        ({"effectiveDateTime": None}, "events without a date"),
        ({"effectiveDateTime": "some day"}, "events without a date"),
        ({"code": {"text": "potassium"}}, "events without a code of a known system"),
        ({"code": {"coding": [{"system": "http://local", "code": "1"}]}}, "events without a code of a known system"),
        ({"subject": {"reference": "Patient/nobody"}}, "references to patients the export does not hold"),
        ({"subject": {"reference": "urn:uuid:1"}}, "references to patients the export does not hold"),
        ({"subject": {"reference": "#p"}}, "references to patients the export does not hold"),
        ({"subject": None}, "references to patients the export does not hold"),
    ],
)
def test_what_cannot_be_used_is_counted(rest: dict[str, Any], counted: str, tmp_path: Path) -> None:
    source = write(tmp_path / "x", PATIENT, observation("1", 3.0), observation("1", 50.0, **rest))
    block = read(source, {"x": feature(value="last"), "n": feature(value="count")})
    assert block.inputs[0].tolist() == [1, 3]
    assert block.counts[counted] == 1
    if counted.startswith("references"):
        assert any("1 record referring to a patient whom the export does not hold" in line for line in block.warnings)
        assert not any("nobody" in line.split("export")[0] for line in block.warnings)


def test_what_did_not_happen_in_other_resources(tmp_path: Path) -> None:
    subject, code = {"reference": "Patient/p"}, {"coding": [{"system": SNOMED, "code": "1"}]}
    wrong = [
        {
            "resourceType": "Condition",
            "verificationStatus": {"coding": [{"code": "refuted"}]},
            "onsetDateTime": "2019",
            "code": code,
        },
        {"resourceType": "Procedure", "status": "not-done", "performedDateTime": "2019", "code": code},
        {
            "resourceType": "MedicationRequest",
            "doNotPerform": True,
            "authoredOn": "2019",
            "medicationCodeableConcept": code,
        },
        {
            "resourceType": "MedicationStatement",
            "status": "not-taken",
            "effectiveDateTime": "2019",
            "medicationCodeableConcept": code,
        },
        {"resourceType": "Encounter", "status": "planned", "period": {"start": "2019"}, "type": [code]},
        {
            "resourceType": "Immunization",
            "status": "not-done",
            "occurrenceDateTime": "2019",
            "vaccineCode": code,
            "patient": subject,
        },
    ]
    source = write(tmp_path / "x", PATIENT, *({"subject": subject, **one} for one in wrong))
    block = read(source, {"x": feature("SNOMED:1", value="ever")})
    assert block.inputs[0, 0] == 0
    assert block.counts["records of what did not happen"] == len(wrong)
    right = [
        {key: value for key, value in one.items() if key not in ("status", "verificationStatus", "doNotPerform")}
        for one in wrong
    ]
    source = write(tmp_path / "y", PATIENT, *({"subject": subject, **one} for one in right))
    assert read(source, {"x": feature("SNOMED:1", value="count")}).inputs[0, 0] == len(right)


def test_dates_are_taken_at_their_latest_and_when_they_were_entered(tmp_path: Path) -> None:
    subject, code = {"reference": "Patient/p"}, {"coding": [{"system": SNOMED, "code": "1"}]}

    def condition(**rest: Any) -> dict[str, Any]:
        return {"resourceType": "Condition", "subject": subject, "code": code, **rest}

    def found(**rest: Any) -> float:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return float(
            read(write(folder, PATIENT, condition(**rest)), {"x": feature("SNOMED:1", value="ever")}).inputs[0, 0]
        )

    assert found(onsetDateTime="2019") == 1
    assert found(onsetDateTime="2020") == 0  # may have been December
    assert found(onsetDateTime="2020-02") == 0
    assert found(onsetDateTime="2020-01") == 1
    assert found(onsetDateTime="2020-01-31") == 1
    assert found(onsetDateTime="2020-02-01") == 0
    assert found(onsetDateTime="2010", recordedDate="2020-02-03") == 0  # entered after the index date
    assert found(onsetDateTime="2010", recordedDate="2020-01-30") == 1
    assert found(recordedDate="2020-01-30") == 1
    assert found(onsetPeriod={"start": "2019-01-01"}) == 1
    assert found(onsetAge={"value": 3}) == 0
    value = observation("1", 3.0, effectiveDateTime=None, effectivePeriod={"start": "2020-01-01", "end": "2020-02-02"})
    assert read(write(tmp_path / "o", PATIENT, value), {"x": feature(value="ever")}).inputs[0, 0] == 0
    value = observation("1", 3.0, issued="2020-02-02T00:00:00Z")
    assert read(write(tmp_path / "i", PATIENT, value), {"x": feature(value="ever")}).inputs[0, 0] == 0


def test_drugs_by_reference(tmp_path: Path) -> None:
    code = {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "5"}]}
    request = {"resourceType": "MedicationRequest", "subject": {"reference": "http://host/fhir/Patient/p/_history/3"},
               "authoredOn": "2019-01-01"}  # fmt: skip
    source = write(
        tmp_path / "x",
        {**request, "medicationReference": {"reference": "Medication/m"}},
        {**request, "medicationReference": {"reference": "#c"}, "contained": [{"id": "c", "code": code}]},
        {**request, "medicationReference": {"reference": "Medication/lost"}},
        name="MedicationRequest.ndjson",
    )
    write(source, PATIENT, name="Patient.ndjson")
    write(source, {"resourceType": "Medication", "id": "m", "code": code}, name="Medication.000.ndjson")
    block = read(source, {"x": feature("RxNorm:5", value="count")})
    assert block.inputs[0, 0] == 2
    assert block.counts["references to drugs the export does not hold"] == 1


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Patient/1", "1"), ("https://a/b/Patient/1", "1"), ("Patient/1/_history/2", "1"), ("urn:uuid:u", "7"),
        ("https://a/X", "8"), ("Group/1", ""), ("Patient", ""), ("", ""), ("/", ""), ("#1", ""), ("Patient?identifier=x|1", ""),
    ],
)  # fmt: skip
def test_references(written: str, found: str) -> None:
    assert target(written, "Patient", {"urn:uuid:u": "Patient/7", "https://a/X": "Patient/8"}) == found


def test_a_line_cut_in_half_is_named_and_not_quoted(tmp_path: Path) -> None:
    source = write(
        tmp_path / "x",
        PATIENT,
        observation("1", 3.0),
        json.dumps(observation("1", 77.7))[:-20],
        name="Observation.ndjson",
    )
    with pytest.raises(DataError, match=r"Observation.ndjson: line 3: is not whole JSON") as caught:
        read(source, {"x": feature()})
    assert "77.7" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b'{"a": NaN}', "is not whole JSON"),
        (b"[" * 100_000, "is not whole JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is not whole JSON"),
        (b"\x1f\x8b damaged", "cannot be read"),
    ],
)
def test_a_file_that_is_no_json_is_not_named_after_its_patient(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ("Jane_Doe.json.gz" if content[0] == 0x1F else "Jane_Doe.json")).write_bytes(content)
    with pytest.raises(DataError, match=f"x: file 1 of 1.*{says}") as caught:
        read(tmp_path / "x", {"x": feature()})
    assert "Jane" not in str(caught.value)


def test_a_line_or_bundle_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "LONGEST_LINE", 1000)
    monkeypatch.setattr(exports, "LARGEST_BUNDLE", 1000)
    with pytest.raises(DataError, match="line 2 is longer than"):
        read(write(tmp_path / "x", PATIENT, " " * 2000), {"x": feature()})
    with pytest.raises(DataError, match="is larger than"):
        read(write(tmp_path / "y", " " * 2000, name="a.json"), {"x": feature()})
    (tmp_path / "z").mkdir()
    with gzip.open(tmp_path / "z" / "a.json.gz", "wb") as file:
        file.write(b" " * 10_000_000)  # some ten thousand bytes on the disk
    with pytest.raises(DataError, match="is larger than"):
        read(tmp_path / "z", {"x": feature()})


def test_a_compressed_export_cut_off(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    whole = gzip.compress((json.dumps(PATIENT) + "\n").encode() * 1000)
    (tmp_path / "x" / "Patient.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"Patient\.ndjson\.gz: cannot be read"):
        read(tmp_path / "x", {"x": feature()})


def test_a_link_out_of_the_export_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "x", PATIENT)
    write(tmp_path, observation("1", 3.0), name="elsewhere.ndjson")
    (source / "Observation.ndjson").symlink_to(tmp_path / "elsewhere.ndjson")
    with pytest.raises(DataError, match="1 of its files are links out of the folder"):
        read(source, {"x": feature()})


def test_two_patients_with_one_id_stop_reading_and_one_written_twice_does_not(tmp_path: Path) -> None:
    again = write(tmp_path / "x", PATIENT, PATIENT, observation("1", 3.0))
    assert read(again, {"x": feature()}).inputs[0, 0] == 3
    other = write(tmp_path / "y", PATIENT, {**PATIENT, "birthDate": "1960-01-01"})
    with pytest.raises(DataError, match="1 patient with more than one Patient resource that differ"):
        read(other, {"x": feature()})


def test_a_patient_may_come_after_what_refers_to_it(tmp_path: Path) -> None:
    lines = [
        observation("1", 3.0),
        {"resourceType": "Bundle", "entry": [{"fullUrl": "urn:uuid:9", "resource": PATIENT}]},
    ]
    block = read(write(tmp_path / "x", *lines), {"x": feature()})
    assert block.inputs[0, 0] == 3
    assert "references to patients the export does not hold" not in block.counts


def test_with_identifiers_too(tmp_path: Path) -> None:
    patient = {**PATIENT, "identifier": [{"system": "http://mrn", "value": "77"}]}
    source = write(tmp_path / "x", observation("1", 3.0), patient, {"resourceType": "Patient", "id": "q"})
    (tmp_path / "ehr.toml").write_text(f'[fhir]\nfiles = "{source.name}"\nidentifier = "http://mrn"\n')
    block = read(tmp_path / "ehr.toml", {"x": feature()}, ("77",))
    assert block.inputs[0, 0] == 3
    assert block.counts["patients without an identifier of the site's system"] == 1
    write(source, {**patient, "id": "r", "gender": "male"}, name="b.ndjson")
    with pytest.raises(DataError, match="1 patient with more than one Patient resource that differ"):
        read(tmp_path / "ehr.toml", {"x": feature()}, ("77",))


@pytest.mark.parametrize(
    ("resource", "number", "unit"),
    [
        ({"valueQuantity": {"value": 3, "unit": "mg", "code": "ug", "system": UCUM}}, 3.0, "ug"),
        ({"valueQuantity": {"value": 3.5, "unit": "mg", "code": "X9", "system": "http://else"}}, 3.5, "mg"),
        ({"valueQuantity": {"value": 3.5, "code": "mg"}}, 3.5, "mg"),
        ({"valueQuantity": {"value": True, "unit": "mg"}}, None, ""),
        ({"valueQuantity": {"value": "3", "unit": "mg"}}, 3.0, "mg"),
        ({"valueQuantity": {"value": "three", "unit": "mg"}}, None, "mg"),
        ({"valueQuantity": {"value": [3], "unit": "mg"}}, None, ""),
        ({"valueQuantity": {"value": 10**400, "unit": "mg"}}, None, ""),
        ({"valueQuantity": {"value": 1e400, "unit": "mg"}}, None, ""),
        ({"valueQuantity": [3]}, None, ""),
        ({"valueInteger": 3}, 3.0, "1"),
        ({"valueInteger": True}, None, ""),
        ([], None, ""),
    ],
)
def test_values(resource: Any, number: float | None, unit: str) -> None:
    found = value(resource)
    assert (None if math.isnan(found.number) else found.number, found.unit) == (number, unit)


def test_files_of_other_types_are_not_read_and_files_of_other_names_are(tmp_path: Path) -> None:
    source = write(tmp_path / "x", PATIENT, name="Patient.ndjson")
    claim = {"resourceType": "Claim", "patient": {"reference": "Patient/p"}}
    write(source, claim, "{cut", name="Claim.ndjson")
    write(source, observation("1", 3.0), name="1.Observation.ndjson")
    assert read(source, {"x": feature()}).inputs[0, 0] == 3
    write(source, observation("1", 4.0, effectiveDateTime="2020-01-05"), name="Claim.001.ndjson")  # named wrongly
    assert read(source, {"x": feature()}).inputs[0, 0] == 4


def test_local_systems_and_the_hospitals_clock(tmp_path: Path) -> None:
    local = {"coding": [{"system": "http://local", "code": "GLU"}]}
    write(tmp_path / "x", PATIENT, observation("1", 3.0, code=local, effectiveDateTime="2020-01-31T23:30:00Z"))
    (tmp_path / "ehr.toml").write_text('[fhir]\nfiles = "x"\n[systems]\n"http://local" = "LOCAL"\n')
    block = read(tmp_path / "ehr.toml", {"x": feature("LOCAL:GLU", indicator=True)})
    assert block.inputs[0].tolist() == [0, 1]  # in some zone it was the index date already
    assert any("only the hospital's time zone tells" in line for line in block.warnings)
    assert block.uses["x"].lost == {NO_ZONE: 1}
    text = (tmp_path / "ehr.toml").read_text()
    (tmp_path / "ehr.toml").write_text('timezone = "UTC"\n' + text)
    assert read(tmp_path / "ehr.toml", {"x": feature("LOCAL:GLU")}).inputs[0, 0] == 3
    (tmp_path / "ehr.toml").write_text('timezone = "Europe/Berlin"\n' + text)  # where it was 0:30 of the index date
    assert read(tmp_path / "ehr.toml", {"x": feature("LOCAL:GLU", indicator=True)}).inputs[0].tolist() == [0, 1]
    (tmp_path / "ehr.toml").write_text('timezone = "Mars/Olympus"\n' + text)
    with pytest.raises(DataError, match="is no time zone"):
        open_source(tmp_path / "ehr.toml")


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**400), 10**400),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
PARTS = ["code", "subject", "status", "component", "contained", "effectiveDateTime", "period", "type", "class", "valueQuantity",
         "valueCodeableConcept", "valueInteger", "identifier", "medicationReference", "medicationCodeableConcept", "birthDate",
         "deceasedDateTime", "gender", "id", "verificationStatus", "onsetDateTime", "entry", "content"]  # fmt: skip
WHOLE = [*(one for found in fhir_resources(SMALL).values() for one in found), PATIENT]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_resource_breaks_the_reader(tmp_path: Path, data: st.DataObject) -> None:
    """Parts of resources are replaced by anything: reading ends well, or with a sentence."""
    resources = []
    for _ in range(data.draw(st.integers(1, 3))):
        one = dict(data.draw(st.sampled_from(WHOLE)))
        for part in data.draw(st.lists(st.sampled_from(PARTS), max_size=4)):
            one[part] = data.draw(ANYTHING)
        one["resourceType"] = data.draw(
            st.sampled_from(["Patient", "Medication", "Bundle", "DocumentReference", *KINDS])
        )
        resources.append(one)
    source = write(tmp_path / "x", PATIENT, {"resourceType": "Patient", "id": "1"}, *resources, name="a.ndjson")
    features = {
        "a": feature("LOINC:2160-0", bad_units="skip"),
        "b": feature("VISIT:*", value="count"),
        "c": feature(value="ever", answers=["x"]),
    }
    with contextlib.suppress(DataError):  # two patients with one id, impossible values
        block = read(source, features, ("p", "1"), dates("2020-02-01", "2020-02-01"))
        assert block.inputs.shape == (2, 3)


def test_a_whole_export_as_one_file(tmp_path: Path) -> None:
    folder = write_ndjson(SMALL, tmp_path / "x")
    text = "".join(path.read_text() for path in sorted(folder.iterdir()))
    with gzip.open(tmp_path / "all.ndjson.gz", "wt") as file:
        file.write("\ufeff" + text + "\n\n")
    assert open_source(tmp_path / "all.ndjson.gz").patients() == ["1", "2", "3"]
    block = read(tmp_path / "all.ndjson.gz", {"x": feature("VISIT:*", value="count")}, ("1", "2", "3"), PEOPLE_DATES)
    assert block.inputs[:, 0].tolist() == [2, 0, 1]

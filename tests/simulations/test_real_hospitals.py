"""Virtual hospitals in real formats: the readers return what the model put in, whatever the hospital wrote it as."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pydicom
import pysam
import pytest
from numpy.typing import NDArray
from pmfed_client.site.site import read_sites
from pmfed_simulations.hospitals.dicom import BATCH, render
from pmfed_simulations.hospitals.fhir import identifiers
from pmfed_simulations.hospitals.history import FEWEST, KINDS, Hospital, draw_hospitals
from pmfed_simulations.hospitals.model import FREQUENCIES, PANEL
from pmfed_simulations.hospitals.omop import TABLES
from pmfed_simulations.hospitals.real import write_real_hospitals
from pmfed_simulations.hospitals.truth import Truth
from readings import read_dicom, read_events, read_panel

from pmfed.cohort import read_cohort
from pmfed.cohort.ehr import open_source, read_consent
from pmfed.cohort.ehr.codes import Matcher
from pmfed.cohort.ehr.events import Asked
from pmfed.cohort.ehr.units import conversion
from pmfed.cohort.tables import Problems
from pmfed.modality import Dicom, Events, Panel
from pmfed.modality.genomics import LENGTHS
from pmfed.study import Study

SEED = 3
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    out = tmp_path_factory.mktemp("real") / "sites"
    return out, write_real_hospitals(out, patients=FEWEST, seed=SEED)


@pytest.fixture(scope="module")
def hospitals() -> list[Hospital]:
    """Return the model's own values; nothing of them is read from files."""
    return draw_hospitals(5, FEWEST, SEED)


@pytest.fixture(scope="module")
def study(made: tuple[Path, Truth]) -> Study:
    return Study.read(made[0] / "study.toml")


def everybody(hospital: Hospital) -> tuple[list[str], NDArray[np.datetime64]]:
    return hospital.people["id"].tolist(), hospital.people["index"].astype("datetime64[s]")


# --- health records


def of_record(hospital: Hospital, patient: int, dated: bool) -> dict[str, list[tuple[float, float]]]:
    """Return a patient's values before the index date, (days before it, value) by name; found patient by patient."""
    found: dict[str, list[tuple[float, float]]] = {}
    index = hospital.people["index"][patient].astype("datetime64[s]")
    for visit in np.flatnonzero(hospital.visits.owner == patient):
        start = hospital.visits.start[visit]
        if dated:  # a date without a time counts as its last second
            start = start.astype("datetime64[D]").astype("datetime64[s]") + np.timedelta64(86_399, "s")
        if start < index:
            for event in np.flatnonzero(hospital.events.visit == visit):
                ago = (index - start) / np.timedelta64(86_400, "s")
                found.setdefault(str(hospital.events.what[event]), []).append((ago, hospital.events.value[event]))
    return found


def slope(values: list[tuple[float, float]]) -> float:
    ago, value = np.array(values).T
    return float(np.polyfit(-ago / 1096, value, 1)[0]) if len(value) > 1 else np.nan


def expected_features(hospital: Hospital) -> dict[str, Floats]:
    people = hospital.people
    records = [of_record(hospital, one, hospital.habits.records.dated) for one in range(hospital.size)]
    out: dict[str, Floats] = {"age": people["age"], "sex=male": people["male"], "sex=female": 1 - people["male"]}
    for name in ("bmi", "creatinine", "hba1c", "ldl", "systolic"):
        out[name] = np.array([np.mean([value for _, value in record.get(name, [(0, np.nan)])]) for record in records])
    out["creatinine-change"] = np.array(
        [slope(record.get("creatinine", [])) if record.get("creatinine") else np.nan for record in records]
    )
    for name in ("diabetes", "hypertension", "statin"):
        out[name] = np.array([name in record for record in records], dtype=np.float64)
    for name, answer in (("smoking-former", 1), ("smoking-current", 2)):
        said = [{value for _, value in record.get("smoking", [])} for record in records]
        out[name] = np.array([answer in one for one in said], dtype=np.float64)
    out["smoking-known"] = np.array(["smoking" in record for record in records], dtype=np.float64)
    return out


@pytest.mark.parametrize("number", range(5))
def test_records_read_back_are_the_models(
    made: tuple[Path, Truth], hospitals: list[Hospital], study: Study, number: int
) -> None:
    """OMOP and FHIR, mg/dL and mmol/L, ICD and SNOMED, dates with and without times: the same features."""
    hospital, spec = hospitals[number], study.modalities["record"]
    assert isinstance(spec, Events)
    problems = Problems(hospital.name)
    block = read_events(spec, made[0] / hospital.name / "record.toml", *everybody(hospital), problems)
    problems.raise_any()
    assert block.present.all()
    assert not block.warnings
    expected, people = expected_features(hospital), hospital.people
    numbers = {key: one for key, one, _ in spec.numbers}
    for column, name in enumerate(spec.names):
        known = np.isfinite(expected[name])
        wanted = expected[name]
        if name in numbers:
            assert numbers[name].mean is not None
            assert numbers[name].scale is not None
            wanted = np.where(
                known,
                (np.clip(wanted, numbers[name].minimum, numbers[name].maximum) - numbers[name].mean)
                / numbers[name].scale,
                0,
            )
        tolerance = 0.03 if name == "creatinine-change" else 1e-4  # of two values hours apart nobody knows the change
        np.testing.assert_allclose(block.inputs[:, column], wanted, atol=tolerance, err_msg=name)
        if name in block.missing and name != "creatinine-change":
            assert block.missing[name] == (~known).sum(), name
    # Diagnoses and treatment as the law has them: recorded for all whom they concern, and not from later.
    for name in ("diabetes", "hypertension", "statin"):
        assert (expected[name] == people[name]).all()
    assert (expected["smoking-known"] == people["asked"]).all()


@pytest.mark.parametrize("number", range(5))
def test_every_measurement_is_there_at_its_time(
    made: tuple[Path, Truth], hospitals: list[Hospital], study: Study, number: int
) -> None:
    """Of all patients, before and after the index date, by the hospital's own clock."""
    hospital, spec = hospitals[number], study.modalities["record"]
    assert isinstance(spec, Events)
    opened = open_source(made[0] / hospital.name / "record.toml")
    ids, visits, events = hospital.people["id"].tolist(), hospital.visits, hospital.events
    for name in ("ldl", "systolic"):
        found = []
        for chunk in opened.events(Matcher([spec.features[name]]), Asked(tuple(ids))):
            units = [opened.spellings.get(unit, unit) for unit in chunk.units]
            lines = [conversion(unit, spec.features[name]) for unit in units]
            for patient, when, value, unit in zip(chunk.patient, chunk.when, chunk.value, chunk.unit, strict=True):
                line = lines[unit]
                assert line is not None
                found.append((patient, when, round(float(value * line[0] + line[1]), 6)))
        here = events.what == name
        start = visits.start[events.visit[here]]
        if hospital.habits.records.dated:  # a date without a time counts as its last second
            start = start.astype("datetime64[D]").astype("datetime64[s]") + np.timedelta64(86_399, "s")
        owner, value = visits.owner[events.visit[here]], events.value[here].round(6)
        assert sorted(found) == sorted(zip(owner, start, value, strict=True))


def test_hospitals_write_different_units(made: tuple[Path, Truth]) -> None:
    def omop(number: int) -> Counter[tuple[str, int]]:
        path = made[0] / f"hospital-{number}" / "omop.duckdb"
        with duckdb.connect(str(path), read_only=True) as database:
            said = "SELECT unit_source_value, unit_concept_id, count(*) FROM measurement GROUP BY ALL"
            return Counter({(unit, concept): times for unit, concept, times in database.execute(said).fetchall()})

    def fhir(number: int) -> set[str]:
        lines = (made[0] / f"hospital-{number}" / "fhir" / "Observation.ndjson").read_text().splitlines()
        return {one["valueQuantity"]["code"] for one in map(json.loads, lines) if "valueQuantity" in one}

    assert {unit for unit, _ in omop(1)} == {"umol/L", "mmol/L", "%", "kg/m2", "mm[Hg]", "ng/L"}
    assert {"mg/dL", "mm[Hg]"}.isdisjoint({unit for unit, _ in omop(3)})
    assert {("MG PER DL", 0), ("mm Hg", 0)} <= set(omop(3))
    both = {unit for unit, _ in omop(5)}
    assert {"mg/dL", "umol/L", "mmol/L"} <= both  # the laboratory changed its units
    assert "mg/dL" in fhir(2)
    assert {"umol/L", "mmol/L"} <= fhir(4)


def test_hospitals_code_in_different_systems(made: tuple[Path, Truth]) -> None:
    out = made[0]
    systems = [
        {
            coding["system"]
            for line in (out / f"hospital-{number}" / "fhir" / "Condition.ndjson").read_text().splitlines()
            for coding in json.loads(line)["code"]["coding"]
        }
        for number in (2, 4)
    ]
    assert systems == [{"http://hl7.org/fhir/sid/icd-10-cm"}, {"http://snomed.info/sct"}]
    with duckdb.connect(str(out / "hospital-1" / "omop.duckdb"), read_only=True) as database:
        codes = database.execute(
            "SELECT DISTINCT condition_concept_id, condition_source_value FROM condition_occurrence"
        ).fetchall()
    assert set(codes) == {(201826, "E11.9"), (320128, "I10"), (4329847, "I21.9")}


def test_what_follows_the_index_date_would_tell_the_outcome(hospitals: list[Hospital]) -> None:
    """The bait is there: whoever reads past the index date predicts perfectly."""
    for hospital in hospitals:
        owner = hospital.visits.owner[hospital.events.visit]
        when = hospital.visits.start[hospital.events.visit]
        struck = np.isin(np.arange(hospital.size), owner[hospital.events.what == "infarction"])
        assert (struck == (hospital.people["outcome"] & hospital.people["followed"])).all()
        assert not hospital.before(owner, when)[np.isin(hospital.events.what, ["infarction", "troponin"])].any()


def test_omop_is_cdm_5_4(made: tuple[Path, Truth], hospitals: list[Hospital]) -> None:
    with duckdb.connect(str(made[0] / "hospital-1" / "omop.duckdb"), read_only=True) as database:
        sizes = {name: database.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in TABLES}
        version = database.execute("SELECT cdm_version FROM cdm_source").fetchall()
        used = " UNION ".join(
            f"SELECT {column.removesuffix('!')} FROM {table}"
            for table, columns in TABLES.items()
            for column in columns.split()
            if column.removesuffix("!").endswith("_concept_id") and table != "cdm_source"
        )
        unknown = database.execute(f"SELECT * FROM ({used}) AS u(id) WHERE id NOT IN (SELECT concept_id FROM concept)")
        assert unknown.fetchall() == []
        visits = dict(
            database.execute("SELECT visit_concept_id, count(*) FROM visit_occurrence GROUP BY ALL").fetchall()
        )
    assert (sizes["person"], sizes["visit_occurrence"]) == (hospitals[0].size, len(hospitals[0].visits.owner))
    assert version == [("5.4",)]
    kinds = Counter(KINDS[kind] for kind in hospitals[0].visits.kind)
    assert visits == {9202: kinds["outpatient"], 9201: kinds["inpatient"], 9203: kinds["emergency"]}


def test_fhir_withdrawn_values_are_wild(made: tuple[Path, Truth]) -> None:
    lines = (made[0] / "hospital-4" / "fhir" / "Observation.ndjson").read_text().splitlines()
    wild = [one["valueQuantity"]["value"] for one in map(json.loads, lines) if one["status"] == "entered-in-error"]
    assert len(wild) > 5  # and the features above are right without them


# --- genotypes


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_genotypes_read_back_are_the_models(
    made: tuple[Path, Truth], hospitals: list[Hospital], study: Study, number: int
) -> None:
    """Phased or not, on either strand, with REF and ALT in either order: the same dosages; weak calls are missing."""
    hospital, spec = hospitals[number], study.modalities["genotype"]
    assert isinstance(spec, Panel)
    folder, problems = made[0] / hospital.name, Problems(hospital.name)
    block = read_panel(
        spec, folder / "genotypes.vcf.gz", *everybody(hospital), problems, samples=folder / "samples.csv"
    )
    problems.raise_any()
    calls, laboratory = hospital.calls, hospital.habits.laboratory
    assert laboratory is not None
    assert (block.present == calls.sequenced).all()
    centre = 2 * FREQUENCIES
    spread = np.sqrt(centre * (1 - FREQUENCIES))
    wanted = np.where(calls.seen, (hospital.people["dosage"] - centre) / spread, 0)
    assert list(spec.names) == [locus.name for locus in PANEL]
    np.testing.assert_allclose(block.inputs, wanted, atol=1e-5)
    assert block.counts.get("variants written on the other strand", 0) == len(laboratory.reversed)
    exchanged = {locus.name for locus in PANEL if locus.counted == locus.ref} ^ set(laboratory.exchanged)
    assert block.counts["variants with the counted allele as the file's reference"] == len(exchanged)
    failed = calls.sequenced[:, None] & (calls.quality < 0)
    assert block.counts.get("calls missing", 0) == failed.sum()
    assert block.counts.get("calls below the least GQ", 0) == (calls.sequenced[:, None] & ~calls.seen & ~failed).sum()
    assert block.missing == dict(zip(spec.names, (calls.sequenced[:, None] & ~calls.seen).sum(axis=0), strict=True))


def test_vcf_is_whole_by_htslib(made: tuple[Path, Truth], hospitals: list[Hospital]) -> None:
    phased = {}
    for hospital in hospitals:
        path = made[0] / hospital.name / "genotypes.vcf.gz"
        assert path.exists() == (hospital.habits.laboratory is not None)
        if not path.exists():
            continue
        table = pd.read_csv(path.with_name("samples.csv"), dtype=str)
        with pysam.VariantFile(str(path)) as file:
            lengths = {name.removeprefix("chr"): contig.length for name, contig in file.header.contigs.items()}
            assert lengths["1"] == LENGTHS["GRCh38"]["1"]
            assert len(lengths) == 25
            assert set(table["sample_id"]) < set(file.header.samples)  # controls belong to nobody
            assert set(table["patient_id"]).isdisjoint(file.header.samples)
            records = list(file)
            assert len(records) > len(PANEL)
            prefix = "chr" if "chr1" in file.header.contigs else ""
            for locus in PANEL:  # by the index
                (found,) = file.fetch(f"{prefix}{locus.chromosome}", locus.position - 1, locus.position)
                assert found.id == locus.name
            sample = records[0].samples[0]
            phased[hospital.name] = all(one.phased for one in records[0].samples.values() if None not in one.alleles)
            assert sample.keys() == ["GT", "GQ", "DP"]
    assert set(phased.values()) == {True, False}


# --- pictures


@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_pictures_read_back_are_the_models(
    made: tuple[Path, Truth], hospitals: list[Hospital], study: Study, number: int
) -> None:
    """CT and CR, either kind of MONOCHROME, signed or not, compressed or not: the same picture, the latest before."""
    hospital, spec = hospitals[number], study.modalities["scan"]
    assert isinstance(spec, Dicom)
    scanner, scans, people = hospital.habits.scanner, hospital.scans, hospital.people
    assert scanner is not None
    whole = spec.model_copy(update={"size": (64, 64), "fit": "exact", "mean": 0.0, "scale": 1.0})
    problems = Problems(hospital.name)
    block = read_dicom(whole, made[0] / hospital.name / "dicom", *everybody(hospital), problems)
    problems.raise_any()
    assert not block.warnings
    rng = hospital.rng(4)
    scenes = np.concatenate(
        [
            render(scans.burden[at : at + BATCH], scans.lesion[at : at + BATCH], scanner, rng)
            for at in range(0, len(scans.owner), BATCH)
        ]
    )
    shown = np.zeros((hospital.size, 64, 64))
    there = np.zeros(hospital.size, dtype=bool)
    for row in np.argsort(scans.when, kind="stable"):
        owner = scans.owner[row]
        if scans.lesion[row] and scans.when[row] < people["index"][owner]:
            shown[owner], there[owner] = scenes[row], True
    assert (block.present == there).all()
    wanted = np.where(there[:, None, None], (shown + 200) / 400, 0)
    np.testing.assert_allclose(block.inputs[:, 0], wanted, atol=0.51 * scanner.slope / 400)
    # What the picture says of the burden, which is not written anywhere else: the size of the bright disc.
    bright = [(one > scanner.brightness + 0.17 * scanner.contrast).sum() for one in block.inputs[there, 0]]
    assert np.corrcoef(np.sqrt(bright), people["lesion"][there])[0, 1] > 0.95


def test_scanners_differ(made: tuple[Path, Truth]) -> None:
    seen, instances = {}, []
    for path in sorted(made[0].glob("hospital-*/dicom/*/*.dcm")):
        data = pydicom.dcmread(path, stop_before_pixels=True)
        instances += [data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID]
        assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID
        hospital = path.relative_to(made[0]).parts[0]
        seen[hospital] = (
            data.Modality, data.PhotometricInterpretation, float(data.RescaleSlope), float(data.RescaleIntercept),
            data.PixelRepresentation, data.file_meta.TransferSyntaxUID.name,
        )  # fmt: skip
    assert seen == {
        "hospital-1": ("CT", "MONOCHROME2", 1, -1024, 0, "Explicit VR Little Endian"),
        "hospital-2": ("CR", "MONOCHROME1", 0.25, -300, 0, "Implicit VR Little Endian"),
        "hospital-4": ("CR", "MONOCHROME1", 2, -1000, 0, "Explicit VR Little Endian"),
        "hospital-5": ("CT", "MONOCHROME2", 0.5, 0, 1, "RLE Lossless"),
    }
    assert len(set(instances)) == len(instances)
    assert all(uid.is_valid for uid in instances)


# --- the cohort


def test_patients_without_consent_are_in_the_sources_and_not_in_the_cohort(
    made: tuple[Path, Truth], hospitals: list[Hospital], study: Study
) -> None:
    out, truth = made
    ids = dict(zip(truth.ids, truth.sites, strict=True))
    for hospital, site in zip(hospitals, read_sites(out), strict=True):
        folder, people = out / hospital.name, hospital.people
        table = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
        assert list(table.columns) == ["patient_id", "index_date", "outcome", "consent"]
        assert set(table["outcome"]) <= {"yes", "no", ""}
        agreed = set(table["patient_id"][table["consent"] == "yes"])
        assert read_consent(folder / "consent.csv") == agreed
        silent = set(people["id"]) - agreed
        assert silent
        if hospital.habits.records.form == "omop":
            column = "person_id" if hospital.habits.records.numbered else "person_source_value"
            with duckdb.connect(str(folder / "omop.duckdb"), read_only=True) as database:
                known = {str(one) for (one,) in database.execute(f"SELECT {column} FROM person").fetchall()}
        else:
            lines = (folder / "fhir" / "Patient.ndjson").read_text().splitlines()
            said = [json.loads(line)["identifier"][0] for line in lines]
            assert {one["system"] for one in said} == {identifiers(hospital)}
            known = {one["value"] for one in said}
        assert known == set(people["id"]) > silent
        cohort = read_cohort(study, site.sources, site.name)
        assert set(cohort.ids) == {one for one, name in ids.items() if name == hospital.name}
        assert silent.isdisjoint(cohort.ids)
        outcome = dict(zip(truth.ids, truth.outcome, strict=True))
        assert [bool(one) for one in cohort.targets] == [outcome[cohort.ids[owner]] for owner in cohort.owner]
        assert cohort.present["genotype"].any() == (hospital.habits.laboratory is not None)
        assert cohort.present["scan"].any() == (hospital.habits.scanner is not None)
    assert truth.in_sources == {hospital.name: hospital.size for hospital in hospitals}

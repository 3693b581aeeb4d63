"""Virtual hospitals written as real ones keep their data: DICOM, VCF, OMOP or FHIR, and a table of the cohort."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from pmfed.errors import UsageError
from pmfed_simulations.hospitals.dicom import write_dicom
from pmfed_simulations.hospitals.fhir import ZONE, identifiers, write_fhir
from pmfed_simulations.hospitals.folders import check_wishes, write_site, write_table, write_toml, write_truth
from pmfed_simulations.hospitals.history import Hospital, draw_hospitals
from pmfed_simulations.hospitals.omop import write_omop
from pmfed_simulations.hospitals.truth import Truth, find_truth
from pmfed_simulations.hospitals.vcf import write_vcf

STUDY = Path(__file__).parents[1] / "studies" / "hospitals_real" / "study.toml"
PACKAGES = ("duckdb", "pydicom", "pysam")


def write_real_hospitals(
    out: Path,
    *,
    sites: int = 5,
    patients: int = 400,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Truth:
    """Write virtual hospitals as folders of DICOM, VCF, OMOP or FHIR files, and say how well one could do on them.

    The same arguments (and versions of pydicom and pysam) give the same files, byte for byte, but for the OMOP
    databases, whose rows are the same and whose files are not. ``out/truth.json`` is written last.

    Parameters
    ----------
    out
        Folder to write to; new or empty, so that the patients of two seeds never mix.
    sites
        How many hospitals; beyond five the habits of the first five come round again.
    patients
        Patients per hospital on average, with those who leave the cohort for want of consent or outcome; sizes differ
        by a factor of four, and none is below ``FEWEST``.
    seed
        Of all draws.
    progress
        Called with how much is done and how much there is.

    Returns
    -------
    Truth
        Also in ``out/truth.json``, what is per patient in ``out/truth.csv``. The study lies in ``out/study.toml``.

    Raises
    ------
    UsageError
        ``sites`` or ``patients`` is too small, ``out`` is not an empty folder, or a package is not installed.
    """
    check_wishes(out, sites, patients, seed)
    lacking = [package for package in PACKAGES if find_spec(package) is None]
    if lacking:
        raise UsageError(
            f"The packages that write and read these formats are not installed: {', '.join(lacking)}.",
            "Install them: pip install 'pmfed[hospital]'",
        )
    hospitals = draw_hospitals(sites, patients, seed)
    total = sum(len(hospital.scans.owner) + hospital.size for hospital in hospitals)
    done = 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    for hospital in hospitals:
        _write(out / hospital.name, hospital, tick)
    text = STUDY.read_text(encoding="utf-8")
    split = tomllib.loads(text)["evaluation"]
    truth = find_truth(hospitals, split["split_key"], split["test_fraction"])
    (out / "study.toml").write_text(text, encoding="utf-8", newline="\n")
    write_truth(out, truth)
    return truth


def _write(folder: Path, hospital: Hospital, tick: Callable[[int], None]) -> None:
    folder.mkdir(parents=True)
    sources = {"patients": "patients.csv", "consent": "consent.csv", "record": "record.toml"}
    _cohort(folder, hospital)
    records = hospital.habits.records
    described: dict[str, object]
    if records.form == "omop":
        write_omop(folder / "omop.duckdb", hospital)
        which = "person_id" if records.numbered else "person_source_value"
        described = {"omop": {"database": "omop.duckdb", "patient": which}}
    else:
        write_fhir(folder / "fhir", hospital)
        described = {"timezone": ZONE.key, "fhir": {"files": "fhir", "identifier": identifiers(hospital)}}
    if records.spelled:
        described["units"] = {spelled: unit for unit, spelled in records.spelled}
    write_toml(folder / "record.toml", described)
    tick(hospital.size)
    if hospital.habits.laboratory:
        sources |= {"genotypes": "genotypes.vcf.gz", "samples": "samples.csv"}
        pairs = write_vcf(folder / "genotypes.vcf.gz", hospital)
        write_table(folder / "samples.csv", pd.DataFrame(pairs, columns=["patient_id", "sample_id"]))
    if hospital.habits.scanner:
        sources["scans"] = "dicom"
        write_dicom(folder / "dicom", hospital, tick)
    write_site(folder, hospital.habits.title, sources)


def _cohort(folder: Path, hospital: Hospital) -> None:
    """Write the cohort table, and what the hospital's office knows of consent."""
    people = hospital.people
    outcome = np.where(people["followed"], np.where(people["outcome"], "yes", "no"), "")
    columns = {"patient_id": people["id"], "index_date": people["index"], "outcome": outcome}
    write_table(folder / "patients.csv", pd.DataFrame({**columns, "consent": people["consent"]}))
    asked = people["consent"] != ""
    since = (people["index"] - hospital.rng(8).integers(0, 30, hospital.size))[asked]
    said = {"patient_id": people["id"][asked], "consent": people["consent"][asked], "date": since}
    write_table(folder / "consent.csv", pd.DataFrame(said))

"""Writing virtual hospitals: the same by seed, whatever else is written, and refused where it cannot be done."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import duckdb
import pytest
from pmfed_simulations.hospitals.habits import HABITS
from pmfed_simulations.hospitals.history import FEWEST, draw_hospitals
from pmfed_simulations.hospitals.model import PANEL
from pmfed_simulations.hospitals.omop import TABLES
from pmfed_simulations.hospitals.real import STUDY, write_real_hospitals
from pmfed_simulations.simulate import Options, prepare, simulate
from pmfed_simulations.studies.hospitals_real import sites as hospitals_real
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.errors import UsageError
from pmfed.modality import Panel
from pmfed.study import Study


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with duckdb.connect(str(path), read_only=True) as database:
        return {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path: Path) -> None:
    made, again = (write_real_hospitals(tmp_path / name, patients=FEWEST, seed=3) for name in ("made", "again"))
    first, second = contents(tmp_path / "made"), contents(tmp_path / "again")
    databases = {name for name in first if name.endswith(".duckdb")}
    assert len(databases) == 3
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} <= databases
    for name in databases:
        assert rows(tmp_path / "made" / name) == rows(tmp_path / "again" / name)
    assert again.to_json() == made.to_json()
    other = draw_hospitals(5, FEWEST, 4)[0]
    assert set(other.people["id"]).isdisjoint(made.ids)


def test_a_hospital_does_not_depend_on_the_others(tmp_path: Path) -> None:
    # Weights 1.6 and 1.4: of 84 patients the first hospital has 45, and 45 alone.
    write_real_hospitals(tmp_path / "one", sites=1, patients=45, seed=1)
    write_real_hospitals(tmp_path / "two", sites=2, patients=42, seed=1)
    one, two = contents(tmp_path / "one" / "hospital-1"), contents(tmp_path / "two" / "hospital-1")
    assert {name for name in one | two if one.get(name) != two.get(name)} <= {"omop.duckdb"}


def test_habits_come_round_again() -> None:
    drawn = draw_hospitals(7, FEWEST, 1)
    assert [hospital.habits for hospital in drawn] == [*HABITS, *HABITS[:2]]
    assert min(hospital.size for hospital in drawn) == FEWEST
    ids = [one for hospital in drawn for one in hospital.people["id"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("wrong", [{"sites": 0}, {"patients": FEWEST - 1}, {"seed": -1}])
def test_impossible_wishes_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="Cannot make"):
        write_real_hospitals(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"spent")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_real_hospitals(tmp_path, patients=FEWEST)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    out = tmp_path / "made"
    answer = CliRunner().invoke(
        app, ["data", "hospitals", "--sites", "2", "--patients", "40", "--seed", "1", "--out", str(out)]
    )
    assert answer.exit_code == 0, answer.output
    known = json.loads((out / "truth.json").read_text())
    said = " ".join(answer.output.split())
    assert f"2 hospitals, {sum(known['in_sources'].values())} patients" in said
    assert f"Best possible AUC: {known['law_auc']:.3f} with everything known" in said
    assert f"pmfed simulate {out}/study.toml --sites {out}" in said.replace("\n", "")
    assert len(answer.output.splitlines()) < 10


def test_the_study_names_what_the_model_has() -> None:
    panel = Study.read(STUDY).modalities["genotype"]
    assert isinstance(panel, Panel)
    for locus in PANEL:
        variant = panel.variants[locus.name]
        assert (variant.effect, variant.reference, variant.frequency) == (locus.counted, locus.other, locus.frequency)
        assert variant.place == (locus.chromosome, locus.position)
        assert {locus.ref, locus.alt} not in ({"A", "T"}, {"C", "G"})  # the strand of others can be told


@pytest.mark.slow
def test_pmfed_simulate_runs_on_these_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo: OMOP, FHIR, VCF and DICOM, and the best possible AUC beside the learned one."""
    few = replace(hospitals_real.SITES, make=partial(write_real_hospitals, patients=FEWEST))
    monkeypatch.setattr(hospitals_real, "SITES", few)
    told: list[str] = []
    out = tmp_path / "run"
    result = simulate(prepare(Options("hospitals-real", str(out), rounds=2, workers=1), told.append))
    assert told == ["Writing five virtual hospitals: OMOP, FHIR, VCF and DICOM.", "Reading 5 sites."]
    for pattern in ("*/omop.duckdb", "*/fhir/*.ndjson", "*/genotypes.vcf.gz", "*/dicom/*"):
        assert list((out / "sites").glob(pattern)), pattern
    assert result["study"] == "hospitals-real"
    assert result["rounds"] == 2
    known = json.loads((out / "sites" / "truth.json").read_text())
    assert result["best_possible"] == {"auroc": known["reachable_auc_held_out"]}
    assert sum(site["patients"] for site in result["sites"]) == sum(known["patients"].values())

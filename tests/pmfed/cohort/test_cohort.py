"""A site's files into a cohort."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pmfed.cohort import Cohort, held_out, pool, read_cohort, rows, solve
from pmfed.errors import DataError
from pmfed.study import Study

N = 24


def study(cohort: dict[str, Any] | None = None, **sections: Any) -> Study:
    data = {
        "study": {"name": "x", "title": "X"},
        "cohort": {"table": "patients", "expected_patients": 1000, **(cohort or {})},
        "outcome": {"column": "outcome", "task": "binary", "classes": ["0", "1"]},
        "modalities": {
            "clinical": {
                "kind": "table",
                "table": "patients",
                "features": {
                    "age": {"type": "numeric", "minimum": 0, "maximum": 120, "mean": 60, "scale": 10},
                    "crp": {"type": "numeric", "minimum": 0, "maximum": 100},
                    "sex": {"type": "categorical", "values": ["f", "m"]},
                },
            },
            "genes": {
                "kind": "genotypes",
                "table": "genes",
                "variants": {"v": {"alleles": ["A"], "known": ["A", "G"]}},
            },
            "scan": {"kind": "images", "table": "scans", "folder": "images", "size": [4, 4]},
        },
        "training": {"rounds": 1, "optimizer": {"learning_rate": 0.1}},
        "privacy": {"epsilon": 1.0, "delta": 1e-4},
    }
    return Study.model_validate({**data, **sections})


class Site:
    """A hospital's folder that a test may spoil before it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(1)
        ids = [f"secret{number:02}" for number in range(N)]
        self.patients = pd.DataFrame(
            {
                "patient_id": ids,
                "age": rng.integers(40, 80, N).astype(str),
                "crp": [str(value) for value in rng.integers(0, 100, N)],
                "sex": rng.choice(["f", "m"], N),
                "outcome": rng.permutation(["0", "1"] * (N // 2)),
            }
        )
        self.genes = pd.DataFrame({"patient_id": ids[:20][::-1], "v": rng.choice(["A/G", "G/G"], 20)})
        self.scans = pd.DataFrame({"patient_id": ids[:6] * 2, "file": [f"{place}.png" for place in range(12)]})
        (folder / "images").mkdir()
        for place in range(12):
            Image.fromarray(np.full((4, 4), 20 * place, dtype=np.uint8)).save(folder / "images" / f"{place}.png")
        self.sources = {"patients": "patients.csv", "genes": "genes.parquet", "scans": "scans.csv", "images": "images"}

    def read(self, of: Study) -> Cohort:
        self.patients.to_csv(self.folder / "patients.csv", index=False)
        self.genes.to_parquet(self.folder / "genes.parquet")
        self.scans.to_csv(self.folder / "scans.csv", index=False)
        return read_cohort(of, {name: self.folder / path for name, path in self.sources.items()}, "north")

    def error(self, of: Study) -> str:
        with pytest.raises(DataError) as caught:
            self.read(of)
        message = str(caught.value)
        assert "site 'north'" in message
        assert "secret" not in message
        return message


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_modalities_are_joined_by_patient(site: Site) -> None:
    cohort = site.read(study())
    assert cohort.patients == N
    assert cohort.records == N + 6  # two scans double six patients' records
    assert np.bincount(cohort.owner).tolist() == [2] * 6 + [1] * (N - 6)
    assert (np.diff(cohort.owner) >= 0).all()
    assert cohort.inputs["clinical"].shape == (N + 6, 4)
    assert cohort.inputs["scan"].shape == (N + 6, 1, 4, 4)
    assert cohort.findings.coverage == {"clinical": N, "genes": 20, "scan": 6}
    for record, patient in enumerate(cohort.owner):
        row = site.patients.set_index("patient_id").loc[cohort.ids[patient]]
        age, crp, female, male = cohort.inputs["clinical"][record]
        assert age == np.float32((float(row["age"]) - 60) / 10)
        assert crp == np.float32(float(row["crp"]) / 50 - 1)
        assert (female, male) == ((1, 0) if row["sex"] == "f" else (0, 1))
        assert cohort.targets[record] == float(row["outcome"])
        assert cohort.present["genes"][record] == (patient < 20)
        assert cohort.inputs["genes"][record].any() == (patient < 20)
        assert cohort.present["scan"][record] == (patient < 6)
    shades = cohort.inputs["scan"][:12, 0, 0, 0] * 0.25 * 255 + 127.5
    np.testing.assert_allclose(sorted(shades), np.arange(12) * 20, atol=1e-3)
    assert not cohort.inputs["scan"][12:].any()
    assert cohort.training.tolist() == (~held_out(cohort.ids, "pmfed", 0.2)).tolist()
    assert cohort.findings.training + cohort.findings.held_out == N
    assert cohort.targets.dtype == np.float32


def test_the_order_of_the_tables_does_not_matter(site: Site) -> None:
    first = site.read(study())
    site.patients = site.patients.sample(frac=1, random_state=1)
    site.genes = site.genes.sample(frac=1, random_state=2)
    second = site.read(study())
    assert first.ids == second.ids
    assert np.array_equal(first.training, second.training)
    for name in first.inputs:
        assert np.array_equal(first.inputs[name], second.inputs[name])


def test_nothing_of_a_patient_is_in_the_repr(site: Site) -> None:
    assert "secret" not in repr(site.read(study()))
    assert "array" not in repr(site.read(study()))


@pytest.mark.parametrize("source", ["genes", "scans", "images"])
def test_a_site_may_lack_a_source(site: Site, source: str) -> None:
    del site.sources[source]
    name = "genes" if source == "genes" else "scan"
    cohort = site.read(study())
    assert not cohort.present[name].any()
    assert not cohort.inputs[name].any()
    assert cohort.inputs[name].shape[0] == cohort.records
    assert any(f"modality '{name}' is absent" in line for line in cohort.findings.warnings)


def test_no_modality_at_all(site: Site) -> None:
    del site.sources["genes"], site.sources["scans"]
    modalities = {name: part for name, part in study().model_dump()["modalities"].items() if name != "clinical"}
    assert "no patient has any of the study's modalities" in site.error(study(modalities=modalities))


def test_patients_without_outcome_are_left_out_and_counted(site: Site) -> None:
    site.patients.loc[[3, 5], "outcome"] = ["", "NA"]
    cohort = site.read(study())
    assert cohort.patients == N - 2
    assert cohort.findings.dropped_no_outcome == 2
    site.patients["outcome"] = ""
    assert "no patients are left: of 24 rows none has the outcome 'outcome'" in site.error(study())


def test_missing_values_are_counted_and_wait_for_the_mean(site: Site) -> None:
    site.patients.loc[[7, 9], "crp"] = ""
    site.patients.loc[7, "age"] = "NA"
    del site.sources["scans"]
    of = study()
    cohort = site.read(of)
    assert cohort.findings.missing == {"clinical.age": 1, "clinical.crp": 2, "clinical.sex": 0, "genes.v": 0}
    assert np.flatnonzero(np.isnan(cohort.inputs["clinical"][:, 1])).tolist() == [7, 9]
    assert cohort.inputs["clinical"][7, 0] == 0
    scaled = cohort.scaled(solve(of, rows(of, cohort).sum(axis=0)))
    assert not np.isnan(scaled.inputs["clinical"]).any()
    assert scaled.inputs["clinical"][[7, 9], 1].tolist() == [0, 0]
    assert np.isnan(cohort.inputs["clinical"]).any()  # the original stays


def test_records_are_capped_per_patient_by_a_draw_that_stays(site: Site) -> None:
    site.patients = site.patients.loc[site.patients.index.repeat(5)].reset_index(drop=True)
    site.patients["visit"] = np.tile(np.arange(5), N)
    site.patients["age"] = [str(40 + visit) for visit in site.patients["visit"]]
    of = study(cohort={"record": "visit", "max_records": 3})
    cohort = site.read(of)
    assert np.bincount(cohort.owner).tolist() == [3] * N
    assert cohort.findings.dropped_over_cap == 5 * N + 5 * 6 - 3 * N  # what the full join would have held
    assert np.array_equal(cohort.inputs["clinical"], site.read(of).inputs["clinical"])
    # Not simply the first visits.
    assert len(np.unique(cohort.inputs["clinical"][:, 0])) == 5


def test_tables_that_tell_records_apart_are_joined_by_record(site: Site) -> None:
    site.patients = pd.concat([site.patients.assign(visit="a"), site.patients.assign(visit="b")])
    site.scans["visit"] = ["a"] * 6 + ["b"] * 6
    cohort = site.read(study(cohort={"record": "visit"}))
    assert cohort.records == 2 * N
    assert np.flatnonzero(cohort.present["scan"]).tolist() == list(range(12))


def test_a_record_may_be_there_once(site: Site) -> None:
    site.patients["visit"] = "1"
    again = site.patients.iloc[:2].assign(age="61")
    site.patients = pd.concat([site.patients, again, site.patients.iloc[:3].assign(visit="2")])
    of = study(cohort={"record": "visit"})
    assert "'patient_id' and 'visit': 2 rows repeating a record" in site.error(of)
    site.patients.iloc[4, -1] = None
    assert "column 'visit': 1 row empty" in site.error(of)


def test_split_column(site: Site) -> None:
    site.patients["fold"] = ["train", "test"] * (N // 2)
    of = study(evaluation={"split_column": "fold"})
    assert site.read(of).training.tolist() == [True, False] * (N // 2)
    site.patients.loc[[2, 4], "fold"] = ["", "validation"]
    assert "split column 'fold': 2 rows with neither 'train' nor 'test' (first at row 4)" in site.error(of)
    site.patients["visit"] = "1"
    site.patients["fold"] = ["train", "test"] * (N // 2)
    again = site.patients.iloc[:3].assign(visit="2", fold="train")
    site.patients = pd.concat([site.patients, again])
    assert "1 patient with records in both 'train' and 'test'" in site.error(
        study(cohort={"record": "visit"}, evaluation={"split_column": "fold"})
    )


def test_multiclass_and_regression_targets(site: Site) -> None:
    site.patients["outcome"] = ["b", "a", "c"] * (N // 3)
    cohort = site.read(study(outcome={"column": "outcome", "task": "multiclass", "classes": ["a", "b", "c"]}))
    assert cohort.targets.dtype == np.int64
    assert cohort.targets[-3:].tolist() == [1, 0, 2]
    dose = {"column": "outcome", "task": "regression", "minimum": 0, "maximum": 100}
    site.patients["outcome"] = [str(place * 2.5) for place in range(N)]
    assert site.read(study(outcome=dose)).targets[-3:].tolist() == [52.5, 55, 57.5]
    site.patients.loc[[1, 2, 3], "outcome"] = ["101", "high", "inf"]
    message = site.error(study(outcome=dose))
    assert "outcome 'outcome': 2 rows with text" in message
    assert "outcome 'outcome': 1 row outside 0 to 100" in message


def spoil_outcome(site: Site) -> None:
    site.patients.loc[[0, 1], "outcome"] = "2"


def spoil_age(site: Site) -> None:
    site.patients.loc[4, "age"] = "forty"


def spoil_duplicate(site: Site) -> None:
    site.patients = pd.concat([site.patients, *(site.patients.iloc[:3].assign(age=age) for age in ("61", "62"))])


def spoil_id(site: Site) -> None:
    site.patients.loc[4, "patient_id"] = " "


def spoil_genes_id(site: Site) -> None:
    site.genes.loc[4, "patient_id"] = None


def spoil_genes_rows(site: Site) -> None:
    site.genes = pd.concat([site.genes, site.genes.iloc[:2].assign(**{site.genes.columns[-1]: None})])


def spoil_genes_strangers(site: Site) -> None:
    site.genes["patient_id"] = [f"other{number}" for number in range(20)]


def spoil_column(site: Site) -> None:
    site.patients = site.patients.rename(columns={"age": "Age "})


def spoil_file(site: Site) -> None:
    site.sources["genes"] = "nowhere.parquet"


def spoil_empty(site: Site) -> None:
    site.patients = site.patients.iloc[:0]


def spoil_image(site: Site) -> None:
    (site.folder / "images" / "3.png").unlink()


def spoil_path(site: Site) -> None:
    site.scans.loc[2, "file"] = "../../secret.png"


def spoil_source(site: Site) -> None:
    site.sources["patient"] = site.sources.pop("patients")


def spoil_leak(site: Site) -> None:
    site.patients["sex"] = np.where(site.patients["outcome"] == "1", "m", "f")


def spoil_leak_number(site: Site) -> None:
    site.patients["crp"] = np.where(site.patients["outcome"] == "1", "17", "")
    site.patients.loc[site.patients["outcome"] == "0", "crp"] = "40"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            spoil_outcome,
            "outcome 'outcome': 2 rows with a value that is none of the study's 2 classes (first at row 2)",
        ),
        (spoil_age, "column 'age': 1 row with text where a number is expected (first at row 6)"),
        (spoil_duplicate, "'patient_id': 3 patients with more than one row (30 rows, 24 patients)"),
        (spoil_id, "column 'patient_id': 1 row empty (first at row 6)"),
        (spoil_genes_id, "genes.parquet: column 'patient_id': 1 row empty"),
        (spoil_genes_rows, "2 patients with more than one row of genotypes"),
        (spoil_genes_strangers, "genes.parquet: column 'patient_id': none of 20 patients is in"),
        (spoil_column, "lacks 1 column that the study names: 'age' (did you mean 'Age '?)"),
        (spoil_file, "nowhere.parquet: there is no such file"),
        (spoil_empty, "no patients: the table has a header and no rows"),
        (spoil_image, "that do not exist: 1 of "),
        (spoil_path, "that lead out of the folder: 1 of "),
        (spoil_source, "there is no source 'patients', the study's cohort table; did you mean 'patient'?"),
        (
            spoil_leak,
            "column 'sex' tells the outcome of every patient who has it (24 of 24 patients): it leaks the label",
        ),
        (spoil_leak_number, "column 'crp' tells the outcome"),
    ],
)
def test_bad_sites(site: Site, spoil: Any, says: str) -> None:
    spoil(site)
    assert says in site.error(study())


def test_several_problems_are_reported_together(site: Site) -> None:
    for spoil in (spoil_outcome, spoil_age, spoil_duplicate, spoil_genes_rows):
        spoil(site)
    message = site.error(study())
    assert "4 problems" in message
    for part in ("'outcome'", "'age'", "'patient_id'", "genotypes"):
        assert part in message


def test_several_tables_are_reported_together(site: Site) -> None:
    spoil_column(site)
    spoil_file(site)
    assert "2 problems" in site.error(study())


def test_few_patients_may_match_by_chance(site: Site) -> None:
    site.patients = site.patients.iloc[:6]
    site.patients["outcome"] = ["0", "1", "0", "0", "1", "0"]
    site.patients["sex"] = ["f", "m", "f", "f", "m", "f"]
    cohort = site.read(study())
    assert not any("tells the outcome" in line for line in cohort.findings.warnings)  # 1 in 15
    site.patients = pd.concat([site.patients, site.patients.assign(patient_id=[f"x{n}" for n in range(6)])])
    assert any("may be chance" in line for line in site.read(study()).findings.warnings)  # 1 in 495


def test_rows_of_strangers_are_left_out_with_a_warning(site: Site) -> None:
    site.genes.loc[[0, 1], "patient_id"] = ["other1", "other2"]
    cohort = site.read(study())
    assert cohort.findings.coverage["genes"] == 18
    assert any("2 rows of no patient" in line for line in cohort.findings.warnings)


def test_select_with_training_and_pool(site: Site) -> None:
    cohort = site.read(study())
    mask = np.arange(N) % 3 == 0
    part = cohort.select(mask)
    assert part.ids == cohort.ids[::3]
    assert part.records == int(mask[cohort.owner].sum())
    assert part.findings.patients == part.patients == 8
    assert part.findings.records == part.records
    for record, patient in enumerate(part.owner):
        original = np.searchsorted(cohort.owner, 3 * patient)
        assert np.array_equal(part.inputs["clinical"][record], cohort.inputs["clinical"][original])
    everyone = part.with_training(np.ones(8, dtype=bool))
    assert everyone.findings.training == 8
    both = pool([part, cohort])
    assert both.patients == 8 + N
    assert both.findings.records == part.records + cohort.records
    assert np.array_equal(both.owner[part.records :], cohort.owner + 8)
    assert np.array_equal(both.inputs["scan"][part.records :], cohort.inputs["scan"])
    assert (np.diff(both.owner) >= 0).all()
    assert cohort.select(np.zeros(N, dtype=bool)).patients == 0


def test_a_large_site_is_read_in_seconds(tmp_path: Path) -> None:
    n, rng = 100_000, np.random.default_rng(0)
    columns = {f"c{place}": rng.random(n).round(3) for place in range(8)}
    pd.DataFrame({"patient_id": rng.permutation(n), "outcome": rng.integers(0, 2, n), **columns}).to_csv(
        tmp_path / "t.csv", index=False
    )
    features = {name: {"type": "numeric", "minimum": 0, "maximum": 1} for name in columns}
    modalities = {"clinical": {"kind": "table", "table": "patients", "features": features}}
    start = time.process_time()
    cohort = read_cohort(study(modalities=modalities), {"patients": tmp_path / "t.csv"}, "north")
    assert cohort.patients == n
    assert time.process_time() - start < 10


def test_the_warfarin_table_as_it_was_published(public_data: Path) -> None:
    path = public_data / "iwpc_warfarin" / "iwpc_subject_data.csv"
    cyp2c9 = {"column": "CYP2C9 consensus", "alleles": ["*2", "*3"], "frequency": [0.1, 0.05], "indicator": True}
    of = study(
        cohort={"patient": "PharmGKB Subject ID"},
        outcome={
            "column": "Therapeutic Dose of Warfarin", "task": "regression", "minimum": 1, "maximum": 400,
            "transform": "sqrt",
        },
        modalities={
            "clinical": {
                "kind": "table",
                "table": "patients",
                "features": {
                    "height": {"type": "numeric", "column": "Height (cm)", "minimum": 100, "maximum": 220},
                    "gender": {"type": "categorical", "column": "Gender", "values": ["female", "male"]},
                    "amiodarone": {"type": "categorical", "column": "Amiodarone (Cordarone)", "values": ["0", "1"]},
                },
            },
            "genes": {"kind": "genotypes", "table": "patients", "variants": {"cyp2c9": cyp2c9}},
        },
    )  # fmt: skip
    cohort = read_cohort(of, {"patients": path}, "all")
    table = pd.read_csv(path)
    dosed = table[table["Therapeutic Dose of Warfarin"].notna()].sort_values("PharmGKB Subject ID")
    assert cohort.patients == len(dosed) > 5000
    assert cohort.findings.dropped_no_outcome == len(table) - len(dosed)
    np.testing.assert_allclose(cohort.targets, dosed["Therapeutic Dose of Warfarin"], rtol=1e-6)
    assert cohort.findings.missing["clinical.height"] == dosed["Height (cm)"].isna().sum()
    assert cohort.findings.missing["genes.cyp2c9"] == dosed["CYP2C9 consensus"].isna().sum()
    twos = dosed["CYP2C9 consensus"].fillna("").str.count(r"\*2(?!\d)").to_numpy()
    known = cohort.inputs["genes"][:, 2] == 0
    assert len(np.unique(np.column_stack([twos, cohort.inputs["genes"][:, 0].round(4)])[known], axis=0)) == 3

"""Virtual hospitals: the same by seed, different from each other, and the best AUC really is the best."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pmfed_client.site.site import read_sites
from pmfed_simulations.hospitals.history import FEWEST
from pmfed_simulations.hospitals.model import FREQUENCIES
from pmfed_simulations.hospitals.truth import Truth
from pmfed_simulations.studies import find_study
from pmfed_simulations.studies.hospitals.law import EFFECTS, PANEL, PROFILES, VALUES, log_odds
from pmfed_simulations.studies.hospitals.sites import render, write_hospitals
from sklearn.metrics import roc_auc_score

from pmfed.cohort import Cohort, read_cohort
from pmfed.cohort.split import held_out
from pmfed.errors import UsageError
from pmfed.modality import Genotypes, Images, Table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    out = tmp_path_factory.mktemp("hospitals") / "sites"
    return out, write_hospitals(out, seed=3)


@pytest.fixture(scope="module")
def cohorts(made: tuple[Path, Truth]) -> dict[str, Cohort]:
    study = find_study("hospitals")
    return {site.name: read_cohort(study, site.sources, site.name) for site in read_sites(made[0])}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first = write_hospitals(tmp_path / "a", patients=60, seed=1)
    write_hospitals(tmp_path / "b", patients=60, seed=1)
    other = write_hospitals(tmp_path / "c", patients=60, seed=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.risk.tolist() != other.risk.tolist()
    same = contents(tmp_path / "a").items() & contents(tmp_path / "c").items()
    assert {Path(name).name for name, _ in same} == {"site.toml"}


def test_a_hospital_does_not_depend_on_the_others(tmp_path: Path) -> None:
    # Weights 1.6, 1.4, 0.9: the first hospital has 64 of 156 patients, and 64 alone.
    write_hospitals(tmp_path / "one", sites=1, patients=64, seed=1)
    write_hospitals(tmp_path / "three", sites=3, patients=52, seed=1)
    assert contents(tmp_path / "one" / "hospital-1") == contents(tmp_path / "three" / "hospital-1")


def test_ids_are_unique_over_all_hospitals(made: tuple[Path, Truth]) -> None:
    out, truth = made
    tables = [pd.read_csv(path)["patient_id"] for path in sorted(out.glob("*/patients.csv"))]
    assert pd.concat(tables).is_unique
    assert tuple(pd.concat(tables)) == truth.ids
    assert all(table.str.fullmatch(rf"H{number}-\d{{6}}").all() for number, table in enumerate(tables, 1))


def test_hospitals_differ_in_size_case_mix_missingness_and_scanner(made: tuple[Path, Truth]) -> None:
    out, truth = made
    assert list(truth.patients.values()) == [640, 560, 360, 280, 160]
    tables = [pd.read_csv(path) for path in sorted(out.glob("*/patients.csv"))]
    ages = [table["age"].mean() for table in tables]
    assert max(ages) - min(ages) > 8
    gaps = [table[list(VALUES)].isna().mean().mean() for table in tables]
    assert min(gaps) < 0.08 < 0.2 < max(gaps)
    assert max(truth.prevalence.values()) - min(truth.prevalence.values()) > 0.05
    assert 0.25 < truth.outcome.mean() < 0.40
    corners = []
    for folder in sorted(out.glob("*/images")):
        pixels = np.stack([np.asarray(Image.open(path))[:3] for path in sorted(folder.iterdir())[:80]])
        corners.append(pixels.mean() / 255)
    expected = [profile.brightness for profile in PROFILES if profile.images]
    np.testing.assert_allclose(corners, expected, atol=0.02)


def test_one_hospital_has_no_pictures_and_one_no_genotypes(
    made: tuple[Path, Truth], cohorts: dict[str, Cohort]
) -> None:
    sites = {site.name: site for site in read_sites(made[0])}
    lacking = {name: {"genotypes", "pictures", "images"} - set(site.sources) for name, site in sites.items()}
    assert lacking == {
        "hospital-1": set(),
        "hospital-2": set(),
        "hospital-3": {"pictures", "images"},
        "hospital-4": {"genotypes"},
        "hospital-5": set(),
    }
    assert all(path.exists() for site in sites.values() for path in site.sources.values())
    for name, cohort in cohorts.items():
        for modality, source in (("image", "images"), ("genotype", "genotypes")):
            share = cohort.findings.coverage[modality] / cohort.patients
            assert share == 0 if source in lacking[name] else 0.75 < share < 1
        # Patients with two or three pictures have as many records.
        assert (cohort.records > cohort.patients) == ("images" not in lacking[name])
        assert np.bincount(cohort.owner).max() <= 3


def test_the_files_fit_the_study(made: tuple[Path, Truth], cohorts: dict[str, Cohort]) -> None:
    _, truth = made
    study = find_study("hospitals")
    clinical, genotype, image = (study.modalities[name] for name in ("clinical", "genotype", "image"))
    assert isinstance(clinical, Table)
    assert isinstance(genotype, Genotypes)
    assert isinstance(image, Images)
    for locus in PANEL:
        variant = genotype.variants[locus.name]
        assert (variant.alleles, variant.frequency) == ((locus.counted,), (locus.frequency,))
        assert set(variant.known) == {locus.other, locus.counted}
    assert set(genotype.variants) == {locus.name for locus in PANEL}
    patients = {name: cohort.patients for name, cohort in cohorts.items()}
    assert patients == truth.patients
    # The public constants are of the right size, and no more than that.
    for modality in ("clinical", "genotype", "image"):
        seen = np.concatenate([cohort.inputs[modality][cohort.present[modality]] for cohort in cohorts.values()])
        assert abs(seen.mean()) < 0.5
        assert 0.4 < seen.std() < 1.6
    training = sum(cohort.findings.training for cohort in cohorts.values())
    assert abs(training / study.cohort.expected_patients - 1) < 0.05
    test = {one for one, out in zip(truth.ids, truth.held_out, strict=True) if out}
    for cohort in cohorts.values():
        assert {one for one, trained in zip(cohort.ids, cohort.training, strict=True) if not trained} <= test


def test_site_toml_has_the_form_of_a_real_one(made: tuple[Path, Truth]) -> None:
    site = tomllib.loads((made[0] / "hospital-1" / "site.toml").read_text())
    assert site["site"]["name"] == "hospital-1"
    assert site["data"] == {
        "patients": "patients.csv",
        "genotypes": "genotypes.csv",
        "pictures": "images.csv",
        "images": "images",
    }
    assert site["policy"]["min_patients"] == 20
    assert (site["policy"]["epsilon"], site["policy"]["delta"]) == (10.0, 1e-5)


def test_best_auc_agrees_with_independent_code(made: tuple[Path, Truth]) -> None:
    out, truth = made
    known = pd.read_csv(out / "truth.csv")
    summary = json.loads((out / "truth.json").read_text())
    study = find_study("hospitals")
    test = held_out(known["ids"].tolist(), study.evaluation.split_key, study.evaluation.test_fraction)
    for where, end in ((slice(None), ""), (test, "_held_out")):
        outcome = known["outcome"][where]
        for name, column in (("best_auc", "risk"), ("reachable_auc", "expected")):
            assert summary[name + end] == pytest.approx(roc_auc_score(outcome, known[column][where]), abs=1e-9)
            assert summary[name + end] == getattr(truth, name + end)


def test_risk_and_expected_risk_are_calibrated(made: tuple[Path, Truth]) -> None:
    _, truth = made
    for score in (truth.risk, truth.expected):
        for part in np.array_split(np.argsort(score), 5):
            error = np.sqrt((score[part] * (1 - score[part])).sum()) / len(part)
            assert abs(truth.outcome[part].mean() - score[part].mean()) < 4 * error


def test_risk_follows_from_the_files(made: tuple[Path, Truth]) -> None:
    """Patients with complete records and a big or small lesion: the risk, computed again from CSV and PNG."""
    out, truth = made
    folder = out / "hospital-1"
    table = pd.read_csv(folder / "patients.csv").merge(pd.read_csv(folder / "genotypes.csv")).dropna()
    dosage = np.stack([table[locus.name].str.count(locus.counted) for locus in PANEL], axis=1)
    columns = {
        "age": table["age"].to_numpy(),
        "male": (table["sex"] == "male").to_numpy(),
        "smoking": table["smoking"].map({"never": 0, "former": 1, "current": 2}).to_numpy(),
        "dosage": dosage,
        "lesion": np.zeros(len(table)),
    } | {name: table[name].to_numpy() for name in VALUES}
    rest = log_odds(columns)
    risk = pd.Series(truth.risk, index=truth.ids)[table["patient_id"]].to_numpy()
    burden = (np.log(risk / (1 - risk)) - rest) / 1.5
    assert np.abs(burden).max() < 2.2 + 1e-6
    # What is left of the risk is what the picture shows: the bright area grows with it.
    pictured = [(folder / "images" / f"{one}_1.png").exists() for one in table["patient_id"]]
    bright = [
        (np.asarray(Image.open(folder / "images" / f"{one}_1.png")) > 255 * 0.47).sum()
        for one in table["patient_id"][pictured]
    ]
    assert np.corrcoef(np.sqrt(bright), burden[pictured])[0, 1] > 0.9


def test_ceilings_grow_with_what_is_seen(made: tuple[Path, Truth]) -> None:
    _, truth = made
    sets = {frozenset(name.split("+")): value for name, value in truth.ceilings.items()}
    assert len(sets) == 7
    assert all(sets[a] < sets[b] for a in sets for b in sets if a < b)
    assert sets[frozenset({"clinical", "genotype", "image"})] == truth.best_auc
    assert truth.reachable_auc < truth.best_auc
    assert 0.86 < truth.best_auc < 0.91
    assert truth.law_auc == pytest.approx(truth.best_auc, abs=0.02)  # free of the chance of these outcomes


def test_genes_and_lab_interact() -> None:
    """The effect of an allele of rs7903146 depends on HbA1c; that of another variant does not."""
    names = [locus.name for locus in PANEL]

    def effect(variant: str, hba1c: float) -> float:
        dosage = np.tile(np.round(2 * FREQUENCIES), (2, 1))
        dosage[1, names.index(variant)] += 1
        columns = {name: np.full(2, value.middle) for name, value in VALUES.items()} | {"hba1c": np.full(2, hba1c)}
        columns |= {"age": np.full(2, 62.0), "male": np.zeros(2), "smoking": np.zeros(2, dtype=int)}
        low, high = log_odds(columns | {"dosage": dosage, "lesion": np.zeros(2)})
        return float(high - low)

    assert effect("rs7903146", 8.1) - effect("rs7903146", 6.1) == pytest.approx(0.7)
    assert effect("rs699", 8.1) == effect("rs699", 6.1) == pytest.approx(0.0)
    assert effect("rs5186", 6.1) == pytest.approx(EFFECTS[names.index("rs5186")])


def test_a_larger_burden_is_a_larger_and_brighter_disc() -> None:
    for profile in (profile for profile in PROFILES if profile.images):
        pixels = render(np.repeat([-2.2, 0.0, 2.2], 50), profile, np.random.default_rng(0)).reshape(3, 50, -1)
        small, middle, large = pixels.mean(axis=(1, 2))
        assert small + 5 < middle < large - 15
        small, middle, large = np.quantile(pixels, 0.97, axis=2).mean(axis=1)  # the disc itself
        assert small + 5 < middle < large - 5


def test_small_and_many_hospitals(tmp_path: Path) -> None:
    truth = write_hospitals(tmp_path / "many", sites=7, patients=FEWEST)
    assert len(truth.patients) == 7
    assert min(truth.patients.values()) == FEWEST
    assert not (tmp_path / "many" / "hospital-3" / "images").exists()


@pytest.mark.parametrize("wrong", [{"sites": 0}, {"patients": FEWEST - 1}, {"seed": -1}])
def test_impossible_wishes_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="Cannot make"):
        write_hospitals(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"spent")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_hospitals(tmp_path, patients=FEWEST)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]

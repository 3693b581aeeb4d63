"""Panels out of PLINK files, written and checked by bed-reader."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bed_reader import open_bed
from genomic_files import dosages, panel, read, write_plink
from readings import read_panel

from pmfed.cohort.genomics.plink import PlinkPanel
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4", "PAT-5")
CT: dict[str, Any] = {"at": "7:500", "reference": "C", "effect": "T", "indicator": True}
CALLS = [2, 1, 0, NAN, 1]


def write(tmp_path: Path, variants: list[tuple[str, str, str, str]], **options: Any) -> Path:
    first = np.tile(np.array(CALLS)[:, None], len(variants))
    return write_plink(tmp_path / "cohort.bed", SAMPLES, variants, options.pop("first", first), **options)


@pytest.mark.parametrize(
    ("alleles", "variant", "expected"),
    [
        (("T", "C"), {}, CALLS),
        (("C", "T"), {}, [0, 1, 2, NAN, 1]),
        (("A", "G"), {}, CALLS),
        (("G", "A"), {}, [0, 1, 2, NAN, 1]),
        (("0", "C"), {}, [0, 0, 0, NAN, 0]),
        (("CTT", "CT"), {"reference": "C", "effect": "CT"}, CALLS),
        (("T", "C"), {"at": None, "id": "rs5"}, CALLS),
        (("T", "C"), {"id": "rs5"}, CALLS),
    ],
)
def test_alleles_strands_and_names(
    tmp_path: Path, alleles: tuple[str, str], variant: dict[str, Any], expected: list[float]
) -> None:
    path = write(tmp_path, [("7:400", "rs4", "A", "G"), ("7:500", "rs5", *alleles), ("7:600", "rs6", "A", "G")])
    spec = panel({"v": {**CT, **variant}})
    np.testing.assert_equal(dosages(spec, read(spec, path, SAMPLES), "v"), expected)


@pytest.mark.parametrize("people", [1, 3, 4, 5, 8, 9])
def test_against_bed_reader(tmp_path: Path, people: int) -> None:
    rng = np.random.default_rng(people)
    names = [f"S{number}" for number in range(people)]
    first = rng.choice([0, 1, 2, NAN], size=(people, 7))
    path = write_plink(tmp_path / "a.bed", names, [(f"{n + 1}:9", f"rs{n}", "A", "G") for n in range(7)], first)
    spec = panel({f"v{n}": {"id": f"rs{n}", "reference": "G", "effect": "A", "indicator": True} for n in range(7)})
    chosen = [names[number] for number in rng.permutation(people)][: max(1, people - 2)]
    block = read(spec, path, chosen)
    with open_bed(path) as bed:
        told = bed.read(index=([names.index(name) for name in chosen], slice(None)), dtype=np.float64)
    np.testing.assert_equal(np.array([dosages(spec, block, f"v{n}") for n in range(7)]).T, told)


def test_a_table_of_samples(tmp_path: Path) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C")])
    (tmp_path / "samples.csv").write_text("sample_id,patient_id\nPAT-3,Q1\nPAT-2,Q2\n")
    spec = panel({"v": CT}, samples="samples")
    assert dosages(spec, read(spec, path, ["Q2", "Q1", "Q2"], tmp_path / "samples.csv"), "v") == [1, 0, 1]


def test_sex_of_the_fam_file(tmp_path: Path) -> None:
    places = ["23:50000000", "24:9000000", "25:20000", "26:100"]
    first = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2], [1, 1, 1, 1]])
    variants = [(place, f"rs{number}", "T", "C") for number, place in enumerate(places)]
    path = write(tmp_path, variants, first=first, sex=[1, 2, 1, 2, 0])
    names = ("X:50000000", "Y:9000000", "X:20000", "MT:100")
    spec = panel({f"v{number}": {**CT, "at": at} for number, at in enumerate(names)})
    block = read(spec, path, SAMPLES)
    expected = [[NAN, 1, 2, 2, 1], [NAN, NAN, 2, NAN, NAN], [1, 1, 2, 2, 1], [NAN, NAN, 2, 2, NAN]]
    for number, column in enumerate(expected):
        np.testing.assert_equal(dosages(spec, block, f"v{number}"), column)
    assert block.counts["calls of two alleles where there is one copy"] == 6
    assert block.counts["calls on Y of females"] == 2


def refused(path: Path, variant: dict[str, Any] = CT, **rules: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(panel({"v": variant}, **rules), path, SAMPLES)
    assert "PAT-" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".bim", ".fam", ".bed"])
def test_a_file_that_is_missing(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C")])
    path.with_suffix(ending).unlink()
    says = refused(path)
    assert "there is no such file" in says if ending == ".bed" else f"the {ending} file beside it is missing" in says


def test_a_file_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = write(tmp_path / "inner", [("7:500", "rs5", "T", "C")])
    shutil.move(path.with_suffix(".fam"), tmp_path / "outside.fam")
    path.with_suffix(".fam").symlink_to(tmp_path / "outside.fam")
    assert "leads out of the folder" in refused(path)


def test_a_fileset_may_be_linked_to_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = write(tmp_path / "store", [("7:500", "rs5", "T", "C")])
    for ending in (".bed", ".bim", ".fam"):
        (tmp_path / f"here{ending}").symlink_to(store.with_suffix(ending))
    spec = panel({"v": CT})
    np.testing.assert_equal(dosages(spec, read(spec, tmp_path / "here.bed", SAMPLES), "v"), CALLS)


MORE = "".join(f"F9 PAT-{number} 0 0 0 0\n" for number in range(6, 10))


@pytest.mark.parametrize(
    ("ending", "change", "says"),
    [
        (".fam", lambda text: text + MORE, "1 variant of 9 samples take 6 bytes, the file has 5"),
        (".fam", lambda text: text.splitlines()[0], "1 variant of 1 sample take 4 bytes, the file has 5"),
        (".fam", lambda text: "", "lists no samples"),
        (".fam", lambda text: text.replace("PAT-2", "PAT-1"), "1 sample id standing there more than once"),
        (".fam", lambda text: text.replace("PAT-2", "PAT 2"), "line 2 has 7 columns where 6 are expected"),
        (".bim", lambda text: text + text, "does not fit its .bim and .fam: 2 variants of 5 samples take 7 bytes"),
        (".bim", lambda text: "", "does not fit its .bim and .fam: 0 variants"),
        (".bim", lambda text: text.replace("500", "x"), "line 1 has no position in its fourth column"),
        (".bim", lambda text: text.replace("\tT\t", "\t"), "line 1 has 5 columns"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, ending: str, change: Any, says: str) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C")]).with_suffix(ending)
    path.write_text(change(path.read_text()))
    assert says in refused(path.with_suffix(".bed"))


def test_fewer_people_than_calls_in_the_last_byte(tmp_path: Path) -> None:
    path = write_plink(tmp_path / "a.bed", SAMPLES[:4], [("7:500", "rs5", "T", "C")], np.array([[2.0], [1], [0], [0]]))
    fam = path.with_suffix(".fam")
    fam.write_text("\n".join(fam.read_text().splitlines()[:3]) + "\n")
    assert "holds calls of more samples than its .fam lists" in refused(path)


def test_beds_of_other_kinds(tmp_path: Path) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C")])
    whole = path.read_bytes()
    for start, says in ((b"\x6c\x1b\x00", "is ordered by sample"), (b"chr", "is not a PLINK .bed file")):
        path.write_bytes(start + whole[3:])
        assert says in refused(path)
    path.write_bytes(whole[:-1])
    assert "the file has 4" in refused(path)


@pytest.mark.parametrize(
    ("alleles", "variant", "says"),
    [
        (("C", "G"), {}, "1 variant with other alleles than the study's, on either strand: 'v'"),
        (("T", "C"), {"id": "rs5", "at": "7:400"}, "1 variant with the id of the study at another place: 'v'"),
        (("T", "C"), {"at": "8:500"}, "holds none of the study's 1 variant"),
    ],
)
def test_variants_that_cannot_be_resolved(
    tmp_path: Path, alleles: tuple[str, str], variant: dict[str, Any], says: str
) -> None:
    assert says in refused(write(tmp_path, [("7:500", "rs5", *alleles)]), {**CT, **variant})


def test_a_variant_twice(tmp_path: Path) -> None:
    first = np.array([CALLS, [*CALLS[:4], 2]]).T
    path = write(tmp_path, [("7:500", "rs5", "T", "C"), ("7:500", "x", "T", "C")], first=first)
    assert "1 variant standing in more than one record: 'v'" in refused(path)


def test_palindromic_variants(tmp_path: Path) -> None:
    at = {**CT, "at": "7:600", "reference": "A", "effect": "T"}
    path = write(tmp_path, [("7:500", "rs5", "T", "C"), ("7:600", "rs6", "T", "A")])
    spec = panel({"v": CT, "p": at})
    block = read(spec, path, SAMPLES)
    np.testing.assert_equal(dosages(spec, block, "p"), CALLS)
    assert any(
        "whose strand cannot be checked, taken to be on the strand of the study: 'p'" in one for one in block.warnings
    )
    path = write(tmp_path, [("7:500", "rs5", "A", "G"), ("7:600", "rs6", "T", "A")])  # one is on the other strand
    with pytest.raises(DataError, match=r"1 variant A/T or C/G of which the strand cannot be told: 'p'"):
        read(spec, path, SAMPLES)


def test_positions_of_another_build(tmp_path: Path) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C"), ("3:199000000", "rs6", "T", "C")])
    assert "another genome build than the study's GRCh38 (it looks like NCBI36)" in refused(path)
    path = write(tmp_path, [("7:500", "rs5", "T", "C")])
    assert any("does not say which genome build" in one for one in read(panel({"v": CT}), path, SAMPLES).warnings)
    assert not read(panel({"v": {**CT, "id": "rs5"}}), path, SAMPLES).warnings


def test_an_unknown_position_is_no_other_place(tmp_path: Path) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C"), ("9:0", "rs6", "T", "C")])
    spec = panel({"v": CT, "w": {**CT, "id": "rs6", "at": "9:44"}})
    assert any("missing in every patient: 'w'" in line for line in read(spec, path, SAMPLES).warnings)


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({"minimum_depth": 3}, "depths (DP)"),
        ({"minimum_quality": 3, "minimum_genotype_quality": 3}, "qualities (QUAL) and no genotype qualities (GQ)"),
        ({"dosage": "imputed"}, "imputed dosages"),
    ],
)
def test_rules_that_plink_cannot_tell_of(tmp_path: Path, rules: dict[str, Any], what: str) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C")])
    assert f"PLINK files hold no {what}, which the study's rules need" in refused(path, **rules)


def test_nobody_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, [("7:500", "rs5", "T", "C")])
    problems = Problems("north")
    read_panel(panel({"v": CT}), path, ["Q1"], None, problems)
    with pytest.raises(DataError) as caught:
        problems.raise_any()
    assert "none of its 5 samples belongs to a patient" in str(caught.value)
    assert PlinkPanel(path).samples == SAMPLES

"""Panels out of VCF and BCF files: dosages, rules, one copy, imputed dosages, indexes."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genomic_files import Line, Vcf, dosages, panel, read

from pmfed.cohort.genomics import vcf
from pmfed.errors import DataError

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4")
CALLS = ("0/0", "0|1", "1/1", "./.")
FILES = ("a.vcf.gz", "a.vcf", "a.bcf")
CT: dict[str, Any] = {"at": "7:500", "reference": "C", "effect": "T", "indicator": True}


def one(tmp_path: Path, line: Line, variant: dict[str, Any] = CT, name: str = "a.vcf.gz", **rules: Any) -> list[float]:
    """Return the dosages of one variant in one record."""
    spec = panel({"v": variant}, **rules)
    path = Vcf(SAMPLES, [line]).write(tmp_path / name)
    return dosages(spec, read(spec, path, SAMPLES), "v")


def refused(
    tmp_path: Path, vcf: Vcf, variant: dict[str, Any] = CT, patients: tuple[str, ...] = SAMPLES, **rules: Any
) -> str:
    path = vcf.write(tmp_path / "a.vcf.gz")
    with pytest.raises(DataError) as caught:
        read(panel({"v": variant}, **rules), path, patients)
    assert "PAT-" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ({"reference": "C", "effect": "T"}, [0, 1, 2, NAN]),
        ({"reference": "T", "effect": "C"}, [2, 1, 0, NAN]),
        ({"reference": "G", "effect": "A"}, [0, 1, 2, NAN]),
        ({"reference": "A", "effect": "G"}, [2, 1, 0, NAN]),
        ({"at": None, "id": "rs5"}, [0, 1, 2, NAN]),
        ({"at": None, "id": "rs6"}, [0, 1, 2, NAN]),
        ({"at": "chr7:500", "id": "rs5"}, [0, 1, 2, NAN]),
    ],
)
def test_strands_swaps_and_names(tmp_path: Path, name: str, variant: dict[str, Any], expected: list[float]) -> None:
    line = Line("7:500", "C>T", CALLS, name="rs5;rs6")
    np.testing.assert_equal(one(tmp_path, line, {**CT, **variant}, name), expected)


def test_chromosomes_may_be_called_chr(tmp_path: Path) -> None:
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)], prefix="chr").write(tmp_path / "a.vcf.gz")
    spec = panel({"v": CT})
    np.testing.assert_equal(dosages(spec, read(spec, path, SAMPLES), "v"), [0, 1, 2, NAN])


@pytest.mark.parametrize(
    ("alleles", "calls", "expected"),
    [
        ("C>A,T", ("0/2", "1/2", "2/2", "1/1"), [1, 1, 2, 0]),
        ("C>T,<NON_REF>", ("0/1", "0/2", "1/1", "0/0"), [1, 0, 2, 0]),
        ("C>.", ("0/0", "0/0", "./.", "0/0"), [0, 0, NAN, 0]),
        ("CA>C,TA", ("0/2", "1/2", "2|2", "0/1"), [1, 1, 2, 0]),
        ("C>T", ("./1", "1|.", "0/.", "0/1"), [NAN, NAN, NAN, 1]),
        ("C>T", ("1", "0", ".", "0/1"), [2, 0, NAN, 1]),
        ("C>T", ("0/1/1", "0/1", "0/0/0", "0/0"), [NAN, 1, NAN, 0]),
        ("C>A,G,CA,CC,CG,CAA,CAC,CAG,CCC,CCA,T", ("0/11", "11|11", "1/10", "./."), [1, 2, 0, NAN]),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_calls(tmp_path: Path, name: str, alleles: str, calls: tuple[str, ...], expected: list[float]) -> None:
    np.testing.assert_equal(one(tmp_path, Line("7:500", alleles, calls), name=name), expected)


def test_what_was_seen_is_counted(tmp_path: Path) -> None:
    spec = panel({"v": CT, "w": {**CT, "at": "7:600"}, "x": {**CT, "at": "7:700", "reference": "G", "effect": "A"}})
    lines = [
        Line("7:500", "C>A,T", ("0/1", "./1", "./.", "0/2")),
        Line("7:600", "T>C", ("1", "0/1", "0/1/1", "0/0")),
        Line("7:700", "C>T", CALLS, passed="LowQual"),
    ]
    block = read(spec, Vcf((*SAMPLES[:3], "PAT-9"), lines).write(tmp_path / "a.vcf.gz"), SAMPLES)
    assert block.present.tolist() == [True, True, True, False]
    assert block.missing == {"v": 2, "w": 1, "x": 3}
    assert dict(block.counts) == {
        "samples in the file": 4,
        "samples of no patient": 1,
        "patients without a sample": 1,
        "variants found": 3,
        "variants failing FILTER or QUAL": 1,
        "variants written on the other strand": 1,
        "variants with the counted allele as the file's reference": 1,
        "variants with more than two alleles": 1,
        "calls half missing": 1,
        "calls missing": 1,
        "calls of more than two copies": 1,
        "calls of one copy": 1,
    }
    assert any("rules on FILTER or QUAL, missing: 'x'." in line for line in block.warnings)
    assert "PAT-" not in repr(block)


def test_inputs_are_centred_and_missing_ones_are_the_centre(tmp_path: Path) -> None:
    spec = panel({"v": {**CT, "frequency": 0.2}, "a": {**CT, "at": "7:501", "frequency": 0.0, "indicator": False}})
    lines = [Line("7:500", "C>T", CALLS), Line("7:501", "C>T", CALLS)]
    block = read(spec, Vcf(SAMPLES, lines).write(tmp_path / "a.vcf.gz"), (*SAMPLES, "PAT-2", "nobody"))
    assert spec.names == ("a", "v", "v missing")
    scale = np.sqrt(0.32)
    expected = [
        [0, -0.4 / scale, 0],
        [1, 0.6 / scale, 0],
        [2, 1.6 / scale, 0],
        [0, 0, 1],
        [1, 0.6 / scale, 0],
        [0, 0, 0],
    ]
    np.testing.assert_allclose(block.inputs, expected, rtol=1e-6)
    assert block.present.tolist() == [True] * 5 + [False]
    assert block.missing == {"a": 1, "v": 1}


@pytest.mark.parametrize(
    ("rules", "line", "expected"),
    [
        ({"minimum_depth": 10}, {"format": "GT:DP", "calls": ("0/0:9", "0/1:10", "1/1:.", "0/0")}, [NAN, 1, NAN, NAN]),
        ({"minimum_depth": 10}, {}, [NAN, NAN, NAN, NAN]),
        ({"minimum_genotype_quality": 20}, {"format": "GT:GQ", "calls": ("0/0:19", "0/1:20", "1/1:99", "./.:50")}, [NAN, 1, 2, NAN]),
        ({"minimum_quality": 30}, {"quality": "29.9"}, [NAN, NAN, NAN, NAN]),
        ({"minimum_quality": 30}, {"quality": "30"}, [0, 1, 2, NAN]),
        ({"minimum_quality": 30}, {"quality": "."}, [NAN, NAN, NAN, NAN]),
        ({}, {"passed": "LowQual"}, [NAN, NAN, NAN, NAN]),
        ({}, {"passed": "."}, [0, 1, 2, NAN]),
        ({"passed": False}, {"passed": "LowQual"}, [0, 1, 2, NAN]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", FILES)
def test_rules(tmp_path: Path, name: str, rules: dict[str, Any], line: dict[str, Any], expected: list[float]) -> None:
    record = Line(**{"place": "7:500", "alleles": "C>T", "calls": CALLS, **line})
    np.testing.assert_equal(one(tmp_path, record, name=name, **rules), expected)


def test_a_patient_with_too_few_calls_is_without_the_panel(tmp_path: Path) -> None:
    variants = {f"v{number}": {**CT, "at": f"7:{500 + number}"} for number in range(4)}
    calls = [("0/1", "0/1", "./.", "0/0"), ("0/1", "./.", "./.", "0/0"), ("0/1", "0/1", "0/0", "./.")]
    lines = [Line(f"7:{500 + number}", "C>T", call) for number, call in enumerate(calls)]
    vcf = Vcf(SAMPLES, lines).write(tmp_path / "a.vcf.gz")
    spec = panel(variants, minimum_sample_call_rate=0.6)
    block = read(spec, vcf, SAMPLES)
    assert block.present.tolist() == [True, True, False, True]
    assert not block.inputs[2].any()
    assert block.counts["patients with too few calls"] == 1
    bad = Line("7:503", "C>T", ("0/1",) * 4, passed="LowQual")  # which tells of no patient
    again = read(spec, Vcf(SAMPLES, [*lines, bad]).write(tmp_path / "b.vcf.gz"), SAMPLES)
    assert again.present.tolist() == block.present.tolist()
    alone = read(spec, vcf, SAMPLES[1:2])  # of who else is there, nothing follows
    assert np.array_equal(alone.inputs[0], block.inputs[1])


SEXES = "sample_id,patient_id,sex\nPAT-1,PAT-1,male\nPAT-2,PAT-2,male\nPAT-3,PAT-3,female\nPAT-4,PAT-4,\n"


@pytest.mark.parametrize(
    ("place", "calls", "expected"),
    [
        ("X:50000000", ("0/1", "1", "0/1", "0/1"), [NAN, 2, 1, 1]),
        ("X:50000000", ("1/1", "0", "1/1", "0|0"), [2, 0, 2, 0]),
        ("X:20000", ("0/1", "1/1", "0/1", "0/0"), [1, 2, 1, 0]),
        ("Y:9000000", ("1", "0/1", "0/0", "1/1"), [2, NAN, NAN, 2]),
        ("MT:100", ("1", "0/1", "1", "0/0"), [2, NAN, 2, 0]),
    ],
)
def test_one_copy(tmp_path: Path, place: str, calls: tuple[str, ...], expected: list[float]) -> None:
    (tmp_path / "samples.csv").write_text(SEXES)
    variant = {**CT, "at": place}
    spec = panel({"v": variant}, samples="samples", sex="sex")
    path = Vcf(SAMPLES, [Line(place, "C>T", calls)]).write(tmp_path / "a.vcf.gz")
    block = read(spec, path, SAMPLES, tmp_path / "samples.csv")
    np.testing.assert_equal(dosages(spec, block, "v"), expected)


@pytest.mark.parametrize(
    ("alleles", "variant", "calls", "expected"),
    [
        ("C>T", {}, ("0/0:0.1", "0/1:1.25", "1/1:2", "./.:."), [0.1, 1.25, 2, NAN]),
        ("T>C", {}, ("0/0:0.1", "0/1:1.25", "1/1:2", "./.:."), [1.9, 0.75, 0, NAN]),
        ("C>A,T", {}, ("0/0:0.5,0.25", "0/1:0,1", "1/1:1,1", "./.:."), [0.25, 1, 1, NAN]),
        ("C>T", {}, ("1:0.75", "0:0", "0/1:1", "1:1"), [1.5, 0, 1, 2]),
        ("C>A", {}, ("0/0:0.1", "0/1:1.25", "1/1:2", "./.:."), [0, 0, 0, NAN]),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_imputed_dosages(
    tmp_path: Path, name: str, alleles: str, variant: dict[str, Any], calls: tuple[str, ...], expected: list[float]
) -> None:
    line = Line("7:500", alleles, calls, format="GT:DS")
    told = one(tmp_path, line, {**CT, **variant}, name, dosage="imputed")
    np.testing.assert_allclose(told, expected, atol=1e-4)


def test_imputed_dosages_without_calls(tmp_path: Path) -> None:
    line = Line("7:500", "C>T", ("0.5", "1", "2", "."), format="DS")
    np.testing.assert_allclose(one(tmp_path, line, dosage="imputed"), [0.5, 1, 2, NAN], atol=1e-4)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        (("0/0:2.1", "0/1:1", "0/1:1", "0/1:1"), "1 imputed dosages (DS) below 0 or above the number of copies"),
        (("0/0:-0.1", "0/1:1", "1:1.5", "0/1:1"), "2 imputed dosages"),
        (("0/0:0,1", "0/1:1,0", "0/1:1,0", "0/1:1,0"), "imputed dosages (DS) of 2 alleles where it lists 1"),
    ],
)
def test_impossible_imputed_dosages(tmp_path: Path, calls: tuple[str, ...], says: str) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "C>T", calls, format="GT:DS")])
    assert says in refused(tmp_path, vcf, dosage="imputed")


@pytest.mark.parametrize(
    ("rules", "name"),
    [({"dosage": "imputed"}, "DS"), ({"minimum_depth": 3}, "DP"), ({"minimum_genotype_quality": 3}, "GQ"), ({}, "GT")],
)
def test_a_rule_that_the_file_cannot_tell_of(tmp_path: Path, rules: dict[str, Any], name: str) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)], formats=[one for one in ("GT", "DP", "GQ", "DS") if one != name])
    assert f"its header does not declare {name}, which the study's rules need" in refused(tmp_path, vcf, **rules)


@pytest.mark.parametrize(
    ("line", "variant", "says"),
    [
        (Line("7:500", "A>C", CALLS), {}, "1 variant with other alleles than the study's, on either strand: 'v'"),
        (Line("7:500", "T>A", CALLS), {"reference": "A"}, "1 variant A/T or C/G of which the strand cannot be told: 'v'"),
        (Line("7:400", "C>T", CALLS, name="rs5"), {"id": "rs5"}, "1 variant with the id of the study at another place: 'v'"),
        (Line("7:501", "C>T", CALLS), {}, "holds none of the study's 1 variant"),
    ],
)  # fmt: skip
def test_variants_that_cannot_be_resolved(tmp_path: Path, line: Line, variant: dict[str, Any], says: str) -> None:
    assert says in refused(tmp_path, Vcf(SAMPLES, [line]), {**CT, **variant})


def test_a_palindromic_variant_with_the_genomes_reference_is_taken(tmp_path: Path) -> None:
    np.testing.assert_equal(one(tmp_path, Line("7:500", "A>T", CALLS), {**CT, "reference": "A"}), [0, 1, 2, NAN])


def test_the_record_that_lists_the_counted_allele_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        Line("7:499", "ACC>A", ("0/1",) * 4),
        Line("7:500", "C>A", ("0/1", "0/0", "0/0", "0/0")),
        Line("7:500", "C>T", CALLS),
        Line("7:500", "CC>C", ("0/1",) * 4),
    ]
    spec = panel({"v": CT, "early": {**CT, "at": "7:499", "reference": "ACC", "effect": "A"}})
    for index, near in ((True, 0), (True, 1000), (False, 0)):  # also where the look-up of one place meets the other
        monkeypatch.setattr(vcf, "NEAR", near)
        path = Vcf(SAMPLES, lines).write(tmp_path / f"{index}.vcf.gz", index)
        block = read(spec, path, SAMPLES)
        np.testing.assert_equal(dosages(spec, block, "v"), [0, 1, 2, NAN])
        assert dosages(spec, block, "early") == [1, 1, 1, 1]


def test_a_variant_in_two_records(tmp_path: Path) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS), Line("7:500", "C>G,T", CALLS)])
    assert "1 variant standing in more than one record: 'v'" in refused(tmp_path, vcf)


def test_a_variant_that_is_not_there_and_one_whose_allele_is_not(tmp_path: Path) -> None:
    spec = panel({"v": CT, "gone": {**CT, "at": "9:1"}, "unseen": {**CT, "at": "7:600"}})
    lines = [Line("7:500", "C>T", CALLS), Line("7:600", "C>A", CALLS)]
    block = read(spec, Vcf(SAMPLES, lines).write(tmp_path / "a.vcf.gz"), SAMPLES)
    assert np.isnan(dosages(spec, block, "gone")).all()
    np.testing.assert_equal(dosages(spec, block, "unseen"), [0, 0, 0, NAN])
    assert block.missing == {"v": 1, "gone": 4, "unseen": 1}
    assert any(
        line.endswith("variants not in the file and so missing in every patient: 'gone'.") for line in block.warnings
    )
    assert any(line.endswith("does not list the counted allele, so 0: 'unseen'.") for line in block.warnings)


def test_another_build(tmp_path: Path) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)], build="GRCh37")
    assert "another genome build than the study's GRCh38 (it looks like GRCh37)" in refused(tmp_path, vcf)


def test_a_build_that_is_not_stated(tmp_path: Path) -> None:
    path = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS, name="rs5")], build=None).write(tmp_path / "a.vcf.gz")
    assert any("does not say which genome build" in line for line in read(panel({"v": CT}), path, SAMPLES).warnings)
    confirmed = read(panel({"v": {**CT, "id": "rs5"}}), path, SAMPLES)
    assert not confirmed.warnings
    assert confirmed.counts["variants found by id and place"] == 1


def test_samples_whose_names_the_library_would_misread(tmp_path: Path) -> None:
    samples = ("^PAT-1", "PAT,2", "PAT-3")
    path = Vcf(samples, [Line("7:500", "C>T", ("0/0", "0/1", "1/1"))]).write(tmp_path / "a.vcf.gz", index=False)
    spec = panel({"v": CT})
    for chosen, expected in ((samples[1:], [1, 2]), (samples[:1], [0]), (samples[::-1], [2, 1, 0])):
        assert dosages(spec, read(spec, path, chosen), "v") == expected


def test_a_table_of_samples_and_nobody_in_common(tmp_path: Path) -> None:
    vcf = Vcf(SAMPLES, [Line("7:500", "C>T", CALLS)])
    assert "none of its 4 samples belongs to a patient" in refused(tmp_path, vcf, patients=("Q1",))
    assert "1 sample id standing there more than once" in refused_twice(tmp_path)
    (tmp_path / "samples.csv").write_text("tube,patient_id\nPAT-2,Q1\nPAT-1,Q2\n")
    spec = panel({"v": CT}, samples="samples", sample="tube")
    block = read(spec, tmp_path / "a.vcf.gz", ("Q1", "Q2", "Q1"), tmp_path / "samples.csv")
    assert dosages(spec, block, "v") == [1, 0, 1]


def refused_twice(tmp_path: Path) -> str:
    text = Vcf(("PAT-1", "PAT-1"), [Line("7:500", "C>T", ("0/0", "0/1"))]).text()
    path = tmp_path / "twice.vcf.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DataError) as caught:
        read(panel({"v": CT}), path, SAMPLES)
    assert "PAT-" not in str(caught.value)
    return str(caught.value)

"""Copy numbers of regions out of structural calls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genomic_files import Line, Vcf
from readings import read_copy_number

from pmfed.cohort.block import Block
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.genomics import CopyNumber

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4")
REGION = {"at": "22:1001-2000", "indicator": True}


def spec(regions: dict[str, dict[str, Any]] | None = None, **rules: Any) -> CopyNumber:
    said = {"source": "cnv", "build": "GRCh38", "regions": regions or {"gene": REGION}, **rules}
    return CopyNumber.model_validate(said)


def read(path: Path, study: CopyNumber, patients: tuple[str, ...] = SAMPLES) -> Block:
    problems = Problems("north")
    block = read_copy_number(study, path, patients, None, problems)
    problems.raise_any()
    return block


def copies(tmp_path: Path, *lines: Line, **rules: Any) -> list[float]:
    block = read(Vcf(SAMPLES, lines).write(tmp_path / "cnv.vcf.gz"), spec(**rules))
    return [NAN if gone else float(value) + 2 for value, gone in block.inputs]


def line(start: int, end: int, allele: str, calls: tuple[str, ...], **other: Any) -> Line:
    return Line(f"22:{start - 1}", f"N>{allele}", calls, **{"info": f"END={end}", **other})


@pytest.mark.parametrize(
    ("allele", "calls", "format", "expected"),
    [
        ("<DEL>", ("0/1", "1/1", "0/0", "./."), "GT", [1, 0, 2, NAN]),
        ("<DUP>", ("0/1", "1|1", "0/0", "./1"), "GT", [3, 4, 2, NAN]),
        ("<DUP:TANDEM>", ("0/1", "0/0", "0/0", "0/0"), "GT", [3, 2, 2, 2]),
        ("<CNV>", ("./.:5", "0/1:1", "0/0:2", "0/1:."), "GT:CN", [5, 1, 2, NAN]),
        ("<DEL>", ("0/1:0", "1/1:.", "0/0:.", "0/1:1"), "GT:CN", [0, 0, 2, 1]),
        ("<CN0>,<CN2>,<CN5>", ("0/1", "2/3", "0/0", "1/3"), "GT", [1, 7, 2, 5]),
        ("<CNV>", ("3", "2", ".", "12"), "CN", [3, 2, NAN, 8]),
        ("<DEL>,<INV>", ("0/1", "0/2", "1/2", "0/0"), "GT", [1, 2, 1, 2]),
        ("<DEL>", ("1", "0/1", "0/0", "0/0"), "GT", [NAN, 1, 2, 2]),
    ],
)
def test_copies_of_a_call(
    tmp_path: Path, allele: str, calls: tuple[str, ...], format: str, expected: list[float]
) -> None:
    np.testing.assert_equal(copies(tmp_path, line(500, 2500, allele, calls, format=format)), expected)


@pytest.mark.parametrize(
    ("start", "end", "overlap", "counts"),
    [
        (1001, 1500, 0.5, True),
        (1001, 1499, 0.5, False),
        (1501, 9000, 0.5, True),
        (1502, 9000, 0.5, False),
        (1001, 2000, 1.0, True),
        (1002, 2000, 1.0, False),
        (2000, 2000, 0.001, True),
        (2001, 3000, 0.001, False),
    ],
)
def test_how_much_must_be_covered(tmp_path: Path, start: int, end: int, overlap: float, counts: bool) -> None:
    found = copies(tmp_path, line(start, end, "<DEL>", ("0/1", "0/0", "0/0", "0/0")), overlap=overlap)
    assert found == [1 if counts else 2, 2, 2, 2]


def test_of_several_calls_the_one_that_covers_most_counts(tmp_path: Path) -> None:
    lines = (
        line(1001, 1700, "<DEL>", ("0/1", "0/1", "0/0", "1/1")),
        line(1001, 1900, "<DUP>", ("0/0", "0/1", "./.", "./.")),
        line(1101, 2000, "<DEL>", ("0/0", "1/1", "0/0", "0/0")),
    )
    found = copies(tmp_path, *lines)
    np.testing.assert_equal(found, [1, 3, NAN, 0])  # of 2 the first of two alike; of 4 a call beside a missing one
    for patient in range(4):  # and nobody's number depends on who else is read
        block = read(tmp_path / "cnv.vcf.gz", spec(), (SAMPLES[patient],))
        assert block.inputs[0, 1] == np.isnan(found[patient])
        np.testing.assert_equal(block.inputs[0, 0] + 2, 2.0 if np.isnan(found[patient]) else found[patient])


@pytest.mark.parametrize(
    ("info", "expected"),
    [("SVLEN=-1200", 1), ("SVLEN=1200;SVTYPE=DEL", 1), ("END=2000;SVLEN=-5", 1), ("SVLEN=-100", 2)],
)
def test_where_a_call_ends(tmp_path: Path, info: str, expected: float) -> None:
    call = line(1001, 0, "<DEL>", ("0/1", "0/0", "0/0", "0/0"), info=info)
    assert copies(tmp_path, call)[0] == expected


def test_other_records_and_rules(tmp_path: Path) -> None:
    calls = ("0/1", "0/1", "0/1", "0/1")
    others = [
        Line("21:1000", "N><DEL>", calls, info="END=2000"),
        line(1001, 2000, "<INS>", calls),
        Line("22:1000", "N>A", calls),
        Line("22:1000", "N>A[21:5000[", calls),
        Line("22:1000", "N>[22:5000[A", calls),
    ]
    assert copies(tmp_path, *others) == [2, 2, 2, 2]
    bad = line(1001, 2000, "<DEL>", calls, passed="LowQual", quality="5")
    assert copies(tmp_path, bad) == [2, 2, 2, 2]
    assert copies(tmp_path, bad, passed=False) == [1, 1, 1, 1]
    assert copies(tmp_path, bad, passed=False, minimum_quality=10) == [2, 2, 2, 2]


def test_inputs_counts_and_the_maximum(tmp_path: Path) -> None:
    study = spec(
        {"a": {"at": "22:1001-2000", "scale": 2, "maximum": 6}, "b": {"at": "22:5001-6000", "indicator": True}}
    )
    lines = [
        line(1001, 2000, "<CNV>", ("9", "4", "2", "0"), format="CN"),
        line(5001, 6000, "<DEL>", ("0/1", "./.", "0/0", "0/0")),
    ]
    path = Vcf((*SAMPLES[:3], "PAT-9"), lines).write(tmp_path / "cnv.bcf")
    block = read(path, study, (*SAMPLES, "PAT-1"))
    assert study.names == ("a", "b", "b missing")
    expected = [[2, -1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0], [2, -1, 0]]
    np.testing.assert_array_equal(block.inputs, expected)
    assert block.present.tolist() == [True, True, True, False, True]
    assert block.missing == {"a": 0, "b": 1}
    assert dict(block.counts) == {
        "samples in the file": 4,
        "samples of no patient": 1,
        "patients without a sample": 1,
        "copies above the maximum": 1,
        "structural calls over the regions": 3,
    }
    assert "PAT-" not in repr(block)


def test_nothing_over_the_regions_is_said(tmp_path: Path) -> None:
    path = Vcf(SAMPLES, [line(1, 900, "<DEL>", ("0/1",) * 4)], build=None).write(tmp_path / "cnv.vcf")
    warnings = read(path, spec()).warnings
    assert any("no structural call covers any of the regions" in one for one in warnings)
    assert any("does not say which genome build" in one for one in warnings)


@pytest.mark.parametrize(
    ("vcf", "says"),
    [
        (Vcf(SAMPLES, [line(1001, 2000, "<DEL>", ("0/1",) * 4, info=".")]), "1 structural record with neither END nor SVLEN"),
        (Vcf(SAMPLES, [], build="GRCh37"), "another genome build"),
        (Vcf(SAMPLES, [], formats=["DP"]), "its header declares neither CN nor GT"),
        (Vcf(("Q1",), [], formats=["GT"]), "none of its 1 sample belongs to a patient"),
        (Vcf(SAMPLES, [line(1001, 2000, "<DEL>", ("0/3",) * 4)]), "names an allele that its record does not list"),
        (Vcf(SAMPLES, [line(1001, 2000, "<DEL>", ("0/x",) * 4)]), "line 37 cannot be read as it holds a malformed call"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, vcf: Vcf, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = vcf.write(tmp_path / "cnv.vcf.gz", index=False)
    capfd.readouterr()
    with pytest.raises(DataError) as caught:
        read(path, spec())
    assert says in str(caught.value)
    assert "PAT-" not in str(caught.value)
    assert not capfd.readouterr().err

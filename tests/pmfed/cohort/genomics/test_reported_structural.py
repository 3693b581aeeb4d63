"""Structural records as public bug reports tell of them: the copies a patient has left, or a sentence."""

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
from pmfed.modality.genomics import CopyNumber

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4")
EXTRA = (
    '##INFO=<ID=SVCLAIM,Number=A,Type=String,Description="x">',
    '##INFO=<ID=CN,Number=A,Type=Float,Description="x">',
    '##FORMAT=<ID=FT,Number=1,Type=String,Description="x">',
)
HET = ("0/1", "0/0", "0/0", "0/0")
FILES = ["a.vcf", "a.bcf"]


def read(path: Path, **rules: Any) -> Block:
    study = {
        "source": "cnv",
        "build": "GRCh38",
        "regions": {"gene": {"at": "22:1001-2000", "indicator": True, "maximum": 20}},
    }
    problems = Problems("north")
    block = read_copy_number(CopyNumber.model_validate({**study, **rules}), path, SAMPLES, None, problems)
    problems.raise_any()
    return block


def copies(block: Block) -> list[float]:
    return [NAN if gone else float(value) + 2 for value, gone in block.inputs]


def write(path: Path, *lines: Line, version: str = "VCFv4.2") -> Path:
    vcf = Vcf(SAMPLES, lines, extra=EXTRA)
    if path.suffix == ".bcf":
        return vcf.write(path, index=False)
    path.write_text(vcf.text().replace("VCFv4.2", version))
    return path


def line(alleles: str, *calls: str, at: int = 1000, info: str = "END=2000", format: str = "GT", **more: Any) -> Line:
    return Line(f"22:{at}", alleles, calls, info=info, format=format, **more)


LETTERS = "N" + "A" * 1200


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param((line("N><DEL>,<DUP>", "0/1", "0/2", "1/2", "0/0", info="SVLEN=-1200,100"),), [1, 2, 1, 2], id="hts-specs#640 SVLEN per allele"),
        pytest.param((line("N><DEL>,<DUP>", "0/1", "0/2", "1/2", "1/1", info="END=2200;SVLEN=-1200,1100"),), [1, 3, 2, 0], id="hts-specs#615 both alleles long"),
        pytest.param((line("N><DEL>", *HET, info="END=-1;SVLEN=1200"),), [1, 2, 2, 2], id="htsjdk#1823 END=-1"),
        pytest.param((line("N><DEL>", *HET, info="END=.;SVLEN=.,-1200"),), [1, 2, 2, 2], id="htsjdk#1823 END=."),
        pytest.param((line(f"{LETTERS}>N", "0/1", "1/1", "./.", "0/0", info="."),), [1, 0, NAN, 2], id="sniffles deletion in letters"),
        pytest.param((line(f"{LETTERS}>NAC,<DUP>", "0/1", "1/1", "1/2", "0/0", info="SVLEN=-1200,1200"),), [1, 0, 2, 2], id="pbsv deletion with letters in its place"),
        pytest.param((line(f"{LETTERS}>N{'C' * 1100}", *HET, info="."),), [2, 2, 2, 2], id="assembly a long exchange loses nothing"),
        pytest.param((line("N><CNV>", "0/1", "1/1", "0/0", "./.", info="END=2000;CN=3"),), [4, 6, 2, NAN], id="hts-specs#640 CN per allele"),
        pytest.param((line("N><CNV:TR>", "0/1", "1/1", "0/0", "0/0"),), [2, 2, 2, 2], id="hts-specs a tandem repeat is no copy of a gene"),
        pytest.param((line("N><DEL>", "1/0", "0/0", "1/0", "0/0"), line("N><DUP>", "0/1", "0/1", "0/0", "0/0")), [2, 3, 1, 2], id="bcftools norm -m- of <DEL>,<DUP>"),
        pytest.param((line("N><DEL>", "1/1", "0/1", "0/0", "0/0"), line("N><DUP>", "0/1", "0/1", "0/0", "0/0")), [NAN, 2, 2, 2], id="norm three copies in two lines"),
        pytest.param((line("N><DEL>", *HET), line("N><DEL>", *HET)), [1, 2, 2, 2], id="survivor one deletion twice"),
        pytest.param((line("N><DEL>", "0/1:PASS", "0/1:LowQual", "1/1:PASS", "0/0:HomRef", format="GT:FT"),), [1, NAN, 0, 2], id="delly FT"),
        pytest.param((line("N><INV>", *HET), line("N><INS:ME:ALU>", *HET, info="."), line("N><TRA>", *HET)), [2, 2, 2, 2], id="manta kinds that change no copies"),
        pytest.param((line("N>.", "3", "2", "1", ".", format="CN"),), [3, 2, 1, NAN], id="canvas a segment without ALT"),
        pytest.param((line("N><DEL>", "./1:1", "./.:2", "./1:.", "0/0:."  , format="GT:CN"),), [1, 2, NAN, 2], id="dragen ./1 with CN"),
    ],
)  # fmt: skip
def test_copies(tmp_path: Path, name: str, lines: tuple[Line, ...], expected: list[float]) -> None:
    np.testing.assert_equal(copies(read(write(tmp_path / name, *lines))), expected)


@pytest.mark.parametrize(
    ("version", "expected"), [("VCFv4.2", [1, 2, 2, 2]), ("VCFv4.4", [2, 2, 2, 2]), ("VCFv4.5", [2, 2, 2, 2])]
)
def test_from_vcf_4_4_the_length_decides(tmp_path: Path, version: str, expected: list[float]) -> None:
    """hts-specs#640: where END and SVLEN differ, VCF 4.4 takes SVLEN."""
    path = write(tmp_path / "a.vcf", line("N><DEL>", *HET, info="END=2000;SVLEN=100"), version=version)
    assert copies(read(path)) == expected


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        pytest.param((line("N>N[22:2001[", *HET, info="."),), "1 breakend call around", id="gridss deletion"),
        pytest.param((line("N>]22:1000]N", *HET, at=2001, info="."),), "1 breakend call around", id="gridss its mate"),
        pytest.param((line("N>]chr22:2000]N", *HET, info="."),), "1 breakend call around", id="svaba repeat"),
        pytest.param((line("N><DEL>", *HET, info="END=2000;SVCLAIM=J"),), "1 breakend call around", id="hts-specs SVCLAIM"),
        pytest.param((line("N><CPX>", *HET),), "1 other structural call over", id="gatk-sv complex"),
        pytest.param((line("N><INVDUP>", *HET),), "1 other structural call over", id="sniffles"),
    ],
)  # fmt: skip
def test_what_does_not_tell_copies_is_said(tmp_path: Path, name: str, lines: tuple[Line, ...], says: str) -> None:
    block = read(write(tmp_path / name, *lines))
    np.testing.assert_equal(copies(block), [NAN, 2, 2, 2])
    assert any(says in one for one in block.warnings)
    resolved = read(write(tmp_path / name, line("N><DEL>", *HET, at=999), *lines))  # and so is known
    np.testing.assert_equal(copies(resolved), [1, 2, 2, 2])
    failing = [Line(**{**one.__dict__, "passed": "LowQual"}) for one in lines]
    assert copies(read(write(tmp_path / name, *failing))) == [2, 2, 2, 2]


@pytest.mark.parametrize("alleles", ["N>N]22:2001]", "N>[22:2001[N", "N>N[21:2001[", "N>N.", "N>N[22:1100["])
def test_breakends_that_lose_nothing_of_the_region(tmp_path: Path, alleles: str) -> None:
    block = read(write(tmp_path / "a.vcf", line(alleles, *HET, info=".")))
    assert copies(block) == [2, 2, 2, 2]
    assert not any("breakend call" in one for one in block.warnings)


@pytest.mark.parametrize(("alleles", "expected"), [("N>]22:2000]N", NAN), ("N>N[22:2000[", 2), ("N>N[22:2001[", NAN)])
def test_a_repeat_includes_its_ends_and_a_deletion_does_not(tmp_path: Path, alleles: str, expected: float) -> None:
    found = copies(read(write(tmp_path / "a.vcf", line(alleles, *HET, info=".")), overlap=1.0))
    np.testing.assert_equal(found, [expected, 2, 2, 2])


def test_a_long_insertion_in_letters_is_said(tmp_path: Path) -> None:
    block = read(write(tmp_path / "a.vcf", line(f"N>N{'ACGT' * 300}", *HET, info=".")))
    assert copies(block) == [2, 2, 2, 2]
    assert any("1 inserted sequence as long as the regions" in one for one in block.warnings)

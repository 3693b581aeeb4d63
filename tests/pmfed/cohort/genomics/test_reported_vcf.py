"""Records as public bug reports tell of them, each the smallest input of its kind: the right dosage, or a sentence.

The first word of a case's name is where it was reported, `docs/formats-genomes.md` lists them with what comes of each.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from genomic_files import Line, Vcf, dosages, panel, read

from pmfed.cohort.genomics.header import fields
from pmfed.errors import DataError

NAN = math.nan
SAMPLES = ("PAT-1", "PAT-2", "PAT-3", "PAT-4")
CT: dict[str, Any] = {"at": "7:500", "reference": "C", "effect": "T", "indicator": True}
TC: dict[str, Any] = {**CT, "reference": "T", "effect": "C"}
FT = '##FORMAT=<ID=FT,Number=1,Type=String,Description="filter, per call">'
AD = '##FORMAT=<ID=AD,Number=R,Type=Integer,Description="reads, ID=XY, of each allele">'
FILES = ["a.vcf", "a.vcf.gz", "a.bcf"]


def vcf(*lines: Line, **more: Any) -> Vcf:
    return Vcf(SAMPLES, lines, extra=(FT, AD), **more)


def told(path: Path, variant: dict[str, Any], **rules: Any) -> list[float]:
    spec = panel({"v": variant}, **rules)
    return dosages(spec, read(spec, path, SAMPLES), "v")


def line(alleles: str, *calls: str, at: int = 500, format: str = "GT", **more: Any) -> Line:
    return Line(f"7:{at}", alleles, calls, format=format, **more)


SPLIT = (line("C>T", "1/0", "0/0", "0/1", "1/1"), line("C>G", "0/1", "0/1", "0/0", "0/0"))
HALVES = (line("C>T", "1/.", "0/0", "0/1", "./."), line("C>G", "./1", "0/0", "0/.", "1/1"))
LATER = (line("C>T", "0/1", "0/0", "0/1", "1/1"), line("C>G", "./.", "0/0", "0/0", "0/0"))
MIXED = (line("C>.", "0/0", "0/0", "./.", "0/0"), line("C>CAT", "0/1", "1/1", "0/0", "0/0"))
PADDED = line("GC>GT", "0/0", "0/1", "1/1", "./.", at=499)
RUN = line("ACA>GTA", "0/0", "0/1", "1/1", "./.", at=499)
TRAILING = line("CAG>TAG", "0/0", "0/1", "1/1", "./.")
COMPLEX = (line("CA>TGG", "0/0", "0/1", "1/1", "0/0"), line("C>T", "0/1", "0/0", "0/0", "0/0"))
SPANNED = (line("GAC>G", "0/1", "1/1", "0/0", "0/0", at=498), line("C>T", "0/0", "0/0", "0/1", "0/0"))
STARRED = (line("GAC>G", "0/1", "1/1", "0/0", "0/1", at=498), line("C>T,*", "1/2", "2/2", "0/1", "0/2"))
PARTIAL = (line("C>T,*", "0/1", "1/2", "0/0", "0/2"), line("CA>C,*A", "0/0", "0/2", "0/1", "0/2"))
TWO_WAYS = (line("CA>TG", "0/1", "0/0", "0/1", "0/0"), line("C>T", "0/0", "0/1", "0/1", "0/0"))
OVERFULL = (line("C>T", "1/1", "0/1", "0/0", "0/0"), line("C>G", "0/1", "0/1", "0/0", "0/0"))
DOUBTED = (line("C>T", "0/1", "0/0", "0/0", "0/1"), line("C>G", "0/0", "0/1", "0/0", "0/0", passed="LowQual"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("lines", "of_t", "of_c"),
    [
        pytest.param(SPLIT, [1, 0, 1, 2], [0, 1, 1, 0], id="bcftools#1764 split: 0 is any other allele"),
        pytest.param(HALVES, [1, 0, 1, 0], [0, 2, 1, 0], id="bcftools#343 split as 1/. and ./1"),
        pytest.param(LATER, [1, 0, 1, 2], [NAN, 2, 1, 0], id="bcftools#2339 missing in the other's line"),
        pytest.param(MIXED, [0, 0, NAN, 0], [2, 2, NAN, 2], id="bcftools#602 a line without ALT and an indel"),
        pytest.param((PADDED,), [0, 1, 2, NAN], [2, 1, 0, NAN], id="vt padded to the left"),
        pytest.param((RUN,), [0, 1, 2, NAN], [2, 1, 0, NAN], id="freebayes a run of bases that begins before"),
        pytest.param((TRAILING,), [0, 1, 2, NAN], [2, 1, 0, NAN], id="freebayes padded to the right"),
        pytest.param(COMPLEX, [1, NAN, NAN, 0], [1, NAN, NAN, 2], id="freebayes complex: the letters do not tell"),
        pytest.param(SPANNED, [0, 0, 1, 0], [1, 0, 1, 2], id="bcftools spanning deletion without a star"),
        pytest.param(STARRED, [1, 0, 1, 0], [0, 0, 1, 1], id="gatk#6683 the star is that deletion, not one more"),
        pytest.param(PARTIAL, [1, 1, 0, 0], [1, 0, 2, 1], id="octopus#212 *A"),
        pytest.param(TWO_WAYS, [1, 1, NAN, 0], [1, 1, NAN, 2], id="dragen a run and its parts"),
        pytest.param(OVERFULL, [NAN, 1, 0, 0], [NAN, 0, 2, 2], id="glnexus three copies in two lines"),
        pytest.param(DOUBTED, [1, 0, 0, 1], [1, NAN, 2, 1], id="vqsr the other allele's line fails"),
    ],
)
def test_several_records(
    tmp_path: Path, name: str, lines: tuple[Line, ...], of_t: list[float], of_c: list[float]
) -> None:
    path = vcf(*lines).write(tmp_path / name)
    np.testing.assert_equal(told(path, CT), of_t)
    np.testing.assert_equal(told(path, TC), of_c)
    flipped = {**CT, "reference": "G", "effect": "A"}
    np.testing.assert_equal(told(path, flipped), of_t)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("format", "calls", "rules", "expected"),
    [
        pytest.param("GT:FT", ("0/0:PASS", "0/1:LowQual", "1/1:.", "0/1:q10;PASS"), {}, [0, NAN, 2, NAN], id="gatk FT"),
        pytest.param("GT:FT", ("0/0:HomRef", "0/1:MinGQ", "1/1:PASS", "0/0"), {}, [0, NAN, 2, 0], id="manta FT HomRef"),
        pytest.param("GT:FT", ("0/0:a", "0/1:b", "1/1:a", "0/0"), {"passed": False}, [0, 1, 2, 0], id="gatk FT unasked"),
        pytest.param("GT:AD:DP", ("0/0:0,0:0", "0/1:3,4:7", "1/1:0,0:0", "0/0"), {}, [NAN, 1, NAN, 0], id="gatk#7792"),
        pytest.param("GT:DP:AD", ("0/0:0:0,0", "1/1:2:0,2", "0/1:.:.", "0/0:5"), {}, [NAN, 2, 1, 0], id="glnexus#286"),
        pytest.param("GT:DP", ("0/0:0", "0/1:0", "1/1:0", "0/0:1"), {"without_reads": "called"}, [0, 1, 2, 0], id="gatk#8328"),
        pytest.param("GT:DP:DS", ("0/0:0:0.5", "0/1:0:1", "1/1:9:2", "./.:0:0"), {"dosage": "imputed"}, [0.5, 1, 2, 0], id="gatk#8328 DS"),
        pytest.param("DP:GT", ("5:0/0", "5:0/1", "5:1/1", "5:./."), {}, [0, 1, 2, NAN], id="hts-specs GT not first"),
        pytest.param("GT", (".|.", "0|.", ".|1", "1|1"), {}, [NAN, NAN, NAN, 2], id="cyvcf2#332"),
        pytest.param("GT", ("0/1", "0", "1", "."), {}, [1, 0, 2, NAN], id="cyvcf2#227"),
    ],
)  # fmt: skip
def test_what_qualifies_a_call(
    tmp_path: Path, name: str, format: str, calls: tuple[str, ...], rules: dict[str, Any], expected: list[float]
) -> None:
    if name == "a.bcf" and not format.startswith("GT"):
        pytest.skip("BCF tells fields by name")
    np.testing.assert_equal(told(vcf(line("C>T", *calls, format=format)).write(tmp_path / name), CT, **rules), expected)


def test_what_was_passed_over_is_counted(tmp_path: Path) -> None:
    calls = ("0/0:PASS:0", "0/1:LowQual:4", "0/1:PASS:4", "0/1:PASS:4")
    lines = (line("C>T", *calls, format="GT:FT:DP"), line("C>G", "0/0", "0/0", "0/0", "1/1"))
    spec = panel({"v": CT})
    counts = read(spec, vcf(*lines, lines[1]).write(tmp_path / "a.vcf"), SAMPLES).counts
    assert {name: counts[name] for name in counts if "calls" in name or "record" in name} == {
        "calls failing FT": 1,
        "calls without reads (DP 0)": 1,
        "calls that several records contradict": 1,
        "variants over several records": 1,
        "records repeated": 1,
    }


@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz"])
@pytest.mark.parametrize("call", [("/0/0", "|0|1", "/1|1", "/.|."), ("|0", "0/1", "1|1", ".")])
def test_vcf_4_4_may_begin_a_call_with_its_phasing(tmp_path: Path, name: str, call: tuple[str, ...]) -> None:
    text = vcf(line("C>T", *call)).text().replace("VCFv4.2", "VCFv4.4")
    path = tmp_path / name
    if name == "a.vcf":
        path.write_text(text)
    else:
        with pysam.BGZFile(str(path), "w") as file:
            file.write(text.encode())
        pysam.tabix_index(str(path), preset="vcf")
    np.testing.assert_equal(told(path, CT), [0, 1, 2, NAN])


@pytest.mark.parametrize("name", FILES)
def test_lines_without_the_id_are_about_the_variant_too(tmp_path: Path, name: str) -> None:
    """hail#1010 and others: only one line of a split record keeps its rs number."""
    first, second = SPLIT
    path = vcf(Line("7:500", "C>T", first.calls, name="rs5"), second).write(tmp_path / name)
    np.testing.assert_equal(told(path, {**TC, "at": None, "id": "rs5"}), [0, 1, 1, 0])


def test_one_line_twice(tmp_path: Path) -> None:
    whole = line("C>T", "0/0", "0/1", "1/1", "./.")
    path = vcf(whole, whole).write(tmp_path / "a.vcf.gz")
    np.testing.assert_equal(told(path, CT), [0, 1, 2, NAN])
    path = vcf(whole, line("C>T", "0/0", "0/0", "1/1", "./.")).write(tmp_path / "b.vcf.gz")
    with pytest.raises(DataError, match="1 variant standing in more than one record: 'v'"):
        told(path, CT)


@pytest.mark.parametrize("name", FILES)
def test_a_reference_block_does_not_tell_a_base(tmp_path: Path, name: str) -> None:
    block = line("G><NON_REF>", "0/0", "0/0", "0/0", "0/0", at=400, info="END=600")
    beside = line("C>T", "0/0", "0/1", "1/1", "./.", at=700)
    spec = panel({"v": CT, "w": {**CT, "at": "7:700"}})
    block_of = read(spec, vcf(block, beside).write(tmp_path / name), SAMPLES)
    assert np.isnan(dosages(spec, block_of, "v")).all()
    np.testing.assert_equal(dosages(spec, block_of, "w"), [0, 1, 2, NAN])
    assert any("within a reference block of a gVCF" in one and "'v'" in one for one in block_of.warnings)
    assert not any("not in the file" in one for one in block_of.warnings)


def test_letters_lost_and_the_same_gained(tmp_path: Path) -> None:
    """In a run of one letter the panel's C>CT is CT>CTT where the genome has one T, and CT>C backwards where it has two."""
    path = vcf(line("CT>C,CTT", "0/1", "0/2", "1/2", "0/0")).write(tmp_path / "a.vcf")
    with pytest.raises(
        DataError, match="1 variant of which the file lists letters lost and the same letters gained: 'v'"
    ):
        told(path, {**CT, "reference": "C", "effect": "CT"})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("variant", "lines", "expected"),
    [
        ({"reference": "CT", "effect": "C"}, (line("GCT>GC,G", "0/1", "1/2", "1/1", "0/0", at=499),), [1, 1, 2, 0]),
        ({"reference": "C", "effect": "CT"}, (line("CT>C", "0/1", "0/0", "1/1", "./."),), [1, 2, 0, NAN]),
        (
            {"reference": "C", "effect": "CT"},
            (line("CT>C", "1/0", "0/0", "1/1", "0/0"), line("CT>CTG", "0/1", "0/1", "0/0", "0/0")),
            [1, 2, 0, 2],  # letters put in behind it change nothing of the deletion
        ),
        (
            {"reference": "CTT", "effect": "C"},
            (line("CTT>C", "1/0", "0/0", "0/1", "0/0"), line("CTT>CT", "0/1", "0/1", "0/0", "./.")),
            [1, 0, 1, 0],
        ),
        ({"reference": "GCT", "effect": "GC", "at": "7:499"}, (line("CT>C", "0/0", "0/1", "1/1", "./."),), [0, 1, 2, NAN]),
    ],
)  # fmt: skip
def test_longer_alleles(
    tmp_path: Path, name: str, variant: dict[str, Any], lines: tuple[Line, ...], expected: list[float]
) -> None:
    np.testing.assert_equal(told(vcf(*lines).write(tmp_path / name), {**CT, **variant}), expected)


def test_imputed_dosages_of_an_allele_in_a_line_of_its_own(tmp_path: Path) -> None:
    lines = (
        line("C>T", "0/1:1", "0/0:0.25", "0/0:.", "1/1:2", format="GT:DS"),
        line("C>G", "0/1:0.5", "0/0:0", "0/0:0", "0/0:0", format="GT:DS"),
    )
    path = vcf(*lines).write(tmp_path / "a.vcf")
    np.testing.assert_allclose(told(path, TC, dosage="imputed"), [0.5, 1.75, NAN, 0], atol=1e-3)
    np.testing.assert_allclose(told(path, CT, dosage="imputed"), [1, 0.25, NAN, 2], atol=1e-3)


def test_bcf_2_1_fills_up_with_missing_values(tmp_path: Path) -> None:
    """It has no sign for the end of a call: one copy is an allele and a missing value, which is no half call."""
    path = vcf(line("C>T", "1", "0/1", "./.", ".")).write(tmp_path / "a.bcf", index=False)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[4] = 1
    calls = content[-8:]  # two bytes for each sample; 0x81 is the end of a call
    assert calls.count(0x81) == 2
    content[-8:] = calls.replace(b"\x81", b"\x80")
    with pysam.BGZFile(str(path), "w") as file:
        file.write(bytes(content))
    np.testing.assert_equal(told(path, CT), [2, 1, NAN, NAN])
    content[4] = 2  # in BCF 2.2 it is half a call
    with pysam.BGZFile(str(path), "w") as file:
        file.write(bytes(content))
    np.testing.assert_equal(told(path, CT), [NAN, 1, NAN, NAN])


def test_a_description_that_looks_like_fields(tmp_path: Path) -> None:
    """samtools/hts-specs: commas, brackets and equal signs are allowed between quotation marks."""
    text = vcf(line("C>T", "0/0:3", "0/1:3", "1/1:3", "./.:3", format="GT:DP")).text()
    text = text.replace('Description="Depth"', 'Description="Depth >5,ID=GQ,IDX=1,Number=9,length=7"')
    text = text.replace("##contig=<ID=7,", '##contig=<assembly="b,ID=9,length=3",ID=7,')
    (tmp_path / "a.vcf").write_text(text)
    np.testing.assert_equal(told(tmp_path / "a.vcf", CT, minimum_depth=3), [0, 1, 2, NAN])
    with (
        pysam.VariantFile(str(tmp_path / "a.vcf")) as source,
        pysam.VariantFile(str(tmp_path / "a.bcf"), "wb", header=source.header) as to,
    ):
        for record in source:
            to.write(record)
    np.testing.assert_equal(told(tmp_path / "a.bcf", CT, minimum_depth=3), [0, 1, 2, NAN])


def test_a_description_with_marks_in_it_does_not_hide_the_number_behind() -> None:
    """Descriptions with unescaped quotation marks are common; BCF numbers the line behind them."""
    told = fields('##INFO=<ID=AF,Number=A,Type=Float,Description="the "best, one" of all, ID=XY",IDX=7>')
    assert told is not None
    assert (told[1]["ID"], told[1]["IDX"]) == ("AF", "7")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x28\xb5\x2f\xfd rest", "is packed with zstd, no VCF or BCF"),
        (b"BZh91AY", "is packed with bzip2, no VCF or BCF"),
        (b"PK\x03\x04..", "is a zip archive, no VCF or BCF"),
        (b"\x6c\x1b\x10\x00", "is a PLINK file, no VCF or BCF"),
        (b"CRAM\x03\x00", "is a file of reads (CRAM), no VCF or BCF"),
        (gzip.compress(b"BAM\x01\x00", mtime=0), "is a file of reads (BAM), no VCF or BCF"),
        (
            gzip.compress(b"BCF\x04" + struct.pack("<I", 3), mtime=0),
            "is BCF 1, which is no longer written, no VCF or BCF",
        ),
        (b"##fileformat=VCFv3.3\n#CHROM\n", "states VCF 3.3 in its first line; VCF 4 is read"),
        (b"##fileformat=VCF\n#CHROM\n", "states no version of VCF in its first line"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        told(path, CT)
    assert says in str(caught.value)


def test_what_became_of_the_calls_of_a_variant_is_counted(tmp_path: Path) -> None:
    lines = (
        line("C>T", "0/1:PASS", "1/1:bad", "./.:.", "0/0:bad", format="GT:FT"),
        line("C>T", "0/1", "0/1", "0/1", "0/1", at=600, passed="LowQual"),
    )
    other, absent = {**CT, "at": "7:600"}, {**CT, "at": "7:700"}
    block = read(panel({"v": CT, "failing": other, "gone": absent}), vcf(*lines).write(tmp_path / "a.vcf"), SAMPLES)
    told_of = {key: (use.used, dict(use.lost), use.passed.get("no value", 0)) for key, use in block.uses.items()}
    assert told_of == {
        "v": (1, {"calls failing FT": 2}, 1),
        "failing": (0, {"of a record that fails FILTER or QUAL": 4}, 0),
        "gone": (0, {}, 4),
    }

"""Genome builds: names of chromosomes, lengths, pseudoautosomal regions."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmfed.cohort.genomics.builds import Contig, check_build, check_ends, chromosome, haploid
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.genomics import LENGTHS

FILE = Path("calls.vcf.gz")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("1", "1"), ("chr22", "22"), ("CHRX", "X"), ("23", "X"), ("25", "X"), ("XY", "X"), ("PAR1", "X"),
        ("24", "Y"), ("chrM", "MT"), ("26", "MT"), ("MT", "MT"), ("01", "1"), ("10", "10"),
        ("0", None), ("GL000191.1", None), ("chrUn_KI270742v1", None), ("27", None), ("", None),
    ],
)  # fmt: skip
def test_names_of_chromosomes(name: str, plain: str | None) -> None:
    assert chromosome(name) == plain


def told(build: str, **changed: int) -> dict[str, Contig]:
    return {plain: Contig(f"chr{plain}", changed.get(plain, length)) for plain, length in LENGTHS[build].items()}


def problem(build: str, contigs: dict[str, Contig], words: str = "", used: tuple[str, ...] = ()) -> tuple[bool, str]:
    problems = Problems("north")
    stated = check_build(build, FILE, contigs, words, used, problems)
    try:
        problems.raise_any()
    except DataError as error:
        return stated, str(error)
    return stated, ""


def test_lengths_decide() -> None:
    assert problem("GRCh38", told("GRCh38")) == (True, "")
    stated, says = problem("GRCh38", told("GRCh37"), words="##reference=GRCh38.fa")
    assert not stated
    assert (
        "another genome build than the study's GRCh38 (it looks like GRCh37): 24 chromosomes of another length" in says
    )
    assert "lift the file over" in says
    assert "(it looks like" not in problem("GRCh38", told("GRCh38", **{"7": 159345972}))[1]


def test_the_mitochondrion_of_hg19_matters_only_where_it_is_used() -> None:
    hg19 = told("GRCh37", MT=16571)
    assert problem("GRCh37", hg19) == (True, "")
    assert "1 chromosome of another length" in problem("GRCh37", hg19, used=("1", "MT"))[1]
    assert problem("GRCh37", {"MT": Contig("MT", 16569)}) == (False, "")


@pytest.mark.parametrize(
    ("words", "build"),
    [
        ("##contig=<ID=1,assembly=b37>", "GRCh37"),
        ("##reference=file:///data/hs37d5.fa", "GRCh37"),
        ("##reference=hg38.fa", "GRCh38"),
        ("##reference=human_hg18.fasta", "NCBI36"),
    ],
)
def test_words_decide_where_lengths_are_silent(words: str, build: str) -> None:
    contigs = {"1": Contig("1")}
    assert problem(build, contigs, words) == (True, "")
    other = "GRCh38" if build != "GRCh38" else "GRCh37"
    assert f"(it looks like {build}): its header names it" in problem(other, contigs, words)[1]


def test_words_that_name_two_builds_or_none_decide_nothing() -> None:
    assert problem("GRCh38", {}, "##reference=hg19_to_hg38.fa") == (False, "")
    assert problem("GRCh38", {}) == (False, "")


def test_positions_beyond_the_end() -> None:
    problems = Problems("north")
    check_ends("GRCh37", FILE, {"1": 249250621, "22": 51304566}, problems)
    assert not problems
    check_ends("GRCh38", FILE, {"3": 198022430, "17": 83257442}, problems)
    with pytest.raises(DataError, match="positions beyond the end of 1 chromosome"):
        problems.raise_any()


def test_a_position_that_only_one_build_has_names_it() -> None:
    problems = Problems("north")
    check_ends("GRCh38", FILE, {"3": 199501827}, problems)
    with pytest.raises(DataError, match=r"it looks like NCBI36"):
        problems.raise_any()


@pytest.mark.parametrize(
    ("build", "plain", "position", "one"),
    [
        ("GRCh38", "X", 10001, False), ("GRCh38", "X", 2781479, False), ("GRCh38", "X", 2781480, True),
        ("GRCh38", "X", 155701382, True), ("GRCh38", "X", 155701383, False), ("GRCh38", "X", 156030895, False),
        ("GRCh37", "X", 60001, False), ("GRCh37", "X", 2699520, False), ("GRCh37", "X", 2699521, True),
        ("GRCh37", "X", 154931044, False), ("GRCh37", "Y", 2649520, False), ("GRCh37", "Y", 2649521, True),
        ("GRCh38", "Y", 56887903, False), ("GRCh38", "Y", 57217416, True), ("NCBI36", "X", 2709520, False),
        ("GRCh38", "MT", 1, True), ("GRCh38", "7", 1, False),
    ],
)  # fmt: skip
def test_where_males_have_one_copy(build: str, plain: str, position: int, one: bool) -> None:
    assert haploid(build, plain, position) is one


def test_lengths_are_those_of_a_real_header(public_data: Path) -> None:
    from pmfed.cohort.genomics.container import open_container

    file = open_container(public_data / "hapmap3_1kg_genotypes" / "1kg_phase3_chr21_start.vcf.gz")
    assert len(file.samples) == 2504
    lengths = {plain: contig.length for plain, contig in file.contigs.items()}
    assert lengths == {plain: LENGTHS["GRCh37"][plain] for plain in lengths}
    assert len(lengths) >= 24
    assert problem("GRCh37", file.contigs, file.words) == (True, "")
    assert "it looks like GRCh37" in problem("GRCh38", file.contigs, file.words)[1]

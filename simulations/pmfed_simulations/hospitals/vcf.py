"""A hospital's genotypes as a bgzipped VCF with its tabix index, as its laboratory writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pmfed.modality.genomics import CHROMOSOMES, LENGTHS
from pmfed_simulations.hospitals.habits import Laboratory
from pmfed_simulations.hospitals.history import Hospital
from pmfed_simulations.hospitals.model import PANEL, Ints, Locus

COMPLEMENT = str.maketrans("ACGT", "TGCA")
CONTROLS = 2  # samples of nobody, as laboratories sequence them along
BESIDE = 24  # variants outside the panel
_COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")

_HEADER = """##fileformat=VCFv4.2
##FILTER=<ID=PASS,Description="All filters passed">
##FILTER=<ID=LowQual,Description="Low quality">
##INFO=<ID=AN,Number=1,Type=Integer,Description="Alleles in called genotypes">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=GQ,Number=1,Type=Integer,Description="Genotype quality">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Read depth">
##reference=GRCh38
"""


def write_vcf(path: Path, hospital: Hospital) -> list[tuple[str, str]]:
    """Write the calls of those who were sequenced, and the index beside them.

    Samples have names of the laboratory's. The same arguments and the same pysam give the same bytes.

    Parameters
    ----------
    path
        Ends in ``.vcf.gz``.
    hospital
        One that has a laboratory.

    Returns
    -------
    list of (str, str)
        Patient and sample, in the order of the samples.
    """
    from pysam import BGZFile, tabix_index

    laboratory, calls = hospital.habits.laboratory, hospital.calls
    assert laboratory is not None
    rng = hospital.rng(5)
    patients = rng.permutation(np.flatnonzero(calls.sequenced))
    codes = rng.choice(16**6, len(patients) + CONTROLS, replace=False)
    names = [f"S{code:06X}" for code in codes]
    lines = [_HEADER]
    lines += [
        f"##contig=<ID={_contig(plain, laboratory)},length={LENGTHS['GRCh38'][plain]},assembly=GRCh38>\n"
        for plain in CHROMOSOMES
    ]
    lines.append("\t".join([*_COLUMNS, *names]) + "\n")
    records = [
        (locus.chromosome, locus.position, _line(locus, place, patients, hospital, laboratory, rng))
        for place, locus in enumerate(PANEL)
    ]
    records += [_other(laboratory, len(names), rng) for _ in range(BESIDE)]
    lines += [line for _, _, line in sorted(records, key=lambda one: (CHROMOSOMES.index(one[0]), one[1]))]
    with BGZFile(str(path), "wb") as file:  # type: ignore[call-arg]
        file.write("".join(lines).encode())
    tabix_index(str(path), preset="vcf", force=True)
    return [(str(hospital.people["id"][one]), name) for one, name in zip(patients, names, strict=False)]


def _contig(plain: str, laboratory: Laboratory) -> str:
    return laboratory.prefix + ("M" if plain == "MT" and laboratory.prefix else plain)


def _line(
    locus: Locus, place: int, patients: Ints, hospital: Hospital, laboratory: Laboratory, rng: np.random.Generator
) -> str:
    """Return a variant of the panel as the laboratory writes it."""
    ref, alt = locus.ref, locus.alt
    if locus.name in laboratory.exchanged:
        ref, alt = alt, ref
    counted = int(alt == locus.counted)  # place of the counted allele
    if locus.name in laboratory.reversed:
        ref, alt = ref.translate(COMPLEMENT), alt.translate(COMPLEMENT)
    dosage = np.append(hospital.people["dosage"][patients, place], rng.binomial(2, locus.frequency, CONTROLS))
    quality = np.append(hospital.calls.quality[patients, place], np.full(CONTROLS, 99))
    weak = (quality >= 0) & ~np.append(hospital.calls.seen[patients, place], np.ones(CONTROLS, dtype=bool))
    dosage = np.where(weak, rng.integers(0, 3, len(dosage)), dosage)  # a call of low quality says nothing
    return _written(locus.chromosome, locus.position, locus.name, (ref, alt), dosage, counted, quality, laboratory, rng)


def _other(laboratory: Laboratory, samples: int, rng: np.random.Generator) -> tuple[str, int, str]:
    """Return a variant that is not of the panel; its place is not that of one."""
    chromosome = str(rng.integers(1, 23))
    position = int(rng.integers(10_000, LENGTHS["GRCh38"][chromosome]))
    position += any((locus.chromosome, locus.position) == (chromosome, position) for locus in PANEL)
    alleles = ("CA", "C") if rng.random() < 0.2 else ("C", "T")
    dosage, quality = rng.binomial(2, rng.uniform(0.05, 0.5), samples), np.full(samples, 60)
    return chromosome, position, _written(chromosome, position, ".", alleles, dosage, 1, quality, laboratory, rng)


def _written(
    chromosome: str,
    position: int,
    name: str,
    alleles: tuple[str, str],
    dosage: Ints,
    counted: int,
    quality: Ints,
    laboratory: Laboratory,
    rng: np.random.Generator,
) -> str:
    order = rng.random(len(dosage)) < 0.5  # which chromosome of the pair comes first; only phased calls tell
    mark, rest = "|" if laboratory.phased else "/", 1 - counted
    cells = []
    for number, first, good, depth in zip(dosage, order, quality, rng.poisson(32, len(dosage)), strict=True):
        pair = (counted, counted) if number == 2 else (rest, rest) if number == 0 else (rest, counted)
        if number == 1 and laboratory.phased and first:
            pair = (counted, rest)
        elif number == 1 and not laboratory.phased:
            pair = (0, 1)
        cells.append(f"{pair[0]}{mark}{pair[1]}:{good}:{depth}" if good >= 0 else f".{mark}.:.:0")
    start = (_contig(chromosome, laboratory), position, name, *alleles, int(rng.integers(200, 3000)), "PASS")
    called = 2 * int((quality >= 0).sum())
    return "\t".join([*map(str, start), f"AN={called}", "GT:GQ:DP", *cells]) + "\n"

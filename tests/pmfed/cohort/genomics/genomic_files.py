"""Writers of small genomic files for the tests, by other libraries than those under test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pysam
from bed_reader import to_bed
from pysam import bcftools
from readings import read_panel

from pmfed.cohort.block import Block
from pmfed.cohort.tables import Problems
from pmfed.modality.genomics import LENGTHS, Panel

FORMATS = {
    "GT": '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
    "DP": '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">',
    "GQ": '##FORMAT=<ID=GQ,Number=1,Type=Integer,Description="Quality">',
    "DS": '##FORMAT=<ID=DS,Number=A,Type=Float,Description="Dosage">',
    "CN": '##FORMAT=<ID=CN,Number=1,Type=Integer,Description="Copies">',
}


@dataclass
class Line:
    """A record of a VCF; ``calls`` are its sample columns."""

    place: str
    alleles: str
    calls: Sequence[str]
    name: str = "."
    quality: str = "."
    passed: str = "PASS"
    info: str = "."
    format: str = "GT"

    def text(self) -> str:
        chromosome, position = self.place.split(":")
        reference, alternative = self.alleles.split(">", 1)
        columns = (chromosome, position, self.name, reference, alternative, self.quality, self.passed, self.info)
        return "\t".join((*columns, self.format, *self.calls))


@dataclass
class Vcf:
    """A VCF to be written; ``build`` gives the lengths of its chromosomes, None leaves them out."""

    samples: Sequence[str]
    lines: Sequence[Line]
    build: str | None = "GRCh38"
    prefix: str = ""
    formats: Sequence[str] = tuple(FORMATS)
    extra: Sequence[str] = field(default_factory=tuple)

    def text(self) -> str:
        head = ["##fileformat=VCFv4.2", '##FILTER=<ID=LowQual,Description="bad">', *self.extra]
        head += ['##INFO=<ID=END,Number=1,Type=Integer,Description="End">']
        head += ['##INFO=<ID=SVLEN,Number=.,Type=Integer,Description="Length">']
        head += ['##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">']
        for plain in LENGTHS["GRCh38"]:
            length = f",length={LENGTHS[self.build][plain]}" if self.build else ""
            head.append(f"##contig=<ID={self.prefix}{plain}{length}>")
        head += [FORMATS[name] for name in self.formats]
        head.append("\t".join(["#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT".replace(" ", "\t"), *self.samples]))
        return "\n".join([*head, *(self.prefix + line.text() for line in self.lines)]) + "\n"

    def write(self, path: Path, index: bool = True) -> Path:
        """Write as plain text (``.vcf``), bgzipped (``.vcf.gz``) or BCF (``.bcf``)."""
        if path.suffix == ".vcf":
            path.write_text(self.text(), encoding="utf-8")
        elif path.suffix == ".bcf":
            plain = path.with_suffix(".tmp.vcf")
            self.write(plain)
            with (
                pysam.VariantFile(str(plain)) as source,
                pysam.VariantFile(str(path), "wb", header=source.header) as to,
            ):
                for record in source:
                    to.write(record)
            if index:
                bcftools.index("-f", str(path))
        else:
            with pysam.BGZFile(str(path), "w") as file:
                file.write(self.text().encode())
            if index:
                pysam.tabix_index(str(path), preset="vcf", force=True)
        return path


def write_plink(
    path: Path,
    samples: Sequence[str],
    variants: Sequence[tuple[str, str, str, str]],
    first: Any,
    sex: Sequence[int] | None = None,
) -> Path:
    """Write a PLINK fileset by bed-reader.

    Parameters
    ----------
    variants
        Place, id, first and second allele of each.
    first
        (N, V) how many of the first allele, NaN for a missing call.
    """
    places = [place.split(":") for place, *_ in variants]
    properties = {
        "iid": list(samples),
        "fid": [f"F{number}" for number in range(len(samples))],
        "sex": list(sex) if sex is not None else [0] * len(samples),
        "sid": [name for _, name, _, _ in variants],
        "chromosome": [chromosome for chromosome, _ in places],
        "bp_position": [int(position) for _, position in places],
        "allele_1": [one for *_, one, _ in variants],
        "allele_2": [two for *_, two in variants],
    }
    to_bed(path, np.asarray(first, dtype=np.float64), properties=properties, count_A1=True)
    return path


def panel(variants: dict[str, dict[str, Any]], **rules: Any) -> Panel:
    """Return a panel in GRCh38; a variant's frequency is 0.5 unless it says so, so that the input is (dosage - 1)/.7"""
    full = {key: {"frequency": 0.5, **variant} for key, variant in variants.items()}
    return Panel.model_validate({"source": "calls", "build": "GRCh38", **rules, "variants": full})


def read(spec: Panel, path: Path, patients: Sequence[str], samples: Path | None = None) -> Block:
    """Read a panel and raise what is wrong."""
    problems = Problems("north")
    block = read_panel(spec, path, patients, None, problems, samples)
    problems.raise_any()
    return block


def dosages(spec: Panel, block: Block, key: str) -> list[float]:
    """Return a variant's dosages out of a block, NaN where the indicator says missing."""
    column = spec.names.index(key)
    variant = spec.variants[key]
    values = block.inputs[:, column] * np.sqrt(2 * variant.frequency * (1 - variant.frequency)) + 2 * variant.frequency
    told = [round(float(value), 4) for value in values]
    if variant.indicator:
        told = [np.nan if gone else value for value, gone in zip(told, block.inputs[:, column + 1], strict=True)]
    return told

"""How fast genotypes are read, beside the bare loops of the libraries over the same records."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pmfed.cohort.genomics import read_panel
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems
from pmfed.modality.genomics import Panel
from pmfed_simulations.bench import BenchRow, compare, timed

TARGET = 1.5
FOLDER = "hapmap3_1kg_genotypes"
VCF = "1kg_phase3_chr21_start.vcf.gz"
BED = "HM3_thinned_autosomal_overlap.bed"
FEW = 12  # variants looked up by an index
MANY = 3000  # variants of the PLINK set

Variants = dict[str, dict[str, Any]]


def rows() -> list[BenchRow]:
    """Measure and return the rows; what cannot run is a row with the reason."""
    data = os.environ.get("PMFED_DATA")
    lacking = [name for name in ("cyvcf2", "pysam", "bed_reader") if find_spec(name) is None]
    if not data or lacking:
        why = f"pip install 'pmfed[genomics]' {' '.join(lacking)}" if data else "set PMFED_DATA"
        return [BenchRow("genotypes", 0.0, 0.0, 0.0, TARGET, note=f"skipped: {why}")]
    folder = Path(data) / FOLDER
    with tempfile.TemporaryDirectory() as name:
        return [*_vcf(folder / VCF, Path(name)), _plink(folder / BED)]


def _vcf(vcf: Path, scratch: Path) -> list[BenchRow]:
    library, pysam = import_module("cyvcf2"), import_module("pysam")
    indexed, bcf = scratch / "indexed.vcf.gz", scratch / "calls.bcf"
    with pysam.BGZFile(str(indexed), "w") as out:
        out.write(gzip.decompress(vcf.read_bytes()))
    pysam.tabix_index(str(indexed), preset="vcf")
    with pysam.VariantFile(str(indexed)) as source, pysam.VariantFile(str(bcf), "wb", header=source.header) as to:
        for record in source:
            to.write(record)
    people = list(library.VCF(str(vcf)).samples)
    variants = {
        f"v{number}": _variant(one.ID, f"21:{one.POS}", one.REF, one.ALT[0])
        for number, one in enumerate(library.VCF(str(vcf)))
    }
    some = dict(list(variants.items())[:: len(variants) // FEW][:FEW])
    regions = [f"{one['at']}-{one['at'].split(':')[1]}" for one in some.values()]

    def through(path: Path) -> None:
        for record in library.VCF(str(path)):
            record.genotype.array()

    def by_index() -> None:
        reader = library.VCF(str(indexed))
        for region in regions:
            for record in reader(region):
                record.genotype.array()

    size = f"{len(variants)} variants x {len(people):,} people"
    return [
        _row(f"VCF, {size}: panel / bare cyvcf2 loop", variants, vcf, people, lambda: through(vcf)),
        _row(f"BCF, {size}: panel / bare cyvcf2 loop", variants, bcf, people, lambda: through(bcf)),
        _row(f"VCF with index, {FEW} variants: panel / bare cyvcf2 look-ups", some, indexed, people, by_index),
    ]


def _plink(bed: Path) -> BenchRow:
    library = import_module("bed_reader")
    lines = [line.split() for line in bed.with_suffix(".bim").read_text().splitlines()][:MANY]
    people = [line.split()[1] for line in bed.with_suffix(".fam").read_text().splitlines()]
    variants = {
        f"v{number}": _variant(line[1], f"{line[0]}:{line[3]}", line[5], line[4]) for number, line in enumerate(lines)
    }

    def bare() -> None:
        with library.open_bed(bed) as reader:
            places = {name: place for place, name in enumerate(reader.sid)}
            reader.read(index=(slice(None), [places[one["id"]] for one in variants.values()]), dtype="float32")

    name = f"PLINK, {len(variants):,} variants x {len(people):,} people: panel / bed-reader"
    return _row(name, variants, bed, people, bare, build="NCBI36")


def _variant(name: str, at: str, reference: str, effect: str) -> dict[str, Any]:
    return {"id": name, "at": at, "reference": reference, "effect": effect, "frequency": 0.25}


def _row(
    name: str, variants: Variants, path: Path, people: list[str], bare: Callable[[], None], build: str = "GRCh37"
) -> BenchRow:
    spec = Panel.model_validate({"source": "calls", "build": build, "variants": variants})

    def ours() -> None:
        problems = Problems("bench")
        read_panel(Reading(spec=spec, sources={spec.source: path}, patients=people, when=None, problems=problems))
        problems.raise_any()

    return compare(name, timed(ours), timed(bare), TARGET, work=(len(variants) * len(people), "genotypes"))

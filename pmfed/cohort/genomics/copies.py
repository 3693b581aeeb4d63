"""Copy numbers of regions out of structural calls: <DEL>, <DUP>, <CNV> and <CNn> of a VCF or BCF."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.genomics.builds import check_build
from pmfed.cohort.genomics.container import open_container
from pmfed.cohort.genomics.records import Record, Records
from pmfed.cohort.genomics.samples import Map, pair_samples
from pmfed.cohort.tables import Problems, count
from pmfed.errors import DataError
from pmfed.modality.genomics import CopyNumber, place

Floats = NDArray[np.float64]

NORMAL = 2.0
_ALLELE = re.compile(r"<(DEL|DUP|CNV|CN(\d{1,3}))(?::[^>]*)?>")


def read_copy_number(
    spec: CopyNumber,
    source: Path,
    patients: Sequence[str],
    when: NDArray[np.datetime64] | None,
    problems: Problems,
    samples: Path | None = None,
    patient: str = "patient_id",
) -> Block:
    """Read the copies that every record's patient has of each region.

    A call counts for a region where it covers at least the share ``spec.overlap`` of it. The number of copies is the
    call's CN, or follows from its alleles: one copy each, none for <DEL>, two for <DUP>, n for <CNn>. Of several calls
    of one patient that differ from two copies, the one that covers most counts, then the first in the file. Without such
    a call a patient has two copies; if a call that counts is missing, the number is.

    Parameters
    ----------
    spec
        The regions.
    source
        A VCF or BCF file. It is streamed once: calls of any length may begin far before a region, where an index
        would not look.
    patients : (R,)
        Patient id of every record; each patient is read once.
    when
        Not used: inherited copies do not change.
    problems
        Where what is wrong is noted. Inputs are meaningless when there is something.
    samples, patient
        The table of samples, if the study names one, and its column of patients.

    Returns
    -------
    Block
        Inputs (copies - 2) / scale; a missing number counts as two copies.
    """
    absent = Block(np.zeros((len(patients), len(spec.names)), dtype=np.float32), np.zeros(len(patients), dtype=bool))
    try:
        file = open_container(source)
        table = Map(samples, spec.sample, patient) if samples else None
        paired = pair_samples(source, file.samples, patients, table, problems)
        stated = check_build(spec.build, source, file.contigs, file.words, (), problems)
        if not file.formats.keys() & {"CN", "GT"}:
            raise DataError(f"{source}: its header declares neither CN nor GT.", "Export it with the patients' calls.")
        if paired is None:
            return absent
        found = _read(spec, Records(file, paired.places.tolist(), ["CN"]), len(paired.places))
    except DataError as error:
        problems.note(error)
        return absent
    warnings = list(paired.warnings)
    if not stated:
        warnings.append(f"{source}: does not say which genome build it is in; taken to be in the study's {spec.build}.")
    if not found.tally["structural calls over the regions"]:
        warnings.append(f"{source}: no structural call covers any of the regions: every patient has two copies.")
    sample = paired.of_records()
    present = sample >= 0
    owned = sample[present]
    inputs = np.zeros((len(sample), len(spec.names)), dtype=np.float32)
    missing, column = {}, 0
    for row, key in enumerate(sorted(spec.regions)):
        region = spec.regions[key]
        copies = found.copies[row, owned]
        missing[key] = int(np.isnan(copies).sum())
        found.tally["copies above the maximum"] += int((found.copies[row] > region.maximum).sum())
        scaled = (np.minimum(copies, region.maximum) - NORMAL) / region.scale
        inputs[present, column] = np.nan_to_num(scaled, nan=0.0)
        if region.indicator:
            inputs[present, column + 1] = np.isnan(copies)
        column += 1 + region.indicator
    counts = {**paired.counts, **{name: number for name, number in sorted(found.tally.items()) if number}}
    return Block(inputs, present, missing, counts, tuple(warnings))


@dataclass(frozen=True, repr=False)
class _Found:
    """Copies per region and sample, (G, S), and what was seen."""

    copies: Floats
    tally: Counter[str] = field(default_factory=Counter)


def _read(spec: CopyNumber, records: Records, size: int) -> _Found:
    spans = [place(spec.regions[key].at) for key in sorted(spec.regions)]
    found = _Found(np.full((len(spans), size), NORMAL))
    best = np.zeros((len(spans), size))  # how much of the region the call taken covers
    unknown = np.zeros((len(spans), size), dtype=bool)
    endless = 0
    chromosomes = {span[0] for span in spans}

    def wanted(plain: str, position: int, name: str, alternative: str) -> bool:
        return plain in chromosomes and "<" in alternative

    for record in records.through(wanted):
        kinds = [_ALLELE.fullmatch(allele) for allele in record.alleles[1:]]
        if not any(kinds):
            continue
        end = record.end()
        if end is None:
            endless += 1
            continue
        near = [row for row, span in enumerate(spans) if span[0] == record.place[0]]
        first = record.place[1] + 1  # POS is the base before what is lost or gained
        shares = [(row, _share(spans[row], first, end)) for row in near]
        counting = [(row, share) for row, share in shares if share >= spec.overlap]
        if not counting:
            continue
        if not record.passes(spec.passed, spec.minimum_quality):
            found.tally["structural records failing FILTER or QUAL"] += 1
            continue
        copies = _copies(record, kinds, size)
        for row, share in counting:
            differs = ~np.isnan(copies) & (copies != NORMAL)
            found.tally["structural calls over the regions"] += int(differs.sum())
            found.tally["structural calls beside a larger one"] += int((differs & (best[row] > 0)).sum())
            taken = differs & (share > best[row])
            found.copies[row, taken] = copies[taken]
            best[row, taken] = share
            unknown[row] |= np.isnan(copies)
    if endless:
        raise DataError(
            f"{records.file.path}: {count(endless, 'structural record')} with neither END nor SVLEN.",
            "Export the file with INFO/END.",
        )
    found.copies[unknown & (best == 0)] = np.nan
    return found


def _share(span: tuple[str, int, int], first: int, end: int) -> float:
    """Return how much of a region a call covers."""
    _, start, last = span
    return max(0, min(last, end) - max(start, first) + 1) / (last - start + 1)


def _copies(record: Record, kinds: Sequence[re.Match[str] | None], size: int) -> Floats:
    """Return the copies each sample has by this record, NaN where it does not tell."""
    copies = np.full(size, np.nan)
    told = record.numbers("CN")
    if told is not None:
        copies = np.where(told[:, 0] >= 0, told[:, 0], np.nan)
    genotypes = record.genotypes() if np.isnan(copies).any() else None
    if genotypes is not None and genotypes.alleles.shape[1] == 2:
        worth = np.array([1.0, *(_worth(kind) for kind in kinds)])
        alleles = genotypes.alleles
        by_allele = np.where((alleles >= 0).all(axis=1), worth[alleles].sum(axis=1), np.nan)
        copies = np.where(np.isnan(copies), by_allele, copies)
    return copies


def _worth(kind: re.Match[str] | None) -> float:
    """Return how many copies a chromosome with this allele carries."""
    if kind is None:
        return 1.0  # another kind of change, which takes and adds nothing
    if kind[2] is not None:
        return float(kind[2])
    return {"DEL": 0.0, "DUP": 2.0, "CNV": np.nan}[kind[1]]

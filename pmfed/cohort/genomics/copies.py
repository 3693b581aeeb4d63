"""Copy numbers of regions out of the structural calls of a VCF or BCF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import of_gaps
from pmfed.cohort.genomics.builds import check_build
from pmfed.cohort.genomics.container import open_container
from pmfed.cohort.genomics.ft import failing
from pmfed.cohort.genomics.records import ABSENT, Record, VariantRecords
from pmfed.cohort.genomics.samples import map_of, pair_samples
from pmfed.cohort.genomics.structural import BREAKENDS, INSERTED, OTHERS, EndlessError, StructuralEvent, events
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import count
from pmfed.errors import DataError
from pmfed.modality.genomics import CopyNumber, place

Floats = NDArray[np.float64]

NORMAL = 2.0
_TOLD = {
    BREAKENDS: "{} around the regions, which do not tell whether copies are gone: the number is missing for who has no "
    "other call. Have the caller resolve them into <DEL> and <DUP>.",
    OTHERS: "{} over the regions, which do not tell how many copies are left: the number is missing for who has no other "
    "call.",
    INSERTED: "{} as long as the regions: whether they repeat a region cannot be told from letters; passed over.",
}
_NOUNS = {BREAKENDS: "breakend call", OTHERS: "other structural call", INSERTED: "inserted sequence"}


def read_copy_number(reading: Reading[CopyNumber]) -> Block:
    """Read the copies that every record's patient has of each region.

    A call counts for a region where it covers at least the share ``spec.overlap`` of it. The number of copies is the
    call's CN, or follows from its alleles: one copy each, none for a deletion, two for <DUP>, n for <CNn>. Alleles of one
    stretch that stand in lines of their own are one call. Of several calls of one patient that differ from two copies, the one that covers most counts, then the first in the file. Without such
    a call a patient has two copies; if a call that counts is missing, the number is.

    The file is streamed once: calls of any length may begin far before a region, where an index would not look. Each
    patient is read once, and index dates are not used: inherited copies do not change.

    Returns
    -------
    Block
        Inputs (copies - 2) / scale; a missing number counts as two copies.
    """
    spec, patients, problems, source = (
        reading.spec,
        reading.patients,
        reading.problems,
        reading.place(reading.spec.source),
    )
    absent = reading.absent()
    try:
        file = open_container(source)
        table = map_of(reading, spec.samples, spec.sample)
        paired = pair_samples(source, file.samples, patients, table, problems)
        stated = check_build(spec.build, source, file.contigs, file.words, (), problems)
        if not file.formats & {"CN", "GT"}:
            raise DataError(f"{source}: its header declares neither CN nor GT.", "Export it with the patients' calls.")
        if paired is None:
            return absent
        found = _read(spec, VariantRecords(file, paired.places.tolist()), len(paired.places))
    except DataError as error:
        problems.note(error)
        return absent
    warnings = list(paired.warnings)
    if not stated:
        warnings.append(f"{source}: does not say which genome build it is in; taken to be in the study's {spec.build}.")
    if not found.tally["structural calls over the regions"]:
        warnings.append(f"{source}: no structural call covers any of the regions: every patient has two copies.")
    warnings += [
        f"{source}: {line.format(count(found.tally[kind], _NOUNS[kind]))}"
        for kind, line in _TOLD.items()
        if found.tally[kind]
    ]
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
    uses = of_gaps(len(owned), missing, "a call that tells no number of copies")
    return Block(inputs, present, missing, counts, tuple(warnings), uses)


@dataclass(frozen=True, repr=False)
class _Found:
    """Copies per region and sample, (G, S), and what was seen."""

    copies: Floats
    tally: Counter[str] = field(default_factory=Counter)


class _Regions:
    """The study's regions, and what is known of each sample's copies of them."""

    def __init__(self, spec: CopyNumber, size: int) -> None:
        self.spans = [place(spec.regions[key].at) for key in sorted(spec.regions)]
        self._least = spec.overlap
        self.copies = np.full((len(self.spans), size), NORMAL)
        self.unknown = np.zeros((len(self.spans), size), dtype=bool)
        self.tally: Counter[str] = Counter()
        self._best = np.zeros((len(self.spans), size))  # how much of the region the call taken covers

    def wanted(self, plain: str, first: int, last: int, name: str, alternative: str) -> bool:
        """Return whether a record may be structural, and on a chromosome of the regions."""
        if all(plain != span[0] for span in self.spans):
            return False
        shortest = min(last - first + 1 for _, first, last in self.spans) * self._least
        long = max(last - first, len(alternative)) >= shortest
        return long or any(sign in alternative for sign in "<[]")

    def shares(self, plain: str, event: StructuralEvent | None) -> list[float]:
        """Return how much of each region an event covers, 0 where it is too little to count."""
        found = [0.0] * len(self.spans)
        for row, (other, first, last) in enumerate(self.spans):
            if event is not None and other == plain:
                share = max(0, min(last, event.last) - max(first, event.first) + 1) / (last - first + 1)
                found[row] = share if share >= self._least else 0.0
        return found

    def take(self, row: int, share: float, copies: Floats) -> None:
        """Take calls of a region where no call was taken that covers more of it."""
        differs = ~np.isnan(copies) & (copies != NORMAL)
        self.tally["structural calls over the regions"] += int(differs.sum())
        self.tally["structural calls beside a larger one"] += int((differs & (self._best[row] > 0)).sum())
        taken = differs & (share > self._best[row])
        self.copies[row, taken] = copies[taken]
        self._best[row, taken] = share
        self.unknown[row] |= np.isnan(copies)

    def settled(self) -> Floats:
        """Return the copies of each region and sample, (G, S), NaN where a call that counts does not tell."""
        return np.where(self.unknown & (self._best == 0), np.nan, self.copies)


@dataclass(frozen=True, repr=False)
class _CopyCalls:
    """The calls of a structural record: CN where it tells, and the alleles."""

    told: Floats
    alleles: NDArray[np.integer]
    bad: NDArray[np.bool_]

    def carry(self, allele: int) -> NDArray[np.bool_]:
        """Return who carries an allele."""
        carriers: NDArray[np.bool_] = (self.alleles == allele).any(axis=1) & ~self.bad
        return carriers

    def copies(self, found: Sequence[StructuralEvent | None]) -> Floats:
        """Return the copies each sample has of a region that some of the alleles cover, NaN where that is not told."""
        worth = np.array([1.0, *(1.0 if one is None or one.neutral else one.copies for one in found)])
        copies = np.full(len(self.told), np.nan)
        if self.alleles.shape[1] == 2:
            whole = (self.alleles >= 0).all(axis=1)
            copies = np.where(whole, worth[np.maximum(self.alleles, 0)].sum(axis=1), np.nan)
        copies = np.where(np.isnan(self.told), copies, self.told)
        copies[self.bad] = np.nan
        return copies


@dataclass(frozen=True, repr=False)
class _Claim:
    """What a record says of a region: how much its alleles cover, the copies left, and its only ALT if it has one."""

    share: float
    copies: Floats
    only: tuple[str, StructuralEvent] | None
    carried: NDArray[np.integer]


def _read(spec: CopyNumber, records: VariantRecords, size: int) -> _Found:
    regions = _Regions(spec, size)
    endless = 0
    for _, group in groupby(records.through(regions.wanted), lambda record: record.place):
        claims: dict[int, list[_Claim]] = {}
        for record in group:
            try:
                found = events(record, records.file.version)
            except EndlessError:
                endless += 1
                continue
            shares = [regions.shares(record.place[0], one) for one in found]
            if not any(map(any, shares)):
                continue
            if not record.passes(spec.passed, spec.minimum_quality):
                regions.tally["structural records failing FILTER or QUAL"] += 1
                continue
            calls = _calls(record, spec.passed, size, regions.tally)
            for row in range(len(regions.spans)):
                covering = [one if share[row] else None for one, share in zip(found, shares, strict=True)]
                _note(regions, row, covering, calls)
                if any(one and not one.neutral and not one.doubt for one in covering):
                    most = max(share[row] for share in shares)
                    claims.setdefault(row, []).append(_claim(record, covering, most, calls))
        for row, told in claims.items():
            for claim in _joined(told):
                regions.take(row, claim.share, claim.copies)
    if endless:
        raise DataError(
            f"{records.file.path}: {count(endless, 'structural record')} with neither END nor SVLEN.",
            "Export the file with INFO/END.",
        )
    return _Found(regions.settled(), regions.tally)


def _claim(record: Record, covering: Sequence[StructuralEvent | None], share: float, calls: _CopyCalls) -> _Claim:
    only = covering[0] if len(covering) == 1 and np.isnan(calls.told).all() else None
    return _Claim(
        share=share,
        copies=calls.copies(covering),
        only=None if only is None else (record.alleles[1], only),
        carried=(calls.alleles > 0).sum(axis=1),
    )


def _joined(claims: Sequence[_Claim]) -> list[_Claim]:
    """Put together the alleles of one stretch that stand in records of their own, as 'bcftools norm -m-' writes them."""
    stretches: dict[tuple[int, int], list[_Claim]] = {}
    found = []
    for claim in claims:
        if claim.only is None:
            found.append(claim)
        else:
            stretches.setdefault((claim.only[1].first, claim.only[1].last), []).append(claim)
    for some in stretches.values():
        if len({claim.only for claim in some}) < len(some):
            found += some  # the same allele twice: the first counts
            continue
        copies = NORMAL + np.sum([claim.copies - NORMAL for claim in some], axis=0)
        carried = np.sum([claim.carried for claim in some], axis=0)
        copies[carried > NORMAL] = np.nan
        found.append(_Claim(some[0].share, copies, some[0].only, carried))
    return found


def _note(regions: _Regions, row: int, covering: Sequence[StructuralEvent | None], calls: _CopyCalls) -> None:
    """Count who carries an allele that does not tell how many copies are left."""
    for allele, one in enumerate(covering, 1):
        if one is not None and one.doubt:
            carriers = calls.carry(allele)
            regions.tally[one.doubt] += int(carriers.sum())
            if not one.neutral:
                regions.unknown[row] |= carriers


def _calls(record: Record, passed: bool, size: int, tally: Counter[str]) -> _CopyCalls:
    told, genotypes = record.numbers("CN"), record.genotypes()
    copies = np.full(size, np.nan) if told is None else np.where(told[:, 0] >= 0, told[:, 0], np.nan)
    alleles = np.full((size, 2), ABSENT) if genotypes is None else genotypes.alleles
    bad = failing(record) if passed else None
    tally["structural calls failing FT"] += 0 if bad is None else int(bad.sum())
    return _CopyCalls(copies, alleles, np.zeros(size, dtype=bool) if bad is None else bad)

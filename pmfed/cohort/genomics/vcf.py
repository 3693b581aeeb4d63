"""VCF and BCF files as a source of the panel's variants: which records, and which calls of theirs count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.calls import Bools, FoundCalls, Lookup, SeenCalls, settle_sex
from pmfed.cohort.genomics.container import open_container
from pmfed.cohort.genomics.ft import failing
from pmfed.cohort.genomics.lines import BLOCKS
from pmfed.cohort.genomics.locus import SLACK, settle
from pmfed.cohort.genomics.outcomes import changes
from pmfed.cohort.genomics.parts import AlleleRecord
from pmfed.cohort.genomics.records import ABSENT, PADDING, Record, VariantRecords
from pmfed.cohort.genomics.samples import Ints
from pmfed.errors import DataError
from pmfed.modality.genomics import Panel

NEAR = 1000  # bases; looking up a place costs about as much as reading the records of so many in a dense file
Parts = dict[str, list[AlleleRecord]]


class VcfPanel:
    """A VCF or BCF file as a source of the panel's variants."""

    def __init__(self, path: Path) -> None:
        self.file = open_container(path)
        self.samples = self.file.samples

    def read(self, spec: Panel, places: Sequence[int], sex: Ints) -> SeenCalls:
        """Find the panel's variants.

        Parameters
        ----------
        spec
            The panel.
        places : (S,)
            The samples to read, ascending places in the file.
        sex : (S,) int64
            1 male, 2 female, 0 unknown.
        """
        self._check_rules(spec)
        seen = SeenCalls()
        records = VariantRecords(self.file, places)
        named = self._places_of_ids(spec, records, seen)
        lookup = Lookup(spec, places=named)
        rest = set(lookup.variants)
        if self.file.index is not None:
            for plain, first, last in _stretches(lookup.spans()):
                within = set(lookup.here(plain, first, last))
                self._gather(spec, records.within(plain, first, last), Lookup(spec, within, named), sex, seen)
            rest -= seen.found.keys()
            lookup = Lookup(spec, rest, named)
        # What an index does not find may be hidden by damage, or by an index of another file: the library does not
        # tell that from absence.
        if rest and self.file.small:
            self._gather(spec, records.through(lookup.may_hold), lookup, sex, seen)
        return seen

    def _places_of_ids(self, spec: Panel, records: VariantRecords, seen: SeenCalls) -> dict[str, tuple[str, int]]:
        """Return where the variants stand that the panel knows by id alone; records without the id may be about them."""
        found: dict[str, tuple[str, int]] = {}
        if not (unplaced := [key for key, variant in spec.variants.items() if variant.place is None]):
            return found
        lookup = Lookup(spec, unplaced)
        for record in records.through(lookup.may_hold):
            for key in lookup.by_name(record.name):
                variant = lookup.variants[key]
                starts = {one.first for one in changes(record.place[1], record.alleles) if one and one.gone}
                single = len(variant.reference) == len(variant.effect) == 1 and len(starts) == 1
                place = (record.place[0], starts.pop() if single else record.place[1])
                if found.setdefault(key, place) != place:
                    seen.twice.add(key)
        return found

    def _gather(self, spec: Panel, records: Iterable[Record], lookup: Lookup, sex: Ints, seen: SeenCalls) -> None:
        """Settle the variants of which there are records."""
        parts: Parts = {}
        for record in records:
            plain, start = record.place
            covered = lookup.here(plain, start, record.last)
            lookup.check_name(record.place, record.name, covered, seen)
            inside = ",".join(record.alleles[1:]) in BLOCKS[1:] or len(record.alleles) == 1
            part = None
            for key in covered:
                if inside and lookup.places[key][1] > start + len(record.alleles[0]) - 1:
                    seen.blocks.add(key)
                    continue
                part = part or _part(spec, record, len(sex))
                parts.setdefault(key, []).append(part)
        for key, found in parts.items():
            _settle(spec, lookup, key, found, sex, seen)

    def _check_rules(self, spec: Panel) -> None:
        needed = {
            "GT": spec.dosage == "called",
            "DS": spec.dosage == "imputed",
            "DP": spec.minimum_depth is not None,
            "GQ": spec.minimum_genotype_quality is not None,
        }
        if lacking := [name for name, asked in needed.items() if asked and name not in self.file.formats]:
            raise DataError(
                f"{self.file.path}: its header does not declare {' and '.join(lacking)}, which the study's rules need.",
                "Export the file with these FORMAT fields; GT are calls, DS imputed dosages, DP depths, GQ qualities.",
            )


def _stretches(places: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Return places as stretches of a chromosome; those that lie close together are one."""
    found: list[tuple[str, int, int]] = []
    for plain, position in sorted(places):
        if found and found[-1][0] == plain and position - found[-1][2] <= NEAR:
            found[-1] = (plain, found[-1][1], position)
        else:
            found.append((plain, position, position))
    return found


def _settle(spec: Panel, lookup: Lookup, key: str, parts: Sequence[AlleleRecord], sex: Ints, seen: SeenCalls) -> None:
    """Note what the records of a variant say of it."""
    place = lookup.places[key]
    variant = lookup.variants[key]
    found = settle((variant.reference, variant.effect), place[1], parts)
    if found is None:
        return
    if isinstance(found, str):
        told = {"others": seen.others, "ambiguous": seen.ambiguous, "twice": seen.twice, "either": seen.either}
        told[found].add(key)
        return
    if found.alleles > 2:
        seen.tally["variants with more than two alleles"] += 1
    if found.several > 1:
        seen.tally["variants over several records"] += 1
    if found.repeated:
        seen.tally["records repeated"] += found.repeated
    if found.failed:
        seen.failed.add(key)
    else:
        settle_sex(spec, place, found.dosages, found.one_copy, sex, found.tally)
    seen.found[key] = FoundCalls(found.dosages, found.match, place, found.tally)


def _part(spec: Panel, record: Record, size: int) -> AlleleRecord:
    """Return what a record says of each sample."""
    genotypes = record.genotypes()
    called = np.full((size, 2), ABSENT, dtype=np.int8) if genotypes is None else genotypes.alleles
    plain, imputed = genotypes is not None and genotypes.plain, None
    if spec.dosage == "imputed":  # calls tell only who has one copy
        single = ((called != PADDING).sum(axis=1) == 1) & (called[:, 0] != ABSENT)
        called = np.stack([np.zeros(size, dtype=np.int8), np.where(single, PADDING, 0).astype(np.int8)], axis=1)
        plain, imputed = not single.any(), _imputed(record, np.where(single, 1.0, 2.0))
    return AlleleRecord(
        start=record.place[1],
        alleles=record.alleles,
        passes=record.passes(spec.passed, spec.minimum_quality),
        called=called,
        plain=plain,
        imputed=imputed,
        doubts=dict(_doubts(spec, record, size)),
    )


def _imputed(record: Record, copies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return imputed dosages (DS: expected number of each ALT allele), NaN where there is none."""
    listed = len(record.alleles) - 1
    told = record.numbers("DS")
    if told is None:
        return np.full((len(copies), listed), np.nan)
    if told.shape[1] != listed:
        raise DataError(
            f"{record.path}: a record has imputed dosages (DS) of {told.shape[1]} alleles where it lists {listed}.",
            "DS needs one number per ALT allele: split records of several alleles with 'bcftools norm -m-'.",
        )
    outside = (told < -SLACK).any(axis=1) | (told.sum(axis=1) > copies + SLACK)
    if outside.any():
        raise DataError(
            f"{record.path}: a record has {int(outside.sum()):,} imputed dosages (DS) below 0 or above the number of "
            "copies.",
            "Is DS something else in this file?",
        )
    return told


def _doubts(spec: Panel, record: Record, size: int) -> Iterator[tuple[str, Bools]]:
    """Yield the rules on calls that some of a record's break, and whose; a call that lacks a figure breaks its rule."""
    if spec.passed and (bad := failing(record)) is not None:
        yield "calls failing FT", bad
    if spec.dosage == "called" and spec.without_reads == "missing" and (depths := record.numbers("DP")) is not None:
        unread = depths[:, 0] == 0
        if unread.any():
            yield "calls without reads (DP 0)", unread
    for name, least in (("DP", spec.minimum_depth), ("GQ", spec.minimum_genotype_quality)):
        if least is not None:
            told = record.numbers(name)
            yield f"calls below the least {name}", np.ones(size, bool) if told is None else ~(told[:, 0] >= least)

"""VCF and BCF files as a source of the panel's variants: which records, and which dosages they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.alleles import Match, match_record
from pmfed.cohort.genomics.calls import Bools, Floats, Found, Lookup, Seen, settle_sex
from pmfed.cohort.genomics.container import open_container
from pmfed.cohort.genomics.records import ABSENT, PADDING, Genotypes, Record, Records
from pmfed.cohort.genomics.samples import Ints
from pmfed.errors import DataError
from pmfed.modality.genomics import Panel

NEAR = 1000  # bases; looking up a place costs about as much as reading the records of so many in a dense file
_SLACK = 1e-3  # imputed dosages are rounded in text


class VcfPanel:
    """A VCF or BCF file as a source of the panel's variants."""

    def __init__(self, path: Path) -> None:
        self.file = open_container(path)
        self.samples = self.file.samples

    def read(self, spec: Panel, places: Sequence[int], sex: Ints) -> Seen:
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
        seen = Seen()
        records = Records(self.file, places, [name for name in self._needed(spec) if name != "GT"])
        rest = set(spec.variants)
        if self.file.index is not None:
            lookup = Lookup(spec)
            for plain, first, last in _stretches(lookup.at):
                for record in records.within(plain, first, last):
                    _take(spec, lookup, record, sex, seen)
            rest -= seen.found.keys()
        # Ids alone are not indexed; and what an index does not find may be hidden by damage, or by an index of another
        # file: the library does not tell that from absence.
        by_id = {key for key in rest if spec.variants[key].place is None}
        if rest and (self.file.small or by_id):
            lookup = Lookup(spec, rest)
            for record in records.through(lookup.may_hold):
                _take(spec, lookup, record, sex, seen)
        return seen

    def _check_rules(self, spec: Panel) -> None:
        if lacking := [name for name in self._needed(spec) if name not in self.file.formats]:
            raise DataError(
                f"{self.file.path}: its header does not declare {' and '.join(lacking)}, which the study's rules need.",
                "Export the file with these FORMAT fields; GT are calls, DS imputed dosages, DP depths, GQ qualities.",
            )

    @staticmethod
    def _needed(spec: Panel) -> list[str]:
        needed = {
            "GT": spec.dosage == "called",
            "DS": spec.dosage == "imputed",
            "DP": spec.minimum_depth is not None,
            "GQ": spec.minimum_genotype_quality is not None,
        }
        return [name for name, asked in needed.items() if asked]


def _stretches(places: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Return places as stretches of a chromosome; those that lie close together are one."""
    found: list[tuple[str, int, int]] = []
    for plain, position in sorted(places):
        if found and found[-1][0] == plain and position - found[-1][2] <= NEAR:
            found[-1] = (plain, found[-1][1], position)
        else:
            found.append((plain, position, position))
    return found


def _take(spec: Panel, lookup: Lookup, record: Record, sex: Ints, seen: Seen) -> None:
    """Note what a record says about the panel's variants."""
    for key in lookup.here(record.place, record.name, seen):
        variant = lookup.variants[key]
        match = match_record(variant.reference, variant.effect, record.alleles)
        if match == "others":
            seen.others.add(key)
        elif match == "ambiguous":
            seen.ambiguous.add(key)
        elif isinstance(match, Match) and seen.wants(key, match):
            seen.found[key] = found = _found(spec, record, match, sex)
            seen.tally["variants with more than two alleles"] += len(record.alleles) > 2
            if not record.passes(spec.passed, spec.minimum_quality):
                seen.failed.add(key)
                found.dosages[:] = np.nan
                found.tally.clear()


def _found(spec: Panel, record: Record, match: Match, sex: Ints) -> Found:
    tally: Counter[str] = Counter()
    size = len(sex)
    genotypes = record.genotypes()
    one_copy = None if genotypes is None or genotypes.plain else (genotypes.alleles != PADDING).sum(axis=1) == 1
    if spec.dosage == "imputed":
        dosages = _imputed(record, match, one_copy, size)
    elif genotypes is None:
        dosages = np.full(size, np.nan, dtype=np.float32)
    else:
        dosages = _called(genotypes, match, tally)
    if missing := int(np.isnan(dosages).sum()) - tally.total():
        tally["calls missing"] = missing
    for name, least in (("DP", spec.minimum_depth), ("GQ", spec.minimum_genotype_quality)):
        if least is not None:
            weak = ~_at_least(record, name, least, size) & ~np.isnan(dosages)
            tally[f"calls below the least {name}"] += int(weak.sum())
            dosages[weak] = np.nan
    settle_sex(spec, record.place, dosages, one_copy, sex, tally)
    return Found(dosages, match, record.place, tally)


def _called(genotypes: Genotypes, match: Match, tally: Counter[str]) -> Floats:
    """Count the allele; one copy counts as two of a kind. Half a call says nothing, nor do more than two copies."""
    alleles = genotypes.alleles
    counted = np.zeros(len(alleles), dtype=np.float32)
    if match.counted is not None:
        for copy in range(alleles.shape[1]):
            counted += alleles[:, copy] == match.counted
    if genotypes.plain:
        return counted
    copies = (alleles != PADDING).sum(axis=1)
    absent = (alleles == ABSENT).sum(axis=1)
    tally["calls half missing"] = int(((absent > 0) & (absent < copies)).sum())
    tally["calls of more than two copies"] = int(((copies > 2) & (absent == 0)).sum())
    counted[copies == 1] *= 2
    counted[(absent > 0) | (copies > 2) | (copies == 0)] = np.nan
    return counted


def _imputed(record: Record, match: Match, one_copy: Bools | None, size: int) -> Floats:
    """Return imputed dosages (DS: expected number of each ALT allele) of the counted allele."""
    told = record.numbers("DS")
    if told is None:
        return np.full(size, np.nan, dtype=np.float32)
    listed = len(record.alleles) - 1
    if told.shape[1] != listed:
        raise DataError(
            f"{record.path}: a record has imputed dosages (DS) of {told.shape[1]} alleles where it lists {listed}.",
            "DS needs one number per ALT allele: split records of several alleles with 'bcftools norm -m-'.",
        )
    copies = np.full(size, 2.0) if one_copy is None else np.where(one_copy, 1.0, 2.0)
    total = told.sum(axis=1)
    outside = (told < -_SLACK).any(axis=1) | (total > copies + _SLACK)
    if outside.any():
        raise DataError(
            f"{record.path}: a record has {int(outside.sum()):,} imputed dosages (DS) below 0 or above the number of "
            "copies.",
            "Is DS something else in this file?",
        )
    if match.counted is None:
        dosages = np.where(np.isnan(total), np.nan, 0.0)
    elif match.counted == 0:
        dosages = copies - total
    else:
        dosages = told[:, match.counted - 1]
    found: Floats = np.clip(dosages * 2 / copies, 0, 2).astype(np.float32)
    return found


def _at_least(record: Record, name: str, least: float, size: int) -> Bools:
    """Return whose call meets a rule; a call that does not tell its figure does not."""
    told: NDArray[np.float64] | None = record.numbers(name)
    if told is None:
        return np.zeros(size, dtype=bool)
    meets: Bools = told[:, 0] >= least
    return meets

"""A panel of variants out of a VCF, BCF or PLINK file into the inputs of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import NOT_MEASURED, Use
from pmfed.cohort.genomics.builds import check_build, check_ends
from pmfed.cohort.genomics.calls import ONE_COPY, UNMEASURED, Bools, FoundCalls, SeenCalls
from pmfed.cohort.genomics.plink import PlinkPanel
from pmfed.cohort.genomics.quality import check_variants, named
from pmfed.cohort.genomics.samples import Ints, Samples, map_of, pair_samples
from pmfed.cohort.genomics.vcf import VcfPanel
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems, count
from pmfed.errors import DataError
from pmfed.modality.genomics import Panel

_AT_A_TIME = 64  # variants turned into inputs together


def read_panel(reading: Reading[Panel]) -> Block:
    """Read the panel's dosages of every record out of a VCF or BCF file, or the .bed file of a PLINK fileset.

    Each patient is read once, and index dates are not used: inherited variants do not change.

    Returns
    -------
    Block
        Inputs (dosage - 2f) / sqrt(2f(1-f)), where f is the public frequency; a missing call counts as 2f.

    Guarantee
    ---------
    A patient's inputs depend on the file's own columns, the study and that patient's calls, never on which other
    patients are in the cohort.
    """
    spec, patients, problems, source = (
        reading.spec,
        reading.patients,
        reading.problems,
        reading.place(reading.spec.source),
    )
    try:
        file = PlinkPanel(source) if source.suffix.lower() == ".bed" else VcfPanel(source)
        table = map_of(reading, spec.samples, spec.sample, sex=spec.sex)
        paired = pair_samples(source, file.samples, patients, table, problems)
        stated = False
        if isinstance(file, VcfPanel):
            used = {variant.place[0] for variant in spec.variants.values() if variant.place}
            stated = check_build(spec.build, source, file.file.contigs, file.file.words, used, problems)
        if paired is None:
            return reading.absent()
        sex = _sex(paired, file)
        seen = file.read(spec, paired.places.tolist(), sex)
    except DataError as error:
        problems.note(error)
        return reading.absent()
    warnings = list(paired.warnings)
    if isinstance(file, PlinkPanel):
        check_ends(spec.build, source, file.last, problems)
    _check_alleles(spec, source, seen, problems, isinstance(file, PlinkPanel), warnings)
    if not stated and not seen.confirmed:
        warnings.append(
            f"{source}: does not say which genome build it is in; taken to be in the study's {spec.build}. Give variants "
            "both 'id' and 'at' to have it checked."
        )
    _check_absent(spec, source, seen, problems, isinstance(file, PlinkPanel) or file.file.small, warnings)
    return _block(spec, source, seen, paired, sex, warnings)


def _sex(paired: Samples, file: PlinkPanel | VcfPanel) -> Ints:
    if paired.sex is not None:
        return paired.sex
    return file.sex[paired.places] if isinstance(file, PlinkPanel) else np.zeros(len(paired.places), dtype=np.int64)


def _check_absent(
    spec: Panel, path: Path, seen: SeenCalls, problems: Problems, read_whole: bool, warnings: list[str]
) -> None:
    """Note variants that the file does not tell of."""
    told = seen.found.keys() | seen.others | seen.ambiguous | seen.elsewhere | seen.twice | seen.either | seen.coded
    absent = spec.variants.keys() - told
    if blocks := absent & seen.blocks:
        warnings.append(
            f"{path}: variants within a reference block of a gVCF, which does not tell their bases, and so missing in "
            f"every patient: {named([*blocks])}. Export the study's positions one by one (a genotyped gVCF)."
        )
    if not told:
        problems.add(
            f"{path}: holds none of the study's {count(len(spec.variants), 'variant')}.",
            "Is it the right file, in the right genome build?",
        )
    elif gone := absent - blocks:
        how = "" if read_whole else ", looked up by the index only,"
        warnings.append(f"{path}: variants not in the file{how} and so missing in every patient: {named([*gone])}.")


def _check_alleles(
    spec: Panel, path: Path, seen: SeenCalls, problems: Problems, either_strand: bool, warnings: list[str]
) -> None:
    """Note variants that cannot be resolved against the panel."""
    found = seen.found
    if elsewhere := seen.elsewhere - found.keys():
        problems.add(
            f"{path}: {count(len(elsewhere), 'variant')} with the id of the study at another place: {named([*elsewhere])}.",
            f"Is the file in another genome build than {spec.build}, or is 'at' wrong in the study?",
        )
    if coded := seen.coded - found.keys():
        problems.add(
            f"{path}: {count(len(coded), 'variant')} with alleles written as I/D, 1/2 or A/B, which do not tell bases: "
            f"{named([*coded])}.",
            "Export the file with letters ('plink --alleleACGT', or the array's table of alleles).",
        )
    if others := seen.others - found.keys():
        problems.add(
            f"{path}: {count(len(others), 'variant')} with other alleles than the study's, on either strand: "
            f"{named([*others])}.",
            "Is the file in another genome build, or are 'reference' and 'effect' wrong in the study?",
        )
    if seen.either:
        problems.add(
            f"{path}: {count(len(seen.either), 'variant')} of which the file lists letters lost and the same letters gained: "
            f"{named([*seen.either])}.",
            "Which allele is the genome's cannot be told from them: leave the variants out.",
        )
    if seen.twice:
        problems.add(
            f"{path}: {count(len(seen.twice), 'variant')} standing in more than one record: {named([*seen.twice])}.",
            "Remove repeated records, as 'bcftools norm -d exact' does.",
        )
    ambiguous = seen.ambiguous - found.keys()
    palindromic = {key for key, one in found.items() if one.match.palindromic} if either_strand else set()
    if any(one.match.flipped for one in found.values()):
        ambiguous |= palindromic  # this file has variants of both strands, so these may be of either
    elif palindromic:
        warnings.append(
            f"{path}: variants A/T or C/G, whose strand cannot be checked, taken to be on the strand of the study: "
            f"{named([*palindromic])}."
        )
    if ambiguous:
        problems.add(
            f"{path}: {count(len(ambiguous), 'variant')} A/T or C/G of which the strand cannot be told: "
            f"{named([*ambiguous])}.",
            "Write their 'reference' in the study as the genome has it; PLINK files of both strands need "
            "'plink --flip' first. Or leave the variants out.",
        )


def _block(spec: Panel, path: Path, seen: SeenCalls, paired: Samples, sex: Ints, warnings: list[str]) -> Block:
    here = _enough(spec, seen, len(paired.places))
    warnings += [f"{path}: {line}" for line in check_variants(spec, seen.found, here, sex)]
    if poor := int((~here).sum()):
        warnings.append(
            f"{path}: {count(poor, 'patient')} with less than the study's {spec.minimum_sample_call_rate} of the panel "
            "called, left without it."
        )
    if failed := sorted(seen.failed):
        warnings.append(f"{path}: variants that fail the study's rules on FILTER or QUAL, missing: {named(failed)}.")
    unlisted = [key for key, one in seen.found.items() if one.match.counted is None]
    if unlisted:
        warnings.append(
            f"{path}: variants of which the file does not list the counted allele, so 0: {named(unlisted)}."
        )
    sample = paired.of_records()
    present = (sample >= 0) & here[sample]
    inputs, gaps = _inputs(spec, seen.found, present, sample[present])
    records = int(present.sum())
    plain = Use(records)
    uses = {
        key: _use(key, seen, gaps.get(key, records), records) if gaps.get(key, records) else plain
        for key in spec.variants
    }
    return Block(inputs, present, gaps, _counts(spec, seen, paired, poor), tuple(warnings), uses)


def _use(key: str, seen: SeenCalls, gaps: int, records: int) -> Use:
    """Return what became of the calls of a variant that ``gaps`` of the records lack."""
    if key in seen.failed:
        return Use(records - gaps, passed={"of a record that fails FILTER or QUAL": gaps})
    tally = seen.found[key].tally if key in seen.found else {}
    why = {what: number for what, number in tally.items() if number and what not in (*UNMEASURED, ONE_COPY)}
    passed = {**why, NOT_MEASURED: gaps - sum(why.values())}
    return Use(records - gaps, passed={what: number for what, number in passed.items() if number > 0})


def _inputs(
    spec: Panel, found: Mapping[str, FoundCalls], present: Bools, rows: Ints
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Return the inputs of all records, and how many of those present lack each variant; ``rows`` are their samples."""
    keys = sorted(spec.variants)
    centre = np.array([2 * spec.variants[key].frequency for key in keys], dtype=np.float64)
    spread = np.sqrt(centre * (1 - centre / 2))
    spread[spread == 0] = 1.0  # an allele that nobody or everybody has: nothing to scale by
    width = np.array([1 + spec.variants[key].indicator for key in keys])
    column = np.cumsum(width) - width
    told = np.zeros((len(rows), len(spec.names)), dtype=np.float32)
    gaps: dict[str, int] = {}
    size = max((len(one.dosages) for one in found.values()), default=0)
    mixed = not np.array_equal(rows, np.arange(size))
    for start in range(0, len(keys), _AT_A_TIME):  # so that a block stays in the processor's cache
        some = slice(start, start + _AT_A_TIME)
        dosages = np.full((len(keys[some]), len(rows)), np.nan, dtype=np.float32)
        for row, key in enumerate(keys[some]):
            if key in found:
                dosages[row] = found[key].dosages[rows if mixed else slice(None)]
        unknown = np.isnan(dosages)
        gaps.update(zip(keys[some], np.count_nonzero(unknown, axis=1).tolist(), strict=True))
        dosages -= centre[some, None].astype(np.float32)
        dosages /= spread[some, None].astype(np.float32)
        if unknown.any():
            np.copyto(dosages, 0.0, where=unknown)
        first, last = int(column[start]), int(column[some][-1] + 1)
        if last - first == len(dosages):  # no indicators between
            told[:, first:last] = dosages.T
        else:
            told[:, column[some]] = dosages.T
        double = width[some] > 1
        told[:, column[some][double] + 1] = unknown[double].T
    if present.all():
        return told, gaps
    inputs = np.zeros((len(present), len(spec.names)), dtype=np.float32)
    inputs[present] = told
    return inputs, gaps


def _enough(spec: Panel, seen: SeenCalls, samples: int) -> Bools:
    """Return which samples have enough of the panel's variants called, of those the file can tell of."""
    usable = [one.dosages for key, one in seen.found.items() if key not in seen.failed]
    if spec.minimum_sample_call_rate is None or not usable:
        return np.ones(samples, dtype=bool)
    known = np.zeros(samples)
    for dosages in usable:
        known += ~np.isnan(dosages)
    enough: Bools = known >= spec.minimum_sample_call_rate * len(usable)
    return enough


def _counts(spec: Panel, seen: SeenCalls, paired: Samples, poor: int) -> dict[str, int]:
    found: list[FoundCalls] = list(seen.found.values())
    tally: Counter[str] = Counter(seen.tally)
    for one in found:
        if one.tally:
            tally.update(one.tally)
    counts = {
        **paired.counts,
        "patients with too few calls": poor,
        "variants found": len(found),
        "variants not in the file": len(spec.variants) - len(found),
        "variants failing FILTER or QUAL": len(seen.failed),
        "variants written on the other strand": sum(one.match.flipped for one in found),
        "variants with the counted allele as the file's reference": sum(one.match.swapped for one in found),
        "variants found by id and place": len(seen.confirmed),
        **dict(sorted(tally.items())),
    }
    return {name: number for name, number in counts.items() if number}

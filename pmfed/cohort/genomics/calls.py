"""What a file says about the panel's variants: dosages per sample, and what was seen on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.alleles import Match
from pmfed.cohort.genomics.builds import haploid
from pmfed.cohort.genomics.samples import FEMALE, MALE, Ints
from pmfed.modality.genomics import Panel, PanelVariant

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class Found:
    """One variant as a file has it.

    Attributes
    ----------
    dosages : (S,) float32
        How many of the counted allele each sample has, 0 to 2; NaN where the call is missing or broke a rule.
    match : Match
        Which allele was counted, and on which strand.
    place : (str, int)
        Chromosome and position in the file.
    tally : Counter
        What was seen, as counts of calls.
    """

    dosages: Floats
    match: Match
    place: tuple[str, int]
    tally: Counter[str] = field(default_factory=Counter)


@dataclass(repr=False)
class Seen:
    """What reading a file has come to so far; variants by their name in the study.

    Attributes
    ----------
    found
        Variants and their dosages.
    others, ambiguous
        Variants at whose place stand other alleles, or whose strand cannot be told.
    elsewhere
        Variants whose id stands at another place than the panel's.
    twice
        Variants that stand in more than one record.
    confirmed
        Variants found by id and place together: they confirm the build.
    failed
        Variants whose record fails FILTER or QUAL.
    tally
        What was seen, as counts of variants.
    """

    found: dict[str, Found] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    ambiguous: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    confirmed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    tally: Counter[str] = field(default_factory=Counter)

    def wants(self, key: str, match: Match) -> bool:
        """Return whether a record is the better one for a variant; one that lists the counted allele is."""
        before = self.found.get(key)
        if before is None:
            return True
        if match.counted is not None and before.match.counted is not None:
            self.twice.add(key)
        return match.counted is not None and before.match.counted is None


class Lookup:
    """The panel's variants by place and by id."""

    def __init__(self, spec: Panel, keys: set[str] | None = None) -> None:
        self.at: dict[tuple[str, int], list[str]] = {}
        self.named: dict[str, list[str]] = {}
        self.variants: dict[str, PanelVariant] = {}
        for key, variant in sorted(spec.variants.items()):
            if keys is not None and key not in keys:
                continue
            self.variants[key] = variant
            if variant.place is not None:
                self.at.setdefault(variant.place, []).append(key)
            if variant.id is not None:
                self.named.setdefault(variant.id, []).append(key)

    def may_hold(self, plain: str, position: int, name: str, alternative: str) -> bool:
        """Return whether a record at this place, of this id, is about one of the variants."""
        if (plain, position) in self.at or name in self.named:
            return True
        return ";" in name and not self.named.keys().isdisjoint(name.split(";"))

    def here(self, place: tuple[str, int], name: str, seen: Seen) -> list[str]:
        """Return the variants a record at this place, of this id, may be; note the id of one elsewhere."""
        keys = list(self.at.get(place, ()))
        for one in name.split(";") if ";" in name else (name,):
            for key in self.named.get(one, ()):
                if self.variants[key].place is None:
                    keys += [key] * (key not in keys)
                elif key in keys:
                    seen.confirmed.add(key)
                elif place[1] > 0:  # PLINK writes 0 where the position is unknown
                    seen.elsewhere.add(key)
        return keys


def settle_sex(
    spec: Panel, place: tuple[str, int], dosages: Floats, one_copy: Bools | None, sex: Ints, tally: Counter[str]
) -> None:
    """Set to missing, in place, what cannot be where one sex has one copy or none.

    A single copy counts as two of a kind, 0 or 2, wherever it stands: as PLINK stores it, as association studies
    recode males on X (one active copy in either sex, Clayton 2008), and so that twice the frequency stays the centre.
    Outside the pseudoautosomal regions a male's call of two different alleles, any such call on Y or MT, and a
    female's call on Y are errors of genotyping.

    Parameters
    ----------
    place
        Chromosome and position.
    dosages : (S,) float32
        Called dosages, on the scale 0 to 2.
    one_copy : (S,) bool or None
        Whose call was written with one allele, where the file tells; counted only.
    sex : (S,) int64
        1 male, 2 female, 0 unknown.
    """
    chromosome, position = place
    if one_copy is not None and (single := int(one_copy.sum())):
        tally["calls of one copy"] += single
    if not haploid(spec.build, chromosome, position):
        return
    mixed = (dosages == 1) & ((sex == MALE) | (chromosome != "X")) if spec.dosage == "called" else np.zeros(1, bool)
    absent = (sex == FEMALE) & ~np.isnan(dosages) if chromosome == "Y" else np.zeros(1, bool)
    tally["calls of two alleles where there is one copy"] += int((mixed & ~absent).sum())
    tally["calls on Y of females"] += int(absent.sum())
    dosages[np.broadcast_to(mixed | absent, dosages.shape)] = np.nan

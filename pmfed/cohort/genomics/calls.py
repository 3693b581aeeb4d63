"""What a file says about the panel's variants: dosages per sample, and what was seen on the way."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.alleles import Match
from pmfed.cohort.genomics.builds import haploid
from pmfed.cohort.genomics.outcomes import anchor
from pmfed.cohort.genomics.samples import FEMALE, MALE, Ints
from pmfed.modality.genomics import Panel, PanelVariant

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


ONE_COPY = "calls of one copy"
UNMEASURED = ("calls missing", "calls on Y of females")
"""What a tally counts of calls by which nothing is lost: a man's X; what was not called, or cannot be there."""


@dataclass(frozen=True, repr=False)
class FoundCalls:
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
class SeenCalls:
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
        Variants that stand in more than one record, and not alike.
    coded
        Variants whose alleles are written in a code that does not tell bases (I/D, 1/2, A/B).
    either
        Variants whose letters the file lists as lost and as gained, so that the genome's allele cannot be told.
    blocks
        Variants that lie within a stretch without variants, which does not tell its bases.
    confirmed
        Variants found by id and place together: they confirm the build.
    failed
        Variants whose record fails FILTER or QUAL.
    tally
        What was seen, as counts of variants.
    """

    found: dict[str, FoundCalls] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    ambiguous: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    coded: set[str] = field(default_factory=set)
    either: set[str] = field(default_factory=set)
    blocks: set[str] = field(default_factory=set)
    confirmed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    tally: Counter[str] = field(default_factory=Counter)


class Lookup:
    """The panel's variants by the position that any record of them covers, and by id.

    Parameters
    ----------
    spec
        The panel.
    keys
        Some of its variants; None for all.
    places
        Where variants that the panel knows by id alone stand in the file.
    """

    def __init__(
        self, spec: Panel, keys: Collection[str] | None = None, places: Mapping[str, tuple[str, int]] | None = None
    ) -> None:
        self.named: dict[str, list[str]] = {}
        self.variants: dict[str, PanelVariant] = {}
        self.places: dict[str, tuple[str, int]] = {}
        self._at: dict[str, dict[int, list[str]]] = {}
        for key in sorted(spec.variants if keys is None else keys):
            self.variants[key] = variant = spec.variants[key]
            place = variant.place or (places or {}).get(key)
            if place is not None:
                self.places[key] = place
                self._at.setdefault(place[0], {}).setdefault(
                    anchor((variant.reference, variant.effect), place[1]), []
                ).append(key)
            if variant.id is not None:
                self.named.setdefault(variant.id, []).append(key)
        self._sorted = {plain: sorted(found) for plain, found in self._at.items()}

    def may_hold(self, plain: str, first: int, last: int, name: str, alternative: str) -> bool:
        """Return whether a record over these bases, of this id, is about one of the variants."""
        if first == last:
            if plain in self._at and first in self._at[plain]:
                return True
        elif self._covered(plain, first, last):
            return True
        return name in self.named or (";" in name and not self.named.keys().isdisjoint(name.split(";")))

    def spans(self) -> list[tuple[str, int]]:
        """Return all positions that records are looked for at."""
        return [(plain, at) for plain, found in self._sorted.items() for at in found]

    def here(self, plain: str, first: int, last: int) -> list[str]:
        """Return the variants that a record over these bases covers."""
        if first == last:
            return self._at.get(plain, {}).get(first, [])
        return [key for at in self._covered(plain, first, last) for key in self._at[plain][at]]

    def by_name(self, name: str) -> list[str]:
        """Return the variants that a record of these ids, parted by semicolons, may be."""
        if ";" not in name:
            return self.named.get(name, [])
        return [key for one in name.split(";") for key in self.named.get(one, ())]

    def unplaced(self, name: str) -> list[str]:
        """Return those of `by_name` that the panel knows by id alone."""
        return [key for key in self.by_name(name) if self.variants[key].place is None]

    def check_name(self, place: tuple[str, int], name: str, covered: Collection[str], seen: SeenCalls) -> None:
        """Note whether a record's id stands where the panel says."""
        for key in self.by_name(name):
            if self.variants[key].place is None:
                continue
            if key in covered:
                seen.confirmed.add(key)
            elif place[1] > 0:  # PLINK writes 0 where the position is unknown
                seen.elsewhere.add(key)

    def _covered(self, plain: str, first: int, last: int) -> Sequence[int]:
        found = self._sorted.get(plain, [])
        start = bisect_left(found, first)
        end = start
        while end < len(found) and found[end] <= last:
            end += 1
        return found[start:end]


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
    if one_copy is not None and (single := int(one_copy.sum())):
        tally[ONE_COPY] += single
    chromosome, position = place
    if not haploid(spec.build, chromosome, position):
        return
    mixed = (dosages == 1) & ((sex == MALE) | (chromosome != "X")) if spec.dosage == "called" else np.zeros(1, bool)
    absent = (sex == FEMALE) & ~np.isnan(dosages) if chromosome == "Y" else np.zeros(1, bool)
    tally["calls of two alleles where there is one copy"] += int((mixed & ~absent).sum())
    tally["calls on Y of females"] += int(absent.sum())
    dosages[np.broadcast_to(mixed | absent, dosages.shape)] = np.nan

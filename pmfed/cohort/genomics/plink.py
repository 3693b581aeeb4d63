"""PLINK 1 files: .bed (two bits a call), .bim (variants) and .fam (samples), read without another library.

A .bed file is three bytes, then per variant the calls of all samples, four to a byte, lowest bits first: 00 two of the
first allele, 10 one of each, 11 two of the second, 01 missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.alleles import Match, match_pair
from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.calls import Floats, FoundCalls, Lookup, SeenCalls, settle_sex
from pmfed.cohort.genomics.container import beside
from pmfed.cohort.genomics.outcomes import change, is_single
from pmfed.cohort.genomics.samples import Ints
from pmfed.cohort.tables import count
from pmfed.errors import DataError
from pmfed.modality.genomics import Panel, PanelVariant

_MAGIC, _BY_SAMPLE = b"\x6c\x1b\x01", b"\x6c\x1b\x00"
_BLOCK = 1 << 20  # bytes of .bim lines at a time
_AT_A_TIME = 256  # variants whose calls are unpacked together
_LETTERS = set("ACGT0")
Packed = NDArray[np.uint8]


def _quarters(*told: float) -> Floats:
    """Return what the four calls of every possible byte say, (256, 4)."""
    pairs = np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3
    found: Floats = np.array(told, dtype=np.float32)[pairs]
    return found


# How many of the first allele, of the second, of neither.
_TABLES = {0: _quarters(2, np.nan, 1, 0), 1: _quarters(0, np.nan, 1, 2), None: _quarters(0, np.nan, 0, 0)}


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of .bim that covers a variant of the panel."""

    line: int
    at: int
    first: str
    second: str


class PlinkPanel:
    """A PLINK fileset as a source of the panel's variants.

    Attributes
    ----------
    samples : tuple of str
        The second column of .fam.
    sex : (N,) int64
        Its fifth: 1 male, 2 female, 0 unknown.
    last : dict
        After reading: chromosome -> highest position seen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"{path}: there is no such file.", "Name the .bed file in [data] of site.toml.")
        self._bim, fam = (_companion(path, ending) for ending in (".bim", ".fam"))
        people = list(_blocks(fam, 6))
        self.samples = tuple(name for block in people for name in block[1])
        sexes = [int(sex) if sex in ("1", "2") else 0 for block in people for sex in block[4]]
        self.sex: Ints = np.array(sexes, dtype=np.int64)
        if not people:
            raise DataError(f"{fam}: lists no samples.", "Export .bed, .bim and .fam again, together.")
        self.last: dict[str, int] = {}
        self._lines = 0

    def read(self, spec: Panel, places: Sequence[int], sex: Ints) -> SeenCalls:
        """Find the panel's variants.

        Parameters
        ----------
        spec
            The panel.
        places : (S,)
            The samples to read, ascending places in the .fam file.
        sex : (S,) int64
            1 male, 2 female, 0 unknown.
        """
        self._check_rules(spec)
        seen = SeenCalls()
        lookup = Lookup(spec, places=self._places_of_ids(spec, seen))
        rows: dict[str, list[_Row]] = {}
        for plain, row, name in self._rows(lookup):
            last = row.at + max(len(row.first), len(row.second)) - 1
            covered = lookup.here(plain, row.at, last) if row.at else lookup.unplaced(name)  # at 0 the id alone tells
            lookup.check_name((plain, row.at), name, covered, seen)
            for key in covered:
                rows.setdefault(key, []).append(row)
        self._check_size(self._lines)
        calls = _PlinkCalls(self.path, len(self.samples), places)
        calls.check([row.line for found in rows.values() for row in found])
        taken = {key: one for key, found in rows.items() if (one := _taken(lookup, key, found, seen)) is not None}
        every: Floats = calls.dosages([(one.line, one.match.counted) for one in taken.values()])
        missing = np.count_nonzero(np.isnan(every), axis=1)
        for number, (key, one) in enumerate(taken.items()):
            dosages, place = every[number], lookup.places[key]
            for other in one.others:
                _compare(key, dosages, one, other, calls, seen)
            gaps = int(np.isnan(dosages).sum() if one.others else missing[number])
            tally = Counter({"calls missing": gaps} if gaps else ())
            settle_sex(spec, place, dosages, None, sex, tally)
            seen.found[key] = FoundCalls(dosages, one.match, place, tally)
        for key in seen.twice:
            seen.found.pop(key, None)
        return seen

    def _places_of_ids(self, spec: Panel, seen: SeenCalls) -> dict[str, tuple[str, int]]:
        """Return where the variants stand that the panel knows by id alone; lines without the id may be about them."""
        found: dict[str, tuple[str, int]] = {}
        if not (unplaced := [key for key, variant in spec.variants.items() if variant.place is None]):
            return found
        lookup = Lookup(spec, unplaced)
        for plain, row, name in self._rows(lookup):
            for key in lookup.by_name(name):
                if found.setdefault(key, (plain, row.at)) != (plain, row.at):
                    seen.twice.add(key)
        return found

    def _rows(self, lookup: Lookup) -> Iterator[tuple[str, _Row, str]]:
        """Yield chromosome, alleles and id of the lines that may be about a variant of the panel."""
        plains: dict[str, str | None] = {}
        positions = {at for _, at in lookup.spans()}
        done = 0
        for block in _blocks(self._bim, 6):
            names, ids, _, ats, firsts, seconds = block
            try:
                places = list(map(int, ats))
            except ValueError:
                wrong = next(number for number, at in enumerate(ats) if not at.lstrip("-").isdigit())
                raise DataError(
                    f"{self._bim}: line {done + wrong + 1:,} has no position in its fourth column.", "Export it again."
                ) from None
            plains.update({name: chromosome(name) for name in set(names) - plains.keys()})
            self._note_last(names, places, plains)
            near = [
                number
                for number, (at, identity) in enumerate(zip(places, ids, strict=True))
                if at in positions or identity in lookup.named
            ]
            long = [number for number, pair in enumerate(map(add, firsts, seconds)) if len(pair) > 2]
            for number in sorted({*near, *long}) if long else near:
                plain, at = plains[names[number]], places[number]
                if plain is not None and at >= 0:  # below 0 is PLINK's way of leaving a variant out
                    row = _Row(done + number, at, firsts[number].upper(), seconds[number].upper())
                    yield plain, row, ids[number]
            done += len(names)
        self._lines = done

    def _note_last(self, names: Sequence[str], places: Sequence[int], plains: Mapping[str, str | None]) -> None:
        highest: dict[str, int] = {}
        for name, at in zip(names, places, strict=True):
            if at > highest.get(name, 0):
                highest[name] = at
        for name, at in highest.items():
            if (plain := plains[name]) is not None:
                self.last[plain] = max(at, self.last.get(plain, 0))

    def _check_rules(self, spec: Panel) -> None:
        asked = {
            "imputed dosages": spec.dosage == "imputed",
            "qualities (QUAL)": spec.minimum_quality is not None,
            "depths (DP)": spec.minimum_depth is not None,
            "genotype qualities (GQ)": spec.minimum_genotype_quality is not None,
        }
        if lacking := [what for what, wanted in asked.items() if wanted]:
            raise DataError(
                f"{self.path}: PLINK files hold no {' and no '.join(lacking)}, which the study's rules need.",
                "Use the VCF the calls came from, or agree on a study without these rules.",
            )

    def _check_size(self, variants: int) -> None:
        stride = -(-len(self.samples) // 4)
        with self.path.open("rb") as file:
            magic = file.read(3)
        if magic == _BY_SAMPLE:
            raise DataError(
                f"{self.path}: is ordered by sample.", "Run 'plink --make-bed' on it, which orders by variant."
            )
        if magic != _MAGIC:
            raise DataError(f"{self.path}: is not a PLINK .bed file.", "A BED file of intervals is another format.")
        size, expected = self.path.stat().st_size, len(_MAGIC) + variants * stride
        if size != expected or not variants:
            raise DataError(
                f"{self.path}: does not fit its .bim and .fam: {count(variants, 'variant')} of "
                f"{count(len(self.samples), 'sample')} take {expected:,} bytes, the file has {size:,}.",
                "The three files belong together: export them again, together.",
            )


def _companion(path: Path, ending: str) -> Path:
    found = beside(path, path.with_suffix(ending))
    if found is None:
        raise DataError(
            f"{path}: the {ending} file beside it is missing.", "A PLINK fileset is .bed, .bim and .fam of one name."
        )
    return found


def _blocks(path: Path, columns: int) -> Iterator[list[list[str]]]:
    """Yield the columns of some thousand lines at a time; they are parted by white space."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            while lines := file.readlines(_BLOCK):
                for width in map(len, map(str.split, lines)):
                    number += 1
                    if width != columns:
                        raise DataError(
                            f"{path}: line {number:,} has {count(width, 'column')} where {columns} are expected.",
                            "Export .bed, .bim and .fam again, together.",
                        )
                # One flat list: a list per line would keep Python's collector of garbage busy.
                words = "".join(lines).split()
                yield [words[column::columns] for column in range(columns)]
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text.", "Export .bed, .bim and .fam again, together.") from None


@dataclass(frozen=True, slots=True)
class _Taken:
    """The line that tells a variant, and others of the same place."""

    line: int
    pair: tuple[str, str]
    match: Match
    others: list[tuple[int, tuple[str, str], Match | None]]


def _taken(lookup: Lookup, key: str, rows: Sequence[_Row], seen: SeenCalls) -> _Taken | None:
    """Return how a variant is told, None where it is not."""
    variant, (_, at) = lookup.variants[key], lookup.places[key]
    good, other = [], []
    for row in rows:
        pair = _pair(variant, at, row)
        match = match_pair(variant.reference, variant.effect, *pair) if pair else None
        if isinstance(match, Match):
            good.append((row.line, pair or ("", ""), match))
        elif match == "others":
            (seen.others if _LETTERS.issuperset(row.first + row.second) else seen.coded).add(key)
            other.append((row.line, pair or ("", ""), None))
    if not good:
        return None
    good.sort(key=lambda one: one[2].counted is None)  # a line that lists the counted allele tells more
    (line, pair, match), *more = good
    return _Taken(line, pair, match, [*more, *other])


def _pair(variant: PanelVariant, at: int, row: _Row) -> tuple[str, str] | None:
    """Return the two alleles a line lists at a variant's place, None where they are not about it."""
    first, second = row.first, row.second
    if row.at == at and (len(first) == len(second) == 1 or not _LETTERS.issuperset(first + second)):
        return first, second
    if not is_single((variant.reference, variant.effect)):
        ours = change(at, variant.reference, variant.effect)
        if change(row.at, second, first) == ours:
            return variant.effect, variant.reference
        if change(row.at, first, second) == ours:
            return variant.reference, variant.effect
        return (first, second) if row.at == at else None
    if len(first) != len(second) or not _LETTERS.issuperset(first + second):
        return (first, second) if row.at == at else None
    pair = first[at - row.at], second[at - row.at]
    return pair if pair[0] != pair[1] else None


def _compare(
    key: str,
    dosages: Floats,
    taken: _Taken,
    other: tuple[int, tuple[str, str], Match | None],
    calls: _PlinkCalls,
    seen: SeenCalls,
) -> None:
    """Bring another line of the same place in: the same once more, or an allele that was split off into it."""
    line, pair, match = other
    if match is not None:
        again = calls.dosages([(line, match.counted)])[0]
        if match.counted is None or np.array_equal(again, dosages, equal_nan=True):
            seen.tally["records repeated"] += 1
        else:
            seen.twice.add(key)
        return
    counted = taken.match.counted
    if counted is None or taken.pair[counted] not in pair:
        return  # an allele besides the counted one takes nothing from it
    split = calls.dosages([(line, 1 - pair.index(taken.pair[counted]))])[0]
    dosages -= split
    dosages[dosages < 0] = np.nan
    seen.tally["variants over several records"] += 1


class _PlinkCalls:
    """The calls of some samples in a .bed file."""

    def __init__(self, path: Path, people: int, places: Sequence[int]) -> None:
        self._path, self._people = path, people
        mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=len(_MAGIC))
        self._packed: Packed = np.asarray(mapped).reshape(-1, -(-people // 4))
        self._places: slice | Ints = slice(people) if len(places) == people else np.asarray(places, dtype=np.int64)

    def check(self, lines: Sequence[int]) -> None:
        """Raise where lines hold calls of more samples than there are: what the last byte has beyond them is zero."""
        used = 2 * (self._people % 4)
        if used and lines and (self._packed[list(lines), -1] >> used).any():
            raise DataError(
                f"{self._path}: holds calls of more samples than its .fam lists.",
                "The three files belong together: export them again, together.",
            )

    def dosages(self, asked: Sequence[tuple[int, int | None]]) -> Floats:
        """Return how many of the first (0), the second (1) or no allele (None) the samples have in some lines, (V, S)."""
        found = np.empty((len(asked), 4 * self._packed.shape[1]), dtype=np.float32)
        for counted, table in _TABLES.items():
            rows = np.array([row for row, (_, one) in enumerate(asked) if one == counted], dtype=np.int64)
            lines = np.array([line for line, one in asked if one == counted], dtype=np.int64)
            for start in range(0, len(rows), _AT_A_TIME):
                some = slice(start, start + _AT_A_TIME)
                found[rows[some]] = table[self._packed[lines[some]]].reshape(len(lines[some]), -1)
        return found[:, self._places]

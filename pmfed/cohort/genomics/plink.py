"""PLINK 1 files: .bed (two bits a call), .bim (variants) and .fam (samples), read without another library.

A .bed file is three bytes, then per variant the calls of all samples, four to a byte, lowest bits first: 00 two of the
first allele, 10 one of each, 11 two of the second, 01 missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.alleles import Match, match_pair
from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.calls import Floats, Found, Lookup, Seen, settle_sex
from pmfed.cohort.genomics.container import beside
from pmfed.cohort.genomics.samples import Ints
from pmfed.cohort.tables import count
from pmfed.errors import DataError
from pmfed.modality.genomics import Panel

_MAGIC, _BY_SAMPLE = b"\x6c\x1b\x01", b"\x6c\x1b\x00"
Packed = NDArray[np.uint8]


def _quarters(*told: float) -> Floats:
    """Return what the four calls of every possible byte say, (256, 4)."""
    pairs = np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3
    found: Floats = np.array(told, dtype=np.float32)[pairs]
    return found


_FIRST = _quarters(2, np.nan, 1, 0)  # how many of the first allele
_SECOND = _quarters(0, np.nan, 1, 2)
_NONE = _quarters(0, np.nan, 0, 0)


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
        people = list(_rows(fam, 6))
        self.samples = tuple(row[1] for row in people)
        sexes = [int(row[4]) if row[4] in ("1", "2") else 0 for row in people]
        self.sex: Ints = np.array(sexes, dtype=np.int64)
        if not people:
            raise DataError(f"{fam}: lists no samples.", "Export .bed, .bim and .fam again, together.")
        self.last: dict[str, int] = {}

    def read(self, spec: Panel, places: Sequence[int], sex: Ints) -> Seen:
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
        seen = Seen()
        lookup = Lookup(spec)
        taken: dict[str, tuple[int, Match, tuple[str, int]]] = {}
        plains: dict[str, str | None] = {}
        lines = 0
        for name, at, identity, first, second in self._variants():
            lines += 1
            if name not in plains:
                plains[name] = chromosome(name)
            plain = plains[name]
            if plain is None:
                continue
            place = (plain, at)
            self.last[plain] = max(at, self.last.get(plain, 0))
            for key in lookup.here(place, identity, seen):
                variant = lookup.variants[key]
                match = match_pair(variant.reference, variant.effect, first, second)
                if isinstance(match, Match):
                    if key in taken:
                        seen.twice.add(key)
                    taken[key] = (lines - 1, match, place)
                elif match == "others":
                    seen.others.add(key)
        stride = -(-len(self.samples) // 4)
        self._check_size(lines, stride)
        calls = np.memmap(self.path, dtype=np.uint8, mode="r", offset=len(_MAGIC), shape=(lines, stride))
        used = 2 * (len(self.samples) % 4)  # bits used in the last byte; the others are zero
        if used and taken and (calls[[line for line, _, _ in taken.values()], -1] >> used).any():
            raise DataError(
                f"{self.path}: holds calls of more samples than its .fam lists.",
                "The three files belong together: export them again, together.",
            )
        dosages = _dosages(
            calls, [line for line, _, _ in taken.values()], [one for _, one, _ in taken.values()], places
        )
        missing = np.isnan(dosages).sum(axis=1)
        for row, (key, (_, match, place)) in enumerate(taken.items()):
            tally = Counter({"calls missing": int(missing[row])})
            settle_sex(spec, place, dosages[row], None, sex, tally)
            seen.found[key] = Found(dosages[row], match, place, tally)
        return seen

    def _variants(self) -> Iterator[tuple[str, int, str, str, str]]:
        for number, row in enumerate(_rows(self._bim, 6), 1):
            if not row[3].lstrip("-").isdigit():
                raise DataError(
                    f"{self._bim}: line {number:,} has no position in its fourth column.", "Export it again."
                )
            yield row[0], int(row[3]), row[1], row[4], row[5]

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

    def _check_size(self, variants: int, stride: int) -> None:
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


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    """Yield the fields of every line; they are parted by white space."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = line.split()
                if len(row) != columns:
                    raise DataError(
                        f"{path}: line {number:,} has {count(len(row), 'column')} where {columns} are expected.",
                        "Export .bed, .bim and .fam again, together.",
                    )
                yield row
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text.", "Export .bed, .bim and .fam again, together.") from None


def _dosages(packed: Packed, variants: Sequence[int], matches: Sequence[Match], samples: Sequence[int]) -> Floats:
    """Return how many of the counted allele some samples have in some variants, (V, S)."""
    places = np.asarray(samples, dtype=np.int64)
    dosages = np.empty((len(variants), len(places)), dtype=np.float32)
    for row, (variant, match) in enumerate(zip(variants, matches, strict=True)):
        quarter = _FIRST if match.counted == 0 else _SECOND if match.counted == 1 else _NONE
        dosages[row] = quarter[packed[variant]].reshape(-1)[places]
    return dosages

"""Records of VCF and BCF files: by place where a VCF has an index, otherwise by reading once.

What a record says is asked of it, not read beforehand; a step that fails is a sentence that tells nothing of a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics import bcf
from pmfed.cohort.genomics.builds import spellings
from pmfed.cohort.genomics.container import DAMAGED, Container
from pmfed.cohort.genomics.line_calls import ABSENT, PADDING, LineCalls
from pmfed.cohort.genomics.lines import Names, VcfLine, Wanted, lines, parse
from pmfed.errors import DataError

__all__ = ["ABSENT", "PADDING", "GenotypeCalls", "Record", "VariantRecords"]


@dataclass(frozen=True, repr=False)
class GenotypeCalls:
    """The calls of a record.

    Attributes
    ----------
    alleles : (S, ploidy) int
        Which alleles were called: -1 for a missing one, -2 where a sample has fewer than others.
    plain : bool
        Every sample has two, and none is missing.
    """

    alleles: NDArray[np.integer]
    plain: bool


@dataclass(frozen=True, repr=False, slots=True)
class Record:
    """A record of a VCF or BCF file.

    Attributes
    ----------
    path
        The file.
    place
        Chromosome and position.
    last
        The last base it is about: that of REF, or of a stretch without variants (gVCF).
    name
        Its ids, parted by semicolons; "" for none.
    alleles
        REF and every ALT, in capitals.
    failed : bool
        FILTER says neither PASS nor nothing.
    quality
        QUAL, where there is one.
    formats
        The fields of its calls.
    """

    path: Path
    place: tuple[str, int]
    last: int
    name: str
    alleles: tuple[str, ...]
    failed: bool
    quality: float | None
    formats: tuple[str, ...]
    _calls: _Calls = field(compare=False)

    def passes(self, passed: bool, minimum_quality: float | None) -> bool:
        """Return whether it meets the rules on FILTER ('.' and PASS do) and QUAL (an unknown one does not)."""
        if passed and self.failed:
            return False
        return minimum_quality is None or (self.quality is not None and self.quality >= minimum_quality)

    def genotypes(self) -> GenotypeCalls | None:
        """Return the calls, None where the record has no GT.

        Raises
        ------
        DataError
            They cannot be read, or name an allele that the record does not list.
        """
        if "GT" not in self.formats:
            return None
        try:
            told, least, most = self._calls.alleles()
        except (ValueError, IndexError, OverflowError):
            raise DataError(f"{self.path}: the calls (GT) of a record cannot be read.", DAMAGED) from None
        listed = len(self.alleles)
        if least < PADDING or (most >= listed and told.max(initial=0) >= listed):
            raise DataError(f"{self.path}: a call (GT) names an allele that its record does not list.", DAMAGED)
        return GenotypeCalls(told, plain=told.shape[1] == 2 and least >= 0)

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Return a field of the calls, (S, n), NaN where a sample has none; None where the record lacks the field."""
        if name not in self.formats:
            return None
        try:
            return self._calls.numbers(name)
        except (ValueError, OverflowError):
            raise DataError(
                f"{self.path}: the field {name} of a record holds no numbers.", "Mend its type in the header."
            ) from None

    def texts(self, name: str) -> list[str] | None:
        """Return a field of the calls as text, "." where a sample has none; None where the record lacks the field."""
        if name not in self.formats:
            return None
        try:
            return self._calls.texts(name)
        except ValueError:
            raise DataError(f"{self.path}: the field {name} of a record holds no text.", DAMAGED) from None

    def info(self, name: str) -> tuple[str | None, ...]:
        """Return the values of a field of INFO, None for a missing one; none where the record lacks the field."""
        try:
            return self._calls.info(name)
        except (ValueError, KeyError, IndexError):
            return ()


class _Calls(Protocol):
    """What a record says beyond its fixed columns."""

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        """Return the alleles called, (S, ploidy), the lowest of them, and what none of them is above."""
        ...

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field as numbers, (S, n)."""
        ...

    def texts(self, name: str) -> list[str]:
        """Return a field as texts."""
        ...

    def info(self, name: str) -> tuple[str | None, ...]:
        """Return the values of a field of INFO, none where it is not there."""
        ...


class VariantRecords:
    """The records of a file, of some of its samples.

    Parameters
    ----------
    file
        The file.
    places : (S,)
        The samples to read, ascending places in the file.
    """

    def __init__(self, file: Container, places: Sequence[int]) -> None:
        self.file, self.places = file, places
        self._names = Names()
        self._indexed: Any = None
        self._rows: Any = slice(None) if len(places) == len(file.samples) else np.asarray(places, dtype=np.int64)

    def through(self, wanted: Wanted) -> Iterator[Record]:
        """Yield the records that are wanted, in the order of the file, by reading it once."""
        if self.file.form == "bcf":
            for found in bcf.records(self.file, wanted):
                yield self._of_bcf(found)
            return
        for line in lines(self.file, wanted):
            yield self._of_line(line)

    def within(self, plain: str, first: int, last: int) -> Iterator[Record]:
        """Yield the records that are about any base between two positions, these included, by the index."""
        if self._indexed is None:
            self._indexed = _open_index(self.file)
        contig = self.file.contigs.get(plain)
        for name in (contig.name,) if contig else spellings(plain):
            if name not in self._indexed.contigs:
                continue
            try:
                for text in self._indexed.fetch(name, first - 1, last):
                    line = parse(self.file, text.encode("latin-1"), None, lambda *_: True, self._names)
                    if line is not None and line.position <= last and line.last >= first:
                        yield self._of_line(line)
            except (OSError, ValueError):  # whatever it says may quote the file
                raise DataError(
                    f"{self.file.path}: cannot be unpacked: the file is damaged or cut off.", DAMAGED
                ) from None

    def _of_line(self, line: VcfLine) -> Record:
        alternative = line.alternative
        return Record(
            path=self.file.path,
            place=(line.chromosome, line.position),
            last=line.last,
            name="" if line.name == "." else line.name,
            alleles=(line.reference.upper(), *([] if alternative == "." else alternative.upper().split(","))),
            failed=line.filters not in (".", "PASS"),
            quality=None if line.quality == "." else float(line.quality),
            formats=line.formats,
            _calls=LineCalls(self.file, line, self._rows),
        )

    def _of_bcf(self, found: bcf.Fixed) -> Record:
        return Record(
            path=self.file.path,
            place=(found.chromosome, found.position),
            last=found.last,
            name=found.name,
            alleles=found.alleles,
            failed=found.filters not in ((), (0,)),
            quality=found.quality,
            formats=tuple(found.formats),
            _calls=bcf.RecordCalls(found, self._rows, self.file.padded),
        )


def _open_index(file: Container) -> Any:
    try:
        library = import_module("pysam")
    except ImportError:
        raise DataError(
            "Reading a VCF by its index needs pysam, which is not installed.", "Run: pip install 'pmfed[genomics]'."
        ) from None
    library.set_verbosity(0)  # it writes what it dislikes to the terminal
    try:
        return library.TabixFile(str(file.path), index=str(file.index), encoding="latin-1")
    except (OSError, ValueError):
        raise DataError(
            f"{file.index}: cannot be read as an index.", "Make it anew with 'bcftools index -f FILE'."
        ) from None

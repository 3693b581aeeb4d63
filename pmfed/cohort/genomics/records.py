"""Records of VCF and BCF files: by place where a VCF has an index, otherwise by reading once.

The library (cyvcf2, for VCF) raises what quotes the file, and decodes text as it goes; here every step that could fail becomes a
sentence that tells nothing of a patient.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics import bcf
from pmfed.cohort.genomics.builds import chromosome, spellings
from pmfed.cohort.genomics.container import DAMAGED, MIB, Container
from pmfed.cohort.genomics.lines import Line, Wanted, in_memory, lines, plain_calls
from pmfed.errors import DataError

BATCH = 16 * MIB  # bytes of lines handed to the library at a time
ABSENT, PADDING = -1, -2  # of alleles called


@dataclass(frozen=True, repr=False)
class Genotypes:
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
    name
        Its ids, parted by semicolons; "" for none.
    alleles
        REF and every ALT.
    failed : bool
        FILTER says neither PASS nor nothing.
    quality
        QUAL, where there is one.
    formats
        The fields of its calls.
    """

    path: Path
    place: tuple[str, int]
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

    def genotypes(self) -> Genotypes | None:
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
        except Exception:  # of whatever kind the library's are
            raise DataError(f"{self.path}: the calls (GT) of a record cannot be read.", DAMAGED) from None
        listed = len(self.alleles)
        if least < PADDING or (most >= listed and told.max(initial=0) >= listed):
            raise DataError(f"{self.path}: a call (GT) names an allele that its record does not list.", DAMAGED)
        return Genotypes(told, plain=told.shape[1] == 2 and least >= 0)

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Return a field of the calls, (S, n), NaN where a sample has none; None where the record lacks the field."""
        if name not in self.formats:
            return None
        try:
            return self._calls.numbers(name)
        except Exception:
            raise DataError(
                f"{self.path}: the field {name} of a record holds no numbers.", "Mend its type in the header."
            ) from None

    def end(self) -> int | None:
        """Return the last base of a structural record (INFO/END, or POS + SVLEN), None where it does not tell."""
        start = self.place[1]
        try:
            end, lengths = self._calls.info("END"), self._calls.info("SVLEN")
        except Exception:
            return None
        told = end[0] if end else start + max(abs(one) for one in lengths) if lengths else start
        return told if told > start else None


class _Calls(Protocol):
    """What a record says beyond its fixed columns."""

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        """Return the alleles called, (S, ploidy), the lowest of them, and what none of them is above."""
        ...

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field as numbers, (S, n)."""
        ...

    def info(self, name: str) -> tuple[int, ...]:
        """Return whole numbers of INFO, none where it lacks them."""
        ...


@dataclass(frozen=True, repr=False, slots=True)
class _LibraryCalls:
    """As cyvcf2 tells them."""

    inner: Any
    rows: Any

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        told: NDArray[np.integer] = self.inner.genotype.array()[self.rows]
        # The last column says with 0 or 1 which are phased. Looking through a whole array is many times faster than
        # along its rows of two.
        return told[:, :-1], int(told.min(initial=0)), int(told.max(initial=0))

    def numbers(self, name: str) -> NDArray[np.float64]:
        told = self.inner.format(name)[self.rows]
        if told.dtype.kind not in "if" or told.ndim != 2:
            raise ValueError
        numbers: NDArray[np.float64] = told.astype(np.float64)
        if told.dtype.kind == "i":
            numbers[told <= np.iinfo(np.int32).min + 7] = np.nan  # marks for missing and padding
        return numbers

    def info(self, name: str) -> tuple[int, ...]:
        told = self.inner.INFO.get(name)
        return told if isinstance(told, tuple) else () if told is None else (int(told),)


@dataclass(frozen=True, repr=False, slots=True)
class _PlainCalls:
    """Calls of two alleles each, already read; nothing else is asked of them."""

    called: NDArray[np.int8]

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        return self.called, int(self.called.min(initial=0)), int(self.called.max(initial=0))

    def numbers(self, name: str) -> NDArray[np.float64]:
        raise ValueError

    def info(self, name: str) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, repr=False, slots=True)
class _BcfCalls:
    """As they stand in a BCF record."""

    found: bcf.Fixed
    rows: Any

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        return bcf.as_alleles(self.found.formats["GT"][self.rows])

    def numbers(self, name: str) -> NDArray[np.float64]:
        return bcf.as_numbers(self.found.formats[name][self.rows])

    def info(self, name: str) -> tuple[int, ...]:
        told = self.found.info().get(name, "")
        return () if isinstance(told, str) else tuple(int(one) for one in told)


class Records:
    """The records of a file, of some of its samples.

    Parameters
    ----------
    file
        The file.
    places : (S,)
        The samples to read, ascending places in the file.
    fields
        What will be asked of the calls besides GT.
    """

    def __init__(self, file: Container, places: Sequence[int], fields: Collection[str] = ()) -> None:
        self.file, self.places, self.fields = file, places, fields
        self._plains: dict[str, str | None] = {}
        self._indexed: Any = None
        self._rows: Any = slice(None) if len(places) == len(file.samples) else np.asarray(places, dtype=np.int64)

    def through(self, wanted: Wanted) -> Iterator[Record]:
        """Yield the records that are wanted, by reading the file once.

        They come in the order of the file if any ``fields`` are asked for; otherwise those with unusual calls come late.
        """
        if self.file.form == "bcf":
            for found in bcf.records(self.file, wanted):
                yield Record(
                    path=self.file.path,
                    place=(found.chromosome, found.position),
                    name=found.name,
                    alleles=found.alleles,
                    failed=found.filters not in ((), (0,)),
                    quality=found.quality,
                    formats=tuple(found.formats),
                    _calls=_BcfCalls(found, self._rows),
                )
            return
        batch, size = list[Line](), 0
        for line in lines(self.file, wanted):
            calls = None if self.fields else plain_calls(self.file, line)
            if calls is not None:
                yield self._as_plain(line, calls[self._rows])
                continue
            batch.append(line)
            size += len(line.calls)
            if size > BATCH:
                yield from self._parsed(batch)
                batch, size = [], 0
        if batch:
            yield from self._parsed(batch)

    def _as_plain(self, line: Line, calls: NDArray[np.int8]) -> Record:
        position, name, reference, alternative, quality, filters, _, formats = line.fixed
        return Record(
            path=self.file.path,
            place=(line.chromosome, int(position)),
            name=name,
            alleles=(reference, *([] if alternative == "." else alternative.split(","))),
            failed=filters not in (".", "PASS"),
            quality=None if quality == "." else float(quality),
            formats=tuple(formats.split(":")),
            _calls=_PlainCalls(calls),
        )

    def _parsed(self, batch: Sequence[Line]) -> Iterator[Record]:
        """Yield the records of lines, parsed by the library."""
        library = _library()
        some = [str(place) for place in self.places] if len(self.places) < len(self.file.samples) else None
        handle = in_memory(self.file, batch)
        try:
            reader = library.VCF(handle, samples=some)
            yield from self._safely(iter(reader), slice(None), [line.number for line in batch])
        finally:
            os.close(handle)

    def within(self, plain: str, first: int, last: int) -> Iterator[Record]:
        """Yield the records that start between two positions, these included, by the index."""
        if self._indexed is None:
            self._indexed = self._open()
            try:
                self._indexed[0].set_index(str(self.file.index))
            except Exception:
                raise DataError(
                    f"{self.file.index}: cannot be read as an index.", "Make it anew with 'bcftools index -f FILE'."
                ) from None
        reader, rows = self._indexed
        contig = self.file.contigs.get(plain)
        for name in (contig.name,) if contig else spellings(plain):
            found = self._safely(reader(f"{name}:{first}-{last}"), rows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "no intervals found"
                record = next(found, None)
            while record is not None:
                if first <= record.place[1] <= last:  # others began earlier
                    yield record
                record = next(found, None)

    def _open(self) -> tuple[Any, Any]:
        """Open the file itself; return the reader, and which of its rows are the samples asked for."""
        names = [self.file.samples[place] for place in self.places]
        every = len(names) == len(self.file.samples)
        # The library takes names as one text, parted by commas and with '^' for "all but these".
        plain = all("," not in name and not name.startswith("^") for name in names)
        library = _library()
        try:
            reader = library.VCF(str(self.file.path), samples=names if plain and not every else None)
        except Exception:  # whatever it says may quote the header
            raise DataError(f"{self.file.path}: has a header that cannot be used.", "Export it again.") from None
        return reader, slice(None) if plain or every else np.asarray(self.places)

    def _safely(self, inner: Iterator[Any], rows: Any, numbers: Sequence[int] = ()) -> Iterator[Record]:
        """Yield records; with ``numbers``, the lines they stand in, there must be as many."""
        done = 0
        while True:
            where = f"the record in line {numbers[done]:,}" if done < len(numbers) else "a record"
            try:
                found = next(inner, None)
                record = None if found is None else self._record(found, rows)
            except Exception:
                raise DataError(f"{self.file.path}: {where} cannot be read.", DAMAGED) from None
            if found is None:
                break
            done += 1
            if record is not None:
                yield record
        if done < len(numbers):
            raise DataError(f"{self.file.path}: {where} cannot be read.", DAMAGED)

    def _record(self, inner: Any, rows: Any) -> Record | None:
        """Return a record, or None where its chromosome is none of the plain ones."""
        name = inner.CHROM
        if name not in self._plains:
            self._plains[name] = chromosome(name)
        plain = self._plains[name]
        if plain is None:
            return None
        return Record(
            path=self.file.path,
            place=(plain, int(inner.POS)),
            name=inner.ID or "",
            alleles=(inner.REF, *inner.ALT),
            failed=inner.FILTER is not None,
            quality=inner.QUAL,
            formats=tuple(inner.FORMAT),
            _calls=_LibraryCalls(inner, rows),
        )


def _library() -> Any:
    try:
        inner = import_module("cyvcf2.cyvcf2")
    except ImportError:
        raise DataError(
            "Reading VCF and BCF files needs cyvcf2, which is not installed.", "Run: pip install 'pmfed[genomics]'."
        ) from None
    inner.set_htslib_log_level(0)  # it writes what it dislikes, with names of samples, to the terminal
    return inner

"""BCF 2 files, read without a library: htslib ends the whole process on records that contradict their header.

A record is two blocks of stated length: what all samples share, and per FORMAT field one array of all samples. Reading one
is checking those lengths; the arrays are NumPy's as they stand.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.container import DAMAGED, MIB, Container, record_limit, unpacked
from pmfed.cohort.genomics.header import fields
from pmfed.cohort.genomics.line_calls import ABSENT, PADDING
from pmfed.cohort.genomics.lines import BLOCKS, Wanted
from pmfed.errors import DataError

# Type codes of BCF 2.2, section 6.3.3. The lowest value of an integer type is "missing", the next "end of the values".
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 5: np.dtype("<f4")}
_TEXT = 7
_WIDTHS = {0x11: 1, 0x12: 2, 0x13: 4}  # bytes of one whole number
_CODES = {0, _TEXT, *_TYPES}
_NO_QUALITY = 0x7F800001

Values = NDArray[Any]  # of one of these types


@dataclass(frozen=True, repr=False)
class Fixed:
    """The part of a record that all samples share, and where its FORMAT fields stand."""

    chromosome: str
    position: int
    last: int
    name: str
    alleles: tuple[str, ...]
    filters: tuple[int, ...]
    quality: float | None
    formats: dict[str, Values]
    _body: bytes
    _info: tuple[int, int, int]
    _words: dict[int, str]

    def info(self) -> dict[str, Values | str]:
        """Return INFO.

        Raises
        ------
        ValueError, KeyError, IndexError
            It contradicts itself.
        """
        number, at, end = self._info
        told: dict[str, Values | str] = {}
        for _ in range(number):
            key, at = _number_at(self._body, at)
            told[self._words[key]], at = _value(self._body, at)
        if at != end:
            raise ValueError
        return told

    def info_of(self, name: str) -> tuple[str | None, ...]:
        """Return the values of a field of INFO, None for a missing one; none where it is not there."""
        told = self.info().get(name, "")
        if isinstance(told, str):
            return tuple(None if one in (".", "") else one for one in told.split(",")) if told else ()
        if told.dtype.kind == "f":
            return tuple(None if np.isnan(one) else str(float(one)) for one in told)
        least = np.iinfo(told.dtype).min
        return tuple(None if one == least else str(one) for one in told.tolist() if one != least + 1)


@dataclass(frozen=True, repr=False, slots=True)
class RecordCalls:
    """The calls of some samples of a record; ``padded`` as of `Container`."""

    found: Fixed
    rows: Any
    padded: bool

    def alleles(self) -> tuple[NDArray[np.integer], int, int]:
        """Return the alleles called, (S, ploidy), the lowest of them, and what none of them is above."""
        return as_alleles(self.found.formats["GT"][self.rows], self.padded)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field as numbers, (S, n), NaN where a sample has none."""
        return as_numbers(self.found.formats[name][self.rows])

    def texts(self, name: str) -> list[str]:
        """Return a field as texts, "." where a sample has none."""
        letters = self.found.formats[name][self.rows]
        if letters.dtype.kind != "S":
            raise ValueError
        return [one.rstrip(b"\0").decode("latin-1") or "." for one in letters[:, 0].tolist()]

    def info(self, name: str) -> tuple[str | None, ...]:
        """Return the values of a field of INFO, none where it is not there."""
        return self.found.info_of(name)


def records(file: Container, wanted: Wanted) -> Iterator[Fixed]:
    """Yield the records that are wanted.

    Raises
    ------
    DataError
        The file is damaged or cut off, or a record is absurdly long or contradicts itself.
    """
    limit = record_limit(len(file.samples))
    number = 0
    try:
        with unpacked(file.path, file.packing) as source:
            magic = source.read(9)
            text = source.read(struct.unpack("<I", magic[5:])[0]).rstrip(b"\0").decode("utf-8")
            contigs, words = _dictionaries(text)
            while head := source.read(8):
                shared, calls = struct.unpack("<II", head)
                number += 1
                if shared + calls > limit:
                    raise DataError(
                        f"{file.path}: record {number:,} is longer than {limit // MIB} MiB, too much for "
                        f"{len(file.samples):,} samples.",
                        "This is no ordinary file of variants; it was not read.",
                    )
                body = source.read(shared + calls)
                if len(body) < shared + calls:
                    raise EOFError
                plain = contigs[struct.unpack_from("<i", body)[0]]
                if plain is None:
                    continue
                found = _record(body, shared, plain, words, len(file.samples), wanted)
                if found is not None:
                    yield found
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{file.path}: cannot be unpacked: the file is damaged or cut off.", DAMAGED) from None
    except (struct.error, ValueError, KeyError, IndexError):
        raise DataError(f"{file.path}: record {number:,} cannot be read: it contradicts itself.", DAMAGED) from None


def _dictionaries(text: str) -> tuple[dict[int, str | None], dict[int, str]]:
    """Return what the numbers of chromosomes and of other words stand for."""
    contigs: dict[int, str | None] = {}
    words = {0: "PASS"}
    known = {"PASS"}
    for kind, told in filter(None, map(fields, text.split("\n"))):
        name, place = told.get("ID", ""), told.get("IDX", "")
        if kind == "contig":
            contigs[int(place) if place else len(contigs)] = chromosome(name)
        elif kind in ("FILTER", "INFO", "FORMAT") and name not in known:
            words[int(place) if place else len(words)] = name
            known.add(name)
    return contigs, words


def _record(body: bytes, shared: int, plain: str, words: dict[int, str], samples: int, wanted: Wanted) -> Fixed | None:
    """Return a record if it is wanted."""
    _, position, length, quality, counts, sizes = struct.unpack_from("<iiiIII", body)
    if sizes & 0xFFFFFF != samples:
        raise ValueError
    name, at = _text_at(body, 24)
    alleles = []
    for _ in range(counts >> 16):
        allele, at = _text_at(body, at)
        alleles.append(allele.upper())
    if not alleles:
        raise ValueError
    alternative = ",".join(alleles[1:]) or "."
    last = position + (length if alternative in BLOCKS else len(alleles[0]))
    if not wanted(plain, position + 1, last, name, alternative):
        return None
    filters, at = _value(body, at)
    info = (counts & 0xFFFF, at, shared)
    at = shared
    formats: dict[str, Values] = {}
    for _ in range(sizes >> 24):
        key, at = _number_at(body, at)
        code, per, at = _kind(body, at)
        if code not in _CODES:
            raise ValueError
        if code and per:  # otherwise no sample has the field
            kind = np.dtype(f"S{per}") if code == _TEXT else _TYPES[code]
            size = samples if code == _TEXT else per * samples
            values = np.frombuffer(body, kind, size, at).reshape(samples, -1)
            formats[words[key]] = values
            at += values.nbytes
    if at != len(body):
        raise ValueError
    return Fixed(
        chromosome=plain,
        position=position + 1,
        last=last,
        name=name,
        alleles=tuple(alleles),
        filters=() if isinstance(filters, str) else tuple(filters.tolist()),
        quality=None if quality == _NO_QUALITY else struct.unpack("<f", struct.pack("<I", quality))[0],
        formats=formats,
        _body=body,
        _info=info,
        _words=words,
    )


def _kind(body: bytes, at: int) -> tuple[int, int, int]:
    """Return type and number of the values that follow, and where."""
    code, size = body[at] & 15, body[at] >> 4
    if size < 15:
        return code, size, at + 1
    told, at = _number_at(body, at + 1)
    return code, told, at


def _value(body: bytes, at: int) -> tuple[Values | str, int]:
    """Return the values that stand at a place, and the place behind them."""
    code, size, start = _kind(body, at)
    if code == _TEXT or size == 0:
        return _text_at(body, at)
    values: Values = np.frombuffer(body, _TYPES[code], size, start)
    return values, start + values.nbytes


def _text_at(body: bytes, at: int) -> tuple[str, int]:
    code, size, at = _kind(body, at)
    if (code != _TEXT and size) or at + size > len(body):
        raise ValueError
    return body[at : at + size].decode("ascii"), at + size


def _number_at(body: bytes, at: int) -> tuple[int, int]:
    """Return the whole number, 0 or above, that stands at a place, and the place behind it."""
    width = _WIDTHS[body[at]]
    told = int.from_bytes(body[at + 1 : at + 1 + width], "little", signed=True)
    if told < 0 or at + 1 + width > len(body):
        raise ValueError
    return told, at + 1 + width


def as_alleles(values: Values, padded: bool = False) -> tuple[Values, int, int]:
    """Return the alleles that GT values stand for, -1 for a missing one, -2 behind the last copy; lowest and highest.

    With ``padded`` (BCF 2.1) a missing value behind an allele is no missing allele: there is no copy.
    """
    if values.dtype.kind != "i":
        raise ValueError
    least = int(np.minimum.reduce(values, axis=None, initial=2))
    most = int(np.maximum.reduce(values, axis=None, initial=2))
    alleles: Values = values >> 1  # the lowest bit says whether it is phased
    alleles -= 1
    if least < 0:
        mark = np.iinfo(values.dtype).min
        unset = values == mark
        alleles[unset] = ABSENT
        if padded:
            alleles[:, 1:][unset[:, 1:]] = PADDING
        alleles[values == mark + 1] = PADDING
        least = int(alleles.min()) * 2 + 2
    return alleles, (least >> 1) - 1, (most >> 1) - 1


def as_numbers(values: Values) -> NDArray[np.float64]:
    """Return values as numbers, NaN where they are missing."""
    if values.dtype.kind == "S":
        raise ValueError
    with np.errstate(invalid="ignore"):  # missing numbers are written as signalling NaN
        numbers: NDArray[np.float64] = values.astype(np.float64)
    if values.dtype.kind == "i":
        numbers[values <= np.iinfo(values.dtype).min + 7] = np.nan
    return numbers

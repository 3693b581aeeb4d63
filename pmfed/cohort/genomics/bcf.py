"""BCF 2 files, read without a library: htslib ends the whole process on records that contradict their header.

A record is two blocks of stated length: what all samples share, and per FORMAT field one array of all samples. Reading one
is checking those lengths; the arrays are NumPy's as they stand.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.container import DAMAGED, MIB, Container, record_limit, unpacked
from pmfed.cohort.genomics.lines import Wanted
from pmfed.errors import DataError

# Type codes of BCF 2.2, section 6.3.3. The lowest value of an integer type is "missing", the next "end of the values".
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 5: np.dtype("<f4")}
_TEXT = 7
_NO_QUALITY = 0x7F800001

_ENTRY = re.compile(r"##(contig|FILTER|INFO|FORMAT)=<(?:.*,)?ID=([^,>]+)")
_PLACE = re.compile(r"[<,]IDX=(\d{1,9})(?=[,>])")

Values = NDArray[Any]  # of one of these types


@dataclass(frozen=True, repr=False)
class Fixed:
    """The part of a record that all samples share, and where its FORMAT fields stand."""

    chromosome: str
    position: int
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
            key, at = _value(self._body, at)
            told[self._words[_as_number(key)]], at = _value(self._body, at)
        if at != end:
            raise ValueError
        return told


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
                contig, position = struct.unpack_from("<ii", body)
                plain = contigs[contig]
                if plain is None:
                    continue
                found = _record(body, shared, plain, words, len(file.samples))
                if wanted(plain, position + 1, found.name, ",".join(found.alleles[1:])):
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
    for line in text.splitlines():
        if not (entry := _ENTRY.match(line)):
            continue
        kind, name = entry[1], entry[2]
        told = _PLACE.search(line)
        if kind == "contig":
            contigs[int(told[1]) if told else len(contigs)] = chromosome(name)
        elif name not in known:
            words[int(told[1]) if told else len(words)] = name
            known.add(name)
    return contigs, words


def _record(body: bytes, shared: int, plain: str, words: dict[int, str], samples: int) -> Fixed:
    _, position, _, quality, counts, sizes = struct.unpack_from("<iiiIII", body)
    if sizes & 0xFFFFFF != samples:
        raise ValueError
    name, at = _value(body, 24)
    alleles = []
    for _ in range(counts >> 16):
        allele, at = _value(body, at)
        alleles.append(_as_text(allele))
    filters, at = _value(body, at)
    if not alleles:
        raise ValueError
    info = (counts & 0xFFFF, at, shared)
    at = shared
    formats: dict[str, Values] = {}
    for _ in range(sizes >> 24):
        key, at = _value(body, at)
        code, per, at = _kind(body, at)
        if code in _TYPES:
            size = per * samples
            values = np.frombuffer(body, _TYPES[code], size, at).reshape(samples, per)
            formats[words[_as_number(key)]] = values
            at += size * _TYPES[code].itemsize
        elif code == _TEXT:
            at += per * samples  # no text is ever read
        else:
            raise ValueError
    if at != len(body):
        raise ValueError
    return Fixed(
        chromosome=plain,
        position=position + 1,
        name=_as_text(name),
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
    told, at = _value(body, at + 1)
    return code, _as_number(told), at


def _value(body: bytes, at: int) -> tuple[Values | str, int]:
    """Return the values that stand at a place, and the place behind them."""
    code, size, at = _kind(body, at)
    if code == _TEXT or size == 0:
        if at + size > len(body):
            raise ValueError
        return body[at : at + size].decode("ascii"), at + size
    values: Values = np.frombuffer(body, _TYPES[code], size, at)
    return values, at + values.nbytes


def _as_text(value: Values | str) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _as_number(value: Values | str) -> int:
    if isinstance(value, str) or len(value) != 1 or value.dtype.kind != "i" or value[0] < 0:
        raise ValueError
    return int(value[0])


def as_alleles(values: Values) -> tuple[Values, int, int]:
    """Return the alleles that GT values stand for, -1 for a missing one, -2 behind the last copy; lowest and highest."""
    if values.dtype.kind != "i":
        raise ValueError
    least, most = int(values.min(initial=2)), int(values.max(initial=2))
    alleles: Values = (values >> 1) - 1  # the lowest bit says whether it is phased
    if least < 0:
        mark = np.iinfo(values.dtype).min
        alleles[values == mark] = -1
        alleles[values == mark + 1] = -2
        least = int(alleles.min()) * 2 + 2
    return alleles, (least >> 1) - 1, (most >> 1) - 1


def as_numbers(values: Values) -> NDArray[np.float64]:
    """Return values as numbers, NaN where they are missing."""
    with np.errstate(invalid="ignore"):  # missing numbers are written as signalling NaN
        numbers: NDArray[np.float64] = values.astype(np.float64)
    if values.dtype.kind == "i":
        numbers[values <= np.iinfo(values.dtype).min + 7] = np.nan
    return numbers

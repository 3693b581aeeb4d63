"""The lines of a VCF that matter: plain calls read as they stand, all others handed to a parser as a file of our own.

The parser (htslib, by way of cyvcf2) reads whatever VCF allows, and is trusting: it takes a line of any length into memory,
and one malformed line on a chromosome that the header does not declare brings the whole process down. So lines are found
here, one by one and of bounded length; what the parser gets has the plain names of chromosomes under a header that
declares them.
"""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.container import DAMAGED, MIB, Container, record_limit, unpacked
from pmfed.errors import DataError
from pmfed.modality.genomics import CHROMOSOMES

# Given a chromosome, a position, ID and ALT, whether a line is wanted.
Wanted = Callable[[str, int, str, str], bool]

_HEADER = (
    "##fileformat=VCFv4.3",
    '##INFO=<ID=END,Number=1,Type=Integer,Description="">',
    '##INFO=<ID=SVLEN,Number=.,Type=Integer,Description="">',
    *(f"##contig=<ID={plain}>" for plain in CHROMOSOMES),
)
_TAB, _DOT, _SLASH, _ZERO, _COLON, _BAR = b"\t./0:|"
_FOUR = np.arange(4)
_INFO = re.compile(r"END=\d{1,10}|SVLEN=-?\d{1,10}(?:,-?\d{1,10})*")
_QUALITY = re.compile(r"\.|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan", re.IGNORECASE)


@dataclass(frozen=True, repr=False, slots=True)
class Line:
    """A line of a file: its number, the plain name of its chromosome, eight fixed columns after it, and the calls."""

    number: int
    chromosome: str
    fixed: tuple[str, ...]
    calls: bytes


def lines(file: Container, wanted: Wanted) -> Iterator[Line]:
    """Yield the lines that are wanted.

    Raises
    ------
    DataError
        The file is damaged or cut off, or a line is malformed or absurdly long.
    """
    plains: dict[bytes, str | None] = {}
    for number, line in _lines(file):
        if not line or line.startswith(b"#"):
            continue
        columns = line.split(b"\t", 9)
        if len(columns) < 10:
            raise _malformed(file, number, "has too few columns")
        name = columns[0]
        if name not in plains:
            plains[name] = chromosome(name.decode("ascii", "replace"))
        plain = plains[name]
        if not columns[1].isdigit() or len(columns[1]) > 10:
            raise _malformed(file, number, "has no position in its second column")
        if plain and wanted(plain, int(columns[1]), columns[2].decode("latin-1"), columns[4].decode("latin-1")):
            yield _checked(file, number, plain, columns)


def plain_calls(file: Container, line: Line) -> NDArray[np.int8] | None:
    """Return the alleles called, (N, 2), -1 for a missing one; None where a call is not two alleles of one digit."""
    samples = len(file.samples)
    if line.fixed[7] != "GT" and not line.fixed[7].startswith("GT:"):
        return None
    text = np.frombuffer(line.calls + b"\t\t\t\t", dtype=np.uint8)
    if len(line.calls) == 4 * samples - 1:  # nothing but calls
        letters = text[: 4 * samples].reshape(samples, 4)
    else:
        starts = np.flatnonzero(text[: len(line.calls)] == _TAB) + 1
        if len(starts) != samples - 1:
            raise _malformed(file, line.number, f"has not the {samples + 9:,} columns of the header")
        letters = text[np.concatenate(([0], starts))[:, None] + _FOUR]
    between, after = letters[:, 1], letters[:, 3]
    alleles = letters[:, ::2].astype(np.int8) - _ZERO
    regular = (
        ((between == _SLASH) | (between == _BAR)).all()
        and ((after == _TAB) | (after == _COLON)).all()
        and ((alleles >= 0) & (alleles <= 9) | (alleles == _DOT - _ZERO)).all()
    )
    if not regular:
        return None
    alleles[alleles < 0] = -1
    return alleles


def in_memory(file: Container, chosen: Sequence[Line]) -> int:
    """Return an open file that holds lines as a VCF whose samples are called ``0``, ``1`` and so on."""
    formats = (f'##FORMAT=<ID={name},{kind},Description="">' for name, kind in file.formats.items())
    samples = "\t".join(str(place) for place in range(len(file.samples)))
    columns = f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{samples}"
    text = ["\n".join((*_HEADER, *formats, columns)).encode()]
    for line in chosen:
        if line.calls.count(b"\t") != len(file.samples) - 1:
            raise _malformed(file, line.number, f"has not the {len(file.samples) + 9:,} columns of the header")
        info = ";".join(one for one in line.fixed[6].split(";") if _INFO.fullmatch(one)) or "."
        fixed = (line.chromosome, *line.fixed[:6], info, line.fixed[7], "")
        text.append("\t".join(fixed).encode() + line.calls)
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("lines")
    else:
        with tempfile.TemporaryFile() as temporary:  # without a name, and gone with its handle
            handle = os.dup(temporary.fileno())
    with os.fdopen(os.dup(handle), "wb") as out:
        out.write(b"\n".join((*text, b"")))
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _lines(file: Container) -> Iterator[tuple[int, bytes]]:
    """Yield number and text of every line."""
    limit = record_limit(len(file.samples))
    number = size = 0
    begun: list[bytes] = []  # of a line whose end was not read yet
    try:
        with unpacked(file.path, file.packing) as source:
            while chunk := source.read(MIB):
                first, *others = chunk.split(b"\n")
                begun.append(first)
                size += len(first)
                if size > limit:
                    raise DataError(
                        f"{file.path}: line {number + 1:,} is longer than {limit // MIB} MiB, too much for "
                        f"{len(file.samples):,} samples.",
                        "This is no ordinary file of variants; it was not read.",
                    )
                if not others:
                    continue
                for line in (b"".join(begun), *others[:-1]):
                    number += 1
                    yield number, line.removesuffix(b"\r")
                begun, size = [others[-1]], len(others[-1])
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{file.path}: cannot be unpacked: the file is damaged or cut off.", DAMAGED) from None
    if size:
        yield number + 1, b"".join(begun)


def _checked(file: Container, number: int, plain: str, columns: list[bytes]) -> Line:
    try:
        fixed = tuple(column.decode("ascii") for column in columns[1:9])
    except UnicodeDecodeError:
        raise _malformed(file, number, "holds other letters than VCF allows") from None
    if not _QUALITY.fullmatch(fixed[4]):
        raise _malformed(file, number, "has no number in the column QUAL")
    return Line(number, plain, fixed, columns[9])


def _malformed(file: Container, number: int, why: str) -> DataError:
    return DataError(f"{file.path}: line {number:,} {why}: it is damaged or no VCF.", DAMAGED)

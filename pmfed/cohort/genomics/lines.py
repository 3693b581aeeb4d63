"""The lines of a VCF: found one by one, of bounded length, and looked at only as far as it takes to pass over them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.container import DAMAGED, MIB, Container, record_limit, unpacked
from pmfed.errors import DataError

# Given a chromosome, the first and the last base a record is about, ID and ALT, whether it is wanted.
Wanted = Callable[[str, int, int, str, str], bool]

# A stretch without a variant is one record (gVCF), whose end stands in INFO.
BLOCKS = (".", "<NON_REF>", "<*>")
_END = re.compile(rb"(?:^|;)END=(\d{1,10})(?=;|$)")
_QUALITY = re.compile(r"\.|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan", re.IGNORECASE)


@dataclass(frozen=True, repr=False, slots=True)
class VcfLine:
    """A line of a file, its columns as they stand.

    Attributes
    ----------
    number
        Which line it is; None where it was looked up by an index.
    chromosome
        The plain name of its chromosome.
    position, last
        The first and the last base it is about.
    """

    number: int | None
    chromosome: str
    position: int
    last: int
    name: str
    reference: str
    alternative: str
    quality: str
    filters: str
    info: str
    formats: tuple[str, ...]
    calls: bytes


class Names:
    """Plain names of chromosomes, each worked out once."""

    def __init__(self) -> None:
        self._plains: dict[bytes, str | None] = {}

    def plain(self, name: bytes) -> str | None:
        """Return the plain name of a chromosome, None for another sequence."""
        if name not in self._plains:
            self._plains[name] = chromosome(name.decode("ascii", "replace"))
        return self._plains[name]


def lines(file: Container, wanted: Wanted) -> Iterator[VcfLine]:
    """Yield the lines that are wanted.

    Raises
    ------
    DataError
        The file is damaged or cut off, or a line is malformed or absurdly long.
    """
    names = Names()
    for number, line in _lines(file):
        if line and not line.startswith(b"#") and (found := parse(file, line, number, wanted, names)):
            yield found


def parse(file: Container, line: bytes, number: int | None, wanted: Wanted, names: Names) -> VcfLine | None:
    """Return a line if it is wanted.

    Raises
    ------
    DataError
        It is malformed.
    """
    columns = line.split(b"\t", 9)
    if len(columns) < 10:
        raise malformed(file, number, "has too few columns")
    plain = names.plain(columns[0])
    if not columns[1].isdigit() or len(columns[1]) > 10:
        raise malformed(file, number, "has no position in its second column")
    if plain is None:
        return None
    position, alternative = int(columns[1]), columns[4].decode("latin-1")
    last = position + len(columns[3]) - 1
    if alternative in BLOCKS and b"END=" in columns[7] and (end := _END.search(columns[7])):
        last = max(last, int(end[1]))
    if not wanted(plain, position, last, columns[2].decode("latin-1"), alternative):
        return None
    try:
        name, reference, alternative, quality, filters, info, formats = (one.decode("ascii") for one in columns[2:9])
    except UnicodeDecodeError:
        raise malformed(file, number, "holds other letters than VCF allows") from None
    if not _QUALITY.fullmatch(quality):
        raise malformed(file, number, "has no number in the column QUAL")
    told = tuple(formats.split(":"))
    return VcfLine(
        number, plain, position, last, name, reference, alternative, quality, filters, info, told, columns[9]
    )


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
        yield number + 1, b"".join(begun).removesuffix(b"\r")


def malformed(file: Container, number: int | None, why: str) -> DataError:
    """Return what to raise about a line."""
    where = "a record cannot be read: it" if number is None else f"line {number:,}"
    return DataError(f"{file.path}: {where} {why}: it is damaged or no VCF.", DAMAGED)

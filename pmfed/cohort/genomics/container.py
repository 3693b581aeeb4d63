"""A VCF or BCF file before its records are read: how it is packed, its header, whether it is whole and of sane size.

The library behind an index trusts a file: it takes a line of any length into memory. So what can be told beforehand is
told here.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pmfed.cohort.genomics.builds import Contig, chromosome
from pmfed.cohort.genomics.header import fields, version
from pmfed.errors import DataError

Bytes = IO[bytes] | gzip.GzipFile

MIB = 1 << 20
HEADER_LIMIT = 256 * MIB
LINE_LIMIT = 64 * MIB  # bytes of a record, and as many more per sample:
SAMPLE_LIMIT = 4096
CHECKED_WHOLE = 1024 * MIB  # a file with an index is looked through from end to end up to this size
DENSE = 100  # a stretch packed more tightly than this many to one is looked at closely

_COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # the block that ends a BGZF file
_LENGTH = re.compile(r"\d{1,10}")
# What is handed over under another format's name, by its first bytes.
_OTHERS = {
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it ('zstd -d FILE') and pack it with bgzip."),
    b"BZh": ("packed with bzip2", "Unpack it ('bunzip2 FILE') and pack it with bgzip."),
    b"PK\x03\x04": ("a zip archive", "Unpack it and name the file within."),
    b"\x6c\x1b": ("a PLINK file", "Name a PLINK 1 .bed file; of .pgen make one with 'plink2 --pfile NAME --make-bed'."),
    b"CRAM": ("a file of reads (CRAM)", "Call its variants first; pmfed reads VCF, BCF and PLINK 1."),
    b"BAM\x01": ("a file of reads (BAM)", "Call its variants first; pmfed reads VCF, BCF and PLINK 1."),
    b"BCF\x04": ("BCF 1, which is no longer written", "Turn it into VCF with an old bcftools (0.1.19)."),
}

DAMAGED = "Was it cut off while it was copied? Copy or export it again; 'bcftools view FILE' shows where it breaks."


@dataclass(frozen=True)
class Container:
    """A file of variants, checked as far as that goes without reading its records.

    Attributes
    ----------
    path
        The file.
    form
        ``vcf`` (text) or ``bcf``.
    packing
        ``plain``, ``gzip``, or ``bgzf``: gzip in blocks, which alone can have an index.
    samples : tuple of str
        In the order of the file.
    contigs : dict
        Chromosome -> what the header calls it and how long it says it is.
    formats : frozenset of str
        The FORMAT fields that the header declares.
    version : (int, int)
        Of VCF, such as ``(4, 2)``.
    padded : bool
        BCF 2.1, which has no sign for the end of a call's alleles and fills up with missing ones.
    words : str
        The header lines that may name the build.
    index : Path or None
        The index beside a bgzipped VCF.
    """

    path: Path
    form: Literal["vcf", "bcf"]
    packing: Literal["plain", "gzip", "bgzf"]
    samples: tuple[str, ...] = field(repr=False)
    contigs: dict[str, Contig] = field(repr=False)
    formats: frozenset[str] = field(repr=False)
    version: tuple[int, int]
    padded: bool
    words: str = field(repr=False)
    index: Path | None

    @property
    def small(self) -> bool:
        """Whether reading the whole file is nothing to avoid."""
        return self.index is None or self.path.stat().st_size <= CHECKED_WHOLE


def open_container(path: Path) -> Container:
    """Look at a file of variants.

    Raises
    ------
    DataError
        It is missing, is no VCF or BCF, has a broken header, is cut off, or would unpack to records of absurd size.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", "Check the path in [data] of site.toml.")
    packing = _packing(path)
    try:
        with unpacked(path, packing) as file:
            start = file.read(5)
            _check_kind(path, start)
            form: Literal["vcf", "bcf"] = "bcf" if start.startswith(b"BCF") else "vcf"
            file.seek(0)
            text = _bcf_header(file, path) if form == "bcf" else _vcf_header(file, path)
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{path}: cannot be unpacked: the file is damaged or cut off.", DAMAGED) from None
    found = _parsed(path, form, packing, text, padded=start == b"BCF\x02\x01")
    _check_whole(found)
    return found


def beside(path: Path, companion: Path) -> Path | None:
    """Return a companion of a file, such as its index, or None where there is none.

    Raises
    ------
    DataError
        It is a link that leads out of the folder of the file.
    """
    if not companion.is_file():
        return None
    if companion.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
        raise DataError(
            f"{companion}: leads out of the folder of {path.name}.",
            "Put the files beside each other; links out of the folder are not followed.",
        )
    return companion


def _packing(path: Path) -> Literal["plain", "gzip", "bgzf"]:
    with path.open("rb") as file:
        start = file.read(16)
    if start[:2] != b"\x1f\x8b":
        return "plain"
    return "bgzf" if len(start) == 16 and start[3] & 4 and start[12:14] == b"BC" else "gzip"


def unpacked(path: Path, packing: str) -> Bytes:
    """Open a file so that it reads as if it were not packed."""
    return path.open("rb") if packing == "plain" else gzip.open(path, "rb")


def _check_kind(path: Path, start: bytes) -> None:
    for magic, (what, remedy) in _OTHERS.items():
        if start.startswith(magic):
            raise DataError(f"{path}: is {what}, no VCF or BCF.", remedy)


def _bcf_header(file: Bytes, path: Path) -> str:
    magic = file.read(9)
    length = struct.unpack("<I", magic[5:9])[0] if len(magic) == 9 else 0
    if magic[:5] not in (b"BCF\x02\x01", b"BCF\x02\x02") or not 0 < length <= HEADER_LIMIT:
        raise _broken(path, "its first bytes are not those of BCF 2")
    text = file.read(length)
    if len(text) < length:
        raise EOFError
    return _decoded(text.rstrip(b"\0"), path)


def _vcf_header(file: Bytes, path: Path) -> str:
    lines: list[bytes] = []
    size = 0
    while True:
        line = file.readline(HEADER_LIMIT + 1)
        size += len(line)
        if size > HEADER_LIMIT:
            raise DataError(f"{path}: its header is longer than {HEADER_LIMIT // MIB} MiB.", "Is it a VCF file?")
        if not lines and not line.startswith(b"##fileformat=VCF"):
            raise _broken(path, "its first line is not ##fileformat=VCF...")
        if not line.startswith(b"#"):
            raise _broken(path, "the line that starts with #CHROM is missing")
        lines.append(line)
        if line.startswith(b"#CHROM"):
            return _decoded(b"".join(lines), path)


def _decoded(text: bytes, path: Path) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise _broken(path, "it is not UTF-8 text") from None


def _broken(path: Path, why: str) -> DataError:
    return DataError(f"{path}: has no proper VCF header: {why}.", "Export it again as VCF 4.x, or mend the header.")


def _parsed(
    path: Path, form: Literal["vcf", "bcf"], packing: Literal["plain", "gzip", "bgzf"], text: str, padded: bool
) -> Container:
    lines = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    stated = version(text)
    if stated is None or stated[0] != 4:
        said = f"VCF {stated[0]}.{stated[1]}" if stated else "no version of VCF"
        raise DataError(
            f"{path}: states {said} in its first line; VCF 4 is read, and earlier ones write calls in another way.",
            "Turn it into VCF 4 with the program that wrote it, or with vcftools' vcf-convert.",
        )
    columns = lines[-1].split("\t") if lines else []
    if columns[:8] != _COLUMNS:
        raise _broken(path, "the line #CHROM does not name the eight columns of VCF, separated by tabs")
    if columns[8:] and columns[8] != "FORMAT":
        raise _broken(path, "the ninth column of the line #CHROM is not FORMAT")
    samples = tuple(columns[9:])
    if not samples:
        raise DataError(f"{path}: holds no samples, only sites.", "Export it with the genotypes of the patients.")
    if not all(samples):
        raise _broken(path, "a sample has no name")
    contigs: dict[str, Contig] = {}
    formats: set[str] = set()
    for key, told in filter(None, map(fields, lines)):
        name = told.get("ID", "")
        if key == "FORMAT":
            formats.add(name)
        elif key == "contig" and (plain := chromosome(name)):
            length = told.get("length", "")
            contigs.setdefault(plain, Contig(name, int(length) if _LENGTH.fullmatch(length) else None))
    hints = (line for line in lines if line.startswith(("##reference", "##assembly", "##contig")))
    index = None
    if packing == "bgzf" and form == "vcf":
        found = (beside(path, path.with_name(path.name + ending)) for ending in (".tbi", ".csi"))
        index = next((one for one in found if one), None)
    return Container(
        path=path,
        form=form,
        packing=packing,
        samples=samples,
        contigs=contigs,
        formats=frozenset(formats),
        version=stated,
        padded=padded,
        words="\n".join(hints),
        index=index,
    )


def record_limit(samples: int) -> int:
    """Return how many bytes a record of so many samples may take."""
    return LINE_LIMIT + SAMPLE_LIMIT * samples


def _check_whole(file: Container) -> None:
    """Raise where a file is cut off, or where a reader that takes whole lines would be given absurd ones.

    That is the reader of an index; otherwise `lines` and `bcf` read, which bound records themselves.
    """
    limit = record_limit(len(file.samples))
    longest = 0
    try:
        if file.packing == "bgzf":
            with file.path.open("rb") as packed:
                packed.seek(-min(len(_END), file.path.stat().st_size), 2)
                if packed.read() != _END:
                    raise EOFError
            if file.index is None or not file.small or not _is_dense(file.path, limit):
                return
            with unpacked(file.path, file.packing) as lines:
                longest = _longest_line(lines, limit)
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{file.path}: cannot be unpacked: the file is damaged or cut off.", DAMAGED) from None
    if longest > limit:
        raise DataError(
            f"{file.path}: unpacks to a record of more than {limit // MIB} MiB, too much for {len(file.samples):,} samples.",
            "This is no ordinary file of variants; it was not read.",
        )


def _is_dense(path: Path, limit: int) -> bool:
    """Return whether a stretch of blocks, longer than ``limit`` unpacked, is packed as only repetition can be."""
    run = 0
    for packed, unpacked in _blocks(path):
        run = run + unpacked if unpacked > DENSE * packed else 0
        if run > limit:
            return True
    return False


def _blocks(path: Path) -> Iterator[tuple[int, int]]:
    """Yield packed and unpacked size of every block of a BGZF file; raise EOFError where the chain breaks."""
    end = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        start = 0
        head = file.read(18)
        while start < end:
            if len(head) < 18 or head[:4] != b"\x1f\x8b\x08\x04" or head[12:14] != b"BC":
                raise EOFError
            size = int.from_bytes(head[16:18], "little") + 1
            if start + size > end:
                raise EOFError
            file.seek(start + size - 4)
            tail = file.read(22)  # how long this block is unpacked, and how the next one begins
            yield size, int.from_bytes(tail[:4], "little")
            start, head = start + size, tail[4:]


def _longest_line(file: Bytes, limit: int) -> int:
    """Return the length of the longest line, or of the first beyond the limit."""
    longest = open_line = 0
    while chunk := file.read(MIB):
        parts = chunk.split(b"\n")
        for place, part in enumerate(parts):
            open_line = len(part) + (open_line if place == 0 else 0)
            longest = max(longest, open_line)
        if longest > limit:
            break
    return longest

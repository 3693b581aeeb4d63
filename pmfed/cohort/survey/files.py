"""Genomes, scans, pictures and waveforms of a folder: of what kind they are, and what a study can say of them."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal

from PIL import Image

from pmfed.cohort.contract.identity import digest
from pmfed.cohort.genomics.container import Container, open_container
from pmfed.cohort.genomics.plink import PlinkPanel
from pmfed.cohort.genomics.records import VariantRecords
from pmfed.cohort.imaging.archive import reader_of
from pmfed.cohort.imaging.failures import ScanError
from pmfed.cohort.imaging.index import read_index
from pmfed.cohort.survey.names import MANY, harmless
from pmfed.modality.genomics import LENGTHS

FEW = 200
"""Variants of a file that are a panel already. Those with a public number are named: another may be one patient's."""

_PUBLIC = re.compile(r"rs\d{1,12}")


@dataclass(frozen=True)
class VariantFound:
    """A variant of a small file: its id, place and alleles."""

    name: str
    at: str
    reference: str
    effect: str


@dataclass(frozen=True)
class GenomesFound:
    """A VCF, BCF or PLINK file; ``build`` is "" where it does not tell, ``samples`` are digests, compared and never shown."""

    path: Path
    kind: Literal["panel", "copy_number"]
    build: str
    variants: tuple[VariantFound, ...] = ()
    samples: frozenset[int] = field(default_factory=frozenset, repr=False)


@dataclass(frozen=True)
class ScansFound:
    """A DICOM folder: kinds of series and parts of the body that ten patients or more have, and digests of patients."""

    path: Path
    modalities: tuple[str, ...]
    parts: tuple[str, ...]
    patients: frozenset[int] = field(default_factory=frozenset, repr=False)


@dataclass(frozen=True)
class FilesFound:
    """A folder or zip of files that a table has to list: pictures, NIfTI files or waveforms.

    Attributes
    ----------
    sizes
        Of pictures: (width, height) that most have; () where they differ.
    channels, rate
        Of waveforms: channels with their units, and samples a second.
    names
        Digests of the files' names, by their path in the folder; they are compared, never shown.
    """

    path: Path
    kind: Literal["images", "nifti", "signal"]
    sizes: tuple[int, ...] = ()
    channels: tuple[tuple[str, str], ...] = ()
    rate: float = 0.0
    names: frozenset[int] = field(default_factory=frozenset, repr=False)


def genomes(path: Path) -> GenomesFound:
    """Look at a file of variants; DataError when it cannot be read."""
    if path.suffix.lower() == ".bed":
        plink = PlinkPanel(path)
        return GenomesFound(path, "panel", "", _of_bim(path.with_suffix(".bim")), _digests(plink.samples))
    file = open_container(path)
    found, structural, number = [], 0, 0
    for record in VariantRecords(file, []).through(lambda *_: True):
        number += 1
        structural += any(one.startswith("<") for one in record.alleles[1:])
        if number > FEW:
            break
        if len(record.alleles) == 2:
            at = f"{record.place[0]}:{record.place[1]}"
            found.append(VariantFound(record.name.partition(";")[0], at, record.alleles[0], record.alleles[1]))
    listed = tuple(filter(_named, found)) if number <= FEW else ()
    copies = 2 * structural > number
    return GenomesFound(
        path, "copy_number" if copies else "panel", build_of(file), () if copies else listed, _digests(file.samples)
    )


def _of_bim(path: Path) -> tuple[VariantFound, ...]:
    with path.open(encoding="latin-1") as file:
        rows = [line.split() for line in islice(file, FEW + 1)]
    if len(rows) > FEW:
        return ()
    found = [VariantFound(row[1], f"{row[0]}:{row[3]}", row[5], row[4]) for row in rows if len(row) >= 6]
    return tuple(filter(_named, found))


def build_of(file: Container) -> str:
    """Return the build whose chromosomes a header's lengths are those of, "" where it tells none."""
    told = {plain: contig.length for plain, contig in file.contigs.items() if contig.length and plain != "MT"}
    fits = [build for build, known in LENGTHS.items() if told and all(known[one] == told[one] for one in told)]
    return fits[0] if len(fits) == 1 else ""


def _named(variant: VariantFound) -> bool:
    letters = set(variant.reference + variant.effect)
    return letters <= set("ACGT") and bool(_PUBLIC.fullmatch(variant.name))


def _digests(names: tuple[str, ...]) -> frozenset[int]:
    return frozenset(map(digest, names))


def scans(folder: Path) -> ScansFound | None:
    """Look at the headers of a DICOM folder; None where it holds no picture."""
    of_kind: dict[str, set[str]] = {}
    of_part: dict[str, set[str]] = {}
    patients = set()
    for _, header in read_index(folder).pictures:
        patients.add(header.patient)
        of_kind.setdefault(header.modality, set()).add(header.patient)
        of_part.setdefault(header.body_part.upper(), set()).add(header.patient)
    if not patients:
        return None
    return ScansFound(folder, _many(of_kind), _many(of_part), frozenset(map(digest, patients)))


def _many(told: dict[str, set[str]]) -> tuple[str, ...]:
    shared = {word: len(who) for word, who in told.items() if len(who) >= MANY and harmless(word)}
    return tuple(sorted(shared, key=lambda word: (-shared[word], word)))


def listed_files(place: Path, kind: Literal["images", "nifti", "signal"], names: list[str]) -> FilesFound:
    """Look at files that a table has to list: at the first few of them."""
    if kind == "images":
        return FilesFound(place, kind, _size(place, names[:20]), names=_digests(tuple(names)))
    channels, rate = (
        _waves(place, [name for name in names if name.endswith(".hea")][:20]) if kind == "signal" else ((), 0.0)
    )
    every = (*names, *(name.removesuffix(".hea") for name in names))
    return FilesFound(place, kind, channels=channels, rate=rate, names=_digests(every))


def _size(place: Path, names: list[str]) -> tuple[int, ...]:
    sizes = set()
    with ExitStack() as opened:
        try:
            read = reader_of(place, opened)
            for name in names:
                with Image.open(BytesIO(read(name))) as picture:
                    sizes.add((picture.height, picture.width))
        except (ScanError, OSError, Image.DecompressionBombError, ValueError):
            return ()
    return sizes.pop() if len(sizes) == 1 else ()


def _waves(place: Path, names: list[str]) -> tuple[tuple[tuple[str, str], ...], float]:
    """Return the channels that all of some records have, with their units, and the rate where it is the same."""
    channels: Counter[tuple[str, str]] = Counter()
    rates: set[float] = set()
    for name in names:
        lines = [line for line in (place / name).read_text("latin-1").splitlines() if line.strip() and line[0] != "#"]
        first = lines[0].split() if lines else []
        rates.add(float(found[0]) if len(first) > 2 and (found := re.findall(r"^[\d.]+", first[2])) else 250.0)
        for parts in (line.split(maxsplit=8) for line in lines[1:]):
            unit = parts[2].rpartition("/")[2] if len(parts) > 2 and "/" in parts[2] else "mV"
            if len(parts) == 9 and harmless(parts[8]) and harmless(unit):
                channels[parts[8], unit] += 1
    shared = tuple(sorted(one for one, number in channels.items() if number == len(names)))
    return shared, rates.pop() if len(rates) == 1 else 0.0

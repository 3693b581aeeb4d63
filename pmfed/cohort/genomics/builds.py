"""Genome builds: how a file's chromosomes are called, which build it is in, and where males have one copy."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pmfed.cohort.tables import Problems, count
from pmfed.modality.genomics import LENGTHS

# Pseudoautosomal regions, 1-based with both ends, as UCSC and the GRC give them.
_PAR = {
    ("NCBI36", "X"): ((1, 2709520), (154584238, 154913754)),
    ("NCBI36", "Y"): ((1, 2709520), (57443438, 57772954)),
    ("GRCh37", "X"): ((60001, 2699520), (154931044, 155260560)),
    ("GRCh37", "Y"): ((10001, 2649520), (59034050, 59363566)),
    ("GRCh38", "X"): ((10001, 2781479), (155701383, 156030895)),
    ("GRCh38", "Y"): ((10001, 2781479), (56887903, 57217415)),
}

# PLINK writes numbers for the others, and a name of their own for the pseudoautosomal regions of X.
_OTHER_NAMES = {"23": "X", "24": "Y", "25": "X", "26": "MT", "XY": "X", "PAR1": "X", "PAR2": "X", "M": "MT"}

_SAYS = {
    "NCBI36": re.compile(r"NCBI_?36|hg18|\bb36\b|build_?36", re.IGNORECASE),
    "GRCh37": re.compile(r"GRCh37|hg19|hs37|\bb37\b|g1k_v37", re.IGNORECASE),
    "GRCh38": re.compile(r"GRCh38|hg38|hs38|\bb38\b", re.IGNORECASE),
}


@dataclass(frozen=True)
class Contig:
    """A sequence a header lists: its name, and its length where the header tells it."""

    name: str
    length: int | None = None


def chromosome(name: str) -> str | None:
    """Return the plain name of a chromosome, ``1`` to ``22``, ``X``, ``Y`` or ``MT``; None for anything else."""
    plain = name.removeprefix("chr").removeprefix("CHR").removeprefix("Chr").upper()
    plain = _OTHER_NAMES.get(plain, plain.lstrip("0"))
    return plain if plain in LENGTHS["GRCh38"] else None


def spellings(plain: str) -> tuple[str, ...]:
    """Return the names a VCF may have for a chromosome."""
    return ("MT", "chrM", "M", "chrMT") if plain == "MT" else (plain, f"chr{plain}")


def check_build(
    build: str, path: Path, contigs: Mapping[str, Contig], words: str, used: Collection[str], problems: Problems
) -> bool:
    """Note a VCF header of another build; return whether it states the study's.

    Parameters
    ----------
    build
        The study's.
    path, contigs, words
        The file, its chromosomes, and the lines of its header that may name a build.
    used
        The chromosomes of the study's places. hg19 is GRCh37 but for the mitochondrion (16,571 bases, not 16,569), so
        that one counts only where it is used, and never decides which build a file is in.
    """
    told = {plain: contig.length for plain, contig in contigs.items() if contig.length}
    nuclear = {plain: length for plain, length in told.items() if plain != "MT"}
    differing = [plain for plain, length in told.items() if length != LENGTHS[build][plain]]
    if any(plain in nuclear or plain in used for plain in differing):
        fits = [other for other in LENGTHS if nuclear and all(LENGTHS[other][one] == nuclear[one] for one in nuclear)]
        _other_build(build, path, fits, f"{count(len(differing), 'chromosome')} of another length", problems)
        return False
    if nuclear:
        return True
    named = [other for other, says in _SAYS.items() if says.search(words)]
    if len(named) == 1 and named != [build]:
        _other_build(build, path, named, "its header names it", problems)
    return named == [build]


def check_ends(build: str, path: Path, last: Mapping[str, int], problems: Problems) -> None:
    """Note positions beyond the ends of the build's chromosomes; ``last`` has the highest seen of each."""
    beyond = [plain for plain, position in last.items() if position > LENGTHS[build][plain]]
    if beyond:
        fits = [other for other in LENGTHS if all(position <= LENGTHS[other][one] for one, position in last.items())]
        where = f"positions beyond the end of {count(len(beyond), 'chromosome')}"
        _other_build(build, path, fits, where, problems)


def _other_build(build: str, path: Path, fits: Sequence[str], why: str, problems: Problems) -> None:
    likely = f" (it looks like {fits[0]})" if len(fits) == 1 and fits[0] != build else ""
    problems.add(
        f"{path}: is in another genome build than the study's {build}{likely}: {why}.",
        "Use a file in the study's build, or lift the file over (Picard LiftoverVcf, bcftools +liftover).",
    )


def haploid(build: str, plain: str, position: int) -> bool:
    """Return whether a male has one copy here: on MT everyone has, on X and Y outside the pseudoautosomal regions."""
    if plain == "MT":
        return True
    if plain not in ("X", "Y"):
        return False
    return not any(first <= position <= last for first, last in _PAR[build, plain])

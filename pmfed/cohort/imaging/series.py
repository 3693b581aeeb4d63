"""Series of a DICOM folder: which are the study's, whose they are, and which one a record gets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from pmfed.cohort.imaging.header import Header
from pmfed.cohort.imaging.owners import Owners
from pmfed.modality.scans import Dicom, Series


@dataclass(frozen=True, eq=False, repr=False)
class FoundSeries:
    """One series of one patient: its files with their headers, ascending by path, each instance once.

    ``twins`` are files with the SOPInstanceUID of one of ``files``: second copies, unless their pixels differ.
    """

    owner: str
    files: tuple[tuple[str, Header], ...]
    twins: tuple[tuple[tuple[str, Header], tuple[str, Header]], ...] = ()

    @property
    def taken(self) -> int | None:
        """When its last picture was made."""
        return max((header.taken for _, header in self.files if header.taken is not None), default=None)

    @property
    def frames(self) -> int:
        """How many pictures it holds."""
        return sum(header.frames for _, header in self.files)

    @property
    def may_show_text(self) -> bool:
        """Whether text may be burned into one of its pictures."""
        return any(header.may_show_text for _, header in self.files)

    @property
    def tie(self) -> tuple[int, str]:
        """Most pictures first; then by SeriesInstanceUID, so that it is the same at every start."""
        return self.frames, self.files[0][1].series


@dataclass
class Selection:
    """The series a study may take, per patient of the cohort. Its repr shows counts only.

    ``issuers`` are those of the patients' ids, where an id was taken without regard to its issuer.
    """

    by_patient: dict[str, list[FoundSeries]] = field(repr=False, default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    issuers: set[str] = field(repr=False, default_factory=set)


def select(spec: Dicom, pictures: Iterable[tuple[str, Header]], owners: Owners, cohort: set[str]) -> Selection:
    """Select the series that fit the study, of the patients of the cohort.

    Parameters
    ----------
    spec
        Which series the study takes.
    pictures
        Paths and headers of a folder.
    owners
        Whose a picture is.
    cohort
        Ids of the patients.
    """
    selection = Selection()
    groups: dict[tuple[str, str, str], list[tuple[str, Header]]] = {}
    known: dict[tuple[str, str, str], bool] = {}
    for path, header in pictures:
        said = (header.modality, header.body_part, header.description)
        if said not in known:
            known[said] = fits(spec.series, header)
        if not known[said]:
            selection.counts["pictures of other kinds"] += 1
        elif header.localizer:
            selection.counts["scouts"] += 1
        else:
            owner = owners.of(path, header)
            groups.setdefault((owner, header.study, header.series), []).append((path, header))
    for (owner, _, _), files in groups.items():
        found = _once(owner, files)
        selection.counts["series that fit"] += 1
        selection.counts["second copies of a picture"] += len(found.twins)
        if not owner:
            selection.counts["series of nobody: no patient id, or not in the link table"] += 1
        elif owner not in cohort:
            selection.counts["series of patients outside the cohort"] += 1
        elif len(spec.size) == 3 and found.frames < 2 and not found.files[0][1].mosaic:
            selection.counts["series of a single slice"] += 1
        elif spec.burned_in == "skip" and found.may_show_text:
            selection.counts["series left out: text may be burned in"] += 1
        else:
            selection.by_patient.setdefault(owner, []).append(found)
            selection.issuers |= {owners.unnamed_issuer(header) for _, header in files} - {""}
    return selection


def fits(series: Series, header: Header) -> bool:
    """Return whether a picture is of a series the study takes."""
    wanted = (
        (series.modality, header.modality),
        (series.body_part, header.body_part),
        (series.description, header.description),
    )
    return all(not patterns or any(_matches(one, text) for one in patterns) for patterns, text in wanted)


def _matches(pattern: str, text: str) -> bool:
    plain = pattern.casefold().replace("[", "[[]")  # square brackets are plain letters: a description may hold them
    return re.match(translate(plain), text.casefold()) is not None


def _once(owner: str, files: Sequence[tuple[str, Header]]) -> FoundSeries:
    """Set second copies of an instance aside: the same SOPInstanceUID in another file."""
    seen: dict[str, tuple[str, Header]] = {}
    twins = []
    for path, header in files:
        first = seen.setdefault(header.instance or path, (path, header))
        if first[0] != path:
            twins.append((first, (path, header)))
    return FoundSeries(owner, tuple(seen.values()), tuple(twins))

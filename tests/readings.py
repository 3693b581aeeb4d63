"""Readers called with what a test has at hand: the one `Reading` that they are given is made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort import ehr, genomics, images
from pmfed.cohort.block import Block
from pmfed.cohort.imaging import dicom, listed, masks, segments
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.reading import MaskReading, Reading
from pmfed.cohort.sheets import Sheet
from pmfed.cohort.tables import Problems
from pmfed.modality import Images
from pmfed.study.outcome import Outcome

Times = NDArray[np.datetime64] | None


def _reading(
    spec: Any, sources: dict[str, Any], patients: Sequence[str], when: Times, problems: Problems, **more: Any
) -> Reading[Any]:
    more = {key: value for key, value in more.items() if value is not None}
    return Reading(spec=spec, sources=sources, patients=patients, when=when, problems=problems, **more)


def _of_source(read: Any) -> Any:
    def given(
        spec: Any, source: Any, patients: Sequence[str], when: Times, problems: Problems, patient: str | None = None
    ) -> Block:
        return read(_reading(spec, {spec.source: source}, patients, when, problems, patient=patient))  # type: ignore[no-any-return]

    return given


read_events, read_sequence, read_notes = (
    _of_source(one) for one in (ehr.read_events, ehr.read_sequence, ehr.read_notes)
)


def _of_samples(read: Any) -> Any:
    def given(
        spec: Any, source: Path, patients: Sequence[str], when: Times, problems: Problems,
        samples: Path | None = None, patient: str | None = None,
    ) -> Block:  # fmt: skip
        named = spec if spec.samples is None or samples is not None else spec.model_copy(update={"samples": None})
        if samples is not None and spec.samples is None:
            named = spec.model_copy(update={"samples": "samples"})
        sources = {named.source: source, **({named.samples: samples} if samples is not None else {})}
        return read(_reading(named, sources, patients, when, problems, patient=patient))  # type: ignore[no-any-return]

    return given


read_panel, read_copy_number, read_expression = (
    _of_samples(one) for one in (genomics.read_panel, genomics.read_copy_number, genomics.read_expression)
)


def sheet(path: Path, rows: Sequence[int] | None = None, **columns: Sequence[str]) -> Sheet:
    """Return a table of texts; ``rows`` are its lines in the file."""
    frame = pd.DataFrame({name: pd.Series(list(texts), dtype=object) for name, texts in columns.items()})
    frame.index = pd.Index(rows if rows is not None else range(2, 2 + len(frame)))
    return Sheet(path, frame)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Dated(Reading[Any]):
    """A reading of files whose moments are known to the second."""

    taken: Times = None

    def moments(self, column: str) -> NDArray[np.datetime64]:
        assert self.taken is not None
        return self.taken


def read_signals(
    spec: Any, files: Sequence[str], folder: Path, path: Path, problems: Problems, taken: Times = None, when: Times = None
) -> Block:  # fmt: skip
    """Read waveforms of files; ``taken`` is when each began."""
    spec = spec.model_copy(update={"when": None if taken is None else "taken"})
    return ehr.read_signals(
        _Dated(
            spec=spec, sources={spec.folder: folder}, patients=[str(one) for one in range(len(files))], when=when,
            problems=problems, sheet=sheet(path, **{spec.file: files}), rows=np.arange(len(files)), taken=taken,
        )
    )  # fmt: skip


def read_pictures(
    spec: Images, files: Sequence[str], source: Path, path: Path, problems: Problems, *,
    owners: Sequence[str] | None = None, rows: Sequence[int] | None = None, places: Places | None = None,
) -> Block:  # fmt: skip
    """Read pictures of files; without ``owners`` they are one patient's."""
    return images.read_pictures(
        _reading(
            spec, {spec.folder: source}, owners if owners is not None else [""] * len(files), None, problems,
            sheet=sheet(path, rows, **{spec.file: files}), rows=np.arange(len(files)), places=places,
        )
    )  # fmt: skip


def read_images(
    spec: Images, files: Sequence[str], folder: Path, path: Path, problems: Problems
) -> NDArray[np.float32]:
    """Return the inputs of `read_pictures` alone."""
    return read_pictures(spec, files, folder, path, problems).inputs


def _dicom(
    spec: Any, source: Path, patients: Sequence[str], when: Times, problems: Problems, link: Path | None, **more: Any
) -> Reading[Any]:
    sources = {spec.folder: source, **({spec.link.table: link} if link is not None else {})}
    return _reading(spec, sources, patients, when, problems, **more)


def read_dicom(
    spec: Any, source: Path, patients: Sequence[str], when: Times, problems: Problems, *,
    link: Path | None = None, patient: str | None = None, places: Places | None = None,
) -> Block:  # fmt: skip
    """Read scans of a DICOM folder."""
    return dicom.read_dicom(_dicom(spec, source, patients, when, problems, link, patient=patient, places=places))


def read_nifti(
    spec: Any, source: Path, patients: Sequence[str], when: Times, problems: Problems, *,
    table: Path, patient: str | None = None, places: Places | None = None,
) -> Block:  # fmt: skip
    """Read listed NIfTI files."""
    sources = {spec.folder: source, spec.table: table}
    return listed.read_nifti(_reading(spec, sources, patients, when, problems, patient=patient, places=places))


def _masks(
    reading: Reading[Any], outcome: Outcome, folder: Path, table: Path, present: Any, **columns: Sequence[str]
) -> MaskReading[Any]:
    rows = np.arange(len(columns[outcome.column]))
    return MaskReading(reading, outcome, folder, sheet(table, **columns), rows, present)


def read_masks(
    outcome: Outcome, spec: Any, files: Sequence[str], scans: Sequence[str], folder: Path, images: Path, table: Path,
    problems: Problems,
) -> NDArray[np.uint8]:  # fmt: skip
    """Read masks of pictures or of NIfTI scans."""
    reading = _reading(spec, {spec.folder: images}, [""] * len(files), None, problems)
    columns = {spec.file: scans, outcome.column: files}
    asked = _masks(reading, outcome, folder, table, np.array([bool(one) for one in scans]), **columns)
    return masks.read_picture_masks(asked) if spec.kind == "images" else masks.read_nifti_masks(asked)


def read_segmentations(
    outcome: Outcome, spec: Any, files: Sequence[str], present: Any, folder: Path, table: Path, source: Path,
    patients: Sequence[str], when: Times, problems: Problems, *,
    link: Path | None = None, patient: str | None = None, places: Places | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """Read masks that are DICOM segmentations."""
    reading = _dicom(spec, source, patients, when, problems, link, patient=patient, places=places)
    return segments.read_segmentations(_masks(reading, outcome, folder, table, present, **{outcome.column: files}))

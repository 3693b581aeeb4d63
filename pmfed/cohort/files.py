"""Modalities that are read patient by patient from files or databases of their own, each by its reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.ehr import read_events, read_notes, read_sequence
from pmfed.cohort.genomics import read_copy_number, read_expression, read_panel
from pmfed.cohort.imaging.dicom import read_dicom
from pmfed.cohort.imaging.listed import read_nifti
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.records import path_of
from pmfed.cohort.tables import Problems
from pmfed.modality import CopyNumber, Dicom, Events, EventSequence, Expression, Modality, Nifti, Notes, Panel

Moments = NDArray[np.datetime64]


def read_block(
    modality: Modality,
    sources: Mapping[str, Path | str],
    patients: Sequence[str],
    when: Moments | None,
    problems: Problems,
    *,
    patient: str,
    places: Places,
) -> Block:
    """Read one modality for the records of a cohort.

    Parameters
    ----------
    modality
        Of a kind that is not listed in a table (`LISTED`).
    sources
        The site's, among them those of the modality.
    patients, when : (R,)
        Patient of each record, and its index date or None.
    problems
        Where what is wrong is gathered.
    patient
        The column with the patient's id in tables of the modality.
    places
        Cache and progress.
    """
    if isinstance(modality, Events):
        return read_events(modality, sources[modality.source], patients, when, problems, patient=patient)
    if isinstance(modality, EventSequence):
        return read_sequence(modality, sources[modality.source], patients, when, problems, patient=patient)
    if isinstance(modality, Notes):
        return read_notes(modality, sources[modality.source], patients, when, problems, patient=patient)
    if isinstance(modality, Dicom):
        link = path_of(sources[modality.link.table]) if modality.link else None
        folder = Path(sources[modality.folder])
        return read_dicom(modality, folder, patients, when, problems, link=link, patient=patient, places=places)
    if isinstance(modality, Nifti):
        folder, table = Path(sources[modality.folder]), path_of(sources[modality.table])
        return read_nifti(modality, folder, patients, when, problems, table=table, patient=patient, places=places)
    assert isinstance(modality, Panel | CopyNumber | Expression)
    source = Path(sources[modality.source])
    samples = path_of(sources[modality.samples]) if modality.samples else None
    if isinstance(modality, Panel):
        return read_panel(modality, source, patients, when, problems, samples, patient)
    if isinstance(modality, CopyNumber):
        return read_copy_number(modality, source, patients, when, problems, samples, patient)
    return read_expression(modality, source, patients, when, problems, samples, patient)

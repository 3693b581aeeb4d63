"""The readers there are, by the ``kind`` of a modality: from what a site has to a block of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed import plugins
from pmfed.cohort.block import Block
from pmfed.cohort.ehr import read_events, read_notes, read_sequence, read_signals
from pmfed.cohort.genomics import read_copy_number, read_expression, read_panel
from pmfed.cohort.images import read_pictures
from pmfed.cohort.imaging.dicom import read_dicom
from pmfed.cohort.imaging.listed import read_nifti
from pmfed.cohort.imaging.masks import read_nifti_masks, read_picture_masks
from pmfed.cohort.imaging.segments import read_segmentations
from pmfed.cohort.reading import MaskReading, Reading
from pmfed.cohort.tabular import read_genotype_columns, read_table_columns
from pmfed.errors import DataError, StudyError
from pmfed.modality import (
    CopyNumber,
    Dicom,
    Events,
    EventSequence,
    Expression,
    Genotypes,
    Images,
    Modality,
    Nifti,
    Notes,
    Panel,
    Signals,
    Table,
    kind_of,
)
from pmfed.modality import register as register_modality


@dataclass(frozen=True)
class Reader:
    """How one kind of modality is read.

    Attributes
    ----------
    spec
        What a study says of such a modality.
    read
        From a reading to a block: inputs of the spec's shape, zeros where a record does not have the modality.
    masks
        From a reading of masks to the class of every pixel, (R, ...) uint8; None of modalities that are no pictures.
    """

    spec: type[Modality]
    read: Callable[[Reading[Any]], Block]
    masks: Callable[[MaskReading[Any]], NDArray[np.uint8]] | None = None


READERS: dict[str, Reader] = {
    kind_of(reader.spec): reader
    for reader in (
        Reader(Table, read_table_columns),
        Reader(Genotypes, read_genotype_columns),
        Reader(Images, read_pictures, read_picture_masks),
        Reader(Events, read_events),
        Reader(EventSequence, read_sequence),
        Reader(Notes, read_notes),
        Reader(Signals, read_signals),
        Reader(Panel, read_panel),
        Reader(CopyNumber, read_copy_number),
        Reader(Expression, read_expression),
        Reader(Dicom, read_dicom, read_segmentations),
        Reader(Nifti, read_nifti, read_nifti_masks),
    )
}
"""What stands here goes through the same tests: shape and names of its inputs, absence, counts without patients."""


def register(reader: Reader) -> None:
    """Add a reader of an installed package, and the kind of modality that studies name it by.

    Raises
    ------
    ValueError
        The kind is there already.
    """
    register_modality(reader.spec)
    READERS[kind_of(reader.spec)] = reader


def reader_for(kind: str) -> Reader:
    """Return the reader of a kind of modality: pmfed's, one that this program registered, or a plug-in's."""
    found = READERS.get(kind) or plugins.load("readers", kind)
    if not isinstance(found, Reader):
        raise StudyError(f"the kind of modality '{kind}' of a plug-in is no pmfed.cohort.readers.Reader.")
    return found


def read_block(reading: Reading[Any]) -> Block:
    """Read a modality by the reader of its kind.

    Raises
    ------
    DataError
        The network in front of it cannot be used.
    """
    if reading.spec.network is not None:
        from pmfed.cohort.pretrained.backbone import backbone  # torch, which other modalities do not need to be read

        try:
            network = backbone(reading.spec.network, reading.sources)
        except DataError as error:
            reading.problems.note(error)
            reading.problems.raise_any()
            raise
        reading = replace(reading, places=replace(reading.places, backbone=network))
    return reader_for(reading.spec.kind).read(reading)

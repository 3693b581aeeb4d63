"""Modalities: what a model may see of a patient, and how a study names and bounds every input.

Everything here is part of study.toml. Names of inputs come in one fixed order, features by name, so that every site and
the coordinator build the same model.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from pmfed.modality.ehr import Events, EventSequence, Notes, Signals
from pmfed.modality.genomics import CopyNumber, Expression, Panel
from pmfed.modality.genotypes import Genotypes, Variant
from pmfed.modality.images import Images
from pmfed.modality.scans import Dicom, Nifti
from pmfed.modality.table import Categorical, Feature, Name, Numeric, Table
from pmfed.modality.weights import Layered, Weights, WeightsFile

Modality = Annotated[
    Table
    | Genotypes
    | Images
    | Events
    | EventSequence
    | Notes
    | Signals
    | Panel
    | CopyNumber
    | Expression
    | Dicom
    | Nifti,
    Field(discriminator="kind"),
]

KINDS: tuple[str, ...] = tuple(
    sorted(
        kind for model in get_args(get_args(Modality)[0]) for kind in get_args(model.model_fields["kind"].annotation)
    )
)
"""What ``kind`` may be."""

LISTED = (Table, Genotypes, Images, Signals)
"""Kinds whose rows are those of a table, joined to the cohort's; all others are read patient by patient."""

SCANS = (Images, Dicom, Nifti)
SERIES = (EventSequence, Signals)


def sources_of(modality: Modality) -> tuple[str, ...]:
    """Return the sources a site must have for a modality."""
    if isinstance(modality, Events | EventSequence | Notes):
        return (modality.source,)
    if isinstance(modality, Signals):
        return (modality.table, modality.folder)
    return modality.sources


def shape_of(modality: Modality) -> tuple[int, ...]:
    """Return the shape of one record's input: (F,), (T, F), (C, H, W) or (C, D, H, W)."""
    if isinstance(modality, SCANS):
        return modality.shape
    if isinstance(modality, SERIES):
        return (modality.length, len(modality.names))
    return (len(modality.names),)


def numbers_of(modality: Modality) -> tuple[tuple[str, Numeric, int], ...]:
    """Return name, description and column of every number of a modality whose inputs lie in one row."""
    if isinstance(modality, Table | Events):
        return modality.numbers
    if isinstance(modality, Expression):
        found, column = [], 0
        for key in sorted(modality.genes):
            gene = modality.genes[key]
            found.append((key, gene, column))
            column += len(gene.names(key))
        return tuple(found)
    return ()


__all__ = [
    "KINDS",
    "LISTED",
    "SCANS",
    "SERIES",
    "Categorical",
    "CopyNumber",
    "Dicom",
    "EventSequence",
    "Events",
    "Expression",
    "Feature",
    "Genotypes",
    "Images",
    "Layered",
    "Modality",
    "Name",
    "Nifti",
    "Notes",
    "Numeric",
    "Panel",
    "Signals",
    "Table",
    "Variant",
    "Weights",
    "WeightsFile",
    "numbers_of",
    "shape_of",
    "sources_of",
]

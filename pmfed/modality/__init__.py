"""Modalities: what a model may see of a patient, and how a study names and bounds every input.

Everything here is part of study.toml. Names of inputs come in one fixed order, features by name, so that every site and
the coordinator build the same model. What a kind is, it answers for itself: see `Modality`.
"""

from __future__ import annotations

from pmfed.modality.columns import Categorical, Feature, Name, Numeric, Variant
from pmfed.modality.ehr import Events, EventSequence, Notes
from pmfed.modality.genomics import CopyNumber, Expression, Panel
from pmfed.modality.images import Images
from pmfed.modality.kinds import KINDS, AnyModality, kind_of, known_kinds, register
from pmfed.modality.scans import Dicom, Nifti
from pmfed.modality.signals import Signals
from pmfed.modality.spec import Modality
from pmfed.modality.table import Genotypes, Table
from pmfed.modality.weights import Layered, Weights, WeightsFile

__all__ = [
    "KINDS",
    "AnyModality",
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
    "kind_of",
    "known_kinds",
    "register",
]

"""Modalities: what a model may see of a patient, and how a study names and bounds every input.

Everything here is part of study.toml. Names of inputs come in one fixed order, features by name, so that every site and
the coordinator build the same model.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pmfed.modality.genotypes import Genotypes, Variant
from pmfed.modality.images import Images
from pmfed.modality.table import Categorical, Feature, Name, Numeric, Table

Modality = Annotated[Table | Genotypes | Images, Field(discriminator="kind")]

__all__ = ["Categorical", "Feature", "Genotypes", "Images", "Modality", "Name", "Numeric", "Table", "Variant"]

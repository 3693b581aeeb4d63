"""What holds a study of masks together: one modality of pictures or volumes, masks beside it, a UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pmfed.modality import Dicom, Images, Modality, Nifti

if TYPE_CHECKING:
    from pmfed.study.model import ModelSpec
    from pmfed.study.outcome import Outcome


def misfit(
    outcome: Outcome, model: ModelSpec, modalities: Mapping[str, Modality], table: str, record: str | None
) -> str:
    """Return why these do not go together; empty when they do.

    Parameters
    ----------
    outcome, model, modalities
        Of the study.
    table, record
        The cohort's table, and its column that tells a patient's records apart.
    """
    if (outcome.task == "segmentation") != (model.kind == "unet"):
        return "model.kind: 'unet' and a segmentation outcome go together"
    if outcome.task != "segmentation":
        return ""
    name, modality = next(iter(modalities.items()))
    if len(modalities) > 1 or not isinstance(modality, Images | Nifti | Dicom):
        return "modalities: a segmentation has exactly one, of kind 'images', 'nifti' or 'dicom'"
    if modality.weights is not None:
        return f"modalities.{name}.weights: a network makes one row of numbers of a picture, and a segmentation needs every pixel; leave it out"
    if not isinstance(modality, Dicom) and modality.table != table:
        return f"modalities.{name}.table: the images are listed in the cohort's table, '{table}', beside their masks"
    if not isinstance(modality, Images):
        if record is not None:
            return "cohort.record: of scans one per patient is read; leave it out, and list a row per patient"
        if modality.view != "middle":
            return f"modalities.{name}.view: of a mask only the middle slice is known"
    size, halvings = modality.size, len(model.channels) - 1
    if halvings < 1:
        return "model.channels: a unet needs two numbers or more"
    if any(side % 2**halvings for side in size):
        sides = " x ".join(map(str, size))
        return f"model.channels: {halvings + 1} of them halve each side {halvings} times; {sides} do not divide by {2**halvings}"
    return ""

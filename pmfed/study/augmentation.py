"""``[training.augmentation]``: altered copies of a patient's images in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pmfed.validate import Frozen

Axis = Literal["horizontal", "vertical", "depth"]


class Augmentation(Frozen):
    """``[training.augmentation]``: each record stands in a step as ``multiplicity`` copies, altered at random.

    The copies of a patient are averaged before the clip (De et al. 2022), so they cost time and no privacy. ``flip``
    mirrors along an axis in half of the copies; ``rotate`` turns by up to so many degrees in the plane of a picture or
    slice; ``zoom`` stretches each axis by a factor within 1 - zoom to 1 + zoom; ``intensity`` multiplies by a factor
    within 1 - intensity to 1 + intensity and shifts by up to intensity, on the scale of the inputs.
    """

    multiplicity: Annotated[int, Field(ge=1, le=64)] = 4
    flip: tuple[Axis, ...] = ()
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    intensity: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _alters_something(self) -> Augmentation:
        if not (self.flip or self.rotate or self.zoom or self.intensity):
            raise ValueError(
                "name at least one of 'flip', 'rotate', 'zoom' and 'intensity'; equal copies teach nothing"
            )
        if len(set(self.flip)) != len(self.flip):
            raise ValueError("'flip' names an axis twice")
        return self

    def misfit(self, shapes: Sequence[tuple[int, ...]]) -> str:
        """Return why these do not fit a study with images of those shapes; empty when they do."""
        if not shapes:
            return "the study has no images to alter"
        if "depth" in self.flip and min(map(len, shapes)) < 4:
            return "flip 'depth' belongs to volumes"
        return ""

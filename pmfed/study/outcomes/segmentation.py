"""A class for every pixel of a picture or volume, from masks that somebody drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat, model_validator

from pmfed.modality import Modality
from pmfed.modality.spec import ONE_OF_PICTURES
from pmfed.study.outcome import Columns, Floats, Link, Masks, Metric, Outcome
from pmfed.study.outcomes.classes import misspelled, parts_of_one, shares, uneven

if TYPE_CHECKING:
    from pmfed.study.model import ModelSpec


class SegmentationOutcome(Outcome):
    """``task = "segmentation"``: ``column`` lists mask files in ``folder``, whose pixels hold ``values``, one per class.

    The first class is the background. ``baseline`` are the shares of the pixels. It goes with one modality of pictures or
    volumes and a UNet. With ``cap``, in pixels, held-out masks are also judged by their surfaces: the share that lies within
    ``tolerance`` of the other, and the 95th percentile of the distances, up to the cap.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"cap", "tolerance"})

    task: Literal["segmentation"] = "segmentation"
    classes: tuple[str, ...] = ()
    folder: str = ""
    values: tuple[int, ...] = ()
    cap: PositiveFloat | None = None
    tolerance: PositiveFloat = 1.0

    since_first: ClassVar[bool] = True
    scored_by: ClassVar[str] = "pmfed.tasks.segmentation:Segmentation"
    link: ClassVar[Link] = "softmax"
    dtype: ClassVar[type[np.generic]] = np.uint8

    @model_validator(mode="after")
    def _fits(self) -> SegmentationOutcome:
        if why := misspelled(self.task, self.classes):
            raise ValueError(why)
        if not self.folder:
            raise ValueError("a segmentation needs 'folder', the source that the mask files lie in")
        if len(self.classes) > 256:
            raise ValueError("a segmentation has at most 256 'classes'")
        if self.values and (len(self.values) != len(self.classes) or len(set(self.values)) != len(self.values)):
            raise ValueError("'values' holds one number per class, each another")
        if self.cap is not None and self.tolerance > self.cap:
            raise ValueError("'tolerance' is at most 'cap'")
        if why := uneven(self.task, self.classes, self.baseline):
            raise ValueError(why)
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The public share of every class in the pixels."""
        return shares(self.classes, self.baseline)

    @property
    def meaning(self) -> str:
        return f"{' or '.join(self.classes)} in every pixel"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        several = len(self.classes) > 2
        own = [Metric(f"dice_{name}", f"Dice of {name}", True, headline=False) for name in self.classes[1:] if several]
        return (Metric("dice", "Dice", True), Metric("iou", "IoU", True), *own)

    def read(self, table: Columns) -> Floats:
        return table.filled(self.column)

    @property
    def masks(self) -> Masks:
        return self

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        flat = values.reshape(len(values), -1)
        return [(f"any {name}", int((flat == place).any(axis=1).sum())) for place, name in enumerate(self.classes)]

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def rare(self) -> bool:
        return False

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.stack([np.full(pixels, place, dtype=self.dtype) for place in (0, len(self.classes) - 1)])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        """Return one mask in which every class is a piece of its public share, rather than dots all over it."""
        ends = np.cumsum(parts_of_one(self.classes, self.baseline))[:-1]
        mask = np.searchsorted(ends, np.linspace(0, 1, int(np.prod(pixels)), endpoint=False), side="right")
        return np.ones(1), mask.reshape((1, *pixels)).astype(self.dtype)

    def misfit(self, model: ModelSpec, modalities: Mapping[str, Modality], table: str, record: str | None) -> str:
        if model.kind != "unet":
            return "model.kind: 'unet' and a segmentation outcome go together"
        name, modality = next(iter(modalities.items()))
        if len(modalities) > 1:
            return ONE_OF_PICTURES
        if why := modality.no_masks(name, table, record):
            return why
        if modality.network is not None:
            return (
                f"modalities.{name}.weights: a network makes one row of numbers of a picture, and a segmentation needs "
                "every pixel; leave it out"
            )
        size, halvings = modality.shape[1:], len(model.channels) - 1
        if halvings < 1:
            return "model.channels: a unet needs two numbers or more"
        if any(side % 2**halvings for side in size):
            sides = " x ".join(map(str, size))
            return (
                f"model.channels: {halvings + 1} of them halve each side {halvings} times; {sides} do not divide by "
                f"{2**halvings}"
            )
        return ""

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"classes": self.classes}

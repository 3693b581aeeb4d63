"""Images."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from pmfed.validate import Frozen


class Images(Frozen):
    """A modality of images: a table that lists files, and the folder they lie in.

    ``size`` is (height, width) in pixels; ``mean`` and ``scale`` are public constants on the 0..1 range.
    """

    kind: Literal["images"] = "images"
    table: str
    folder: str
    file: str = "file"
    size: tuple[PositiveInt, PositiveInt]
    channels: Literal[1, 3] = 1
    mean: float = 0.5
    scale: PositiveFloat = 0.25

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources a site must have."""
        return (self.table, self.folder)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record's input."""
        return (self.channels, *self.size)

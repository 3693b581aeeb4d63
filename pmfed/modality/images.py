"""Images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from pmfed.modality.pictures import Pictures, beside
from pmfed.modality.weights import source_of


class Images(Pictures):
    """A modality of images: a table that lists files, and the folder they lie in.

    ``size`` is (height, width) in pixels, ``fit`` what becomes of pictures of another. ``bits`` says how many of 16 bits
    pictures use, ``transparent`` what lies below transparent ones. ``mean`` and ``scale`` are public constants on the 0..1
    range. With ``weights`` the input is what that network makes of the picture.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"bits", "fit", "skip_unreadable", "transparent"})

    kind: Literal["images"] = "images"
    table: str
    file: str = "file"
    size: tuple[PositiveInt, PositiveInt]
    channels: Literal[1, 3] = 1
    bits: Annotated[int, Field(ge=9, le=16)] | None = None
    transparent: Literal["refuse", "black", "white"] = "refuse"

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.table, self.folder, *source_of(self.weights))

    @property
    def joined(self) -> str:
        return self.table

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.file,)

    @property
    def picture(self) -> tuple[int, ...]:
        """Shape of one picture: channels, then ``size``."""
        return (self.channels, *self.size)

    def no_masks(self, name: str, table: str, record: str | None) -> str:
        return "" if self.table == table else beside(name, table)

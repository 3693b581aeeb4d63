"""``[study]``: what it is called and what it is for."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from pmfed.modality import Name
from pmfed.plugins import PACKAGE
from pmfed.validate import Grown


class About(Grown):
    """``[study]``: what it is called and what it is for; the ``packages`` its plug-ins come from (`pmfed.plugins`)."""

    LATER: ClassVar[frozenset[str]] = frozenset({"packages"})

    name: Name
    title: Annotated[str, Field(max_length=200)]
    description: str = ""
    licence: Annotated[str, Field(max_length=200)] = ""
    packages: tuple[Annotated[str, Field(pattern=PACKAGE)], ...] = ()

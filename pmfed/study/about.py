"""``[study]``: what it is called and what it is for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pmfed.modality import Name
from pmfed.validate import Frozen


class About(Frozen):
    """``[study]``: what it is called and what it is for."""

    name: Name
    title: Annotated[str, Field(max_length=200)]
    description: str = ""
    licence: Annotated[str, Field(max_length=200)] = ""

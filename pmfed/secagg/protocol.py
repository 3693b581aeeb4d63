"""What coordinator and sites say to each other about masks, strictly read: versions, sizes, forms.

Cards are in `cards`. Everything below belongs to dropout recovery (`recovery`, `opening`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pmfed.errors import ProtocolError
from pmfed.modality import Name
from pmfed.secagg.cards import Hex32, Signature
from pmfed.secagg.keys import canonical
from pmfed.validate import Frozen

MAX_SITES = 1024
AHEAD = 8
"""Releases a site prepares shares for at a time."""

Slot = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[str, Field(pattern=r"^[0-9a-f]{66}$")]
Box = Annotated[str, Field(pattern=r"^[0-9a-f]{188}$")]
"""A nonce (12 bytes), two shares (33 each) and a tag (16), hex."""


class Prepare(Frozen):
    """Coordinator to site: prepare ``count`` slots from ``first`` on."""

    version: Literal[1] = 1
    first: Annotated[int, Field(ge=0, lt=2**31 - AHEAD)]
    count: Annotated[int, Field(ge=1, le=AHEAD)]


class Package(Frozen):
    """What a site prepares for one slot: a public mask key, a commitment to its own mask, boxes for the holders."""

    version: Literal[1] = 1
    slot: Slot
    public: Hex32
    commit: Hex32
    boxes: Annotated[dict[Name, Box], Field(max_length=MAX_SITES)]
    signature: Signature


class Parcel(Frozen):
    """A package as one holder gets it: with its own box only."""

    public: Hex32
    commit: Hex32
    box: Box
    signature: Signature


class Delivery(Frozen):
    """Coordinator to site, with the message that asks for a sum: the slot and what the others prepared."""

    version: Literal[1] = 1
    slot: Slot
    parcels: Annotated[dict[Name, Parcel], Field(max_length=MAX_SITES)]


class Survivors(Frozen):
    """Coordinator to site: whose vectors arrived. ``votes`` is empty when it asks for signatures."""

    version: Literal[1] = 1
    slot: Slot
    sites: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_SITES)]
    votes: Annotated[dict[Name, Signature], Field(default_factory=dict, max_length=MAX_SITES)]


Packages = TypeAdapter(Annotated[tuple[Package, ...], Field(max_length=AHEAD)])
Shares = TypeAdapter(Annotated[dict[Name, Share], Field(max_length=MAX_SITES)])

Document = TypeVar("Document", bound=BaseModel)


def read(text: str, model: type[Document]) -> Document:
    """Read a document strictly; ProtocolError when it is not one."""
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError:
        raise ProtocolError(f"not a valid {model.__name__.lower()} message. Nothing was released.") from None


def is_signature(text: str) -> bool:
    """Whether a text has the form of a signature; whether it fits is for the sites to say."""
    return re.fullmatch(r"[0-9a-f]{128}", text) is not None


def package_bytes(meeting: str, site: str, holders: Sequence[str], threshold: int, slot: int, public: str, commit: str) -> bytes:  # fmt: skip
    """Return what a site signs of its package.

    ``meeting`` (`cards.meeting_of`) keeps the packages of one introduction out of the next one's slots: a mask key that
    was opened then would open a living site's vector now.
    """
    return canonical(
        {
            "what": "pmfed package", "version": 1, "meeting": meeting, "site": site, "holders": sorted(holders),
            "threshold": threshold, "slot": slot, "public": public, "commit": commit,
        }
    )  # fmt: skip


def survivor_bytes(meeting: str, slot: int, label: bytes, sites: Sequence[str]) -> bytes:
    """Return what a site signs of a set of survivors."""
    told = {"what": "pmfed survivors", "version": 1, "meeting": meeting, "slot": slot}
    return canonical({**told, "label": hashlib.sha256(label).hexdigest(), "sites": sorted(sites)})


def threshold_of(holders: int) -> int:
    """Return how many shares open a secret: more than two thirds of the holders (Bonawitz et al. 2017)."""
    return 2 * holders // 3 + 1


def places_of(holders: Sequence[str]) -> Mapping[str, int]:
    """Return each holder's place in the sharing, from 1."""
    return {site: place for place, site in enumerate(sorted(holders), start=1)}

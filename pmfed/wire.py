"""What may travel between coordinator and site: one flat array and one small record. The allow-list.

A message is a `Request` or `Reply` (strict JSON, unknown keys refused, sizes bounded) and at most a few named
flat arrays. Nothing else fits through. `check_reply` is the last thing a site does before it lets go of
a message: kind by kind it knows which fields and arrays may leave, of which type and of which length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from io import BytesIO
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from pmfed.errors import ProtocolError
from pmfed.modality import Name
from pmfed.plain import plain
from pmfed.validate import Frozen

VERSION: Literal[2] = 2
"""Of the protocol between coordinator and site. 1 had a kind of message for each kind of sum; 2 has one for all."""
MAX_RECORD = 1 << 20  # bytes of JSON; studies with thousands of features still fit
MAX_HEAD = 1 << 12  # bytes that say what an array is
MAX_REASON = 1000  # characters

Kind = Literal["enroll", "keys", "shares", "ask", "sign", "unmask", "finish"]
Arrays = Mapping[str, npt.NDArray[Any]]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Request(Frozen):
    """What the coordinator asks of a site.

    ``query`` names what is asked, one of the study's schedule. ``sites`` is how many sites take part in this attempt: a
    site's share of the noise follows from it. ``query``, ``round`` (its number in the schedule) and ``attempt`` name
    a release; no site answers one twice. ``roster`` names the sites of a masked sum. ``text`` is the document the
    kind needs: the canonical study (enroll), the sites' cards (keys), and so on (`secagg.protocol`).
    """

    LONGEST: ClassVar[int] = MAX_RECORD
    version: Literal[2] = VERSION
    kind: Kind
    query: Annotated[Name | Literal[""], Field(validate_default=True)] = ""
    run: RunId
    study: Fingerprint
    round: Annotated[int, Field(ge=0, lt=2**31)] = 0
    attempt: Annotated[int, Field(ge=0, lt=2**15)] = 0
    sites: Annotated[int, Field(ge=1, lt=2**20)]
    roster: Annotated[tuple[Name, ...], Field(max_length=1024)] = ()
    text: str = ""

    @field_validator("query")
    @classmethod
    def _of_its_kind(cls, query: str, info: ValidationInfo) -> str:
        """Who asks names a query, and nobody else: the audit log knows a message by this word."""
        if "kind" in info.data and (info.data["kind"] == "ask") != bool(query):
            raise ValueError("a query belongs to 'ask', and 'ask' to a query")
        return query

    @property
    def what(self) -> str:
        """What is asked: the query's name, or the kind of a message that asks for no sum."""
        return self.query or self.kind


class Reply(Frozen):
    """What a site answers.

    ``ok = false`` carries an error ``code`` and a safe sentence and never any array. ``text`` is a document the
    kind allows: version and card (enroll), sealed shares (shares), a signature (sign), shares (unmask), the signed
    receipt (finish).

    Guarantee
    ---------
    A ``reason`` that a site gives is made one short line here; one that arrives as anything else is no reply, so that
    nothing reaches the coordinator's terminal, log or report but what shows as it is.
    """

    LONGEST: ClassVar[int] = MAX_RECORD
    version: Literal[2] = VERSION
    kind: Kind
    query: Name | Literal[""] = ""
    run: RunId
    round: int = 0
    attempt: int = 0
    site: Name | Literal[""] = ""  # ends up in a path
    ok: bool = True
    code: Annotated[str, Field(pattern=r"^(PM[0-9]{3})?$")] = ""
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
    text: str = ""

    @field_validator("reason", mode="before")
    @classmethod
    def _one_line(cls, reason: object, info: ValidationInfo) -> object:
        return plain(reason, MAX_REASON) if info.mode == "python" and isinstance(reason, str) else reason


# Which arrays may leave a site, by kind. Everything else stays.
ALLOWED: dict[str, tuple[str, ...]] = {
    "enroll": (),
    "keys": (),
    "shares": (),
    "ask": ("sum", "site"),
    "sign": (),
    "unmask": (),
    "finish": (),
}
WITH_TEXT = ("enroll", "shares", "sign", "unmask", "finish")
WORDS = (np.dtype(np.uint32), np.dtype(np.uint64))
Shapes = Mapping[str, tuple[type[np.generic], int]]
"""By name, what an array is made of and how long it is."""


def check_reply(reply: Reply, arrays: Arrays, shapes: Shapes) -> None:
    """Refuse a reply that holds anything the allow-list does not name.

    Parameters
    ----------
    reply, arrays
        What is about to leave the site.
    shapes
        What each array must be.

    Raises
    ------
    ProtocolError
        Something is there that must not leave.

    Guarantee
    ---------
    What passes holds, beside run, round, attempt and site name, only flat arrays of whole numbers, of the
    expected width and length, under the names allowed for its kind; no floats, no counts, no optimizer state, no buffers.
    """
    allowed = ALLOWED[reply.kind] if reply.ok else ()
    for name, array in arrays.items():
        if name not in allowed:
            raise ProtocolError(f"array '{name}' may not leave a site in a '{reply.kind}' reply. Nothing was released.")
        word, length = shapes.get(name, (np.uint32, 0))
        if array.dtype not in WORDS or array.dtype != word or array.shape != (length,) or name not in shapes:
            raise ProtocolError(
                f"array '{name}' of a '{reply.kind}' reply is {array.dtype}{list(array.shape)}, "
                f"not {np.dtype(word)}[{length}]. Nothing was released."
            )
    if reply.text and not (reply.ok and reply.kind in WITH_TEXT):
        raise ProtocolError(f"a '{reply.kind}' reply may not carry text. Nothing was released.")


Record = TypeVar("Record", Request, Reply)


def unpack_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array that Flower packed as an .npy file: a view of its bytes, where NumPy's own reader makes a copy.

    Raises
    ------
    ValueError
        It is none, is longer or shorter than it says, or holds Python objects.
    """
    head = BytesIO(data[:MAX_HEAD])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("another version of the format")
    shape, _, kind = np.lib.format.read_array_header_1_0(head)
    if len(data) != head.tell() + math.prod(shape) * kind.itemsize:
        raise ValueError("not as long as it says")
    return np.frombuffer(data, kind, offset=head.tell()).reshape(shape)


def dump(record: Request | Reply) -> bytes:
    """Return the bytes of a record."""
    return record.model_dump_json().encode()


def parse_request(data: bytes) -> Request:
    """Read a request strictly; ProtocolError when it is not one."""
    return _parse(data, Request)


def parse_reply(data: bytes) -> Reply:
    """Read a reply strictly; ProtocolError when it is not one."""
    return _parse(data, Reply)


def _version(data: bytes) -> int | None:
    """Return the protocol version a record claims; None when it claims none."""
    try:
        found = json.loads(data)["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if type(found) is int else None


def _parse(data: bytes, model: type[Record]) -> Record:
    name = model.__name__.lower()
    if len(data) > MAX_RECORD:
        raise ProtocolError(f"a {name} of {len(data)} bytes is larger than the {MAX_RECORD} allowed.")
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        if (other := _version(data)) not in (None, VERSION):
            raise ProtocolError(
                f"a {name} of protocol {other}; this side speaks protocol {VERSION}.",
                "Install versions of pmfed that fit together at coordinator and sites.",
            ) from None
        fields = sorted({".".join(map(str, item["loc"])) or "record" for item in error.errors()})
        raise ProtocolError(
            f"not a valid {name}: {', '.join(fields)}.", "Coordinator and site must run versions that fit together."
        ) from None

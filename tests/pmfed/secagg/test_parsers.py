"""Whatever arrives, a parser returns what it stands for or the one error it is documented to raise."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from members import Members, names, vectors
from pmfed_client.connection.channel import pack, unpack
from pydantic import ValidationError

from pmfed.errors import PolicyError, ProtocolError
from pmfed.secagg.cards import read_cards
from pmfed.secagg.keys import verify
from pmfed.secagg.protocol import (
    AHEAD,
    Delivery,
    Packages,
    Prepare,
    Shares,
    Survivors,
    is_signature,
    read,
)
from pmfed.secagg.roster import Roster
from pmfed.wire import Reply, Request, dump, parse_reply, parse_request

Parser = Callable[[bytes], object]

MEMBERS = Members(4, dropouts=1)
MEMBERS.prepare(count=2)
DELIVERY = MEMBERS.delivery(names(1)[0])
MEMBERS.hide(vectors(names(4)), MEMBERS.label())
VOTES = MEMBERS.votes(names(4))
SHARES = MEMBERS.shares(names(4), VOTES)[names(1)[0]]
REQUEST = Request(
    kind="ask", query="step", run="ab" * 16, study="5" * 64, round=3, attempt=1, sites=4, roster=names(4), text="x"
)
REPLY = Reply(kind="sign", run="ab" * 16, round=3, site=names(1)[0], text="f" * 128)
ARRAYS = {"sum": np.arange(3, dtype=np.uint32), "site": np.arange(2, dtype=np.uint64)}


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def roster(data: bytes, folder: Path) -> object:
    path = folder / "roster.json"
    path.write_bytes(data)
    return Roster.read(path)


def parsers(folder: Path) -> dict[str, tuple[bytes, Parser, type[Exception]]]:
    """Return, by name, a real message, what reads it, and the only error that may come of it."""
    card = MEMBERS.maskers[names(1)[0]].card
    packages = Packages.dump_json(tuple(MEMBERS.packages[slot][names(1)[0]] for slot in (0, 1)))
    survivors = Survivors(slot=0, sites=names(4), votes=VOTES)
    return {
        "cards": (MEMBERS.cards.encode(), lambda d: read_cards(text(d), card, MEMBERS.roster), ProtocolError),
        "prepare": (b'{"version":1,"first":0,"count":8}', lambda d: read(text(d), Prepare), ProtocolError),
        "delivery": (DELIVERY.model_dump_json().encode(), lambda d: read(text(d), Delivery), ProtocolError),
        "survivors": (survivors.model_dump_json().encode(), lambda d: read(text(d), Survivors), ProtocolError),
        "packages": (packages, lambda d: Packages.validate_json(d, strict=True), ValidationError),
        "shares": (Shares.dump_json(SHARES), lambda d: Shares.validate_json(d, strict=True), ValidationError),
        "roster": (MEMBERS.roster.canonical().encode(), lambda d: roster(d, folder), PolicyError),
        "receipt": (
            MEMBERS.identities[names(1)[0]].signed({"rows": 3}).encode(),
            lambda d: verify(text(d)),
            ValueError,
        ),
        "request": (dump(REQUEST), parse_request, ProtocolError),
        "reply": (dump(REPLY), parse_reply, ProtocolError),
        "line": (pack(dump(REQUEST), ARRAYS), unpack, ProtocolError),
    }


KINDS = tuple(parsers(Path()))
SPLICES = (
    b"", b"{", b"}", b"[", b"]", b'"', b"\\", b"null", b"true", b"-1", b"1e999", b"NaN", b"0", b"2147483648", b"9" * 400,
    b"\\ud800", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u0000", b"{}", b"[]", b'""', b"1.0", b"[" * 300, b'{"a":' * 300,
)  # fmt: skip


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Return a message with one to four things wrong with it."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start, length = chance.randint(0, len(made)), chance.choice((0, 1, 1, 2, 8, 64, 1000))
        match chance.randrange(6):
            case 0 if made:
                made[start - 1] ^= 1 << chance.randrange(8)
            case 1:
                del made[start:]
            case 2:
                del made[start : start + length]
            case 3:
                made[start : start + length] = chance.choice(SPLICES)
            case 4:
                made[start:start] = made[start : start + length]  # said twice
            case 5:
                other = chance.randint(0, len(made))
                made[start : start + length] = made[other : other + length]
    return bytes(made)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Parser, type[Exception]]]:
    return parsers(tmp_path_factory.mktemp("parsers"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_message_is_read(known: Any, kind: str) -> None:
    message, parse, _ = known[kind]
    assert parse(message) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_message_is_refused_wherever_it_ends(known: Any, kind: str) -> None:
    message, parse, error = known[kind]
    for end in range(len(message.rstrip())):
        with pytest.raises(error):
            parse(message[:end])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_message_is_read_or_refused(known: Any, kind: str, seed: int) -> None:
    message, parse, error = known[kind]
    with suppress(error):
        assert parse(spoil(message, random.Random(seed))) is not None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=60))
@example(data=b"\xff")
@example(data=b'"\\ud800"')
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 100_000)
@example(data=b"9" * 5000)
def test_any_bytes_are_refused(known: Any, kind: str, data: bytes) -> None:
    _, parse, error = known[kind]
    with pytest.raises(error):
        parse(data)


# -- the fuzzer, which is no part of these tests ------------------------------------------------------------------


def fuzzer() -> ModuleType:
    spec = spec_from_file_location("fuzzer", Path(__file__).parents[2] / "fuzz" / "parsers.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fuzzer_tries_every_parser_and_sees_what_should_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, attempt, mutate = fuzzer().harness(tmp_path)
    assert tuple(messages) == KINDS
    made = set()
    for name, message in messages.items():
        attempt(message)
        for seed in range(20):
            other = mutate(message, 4000, seed)
            assert 0 < len(other) <= 4000
            attempt(other)
            made.add((name, other))
    assert len(made) > 200
    monkeypatch.setattr("test_parsers.parse_reply", lambda _: {}["nothing"])
    with pytest.raises(KeyError):
        fuzzer().harness(tmp_path)[1](messages["reply"])


def test_without_atheris_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        fuzzer().main([])


# -- fields ---------------------------------------------------------------------------------------------------------

BOX, PUBLIC, SIGNATURE = "0" * 188, "0" * 64, "0" * 128
PARCEL = {"public": PUBLIC, "commit": PUBLIC, "box": BOX, "signature": SIGNATURE}
PACKAGE = {"version": 1, "slot": 0, "public": PUBLIC, "commit": PUBLIC, "boxes": {"a": BOX}, "signature": SIGNATURE}
CROWD = [f"s{number}" for number in range(1025)]
GOOD: dict[str, dict[str, Any]] = {
    "prepare": {"version": 1, "first": 0, "count": AHEAD},
    "delivery": {"version": 1, "slot": 0, "parcels": {"a": PARCEL}},
    "survivors": {"version": 1, "slot": 0, "sites": ["a", "b"], "votes": {"a": SIGNATURE}},
    "packages": PACKAGE,
    "shares": {"a": "0" * 66},
}
WRONG: dict[str, list[dict[str, Any]]] = {
    "prepare": [
        {"first": -1}, {"first": "0"}, {"first": 0.0}, {"first": None}, {"count": 0}, {"count": AHEAD + 1}, {"count": -1},
        {"first": 2**31 - AHEAD},  # its last slot had a number that no package may have
        {"first": 2**31 - 1}, {"first": 2**31}, {"threshold": 1},
    ],
    "delivery": [
        {"slot": -1}, {"slot": 2**31}, {"slot": None}, {"parcels": []}, {"parcels": {"a": None}}, {"parcels": {"A": PARCEL}},
        {"parcels": {"a": {**PARCEL, "public": PUBLIC[:-1]}}}, {"parcels": {"a": {**PARCEL, "commit": "G" * 64}}},
        {"parcels": {"a": {**PARCEL, "box": BOX[:-2]}}}, {"parcels": {"a": {**PARCEL, "box": BOX + "00"}}},
        {"parcels": {"a": {**PARCEL, "signature": SIGNATURE + "\n"}}}, {"parcels": {"a": {**PARCEL, "threshold": 1}}},
        {"parcels": dict.fromkeys(CROWD, PARCEL)}, {"threshold": 1},
    ],
    "survivors": [
        {"slot": -1}, {"slot": True}, {"sites": []}, {"sites": "ab"}, {"sites": ["a", ""]}, {"sites": ["a", "../b"]},
        {"sites": CROWD}, {"votes": {"a": ""}}, {"votes": {"a": SIGNATURE[:-1]}}, {"votes": {"a": "F" * 128}},
        {"votes": {"a/": SIGNATURE}}, {"votes": dict.fromkeys(CROWD, SIGNATURE)}, {"votes": None}, {"threshold": 1},
    ],
    "packages": [
        {"slot": 2**31}, {"slot": -1}, {"public": ""}, {"commit": PUBLIC + "0"}, {"boxes": {"a": ""}}, {"boxes": {"": BOX}},
        {"boxes": dict.fromkeys(CROWD, BOX)}, {"signature": None}, {"threshold": 1},
    ],
    "shares": [{"a": ""}, {"a": "0" * 64}, {"a": "0" * 68}, {"a": "0x" + "0" * 64}, {"a": 0}, {"A": "0" * 66}, dict.fromkeys(CROWD, "0" * 66)],
}  # fmt: skip
VERSIONS: list[dict[str, Any]] = [{"version": 0}, {"version": 2}, {"version": "1"}, {"version": None}]


@pytest.mark.parametrize("kind", GOOD)
def test_every_field_of_the_protocol_is_read_strictly(known: Any, kind: str) -> None:
    _, parse, error = known[kind]

    def told(document: dict[str, Any]) -> bytes:
        return json.dumps([document] if kind == "packages" else document).encode()

    assert parse(told(GOOD[kind]))
    for changes in WRONG[kind] + (VERSIONS if kind != "shares" else []):
        with pytest.raises(error):
            parse(told({**GOOD[kind], **changes}))
    for field in GOOD[kind]:
        if kind != "shares" and field not in ("version", "votes"):
            with pytest.raises(error):
                parse(told({name: value for name, value in GOOD[kind].items() if name != field}))


def test_more_packages_than_were_asked_for_are_refused() -> None:
    Packages.validate_json(json.dumps([PACKAGE] * AHEAD), strict=True)
    with pytest.raises(ValidationError):
        Packages.validate_json(json.dumps([PACKAGE] * (AHEAD + 1)), strict=True)


@pytest.mark.parametrize("said", ["", "f" * 127, "f" * 129, "F" * 128, "f" * 128 + "\n", "g" * 128, "\u0663" * 128])
def test_what_has_not_the_form_of_a_signature_is_none(said: str) -> None:
    assert is_signature("f" * 128)
    assert not is_signature(said)

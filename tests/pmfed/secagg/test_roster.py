"""Identity keys, what they sign, and the roster a site pins: one spelling, one fingerprint, read strictly."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from members import identities, names, roster_of

from pmfed.errors import PolicyError
from pmfed.secagg.keys import Identity, fits, verify
from pmfed.secagg.roster import MAX_BYTES, Roster, grouped

ROSTER = roster_of(identities(3))


def written(folder: Path, data: str | bytes) -> Path:
    path = folder / "roster.json"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(ROSTER.canonical()), **changes})


def test_an_identity_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    first = Identity.at(path)
    assert path.stat().st_mode & 0o777 == 0o600
    Identity.at.cache_clear()
    assert Identity.at(path).public == first.public
    assert first.public.encode() not in path.read_bytes()


def test_an_identity_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    Identity.at(path)
    Identity.at.cache_clear()
    path.chmod(0o640)
    with pytest.raises(PolicyError, match="others may read") as caught:
        Identity.at(path)
    assert "chmod 600" in str(caught.value)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for number, data in enumerate((b"", b"not a key", other)):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(PolicyError, match="not an Ed25519 key"):
            Identity.at(path)


def test_a_signed_document_reads_back_and_a_changed_one_does_not() -> None:
    (identity,) = identities(1).values()
    signed = identity.signed({"site": "north", "rows": 3})
    assert verify(signed) == {"site": "north", "rows": 3, "key": identity.public}
    for place in range(len(signed)):
        other = "0" if signed[place] != "0" else "1"
        with pytest.raises(ValueError):  # noqa: PT011 (json's own errors are some)
            verify(signed[:place] + other + signed[place + 1 :])


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"signature": 3, "key": 3}', '{"key": "00"}', "[" * 99999])
def test_what_is_no_signed_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        verify(text)


def test_a_signature_fits_one_key_and_one_text() -> None:
    one, other = identities(2).values()
    signature = one.sign(b"a")
    assert fits(one.public, b"a", signature)
    for key, data, said in (
        (other.public, b"a", signature), (one.public, b"b", signature), (one.public, b"a", signature[:-2]),
        (one.public, b"a", "x" * 128), ("00" * 31, b"a", signature), (one.public, b"a", ""),
    ):  # fmt: skip
        assert not fits(key, data, said)


def test_a_roster_has_one_spelling(tmp_path: Path) -> None:
    read = Roster.read(written(tmp_path, ROSTER.canonical()))
    assert read == ROSTER
    assert read.fingerprint() == ROSTER.fingerprint()
    loose = json.dumps(json.loads(ROSTER.canonical()), indent=4)
    assert Roster.read(written(tmp_path, loose)).fingerprint() == ROSTER.fingerprint()
    assert list(ROSTER.keys) == list(names(3))


def test_any_change_of_a_roster_changes_its_fingerprint() -> None:
    known = {name: identity.public for name, identity in identities(4).items()}
    seen = {ROSTER.fingerprint(), Roster.of(known).fingerprint()}
    first, second, *_ = known
    swapped = {**known, first: known[second], second: known[first]}
    renamed = {("renamed" if name == first else name): key for name, key in known.items()}
    fewer = {name: key for name, key in known.items() if name != first}
    seen |= {Roster.of(one).fingerprint() for one in (swapped, renamed, fewer)}
    assert len(seen) == 5


def test_a_fingerprint_is_told_in_groups_of_four() -> None:
    told = grouped(ROSTER.fingerprint())
    assert [len(group) for group in told.split(" ")] == [4] * 16
    assert told.replace(" ", "") == ROSTER.fingerprint()


MEMBERS = json.loads(ROSTER.canonical())["members"]
BAD: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "roster",
    "half": ROSTER.canonical()[:-40],
    "more behind it": ROSTER.canonical() + "{}",
    "not UTF-8": b"\xff\xfe" + ROSTER.canonical().encode(),
    "a list": json.dumps(MEMBERS),
    "nobody": changed(members=[]),
    "a roster of one": changed(members=MEMBERS[:1]),
    "an older version": changed(version=0),
    "a newer version": changed(version=2),
    "a version in words": changed(version="1"),
    "something more": changed(threshold=1),
    "a member with something more": changed(members=[{**MEMBERS[0], "weight": 2}, *MEMBERS[1:]]),
    "a site twice": changed(members=[MEMBERS[0], {**MEMBERS[1], "site": MEMBERS[0]["site"]}]),
    "a key twice": changed(members=[MEMBERS[0], {**MEMBERS[1], "key": MEMBERS[0]["key"]}]),
    "another order": changed(members=MEMBERS[::-1]),
    "a short key": changed(members=[{**MEMBERS[0], "key": MEMBERS[0]["key"][:-2]}, *MEMBERS[1:]]),
    "a key in capitals": changed(members=[{**MEMBERS[0], "key": "AB" * 32}, *MEMBERS[1:]]),
    "a key with a line end": changed(members=[{**MEMBERS[0], "key": MEMBERS[0]["key"] + "\n"}, *MEMBERS[1:]]),
    "a name with a slash": changed(members=[{**MEMBERS[0], "site": "../a"}, *MEMBERS[1:]]),
    "a name that forges a member": changed(members=[{**MEMBERS[0], "site": 'a", "key": "'}, *MEMBERS[1:]]),
    "too long": b" " * MAX_BYTES + ROSTER.canonical().encode(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_roster_is_refused(tmp_path: Path, data: str | bytes) -> None:
    with pytest.raises(PolicyError, match="Nothing was released"):
        Roster.read(written(tmp_path, data))


def test_a_roster_that_is_too_long_is_not_even_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="longer than any roster"):
        Roster.read(written(tmp_path, BAD["too long"]))
    known = json.loads(ROSTER.canonical())
    assert len(Roster.read(written(tmp_path, json.dumps(known) + " " * (MAX_BYTES - 2000))).members) == 3


def test_a_roster_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="there is no roster here"):
        Roster.read(tmp_path / "roster.json")


@settings(deadline=None)
@given(data=st.binary(max_size=300), place=st.integers(0, 10**6), cut=st.booleans())
def test_any_bytes_are_a_roster_or_refused(tmp_path_factory: Any, data: bytes, place: int, cut: bool) -> None:
    real = ROSTER.canonical().encode()
    place %= len(real)
    spoiled = real[:place] + data + (b"" if cut else real[place + len(data) :])
    with suppress(PolicyError):
        assert Roster.read(written(tmp_path_factory.getbasetemp(), spoiled)).members

"""Keystreams: the published ciphers, one for each release and pair, and nothing left in the sum."""

from __future__ import annotations

import hmac
import itertools
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chance import uniform
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from members import Members, added, names, vectors

from pmfed.secagg import masks
from pmfed.secagg.masks import BLOCK, Label, add_keystream, add_pairwise, derive, neighbours
from pmfed.secagg.recovery import slot_key

WORDS = (np.uint32, np.uint64)
# RFC 8439, appendix A.1, test vector 1: key, nonce and counter of zeros.
RFC_8439 = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"


def stream(key: bytes, size: int = 4) -> bytes:
    words = np.zeros(size, np.uint64)
    add_keystream(words, key)
    return words.tobytes()


@pytest.mark.parametrize("word", WORDS)
def test_the_keystream_is_chacha20(word: type[np.generic]) -> None:
    words = np.zeros(32 // np.dtype(word).itemsize, word)
    add_keystream(words, bytes(32))
    assert words.astype(words.dtype.newbyteorder("<")).tobytes().hex() == RFC_8439


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("extra", [-1, 0, 1, 7])
def test_blocks_join_without_a_seam(word: type[np.generic], extra: int) -> None:
    """A long vector has the keystream of a long message: nothing begins anew at the next block."""
    per_block = BLOCK // np.dtype(word).itemsize
    words = np.zeros(2 * per_block + extra, word)
    add_keystream(words, b"k" * 32)
    assert len({words[start : start + 4].tobytes() for start in (0, per_block, 2 * per_block - 4)}) == 3
    first = np.zeros(per_block, word)
    add_keystream(first, b"k" * 32)
    assert words[:per_block].tobytes() == first.tobytes()
    uniform(words)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("extra", [0, 1, 30])
def test_no_more_keystream_is_made_than_the_vector_is_long(
    word: type[np.generic], blocks: int, extra: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is that of one long message, to the last word."""
    made: list[int] = []

    class Counted(Cipher[None]):
        def encryptor(self) -> Any:
            inner = super().encryptor()

            def update_into(zeros: bytes, into: bytearray) -> int:
                made.append(inner.update_into(zeros, into))
                return made[-1]

            return SimpleNamespace(update_into=update_into)

    monkeypatch.setattr(masks, "Cipher", Counted)
    words = np.zeros(blocks * BLOCK // np.dtype(word).itemsize + extra, word)
    add_keystream(words, b"k" * 32)
    assert sum(made) == words.nbytes
    whole = Cipher(ChaCha20(b"k" * 32, bytes(16)), mode=None).encryptor().update(bytes(words.nbytes))
    assert words.astype(words.dtype.newbyteorder("<")).tobytes() == whole


@settings(deadline=None)
@given(size=st.integers(0, 40), word=st.sampled_from(WORDS), seed=st.integers(0, 99))
def test_what_is_added_can_be_taken_off_again(size: int, word: type[np.generic], seed: int) -> None:
    (words,) = vectors(names(1), size, word, seed).values()
    before, keys = words.copy(), {"b": b"1" * 32, "d": b"2" * 32}
    add_keystream(words, b"k" * 32)
    assert size < 3 or not np.array_equal(words, before)
    add_keystream(words, b"k" * 32, subtract=True)
    add_pairwise(words, "c", keys)
    add_pairwise(words, "c", keys, subtract=True)
    np.testing.assert_array_equal(words, before)


@settings(deadline=None)
@given(count=st.integers(2, 7), word=st.sampled_from(WORDS), seed=st.integers(0, 99))
def test_pairwise_masks_sum_to_zero(count: int, word: type[np.generic], seed: int) -> None:
    sites, found = names(count), vectors(names(count), 5, word, seed)
    total = added(found, sites)
    for site in sites:
        keys = {other: bytes(sorted(f"{site}{other}".encode())).ljust(32, b"x") for other in sites if other != site}
        add_pairwise(found[site], site, keys)
    np.testing.assert_array_equal(added(found, sites), total)


def test_derived_keys_are_hkdf_of_parts_that_cannot_run_together() -> None:
    root, parts = b"r" * 32, (b"mask", b"label")
    info = sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    assert derive(root, *parts) == hmac.digest(root, info + b"\x01", "sha256")  # RFC 5869, section 2.3
    spelt = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"", b"abc"), (b"abc", b""), (), (b"",)]
    assert len({derive(root, *one) for one in spelt}) == len(spelt)


def test_a_label_spells_out_everything_that_makes_a_release() -> None:
    model = np.arange(4, dtype=np.float32)
    sent = {"parameters": model}
    base = ("step", 1, 0, ("a", "b"), sent)
    other = model.copy()
    other[2] = np.nextafter(other[2], np.float32(9))
    changed = [
        ("evaluation", 1, 0, ("a", "b"), sent), ("step", 2, 0, ("a", "b"), sent), ("step", 1, 1, ("a", "b"), sent),
        ("step", 0, 1, ("a", "b"), sent), ("step", 1, 0, ("a", "b", "c"), sent), ("step", 1, 0, ("ab",), sent),
        ("step", 1, 0, ("a,b",), sent), ("step", 1, 0, ('a", "b',), sent), ("step", 11, 0, ("a", "b"), sent),
        ("step1", 1, 0, ("a", "b"), sent),
    ]  # fmt: skip
    states = [
        {}, {"parameters": other}, {"parameters": model[:3]}, {"parameters": model[:0]}, {"scales": model},
        {"parameters": model.astype(np.float64)}, {"parameters": model.view(np.float64)},
        {"parameters": model.reshape(2, 2)}, {"parameters": model, "scales": model[:0]},
        {"parameters": model[:2], "scales": model[2:]}, {"parameters": model[2:], "scales": model[:2]},
        {"parameters": model[:1], "scales": model[1:]}, {'parameters", "scales': model},
    ]  # fmt: skip
    changed += [("step", 1, 0, ("a", "b"), state) for state in states]
    assert len({Label.of(*one).bytes() for one in [base, *changed]}) == 1 + len(changed)
    same = {"parameters": np.arange(8, dtype=np.float32)[::2] / 2}
    assert Label.of(*base) == Label.of("step", 1, 0, ("b", "a"), same)
    both = {"parameters": model, "scales": other}
    assert Label.of("step", 1, 0, ("a",), both) == Label.of("step", 1, 0, ("a",), dict(reversed(both.items())))


def test_no_two_releases_kinds_or_pairs_share_a_keystream() -> None:
    """Every key of the plain way, of recovery and of the boxes, over many labels: not one keystream twice."""
    plain, sturdy, again = Members(4), Members(4, dropouts=1), Members(4, dropouts=1)
    again.identities, again.roster = sturdy.identities, sturdy.roster
    again.meet()  # the same sites in the same run, introduced anew
    seen: list[bytes] = []
    labels = [
        Label.of(kind, round, attempt, sites, model)
        for kind in ("step", "evaluation", "statistics")
        for round in (0, 1, 10)
        for attempt in (0, 1, 10)
        for sites in (names(4), names(3))
        for model in ({}, {"parameters": np.zeros(3, np.float32)})
    ]
    pairs = list(itertools.combinations(names(4), 2))
    for one in (plain, sturdy, again):
        roots = [one.maskers[site].root(other) for site, other in pairs]
        seen += [derive(root, b"mask", label.bytes()) for root in roots for label in labels]
        for root, (site, other) in zip(roots, pairs, strict=True):
            seen += [
                derive(root, b"box", *way) for way in ((site.encode(), other.encode()), (other.encode(), site.encode()))
            ]
    for one in (sturdy, again):
        one.prepare(count=3)
        for slot in range(3):
            held = {site: one.sides[site]._slots[slot] for site in names(4)}
            keys = [slot_key(held[site].secret, site, other, one.packages[slot][other].public) for site, other in pairs]
            seen += [derive(key, b"mask", label.bytes()) for key in keys for label in labels]
            seen += [derive(mine.seed, b"self", label.bytes()) for mine in held.values() for label in labels]
    assert len(seen) > 8_000
    assert len({stream(key, 1) for key in seen}) == len(seen)


def test_a_copied_mask_key_gives_another_keystream() -> None:
    """A lying site that gives out another's public key as its own: its masks must not cancel the other's."""
    secret, copied = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    mine = secret.public_key().public_bytes_raw().hex()
    keys = [slot_key(secret, "m", "a", copied), slot_key(secret, "m", "z", copied), slot_key(secret, "n", "z", copied)]
    spelt = f"{copied[:-2]}{int(copied[-2:], 16) | 128:02x}"  # the same point: X25519 looks at 255 bits
    keys += [slot_key(secret, "m", "z", mine), slot_key(secret, "m", "a", spelt)]
    assert len(set(keys)) == 5


def joined(near: dict[str, set[str]], left: set[str]) -> bool:
    """Whether the sites that are left can all be reached from one of them."""
    seen, todo = set(), [min(left)]
    while todo:
        site = todo.pop()
        if site not in seen:
            seen.add(site)
            todo += near[site] & left
    return seen == left


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 60), colluders=st.integers(0, 30), round=st.integers(0, 99), data=st.data())
def test_whoever_is_taken_away_the_rest_stay_connected(
    count: int, colluders: int, round: int, data: st.DataObject
) -> None:
    """Even when the coordinator picks the release so that its sites stand where they cut the circle best."""
    label = Label.of("step", round, 0, names(count), {})
    near = {site: set(neighbours(label, site, colluders)) for site in names(count)}
    assert all(site in near[other] for site in near for other in near[site])
    assert all(site not in found for site, found in near.items())
    sizes = {len(found) for found in near.values()}
    assert len(sizes) == 1
    if count <= 13:
        assert sizes == {count - 1}  # everybody
    else:
        assert min(sizes) >= min(count - 1, colluders + 1)
    victim = data.draw(st.sampled_from(names(count)))
    others = [site for site in names(count) if site != victim]
    around = sorted(near[victim], key=lambda site: len(near[site] & near[victim]))
    for away in (around, around[::-1], data.draw(st.permutations(others))):
        left = set(names(count)) - set(away[: min(colluders, count - 2)])
        assert joined(near, left)


def test_the_circle_changes_from_release_to_release() -> None:
    first = names(30)[0]
    seen = {neighbours(Label.of("step", round, 0, names(30), {}), first, 1) for round in range(20)}
    assert len(seen) == 20
    assert {len(near) for near in seen} == {12}

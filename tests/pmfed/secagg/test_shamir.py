"""Shamir's sharing: any threshold of shares gives the secret, fewer fit every secret alike."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from chance import uniform
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.secagg.shamir import BYTES, PRIME, join, split

SECRET = st.binary(min_size=32, max_size=32)


def is_prime(number: int) -> bool:
    """Miller and Rabin, 40 random bases: a composite passes with a chance below 2^-80."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(40):
        value = pow(2 + secrets.randbelow(number - 3), odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def test_the_field_is_the_next_above_all_secrets() -> None:
    assert is_prime(PRIME)
    assert not any(is_prime(2**256 + number) for number in range(1, 297, 2))
    assert PRIME < 1 << (8 * BYTES)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), secret=SECRET, holders=st.integers(1, 12))
def test_any_threshold_of_shares_gives_the_secret_back(data: Any, secret: bytes, holders: int) -> None:
    places = data.draw(st.lists(st.integers(1, 1024), min_size=holders, max_size=holders, unique=True))
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, places, threshold)
    assert set(shares) == set(places)
    assert {len(share) for share in shares.values()} == {BYTES}
    chosen = data.draw(st.permutations(places))[: data.draw(st.integers(threshold, holders))]
    assert join({place: shares[place] for place in chosen}) == secret


@settings(max_examples=40, deadline=None)
@given(secret=SECRET, other=SECRET, holders=st.integers(2, 9), data=st.data())
def test_fewer_shares_fit_every_secret(secret: bytes, other: bytes, holders: int, data: Any) -> None:
    """To any threshold - 1 shares and ANY secret there is one last share that completes them."""
    threshold = data.draw(st.integers(2, holders))
    shares = split(secret, range(1, holders + 1), threshold)
    known = {place: int.from_bytes(shares[place], "big") for place in range(1, threshold)}
    points = {0: int.from_bytes(other, "big"), **known}
    last = 0
    for place, value in points.items():
        weight = value
        for further in points:
            if further != place:
                weight = weight * (threshold - further) * pow(place - further, -1, PRIME) % PRIME
        last = (last + weight) % PRIME
    forged = {**{place: shares[place] for place in known}, threshold: last.to_bytes(BYTES, "big")}
    assert join(forged) == other


def test_one_share_less_gives_another_secret() -> None:
    secret = secrets.token_bytes(32)
    shares = split(secret, range(1, 8), 5)
    try:
        found = join({place: shares[place] for place in range(1, 5)})
    except ValueError:  # one in 2^247
        return
    assert found != secret


def test_shares_are_fresh_and_uniform() -> None:
    """The same secret of zeros, shared 800 times: every share is chance, also of the threshold's worth below."""
    rounds = [split(bytes(32), (1, 2, 3), 3) for _ in range(800)]
    for place in (1, 2, 3):
        found = [shares[place][1:] for shares in rounds]  # the first byte is 0: 2^256 shares of 2^256 + 297 begin so
        assert len(set(found)) == len(found)
        uniform(np.frombuffer(b"".join(found), np.uint8))
    apart = b"".join(bytes(a ^ b for a, b in zip(shares[1][1:], shares[2][1:], strict=True)) for shares in rounds)
    uniform(np.frombuffer(apart, np.uint8))


def test_what_are_no_shares_is_refused() -> None:
    shares = split(bytes(32), (1, 2, 3), 2)
    large = PRIME.to_bytes(BYTES, "big")
    for wrong in (
        {1: large, 2: shares[2]},
        {1: shares[1][:-1], 2: shares[2]},
        {1: b"", 2: shares[2]},
        {1: b"\xff" * BYTES, 2: shares[2]},
    ):
        with pytest.raises(ValueError, match="not a share"):
            join(wrong)
    beyond = (PRIME - 1).to_bytes(BYTES, "big")
    with pytest.raises(ValueError, match="no 32-byte secret"):
        join({1: beyond})
    assert join(split(b"\xff" * 32, (5,), 1)) == b"\xff" * 32


def test_a_wrong_share_gives_a_wrong_secret_which_its_commitment_shows() -> None:
    shares = split(bytes(32), (1, 2, 3), 2)
    wrong = {1: shares[1], 2: split(bytes(32), (1, 2, 3), 2)[2]}
    with suppress(ValueError):  # of shares of no 32-byte secret
        assert join(wrong) != bytes(32)


@pytest.mark.parametrize(
    ("secret", "places", "threshold"),
    [(bytes(31), (1, 2), 2), (bytes(33), (1, 2), 2), (bytes(32), (1, 1), 2), (bytes(32), (0, 1), 2), (bytes(32), (1, 2), 3), (bytes(32), (1, 2), 0)],
)  # fmt: skip
def test_sharing_that_would_give_the_secret_away_never_happens(secret: bytes, places: Any, threshold: int) -> None:
    with pytest.raises(AssertionError):
        split(secret, places, threshold)

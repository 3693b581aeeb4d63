"""Masks: keystreams that two sites share, one adds and the other subtracts, so that in the sum nothing is left.

Words are added modulo 2^32 or 2^64. A masked vector is uniform to whoever lacks the key (one-time pad over the
ring, under ChaCha20 as a pseudorandom function, RFC 8439), so it tells its reader nothing at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

Word = TypeVar("Word", np.uint32, np.uint64)

BLOCK = 1 << 20  # bytes of keystream at a time: stays in the cache
_ZEROS = memoryview(bytes(BLOCK))  # a piece of it is no copy

FEWEST = 12  # neighbours, where there are so many other sites


@dataclass(frozen=True)
class Label:
    """Which release a mask belongs to. Two releases that differ in anything have unrelated masks.

    Parameters
    ----------
    purpose
        Name of the query: "statistics", "step", "evaluation".
    round, attempt
        As in the message.
    sites
        Who takes part, in order: sites that were told different rosters do not cancel.
    sent
        SHA-256 of the state that came with the message: a coordinator that shows each site another model gets
        noise, not a sum (Pasquini, Francati, Ateniese 2022).
    """

    purpose: str
    round: int
    attempt: int
    sites: tuple[str, ...]
    sent: str

    @classmethod
    def of(
        cls, purpose: str, round: int, attempt: int, sites: tuple[str, ...], sent: Mapping[str, npt.NDArray[Any]]
    ) -> Label:
        """Return the label of a release, with the hash of the named arrays that were sent."""
        whole = hashlib.sha256()
        for name in sorted(sent):
            array = np.ascontiguousarray(sent[name])
            whole.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            whole.update(array.data)
        digest = whole.hexdigest() if sent else ""
        return cls(purpose, round, attempt, tuple(sorted(sites)), digest)

    def bytes(self) -> bytes:
        """Return an unambiguous spelling."""
        return json.dumps([self.purpose, self.round, self.attempt, self.sites, self.sent]).encode()


def neighbours(label: Label, site: str, colluders: int) -> tuple[str, ...]:
    """Return with whom a site shares a mask in one release.

    With few sites that is everybody. With many, the sites stand in a circle, in an order that changes from release to
    release, and each shares masks with the nearest on both sides: masks with all others would cost more than the
    training (Bell et al. 2020).

    Parameters
    ----------
    label
        The release.
    site
        One of its sites.
    colluders
        How many sites may work with the coordinator, or drop out.

    Guarantee
    ---------
    Symmetric. Whichever ``colluders`` sites are taken away, the rest stay connected: with 2h neighbours the circle is
    2h-connected (Harary 1962), and 2h is at least ``colluders + 1`` and 12. So of the rest only the sum is seen.
    """
    half = max(FEWEST, colluders + 2) // 2
    if len(label.sites) <= 2 * half + 1:
        return tuple(other for other in label.sites if other != site)
    spelling = label.bytes()
    circle = sorted(label.sites, key=lambda name: hashlib.sha256(spelling + name.encode()).digest())
    place = circle.index(site)
    return tuple(sorted(circle[(place + step) % len(circle)] for step in range(-half, half + 1) if step))


def derive(root: bytes, *parts: bytes) -> bytes:
    """Return a 256-bit key that follows from ``root`` and the parts (HKDF-Expand, RFC 5869)."""
    info = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    return HKDFExpand(SHA256(), 32, info).derive(root)


def add_keystream(words: npt.NDArray[Word], key: bytes, *, subtract: bool = False) -> None:
    """Add the keystream of a key to a vector, or subtract it, in place.

    Parameters
    ----------
    words
        uint32 or uint64, (n,), contiguous.
    key
        32 bytes, never used for anything else.
    """
    assert words.ndim == 1
    assert words.flags.c_contiguous
    little = words.dtype.newbyteorder("<")
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    combine = np.subtract if subtract else np.add
    buffer = bytearray(min(BLOCK, words.nbytes))
    keystream = np.frombuffer(buffer, little)
    step = BLOCK // words.itemsize
    for start in range(0, len(words), step):
        part = words[start : start + step]
        stream.update_into(_ZEROS[: part.nbytes], buffer)  # a stream cipher: no more is made than is asked for
        combine(part, keystream[: len(part)], out=part)


def add_pairwise(words: npt.NDArray[Word], site: str, keys: Mapping[str, bytes], *, subtract: bool = False) -> None:
    """Add a site's masks with each other site, in place: the earlier name adds, the later subtracts.

    Parameters
    ----------
    words
        uint32 or uint64, (n,).
    site
        Whose vector this is.
    keys
        The release's key with each other site.
    subtract
        Take the masks off again instead.

    Guarantee
    ---------
    Added to the vector of every site, these masks sum to zero. Without one key a vector is uniform.
    """
    for other in sorted(keys):
        add_keystream(words, keys[other], subtract=(site > other) != subtract)

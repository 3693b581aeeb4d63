"""Randomness for sampling and noise: secret by default, reproducible only where nothing is promised.

Both sources are a ChaCha20 keystream (RFC 8439) read as 64-bit words. A word gives one Gaussian number: its
lowest bit is the sign, the other 63 bits are a uniform ``u`` in (0, 1/2), and ``-ndtri(u)`` is the
magnitude. With 2^-65 <= u the magnitude is at most ``LARGEST`` standard deviations: never infinite, and the
probability cut off beyond it is 2^-64.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from typing import NoReturn, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray
from scipy.special import ndtri

LARGEST = 9.2
"""No Gaussian number is larger than this many standard deviations (``-ndtri(2**-65)`` is 9.16)."""

_BLOCK = 1 << 15  # words made at a time: 256 KiB, stays in the cache
_POOL = 1 << 10  # words kept ready for small draws
_ZEROS = bytes(8 * _BLOCK)
_REKEY = 1 << 30  # bytes after which a stream changes its key, far below ChaCha20's 2^38


class Source(Protocol):
    """Where random numbers come from. ``secret`` is true when nobody can predict or repeat them."""

    @property
    def secret(self) -> bool: ...

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Return ``size`` independent numbers from N(0, std^2)."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` independent numbers, uniform on the multiples of 2^-53 in [0, 1)."""


class _Keystream:
    """The words of a ChaCha20 keystream; it replaces its own key by its own output every ``_REKEY`` bytes."""

    def __init__(self, key: bytes) -> None:
        self._start(key)

    def _start(self, key: bytes) -> None:
        self._cipher: CipherContext = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._left = _REKEY

    def words(self, size: int) -> NDArray[np.uint64]:
        """Return the next ``size`` (at most ``_BLOCK``) words."""
        if self._left < 8 * size:
            self._start(self._cipher.update(_ZEROS[:32]))
        self._left -= 8 * size
        words = np.empty(size, np.uint64)
        self._cipher.update_into(memoryview(_ZEROS)[: 8 * size], words.view(np.uint8).data)
        return words


def _normal(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn words into standard normal numbers, one each."""
    values = (words >> np.uint64(1)).astype(np.float64)
    values += 0.5
    values *= 2.0**-64
    ndtri(values, out=values)  # the lower half: at most zero
    values.view(np.uint64)[:] ^= words << np.uint64(63)
    return values


class _Numbers:
    """Numbers from a keystream, with a small pool so that 30 numbers do not cost a whole block."""

    def __init__(self, key: bytes) -> None:
        self._restart(key)

    def _restart(self, key: bytes) -> None:
        self._lock = threading.Lock()  # two threads must never be handed the same numbers
        self._stream = _Keystream(key)
        self._normals: NDArray[np.float64] = np.empty(0)
        self._words: NDArray[np.uint64] = np.empty(0, np.uint64)

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        """Return ``size`` independent numbers from N(0, std^2).

        Parameters
        ----------
        size
            How many.
        std
            Standard deviation, at or above zero.

        Returns
        -------
        numpy.ndarray
            float64, shape (size,), each at most ``LARGEST * std`` from zero.
        """
        if not 0 <= std < np.inf:
            raise ValueError("the standard deviation of noise must be a finite number at or above 0")
        with self._lock:
            if size <= _POOL:
                if len(self._normals) < size:
                    self._normals = _normal(self._stream.words(_POOL))
                values, self._normals = self._normals[:size], self._normals[size:]
                return values * std
            out = np.empty(size)
            for start in range(0, size, _BLOCK):
                stop = min(start + _BLOCK, size)
                np.multiply(_normal(self._stream.words(stop - start)), std, out=out[start:stop])
        return out

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` independent numbers, uniform on the multiples of 2^-53 in [0, 1).

        Returns
        -------
        numpy.ndarray
            float64, shape (size,).
        """
        with self._lock:
            if size <= _POOL:
                if len(self._words) < size:
                    self._words = self._stream.words(_POOL)
                words, self._words = self._words[:size], self._words[size:]
                return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
            out = np.empty(size)
            for start in range(0, size, _BLOCK):
                stop = min(start + _BLOCK, size)
                words = self._stream.words(stop - start)
                np.multiply(words >> np.uint64(11), 2.0**-53, out=out[start:stop])
        return out

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a source of randomness cannot be copied or pickled: the copy would repeat its numbers")


class SecretSource(_Numbers):
    """Randomness nobody can predict: a keystream under a fresh key from the operating system.

    Guarantee
    ---------
    The key comes from ``os.urandom``, is different for every instance, is never written anywhere and has no
    way out. Nothing in a study or a message influences it. A forked child starts anew under its own key;
    copying and pickling raise.
    """

    secret = True

    def __init__(self) -> None:
        super().__init__(os.urandom(32))
        _ALIVE.add(self)


class SeededSource(_Numbers):
    """Reproducible randomness for tests and simulations. It protects nobody: who knows the seed knows the noise.

    Parameters
    ----------
    seed
        Any integer.
    context
        What the numbers are for, such as a site's name and a round; other contexts give independent numbers.
    """

    secret = False

    def __init__(self, seed: int, *context: str | int) -> None:
        # JSON keeps ("a", "b") apart from ("ab",) and 1 apart from "1".
        spelled = json.dumps(["pmfed insecure reproducible noise", seed, *context])
        super().__init__(hashlib.sha256(spelled.encode()).digest())


_ALIVE: weakref.WeakSet[SecretSource] = weakref.WeakSet()


def _forked() -> None:
    for source in list(_ALIVE):
        source._restart(os.urandom(32))


os.register_at_fork(after_in_child=_forked)

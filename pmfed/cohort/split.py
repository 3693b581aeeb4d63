"""Who is held out, decided by a keyed hash of the patient id.

The answer for a patient depends on the id, the key and the fraction alone: not on the other patients, not on
the order of the table, not on the run. A patient added later moves nobody.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(ids: Sequence[str], key: str, fraction: float) -> NDArray[np.bool_]:
    """Return which patients are held out for evaluation.

    Parameters
    ----------
    ids
        Patient ids.
    key
        The study's split key; another key gives another, independent split.
    fraction
        Share of patients to hold out, between 0 and 1; met on average, not exactly.

    Returns
    -------
    (P,) bool
    """
    below = round(fraction * 2**64)
    return np.array([value < below for value in _hashes(ids, key, "")], dtype=bool)


def set_aside(ids: Sequence[str], key: str, fraction: float) -> NDArray[np.bool_]:
    """Return which patients a network is recalibrated on rather than trained on, (P,) bool; independent of `held_out`."""
    below = round(fraction * 2**64)
    return np.array([value < below for value in _hashes(ids, key, "recalibration\0")], dtype=bool)


def folds(ids: Sequence[str], key: str, k: int) -> NDArray[np.int64]:
    """Return the fold, 0 to ``k`` - 1, of every patient for cross-validation; independent of `held_out`.

    Parameters
    ----------
    ids
        Patient ids.
    key
        The split key.
    k
        How many folds.

    Returns
    -------
    (P,) int64
    """
    return np.array([value % k for value in _hashes(ids, key, "fold\0")], dtype=np.int64)


def draws(ids: Sequence[str], key: str, purpose: str) -> NDArray[np.uint64]:
    """Return one 64-bit number per id, fixed by key and purpose: the order of a draw anyone can repeat."""
    return np.array(_hashes(ids, key, f"{purpose}\0"), dtype=np.uint64)


def _hashes(ids: Sequence[str], key: str, purpose: str) -> list[int]:
    secret = key.encode()
    return [int.from_bytes(hmac.digest(secret, f"{purpose}{one}".encode(), "sha256")[:8], "big") for one in ids]

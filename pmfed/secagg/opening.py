"""The coordinator's side of dropout recovery: from the sum of masked vectors and the survivors' shares to the sum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pmfed.errors import RunError
from pmfed.secagg import shamir
from pmfed.secagg.masks import Label, add_keystream, add_pairwise, derive, neighbours
from pmfed.secagg.protocol import Package, places_of, threshold_of
from pmfed.secagg.recovery import slot_key


def unmask(
    total: npt.NDArray[Any],
    label: Label,
    survivors: Sequence[str],
    packages: Mapping[str, Package],
    shares: Mapping[str, Mapping[str, str]],
    colluders: int = 1,
) -> None:
    """Take every mask off a sum, in place.

    Parameters
    ----------
    total
        Sum of the survivors' masked vectors, (n,).
    label
        Which release it is.
    survivors
        Whose vectors are in it.
    packages
        What each holder prepared for the slot.
    shares
        By holder, its share for each site of the label (hex): of the own mask of a survivor, of the mask key of others.
    colluders
        As for `neighbours`.

    Raises
    ------
    RunError
        Too few shares came, or those that came do not give what a site committed to.
    """
    places = places_of(list(packages))
    needed = threshold_of(len(packages))
    if len(shares) < needed:
        raise RunError(f"{len(shares)} sites gave shares; {needed} are needed to open the sum.")
    for site in label.sites:
        given = {places[holder]: bytes.fromhex(told[site]) for holder, told in shares.items() if site in told}
        package = packages[site]
        try:
            secret = shamir.join(dict(list(given.items())[:needed])) if len(given) >= needed else b""
        except ValueError:
            secret = b""
        if site in survivors:
            if hashlib.sha256(secret).hexdigest() != package.commit:
                raise RunError(f"the shares do not open the mask of site '{site}'.")
            add_keystream(total, derive(secret, b"self", label.bytes()), subtract=True)
            continue
        key = X25519PrivateKey.from_private_bytes(secret) if secret else None
        if key is None or key.public_key().public_bytes_raw().hex() != package.public:
            raise RunError(f"the shares do not open the mask key of site '{site}'.")
        near = set(neighbours(label, site, colluders)) & set(survivors)
        with_survivors = {other: slot_key(key, site, other, packages[other].public) for other in near}
        add_pairwise(
            total, site, {other: derive(found, b"mask", label.bytes()) for other, found in with_survivors.items()}
        )

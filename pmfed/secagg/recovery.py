"""One site's side of the sturdy way: a sum survives sites that drop out (Bonawitz et al. 2017, double masking).

For each slot a site makes a mask key and a mask of its own, and shares both secrets out among the holders, sealed
so that the coordinator carries them unseen. When the vectors are in, the sites sign who survived; then each gives
its share of the own mask of those who did, and of the mask key of those who did not. Never both for one site.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pmfed.errors import KeysError, ProtocolError
from pmfed.secagg import shamir
from pmfed.secagg.keys import canonical, fits
from pmfed.secagg.masker import Masker
from pmfed.secagg.masks import Label, add_keystream, add_pairwise, derive, neighbours
from pmfed.secagg.protocol import (
    Delivery,
    Package,
    Packages,
    Parcel,
    Prepare,
    Shares,
    Survivors,
    package_bytes,
    places_of,
    survivor_bytes,
    threshold_of,
)


@dataclass
class _Slot:
    """What a site knows of one slot; it ends with the shares being given, or with the process."""

    secret: X25519PrivateKey
    seed: bytes
    holders: tuple[str, ...]
    threshold: int
    own: tuple[bytes, bytes]  # shares of its own two secrets: mask key, mask
    label: Label | None = None
    held: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    survivors: tuple[str, ...] | None = None


class Recovery:
    """A site's slots in one run.

    Parameters
    ----------
    masker
        Its keys with the others.
    dropouts
        The most sites whose noise a release can lack.

    Guarantee
    ---------
    As for `Masker`, with one sum of survivors, at least ``threshold_of(holders)`` of them, that becomes readable per
    slot. While fewer than a third of the holders work with the coordinator, it cannot open the sums of two
    different sets: each honest site gives one kind of share per site and slot, once. Nor can it open one site's vector,
    while those who work with it and those it calls dead are together no more than the masker's ``colluders``
    (with few sites: while two others are neither, see `neighbours`).
    """

    def __init__(self, masker: Masker, dropouts: int) -> None:
        self.masker, self.dropouts = masker, dropouts
        self._slots: dict[int, _Slot] = {}
        self._next = 0

    def prepare(self, asked: Prepare, holders: Sequence[str]) -> str:
        """Return this site's packages for some slots, as JSON. Slots it prepared earlier and did not use are dropped."""
        holders = tuple(sorted(holders))
        if asked.first < self._next:
            raise ProtocolError(f"slot {asked.first} was prepared before. Nothing was released.")
        self._slots = {slot: kept for slot, kept in self._slots.items() if kept.label is not None}
        self._next = asked.first + asked.count
        packages = tuple(self._package(slot, holders) for slot in range(asked.first, self._next))
        return Packages.dump_json(packages).decode()

    def _package(self, slot: int, holders: tuple[str, ...]) -> Package:
        places, needed = places_of(holders), threshold_of(len(holders))
        secret, seed = X25519PrivateKey.generate(), os.urandom(32)
        of_key = shamir.split(secret.private_bytes_raw(), list(places.values()), needed)
        of_seed = shamir.split(seed, list(places.values()), needed)
        site, meeting = self.masker.site, self.masker.meeting
        boxes = {}
        for other, place in places.items():
            if other != site:
                nonce = os.urandom(12)
                box = self._box(site, other).encrypt(
                    nonce, of_key[place] + of_seed[place], _about(meeting, slot, site, other)
                )
                boxes[other] = (nonce + box).hex()
        own = places[site]
        self._slots[slot] = _Slot(secret, seed, holders, needed, (of_key[own], of_seed[own]))
        public, commit = secret.public_key().public_bytes_raw().hex(), hashlib.sha256(seed).hexdigest()
        signature = self.masker.identity.sign(package_bytes(meeting, site, holders, needed, slot, public, commit))
        return Package(slot=slot, public=public, commit=commit, boxes=boxes, signature=signature)

    def hide(self, words: npt.NDArray[Any], label: Label, delivery: Delivery) -> None:
        """Mask a vector in place, with the slot's masks and this site's own.

        Raises
        ------
        ProtocolError
            The slot was not prepared or is used, a parcel is missing or was changed, or the label was hidden before.
        """
        site, slot = self.masker.site, self._slots.get(delivery.slot)
        if slot is None or slot.label is not None:
            raise KeysError(f"slot {delivery.slot} is not prepared here. Nothing was released.")
        if set(label.sites) != set(slot.holders):  # a part of them would be opened by the votes of another part
            raise ProtocolError("the sites that take part are not those that hold shares. Nothing was released.")
        if set(delivery.parcels) != set(label.sites) - {site}:
            raise ProtocolError("the parcels are not those of the sites that take part. Nothing was released.")
        held = {other: self._open(slot, delivery.slot, other, parcel) for other, parcel in delivery.parcels.items()}
        keys = {
            other: slot_key(slot.secret, site, other, delivery.parcels[other].public)
            for other in neighbours(label, site, self.masker.colluders)
        }
        self.masker.once(label)
        slot.label, slot.held = label, held
        add_pairwise(words, site, {other: derive(key, b"mask", label.bytes()) for other, key in keys.items()})
        add_keystream(words, derive(slot.seed, b"self", label.bytes()))

    def _open(self, slot: _Slot, number: int, other: str, parcel: Parcel) -> tuple[bytes, bytes]:
        meeting = self.masker.meeting
        said = package_bytes(meeting, other, slot.holders, slot.threshold, number, parcel.public, parcel.commit)
        if not fits(self.masker.roster.keys[other], said, parcel.signature):
            raise ProtocolError(f"site '{other}' did not sign its parcel of slot {number}. Nothing was released.")
        box = bytes.fromhex(parcel.box)
        try:
            shares = self._box(other, self.masker.site).decrypt(
                box[:12], box[12:], _about(meeting, number, other, self.masker.site)
            )
        except InvalidTag:
            raise ProtocolError(f"the parcel of site '{other}' was changed. Nothing was released.") from None
        return shares[: shamir.BYTES], shares[shamir.BYTES :]

    def vote(self, asked: Survivors) -> str:
        """Return this site's signature of a set of survivors, the only one it will ever sign for the slot.

        Raises
        ------
        ProtocolError
            The slot was not used, the set is not a large enough part of its sites, or another set was signed.
        """
        slot, label = self._used(asked.slot)
        sites = tuple(sorted(asked.sites))
        least = max(slot.threshold, len(label.sites) - self.dropouts, 2)
        if len(set(sites)) < len(sites) or not set(sites) <= set(label.sites) or self.masker.site not in sites:
            raise ProtocolError(
                "these survivors are not sites of the sum, or this site is not one. Nothing was opened."
            )
        if len(sites) < least:
            raise ProtocolError(f"{len(sites)} survivor(s), at least {least} are needed. Nothing was opened.")
        if slot.survivors not in (None, sites):
            raise ProtocolError("other survivors were signed for this slot. Nothing was opened.")
        slot.survivors = sites
        return self.masker.identity.sign(survivor_bytes(self.masker.meeting, asked.slot, label.bytes(), sites))

    def reveal(self, asked: Survivors) -> str:
        """Return, once, this site's shares that open the sum: JSON, site to share.

        Raises
        ------
        ProtocolError
            The set is not the one this site signed, or too few others signed it.
        """
        slot, label = self._used(asked.slot)
        if slot.survivors is None or tuple(sorted(asked.sites)) != slot.survivors:
            raise ProtocolError("these are not the survivors this site signed. Nothing was opened.")
        said = survivor_bytes(self.masker.meeting, asked.slot, label.bytes(), slot.survivors)
        keys = self.masker.roster.keys
        signed = {site for site, vote in asked.votes.items() if site in slot.survivors and fits(keys[site], said, vote)}
        if len(signed | {self.masker.site}) < slot.threshold:
            raise ProtocolError(
                f"{len(signed)} survivors signed; {slot.threshold} signatures are needed. Nothing was opened."
            )
        del self._slots[asked.slot]  # before anything leaves: a second call finds nothing
        of_key, of_seed = slot.own
        shares = {**slot.held, self.masker.site: (of_key, of_seed)}
        return Shares.dump_json({site: shares[site][site in slot.survivors].hex() for site in label.sites}).decode()

    def _used(self, number: int) -> tuple[_Slot, Label]:
        slot = self._slots.get(number)
        if slot is None or slot.label is None:
            raise ProtocolError(f"slot {number} holds no sum that can be opened. Nothing was opened.")
        return slot, slot.label

    def _box(self, sender: str, receiver: str) -> ChaCha20Poly1305:
        other = receiver if sender == self.masker.site else sender
        return ChaCha20Poly1305(derive(self.masker.root(other), b"box", sender.encode(), receiver.encode()))


def slot_key(secret: X25519PrivateKey, site: str, other: str, public: str) -> bytes:
    """Return what two sites' mask keys of a slot share, bound to both names and keys.

    Parameters
    ----------
    secret, site
        A mask key and whose it is.
    other, public
        The other site and its public mask key (hex).

    Guarantee
    ---------
    Every pair has a key of its own, even when a lying site gives out another one's public key as its own: with equal
    keys that site's masks and the other's would cancel in the vector of whoever believed it.
    """
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError:
        raise ProtocolError(f"site '{other}' sent a mask key that shares nothing. Nothing was released.") from None
    pair = sorted([[site, secret.public_key().public_bytes_raw().hex()], [other, public]])
    return HKDF(SHA256(), 32, None, canonical({"what": "pmfed slot", "pair": pair})).derive(shared)


def _about(meeting: str, slot: int, sender: str, receiver: str) -> bytes:
    return canonical({"what": "pmfed box", "meeting": meeting, "slot": slot, "from": sender, "to": receiver})

"""Sites without patients: identities, a roster and their masks, asked by a test in the coordinator's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pmfed.secagg.cards import Cards
from pmfed.secagg.keys import Identity
from pmfed.secagg.masker import Masker
from pmfed.secagg.masks import Label
from pmfed.secagg.opening import unmask
from pmfed.secagg.protocol import Delivery, Package, Packages, Parcel, Prepare, Shares, Survivors
from pmfed.secagg.recovery import Recovery
from pmfed.secagg.roster import Roster

RUN, STUDY = "ab" * 16, "5" * 64
Vectors = dict[str, npt.NDArray[Any]]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{number:02d}" for number in range(count))


def identities(count: int) -> dict[str, Identity]:
    return {name: Identity(Ed25519PrivateKey.generate()) for name in names(count)}


def roster_of(known: Mapping[str, Identity]) -> Roster:
    return Roster.of({name: identity.public for name, identity in known.items()})


def vectors(sites: Sequence[str], size: int = 5, word: type[np.generic] = np.uint32, seed: int = 0) -> Vectors:
    chance = np.random.default_rng(seed)
    return {site: chance.integers(0, np.iinfo(word).max, size, word, endpoint=True) for site in sites}


def added(found: Mapping[str, npt.NDArray[Any]], sites: Sequence[str]) -> npt.NDArray[Any]:
    """Return the sum of some sites' vectors, in words."""
    rows = [found[site] for site in sites]
    return np.add.reduce(rows, dtype=rows[0].dtype)


class Members:
    """Some sites that met: with ``dropouts`` they recover, without their masks cancel or nothing."""

    def __init__(self, count: int = 4, dropouts: int = 0, run: str = RUN) -> None:
        self.names, self.dropouts, self.run = names(count), dropouts, run
        self.colluders = dropouts + 1
        self.identities = identities(count)
        self.roster = roster_of(self.identities)
        self.meet()

    def meet(self) -> None:
        """Introduce all to each other, with fresh keys; a second time as after a restart."""
        self.maskers = {
            name: Masker(self.identities[name], self.roster, self.run, STUDY, name, self.colluders)
            for name in self.names
        }
        self.cards = Cards.dump_json(tuple(masker.card for masker in self.maskers.values())).decode()
        for masker in self.maskers.values():
            masker.meet(self.cards)
        self.sides = {name: Recovery(masker, self.dropouts) for name, masker in self.maskers.items()}
        self.packages: dict[int, dict[str, Package]] = {}

    def label(self, round: int = 1, attempt: int = 0, sites: Sequence[str] = (), **more: Any) -> Label:
        return Label.of("step", round, attempt, tuple(sites or self.names), more.get("sent", {}))

    def prepare(self, first: int = 0, count: int = 1, holders: Sequence[str] = (), ask: Sequence[str] = ()) -> None:
        for name in ask or holders or self.names:
            text = self.sides[name].prepare(Prepare(first=first, count=count), holders or self.names)
            for package in Packages.validate_json(text):
                self.packages.setdefault(package.slot, {})[name] = package

    def delivery(self, to: str, slot: int = 0, sites: Sequence[str] = ()) -> Delivery:
        parcels = {
            name: parcel(package, to)
            for name, package in self.packages[slot].items()
            if name != to and name in (sites or self.names)
        }
        return Delivery(slot=slot, parcels=parcels)

    def hide(self, found: Vectors, label: Label, slot: int = 0) -> Vectors:
        """Return what the sites of a label would send: their vectors, masked."""
        hidden = {site: found[site].copy() for site in label.sites}
        for site, words in hidden.items():
            if self.dropouts:
                self.sides[site].hide(words, label, self.delivery(site, slot, label.sites))
            else:
                self.maskers[site].hide(words, label)
        return hidden

    def votes(self, survivors: Sequence[str], slot: int = 0, ask: Sequence[str] = ()) -> dict[str, str]:
        asked = Survivors(slot=slot, sites=tuple(survivors))
        return {site: self.sides[site].vote(asked) for site in ask or survivors}

    def shares(
        self, survivors: Sequence[str], votes: Mapping[str, str], slot: int = 0, ask: Sequence[str] = ()
    ) -> dict[str, dict[str, str]]:
        asked = Survivors(slot=slot, sites=tuple(survivors), votes=dict(votes))
        return {site: Shares.validate_json(self.sides[site].reveal(asked)) for site in ask or votes}

    def open(
        self, hidden: Vectors, label: Label, survivors: Sequence[str], slot: int = 0, voters: Sequence[str] = ()
    ) -> npt.NDArray[Any]:
        """Go the whole way from the survivors' masked vectors to their sum."""
        total = added(hidden, survivors)
        shares = self.shares(survivors, self.votes(survivors, slot, voters), slot)
        unmask(total, label, survivors, self.packages[slot], shares, self.colluders)
        return total


def parcel(package: Package, to: str) -> Parcel:
    return Parcel(
        public=package.public, commit=package.commit, box=package.boxes[to], signature=package.signature
    )  # fmt: skip

"""A federation of more sites, whose sums survive dropouts, and the coordinator's messages about that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import federation
import numpy as np
import numpy.typing as npt

from pmfed.secagg.masks import Label
from pmfed.secagg.opening import unmask
from pmfed.secagg.protocol import Delivery, Package, Packages, Parcel, Prepare, Shares, Survivors
from pmfed.study import Study
from pmfed.wire import Reply

NAMES = tuple(f"site-{number}" for number in range(1, 8))
Told = tuple[Reply, dict[str, Any]]


def write(folder: Path, names: Sequence[str] = NAMES, patients: int = 40) -> Path:
    """Write a federation of these sites; return the folder of its sites."""
    kept, federation.SITES = federation.SITES, tuple(names)
    try:
        return federation.write_federation(folder, patients) / "sites"
    finally:
        federation.SITES = kept


def study(dropouts: int = 2, **sections: dict[str, Any]) -> Study:
    """Return the tiny study, with dropouts tolerated."""
    found = Study.from_text(federation.STUDY, "study.toml")
    return found.replace(aggregation={"dropouts": dropouts}, **sections)


class Sturdy(federation.Together):
    """The agents of all sites, with the legs of dropout recovery."""

    packages: dict[int, dict[str, Package]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.agents)

    def prepare(self, first: int = 0, count: int = 8, sites: Sequence[str] = ()) -> Sturdy:
        """Have the sites prepare slots among themselves."""
        self.packages = {}
        for name in sites or self.names:
            reply, _ = self.ask(name, "shares", sites=sites or self.names, text=asked(first, count))
            assert reply.ok, reply.reason
            for package in Packages.validate_json(reply.text):
                self.packages.setdefault(package.slot, {})[name] = package
        return self

    def delivery(self, to: str, slot: int = 0, sites: Sequence[str] = ()) -> Delivery:
        """Return what a site must be told of the others with the message that asks for a sum."""
        return Delivery(
            slot=slot,
            parcels={
                name: Parcel(
                    public=package.public, commit=package.commit, box=package.boxes[to], signature=package.signature
                )
                for name, package in self.packages[slot].items()
                if name != to and name in (sites or self.names)
            },
        )

    def step(self, name: str, round: int = 1, attempt: int = 0, *, slot: int = 0, text: str = "", **more: Any) -> Told:
        """Ask a site for its part of a round."""
        more = {"sites": self.names, **more}
        return self.ask(name, "step", round, attempt, text=text or self.delivery(name, slot).model_dump_json(), **more)

    def vote(self, name: str, survivors: Sequence[str], slot: int = 0) -> Told:
        """Ask a site to sign who survived."""
        return self.ask(name, "sign", sites=self.names, text=told(slot, survivors))

    def unmask(self, name: str, survivors: Sequence[str], votes: Mapping[str, str], slot: int = 0) -> Told:
        """Ask a site for its shares."""
        return self.ask(name, "unmask", sites=self.names, text=told(slot, survivors, votes))

    def votes(self, survivors: Sequence[str], slot: int = 0) -> dict[str, str]:
        """Return what all survivors sign."""
        found = {name: self.vote(name, survivors, slot)[0] for name in survivors}
        assert all(reply.ok for reply in found.values()), [reply.reason for reply in found.values()]
        return {name: reply.text for name, reply in found.items()}

    def open(self, sums: Mapping[str, Any], survivors: Sequence[str], label: Label, slot: int = 0) -> npt.NDArray[Any]:
        """Return the sum of the survivors' vectors."""
        votes = self.votes(survivors, slot)
        shares = {name: self.unmask(name, survivors, votes, slot)[0] for name in survivors}
        assert all(reply.ok for reply in shares.values()), [reply.reason for reply in shares.values()]
        total = np.add.reduce([sums[name]["sum"] for name in survivors], dtype=sums[survivors[0]]["sum"].dtype)
        found = {name: Shares.validate_json(reply.text) for name, reply in shares.items()}
        unmask(total, label, survivors, self.packages[slot], found)
        return total


def asked(first: int, count: int) -> str:
    return Prepare(first=first, count=count).model_dump_json()


def told(slot: int, survivors: Sequence[str], votes: Mapping[str, str] | None = None) -> str:
    return Survivors.model_construct(version=1, slot=slot, sites=tuple(survivors), votes=dict(votes or {})).model_dump_json()  # fmt: skip

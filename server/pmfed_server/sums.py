"""Sums over sites, in whichever way the run adds them up: masked, masked with recovery, or (rehearsals) bare.

Vectors are added as they arrive, to a sum that lies in a file: while Flower unpacks a vector, which takes three times
its memory, the coordinator holds no other, however many sites there are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pmfed.errors import RunError
from pmfed.secagg.masks import Label
from pmfed.secagg.opening import unmask
from pmfed.secagg.protocol import (
    AHEAD,
    Delivery,
    Package,
    Packages,
    Parcel,
    Prepare,
    Shares,
    Survivors,
    is_signature,
    threshold_of,
)
from pmfed.stored import Stored, parts
from pmfed.study import Study
from pmfed.wire import Request
from pmfed_server.enrolment import Enrolment
from pmfed_server.fleet import Fleet, SiteReply, State

log = logging.getLogger("pmfed.server")


@dataclass
class Summed:
    """What came of asking for a sum.

    Attributes
    ----------
    total
        The sum of the vectors of ``nodes``, words; None when it cannot be read.
    nodes
        Whose vectors are in it.
    failed
        Who gave none, and why.
    own
        By node, what it sent for itself alone, where study and site allow that.
    """

    total: npt.NDArray[Any] | None
    nodes: list[int]
    failed: list[SiteReply]
    own: dict[int, npt.NDArray[Any]] = field(default_factory=dict)


class Sums:
    """Asks sites for vectors and adds them up.

    Parameters
    ----------
    fleet
        How sites are reached.
    study
        Says whether sums survive dropouts.
    enrolment
        The sites, and whether they mask what they send.
    folder
        Where a sum lies while answers are awaited.
    """

    def __init__(self, fleet: Fleet, study: Study, enrolment: Enrolment, folder: Path) -> None:
        self.fleet, self.study, self.enrolment, self.folder = fleet, study, enrolment, folder
        self.sites = enrolment.sites
        self._slots: dict[int, dict[str, Package]] = {}
        self._next = self._keys = 0

    @property
    def recovers(self) -> bool:
        """Whether a sum survives sites that fail."""
        return self.enrolment.masked and self.study.aggregation.dropouts > 0

    def collect(
        self,
        request: Request,
        nodes: Sequence[int],
        size: int,
        word: type[np.generic],
        state: State | None = None,
    ) -> Summed:
        """Ask nodes for a vector each and return the sum.

        Parameters
        ----------
        request
            What to ask; names and number of the sites are filled in here.
        nodes
            Whom.
        size, word
            What each vector must be: its length, and uint32 or uint64.
        state
            Gives the named arrays to send along.
        """
        nodes = list(nodes)
        request = self._naming(request, nodes)
        opening, texts = None, None
        if self.recovers:
            if failed := self._prepare(request, nodes):
                return Summed(None, [], failed)
            slot = min(self._slots)
            texts = {node: self._delivery(slot, node, nodes) for node in nodes}
            release = request.query, request.round, request.attempt, request.roster
            opening = slot, Label.of(*release, state() if state else {})
        found, total = Summed(None, [], []), Stored(self.folder, size, word)
        for answer in self.fleet.stream(request, nodes, state, texts):
            self._add(found, total, answer)
            del answer  # and with it its vector, before the next is looked at
        found.nodes.sort()
        if opening:
            self._open(request, *opening, found, total)
        elif not found.failed:  # masks cancel between all or none
            found.total = total[:]
        return found

    @staticmethod
    def _add(found: Summed, total: Stored, answer: SiteReply) -> None:
        words = answer.arrays.get("sum")
        if not answer.ok or words is None or words.dtype != total.dtype or len(words) != len(total):
            found.failed.append(replace(answer, arrays={}))
            return
        for part in parts(len(total)):
            total[part] = total[part] + words[part]
        found.nodes.append(answer.node)
        if "site" in answer.arrays:
            found.own[answer.node] = answer.arrays["site"].copy()

    def _naming(self, request: Request, nodes: Sequence[int], **more: Any) -> Request:
        names = tuple(sorted(self.sites[node] for node in nodes)) if self.enrolment.masked else ()
        return request.model_copy(update={"roster": names, "sites": len(nodes), **more})

    # -- dropout recovery ------------------------------------------------------------------------------------------

    def _prepare(self, request: Request, nodes: Sequence[int]) -> list[SiteReply]:
        """See that a slot is there whose shares these very sites hold; return who failed at it."""
        names = {self.sites[node] for node in nodes}
        if self._keys != self.enrolment.introductions:  # new keys, and shares of the old ones are worth nothing
            self._slots.clear()
            self._keys, self._next = self.enrolment.introductions, 0
        self._slots = {slot: packages for slot, packages in self._slots.items() if set(packages) == names}
        if self._slots:
            return []
        first, self._next = self._next, self._next + AHEAD
        text = Prepare(first=first, count=AHEAD).model_dump_json()
        answers = self.fleet.ask(self._naming(request, nodes, kind="shares", query="", text=text), nodes)
        failed = []
        for answer in answers:
            try:
                packages = Packages.validate_json(answer.reply.text, strict=True) if answer.ok and answer.reply else ()
            except ValidationError:
                packages = ()
            name = self.sites[answer.node]
            if [package.slot for package in packages] != list(range(first, first + AHEAD)) or any(
                set(package.boxes) != names - {name} for package in packages
            ):
                failed.append(
                    answer if not answer.ok else SiteReply(answer.node, None, problem="sent no fitting shares")
                )
                continue
            for package in packages:
                self._slots.setdefault(package.slot, {})[name] = package
        if failed:
            self._slots.clear()
        return failed

    def _delivery(self, slot: int, node: int, nodes: Sequence[int]) -> str:
        me = self.sites[node]
        parcels = {}
        for other in nodes:
            name = self.sites[other]
            if name != me:
                package = self._slots[slot][name]
                parcels[name] = Parcel(
                    public=package.public, commit=package.commit, box=package.boxes[me], signature=package.signature
                )
        return Delivery(slot=slot, parcels=parcels).model_dump_json()

    def _open(self, request: Request, slot: int, label: Label, found: Summed, masked: Stored) -> None:
        """Have the survivors sign who they are and give their shares; take the masks off the sum."""
        packages = self._slots.pop(slot)
        least = max(threshold_of(len(packages)), len(request.roster) - self.study.aggregation.dropouts)
        if len(found.nodes) < least:
            return
        names = tuple(self.sites[node] for node in found.nodes)
        asked = Survivors(slot=slot, sites=names, votes={})
        votes = self._told(request.model_copy(update={"kind": "sign", "query": ""}), found.nodes, asked)
        # What is no signature would make the whole message unreadable to everybody else.
        votes = {node: text for node, text in votes.items() if is_signature(text)}
        asked = asked.model_copy(update={"votes": {self.sites[node]: text for node, text in votes.items()}})
        told = self._told(request.model_copy(update={"kind": "unmask", "query": ""}), list(votes), asked)
        shares = {}
        for node, text in told.items():
            try:
                shares[self.sites[node]] = Shares.validate_json(text, strict=True)
            except ValidationError:
                log.warning("%s sent no shares", self.sites[node])
        total = masked[:]
        try:
            colluders = self.study.privacy.colluders + self.study.aggregation.dropouts
            unmask(total, label, names, packages, shares, colluders)
        except RunError as error:
            log.warning("%s %d.%d: %s", request.query, request.round, request.attempt, error)
            return
        found.total = total

    def _told(self, request: Request, nodes: Sequence[int], asked: Survivors) -> dict[int, str]:
        answers = self.fleet.ask(request, nodes, dict.fromkeys(nodes, asked.model_dump_json()))
        return {answer.node: answer.reply.text for answer in answers if answer.ok and answer.reply}

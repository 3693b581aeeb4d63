"""Who takes part in a run: sites agree, and are introduced to each other so that they can mask their sums."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from pmfed import __version__
from pmfed.errors import KeysError, RunError
from pmfed.plain import plain
from pmfed.secagg.cards import Card
from pmfed.secagg.keys import fits
from pmfed.study import Study
from pmfed.wire import Request
from pmfed_server.fleet import Fleet, SiteReply

log = logging.getLogger("pmfed.server")


class Owner(NamedTuple):
    """Whose node it is, as the card says that its key came with: the site and its identity key (Ed25519, hex)."""

    site: str
    key: str


Registered = Callable[[], Mapping[int, Owner]]

STRIKES = 3  # a site that fails this often in a row is left out of the rest of the run


class Enrolment:
    """The sites of a run.

    Parameters
    ----------
    fleet, study
        How sites are reached; what they are asked to take part in.
    request
        Makes a request of a kind: ``request(kind, text=..., sites=...)``.
    registered
        Tells, by node, whose card the node's key came with; None where nodes have no keys (a simulation).

    Attributes
    ----------
    sites
        Name by node, of those who agreed.
    refused
        Reason by name, of those who did not.
    versions
        Version of pmfed by name, of those who agreed.
    insecure
        Whether a site's noise comes from a seed (a trial federation): then nothing protects anybody.
    masked
        Whether sites mask their sums: all do, but in a simulation's comparisons that keep no books.
    """

    def __init__(
        self, fleet: Fleet, study: Study, request: Callable[..., Request], registered: Registered | None = None
    ) -> None:
        self.fleet, self.study, self._request, self._registered = fleet, study, request, registered
        self.sites: dict[int, str] = {}
        self.refused: dict[str, str] = {}
        self.masked = False
        self.insecure = False
        self.versions: dict[str, str] = {}
        self.strikes: dict[int, int] = {}
        self.connected: set[int] = set()
        self._cards: dict[int, Any] = {}
        self._asked = 0
        self.introductions = 0

    def enrol(self, nodes: Sequence[int]) -> None:
        """Ask nodes to take part, and introduce those who agree to each other.

        Raises
        ------
        RunError
            Fewer agreed than the study's quorum, or they did not accept each other.
        """
        self._asked = len(nodes)
        self._ask(nodes)
        needed = self.study.quorum(len(nodes))
        if len(self.sites) < needed:
            raise RunError(
                f"{len(self.sites)} of {len(nodes)} sites agreed to take part; the study needs {needed}.\n"
                + listed(self.refused),
                "Settle the reasons above with these sites, or lower training.quorum.",
            )
        self._introduce()

    def roster(self) -> list[int]:
        """Return the nodes to ask: connected, not failed too often in a row, and the others have keys with them.

        Who is not connected is neither asked nor blamed: an attempt would be charged to all others, and come to nothing.
        A site that missed an introduction, because it was away, costs one more as long as it has strikes left.
        """
        self.connected = set(self.fleet.grid.get_node_ids())
        if not all(self.has_keys(node) for node in self._well()):
            self._introduce_again()
        return [node for node in self._well() if self.has_keys(node)]

    def _well(self) -> list[int]:
        return [node for node in self.sites if node in self.connected and self.strikes.get(node, 0) < STRIKES]

    def note(self, failed: Sequence[SiteReply]) -> None:
        """Note which sites failed, and which of them because they have no keys any more."""
        for answer in failed:
            self._strike(answer.node)
            if answer.code == KeysError.code:
                self._cards.pop(answer.node, None)

    def has_keys(self, node: int) -> bool:
        """Whether a site and the others have keys with each other."""
        return node in self._cards

    def _strike(self, node: int) -> None:
        self.strikes[node] = self.strikes.get(node, 0) + 1

    def _introduce_again(self) -> None:
        """A site lost its keys, or was away: fresh ones for everybody who is still there."""
        log.info("introducing the sites to each other again")
        well = self._well()
        self._ask(well)
        for node in well:
            if node not in self._cards:
                self._strike(node)
        self._introduce()

    def _ask(self, nodes: Sequence[int]) -> None:
        """Ask for agreement and a card."""
        self._cards = {}
        request = self._request("enroll", text=self.study.canonical(), sites=self._asked)
        registered = self._registered() if self._registered else None
        for answer in self.fleet.ask(request, nodes):
            owner = registered.get(answer.node) if registered else None
            if not answer.ok or answer.reply is None:
                self.refused[self.sites.get(answer.node) or (owner.site if owner else name(answer))] = answer.problem
                continue
            if registered is not None and (owner is None or owner.site != answer.reply.site):
                whose = owner.site if owner else f"node {answer.node}"
                self.refused[whose] = f"calls itself '{answer.reply.site}', which is not the name on its card"
                continue
            if answer.reply.site in (known for node, known in self.sites.items() if node != answer.node):
                self.refused[f"node {answer.node}"] = f"calls itself '{answer.reply.site}', as another node does"
                continue
            self.sites[answer.node] = answer.reply.site
            self.refused.pop(answer.reply.site, None)
            try:
                told = json.loads(answer.reply.text) if answer.reply.text else {"card": None, "pmfed": __version__}
                card, version, insecure = told["card"], plain(str(told["pmfed"]), 32), bool(told.get("insecure"))
            except (ValueError, TypeError, KeyError, AttributeError):
                self.refused[answer.reply.site] = "sent no card"
                continue
            if not fit_together(version, __version__):
                self._turn_away(answer.node, f"runs pmfed {version[:20]}, and this coordinator {__version__}")
                continue
            if owner is not None and (why := misfit(card, owner, request)):
                self._turn_away(answer.node, why)
                continue
            self.versions[answer.reply.site] = version
            self._cards[answer.node] = card
            self.insecure |= insecure
        if registered is not None:
            self._agree_on_a_roster()

    def _agree_on_a_roster(self) -> None:
        """Leave out who pinned another roster than most: sites with different ones refuse each other, all of them."""
        pinned = {node: card["roster"] for node, card in self._cards.items()}
        for most, _ in Counter(pinned.values()).most_common(1):
            for node in [node for node, roster in pinned.items() if roster != most]:
                self._turn_away(
                    node, "has pinned another roster than most: compare its fingerprint, then pin the new one"
                )

    def _turn_away(self, node: int, why: str) -> None:
        """Leave out a site that agreed; its ledger gives back what it reserved, unless it has taken part already."""
        self._cards.pop(node, None)
        self.refused[self.sites[node]] = why
        if not self.introductions:
            del self.sites[node]
            self.fleet.ask(self._request("finish", sites=1), [node])

    def _introduce(self) -> None:
        """Send every site the cards of all; without cards sums travel bare.

        A site that does not take them is left out, and can be introduced again; the others share keys all the same.

        Raises
        ------
        RunError
            Fewer than the quorum took them.
        """
        self.masked = any(card is not None for card in self._cards.values())
        if not self.masked:
            return
        self.introductions += 1
        text = json.dumps([self._cards[node] for node in sorted(self._cards, key=self.sites.__getitem__)])
        request = self._request("keys", text=text, sites=len(self._cards))
        answers = self.fleet.ask(request, list(self._cards))
        failed = [answer for answer in answers if not answer.ok]
        for answer in failed:
            del self._cards[answer.node]
            self._strike(answer.node)
        if len(self._cards) < self.study.quorum(len(self.sites)):
            raise RunError(
                "the sites could not be introduced to each other.\n"
                + listed({self.sites[answer.node]: answer.problem for answer in failed}),
                "Every site must have pinned the same roster: compare its fingerprint with them.",
            )


def misfit(card: object, owner: Owner, request: Request) -> str:
    """Return what is wrong with the card of a site, as far as one can tell who knows its identity; "" if nothing is.

    The other sites look as closely themselves. But they would refuse everybody with whom such a card came, and who has
    stolen the key of one node could stop every run.
    """
    try:
        read = Card.model_validate_json(json.dumps(card), strict=True)
    except ValidationError:
        return "sent no card"
    if (read.site, read.run, read.study) != (owner.site, request.run, request.study):
        return "sent a card of another site, run or study"
    if not fits(owner.key, read.signed(), read.signature):
        return "did not sign its card with the key this coordinator knows it by"
    return ""


def fit_together(one: str, other: str) -> bool:
    """Whether two versions of pmfed may take part in one run: the first two numbers are the same (0.1.4 and 0.1.7)."""
    return one.split(".")[:2] == other.split(".")[:2]


def name(answer: SiteReply) -> str:
    """Return whose answer this is, for people."""
    return (answer.reply.site if answer.reply else "") or f"node {answer.node}"


def listed(reasons: Mapping[str, str]) -> str:
    """Return reasons as lines."""
    return "\n".join(f"  {site}: {reason}" for site, reason in sorted(reasons.items()))

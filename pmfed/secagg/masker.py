"""One site's side of the plain way: masks that cancel in the sum, and nothing to open afterwards.

If a site drops out, what the others sent is noise for ever: the coordinator must ask again, with another attempt,
and the sites sample, add noise and charge again. A coordinator that lies gains nothing by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pmfed.errors import KeysError, ProtocolError
from pmfed.secagg.cards import Card, make_card, meeting_of, pair_roots, read_cards
from pmfed.secagg.keys import Identity
from pmfed.secagg.masks import Label, add_pairwise, derive, neighbours
from pmfed.secagg.roster import Roster


class Masker:
    """A site's masks in one run, from enrolling to the end of the process or the run.

    Parameters
    ----------
    identity, roster
        This site's key and the roster it pinned.
    run, study, site
        Run id, fingerprint of the study, name of this site.
    colluders
        How many of the others may work with the coordinator, or drop out.

    Guarantee
    ---------
    A vector that ``hide`` returned is, to everyone who works with at most ``colluders`` of the other sites of the label,
    indistinguishable from uniform random words. No keystream is used twice: a label is hidden
    once, and labels that differ in kind, round, attempt, sites or model have unrelated keys.
    """

    def __init__(self, identity: Identity, roster: Roster, run: str, study: str, site: str, colluders: int = 1) -> None:
        self._secret = X25519PrivateKey.generate()
        self.identity, self.roster, self.site, self.colluders = identity, roster, site, colluders
        self.card = make_card(self._secret, identity, roster, run, study, site)
        self.cards: dict[str, Card] = {}
        self.meeting = ""
        self._roots: dict[str, bytes] = {}
        self._used: set[bytes] = set()

    def meet(self, text: str) -> None:
        """Take in the cards of the run, once.

        Raises
        ------
        ProtocolError
            A card does not fit (`cards.read_cards`), or other cards were accepted before.
        """
        cards = read_cards(text, self.card, self.roster)
        if self.cards and self.cards != cards:
            raise ProtocolError("the sites' keys were changed in the middle of a run. Nothing was released.")
        if not self.cards:
            self._roots = pair_roots(self._secret, self.card, cards)
            self.meeting = meeting_of(cards)
            self.cards = cards

    def root(self, other: str) -> bytes:
        """Return what this site shares with another one of the run."""
        return self._roots[other]

    def check(self, sites: Sequence[str], least: int) -> None:
        """Refuse a release that would not hide this site among enough others.

        Parameters
        ----------
        sites
            Who the coordinator says takes part.
        least
            The fewest it may be.

        Raises
        ------
        ProtocolError
            Somebody is unknown or listed twice, this site is not among them, or they are too few.
        """
        if not self.cards:
            raise KeysError("this site has no keys with the others of the run. Nothing was released.")
        if unknown := sorted(set(sites) - set(self.cards)):
            raise ProtocolError(f"no site '{unknown[0]}' takes part in this run. Nothing was released.")
        if len(set(sites)) < len(sites) or self.site not in sites:
            raise ProtocolError(
                "this site is missing among those that take part, or one is there twice. Nothing was released."
            )
        if len(sites) < max(2, least):
            raise ProtocolError(
                f"{len(sites)} site(s) in a sum; at least {max(2, least)} are needed. Nothing was released."
            )

    def hide(self, words: npt.NDArray[Any], label: Label) -> None:
        """Mask a vector in place.

        Parameters
        ----------
        words
            uint32 or uint64, (n,).
        label
            Which release this is; `check` has passed its sites.

        Raises
        ------
        ProtocolError
            This label was hidden before: two vectors under one mask would give away their difference.
        """
        self.once(label)
        spelling = label.bytes()
        near = neighbours(label, self.site, self.colluders)
        add_pairwise(words, self.site, {other: derive(self._roots[other], b"mask", spelling) for other in near})

    def once(self, label: Label) -> None:
        """Note that a label is used; refuse it the second time."""
        spelling = label.bytes()
        if spelling in self._used:
            raise ProtocolError("this release was masked before. Nothing was released.", "Ask for the next attempt.")
        self._used.add(spelling)

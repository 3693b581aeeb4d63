"""Cards: each site's key of one run, signed with the identity its partners have pinned.

The key agreement is X25519 (RFC 7748), one fresh key per site and enrolment, held in memory only: what was masked in
a run that is over stays masked whatever is stolen later. The signature binds the key to the run, the study and
the roster, so a coordinator can neither put in keys of its own nor play back those of another run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, TypeAdapter, ValidationError

from pmfed.errors import PolicyError, ProtocolError
from pmfed.modality import Name
from pmfed.secagg.keys import Identity, canonical, fits
from pmfed.secagg.masks import derive
from pmfed.secagg.roster import Roster
from pmfed.validate import Frozen

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Card(Frozen):
    """A site's key of one run.

    ``study`` and ``roster`` are fingerprints; ``exchange`` is the public X25519 key, hex.
    """

    what: Literal["pmfed card"] = "pmfed card"
    version: Literal[1] = 1
    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    study: Hex32
    roster: Hex32
    site: Name
    exchange: Hex32
    signature: Signature

    def signed(self) -> bytes:
        """Return the bytes that are signed."""
        return canonical(self.model_dump(exclude={"signature"}))


Cards = TypeAdapter(tuple[Card, ...])


def make_card(secret: X25519PrivateKey, identity: Identity, roster: Roster, run: str, study: str, site: str) -> Card:
    """Return this site's card of a run.

    Raises
    ------
    PolicyError
        The pinned roster does not list this site with the key it has.
    """
    if roster.keys.get(site) != identity.public:
        raise PolicyError(
            f"the roster this site pinned does not list '{site}' with its key. Nothing was released.",
            "Send the site's card to the coordinator and pin the roster that holds it.",
        )
    blank = Card(
        run=run,
        study=study,
        roster=roster.fingerprint(),
        site=site,
        exchange=secret.public_key().public_bytes_raw().hex(),
        signature="0" * 128,
    )
    return blank.model_copy(update={"signature": identity.sign(blank.signed())})


def read_cards(text: str, own: Card, roster: Roster) -> dict[str, Card]:
    """Read the cards of all who take part in a run, and believe none that the roster does not vouch for.

    Parameters
    ----------
    text
        A JSON array of cards, as the coordinator sent it.
    own
        This site's card, which must be among them.
    roster
        The pinned roster.

    Returns
    -------
    dict
        Cards by site, in order.

    Raises
    ------
    ProtocolError
        Says which card does not fit and why.
    """
    try:
        cards = Cards.validate_json(text, strict=True)
    except ValidationError:
        raise ProtocolError("the cards of the sites cannot be read. Nothing was released.") from None
    found: dict[str, Card] = {}
    for card in cards:
        key = roster.keys.get(card.site)
        if card.site in found:
            problem = "is there twice"
        elif key is None:
            problem = "is not in the roster this site pinned"
        elif (card.run, card.study) != (own.run, own.study):
            problem = "has a key of another run or study"
        elif card.roster != own.roster:
            problem = "has pinned another roster"
        elif not fits(key, card.signed(), card.signature):
            problem = "has a key that its identity did not sign"
        else:
            found[card.site] = card
            continue
        raise ProtocolError(f"site '{card.site}' {problem}. Nothing was released.")
    if found.get(own.site) != own:
        raise ProtocolError("this site's own key is missing or was changed. Nothing was released.")
    if len(found) < 2:
        raise ProtocolError("a sum over one site hides nothing. Nothing was released.")
    return dict(sorted(found.items()))


def meeting_of(cards: Mapping[str, Card]) -> str:
    """Return the digest of all cards (hex): the name of one introduction, of its run, its study and everybody's keys."""
    told = {"what": "pmfed meeting", "cards": [cards[site].signed().decode() for site in sorted(cards)]}
    return hashlib.sha256(canonical(told)).hexdigest()


def pair_roots(secret: X25519PrivateKey, own: Card, cards: Mapping[str, Card]) -> dict[str, bytes]:
    """Return, for each other site, the secret that only the two share in this run (32 bytes)."""
    return {site: agree(secret, own, card) for site, card in cards.items() if site != own.site}


def agree(secret: X25519PrivateKey, own: Card, other: Card) -> bytes:
    """Return what two sites share: HKDF (RFC 5869) of the X25519 secret, bound to run, study, roster and both cards."""
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other.exchange)))
    except ValueError:  # a key of small order
        raise ProtocolError(f"site '{other.site}' sent a key that shares nothing. Nothing was released.") from None
    first, second = sorted((own, other), key=lambda card: card.site)
    salt = derive(b"pmfed pair v1".ljust(32, b"\0"), first.signed(), second.signed())
    return HKDF(SHA256(), 32, salt, b"pmfed pair").derive(shared)

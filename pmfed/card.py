"""A site's public card: what it sends to the coordinator, by any way at all."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pmfed.modality import Name
from pmfed.secagg.replaced_keys import Chain
from pmfed.secagg.roster import Key
from pmfed.validate import Frozen


class SiteCard(Frozen):
    """A site's name and public keys.

    Parameters
    ----------
    site, key
        As in the roster: Ed25519 (RFC 8032), hex. The other sites pin it.
    node
        The public key with which its Flower node opens connections (ECDSA P-384, as OpenSSH writes it, RFC 5656);
        empty where the site runs no node. Nobody's privacy rests on it: a wrong one keeps a site out, no more.
    successions
        How the key came after those of before, if there were any.
    """

    site: Name
    key: Key
    successions: Annotated[Chain, Field(exclude_if=lambda chain: not chain)] = ()
    node: Annotated[str, Field(pattern=r"^(ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,300})?$")] = ""

"""Whom a site trusts: its card for others, and the roster it pins after people have compared fingerprints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pmfed.card import SiteCard
from pmfed.errors import PolicyError
from pmfed.secagg.keys import Identity
from pmfed.secagg.roster import Roster, grouped
from pmfed_client.auditlog import AuditLog
from pmfed_client.consent import who
from pmfed_client.site import Site


def card_of(site: Site) -> str:
    """Return this site's public card: its name and keys, JSON. The identity key is made at first use."""
    node = site.node_public.read_text(encoding="utf-8").strip() if site.node_public.exists() else ""
    return SiteCard(site=site.name, key=Identity.at(site.identity).public, node=node).model_dump_json()


def same_fingerprint(told: str, fingerprint: str) -> bool:
    """Whether what a person typed is the fingerprint, however it is grouped."""
    return "".join(told.split()).lower() == fingerprint


def pin(site: Site, path: Path, agreed: Callable[[Roster, Roster | None], bool]) -> Roster:
    """Pin a roster at a site.

    Parameters
    ----------
    site, path
        The site, and the file it was sent.
    agreed
        Shown the new roster and the one pinned before (or None); says whether a person agreed.

    Raises
    ------
    PolicyError
        The roster does not list this site with its own key, or nobody agreed; the roster of before stays.
    """
    roster = Roster.read(path)
    if roster.keys.get(site.name) != Identity.at(site.identity).public:
        raise PolicyError(
            f"{path}: does not list '{site.name}' with the key it has here. Nothing was changed.",
            "Send what 'pmfed site card' prints to the coordinator, and ask for a roster that holds it.",
        )
    before = Roster.read(site.roster) if site.roster.exists() else None
    if not agreed(roster, before):
        raise PolicyError(
            "the roster was not pinned: its fingerprint was not confirmed.",
            f"Compare it with the other sites, by telephone for instance: {grouped(roster.fingerprint())}",
        )
    beside = site.roster.with_name(site.roster.name + ".new")
    beside.write_text(roster.canonical(), encoding="utf-8")
    os.chmod(beside, 0o600)
    AuditLog(site.audit_log).add("trust", roster=roster.fingerprint(), sites=len(roster.members), **who())
    beside.replace(site.roster)
    return roster

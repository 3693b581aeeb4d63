"""Whom a site trusts: its card for others, and the roster it pins after people have compared fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pmfed.card import SiteCard
from pmfed.errors import PolicyError
from pmfed.file_io import replace_file
from pmfed.secagg.keys import Identity, read_key
from pmfed.secagg.replaced_keys import Changes, followed, read_chain, unexplained
from pmfed.secagg.roster import Roster, grouped
from pmfed_client.connection.authority import take_over
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.consent import who
from pmfed_client.site.site import Site


def card_of(site: Site) -> str:
    """Return this site's public card: its name and keys, JSON. The identity key is made at first use."""
    node = site.node_public.read_text(encoding="utf-8").strip() if site.node_public.exists() else ""
    key = Identity.at(site.identity).public
    return SiteCard(site=site.name, key=key, node=node, successions=read_chain(site.chain)).model_dump_json()


def same_fingerprint(told: str, fingerprint: str) -> bool:
    """Whether what a person typed is the fingerprint, however it is grouped."""
    return "".join(told.split()).lower() == fingerprint


@dataclass(frozen=True)
class Followed:
    """What a site took over from a file of changes: whether its roster, its coordinator's key or the authority is another."""

    roster: bool
    coordinator: bool
    authority: bool


def follow(site: Site, changes: Changes) -> Followed:
    """Take over what changed, where those whose keys this site has already signed it; nobody need telephone.

    Raises
    ------
    PolicyError
        Something does not follow from what the site has: all of it is listed, and nothing was changed.

    Guarantee
    ---------
    That of `unexplained`: no site is added. A coordinator's key or an authority is taken only when the one before it signed it.
    """
    pinned = Roster.read(site.roster)
    kept = read_key(site.coordinator_key) if site.coordinator_key.exists() else None
    wrong = unexplained(pinned, changes, kept)
    if changes.roster.keys.get(site.name) != Identity.at(site.identity).public:
        wrong.append(f"'{site.name}' is not listed with the key it has here")
    if kept is not None and changes.coordinator not in followed(kept, changes.successions):
        wrong.append("the coordinator has a key that the one kept here did not sign")
    if wrong:
        raise PolicyError(
            "these changes do not follow from what this site trusts, and were not taken over.\n"
            + "\n".join(f"  {one}" for one in wrong),
            "Compare the fingerprint of the new roster.json with the other sites, then pin that: pmfed site trust roster.json",
        )
    certificate = site.folder / site.coordinator.certificate if site.coordinator else None
    other = bool(
        certificate and certificate.exists() and changes.authority and take_over(certificate, changes.authority)
    )
    roster, key = changes.roster != pinned, kept not in (None, changes.coordinator)
    if roster:
        _pin(site, changes.roster)
    if key:
        replace_file(site.coordinator_key, f"{changes.coordinator}\n".encode(), private=True)
    if key or other:
        AuditLog(site.audit_log).add("trust", coordinator=changes.coordinator, authority=int(other), **who())
    return Followed(roster, key, other)


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
    _pin(site, roster)
    return roster


def _pin(site: Site, roster: Roster) -> None:
    AuditLog(site.audit_log).add("trust", roster=roster.fingerprint(), sites=len(roster.members), **who())
    replace_file(site.roster, roster.canonical().encode(), private=True)

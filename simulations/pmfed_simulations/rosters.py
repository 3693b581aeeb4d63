"""Sites of one machine trust each other: their roster is made and pinned here, where hospitals would telephone."""

from __future__ import annotations

from collections.abc import Sequence

from pmfed_client.site.site import Site

from pmfed.errors import PolicyError
from pmfed.file_io import replace_file
from pmfed.secagg.keys import Identity
from pmfed.secagg.roster import Roster


def pin_rosters(sites: Sequence[Site]) -> None:
    """Pin one roster of all these sites at each that has pinned none.

    Raises
    ------
    PolicyError
        A site has pinned a roster that lacks some of the others: what a site trusts is not changed behind its back.
    """
    if len(sites) < 2:
        return
    roster = Roster.of({site.name: Identity.at(site.identity).public for site in sites})
    for site in sites:
        if not site.roster.exists():
            replace_file(site.roster, roster.canonical().encode())
        elif not set(roster.members) <= set(Roster.read(site.roster).members):
            raise PolicyError(
                f"{site.roster}: lacks some of the {len(sites)} sites, or has other keys of theirs.",
                "Remove roster.json from these folders if they are a simulation's; it is made anew.",
            )

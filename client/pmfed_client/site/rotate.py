"""`pmfed site rotate`: new keys for a site, named by the old ones, so that nobody need telephone.

The new keys are made in a folder of their own, and take the place of the old at the very end: who is interrupted runs
the command again. The old ones are put aside, for what only they can open or show.
"""

from __future__ import annotations

from pmfed.errors import UsageError
from pmfed.file_io import replace_file, take_places
from pmfed.processes import running
from pmfed.secagg.keys import Identity
from pmfed.secagg.replaced_keys import Succession, read_chain, write_chain
from pmfed.secagg.roster import Roster
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.consent import who
from pmfed_client.site.create import make_node_key
from pmfed_client.site.site import Site

NEXT, ASIDE = "next", "replaced"


def rotate(site: Site, by: str = "") -> Succession:
    """Replace a site's identity, and the key of its node where that is here; the old identity signs the new.

    Raises
    ------
    UsageError
        The site runs: its agent would go on with the old key.
    """
    if running(site.folder) is not None:
        raise UsageError(f"{site.folder}: the site runs.", f"Stop it first: pmfed site stop {site.folder}")
    person = who(by)
    new = site.model_copy(update={"folder": site.folder / NEXT})
    new.folder.mkdir(mode=0o700, exist_ok=True)
    old, chain = Identity.at(site.identity), read_chain(site.chain)
    if site.node_key.exists():
        make_node_key(new)
    public = new.node_public if new.node_public.exists() else site.node_public
    node = public.read_text(encoding="utf-8").strip() if public.exists() else ""
    made = Succession.make(old, Identity.at(new.identity), site.name, node)
    if site.roster.exists():  # its own key, which nobody else need vouch for
        pinned = Roster.read(site.roster)
        named = Roster.of({**pinned.keys, site.name: made.new})
        replace_file(site.roster, named.canonical().encode(), private=True)
    if made not in chain:
        write_chain(site.chain, (*chain, made), private=True)
    AuditLog(site.audit_log).add("rotate", old=made.old, new=made.new, **person)
    aside = site.folder / ASIDE / str(len(chain) + 1)
    for folder in (aside.parent, aside):
        folder.mkdir(mode=0o700, exist_ok=True)
    # node.pub, node.key, identity.pem: this one says it is done
    take_places(sorted(new.folder.iterdir(), reverse=True), site.folder, aside)
    new.folder.rmdir()
    Identity.at.cache_clear()
    return made

"""Whether a site answers at this moment: `pmfed site pause` and `resume`, and the hours of its policy.

A paused site answers nothing, but for the receipt at the end of a run, until a person says so. The note is a file, so it outlives the agent and the machine; whoever cannot read whether it is there takes the site as
paused.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pmfed.errors import ClosedError, UsageError
from pmfed.wire import Kind
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.create import write_private
from pmfed_client.site.site import Site

COMPUTES = ("enroll", "ask")


def check_open(site: Site, kind: Kind, moment: datetime) -> None:
    """Return when a site may answer a kind of message at a moment; else raise ClosedError."""
    if kind != "finish" and paused(site):
        raise ClosedError(
            "this hospital has paused its site. Nothing was released.", f"There: pmfed site resume {site.folder}"
        )
    if kind in COMPUTES:
        site.policy.open_at(moment)


def paused(site: Site) -> bool:
    """Whether a site is paused; True as well when that cannot be told."""
    try:
        site.paused.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def pause(site: Site) -> bool:
    """Pause a site from its next message on; False when it was paused already."""
    if paused(site):
        return False
    write_private(site.paused, (datetime.now(UTC).isoformat(timespec="seconds") + "\n").encode())
    AuditLog(site.audit_log).add("pause")
    return True


def resume(site: Site) -> None:
    """Let a site answer again; UsageError when it was not paused."""
    if not paused(site):
        raise UsageError(f"{site.folder}: the site is not paused.", "There is nothing to resume.")
    AuditLog(site.audit_log).add("resume")
    site.paused.unlink()

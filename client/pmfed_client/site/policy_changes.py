"""What changed at a site while its agent did not run: its policy. Told in the audit log before the agent answers anything.

site.toml is read when an agent starts, so a change in it has no effect until then; one that was taken back before is none.
"""

from __future__ import annotations

import json

from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.consent import who
from pmfed_client.site.site import Site

WHAT = "policy"


def note_policy(site: Site) -> None:
    """Write the policy into the audit log unless it is the one that the log told last."""
    log = AuditLog(site.audit_log)
    told = json.dumps(site.policy.model_dump(mode="json"), sort_keys=True)
    before = [line["policy"] for line in log.lines() if line["what"] == WHAT] if site.audit_log.exists() else []
    if not before or before[-1] != told:
        log.add(WHAT, policy=told, change="; ".join(changed(before[-1] if before else "", told)), **who())


def changed(before: str, now: str) -> list[str]:
    """Return what is different between two policies, as the log tells them."""
    one, other = json.loads(before) if before else {}, json.loads(now)
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return [f"{key} {f'{_spelled(one.get(key))} -> ' * bool(before)}{_spelled(other.get(key))}" for key in keys]


def _spelled(value: object) -> str:
    return "none" if value is None else str(value)

"""What became of the values of each feature at a site: the table of a check, what a person has to accept, and its file.

It stays at the site: counts below the site's minimum are shown as "<n", and the file is its owner's alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pmfed.cohort.contract.uses import MUCH, Use
from pmfed.cohort.contract.written import written_of
from pmfed.study import Study
from pmfed_client.site.create import write_private
from pmfed_client.site.site import Site

GROWN = 1.5
"""An acceptance lapses when the share of lost values grows by this factor."""


def rows(uses: Mapping[str, Use], least: int) -> Iterator[tuple[str, str, str]]:
    """Yield feature, what became of its values, and how many, for people."""

    def shown(number: int) -> str:
        return f"<{least}" if 0 < number < least else f"{number:,}"

    for name, use in sorted(uses.items()):
        yield name, "used", shown(use.used)
        if use.limits:
            yield name, "of them only a limit", shown(use.limits)
        if use.clamped:
            yield name, "of them brought to the bound", shown(use.clamped)
        for why, number in sorted(use.passed.items(), key=lambda one: (-one[1], one[0])):
            lost = "lost" if why in use.lost else "passed over"
            yield name, f"{lost}: {why}", shown(number)


def red(site: Site, uses: Mapping[str, Use]) -> list[str]:
    """Return why a person has to decide: features of which more than half is lost, and nobody accepted it."""
    lines = []
    for name, use in sorted(uses.items()):
        if use.share <= MUCH:
            continue
        shares = {why: number / use.values for why, number in use.lost.items()}
        left = {why: share for why, share in shares.items() if not _accepted(site, name, why, share)}
        if sum(use.lost[why] for why in left) > MUCH * use.values:
            why = max(left, key=lambda one: left[one])
            lines.append(
                f"{name}: {use.share:.0%} of its values are lost ({', '.join(f'{one}: {share:.0%}' for one, share in left.items())}). "
                f'Mend or declare the source; or accept it in site.toml: [[accept]] feature = "{name}", reason = "{why}", '
                f"share = {left[why]:.2f}"
            )
    return lines


def accepted(site: Site, uses: Mapping[str, Use]) -> list[str]:
    """Return what this site accepted and what it is now, for the approval."""
    lines = []
    for one in site.accept:
        use = uses.get(one.feature, Use())
        now = use.passed.get(one.reason, 0) / use.values if use.values else 0.0
        lapsed = "" if now <= GROWN * one.share else "; LAPSED, it grew by half"
        lines.append(f"{one.feature}: {one.reason}, accepted at {one.share:.0%}, now {now:.0%}{lapsed}")
    return lines


def _accepted(site: Site, feature: str, reason: str, share: float) -> bool:
    return any((one.feature, one.reason) == (feature, reason) and share <= GROWN * one.share for one in site.accept)


def keep(site: Site, study: Study, uses: Mapping[str, Use], reasons: list[str]) -> None:
    """Write what a check found beside site.toml, for its owner alone: what an approval looks at."""
    site.checked.mkdir(mode=0o700, exist_ok=True)
    path = site.checked / f"{study.fingerprint()}.json"
    path.unlink(missing_ok=True)
    told = {
        name: {"used": use.used, "limits": use.limits, "clamped": use.clamped, "passed": dict(use.passed)}
        for name, use in sorted(uses.items())
    }
    write_private(
        path,
        json.dumps(
            {"of": _declared(site), "red": reasons, "accepted": accepted(site, uses), "features": told}, indent=1
        ).encode(),
    )


def _declared(site: Site) -> str:
    """Return a digest of what site.toml says of the sources and of losses: what a check is a check of."""
    sources = {
        name: [str(path), written_of(path).model_dump_json() if isinstance(path, Path) else ""]
        for name, path in site.sources.items()
    }
    said = json.dumps([sources, [one.model_dump(mode="json") for one in site.accept]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def last_check(site: Site, study: Study) -> tuple[list[str], list[str]] | None:
    """Return what the last check of a study left open and what was accepted.

    None when there was none, or site.toml has said something else of the sources since.
    """
    try:
        told = json.loads((site.checked / f"{study.fingerprint()}.json").read_text(encoding="utf-8"))
        return (list(told["red"]), list(told["accepted"])) if told["of"] == _declared(site) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""A site that is paused, or outside its hours, computes nothing, whatever was agreed before."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import federation
import pytest
from federation import Together, change
from pmfed_client.agent.agent import Agent
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.pause import check_open, pause, paused, resume
from pmfed_client.site.site import Site, read_sites

from pmfed.errors import ClosedError, LedgerError, UsageError
from pmfed.study import Study
from pmfed.wire import Kind

STUDY = Study.from_text(federation.STUDY, "study.toml")
NORTH = federation.SITES[0]
Told = tuple[Any, dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return federation.write_federation(tmp_path / "f") / "sites"


def charges(together: Together) -> int:
    return sum(row.kind == "charge" for row in together.agents[NORTH].ledger.rows())


def test_a_paused_site_answers_nothing_until_it_is_resumed_even_when_it_is_started_anew(folder: Path) -> None:
    change(folder / NORTH / "site.toml", r"^epsilon = 2\.5", "epsilon = 50.0")
    together = Together(folder, STUDY).enrol()
    together.sum("step", 1)
    site = together.sites[NORTH]
    assert pause(site)
    assert not pause(site)
    for kind in ("enroll", "keys", "shares", "statistics", "step", "evaluation", "sign", "unmask"):
        reply, sums = together.ask(NORTH, kind, 2)
        assert (reply.ok, reply.code, reply.text, sums) == (False, "PM330", "", {}), kind
        assert "paused" in reply.reason
        assert str(folder) not in reply.reason
    assert charges(together) == 1
    together.agents[NORTH] = Agent(site)
    assert together.ask(NORTH, "enroll")[0].code == "PM330"
    assert together.ask(NORTH, "finish")[0].ok  # what is behind it can be closed, and gives the rest of the budget back
    resume(site)
    assert together.ask(NORTH, "enroll", run="cd" * 16)[0].ok
    assert [line["what"] for line in AuditLog(site.audit_log).lines()] == ["pause", "resume"]
    with pytest.raises(UsageError, match="not paused"):
        resume(site)


def test_a_site_goes_on_where_it_was_paused(folder: Path) -> None:
    together = Together(folder, STUDY).enrol()
    together.sum("step", 1)
    pause(together.sites[NORTH])
    assert not together.ask(NORTH, "step", 2)[0].ok
    resume(together.sites[NORTH])
    together.sum("step", 2, 1)
    assert charges(together) == 2


def test_a_note_that_cannot_be_looked_at_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site.read(federation.write_federation(tmp_path) / "sites" / NORTH)
    assert not paused(site)

    def broken(self: Path) -> os.stat_result:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "lstat", broken)
    assert paused(site)
    monkeypatch.undo()
    site.paused.symlink_to("nowhere")
    assert paused(site)


def test_outside_its_hours_a_site_computes_nothing_at_enrolment_and_at_every_message(folder: Path) -> None:
    """Its hours pass while a run is under way: what was agreed to is refused from then on."""
    now = datetime.now(UTC)
    begin, end = now + timedelta(hours=3), now + timedelta(hours=5)
    closed = f'min_patients = 20\nhours = "{begin:%H:%M}-{end:%H:%M}"\ntime_zone = "UTC"'
    together = Together(folder, STUDY).enrol()
    together.sum("step", 1)
    agent = together.agents[NORTH]
    change(folder / NORTH / "site.toml", "^min_patients = 20", closed)
    agent.site = read_sites(folder)[0]
    assert agent.site.name == NORTH
    for kind in ("enroll", "step", "evaluation"):
        reply, sums = together.ask(NORTH, kind, 2)
        assert (reply.code, sums) == ("PM330", {}), kind
        assert "(UTC) only" in reply.reason
    assert charges(together) == 1
    reply, _ = together.ask(NORTH, "finish")
    assert reply.ok


def test_every_kind_of_message_that_computes_waits_for_its_hours_and_masks_do_not(folder: Path) -> None:
    """Half a round that others wait for is ended; nothing new of patients is computed."""
    change(folder / NORTH / "site.toml", "^min_patients", 'hours = "20:00-06:00"\ntime_zone = "UTC"\nmin_patients')
    site = next(site for site in read_sites(folder) if site.name == NORTH)
    noon, night = (datetime(2026, 1, 15, hour, tzinfo=UTC) for hour in (12, 23))
    closed = set()
    for kind in get_args(Kind):
        check_open(site, kind, night)
        with contextlib.suppress(ClosedError):
            check_open(site, kind, noon)
            continue
        closed.add(kind)
    assert closed == {"enroll", "ask"}


def test_a_site_that_cannot_note_that_it_is_resumed_stays_paused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = read_sites(folder)[0]
    assert pause(site)

    def full(*_: Any, **__: Any) -> None:
        raise LedgerError("the disk is full.")

    monkeypatch.setattr(AuditLog, "add", full)
    with pytest.raises(LedgerError):
        resume(site)
    assert paused(site)


def test_all_runs_of_a_study_share_what_one_study_may_cost(folder: Path) -> None:
    change(folder / NORTH / "site.toml", r"^epsilon = 2\.5", "epsilon = 50.0\nstudy_epsilon = 2.5")
    together = Together(folder, STUDY)
    assert together.ask(NORTH, "enroll", run="ab" * 16)[0].ok
    reply, _ = together.ask(NORTH, "enroll", run="cd" * 16)
    assert reply.code == "PM310"
    assert "allows 2.5000 for one study" in reply.reason
    other = STUDY.replace(study={"title": "Another"})
    assert together.ask(NORTH, "enroll", run="ef" * 16, study=other)[0].ok  # which the total of 50 has room for
    assert together.ask(NORTH, "enroll", run="ab" * 16)[0].ok  # asked again, the first is not counted twice
    assert together.ask(NORTH, "finish", run="ab" * 16)[0].ok  # nothing was used: all of it is given back
    assert together.ask(NORTH, "enroll", run="cd" * 16)[0].ok

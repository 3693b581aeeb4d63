"""What an approval allows: a number of runs, an epsilon in all, an end; and reservations that do not last for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import federation
import pytest
from federation import Together, change
from pmfed_client.agent import agent as module
from pmfed_client.agent.agent import Agent
from pmfed_client.ledger.ledger import Ledger
from pmfed_client.site.approval import granted, path_of, read_approval
from pmfed_client.site.approve import approve
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.site import Site

from pmfed.errors import ApprovalError, UsageError
from pmfed.study import Study

STUDY = Study.from_text(federation.STUDY, "tiny")
RUNS = [f"{number:02x}" * 16 for number in range(1, 10)]


class Clock(datetime):
    """The clock of the agent, which a test puts forward."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + cls.ahead


@pytest.fixture
def resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Together:
    """Three resident sites with budget for many runs; nobody approved anything."""
    folder = federation.write_federation(tmp_path) / "sites"
    for name in federation.SITES:
        change(folder / name / "site.toml", r"^epsilon = 2\.5", "epsilon = 50.0")
    together = Together(folder, STUDY)
    together.agents = {name: Agent(site, resident=True) for name, site in together.sites.items()}
    monkeypatch.setattr(Clock, "ahead", timedelta())
    monkeypatch.setattr(module, "datetime", Clock)
    return together


def approve_all(together: Together, runs: int = 1, **more: float) -> None:
    for site in together.sites.values():
        approve(site, STUDY, lambda _: True, approval=granted(site, STUDY, runs, **more))


def begin(together: Together, run: str) -> None:
    """Take a run as far as its first release."""
    together.run = run
    together.enrol().sum("step", 1)


def refusal(together: Together, run: str) -> str:
    reply, sums = together.ask("north", "enroll", run=run)
    assert (reply.ok, reply.code, sums) == (False, ApprovalError.code, {})
    return reply.reason


def test_one_approval_is_one_run_and_a_resumed_run_is_the_same(resident: Together) -> None:
    approve_all(resident)
    begin(resident, RUNS[0])
    assert "one at a time" in refusal(resident, RUNS[1])
    resident.agents = {name: Agent(site, resident=True) for name, site in resident.sites.items()}
    resident.enrol().sum("step", 2)  # the coordinator, or the site, came back
    for name in resident.agents:
        assert resident.ask(name, "finish", run=RUNS[0])[0].ok
    for run in RUNS[1:8]:  # eight runs from one approval
        assert refusal(resident, run).startswith("this hospital approved one run of this study, and it has been.")
    approve_all(resident)
    begin(resident, RUNS[8])


def test_as_many_runs_as_were_allowed(resident: Together) -> None:
    approve_all(resident, runs=2)
    for run in RUNS[:2]:
        begin(resident, run)
        for name in resident.agents:
            assert resident.ask(name, "finish", run=run)[0].ok
    assert "approved 2 runs" in refusal(resident, RUNS[2])


def test_an_epsilon_in_all_ends_what_a_number_of_runs_would_allow(resident: Together) -> None:
    north = resident.sites["north"]
    one, two = granted(north, STUDY), granted(north, STUDY, runs=2)
    assert 1.99 < one.epsilon <= 2.0001 < two.epsilon < 4  # composed, not added
    approve_all(resident, runs=2, epsilon=one.epsilon)
    begin(resident, RUNS[0])
    for name in resident.agents:
        resident.ask(name, "finish", run=RUNS[0])
    reply, _ = resident.ask("north", "enroll", run=RUNS[1])
    assert (reply.ok, reply.code) == (False, "PM310")
    assert "for the runs of one approval" in reply.reason
    assert granted(north, STUDY.replace(aggregation={"dropouts": 1})).epsilon == one.epsilon
    with pytest.raises(UsageError, match="allows none"):
        granted(north, STUDY, epsilon=1.0)


def test_an_approval_ends(resident: Together) -> None:
    approve_all(resident, days=5)
    begin(resident, RUNS[0])
    Clock.ahead = timedelta(days=6)
    assert "ended on" in refusal(resident, RUNS[1])
    reply, sums = resident.ask("north", "step", 2)  # nor does a run go on
    assert (reply.ok, reply.code, sums) == (False, ApprovalError.code, {})
    with pytest.raises(UsageError, match="some time"):
        granted(resident.sites["north"], STUDY, days=0)


@pytest.mark.parametrize("damage", ["gone", "writable", "more runs of it"])
def test_what_cannot_be_read_allows_nothing(resident: Together, damage: str) -> None:
    approve_all(resident)
    path = path_of(resident.sites["north"], STUDY.fingerprint())
    if damage == "gone":  # as of a pmfed whose approvals had no end
        path.unlink()
    elif damage == "writable":
        path.chmod(0o620)
    else:
        path.write_text(path.read_text().replace('"runs":1', '"runs":0'))
    with pytest.raises(ApprovalError):
        read_approval(resident.sites["north"], STUDY.fingerprint(), datetime.now(UTC))
    assert "has not approved" in refusal(resident, RUNS[0])


def test_who_enrols_and_walks_away_locks_nothing(resident: Together) -> None:
    approve_all(resident, runs=9)
    north = resident.sites["north"]
    assert resident.ask("north", "enroll", run=RUNS[0])[0].ok
    for run in RUNS[1:7]:  # six enrolments had reserved the budget of six runs
        assert "one at a time" in refusal(resident, run)
    delta = north.policy.delta
    cohort = next(row.cohort for row in Ledger(north.ledger).rows() if row.cohort and row.cohort.startswith("train"))
    assert Ledger(north.ledger).spent(cohort, delta, reserved=True) < 2.01
    Clock.ahead = timedelta(days=3.1)
    assert resident.ask("north", "enroll", run=RUNS[7])[0].ok  # the first was ended for it
    assert [line["run"] for line in AuditLog(north.audit_log).lines() if line["what"] == "end"] == [RUNS[0]]
    reply, _ = resident.ask("north", "enroll", run=RUNS[0])
    assert (reply.ok, reply.code) == (False, "PM400")  # for ever: also when the clock goes back
    Clock.ahead = timedelta()
    assert not resident.ask("north", "enroll", run=RUNS[0])[0].ok


def test_a_run_that_stood_still_too_long_is_asked_in_vain(resident: Together) -> None:
    approve_all(resident)
    begin(resident, RUNS[0])
    Clock.ahead = timedelta(days=3.1)
    reply, sums = resident.ask("north", "step", 2)
    assert (reply.ok, sums) == (False, {})
    receipt = Ledger(resident.sites["north"].ledger).receipt(RUNS[0])
    assert receipt["finished"]
    assert receipt["charges"] == {"step": 1}  # what was charged stays charged


def test_a_run_that_goes_on_is_never_idle(resident: Together) -> None:
    site = resident.sites["north"]
    change(site.folder / "site.toml", r"^\[policy\]", "[policy]\nidle_days = 0.5")
    resident.sites["north"] = Site.read(site.folder)
    resident.agents["north"] = Agent(resident.sites["north"], resident=True)
    approve_all(resident)
    begin(resident, RUNS[0])
    Clock.ahead = timedelta(days=0.4)
    resident.sum("step", 2)

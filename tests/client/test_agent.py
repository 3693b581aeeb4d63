"""The site agent's guards: what is asked wrongly is refused, with nothing released and nothing told."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from pmfed_client.agent import Agent, Rehearsal
from pmfed.secagg.keys import verify
from pmfed_client.ledger import Row
from pmfed_client.policy import Policy
from pmfed_client.site import Site

from pmfed.models import build, flatten
from pmfed.privacy.accounting import rdp_epsilon
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.grid import evaluation_grid, gradient_grid
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.wire import Kind, Reply, Request, dump, parse_reply

RUN, OTHER_RUN = "ab" * 16, "cd" * 16
STUDY = Study.from_text(federation.STUDY, "study.toml")
START = flatten(build(STUDY))
SITES = len(federation.SITES)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.read(federation.write_federation(tmp_path / "f") / "sites" / "north")


def ask(
    agent: Agent, kind: Kind, round: int = 0, attempt: int = 0, *, study: Study = STUDY, run: str = RUN,
    sites: int = SITES, arrays: dict[str, Any] | None = None,
) -> tuple[Reply, dict[str, Any]]:  # fmt: skip
    text = study.canonical() if kind == "enroll" else ""
    asked = Request(kind=kind, run=run, study=study.fingerprint(), round=round, attempt=attempt, sites=sites, text=text)
    answer, sums = agent.handle(dump(asked), {"parameters": START} if arrays is None else arrays)
    return parse_reply(answer), dict(sums)


def enrolled(site: Site, study: Study = STUDY, rehearsal: Rehearsal | None = None) -> Agent:
    agent = Agent(site, rehearsal=rehearsal)
    reply, _ = ask(agent, "enroll", study=study)
    assert reply.ok, reply.reason
    return agent


def refused(answer: tuple[Reply, dict[str, Any]], code: str, said: str) -> None:
    reply, sums = answer
    assert not reply.ok
    assert reply.code == code
    assert said in reply.reason
    assert "Nothing was released." in reply.reason
    assert not reply.text
    assert sums == {}


def charges(agent: Agent) -> list[Row]:
    return [row for row in agent.ledger.rows() if row.kind == "charge"]


def test_the_whole_way_from_enrolment_to_a_signed_receipt(site: Site) -> None:
    agent = Agent(site)
    reply, sums = ask(agent, "enroll")
    assert reply.ok
    assert set(json.loads(reply.text)) == {"pmfed", "key", "signature"}
    assert sums == {}
    for number in range(1, 4):
        reply, sums = ask(agent, "step", number)
        assert (reply.ok, reply.text, reply.round) == (True, "", number)
        assert {name: (array.dtype, array.shape) for name, array in sums.items()} == {"sum": (np.uint32, START.shape)}
    reply, sums = ask(agent, "evaluate", 3)
    assert set(sums) == {"sum", "site"}
    held_out = evaluation_grid(SITES).decode(sums["sum"]).sum()
    assert 5 <= held_out <= 25  # one cell per held-out patient
    reply, sums = ask(agent, "finish", 3)
    receipt = verify(reply.text)
    assert receipt["charges"] == {"step": 3}
    assert receipt["finished"]
    assert receipt["epsilon"] < STUDY.privacy.epsilon
    assert sums == {}
    refused(ask(agent, "step", 4), "PM500", "not enrolled")


def test_a_step_is_charged_durably_before_anything_is_computed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = enrolled(site)

    def fail(*_: object) -> None:
        # What another process reads from the disk at this moment.
        with closing(sqlite3.connect(site.ledger)) as other:
            rows = other.execute("SELECT round, attempt FROM rows WHERE kind = 'charge'").fetchall()
        raise RuntimeError(f"{federation.ID_CANARY} {rows}") if rows == [(7, 2)] else AssertionError(rows)

    monkeypatch.setattr(agent._sessions[RUN].trainer, "step", fail)
    refused(ask(agent, "step", 7, 2), "PM000", "internal error (RuntimeError)")
    assert [(row.round, row.attempt) for row in charges(agent)] == [(7, 2)]
    monkeypatch.undo()
    refused(ask(agent, "step", 7, 2), "PM400", "privacy ledger")


def test_no_attempt_is_answered_twice_and_no_round_goes_back(site: Site) -> None:
    agent = enrolled(site)
    assert ask(agent, "step", 2, 1)[0].ok
    for round, attempt in ((2, 1), (2, 0), (1, 5)):
        refused(ask(agent, "step", round, attempt), "PM400", "privacy ledger")
    assert ask(agent, "step", 2, 2)[0].ok
    assert len(charges(agent)) == 2


def test_a_message_for_another_study_is_refused(site: Site) -> None:
    agent = enrolled(site)
    other = STUDY.replace(privacy={"clip": 100.0})
    refused(ask(agent, "step", 1, study=other), "PM500", "another study")
    refused(ask(agent, "evaluate", 1, study=other), "PM500", "another study")
    refused(ask(agent, "enroll", study=other), "PM400", "privacy ledger")
    assert not charges(agent)


def test_a_site_that_is_not_enrolled_answers_nothing(site: Site) -> None:
    kinds: list[Kind] = ["step", "evaluate", "statistics"]
    for kind in kinds:
        refused(ask(Agent(site), kind, 1), "PM500", "not enrolled")
    refused(ask(Agent(site), "finish"), "PM400", "privacy ledger")
    agent = enrolled(site)
    refused(ask(agent, "step", 1, run=OTHER_RUN), "PM500", "not enrolled")
    assert not charges(agent)


def test_a_receipt_can_be_had_again_and_only_for_the_runs_own_study(site: Site) -> None:
    agent = enrolled(site)
    assert ask(agent, "step", 1)[0].ok
    refused(ask(agent, "finish", study=STUDY.replace(privacy={"clip": 2.0})), "PM500", "another study")
    assert ask(agent, "step", 2)[0].ok
    receipts = [verify(ask(one, "finish")[0].text) for one in (agent, agent, Agent(site))]
    assert receipts[0] == receipts[1] == receipts[2]
    assert receipts[0]["charges"] == {"step": 2}


def test_a_study_under_a_false_name_or_of_another_kind_is_refused(site: Site) -> None:
    agent = Agent(site)
    weaker = STUDY.replace(privacy={"epsilon": 1.0}).canonical()
    for text, said in ((weaker, "another fingerprint"), ('{"study": 1}', "not valid"), ("", "not valid")):
        asked = Request(kind="enroll", run=RUN, study=STUDY.fingerprint(), sites=SITES, text=text)
        answer, sums = agent.handle(dump(asked), {})
        refused((parse_reply(answer), dict(sums)), "PM500", said)
    refused(ask(agent, "step", 1), "PM500", "not enrolled")


@pytest.mark.parametrize(("sites", "said"), [(SITES + 1, "4 sites in a step, but only 3 enrolled"), (1, "too few")])
def test_a_share_of_noise_for_other_sites_than_enrolled_is_refused(
    site: Site, sites: int, said: str, caplog: Any
) -> None:
    agent = enrolled(site)
    refused(ask(agent, "step", 1, sites=sites), "PM300", "policy")
    assert said in caplog.text


def test_the_noise_is_the_plans_share_for_the_sites_of_the_attempt(site: Site) -> None:
    """Everyone is sampled, so rounds differ by their noise alone; fewer sites, larger shares."""
    study = STUDY.replace(privacy={"sampling_rate": 1.0}, training={"rounds": 240})
    agent = enrolled(site, study)
    plan, grid = PrivacyPlan.solve(study, SITES), gradient_grid(study, SITES)
    for first, sites in ((1, 3), (121, 2)):
        sums = [ask(agent, "step", first + turn, study=study, sites=sites)[1]["sum"] for turn in range(120)]
        seen = np.stack([grid.decode(array) for array in sums]).std(axis=0, ddof=1)
        # 7 x 120 numbers: the standard error of the ratio is 2.4 %.
        assert np.sqrt((seen**2).mean()) / plan.noise_std(sites) == pytest.approx(1, abs=0.12)
    assert plan.noise_std(2) == pytest.approx(np.sqrt(2) * plan.noise_std(3))


def test_an_empty_sample_is_noise_like_any_other(site: Site) -> None:
    """With a rate of 1/100 most samples of 40-odd patients are empty."""
    study = STUDY.replace(privacy={"sampling_rate": 0.01, "epsilon": 0.5})
    agent = enrolled(site, study)
    for number in range(1, 7):
        reply, sums = ask(agent, "step", number, study=study)
        assert reply.ok
        assert np.count_nonzero(sums["sum"]) >= len(START) - 1


BAD_MODELS: dict[str, dict[str, Any]] = {
    "absent": {},
    "misnamed": {"model": START},
    "nan": {"parameters": np.full_like(START, np.nan)},
    "infinite": {"parameters": np.append(START[:-1], np.float32(np.inf))},
    "short": {"parameters": START[:-1]},
    "long": {"parameters": np.append(START, np.float32(0))},
    "double": {"parameters": START.astype(np.float64)},
    "flat": {"parameters": START[None]},
}


@pytest.mark.parametrize("arrays", BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_model_that_is_none_is_refused_and_not_charged(site: Site, arrays: dict[str, Any]) -> None:
    agent = enrolled(site)
    refused(ask(agent, "step", 1, arrays=arrays), "PM500", "model")
    refused(ask(agent, "evaluate", 1, arrays=arrays), "PM500", "model")
    assert not charges(agent)


LEAKS: dict[str, dict[str, Any]] = {
    "an extra array": {"sum": np.zeros(len(START), np.uint32), "patients": np.zeros(1, np.uint32)},
    "floats": {"sum": np.zeros(len(START), np.float32)},
    "one word more": {"sum": np.zeros(len(START) + 1, np.uint32)},
    "another name": {"gradient": np.zeros(len(START), np.uint32)},
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_the_allow_list_stands_behind_the_trainer(
    site: Site, leak: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = enrolled(site)
    monkeypatch.setattr(agent, "_answer", lambda *_: ("", leak))
    refused(ask(agent, "step", 1), "PM500", "array")
    monkeypatch.setattr(agent, "_answer", lambda *_: ("41 patients", {}))
    refused(ask(agent, "step", 1), "PM500", "text")


@pytest.mark.parametrize("data", [b"", b"not a record", b'{"kind":"step"}', b"\x80\x04K\x01."])
def test_what_is_no_request_is_answered_with_a_code(site: Site, data: bytes) -> None:
    answer, sums = Agent(site).handle(data, {})
    reply = parse_reply(answer)
    assert (reply.ok, reply.code, dict(sums)) == (False, "PM500", {})


CLOSED: dict[str, tuple[dict[str, Any], str]] = {
    "no policy": ({}, "PM300"),
    "too few patients": ({"min_patients": 1000}, "PM300"),
    "no exact metrics": ({"exact_metrics": False}, "PM300"),
    "no figures of this site": ({"per_site_metrics": False}, "PM300"),
    "too large a delta": ({"delta": 0.5}, "PM300"),
    "too small a budget": ({"epsilon": 1.0}, "PM310"),
}


@pytest.mark.parametrize(("changes", "code"), CLOSED.values(), ids=CLOSED)
def test_a_site_whose_policy_says_no_takes_no_part(site: Site, changes: dict[str, Any], code: str) -> None:
    policy = site.policy.model_copy(update=changes) if changes else Policy.closed()
    agent = Agent(site.model_copy(update={"policy": policy}))
    refused(ask(agent, "enroll"), code, "")
    refused(ask(agent, "step", 1), "PM500", "not enrolled")
    assert not list(agent.ledger.rows())


def test_a_second_run_beyond_the_budget_is_refused_with_the_numbers(site: Site) -> None:
    agent = enrolled(site)
    for number in range(1, STUDY.training.rounds + 1):
        assert ask(agent, "step", number)[0].ok
    assert ask(agent, "finish")[0].ok
    answer = ask(Agent(site), "enroll", run=OTHER_RUN)
    refused(answer, "PM310", "allows 2.5000")
    alone = rdp_epsilon(PrivacyPlan.solve(STUDY, SITES).releases(), site.policy.delta)
    assert f"asks for epsilon {alone:.4f} on the cohort" in answer[0].reason
    assert f"; {alone:.4f} is spent there" in answer[0].reason


def test_a_budget_of_exactly_one_run_admits_one_run(site: Site) -> None:
    exact = site.model_copy(update={"policy": site.policy.model_copy(update={"epsilon": STUDY.privacy.epsilon})})
    agent = enrolled(exact)
    assert ask(agent, "step", 1)[0].ok
    refused(ask(agent, "enroll", run=OTHER_RUN), "PM310", "allows 2.0000")


def test_more_steps_than_reserved_are_refused_whatever_the_budget(site: Site) -> None:
    agent = enrolled(site)
    told = [ask(agent, "step", number)[0] for number in range(1, 10)]
    assert [reply.ok for reply in told] == [True] * 6 + [False] * 3
    assert {reply.code for reply in told[6:]} == {"PM310"}
    assert len(charges(agent)) == STUDY.training.rounds


def test_an_error_in_the_data_stays_at_the_site(site: Site, caplog: Any) -> None:
    federation.change(site.sources["patients"], f"^({federation.ID_CANARY}-north-7),[0-9.]*", r"\1,old canary-word")
    answer = ask(Agent(site), "enroll")
    refused(answer, "PM200", "its data does not fit the study")
    for secret in (federation.ID_CANARY, federation.VALUE_CANARY, "canary-word", "patients.csv", str(site.folder)):
        assert secret not in answer[0].reason
        assert secret in caplog.text or secret not in ("patients.csv", str(site.folder))
    for secret in (federation.ID_CANARY, "canary-word"):
        assert secret not in caplog.text  # not even in the site's own log


def test_a_ledger_full_of_garbage_ends_the_sites_part(site: Site) -> None:
    agent = enrolled(site)
    assert ask(agent, "step", 1)[0].ok
    for path in site.folder.glob("ledger.db*"):
        path.write_bytes(os.urandom(8192))
    refused(ask(agent, "step", 2), "PM400", "privacy ledger")
    refused(ask(Agent(site), "enroll"), "PM400", "privacy ledger")


def test_private_evaluation_is_charged_and_noised_and_tells_of_no_site(site: Site) -> None:
    study = STUDY.replace(evaluation={"release": "private", "per_site": False})
    agent = enrolled(site, study)
    reply, sums = ask(agent, "evaluate", 6, study=study)
    assert reply.ok
    assert set(sums) == {"sum"}
    assert np.count_nonzero(sums["sum"]) > 0.9 * task_for(study).cells  # noise in every cell
    (charge,) = charges(agent)
    assert charge.what == "evaluation"
    assert str(charge.cohort).startswith("held-out")
    refused(ask(agent, "evaluate", 6, study=study), "PM400", "privacy ledger")


def test_statistics_are_charged_noised_and_asked_for_once(site: Site) -> None:
    study = Study.from_text(federation.STUDY.replace(", mean = 60, scale = 15", ""), "study.toml")
    agent = enrolled(site, study)
    reply, sums = ask(agent, "statistics", study=study)
    assert reply.ok, reply.reason
    assert [row.what for row in charges(agent)] == ["statistics"]
    refused(ask(agent, "statistics", study=study), "PM400", "privacy ledger")
    refused(ask(agent, "step", 1, study=study), "PM500", "model")
    sent = np.concatenate([START, np.zeros(len(sums["sum"]), np.float32)])
    assert ask(agent, "step", 1, study=study, arrays={"parameters": sent})[0].ok


def test_a_study_without_statistics_releases_none(site: Site) -> None:
    reply, sums = ask(enrolled(site), "statistics")
    assert not reply.ok
    assert sums == {}


def test_secret_noise_never_repeats_and_seeded_noise_does(site: Site, tmp_path: Path) -> None:
    beside = Site.read(federation.write_federation(tmp_path / "g") / "sites" / "north")

    def sums(rehearsal: Rehearsal | None) -> list[bytes]:
        found = []
        for place in (site, beside):
            for path in place.folder.glob("ledger.*"):
                path.unlink()
            found.append(ask(enrolled(place, rehearsal=rehearsal), "step", 1)[1]["sum"].tobytes())
        return found

    assert len(set(sums(None))) == 2
    assert len(set(sums(Rehearsal(seed=1)))) == 1


def test_only_a_rehearsal_without_noise_keeps_no_books(site: Site) -> None:
    plan = PrivacyPlan.solve(STUDY, SITES).without_noise()
    agent = enrolled(site, rehearsal=Rehearsal(plan=lambda study, sites: plan))
    assert ask(agent, "step", 1)[0].ok
    assert not site.ledger.exists()
    assert Agent(site).charges
    assert Agent(site, rehearsal=Rehearsal(seed=1)).charges

"""The site agent's guards: what is asked wrongly is refused, with nothing released and nothing told."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.ledger.chain import LedgerRow
from pmfed_client.site.data_digest import data_digest
from pmfed_client.site.policy import Policy

from pmfed.cohort import Cohort
from pmfed.methods import plan_for
from pmfed.models import build, flatten
from pmfed.privacy.accounting import rdp_epsilon
from pmfed.queries.gradient import step_of
from pmfed.queries.scores import Scores
from pmfed.secagg.keys import Identity, verify
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.wire import Reply, Request, dump, parse_reply

RUN, OTHER_RUN = "ab" * 16, "cd" * 16
STUDY = Study.from_text(federation.STUDY, "study.toml")
SITES = len(federation.SITES)
NORTH = federation.SITES[0]


Together = federation.Together


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return federation.write_federation(tmp_path / "f") / "sites"


@pytest.fixture
def together(folder: Path) -> Together:
    return Together(folder, STUDY)


def ask(together: Together, kind: str, round: int = 0, attempt: int = 0, **more: Any) -> tuple[Reply, dict[str, Any]]:
    """Ask the site north."""
    return together.ask(NORTH, kind, round, attempt, **more)


def anew(together: Together) -> Together:
    """Return the same sites with agents started anew."""
    return Together(together.sites[NORTH].folder.parent, together.study, together.rehearsal)


def refused(answer: tuple[Reply, dict[str, Any]], code: str, said: str) -> None:
    reply, sums = answer
    assert not reply.ok
    assert reply.code == code
    assert said in reply.reason
    assert "Nothing was released." in reply.reason
    assert not reply.text
    assert sums == {}


def charges(together: Together, name: str = NORTH) -> list[LedgerRow]:
    return [row for row in together.agents[name].ledger.rows() if row.kind == "charge"]


def test_the_whole_way_from_enrolment_to_a_signed_receipt(together: Together) -> None:
    reply, sums = ask(together, "enroll")
    assert reply.ok
    assert set(json.loads(reply.text)) == {"pmfed", "card", "head"}
    head = verify(json.loads(reply.text)["head"])
    assert (head["site"], head["run"]) == (NORTH, RUN)
    assert head["head"] == together.agents[NORTH].ledger.head()
    assert sums == {}
    together.enrol()
    for number in range(1, 4):
        reply, sums = ask(together, "step", number)
        assert (reply.ok, reply.text, reply.round) == (True, "", number)
        assert {name: (array.dtype, array.shape) for name, array in sums.items()} == {
            "sum": (np.uint32, together.start.shape)
        }
    reply, sums = ask(together, "evaluation", 3)
    assert set(sums) == {"sum", "site"}
    held_out = Scores(STUDY).grid(SITES).decode(sums["site"]).sum()
    assert 5 <= held_out <= 25  # one cell per held-out patient
    reply, sums = ask(together, "finish", 3)
    receipt = verify(reply.text)
    assert receipt["charges"] == {"step": 3}
    assert receipt["finished"]
    assert receipt["epsilon"] < STUDY.privacy.epsilon
    assert sums == {}
    refused(ask(together, "step", 4), "PM505", "not enrolled")


def test_a_step_is_charged_durably_before_anything_is_computed(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = together.enrol().agents[NORTH]

    def fail(*_: object) -> None:
        # What another process reads from the disk at this moment.
        with closing(sqlite3.connect(agent.site.ledger)) as other:
            rows = other.execute("SELECT round, attempt FROM rows WHERE kind = 'charge'").fetchall()
        raise RuntimeError(f"{federation.ID_CANARY} {rows}") if rows == [(6, 2)] else AssertionError(rows)

    monkeypatch.setattr(agent._sessions[together.run].answers.trainer, "step", fail)
    refused(ask(together, "step", 6, 2), "PM000", "internal error (RuntimeError)")
    assert [(row.round, row.attempt) for row in charges(together)] == [(6, 2)]
    monkeypatch.undo()
    refused(ask(together, "step", 6, 2), "PM400", "privacy ledger")


def test_no_attempt_is_answered_twice_and_no_round_goes_back(together: Together) -> None:
    together.enrol()
    assert ask(together, "step", 2, 1)[0].ok
    for round, attempt in ((2, 1), (2, 0), (1, 5)):
        refused(ask(together, "step", round, attempt), "PM400", "privacy ledger")
    assert ask(together, "step", 2, 2)[0].ok
    assert len(charges(together)) == 2


def test_an_agent_started_anew_is_asked_to_enrol_anew_and_finds_its_books(together: Together) -> None:
    together.enrol()
    assert ask(together, "step", 1)[0].ok
    second = anew(together)
    refused(ask(second, "step", 2), "PM505", "not enrolled")
    second.enrol()
    refused(ask(second, "step", 1), "PM400", "privacy ledger")  # charged once, released once, whoever asks
    assert ask(second, "step", 2)[0].ok
    assert len(charges(second)) == 2
    assert ask(together, "step", 3)[0].ok  # the first agent lives on and reads the same books
    assert len(charges(second)) == 3


def test_a_message_for_another_study_is_refused(together: Together) -> None:
    together.enrol()
    other = STUDY.replace(privacy={"clip": 100.0})
    refused(ask(together, "step", 1, study=other), "PM500", "another study")
    refused(ask(together, "evaluation", 1, study=other), "PM500", "another study")
    refused(ask(together, "enroll", study=other), "PM400", "privacy ledger")
    assert not charges(together)


def test_a_site_that_is_not_enrolled_answers_nothing(together: Together) -> None:
    kinds = ["step", "evaluation", "statistics", "keys", "shares", "sign", "unmask"]
    for kind in kinds:
        refused(ask(together, kind, 1), "PM505", "not enrolled")
    refused(ask(together, "finish"), "PM400", "privacy ledger")
    together.enrol()
    refused(ask(together, "step", 1, run=OTHER_RUN), "PM505", "not enrolled")
    assert not charges(together)


def test_a_digest_of_the_data_is_the_site_s_alone_and_of_the_run_alone(tmp_path: Path) -> None:
    key = Identity.at(tmp_path / "identity.pem")
    assert key.derived("data 1") == key.derived("data 1") != key.derived("data 2")
    cohort = Cohort(
        ids=("a", "b"), owner=np.array([0, 1]), training=np.array([True, False]),
        inputs={"labs": np.zeros((2, 1), np.float32)}, present={"labs": np.ones(2, bool)}, targets=np.array([0.0, 1.0]),
    )  # fmt: skip
    digest = data_digest(cohort, key.derived("data 1"))
    assert digest == data_digest(cohort, key.derived("data 1"))
    other = Identity.at(tmp_path / "other.pem")
    assert digest not in (data_digest(cohort, key.derived("data 2")), data_digest(cohort, other.derived("data 1")))
    changes: list[dict[str, Any]] = [
        {"ids": ("a", "c")}, {"training": np.array([True, True])}, {"targets": np.array([0.0, 0.0])},
        {"inputs": {"labs": np.array([[0.0], [1e-6]], np.float32)}}, {"present": {"labs": np.array([True, False])}},
    ]  # fmt: skip
    told = {data_digest(replace(cohort, **change), key.derived("data 1")) for change in changes}
    assert len(told | {digest}) == len(changes) + 1


def test_a_receipt_can_be_had_again_and_only_for_the_runs_own_study(together: Together) -> None:
    together.enrol()
    assert ask(together, "step", 1)[0].ok
    refused(ask(together, "finish", study=STUDY.replace(privacy={"clip": 2.0})), "PM500", "another study")
    assert ask(together, "step", 2)[0].ok
    receipts = [verify(ask(one, "finish")[0].text) for one in (together, together, anew(together))]
    assert receipts[0] == receipts[1] == receipts[2]
    assert receipts[0]["charges"] == {"step": 2}
    assert len(receipts[0]["data"]) == 64  # kept, whichever process answers


def test_a_study_under_a_false_name_or_of_another_kind_is_refused(together: Together) -> None:
    weaker = STUDY.replace(privacy={"epsilon": 1.0}).canonical()
    for text, said in ((weaker, "another fingerprint"), ('{"study": 1}', "not valid"), ("-", "not valid")):
        refused(ask(together, "enroll", text=text), "PM500", said)
    refused(ask(together, "step", 1), "PM505", "not enrolled")


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ((*federation.SITES, "east"), "no site 'east'"),
        ((NORTH,), "at least 2 are needed"),
        (federation.SITES[1:], "missing among those"),
        ((NORTH, NORTH), "missing among those"),
        ((), "missing among those"),
    ],
)
def test_a_sum_over_other_sites_than_introduced_is_refused(together: Together, sites: Any, said: str) -> None:
    together.enrol()
    request = Request(
        kind="ask", query="step", run=together.run, study=STUDY.fingerprint(), round=1, sites=max(1, len(sites)),
        roster=sites,
    )  # fmt: skip
    answer, sums = together.agents[NORTH].handle(dump(request), {"parameters": together.start})
    refused((parse_reply(answer), dict(sums)), "PM500", said)
    assert not charges(together)


def test_a_number_of_sites_that_is_not_that_of_their_names_is_refused(together: Together, caplog: Any) -> None:
    together.enrol()
    request = Request(
        kind="ask",
        query="step",
        run=together.run,
        study=STUDY.fingerprint(),
        round=1,
        sites=30,
        roster=federation.SITES,
    )
    answer, sums = together.agents[NORTH].handle(dump(request), {"parameters": together.start})
    refused((parse_reply(answer), dict(sums)), "PM300", "policy")
    assert "not that of their names" in caplog.text
    assert not charges(together)


def test_the_noise_is_the_plans_share_for_the_sites_of_the_attempt(folder: Path) -> None:
    """Everyone is sampled, so rounds differ by their noise alone; fewer sites, larger shares."""
    study = STUDY.replace(privacy={"sampling_rate": 1.0}, training={"rounds": 240})
    together = Together(folder, study).enrol()
    plan, grid = plan_for(study, SITES), step_of(study).grid(SITES)
    for first, sites in ((1, 3), (121, 2)):
        sums = [together.sum("step", first + turn, sites=federation.SITES[:sites]) for turn in range(120)]
        seen = np.stack([grid.decode(array) for array in sums]).std(axis=0, ddof=1)
        # 7 x 120 numbers: the standard error of the ratio is 2.4 %.
        expected = plan["step"].noise_std(sites) * np.sqrt(sites)
        assert np.sqrt((seen**2).mean()) / expected == pytest.approx(1, abs=0.12)
    assert plan["step"].noise_std(2) == pytest.approx(np.sqrt(2) * plan["step"].noise_std(3))


def test_an_empty_sample_is_noise_like_any_other(folder: Path) -> None:
    """With a rate of 1/100 most samples of 40-odd patients are empty."""
    study = STUDY.replace(privacy={"sampling_rate": 0.01, "epsilon": 0.5})
    together = Together(folder, study).enrol()
    for number in range(1, 7):
        assert np.count_nonzero(together.sum("step", number)) >= len(together.start) - 1
    assert len(charges(together)) == 6


START = flatten(build(STUDY))

MISSING, ANOTHER = "the array 'parameters' is missing", "'parameters' must arrive as float32[7]"
BAD_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "absent": ({}, MISSING),
    "misnamed": ({"model": START}, "the array 'model' does not belong there"),
    "with another": ({"parameters": START, "scales": START}, "the array 'scales' does not belong there"),
    "nan": ({"parameters": np.full_like(START, np.nan)}, "'parameters' that arrived is not finite"),
    "infinite": ({"parameters": np.append(START[:-1], np.float32(np.inf))}, "'parameters' that arrived is not finite"),
    "short": ({"parameters": START[:-1]}, ANOTHER),
    "long": ({"parameters": np.append(START, np.float32(0))}, ANOTHER),
    "double": ({"parameters": START.astype(np.float64)}, ANOTHER),
    "flat": ({"parameters": START[None]}, ANOTHER),
}


@pytest.mark.parametrize(("arrays", "said"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_model_that_is_none_is_refused_and_not_charged(together: Together, arrays: dict[str, Any], said: str) -> None:
    together.enrol()
    refused(ask(together, "step", 1, arrays=arrays), "PM500", said)
    refused(ask(together, "evaluation", 1, arrays=arrays), "PM500", said)
    assert not charges(together)


LEAKS: dict[str, dict[str, Any]] = {
    "an extra array": {"sum": np.zeros(len(START), np.uint32), "patients": np.zeros(1, np.uint32)},
    "floats": {"sum": np.zeros(len(START), np.float32)},
    "one word more": {"sum": np.zeros(len(START) + 1, np.uint32)},
    "wider words": {"sum": np.zeros(len(START), np.uint64)},
    "another name": {"gradient": np.zeros(len(START), np.uint32)},
    "a vector of the site alone": {"sum": np.zeros(len(START), np.uint32), "site": np.zeros(len(START), np.uint32)},
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_the_allow_list_stands_behind_the_trainer(
    together: Together, leak: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = together.enrol().agents[NORTH]
    monkeypatch.setattr(agent, "_answer", lambda *_: ("", leak))
    refused(ask(together, "step", 1), "PM500", "array")
    monkeypatch.setattr(agent, "_answer", lambda *_: ("41 patients", {}))
    refused(ask(together, "step", 1), "PM500", "text")


@pytest.mark.parametrize("data", [b"", b"not a record", b'{"kind":"step"}', b"\x80\x04K\x01."])
def test_what_is_no_request_is_answered_with_a_code(together: Together, data: bytes) -> None:
    answer, sums = together.agents[NORTH].handle(data, {})
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


def with_policy(together: Together, policy: Policy) -> Together:
    site = together.sites[NORTH].model_copy(update={"policy": policy})
    together.agents[NORTH] = Agent(site)
    return together


@pytest.mark.parametrize(("changes", "code"), CLOSED.values(), ids=CLOSED)
def test_a_site_whose_policy_says_no_takes_no_part(together: Together, changes: dict[str, Any], code: str) -> None:
    own = together.sites[NORTH].policy
    with_policy(together, own.model_copy(update=changes) if changes else Policy.closed())
    refused(ask(together, "enroll"), code, "")
    refused(ask(together, "step", 1), "PM505", "not enrolled")
    assert not list(together.agents[NORTH].ledger.rows())


def test_a_site_without_a_roster_takes_no_part(together: Together, caplog: Any) -> None:
    together.sites[NORTH].roster.unlink()
    refused(ask(together, "enroll"), "PM300", "policy")
    assert "pmfed site trust" in caplog.text
    assert not list(together.agents[NORTH].ledger.rows())


def test_a_second_run_beyond_the_budget_is_refused_with_the_numbers(together: Together) -> None:
    together.enrol()
    for number in range(1, STUDY.training.rounds + 1):
        assert ask(together, "step", number)[0].ok
    assert ask(together, "finish")[0].ok
    answer = ask(anew(together), "enroll", run=OTHER_RUN)
    refused(answer, "PM310", "allows 2.5000")
    alone = rdp_epsilon(plan_for(STUDY, SITES).releases(), together.sites[NORTH].policy.delta)
    assert f"asks for epsilon {alone:.4f} on the cohort" in answer[0].reason
    assert f"; {alone:.4f} is spent there" in answer[0].reason


def test_a_budget_of_exactly_one_run_admits_one_run(together: Together) -> None:
    own = together.sites[NORTH].policy
    with_policy(together, own.model_copy(update={"epsilon": STUDY.privacy.epsilon})).enrol()
    assert ask(together, "step", 1)[0].ok
    refused(ask(together, "enroll", run=OTHER_RUN), "PM310", "allows 2.0000")


def test_more_steps_than_reserved_are_refused_whatever_the_budget(together: Together) -> None:
    together.enrol()
    told = [ask(together, "step", min(number, 6), number)[0] for number in range(1, 10)]
    assert [reply.ok for reply in told] == [True] * 6 + [False] * 3
    assert {reply.code for reply in told[6:]} == {"PM310"}
    refused(ask(together, "step", 7), "PM500", "the study has 6 rounds")
    assert len(charges(together)) == STUDY.training.rounds


def test_an_error_in_the_data_stays_at_the_site(together: Together, caplog: Any) -> None:
    site = together.sites[NORTH]
    federation.change(site.sources["patients"], f"^({federation.ID_CANARY}-north-7),[0-9.]*", r"\1,old canary-word")
    answer = ask(together, "enroll")
    refused(answer, "PM200", "its data does not fit the study")
    for secret in (federation.ID_CANARY, federation.VALUE_CANARY, "canary-word", "patients.csv", str(site.folder)):
        assert secret not in answer[0].reason
        assert secret in caplog.text or secret not in ("patients.csv", str(site.folder))
    for secret in (federation.ID_CANARY, "canary-word"):
        assert secret not in caplog.text  # not even in the site's own log


def test_a_ledger_full_of_garbage_ends_the_sites_part(together: Together) -> None:
    together.enrol()
    assert ask(together, "step", 1)[0].ok
    for path in together.sites[NORTH].folder.glob("ledger.db*"):
        path.write_bytes(os.urandom(8192))
    refused(ask(together, "step", 2), "PM400", "privacy ledger")
    refused(ask(anew(together), "enroll"), "PM400", "privacy ledger")


def test_private_evaluation_is_charged_and_noised_and_tells_of_no_site(folder: Path) -> None:
    study = STUDY.replace(evaluation={"release": "private", "per_site": False})
    together = Together(folder, study).enrol()
    assert np.count_nonzero(together.sum("evaluation", 6)) > 0.9 * task_for(study).cells  # noise in every cell
    (charge,) = charges(together)
    assert charge.what == "evaluation"
    assert str(charge.cohort).startswith("held-out")
    refused(ask(together, "evaluation", 6), "PM500", "asked about again")
    refused(ask(together, "evaluation", 6, 1), "PM310", "left")
    shapes = together.agents[NORTH]._sessions[together.run].answers.shapes(Scores(study), SITES)
    assert set(shapes) == {"sum"}


def test_statistics_are_charged_noised_and_asked_for_once(folder: Path) -> None:
    study = Study.from_text(federation.STUDY.replace(", mean = 60, scale = 15", ""), "study.toml")
    together = Together(folder, study).enrol()
    reply, sums = ask(together, "statistics")
    assert reply.ok, reply.reason
    assert [row.what for row in charges(together)] == ["statistics"]
    refused(ask(together, "statistics"), "PM400", "privacy ledger")
    refused(ask(together, "step", 1), "PM500", f"must arrive as float32[{len(START) + len(sums['sum'])}]")
    sent = np.concatenate([START, np.zeros(len(sums["sum"]), np.float32)])
    assert ask(together, "step", 1, arrays={"parameters": sent})[0].ok


def test_a_study_without_statistics_releases_none(together: Together) -> None:
    refused(ask(together.enrol(), "statistics"), "PM500", "this study asks nothing called 'statistics'")


def test_secret_noise_never_repeats_and_seeded_noise_does(tmp_path: Path) -> None:
    def sums(rehearsal: Rehearsal | None, name: str) -> list[bytes]:
        places = [federation.write_federation(tmp_path / f"{name}-{turn}") / "sites" for turn in range(2)]
        return [Together(place, STUDY, rehearsal).enrol().sum("step", 1).tobytes() for place in places]

    assert len(set(sums(None, "secret"))) == 2
    assert len(set(sums(Rehearsal(seed=1), "seeded"))) == 1


def test_only_a_rehearsal_without_noise_keeps_no_books(folder: Path) -> None:
    plan = plan_for(STUDY, SITES).without_noise()
    together = Together(folder, STUDY, Rehearsal(plan=lambda study, sites: plan)).enrol()
    assert ask(together, "step", 1)[0].ok
    assert not together.sites[NORTH].ledger.exists()
    assert Agent(together.sites[NORTH]).charges
    assert Agent(together.sites[NORTH], rehearsal=Rehearsal(seed=1)).charges

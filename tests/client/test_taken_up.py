"""An agent that is started again takes a run up, and never on the word of its note alone."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from pmfed_client.agent import Agent
from pmfed_client.resident import SITES, connect, list_sites
from pmfed_client.site import Site
from pmfed_simulations.datasets import write_sites

from pmfed.models import build, flatten
from pmfed.study import Study
from pmfed.wire import Kind, Reply, Request, dump, parse_reply

RUN = "ab" * 16
SITES_COUNT = 20


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.read(Path(str(files("pmfed_simulations") / "studies" / "digits.toml")))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    write_sites("digits", None, tmp_path / "sites")
    return Site.read(min((tmp_path / "sites").glob("*/site.toml")))


def ask(agent: Agent, study: Study, kind: Kind, round: int = 0, study_text: str = "") -> tuple[Reply, dict]:
    request = Request(kind=kind, run=RUN, study=study.fingerprint(), round=round, sites=SITES_COUNT, text=study_text)
    answer, arrays = agent.handle(dump(request), {"parameters": flatten(build(study)).astype(np.float32)})
    return parse_reply(answer), dict(arrays)


def enrolled(site: Site, study: Study) -> Agent:
    agent = Agent(site)
    reply, _ = ask(agent, study, "enroll", study_text=study.canonical())
    assert reply.ok, reply.reason
    return agent


def test_another_agent_of_the_site_goes_on_with_the_run(site: Site, study: Study) -> None:
    first = enrolled(site, study)
    assert ask(first, study, "step", 1)[0].ok
    second = Agent(site)
    reply, arrays = ask(second, study, "step", 2)
    assert reply.ok, reply.reason
    assert len(arrays["sum"]) == len(flatten(build(study)))
    assert [row.kind for row in second.ledger.rows()].count("charge") == 2
    refused, nothing = ask(Agent(site), study, "step", 2)  # charged once, released once, whoever asks
    assert refused.code == "PM400"
    assert not nothing


def test_the_first_agent_may_go_on_after_the_second(site: Site, study: Study) -> None:
    first, second = enrolled(site, study), Agent(site)
    for number, agent in enumerate((first, second, first, second), start=1):
        assert ask(agent, study, "step", number)[0].ok
    assert ask(second, study, "finish")[0].ok
    reply, arrays = ask(first, study, "step", 5)
    assert not reply.ok
    assert not arrays


def test_a_run_never_enrolled_in_is_unknown(site: Site, study: Study) -> None:
    reply, arrays = ask(Agent(site), study, "step", 1)
    assert reply.code == "PM500"
    assert "not enrolled" in reply.reason
    assert not arrays


def test_a_note_cut_short_is_no_enrolment(site: Site, study: Study) -> None:
    enrolled(site, study)
    note = site.folder / "sessions" / f"{RUN}.json"
    note.write_text(note.read_text()[:-20])
    reply, arrays = ask(Agent(site), study, "step", 1)
    assert "not enrolled" in reply.reason
    assert not arrays


def test_a_note_with_another_study_releases_nothing(site: Site, study: Study) -> None:
    enrolled(site, study)
    other = study.replace(training={"rounds": study.training.rounds + 1})
    note = site.folder / "sessions" / f"{RUN}.json"
    note.write_text(json.dumps({"study": other.canonical(), "sites": SITES_COUNT}))
    for named in (study, other):
        reply, arrays = ask(Agent(site), named, "step", 1)
        assert reply.code == "PM400", reply
        assert not arrays
    assert not [row for row in Agent(site).ledger.rows() if row.kind == "charge"]


def test_a_policy_that_changed_is_asked_again(site: Site, study: Study) -> None:
    enrolled(site, study)
    strict = site.model_copy(update={"policy": site.policy.model_copy(update={"min_patients": 10_000})})
    reply, arrays = ask(Agent(strict), study, "step", 1)
    assert reply.code == "PM300"
    assert not arrays


def test_a_finished_run_leaves_no_note_and_is_not_taken_up(site: Site, study: Study) -> None:
    agent = enrolled(site, study)
    assert ask(agent, study, "finish")[0].ok
    assert not list((site.folder / "sessions").iterdir())
    reply, arrays = ask(Agent(site), study, "step", 1)
    assert not reply.ok
    assert not arrays


def test_a_courier_finds_its_site_by_number(
    site: Site, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = (site, site.model_copy(update={"name": "other"}))
    list_sites(tmp_path / "sites.json", sites, None)
    monkeypatch.setenv(SITES, str(tmp_path / "sites.json"))
    for number, expected in enumerate(sites):
        handle = connect({"partition-id": number, "num-partitions": 2})
        assert handle == connect({"partition-id": number, "num-partitions": 2})
        agent = handle.__self__  # type: ignore[attr-defined]
        assert agent.site == expected
        assert agent.charges
        assert agent.rehearsal.seed is None

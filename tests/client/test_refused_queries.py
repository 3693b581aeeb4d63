"""What a run may not ask is answered by a sentence: nothing is released, and nothing is charged or reserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pmfed_client.agent.agent import Agent
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations.rosters import pin_rosters

from pmfed.study import Study
from pmfed.wire import Request, dump, parse_reply

RUN = "ab" * 16
SITES = ("east", "west")
STUDY = """\
[study]
name = "counts"
title = "Counts"
[cohort]
table = "patients"
expected_patients = 60
[method]
kind = "tables"
[modalities.clinical]
kind = "table"
table = "patients"
[modalities.clinical.features]
age = { type = "numeric", minimum = 0, maximum = 120 }
[privacy]
epsilon = 1.0
delta = 1e-3
"""
SITE = '[site]\nname = "{}"\n[data]\npatients = "patients.csv"\n[policy]\nepsilon = 2.0\ndelta = 1e-3\n'


class Pair:
    """Two sites whose agents a test asks in the coordinator's place."""

    def __init__(self, folder: Path, patients: int = 30) -> None:
        for name in SITES:
            (folder / name).mkdir(parents=True)
            (folder / name / "site.toml").write_text(SITE.format(name), encoding="utf-8")
            lines = [f"{name}-{number},{20 + number % 60}" for number in range(patients)]
            (folder / name / "patients.csv").write_text("patient_id,age\n" + "\n".join(lines) + "\n", encoding="utf-8")
        self.sites: dict[str, Site] = {site.name: site for site in read_sites(folder)}
        pin_rosters(list(self.sites.values()))
        self.agents = {name: Agent(site) for name, site in self.sites.items()}

    def ask(self, name: str, study: Study, kind: str, state: dict[str, Any] | None = None, **more: Any) -> Any:
        request = Request(
            kind=kind, run=RUN, study=study.fingerprint(), sites=2, **{"roster": SITES if kind == "ask" else (), **more},
        )  # fmt: skip
        reply, arrays = self.agents[name].handle(dump(request), state or {})
        return parse_reply(reply), arrays

    def enrolled(self, study: Study) -> Pair:
        cards = []
        for name in SITES:
            reply, _ = self.ask(name, study, "enroll", text=study.canonical())
            assert reply.ok, reply.reason
            cards.append(json.loads(reply.text)["card"])
        for name in SITES:
            reply, _ = self.ask(name, study, "keys", text=json.dumps(cards))
            assert reply.ok, reply.reason
        return self

    def charged(self, name: str) -> list[str | None]:
        return [row.what for row in self.agents[name].ledger.rows() if row.kind == "charge"]


def study(**sections: Any) -> Study:
    return Study.from_text(STUDY, "study.toml").replace(**sections)


def test_tables_are_answered_once(tmp_path: Path) -> None:
    pair, asked = Pair(tmp_path).enrolled(study()), study()
    reply, arrays = pair.ask("east", asked, "ask", query="tables")
    assert reply.ok
    assert set(arrays) == {"sum"}
    for attempt in (0, 1):  # the same, and a second one: the run reserved one answer
        reply, arrays = pair.ask("east", asked, "ask", query="tables", attempt=attempt)
        assert not reply.ok
        assert not arrays
        assert "Nothing was released." in reply.reason
    assert pair.charged("east") == ["tables"]


@pytest.mark.parametrize(
    ("more", "state", "said"),
    [
        ({"query": "step"}, {}, "asks nothing called 'step'"),
        ({"query": "tables"}, {"parameters": np.zeros(3, np.float32)}, "'parameters' does not belong there"),
        ({"query": "tables", "round": 1}, {}, "out of order"),
    ],
)
def test_what_is_not_in_the_schedule_is_refused_before_a_charge(
    tmp_path: Path, more: dict[str, Any], state: dict[str, Any], said: str
) -> None:
    pair = Pair(tmp_path).enrolled(study())
    reply, arrays = pair.ask("east", study(), "ask", state, **more)
    assert not reply.ok
    assert said in reply.reason
    assert not arrays
    assert pair.charged("east") == []


def test_a_cohort_too_large_for_the_grid_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path, 200).enrolled(study())
    monkeypatch.setattr("pmfed.secagg.grid.Grid.patients", lambda *_: 100)
    reply, arrays = pair.ask("east", study(), "ask", query="tables")
    assert not reply.ok
    assert not arrays


def test_parts_that_do_not_fit_the_epsilon_are_refused_before_anything_is_reserved(tmp_path: Path) -> None:
    pair, dear = Pair(tmp_path), study(privacy={"epsilon": 5.0})
    reply, _ = pair.ask("east", dear, "enroll", text=dear.canonical())
    assert not reply.ok
    assert "Nothing was released." in reply.reason
    assert list(pair.agents["east"].ledger.rows()) == []


def test_a_method_this_site_does_not_have_is_named(tmp_path: Path) -> None:
    pair, asked = Pair(tmp_path), study()
    text = asked.canonical().replace('"tables"', '"divination"')
    request = Request(kind="enroll", run=RUN, study=asked.fingerprint(), sites=2, text=text)
    reply = parse_reply(pair.agents["east"].handle(dump(request), {})[0])
    assert not reply.ok
    assert "knows no method 'divination'" in reply.reason
    assert list(pair.agents["east"].ledger.rows()) == []


def test_another_version_of_the_protocol_is_refused_before_anything_is_reserved(tmp_path: Path) -> None:
    pair, asked = Pair(tmp_path), study()
    request = Request(kind="enroll", run=RUN, study=asked.fingerprint(), sites=2, text=asked.canonical())
    old = json.loads(dump(request)) | {"version": 1}
    reply = parse_reply(pair.agents["east"].handle(json.dumps(old).encode(), {})[0])
    assert not reply.ok
    assert "protocol 1; this side speaks protocol 2" in reply.reason
    assert list(pair.agents["east"].ledger.rows()) == []

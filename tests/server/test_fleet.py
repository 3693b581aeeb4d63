"""Waiting for answers: a grid that can wait is asked to, Flower's own is looked at every so often."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import federation
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pmfed_client.agent.agent import Agent
from pmfed_client.connection import agent_address as resident
from pmfed_client.connection.app import app as client_app
from pmfed_client.site.site import read_sites
from pmfed_server.fleet import Fleet
from pmfed_server.rounds import Rounds
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters

from pmfed.errors import RunError
from pmfed.methods import plan_for
from pmfed.study import Study
from pmfed.wire import Reply, Request, dump, parse_request

RUN = "ab" * 16
NODES: dict[int, dict[str, Any]] = {number: {"site": f"site-{number}"} for number in (1, 2, 3)}
ASKED = Request(kind="enroll", run=RUN, study="5" * 64, sites=3)
app = ClientApp()


@app.query("enroll")
def enroll(message: Message, context: Context) -> Message:
    told = parse_request(bytes(message.content["pmfed"]["record"])).model_dump(  # type: ignore[arg-type]
        include={"kind", "run", "round", "attempt"}
    )
    reply = Reply(**told, site=str(context.node_config["site"]))
    return Message(RecordDict({"pmfed": ConfigRecord({"record": dump(reply)})}), reply_to=message)


class Flowers:
    """As Flower's own grid: it cannot wait, and nobody has answered before the third look."""

    def __init__(self, inner: LocalGrid, late: int = 2) -> None:
        self.inner, self.late = inner, late

    def get_node_ids(self) -> Iterable[int]:
        self.late -= 1
        return self.inner.get_node_ids() if self.late < 0 else []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.late -= 1
        if self.late >= 0:
            return []
        names = list(message_ids)
        self.inner.wait(names)
        return self.inner.pull_messages(names)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long it was slept, each time; nobody really sleeps."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_in_this_process_never_sleeps(workers: int, tmp_path: Path, sleeps: list[float]) -> None:
    study = Study.from_text(federation.STUDY, "study.toml")
    sites = read_sites(federation.write_federation(tmp_path / "f") / "sites")
    pin_rosters(sites)
    (tmp_path / "run").mkdir()
    for site in sites:
        resident.register(site.name, Agent(site))
    nodes = {number: {"site": site.name} for number, site in enumerate(sites, start=1)}
    try:
        with LocalGrid(client_app, nodes, workers) as grid:
            plan = plan_for(study, len(sites))
            run = Rounds(grid, study, plan, tmp_path / "run", run=RUN, sites=len(sites), patience=60.0).run()
    finally:
        for site in sites:
            resident.forget(site.name)
    assert run.rounds == federation.ROUNDS
    assert sleeps == []


def test_a_grid_that_cannot_wait_is_looked_at_every_so_often(sleeps: list[float]) -> None:
    with LocalGrid(app, NODES) as inner:
        assert Fleet(Flowers(inner), 60.0).gather(3) == [1, 2, 3]  # type: ignore[arg-type]
        assert sleeps == [0.2, 0.2]
        answers = Fleet(Flowers(inner), 60.0).ask(ASKED, [1, 2, 3])  # type: ignore[arg-type]
    assert [answer.ok for answer in answers] == [True] * 3
    assert sleeps[2:4] == [0.01, 0.01]


def test_nobody_waits_for_sites_that_no_grid_can_bring(sleeps: list[float]) -> None:
    with LocalGrid(app, NODES) as grid:
        with pytest.raises(RunError, match="3 of 4 sites connected"):
            Fleet(grid, 1.0).gather(4)
        assert Fleet(grid, 1.0).gather(4, least=0) == [1, 2, 3]
    assert sleeps == []


def test_who_takes_longer_than_one_waits_did_not_answer_in_time() -> None:
    stuck = ClientApp()

    @stuck.query("enroll")
    def stay(message: Message, context: Context) -> Message:
        if context.node_config["site"] == "site-2":
            time.sleep(3600)
        return enroll(message, context)

    with LocalGrid(stuck, NODES, 3) as grid:
        answers = Fleet(grid, 1.0).ask(ASKED, [1, 2, 3])
        grid._workers[grid._home[2]]._process.kill()
    assert [answer.problem for answer in answers] == ["", "did not answer in time", ""]

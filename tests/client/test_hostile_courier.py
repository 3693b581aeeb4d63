"""A courier that lies: it repeats, reorders, edits, cuts, swaps and drops what it carries, and asks for what nobody asked.

It can stop a run. It can never make a site release what was not charged first, twice what was charged once, or anything but
what the allow-list names; and the agent goes on answering.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import federation
import numpy as np
from federation import SITES, Together
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pmfed_client.agent.agent import Agent
from pmfed_client.connection.channel import pack, unpack
from pmfed_client.site.approve import approve
from pmfed_client.site.audit_log import AuditLog

from pmfed.errors import ProtocolError
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.wire import ALLOWED, WITH_TEXT, WORDS, Request, dump, parse_reply, parse_request

STUDY = Study.from_text(federation.STUDY, "study.toml")
NORTH, SOUTH, WEST = SITES
CANARIES = (federation.ID_CANARY.encode(), federation.VALUE_CANARY.encode())

ROUNDS, ATTEMPTS = st.integers(-1, 8), st.integers(-1, 3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(sorted(ALLOWED)),
    "query": st.sampled_from(["", "statistics", "step", "evaluation", "personal", "personal-evaluation", "Step"]),
    "run": st.sampled_from(["cd" * 16, "", "ab" * 15]),
    "study": st.sampled_from(["6" * 64, STUDY.replace(study={"title": "Another"}).fingerprint()]),
    "round": ROUNDS | st.just(2**31),
    "attempt": ATTEMPTS | st.just(2**15),
    "sites": st.integers(0, 5),
    "roster": st.lists(st.sampled_from([*SITES, "east"]), max_size=4),
    "text": st.sampled_from(["", "[]", "{}", "null", STUDY.canonical()[:-1]]),
    "version": st.sampled_from([0, 1, 3, "2"]),
    "more": st.just(1),
}
KINDS = (*sorted(set(ALLOWED) - {"ask"}), "statistics", "step", "evaluation", "personal")
MODELS: list[Any] = [
    {}, {"parameters": np.full(7, np.nan, np.float32)}, {"parameters": np.zeros(6, np.float32)},
    {"parameters": np.zeros(7, np.uint32)}, {"parameters": np.zeros(7, np.float32), "sum": np.zeros(7, np.uint32)},
    {"parameters": np.full(7, 3e38, np.float32)}, {"patients": np.zeros(3, np.float32)},
]  # fmt: skip


class HostileCourier(RuleBasedStateMachine):
    """Stands before the site north of a federation whose other sites and coordinator are honest."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.together = Together(federation.write_federation(self.folder / "f", 40) / "sites", STUDY)
        for site in self.together.sites.values():
            approve(site, STUDY, lambda lines: True)
        self.together.agents = {name: Agent(site, resident=True) for name, site in self.together.sites.items()}
        self.seen: list[bytes] = []
        self.released: set[tuple[str, str, int, int]] = set()
        self.introduce()

    def ask(self, request: Request | bytes, arrays: dict[str, Any]) -> Any:
        """Bring a message to north as the courier would, and look at everything that comes back."""
        record = request if isinstance(request, bytes) else dump(request)
        message = pack(record, arrays)
        self.seen.append(message)
        return self.bring(message)

    def bring(self, message: bytes) -> Any:
        try:
            record, arrays = unpack(message)
        except ProtocolError:
            return None  # such a message never comes as far as the agent: tests/client/test_line.py
        answer, sums = self.together.agents[NORTH].handle(record, arrays)
        self.look(record, answer, dict(sums))
        return parse_reply(answer)

    def look(self, record: bytes, answer: bytes, sums: dict[str, Any]) -> None:
        reply = parse_reply(answer)
        assert reply.code != "PM000", reply.reason  # whatever comes is foreseen
        assert not any(one in answer for one in CANARIES)
        if not reply.ok:
            assert (sums, reply.text) == ({}, "")
            return
        asked = parse_request(record)
        assert not reply.text or reply.kind in WITH_TEXT
        assert set(sums) <= set(ALLOWED[reply.kind])
        if not sums:
            return
        expected = {"step": len(self.together.start), "evaluation": task_for(STUDY).cells}[reply.query]
        assert all(words.dtype in WORDS and words.shape == (expected,) for words in sums.values())
        place = (asked.run, asked.what, asked.round, asked.attempt)
        assert place not in self.released, "released twice"
        self.released.add(place)
        if asked.what == "step":
            assert (asked.run, asked.round, asked.attempt) in self.charged(), "released and not charged"

    def charged(self) -> list[tuple[str, Any, Any]]:
        rows = self.together.agents[NORTH].ledger.rows()
        return [(row.run, row.round, row.attempt) for row in rows if row.kind == "charge" and row.what == "step"]

    def request(self, kind: str, round: int = 0, attempt: int = 0, text: str = "") -> Request:
        named = () if kind in ("enroll", "keys", "finish") else SITES
        return Request.model_validate({
            **federation.asking(kind), "run": self.together.run, "study": STUDY.fingerprint(), "round": max(round, 0),
            "attempt": max(attempt, 0), "sites": len(SITES), "roster": named, "text": text,
        })  # fmt: skip

    @rule()
    def introduce(self) -> None:
        """The honest way in; north's part of it is carried by the courier."""
        cards = []
        for name in SITES:
            if name == NORTH:
                reply = self.ask(self.request("enroll", text=STUDY.canonical()), {})
            else:
                reply, _ = self.together.ask(name, "enroll")
            if not reply.ok:
                return  # the run is over here
            cards.append(json.loads(reply.text)["card"])
        for name in SITES[1:]:
            self.together.ask(name, "keys", text=json.dumps(cards))
        self.ask(self.request("keys", text=json.dumps(cards)), {})

    @rule(kind=st.sampled_from(["step", "evaluation"]), round=ROUNDS, attempt=ATTEMPTS)
    def out_of_turn(self, kind: str, round: int, attempt: int) -> None:
        self.ask(self.request(kind, round, attempt), {"parameters": self.together.start})

    @rule(round=st.integers(1, 6))
    def in_turn(self, round: int) -> None:
        for number in range(1, round + 1):
            self.ask(self.request("step", number), {"parameters": self.together.start})

    @rule(kind=st.sampled_from(KINDS), model=st.sampled_from(range(len(MODELS))), round=ROUNDS)
    def with_another_model(self, kind: str, model: int, round: int) -> None:
        self.ask(self.request(kind, round), MODELS[model])

    @rule(place=st.integers(0, 10**6))
    def repeated(self, place: int) -> None:
        self.bring(self.seen[place % len(self.seen)])

    @rule(place=st.integers(0, 10**6), where=st.integers(0, 10**6), bit=st.integers(0, 7))
    def edited(self, place: int, where: int, bit: int) -> None:
        message = bytearray(self.seen[place % len(self.seen)])
        message[where % len(message)] ^= 1 << bit
        self.bring(bytes(message))

    @rule(place=st.integers(0, 10**6), end=st.integers(0, 10**6), record=st.booleans())
    def cut(self, place: int, end: int, record: bool) -> None:
        message = self.seen[place % len(self.seen)]
        if not record:
            self.bring(message[: end % len(message)])
            return
        whole, arrays = unpack(message)
        self.bring(pack(whole[: end % (len(whole) + 1)], arrays))

    @rule(place=st.integers(0, 10**6), data=st.data(), name=st.sampled_from(sorted(FIELDS)))
    def with_another_field(self, place: int, data: st.DataObject, name: str) -> None:
        record, arrays = unpack(self.seen[place % len(self.seen)])
        try:
            told = json.loads(record)
        except ValueError:
            return
        self.ask(json.dumps({**told, name: data.draw(FIELDS[name])}).encode(), arrays)

    @rule(one=st.integers(0, 10**6), other=st.integers(0, 10**6))
    def swapped(self, one: int, other: int) -> None:
        """The record of one message with the arrays of another."""
        record, _ = unpack(self.seen[one % len(self.seen)])
        _, arrays = unpack(self.seen[other % len(self.seen)])
        self.ask(record, arrays)

    @rule()
    def agent_killed(self) -> None:
        self.together.agents[NORTH] = Agent(self.together.sites[NORTH], resident=True)

    @rule(chance=st.integers(0, 3))
    def finish(self, chance: int) -> None:
        if chance == 0:
            self.ask(self.request("finish"), {})

    @invariant()
    def nobody_is_charged_more_than_agreed(self) -> None:
        if hasattr(self, "together"):
            charged = self.charged()
            assert len(charged) == len(set(charged)) <= STUDY.training.rounds
            assert {run for run, _, _ in charged} <= {self.together.run}

    def teardown(self) -> None:
        if not hasattr(self, "together"):
            return
        agent, site = self.together.agents[NORTH], self.together.sites[NORTH]
        agent.ledger.verify()
        assert all(line["seq"] for line in AuditLog(site.audit_log).lines())
        # The agent lives, and knows what it may still do: another run of the study is enrolled, or refused: this one
        # is not over, was the one that was approved, or left no budget.
        request = self.request("enroll", text=STUDY.canonical()).model_copy(update={"run": "ef" * 16})
        reply = parse_reply(agent.handle(dump(request), {})[0])
        assert reply.ok or reply.code in ("PM310", "PM320"), reply
        agent.ledger.close()
        shutil.rmtree(self.folder)


TestHostileCourier = HostileCourier.TestCase
TestHostileCourier.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

"""A coordinator adds vectors up as they arrive: a round takes the memory of a few, however many sites there are."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from pmfed_server import fleet
from pmfed_server.enrolment import Enrolment
from pmfed_server.fleet import Fleet
from pmfed_server.sums import Sums
from pmfed_simulations.studies import find_study

from pmfed.wire import Reply, Request, dump, parse_request

SIZE = 1 << 18
BYTES = 4 * SIZE
STUDY = find_study("digits")


class Prompt:
    """Flower's grid where every site has answered by the first look: what is asked for is handed over all at once."""

    def __init__(self) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.asked: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            name = f"m{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = name
            self.asked[name] = message
        return list(self.asked)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.answer(self.asked.pop(name)) for name in list(message_ids) if name in self.asked]

    def answer(self, message: Message) -> Message:
        request = parse_request(bytes(message.content["pmfed"]["record"]))  # type: ignore[arg-type]
        told = request.model_dump(include={"kind", "query", "run", "round", "attempt"})
        said = {"pmfed": ConfigRecord({"record": dump(Reply(**told, site="somebody"))})}
        words = np.full(SIZE, message.metadata.dst_node_id, np.uint32)
        return Message(RecordDict({**said, "arrays": ArrayRecord({"sum": Array(words)})}), reply_to=message)


def peak(sites: int, folder: Path) -> float:
    """Return the most memory that a sum over so many sites takes, in vectors; the sum is checked."""
    asked: Any = Fleet(Prompt(), 5.0)  # type: ignore[arg-type]
    enrolment = Enrolment(asked, STUDY, Request)
    sums = Sums(asked, STUDY, enrolment, folder)
    nodes = list(range(1, sites + 1))
    enrolment.sites.update({node: f"site-{node}" for node in nodes})
    request = Request(kind="ask", query="step", run="ab" * 16, study="5" * 64, round=1, sites=sites)
    gc.collect()
    gc.disable()  # it counts objects, not bytes: nothing may wait for it
    tracemalloc.start()
    try:
        found = sums.collect(request, nodes, SIZE, np.uint32, lambda: {"parameters": np.zeros(SIZE, np.float32)})
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert (found.nodes, found.failed) == (nodes, [])
    assert found.total is not None
    assert (found.total == sum(nodes)).all()
    return most / BYTES


def test_a_sum_takes_the_memory_of_a_few_vectors_and_not_of_one_per_site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fleet, "ROOM", BYTES)  # as it is to a large model
    few, many = peak(5, tmp_path), peak(20, tmp_path)
    assert many < few + 0.5
    assert many < 8


def test_answers_of_a_small_model_are_all_taken_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looks: list[int] = []
    real = Prompt.pull_messages

    def pull(self: Prompt, message_ids: Iterable[str]) -> Iterable[Message]:
        names = list(message_ids)
        looks.append(len(names))
        return real(self, names)

    monkeypatch.setattr(Prompt, "pull_messages", pull)
    peak(20, tmp_path)
    assert looks == [20]

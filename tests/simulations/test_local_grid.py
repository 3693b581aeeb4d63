"""The in-process grid: Flower's own apps and messages, here or in forked workers, and workers that die."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pmfed_simulations.grid import FAILED, LocalGrid

from pmfed.errors import RunError

app = ClientApp()
NODES: dict[int, dict[str, Any]] = {number: {"site": f"site-{number}"} for number in (3, 5, 8, 13)}
BOTH = pytest.mark.parametrize("workers", [1, 2])


@app.train("step")
def double(message: Message, context: Context) -> Message:
    """Answer with twice the array, the node's own name and the process it runs in."""
    values = message.content.array_records["arrays"]["values"].numpy()
    said = ConfigRecord({"site": str(context.node_config["site"]), "process": os.getpid()})
    content = RecordDict({"said": said, "arrays": ArrayRecord({"values": Array(values * 2)})})
    return Message(content, reply_to=message)


@app.query("fail")
def fail(message: Message, context: Context) -> Message:
    raise ValueError("canary-4711")


@app.query("die")
def die(message: Message, context: Context) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    return message


@app.query("sleep")
def sleep(message: Message, context: Context) -> Message:
    time.sleep(3600)
    return message


def messages(kind: str = "train.step", size: int = 3, nodes: dict[int, Any] = NODES) -> list[Message]:
    return [
        Message(
            RecordDict({"arrays": ArrayRecord({"values": Array(np.full(size, node, np.float32))})}),
            dst_node_id=node,
            message_type=kind,
        )
        for node in nodes
    ]


def processes_of(grid: LocalGrid) -> list[int]:
    return [process for worker in grid._workers if (process := worker._process.pid) is not None]


@BOTH
def test_every_node_answers_its_own_message(workers: int) -> None:
    with LocalGrid(app, NODES, workers) as grid:
        assert list(grid.get_node_ids()) == list(NODES)
        for _ in range(3):
            replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages())}
            assert set(replies) == set(NODES)
            for node, reply in replies.items():
                assert reply.content["said"]["site"] == f"site-{node}"
                assert reply.content.array_records["arrays"]["values"].numpy().tolist() == [2.0 * node] * 3
            assert len({reply.content["said"]["process"] for reply in replies.values()}) == workers


def test_one_worker_is_this_process_and_more_are_not() -> None:
    with LocalGrid(app, NODES, 1) as grid:
        (first, *_) = grid.send_and_receive(messages())
        assert first.content["said"]["process"] == os.getpid()
    with LocalGrid(app, NODES, 9) as grid:
        replies = list(grid.send_and_receive(messages()))
        processes = {reply.content["said"]["process"] for reply in replies}
        assert len(processes) == len(NODES)  # no more workers than nodes
        assert os.getpid() not in processes


@BOTH
def test_large_messages_in_both_directions_do_not_block(workers: int) -> None:
    with LocalGrid(app, NODES, workers) as grid:
        replies = list(grid.send_and_receive(messages(size=1_000_000)))
        replies.sort(key=lambda reply: reply.metadata.src_node_id)
        assert [reply.content.array_records["arrays"]["values"].numpy()[-1] for reply in replies] == [6, 10, 16, 26]


@BOTH
def test_an_exception_in_an_app_is_an_error_of_that_node_without_its_text(workers: int) -> None:
    with LocalGrid(app, NODES, workers) as grid:
        asked = messages()
        asked[1] = messages("query.fail")[1]
        replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(asked)}
        assert [node for node, reply in replies.items() if reply.has_error()] == [5]
        assert replies[5].error.code == FAILED
        assert "canary" not in str(replies[5].error.reason)
        assert len(list(grid.send_and_receive(messages()))) == len(NODES)  # and life goes on


@BOTH
def test_replies_are_handed_out_once(workers: int) -> None:
    with LocalGrid(app, NODES, workers) as grid:
        ids = list(grid.push_messages(messages()))
        assert len(set(ids)) == len(NODES)
        assert grid.wait(ids[:2])
        few = list(grid.pull_messages(ids[:2]))
        assert few
        assert {reply.metadata.reply_to_message_id for reply in few} <= set(ids[:2])
        seen = list(few)
        while grid.wait(ids):
            seen += grid.pull_messages(ids)
        assert sorted(reply.metadata.reply_to_message_id for reply in seen) == sorted(ids)
        assert list(grid.pull_messages(ids)) == []


def test_no_more_replies_are_held_than_there_are_workers() -> None:
    """A coordinator that adds as it goes holds one vector, not one per node."""
    with LocalGrid(app, NODES, 1) as grid:
        ids = list(grid.push_messages(messages()))
        for _ in NODES:
            assert grid.wait(ids)
            assert len(grid._replies) == 1
            assert len(list(grid.pull_messages(ids))) == 1
            assert not grid._replies


def test_a_node_that_says_nothing_is_waited_for_no_longer_than_asked() -> None:
    with LocalGrid(app, NODES, 2) as grid:
        ids = list(grid.push_messages(messages("query.sleep")))
        started = time.monotonic()
        assert grid.wait(ids, 0.2)  # they may still answer
        assert 0.2 <= time.monotonic() - started < 10
        assert list(grid.pull_messages(ids)) == []
        for process in processes_of(grid):
            os.kill(process, signal.SIGKILL)


@BOTH
def test_what_nobody_will_answer_is_not_waited_for(workers: int) -> None:
    with LocalGrid(app, NODES, workers) as grid:
        assert not grid.wait(["999"], 3600.0)
        assert not grid.wait((), 3600.0)  # nor is a node that is not there


def test_a_worker_that_dies_is_told_of_and_not_waited_for() -> None:
    started = time.monotonic()
    with LocalGrid(app, NODES, 2) as grid, pytest.raises(RunError, match="worker process of the simulation died"):
        list(grid.send_and_receive(messages("query.die")))
    assert time.monotonic() - started < 10


def test_a_worker_killed_between_rounds_is_told_of() -> None:
    with LocalGrid(app, NODES, 2) as grid:
        assert len(list(grid.send_and_receive(messages()))) == len(NODES)
        os.kill(processes_of(grid)[0], signal.SIGKILL)
        time.sleep(0.1)
        with pytest.raises(RunError, match="worker process of the simulation died"):
            list(grid.send_and_receive(messages()))


def test_no_worker_outlives_the_grid() -> None:
    """And none is waited for: a worker sees the end of its pipe at once."""
    with LocalGrid(app, NODES, 3) as grid:
        processes = processes_of(grid)
        assert len(processes) == 3
        assert all(Path(f"/proc/{process}").exists() for process in processes)
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_workers_leave_ctrl_c_to_their_parent() -> None:
    with LocalGrid(app, NODES, 2) as grid:
        assert len(list(grid.send_and_receive(messages()))) == len(NODES)
        for process in processes_of(grid):
            os.kill(process, signal.SIGINT)
        time.sleep(0.1)
        assert len(list(grid.send_and_receive(messages()))) == len(NODES)


def test_no_worker_outlives_a_coordinator_that_was_killed() -> None:
    here, there = os.pipe()
    coordinator = os.fork()
    if not coordinator:
        grid = LocalGrid(app, NODES, 3)
        os.write(there, " ".join(map(str, processes_of(grid))).encode())
        time.sleep(60)
    processes = os.read(here, 100).split()
    assert len(processes) == 3
    os.kill(coordinator, signal.SIGKILL)
    os.waitpid(coordinator, 0)
    deadline = time.monotonic() + 10
    while left := [process for process in processes if _runs(int(process))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _runs(process: int) -> bool:
    """Return whether a process is there and not just waiting to be reaped by whoever inherited it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

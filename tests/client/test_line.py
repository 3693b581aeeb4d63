"""The socket between courier and agent: bytes and flat arrays, read strictly, for its owner only."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import federation
import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pmfed_client.agent.agent import Agent
from pmfed_client.connection.agent_address import connect
from pmfed_client.connection.channel import LONGEST, METHOD, OPTIONS, SERVICE, WAITING, call, pack, serve, unpack

from pmfed.errors import ProtocolError, RunError
from pmfed.study import Study
from pmfed.wire import MAX_RECORD, Request, dump, parse_reply

Arrays = dict[str, Any]
KINDS = (np.float32, np.uint32, np.uint64)


@contextmanager
def served(path: Path, handle: Callable[[bytes, Any], tuple[bytes, Any]]) -> Iterator[Path]:
    server = serve(handle, path)
    try:
        yield path
    finally:
        server.stop(0).wait()


def echo(record: bytes, arrays: Any) -> tuple[bytes, Any]:
    return record, arrays


def raw(path: Path, message: bytes) -> bytes:
    """Ask as anyone could who may open the socket."""
    with grpc.insecure_channel(f"unix:{path}", options=OPTIONS) as channel:
        ask: Any = channel.unary_unary(f"/{SERVICE}/{METHOD}")
        answer: bytes = ask(message, timeout=10)
        return answer


def same(one: Arrays, other: Arrays) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape)
        assert array.tobytes() == other[name].tobytes()


@settings(max_examples=60, deadline=None)
@given(
    record=st.binary(max_size=300),
    sizes=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9)), max_size=4),
    data=st.data(),
)
def test_what_is_packed_is_unpacked(record: bytes, sizes: list[tuple[Any, int]], data: Any) -> None:
    arrays = {
        f"array {number}": np.frombuffer(data.draw(st.binary(min_size=8 * size, max_size=8 * size)), kind)[:size]
        for number, (kind, size) in enumerate(sizes)
    }
    found, read = unpack(pack(record, arrays))
    assert found == record
    same(read, arrays)


def test_an_answer_comes_back_as_it_left(tmp_path: Path) -> None:
    arrays = {
        "parameters": np.array([1.5, -0.0, np.inf, 3e-45], np.float32),
        "sum": np.array([0, 2**32 - 1], np.uint32),
        "site": np.array([2**64 - 1], np.uint64),
        "none": np.zeros(0, np.uint32),
    }
    with served(tmp_path / "agent.sock", echo) as path:
        for record in (b"", b"{}", bytes(range(256)), "Grüße".encode()):
            answer, found = call(path)(record, arrays)
            assert answer == record
            same(dict(found), arrays)
        swapped = {"sum": arrays["sum"].astype(">u4"), "parameters": np.arange(8, dtype=np.float32)[::2]}
        answer, found = call(path)(b"", swapped)
        assert found["sum"].tolist() == [0, 2**32 - 1]
        assert found["parameters"].tolist() == [0, 2, 4, 6]


def test_a_model_of_25_million_parameters_fits_through(tmp_path: Path) -> None:
    model = np.arange(25_000_000, dtype=np.float32)

    def add(record: bytes, arrays: Any) -> tuple[bytes, Any]:
        return record, {"sum": arrays["parameters"].view(np.uint32) + np.uint32(1)}

    with served(tmp_path / "agent.sock", add) as path:
        _, found = call(path)(b"{}", {"parameters": model})
    assert np.array_equal(found["sum"] - np.uint32(1), model.view(np.uint32))


def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with served(tmp_path / "agent.sock", echo) as path:
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
        assert os.umask(0) == 0  # what the process makes next has the rights it had before
    finally:
        os.umask(before)


def test_a_socket_left_by_a_process_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with served(path, echo):
        assert call(path)(b"again", {})[0] == b"again"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_path_that_no_socket_can_have_is_refused_with_what_to_do(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * LONGEST)
    deep.mkdir()
    with pytest.raises(RunError, match=f"may have {LONGEST} bytes") as caught:
        serve(echo, deep / "agent.sock")
    assert "nearer the root" in str(caught.value)
    name = "ü" * ((LONGEST - len(os.fsencode(tmp_path)) - 1) // 2) + "üü"  # few letters, too many bytes
    with pytest.raises(RunError):
        serve(echo, tmp_path / name)


def test_the_longest_path_that_is_allowed_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path("/tmp") if os.access("/tmp", os.W_OK) else tmp_path_factory.getbasetemp()
    name = f"pmfed-{os.getpid()}-"
    path = folder / name.ljust(LONGEST - len(os.fsencode(folder)) - 1, "x")
    assert len(os.fsencode(path)) == LONGEST
    try:
        with served(path, echo):
            assert call(path)(b"far", {})[0] == b"far"
    finally:
        path.unlink(missing_ok=True)


def head(**told: Any) -> bytes:
    header = json.dumps({"record": 0, "arrays": [], **told}).encode()
    return len(header).to_bytes(4, "big") + header


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(4, "big") + header


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "less than a length": b"\x00\x00",
    "a length alone": b"\x00\x00\x00\x08",
    "a length beyond all bounds": b"\xff\xff\xff\xff{}",
    "a header too long": (MAX_RECORD - 3).to_bytes(4, "big") + b" " * MAX_RECORD,
    "no JSON": framed(b"record"),
    "not UTF-8": framed(b'{"record": 0, "arrays": [], "\xff": 1}'),
    "a list": framed(b"[]"),
    "null": framed(b"null"),
    "brackets within brackets": framed(b"[" * 100_000),
    "no record": framed(b'{"arrays": []}'),
    "no arrays": framed(b'{"record": 0}'),
    "a record that is not there": head(record=1),
    "a record before the beginning": head(record=-1),
    "a record of no number": head(record="x"),
    "a record without end": framed(b'{"record": Infinity, "arrays": []}'),
    "a record of 10^400 bytes": framed(b'{"record": 1e400, "arrays": []}'),
    "more behind it": head() + b"x",
    "an array that is not there": head(arrays=[["sum", "<u4", 1]]),
    "half an array": head(arrays=[["sum", "<u4", 2]]) + bytes(7),
    "one byte more": head(arrays=[["sum", "<u4", 2]]) + bytes(9),
    "objects": head(arrays=[["sum", "|O", 1]]) + bytes(8),
    "text": head(arrays=[["sum", "<U2", 1]]) + bytes(8),
    "records": head(arrays=[["sum", "<u4,<u4", 1]]) + bytes(8),
    "big ends first": head(arrays=[["sum", ">u4", 1]]) + bytes(4),
    "doubles": head(arrays=[["sum", "<f8", 1]]) + bytes(8),
    "a kind of no kind": head(arrays=[["sum", 4, 1]]) + bytes(4),
    "a kind in a list": head(arrays=[["sum", ["<u4"], 1]]) + bytes(4),
    "a negative size": head(arrays=[["sum", "<u4", -1]]),
    "a size of true": head(arrays=[["sum", "<u4", True]]) + bytes(4),
    "a size of 1.0": head(arrays=[["sum", "<u4", 1.0]]) + bytes(4),
    "a size of 2^70": head(arrays=[["sum", "<u4", 2**70]]),
    "a size that wraps": head(arrays=[["sum", "<u8", 2**61]]),
    "a name twice": head(arrays=[["sum", "<u4", 0], ["sum", "<u4", 0]]),
    "a name of no text": head(arrays=[[3, "<u4", 0]]),
    "a name in a list": head(arrays=[[["sum"], "<u4", 0]]),
    "an array of one thing": head(arrays=["sum"]),
    "an array of four things": head(arrays=[["sum", "<u4", 0, 0]]),
    "arrays of a number": head(arrays=3),
}


@pytest.mark.parametrize("message", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_message_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError, match="between courier and agent is damaged") as caught:
        unpack(message)
    assert "Nothing was released." in str(caught.value)


def test_no_part_of_a_message_can_be_left_out() -> None:
    message = pack(b"record", {"sum": np.arange(3, dtype=np.uint32)})
    for end in range(len(message)):
        with pytest.raises(ProtocolError):
            unpack(message[:end])


def test_damage_is_answered_and_the_agent_lives_on(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def note(record: bytes, arrays: Any) -> tuple[bytes, Any]:
        asked.append(record)
        return record, {}

    with served(tmp_path / "agent.sock", note) as path:
        for message in (b"", b"\xff" * 99, DAMAGED["objects"], pack(b"x", {})[:-1]):
            with pytest.raises(grpc.RpcError) as caught:
                raw(path, message)
            assert "Nothing was released." in caught.value.details()
        assert asked == []  # none of it came as far as the agent
        assert unpack(raw(path, pack(b"well", {})))[0] == b"well"
    assert asked == [b"well"]


def test_an_agent_is_asked_one_thing_at_a_time(tmp_path: Path) -> None:
    busy, most, lock = 0, 0, threading.Lock()

    def slow(record: bytes, arrays: Any) -> tuple[bytes, Any]:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        threading.Event().wait(0.05)
        with lock:
            busy -= 1
        return record, {}

    with served(tmp_path / "agent.sock", slow) as path:
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda n=number: found.append(call(path)(str(n).encode(), {})[0]))
            for number in range(WAITING)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(found) == [str(number).encode() for number in range(WAITING)]
    assert most == 1


def test_nobody_behind_the_socket_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError):
        call(tmp_path / "agent.sock")(b"", {})
    with served(tmp_path / "agent.sock", echo) as path:
        pass
    with pytest.raises(grpc.RpcError):
        call(path)(b"", {})


def test_a_courier_waits_for_an_agent_that_is_being_started_anew(tmp_path: Path) -> None:
    with served(tmp_path / "agent.sock", echo) as path:
        pass
    found: list[bytes] = []
    waiting = threading.Thread(target=lambda: found.append(call(path, 60.0)(b"late", {})[0]))
    waiting.start()
    time.sleep(1.0)
    assert not found
    with served(path, echo):
        waiting.join(60)
    assert found == [b"late"]
    with pytest.raises(grpc.FutureTimeoutError):
        call(path, 0.5)(b"", {})


def test_a_real_agent_answers_over_its_socket_as_it_does_in_the_process(tmp_path: Path) -> None:
    study = Study.from_text(federation.STUDY, "study.toml")
    together = federation.Together(federation.write_federation(tmp_path / "f") / "sites", study)
    agent = together.agents["north"]
    enrol = Request(kind="enroll", run=together.run, study=study.fingerprint(), sites=3, text=study.canonical())
    with served(tmp_path / "agent.sock", agent.handle) as path:
        handle = connect({"socket": str(path), "site": "nobody"})
        reply = parse_reply(handle(dump(enrol), {})[0])
        assert (reply.ok, reply.site) == (True, "north")
        reply = parse_reply(handle(b"\x80\x04K\x01.", {})[0])
        assert (reply.ok, reply.code) == (False, "PM500")
    assert isinstance(agent, Agent)


def test_the_courier_loads_nothing_that_reads_patients() -> None:
    """And stays small: it runs all the time, and beside the agent."""
    heavy = ("torch", "opacus", "pandas", "monai", "scipy", "sqlite3", "dp_accounting")
    ours = (
        "pmfed_client.agent.agent",
        "pmfed_client.site.site",
        "pmfed_client.ledger.ledger",
        "pmfed.cohort",
        "pmfed.models",
        "pmfed.tasks",
    )
    code = (
        f"import sys, pmfed_client.connection.courier; print([name for name in {heavy + ours} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

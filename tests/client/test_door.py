"""Who may ask the agent: the system says who knocks, and strangers, floods and endless messages get nowhere."""

from __future__ import annotations

import logging
import os
import pwd
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pmfed_client.connection import channel as line
from pmfed_client.connection.channel import METHOD, OPTIONS, SERVICE, call, pack, serve, unpack
from pmfed_client.connection.peer_check import MOST, Door, peer

from pmfed.errors import RunError

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


def echo(record: bytes, arrays: Any) -> tuple[bytes, Any]:
    return record, arrays


def as_user(user: int, group: int, what: Callable[[], bool]) -> bool:
    """Whether something succeeds in a process of another user."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            os._exit(0 if what() else 1)
        except OSError:
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def knocks(path: Path) -> Callable[[], bool]:
    """Connect and say what an HTTP/2 client says first: gRPC answers it with its settings; the door with nothing."""

    def knock() -> bool:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(10)
            caller.connect(str(path))
            caller.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return len(caller.recv(9)) == 9

    return knock


def test_the_system_tells_who_knocks() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer(one) == os.geteuid()


@as_root
def test_another_user_is_turned_away_even_where_rights_would_let_it_in(folder: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "pmfed.site")
    server = serve(echo, folder / "agent.sock")
    try:
        knock = knocks(folder / "agent.sock")
        assert knock()
        assert not as_user(NOBODY.pw_uid, NOBODY.pw_gid, knock)  # the rights of the socket: 0600
        assert caplog.records == []
        os.chmod(folder / "agent.sock", 0o666)
        assert not as_user(NOBODY.pw_uid, NOBODY.pw_gid, knock)  # and, with those gone, the door
        assert f"user {NOBODY.pw_uid} knocked" in caplog.text
        assert call(folder / "agent.sock")(b"well", {})[0] == b"well"
        behind = [path for path in folder.iterdir() if path.name != "agent.sock"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in behind] == [0o600]  # no way round it
        assert not as_user(NOBODY.pw_uid, NOBODY.pw_gid, knocks(behind[0]))
    finally:
        server.stop(0).wait()
    assert list(folder.iterdir()) == []


@as_root
def test_the_nodes_user_may_come_in_and_only_it(folder: Path) -> None:
    other = next(one for one in pwd.getpwall() if one.pw_uid not in (0, NOBODY.pw_uid) and one.pw_gid != NOBODY.pw_gid)
    server = serve(echo, folder / "agent.sock", NOBODY.pw_name)
    try:
        told = (folder / "agent.sock").stat()
        assert (stat.S_IMODE(told.st_mode), told.st_gid) == (0o660, NOBODY.pw_gid)
        knock = knocks(folder / "agent.sock")
        assert as_user(NOBODY.pw_uid, NOBODY.pw_gid, knock)
        assert not as_user(other.pw_uid, NOBODY.pw_gid, knock)  # of the group, and yet not the node
        assert knock()  # the agent's own user
    finally:
        server.stop(0).wait()


@as_root
def test_a_group_the_agents_user_is_not_in_is_an_error_that_says_what_to_do(folder: Path) -> None:
    os.chmod(folder, 0o777)

    def opens() -> bool:
        try:
            Door(folder / "agent.sock", folder / "behind", {0}, group=0)
        except RunError as error:
            return "usermod" in error.remedy
        return False

    assert as_user(NOBODY.pw_uid, NOBODY.pw_gid, opens)


def test_a_user_that_does_not_exist_is_an_error(folder: Path) -> None:
    with pytest.raises(RunError, match="no user 'pmfed-nobody-has-this'"):
        serve(echo, folder / "agent.sock", "pmfed-nobody-has-this")


def test_a_flood_of_connections_and_garbage_stops_nothing_for_long(folder: Path) -> None:
    server = serve(echo, folder / "agent.sock")
    try:
        flood = []
        for number in range(6 * MOST):
            caller = socket.socket(socket.AF_UNIX)
            caller.settimeout(5)
            try:
                caller.connect(str(folder / "agent.sock"))
                caller.sendall(os.urandom(200) if number % 2 else b"PRI * HTTP/2.0\r\n")  # and then nothing
            except OSError:  # turned away already
                pass
            flood.append(caller)
        for caller in flood:
            caller.close()
        assert "well" in _patiently(folder / "agent.sock")
    finally:
        server.stop(0).wait()


def test_few_come_in_at_a_time_and_a_closed_door_lets_go_of_all(folder: Path) -> None:
    before = os.umask(0o022)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "agent.sock"))  # of a process that died
    with socket.socket(socket.AF_UNIX) as behind:
        behind.bind(str(folder / "behind"))
        behind.listen(8 * MOST)
        threading.Thread(target=_hold, args=(behind,), daemon=True).start()
        door = Door(folder / "agent.sock", folder / "behind", {os.geteuid()})
        assert os.umask(before) == 0o022  # what this process writes later is not for its owner alone
        callers = [_caller(folder) for _ in range(3 * MOST)]
        within = [caller for caller in callers if not _ended(caller)]
        assert len(within) == MOST
        within.pop().close()
        assert any(not _ended(_kept(callers, folder)) for _ in range(50))  # who leaves makes room
        door.close()
        assert all(_ended(caller, 10.0) for caller in within)
        assert not (folder / "agent.sock").exists()
    for caller in callers:
        caller.close()


def _hold(behind: socket.socket) -> None:
    """Take every connection, and end it when the other side does."""

    def wait(one: socket.socket) -> None:
        one.recv(1)
        one.close()

    while True:
        try:
            one, _ = behind.accept()
        except OSError:
            return
        threading.Thread(target=wait, args=(one,), daemon=True).start()


def _caller(folder: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(folder / "agent.sock"))
    return caller


def _kept(callers: list[socket.socket], folder: Path) -> socket.socket:
    callers.append(_caller(folder))
    return callers[-1]


def _ended(caller: socket.socket, seconds: float = 0.2) -> bool:
    """Whether the door has let go of a caller."""
    caller.settimeout(seconds)
    try:
        return caller.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _patiently(path: Path) -> str:
    """Ask until the door has noticed that the flood is over."""
    for _ in range(50):
        try:
            return call(path)(b"well", {})[0].decode()
        except grpc.RpcError:
            threading.Event().wait(0.1)
    return ""


def test_a_message_longer_than_any_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def note(record: bytes, arrays: Any) -> tuple[bytes, Any]:
        asked.append(len(record))
        return record, {}

    shorter = tuple((name, 1 << 20) for name, _ in OPTIONS)
    monkeypatch.setattr(line, "OPTIONS", shorter)
    server = serve(note, folder / "agent.sock")
    monkeypatch.undo()
    assert {value for _, value in OPTIONS} == {line.LARGEST}
    try:
        with grpc.insecure_channel(f"unix:{folder / 'agent.sock'}", options=OPTIONS) as channel:
            ask: Any = channel.unary_unary(f"/{SERVICE}/{METHOD}")
            with pytest.raises(grpc.RpcError) as caught:
                ask(bytes(2 << 20), timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert unpack(ask(pack(b"well", {}), timeout=20))[0] == b"well"
    finally:
        server.stop(0).wait()
    assert asked == [4]

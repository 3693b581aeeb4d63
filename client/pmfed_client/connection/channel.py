"""The line between courier and site agent: gRPC on a Unix socket, carrying bytes and flat arrays and nothing else.

Who may ask the agent: the socket's rights say it (0600, or the node's group where agent and node are two users), and the
door before it says it again, by asking the system who knocks. The agent believes the courier no more than it believes
the coordinator.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from pmfed.errors import ProtocolError, RunError
from pmfed.wire import MAX_RECORD, Arrays
from pmfed_client.connection.peer_check import Door

SERVICE, METHOD = "pmfed.Agent", "Handle"
DTYPES = ("<f4", "<u4", "<u8")
LONGEST = 100  # bytes of a socket's path; the system allows a little more
BEHIND = ".in"  # added to the path: where gRPC itself listens, for this process's user alone
LARGEST = 1 << 29  # bytes of a message: a model of 130 million parameters
WAITING = 4  # messages that may wait for their turn
AGAIN = ("grpc.max_reconnect_backoff_ms", 1000)
DIRECT = ("grpc.enable_http_proxy", 0)
Handler = Callable[[bytes, Arrays], tuple[bytes, Arrays]]
OPTIONS = (("grpc.max_send_message_length", LARGEST), ("grpc.max_receive_message_length", LARGEST))


def pack(record: bytes, arrays: Arrays) -> bytes:
    """Return one message: four bytes of length, a JSON header, the record, the arrays."""
    little = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    told = {"record": len(record), "arrays": [[name, a.dtype.str, a.size] for name, a in little.items()]}
    header = json.dumps(told).encode()
    return b"".join([len(header).to_bytes(4, "big"), header, record, *(a.data for a in little.values())])


def unpack(message: bytes) -> tuple[bytes, dict[str, npt.NDArray[Any]]]:
    """Read a message strictly; the arrays are views of it.

    Raises
    ------
    ProtocolError
        It is not one: lengths that do not add up, an unknown kind of number, a header too long.
    """
    try:
        start = 4 + int.from_bytes(message[:4], "big")
        if start > MAX_RECORD:
            raise ValueError
        header = json.loads(message[4:start])
        end = start + int(header["record"])
        record = message[start:end]
        arrays = {}
        for name, kind, size in header["arrays"]:
            if kind not in DTYPES or type(size) is not int or size < 0 or name in arrays or type(name) is not str:
                raise ValueError
            arrays[name] = np.frombuffer(message, np.dtype(kind), size, end)
            end += size * np.dtype(kind).itemsize
        if end != len(message) or len(record) != header["record"]:
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ProtocolError("a message between courier and agent is damaged. Nothing was released.") from None
    return record, arrays


def check_length(path: Path) -> None:
    """Raise RunError when a socket's path is longer than the system allows."""
    if len(os.fsencode(path)) > LONGEST:
        raise RunError(
            f"{path}: a socket's path may have {LONGEST} bytes.", "Put the site into a folder nearer the root."
        )


class Served:
    """An agent that answers behind a door, until it is stopped."""

    def __init__(self, server: grpc.Server, door: Door, behind: Path) -> None:
        self._server, self._door, self._behind = server, door, behind

    def stop(self, grace: float | None) -> Served:
        """Take no more messages, and let what is being answered be answered for so many seconds."""
        self._ended = self._server.stop(grace)
        return self

    def wait(self) -> None:
        """Return once all has ended; the sockets are gone then."""
        self._ended.wait()
        self._door.close()
        self._behind.unlink(missing_ok=True)


def serve(handle: Handler, path: Path, node_user: str | None = None) -> Served:
    """Answer on a socket, one message at a time, until the server is stopped.

    Parameters
    ----------
    handle
        `Agent.handle`.
    path
        The socket; one left by a process that died is replaced.
    node_user
        The system user that the courier runs as, if it is not this process's own.

    Raises
    ------
    RunError
        The path is too long, or there is no such user.
    """
    behind = path.with_name(path.name + BEHIND)
    check_length(path)
    users, group = {os.geteuid()}, None
    if node_user is not None:
        try:
            known = pwd.getpwnam(node_user)
        except KeyError:
            raise RunError(f"there is no user '{node_user}' on this machine.", "See [agent] in site.toml.") from None
        users.add(known.pw_uid)
        group = known.pw_gid
    behind.unlink(missing_ok=True)

    def answer(message: bytes, _: grpc.ServicerContext) -> bytes:
        return pack(*handle(*unpack(message)))

    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=OPTIONS, maximum_concurrent_rpcs=WAITING)
    handler = grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(answer)})
    server.add_generic_rpc_handlers((handler,))
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{behind}")
        server.start()
    finally:
        os.umask(before)
    return Served(server, Door(path, behind, users, group), behind)


def call(path: Path, wait: float = 0.0) -> Handler:
    """Return a handler that asks the agent behind a socket.

    Parameters
    ----------
    path
        The socket.
    wait
        Seconds that an agent which does not answer, because it is being started anew, gets to come back.
    """

    def handle(record: bytes, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, Arrays]:
        with grpc.insecure_channel(f"unix:{path}", options=(*OPTIONS, AGAIN, DIRECT)) as channel:
            if wait:
                grpc.channel_ready_future(channel).result(wait)
            ask: Any = channel.unary_unary(f"/{SERVICE}/{METHOD}")
            return unpack(ask(pack(record, arrays), wait_for_ready=False))

    return handle

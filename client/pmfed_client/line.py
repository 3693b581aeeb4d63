"""The line between courier and site agent: gRPC on a Unix socket, carrying bytes and flat arrays and nothing else.

Whoever may open the socket may ask the agent; the folder it lies in and its own rights (0600) decide who that is. The
agent believes the courier no more than it believes the coordinator.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from pmfed.errors import ProtocolError, RunError
from pmfed.wire import MAX_RECORD, Arrays

SERVICE, METHOD = "pmfed.Agent", "Handle"
DTYPES = ("<f4", "<u4", "<u8")
LONGEST = 100  # bytes of a socket's path; the system allows a little more
Handler = Callable[[bytes, Arrays], tuple[bytes, Arrays]]
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


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
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ProtocolError("a message between courier and agent is damaged. Nothing was released.") from None
    return record, arrays


def check_length(path: Path) -> None:
    """Raise RunError when a socket's path is longer than the system allows."""
    if len(os.fsencode(path)) > LONGEST:
        raise RunError(
            f"{path}: a socket's path may have {LONGEST} bytes.", "Put the site into a folder nearer the root."
        )


def serve(handle: Handler, path: Path) -> grpc.Server:
    """Answer on a socket, one message at a time, until the server is stopped.

    Parameters
    ----------
    handle
        `Agent.handle`.
    path
        The socket; one left by a process that died is replaced.
    """
    check_length(path)
    path.unlink(missing_ok=True)

    def answer(message: bytes, _: grpc.ServicerContext) -> bytes:
        return pack(*handle(*unpack(message)))

    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=OPTIONS)
    handler = grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(answer)})
    server.add_generic_rpc_handlers((handler,))
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        server.start()
    finally:
        os.umask(before)
    return server


def call(path: Path) -> Handler:
    """Return a handler that asks the agent behind a socket."""

    def handle(record: bytes, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, Arrays]:
        with grpc.insecure_channel(f"unix:{path}", options=OPTIONS) as channel:
            ask: Any = channel.unary_unary(f"/{SERVICE}/{METHOD}")
            return unpack(ask(pack(record, arrays), wait_for_ready=False))

    return handle

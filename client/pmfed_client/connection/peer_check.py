"""The door before the agent's socket: who knocks is looked at before gRPC hears of it.

gRPC for Python does not tell a service which user is at the other end of a Unix socket; the system does (SO_PEERCRED,
unix(7)). So the door listens where the courier knocks, asks the system who it is, and passes on bytes, and only for those
who may, to the socket behind it, on which gRPC listens for this process's own user alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Collection
from pathlib import Path

from pmfed.errors import RunError

log = logging.getLogger("pmfed.site")

MOST = 8  # connections at a time; a courier needs one
PIECE = 1 << 20  # bytes that are passed on at once
_PEER = struct.Struct("3i")  # process, user, group


class Door:
    """Passes on connections to a socket, of some users only.

    Parameters
    ----------
    path
        Where to listen; a socket left by a process that died is replaced.
    behind
        The socket that connections are passed on to.
    users
        Numbers of the users who may come in.
    group
        Whose members may open ``path``, beside its owner; None: nobody.

    Raises
    ------
    RunError
        The group cannot be given the socket.

    Guarantee
    ---------
    Not one byte of a connection by another user reaches what is behind. On a system that does not tell who is at the other
    end, which Linux does, the rights of ``path`` alone decide.
    """

    def __init__(self, path: Path, behind: Path, users: Collection[int], group: int | None = None) -> None:
        self.path, self.behind, self.users = path, behind, frozenset(users)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(before)
        if group is not None:
            try:
                os.chown(path, -1, group)
                os.chmod(path, 0o660)
            except OSError as error:
                self._listener.close()
                raise RunError(
                    f"{path}: cannot be given to the node's group ({error.strerror}).",
                    "The agent's user must be a member of that group: usermod -aG GROUP USER, then start it anew.",
                ) from None
        self._listener.listen(MOST)
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more, and end what goes on."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            user = peer(caller)
            if user is not None and user not in self.users:
                log.warning("user %d knocked at the agent's socket and was turned away", user)
                caller.close()
                continue
            with self._lock:
                crowded = len(self._open) >= 2 * MOST
            if crowded or not self._let_in(caller):
                caller.close()

    def _let_in(self, caller: socket.socket) -> bool:
        inner = socket.socket(socket.AF_UNIX)
        try:
            inner.connect(str(self.behind))
        except OSError:
            inner.close()
            return False
        with self._lock:
            self._open |= {caller, inner}
        pair = [
            threading.Thread(target=_pass_on, args=ends, daemon=True) for ends in ((caller, inner), (inner, caller))
        ]
        for thread in pair:
            thread.start()
        threading.Thread(target=self._end, args=(pair, caller, inner), daemon=True).start()
        return True

    def _end(self, pair: list[threading.Thread], *ends: socket.socket) -> None:
        for thread in pair:
            thread.join()
        with self._lock:
            self._open -= set(ends)
        for end in ends:
            end.close()


def peer(connection: socket.socket) -> int | None:
    """Return the user at the other end of a Unix socket, as it was when it connected; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(user)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Pass on bytes until the source has no more, then say so to the target; either end's failure ends both."""
    piece = memoryview(bytearray(PIECE))
    try:
        while count := source.recv_into(piece):
            target.sendall(piece[:count])
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

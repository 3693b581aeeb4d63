"""A hospital's proxy: passes on CONNECT (RFC 9110, section 9.3.6) to the hosts it knows, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping

HEAD = 1 << 14  # bytes


class ConnectProxy:
    """Listens on the loopback interface until it is closed.

    Parameters
    ----------
    hosts
        By name, the address that it connects to; who asks it does not look the name up. Others are answered 403.

    Attributes
    ----------
    asked
        All that was said to it before a tunnel began, a text per connection.
    """

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self.hosts = dict(hosts)
        self.asked: list[str] = []
        self.tunnels = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What a program is told of it, in every spelling."""
        url = f"http://127.0.0.1:{self.port}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        return {spelled: url for name in names for spelled in (name, name.upper())} | {"no_proxy": "", "NO_PROXY": ""}

    @property
    def lines(self) -> set[str]:
        """The first line of each thing it was asked."""
        return {asked.split("\r\n")[0] for asked in self.asked}

    def close(self) -> None:
        """Listen no longer."""
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with contextlib.suppress(OSError), caller:
            said = b""
            while b"\r\n\r\n" not in said and len(said) < HEAD:
                piece = caller.recv(4096)
                if not piece:
                    break
                said += piece
            self.asked.append(said.decode("latin-1"))
            how, _, rest = said.decode("latin-1").partition(" ")
            host, _, port = rest.split(" ")[0].rpartition(":")
            if how != "CONNECT" or host not in self.hosts:
                caller.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection((self.hosts[host], int(port))) as there:
                caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                self.tunnels += 1
                threading.Thread(target=_pass_on, args=(caller, there), daemon=True).start()
                _pass_on(there, caller)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

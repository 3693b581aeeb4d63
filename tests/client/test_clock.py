"""A site sees by itself that its clock is wrong: nobody else would tell it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from connect import ConnectProxy
from flwr.common import constant
from pmfed_client.connection.clock import AHEAD, BEHIND, ahead, coordinator_line
from pmfed_client.connection.node import Node
from pmfed_client.site.create import make_home
from pmfed_server import certificates
from pmfed_server.coordinator import spelled
from pmfed_server.serving import has_ipv6

from pmfed.cli import main

HOUR = 3600.0


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Return a way to run an HTTPS server whose clock differs from ours; its certificate is of its time, not of ours."""
    servers: list[HTTPServer] = []

    def begin(
        seconds: float, told: str | None = None, names: Sequence[str] = ("localhost",), host: str = "127.0.0.1"
    ) -> Node:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return datetime.fromtimestamp(time.time() + seconds, UTC)

        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response_only(404)
                self.send_header("Date", told or formatdate(time.time() + seconds, usegmt=True))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        monkeypatch.setattr(certificates, "datetime", Clock)
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        certificates.make_authority(folder)
        certificates.issue(folder, "server", names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        kind = type("Server", (HTTPServer,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
        server = kind((host, 0), Answer)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return Node(
            spelled("localhost" if host == "127.0.0.1" else host, server.server_port),
            folder / "ca.crt",
            folder,
            folder,
            folder,
        )

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("seconds", [0.0, 3 * HOUR, -3 * HOUR, -4000 * 24 * HOUR], ids=str)
def test_the_difference_is_seen_though_the_certificate_is_not_valid_by_our_clock(
    coordinator: Callable[..., Node], seconds: float
) -> None:
    assert abs(ahead(coordinator(seconds)) + seconds) < 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "answers, and the clocks agree"),
        (240, "answers, and the clocks agree"),  # four minutes behind: Flower lets five pass
        (-30, "CLOCK is 30 s AHEAD of the coordinator's"),
        (600, "CLOCK is 10 min BEHIND the coordinator's"),
        (-2.5 * HOUR, "CLOCK is 2 h 30 min AHEAD of the coordinator's"),
    ],
)
def test_it_is_said_which_way_and_by_how_much(coordinator: Callable[..., Node], seconds: float, said: str) -> None:
    line = coordinator_line(coordinator(seconds))
    assert said in line.replace(" 29 s ", " 30 s ").replace(" 31 s ", " 30 s ")


def test_it_is_asked_by_way_of_the_proxy_that_the_node_takes(
    coordinator: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = coordinator(0, names=["hub.example.org"])
    proxy = ConnectProxy({"hub.example.org": "127.0.0.1"})
    there = replace(node, address=node.address.replace("localhost", "hub.example.org"))
    for name in proxy.environment:
        monkeypatch.delenv(name, raising=False)
    assert "NOT REACHED" in coordinator_line(there)  # nobody else knows that name
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:word@127.0.0.1:{proxy.port}")
    line = coordinator_line(there)
    assert (
        line
        == f"coordinator at {there.address} by way of the proxy 127.0.0.1:{proxy.port}: answers, and the clocks agree"
    )
    assert proxy.lines == {f"CONNECT {there.address} HTTP/1.1"}
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert "NOT REACHED" in coordinator_line(there)
    monkeypatch.setenv("NO_PROXY", "")
    proxy.hosts.clear()
    assert "NOT REACHED (403 Forbidden" in coordinator_line(there)
    local = coordinator(0)
    assert coordinator_line(local) == f"coordinator at {local.address}: answers, and the clocks agree"
    proxy.close()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_it_is_asked_by_ipv6(coordinator: Callable[..., Node]) -> None:
    node = coordinator(0, names=["::1"], host="::1")
    assert coordinator_line(node) == f"coordinator at {node.address}: answers, and the clocks agree"


def test_whoever_is_not_of_our_authority_is_not_believed(coordinator: Callable[..., Node]) -> None:
    one, other = coordinator(0), coordinator(0)
    misled = Node(one.address, other.certificate, other.key, other.home, other.socket)
    with pytest.raises(OSError, match="certificate verify failed"):
        ahead(misled)
    assert "NOT REACHED" in coordinator_line(misled)
    assert "certificate" in coordinator_line(misled)
    named = Node(one.address.replace("localhost", "127.0.0.1"), one.certificate, one.key, one.home, one.socket)
    assert "NOT REACHED" in coordinator_line(named)  # the certificate is for another name


@pytest.mark.parametrize("held", [None, b"", b"no certificate"])
def test_a_file_that_is_no_certificate_is_named(
    coordinator: Callable[..., Node], tmp_path: Path, held: bytes | None
) -> None:
    node = replace(coordinator(0), certificate=tmp_path / "ours.crt")
    if held is not None:
        node.certificate.write_bytes(held)
    assert f"NOT REACHED ({node.certificate} is not there, or no certificate)" in coordinator_line(node)


@pytest.mark.parametrize("told", ["noon", "Thu, 99 Foo 2026 10:00:00 GMT", "-"])
def test_an_answer_that_tells_no_time_is_no_answer(coordinator: Callable[..., Node], told: str) -> None:
    assert "NOT REACHED (its answer does not tell the time" in coordinator_line(coordinator(0, told))


def test_status_tells(
    coordinator: Callable[..., Node],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = coordinator(-HOUR)
    site = make_home(tmp_path / "north", "north").folder
    (site / "ca.crt").write_bytes(node.certificate.read_bytes())
    with (site / "site.toml").open("a") as file:
        file.write(f'[coordinator]\naddress = "{node.address}"\n')
    monkeypatch.setattr("sys.argv", ["pmfed", "site", "status", str(site)])
    main()
    assert "1 h 0 min AHEAD of the coordinator's" in capsys.readouterr().out


def test_what_is_let_pass_is_what_flower_lets_pass() -> None:
    assert (AHEAD, BEHIND) == (constant.SYSTEM_TIME_TOLERANCE, constant.TIMESTAMP_TOLERANCE)

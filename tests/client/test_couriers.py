"""The courier's side of its talk with Flower's SuperNode, which is played here; tests/e2e has the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from connect import ConnectProxy
from flwr.proto.runtime_pb2 import AcquireTaskResponse, PushTaskOutputRequest, SendTaskHeartbeatResponse
from flwr.supercore.constant import TASK_TOKEN_HEADER


class SuperNode(ThreadingHTTPServer):
    """Hands out two messages; the content of neither ever comes, as when a run is stopped while it sends them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.tasks = ["first", "second"]
        self.waiting: list[str] = []
        self.ended: list[tuple[str, str]] = []


class _Answers(BaseHTTPRequestHandler):
    server: SuperNode

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        token, answer = self.headers.get(TASK_TOKEN_HEADER, ""), b""
        if self.path.endswith("/acquire-task") and self.server.tasks:
            told = AcquireTaskResponse(token=self.server.tasks.pop(0))
            told.task.task_id = 1
            answer = told.SerializeToString()
        elif self.path.endswith("/send-task-heartbeat"):
            answer = SendTaskHeartbeatResponse(success=True).SerializeToString()
        elif self.path.endswith("/pull-task-input"):
            self.server.waiting.append(token)
            time.sleep(600)
        elif self.path.endswith("/push-task-output"):
            self.server.ended.append((token, PushTaskOutputRequest.FromString(body).sub_status))
        self.send_response(200)
        self.send_header("content-type", "application/protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[SuperNode]:
    with SuperNode() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("exempt", [{}, {"no_proxy": "example.org"}, {"NO_PROXY": "example.org"}], ids=str)
def test_no_proxy_sees_what_authorises_a_courier(node: SuperNode, tmp_path: Path, exempt: dict[str, str]) -> None:
    """It speaks with this machine alone, whatever the environment says of proxies."""
    (tmp_path / "secret").write_text("5" * 64)
    proxy = ConnectProxy({})
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    named = {name: value for name, value in proxy.environment.items() if value}
    courier = subprocess.Popen(
        [sys.executable, "-m", "pmfed_client.connection.courier", f"127.0.0.1:{node.server_port}", str(tmp_path / "secret")],
        stderr=subprocess.PIPE, start_new_session=True, env={**environment, **named, **exempt},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "first" not in node.waiting and not proxy.asked:
            assert courier.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert proxy.asked == []
        assert "first" in node.waiting
    finally:
        os.killpg(courier.pid, signal.SIGKILL)
        courier.communicate()
        proxy.close()


def test_a_message_whose_content_never_comes_is_given_up_in_words(node: SuperNode, tmp_path: Path) -> None:
    """Else Flower would answer it a minute later, in the place of another, and every answer after that came one late."""
    (tmp_path / "secret").write_text("5" * 64)
    courier = subprocess.Popen(
        [sys.executable, "-m", "pmfed_client.connection.courier", f"127.0.0.1:{node.server_port}", str(tmp_path / "secret")],
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "second" not in node.waiting:
            assert courier.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert node.ended == [("first", "failed")]
    finally:
        os.killpg(courier.pid, signal.SIGKILL)
        courier.communicate()

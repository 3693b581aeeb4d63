"""Memory that is freed stays with the process, wherever pmfed trains."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pmfed.memory import keep_freed
from pmfed.processes import THRIFTY

MEASURE = """
import resource
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = bytearray(64 << 20)
        block[::4096] = bytes(len(block) // 4096)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
MAIN = """
import sys
from pmfed import cli
sys.argv = ["pmfed", "--version"]
cli.main()
"""
FORK = """
import os
if child := os.fork():
    os.waitpid(child, 0)
    os._exit(0)
"""
FEW = 200  # of the 20 * 16384 pages touched (20 * 32 where pages are huge)

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not os.confstr("CS_GNU_LIBC_VERSION"), reason="another C library"
)


def faults(code: str, **environment: str) -> int:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE + code + "\nprint(faults())"],
        env={**known, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout.split()[-1])


@glibc
def test_without_it_every_block_is_mapped_anew() -> None:
    assert faults("") > 3 * FEW


@glibc
@pytest.mark.parametrize("code", [MAIN, "from pmfed.memory import keep_freed; assert keep_freed()"])
@pytest.mark.parametrize("fork", ["", FORK])
def test_the_command_line_and_what_it_forks_keep_their_memory(code: str, fork: str) -> None:
    assert faults("\n".join(("faults()", code, "faults()", fork, "faults()"))) < FEW


@glibc
def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "131072")
        assert not keep_freed()
        monkeypatch.delenv(name)
    assert faults(MAIN, MALLOC_MMAP_THRESHOLD_="131072") > 3 * FEW


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: None)
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert not keep_freed()


ASK = """
import http.server, threading, weakref, httpx
class Echo(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("content-length", str(8 << 20))
        self.end_headers()
        self.wfile.write(bytes(8 << 20))
    def log_message(self, *_): ...
server = http.server.HTTPServer(("127.0.0.1", 0), Echo)
threading.Thread(target=server.serve_forever, daemon=True).start()
client, answers, most = httpx.Client(), weakref.WeakSet(), 0
client.post(f"http://127.0.0.1:{server.server_port}")
for _ in range(60):
    answers.add(client.post(f"http://127.0.0.1:{server.server_port}"))
    most = max(most, len(answers))
print(most)
"""


def test_answers_that_are_done_with_do_not_pile_up() -> None:
    """As those of Flower's HTTP client do, with megabytes each."""

    def kept(code: str) -> int:
        known = {**os.environ, **THRIFTY}  # as the coordinator's programs run
        done = subprocess.run([sys.executable, "-c", code + ASK], env=known, capture_output=True, text=True, check=True)
        return int(done.stdout)

    # Three beside sixteen; a few more where the watching thread waits for a busy processor.
    assert 2 * kept("from pmfed.memory import let_go_early; let_go_early()") <= kept("")

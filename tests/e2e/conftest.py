"""Whole runs from the command line, on a federation of three tiny sites."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import federation
import pytest
from breaking import Federation

from pmfed.cli import main

TIMEOUT = 120.0


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def fed(tmp_path: Path) -> Path:
    """Return a folder with study.toml and sites/."""
    return federation.write_federation(tmp_path / "fed")


@pytest.fixture
def pmfed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Return the command line, called in this process: what it forks writes to the same place."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["pmfed", *map(str, words)])
        # pytest keeps log records to itself; without it warnings go to stderr.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return run


@dataclass
class Started:
    """A real process of the command line, in a session of its own."""

    process: subprocess.Popen[str]

    def interrupt(self) -> None:
        """Press Ctrl-C: the signal goes to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Said:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=TIMEOUT)
        return Said(self.process.returncode, out, err)


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[..., Started]:
    """Return a way to start real processes; what is left of them is killed when the test ends."""

    def begin(*words: object, before: str = "") -> Started:
        # A shell's background ignores Ctrl-C and hands that on to all it starts; the tests may run there.
        heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{heed}\n{before}\nfrom pmfed.cli import main\nmain()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

        def stop() -> None:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)  # it stops what it has forked
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=15)
                process.kill()

        request.addfinalizer(stop)
        return Started(process)

    return begin


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Return a federation of real processes, all of them running, which the tests of a file break one after the other."""
    there = Federation(tmp_path_factory.mktemp("f"))
    try:
        there.d.start_coordinator()
        there.start()
        yield there
    finally:
        there.end()


@pytest.fixture
def broken(hospitals: Federation) -> Iterator[Federation]:
    """Every test begins with sites that are well, and ends without a patient's data anywhere."""
    hospitals.ready()
    yield hospitals
    hospitals.check_canaries()

"""Programs that must keep running: started in order, started anew when they end, stopped together.

A hospital's site and a coordinator each run a few programs, some of them Flower's. One process keeps them, so that one
signal stops all and one file says how they are. It listens to nothing and knows nothing of what they do.

``python -m pmfed.processes FOLDER PROGRAMS`` keeps them in a process that has loaded nothing else (`hand_over`);
``python -m pmfed.processes check FOLDER`` tells by its exit code whether all of them run.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pmfed.errors import RunError, UsageError

LOCK, STATUS = "running.lock", "running.json"
LOOK = 0.2  # seconds between two looks at the programs
SHORTEST, LONGEST = 0.5, 30.0  # seconds before a program is started anew, doubled each time it ends soon
ENOUGH = 10_000_000  # bytes of a log; what is longer is put aside
ASIDE = 3  # logs that were put aside and are kept: LOG.1 is the newest
WELL = 60.0  # seconds after which a program counts as having come up
GRACE = 10.0  # seconds a program may take to stop
THRIFTY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "2"}
"""For programs that pass models on in pieces of 5 MB: else glibc keeps such blocks once they are freed, for each thread apart."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """One program that is kept running.

    Parameters
    ----------
    name
        For people.
    command, environment, folder
        What is started, with which variables beside those of its keeper, in which working directory.
    log
        Its output is appended to this file, which is put aside when it is long (`rotate`).
    after
        Started only once this file is there, or somebody listens on this port of the loopback interface.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    log: str
    after: str | int = ""

    def may_start(self) -> bool:
        """Whether what it waits for is there."""
        return listens(self.after) if isinstance(self.after, int) else not self.after or Path(self.after).exists()


@dataclass
class _Kept:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    due: float = 0.0
    pause: float = SHORTEST
    starts: int = 0
    last: int | None = None
    told: dict[str, Any] = field(default_factory=dict)


def no_proxies() -> dict[str, str]:
    """Return what a program must have in its environment that speaks with this machine alone: no proxy is ever asked.

    Python's own look-up (`urllib.request.getproxies`, which httpx uses, too) takes a variable that is empty for none, and the
    one in small letters before the other; so both are emptied.
    """
    names = ("http_proxy", "https_proxy", "all_proxy")
    return {**past_proxies(), **{spelled: "" for name in names for spelled in (name, name.upper())}}


def past_proxies() -> dict[str, str]:
    """Return what a program must have in its environment that may use a proxy, but never for this machine itself."""
    said = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = dict.fromkeys([*(host.strip() for host in said.split(",") if host.strip()), *LOOPBACK])
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts))


def flower_environment(home: Path, proxies: bool = False) -> dict[str, str]:
    """Return what Flower's programs need in their environment: files below ``home``, no telemetry, nothing fetched.

    With ``proxies`` the program may reach other machines through one that the environment names; no program asks one for
    this machine itself, because what authorises it there would pass through.
    """
    tools = str(Path(sys.executable).parent)  # where flwr and its helpers are installed, beside this Python
    return {
        "PATH": tools + os.pathsep + os.environ.get("PATH", ""),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # once a run; each look costs the SuperLink 20 ms of a processor
        "RAY_USAGE_STATS_ENABLED": "0",
        **(past_proxies() if proxies else no_proxies()),
    }


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a port of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def keep(folder: Path, programs: Sequence[Program], every: Callable[[], None] = lambda: None) -> None:
    """Keep programs running until this process is asked to stop (SIGTERM or SIGINT), then stop them.

    Parameters
    ----------
    folder
        Holds the lock, so that they run once only, and running.json, which says how they are.
    programs
        In the order in which they are started; stopped in the reverse one.
    every
        Called at every look, five times a second.

    Raises
    ------
    UsageError
        They run already.
    """
    with _locked(folder), _stoppable() as stopped:
        kept = [_Kept(program) for program in programs]
        before = ""
        try:
            while not stopped():
                for one in kept:
                    _look_after(one)
                every()
                told = json.dumps({"pid": os.getpid(), "programs": {one.program.name: one.told for one in kept}})
                if told != before:
                    with contextlib.suppress(OSError):  # a full disk must not stop them; at the next look, again
                        _write(folder / STATUS, told)
                        before = told
                time.sleep(LOOK)
        finally:
            _stop([one.process for one in reversed(kept) if one.process is not None])
            (folder / STATUS).unlink(missing_ok=True)


def hand_over(folder: Path, programs: Sequence[Program], saying: str = "") -> NoReturn:
    """Say that they run, and become the process that keeps programs, and nothing else: what was loaded is let go of.

    Raises
    ------
    UsageError
        They run already.
    """
    if running(folder) is not None:
        raise UsageError(f"{folder}: is running already.", "See how it is, or stop it first.")
    told = json.dumps([asdict(program) for program in programs])
    if saying:
        print(saying)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pmfed.processes", str(folder), told])


def running(folder: Path) -> dict[str, Any] | None:
    """Return what running.json says, or None when nothing is kept running in a folder."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        try:
            return dict(json.loads((folder / STATUS).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {"pid": 0, "programs": {}}
    return None


def status_lines(folder: Path) -> list[str]:
    """Return how the programs of a folder are, a line each, for people."""
    found = running(folder)
    if found is None:
        return ["  not running"]
    lines = []
    for name, told in found["programs"].items():
        state = "waiting to start"
        if told.get("pid"):
            state = f"running since {told['since']}, process {told['pid']}"
        if told.get("starts", 0) > 1 or (told and not told.get("pid")):
            state += f", started {told['starts']} times; last ended with code {told['ended_with']}"
        lines.append(f"  {name:<12} {state}")
    return lines


def stop_kept(folder: Path) -> bool:
    """Ask whoever keeps the programs of a folder to stop, and wait; False when nothing ran.

    Raises
    ------
    RunError
        It did not stop in time.
    """
    found = running(folder)
    if found is None:
        return False
    deadline = time.monotonic() + 3 * GRACE
    while found is not None:
        if found["pid"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(found["pid"]), signal.SIGTERM)
        if time.monotonic() > deadline:
            raise RunError(f"{folder}: process {found['pid']} does not stop.", "Look at it, then stop it by hand.")
        time.sleep(LOOK)
        found = running(folder)
    return True


def _look_after(one: _Kept) -> None:
    with contextlib.suppress(OSError):  # a full disk must not stop what keeps the programs
        rotate(Path(one.program.log))
    now = time.monotonic()
    if one.process is not None:
        code = one.process.poll()
        if code is None:
            return
        one.pause = SHORTEST if now - one.since > WELL else min(2 * one.pause, LONGEST)
        one.process, one.last, one.due = None, code, now + one.pause
        one.told = {"pid": None, "starts": one.starts, "ended_with": code}
    if now < one.due or not one.program.may_start():
        return
    with Path(one.program.log).open("ab") as log:
        # A session of its own: a signal reaches all that it starts, and Ctrl-C reaches the keeper alone.
        one.process = subprocess.Popen(
            one.program.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, **one.program.environment}, cwd=one.program.folder, start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    one.since, one.starts = now, one.starts + 1
    started = datetime.now(UTC).isoformat(timespec="seconds")
    one.told = {"pid": one.process.pid, "starts": one.starts, "since": started, "ended_with": one.last}


def rotate(log: Path) -> None:
    """Put a log aside once it is long enough.

    What is in it is copied and the file emptied, because its program goes on writing into it, at its end; a line written
    just between the two is lost.
    """
    if not log.exists() or log.stat().st_size < ENOUGH:
        return
    for number in range(ASIDE - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    aside = log.with_name(f"{log.name}.1")
    aside.touch(mode=0o600)
    shutil.copyfile(log, aside)
    os.truncate(log, 0)


def _die_with_parent() -> None:
    """Linux ends the program when its keeper is killed, so that no second one finds it still at work."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop processes and everything they started: first asked, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))


@contextlib.contextmanager
def _locked(folder: Path) -> Any:
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: is running already.", "See how it is, or stop it first.") from None
        yield


@contextlib.contextmanager
def _stoppable() -> Any:
    """Turn SIGTERM and SIGINT into a flag, so that the programs are stopped in order."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def all_well(folder: Path) -> bool:
    """Whether every program of a folder runs at this moment (for a container's health check)."""
    found = running(folder)
    return found is not None and bool(found["programs"]) and all(told.get("pid") for told in found["programs"].values())


if __name__ == "__main__":
    if sys.argv[1] == "check":
        sys.exit(not all_well(Path(sys.argv[2])))
    keep(Path(sys.argv[1]), [Program(**told) for told in json.loads(sys.argv[2])])

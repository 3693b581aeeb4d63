"""Programs are kept running, once only, and leave nothing behind when they are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from connect import ConnectProxy

from pmfed import processes
from pmfed.errors import UsageError
from pmfed.processes import Program, all_well, free_port, hand_over, keep, listens, running, status_lines, stop_kept

STAYS = "import time; time.sleep(600)"


def program(folder: Path, name: str, code: str, after: str | int = "") -> Program:
    return Program(name, (sys.executable, "-c", code), {"KEPT": name}, str(folder), str(folder / f"{name}.log"), after)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a way to keep programs in a process of its own."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(*programs: Program) -> subprocess.Popen[bytes]:
        code = "import json, sys; from pathlib import Path; from pmfed.processes import *; "
        code += "hand_over(Path(sys.argv[1]), [Program(**one) for one in json.loads(sys.argv[2])])"
        told = json.dumps([asdict(one) for one in programs])
        begun.append(subprocess.Popen([sys.executable, "-c", code, str(tmp_path), told]))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_of(folder: Path, name: str) -> int | None:
    found = running(folder)
    told = found["programs"].get(name, {}) if found else {}
    return told.get("pid")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


ASKS = "import sys, httpx; httpx.get(f'http://{sys.argv[1]}/', timeout=5)"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("proxies", [False, True])
@pytest.mark.parametrize("exempt", [{}, {"no_proxy": "example.org"}, {"NO_PROXY": "example.org"}], ids=str)
def test_none_of_flowers_programs_asks_a_proxy_for_this_machine(
    host: str, proxies: bool, exempt: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy, here = ConnectProxy({}), ConnectProxy({})
    for name, value in {**proxy.environment, **exempt}.items():
        monkeypatch.setenv(name, value)
    told = {**os.environ, **processes.flower_environment(tmp_path, proxies=proxies)}
    subprocess.run([sys.executable, "-c", ASKS, f"{host}:{here.port}"], env=told, check=False)
    assert proxy.asked == []
    assert len(here.asked) == 1
    subprocess.run(
        [sys.executable, "-c", ASKS, f"hub.invalid:{here.port}"], env=told, check=False, stderr=subprocess.DEVNULL
    )
    assert bool(proxy.asked) is proxies  # only a node goes outward
    assert (exempt.get("no_proxy") or exempt.get("NO_PROXY") or "") in told["no_proxy"]
    for one in (proxy, here):
        one.close()


def test_started_in_order_started_anew_and_stopped(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    there = tmp_path / "there"
    first = program(
        tmp_path, "first", f"import os; print(os.environ['KEPT'], flush=True); open({str(there)!r}, 'w'); {STAYS}"
    )
    process = start(program(tmp_path, "second", STAYS, after=str(there)), first)
    until(lambda: pid_of(tmp_path, "second"))
    assert all_well(tmp_path)
    assert (tmp_path / "first.log").read_text() == "first\n"
    with pytest.raises(UsageError, match="running already"):
        hand_over(tmp_path, [])
    with pytest.raises(UsageError, match="running already"):
        keep(tmp_path, [])
    old = pid_of(tmp_path, "second")
    assert old
    os.kill(old, signal.SIGKILL)
    until(lambda: pid_of(tmp_path, "second") not in (None, old))
    assert "started 2 times; last ended with code -9" in "\n".join(status_lines(tmp_path))
    left = [pid_of(tmp_path, name) for name in ("first", "second")]
    assert stop_kept(tmp_path)
    assert process.wait(10) == 0
    assert all(gone(pid) for pid in left if pid)
    assert running(tmp_path) is None
    assert status_lines(tmp_path) == ["  not running"]
    assert not stop_kept(tmp_path)
    assert not all_well(tmp_path)


def test_a_program_that_ends_at_once_is_not_started_in_a_rush(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    start(program(tmp_path, "ends", "print('x', flush=True)"))
    until(lambda: (tmp_path / "ends.log").exists())
    time.sleep(5)
    assert 2 <= (tmp_path / "ends.log").read_text().count("x") <= 4  # after 1, 2 and 4 seconds
    assert not all_well(tmp_path)


def test_a_status_that_cannot_be_written_stops_nothing(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    alive = tmp_path / "alive"
    process = start(program(tmp_path, "one", f"open({str(alive)!r}, 'a').write('.'); {STAYS}"))
    until(lambda: pid_of(tmp_path, "one") and alive.exists() and alive.read_text() == ".")
    first = pid_of(tmp_path, "one")
    (tmp_path / "running.json.new").mkdir()  # in the way, as a full disk would be
    os.kill(first, signal.SIGKILL)
    until(lambda: alive.read_text() == "..")
    assert process.poll() is None
    (tmp_path / "running.json.new").rmdir()
    until(lambda: pid_of(tmp_path, "one") not in (None, first))


def test_programs_do_not_outlive_a_keeper_that_is_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(program(tmp_path, "one", STAYS))
    until(lambda: pid_of(tmp_path, "one"))
    pid = pid_of(tmp_path, "one")
    assert pid
    process.kill()
    process.wait()
    until(lambda: gone(pid))
    assert running(tmp_path) is None  # and they can be started again


def test_what_a_program_started_is_stopped_with_it(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {STAYS!r}]).pid, flush=True); {STAYS}"
    )
    start(program(tmp_path, "one", code))
    until(lambda: (tmp_path / "one.log").exists() and (tmp_path / "one.log").read_text().strip())
    below = int((tmp_path / "one.log").read_text())
    assert not gone(below)
    assert stop_kept(tmp_path)
    until(lambda: gone(below))


def test_a_free_port_is_free() -> None:
    assert not listens(free_port())


def test_a_long_log_is_put_aside_while_its_program_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ENOUGH", 3000)
    log = tmp_path / "a.log"
    code = "import sys, time\nfor n in range(9**9): print(n, 'x' * 100, flush=True); time.sleep(0.002)"
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-c", code], stdout=file) as writer:
        try:
            for number in range(5):
                until(lambda: log.stat().st_size > 3000)
                before = int(log.read_bytes().splitlines()[-2].split()[0])
                processes.rotate(log)
                newest = [int(line.split()[0]) for line in (tmp_path / "a.log.1").read_bytes().splitlines()[:-1]]
                assert newest[-1] >= before  # all of it, in order
                assert newest == list(range(newest[0], newest[-1] + 1))
                assert number < 1 or (tmp_path / "a.log.2").exists()
            until(lambda: log.stat().st_size)
        finally:
            writer.kill()
    first = log.read_bytes()[:100]
    assert first.lstrip(b"\0") == first  # written at the new end, not where the old one was
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    processes.rotate(log)
    processes.rotate(tmp_path / "absent.log")
    assert not (tmp_path / "a.log.4").exists()

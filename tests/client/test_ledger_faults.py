"""Crashes at every point, two processes at once, full and read-only disks: the ledger holds what was released.

Real processes and real failures. A "release" is a line in a file, written right after its charge returned.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pmfed_client.ledger.ledger
import pytest
from pmfed_client.ledger.ledger import Entry, Ledger

from pmfed.errors import LedgerError
from pmfed.privacy.accounting import Release

AT_LENGTH = pytest.mark.skipif(
    "PMFED_TEST_FAULTS" not in os.environ, reason="takes long; a part of it always runs: set PMFED_TEST_FAULTS for all"
)

WIDE = (1000.0, 1e-5)
ROUNDS = 100_000


def plan(rounds: int = ROUNDS) -> dict[str, tuple[Entry, ...]]:
    return {"train": (Entry("step", 0.01, 30.0, 1.0, rounds),)}


def release(folder: Path, run: str, round: int, attempt: int) -> None:
    with open(folder / f"{run}.sent", "a") as file:
        file.write(f"{round} {attempt}\n")


def sent(folder: Path, run: str) -> set[tuple[int, int]]:
    path = folder / f"{run}.sent"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {(int(round), int(attempt)) for round, attempt in map(str.split, lines)}


def charged(ledger: Ledger, run: str) -> list[tuple[int, int]]:
    found = [(row.round, row.attempt) for row in ledger.rows() if row.run == run and row.kind == "charge"]
    return [(round, attempt) for round, attempt in found if round is not None and attempt is not None]


def train(folder: Path, run: str, rounds: int, finish: bool = False, pause: float = 0.0) -> None:
    """Do what a site does, going on where an earlier process stopped; ``pause`` seconds of computing a round."""
    ledger = Ledger(folder / "ledger.db")
    ledger.reserve(run, "study", plan(), WIDE)
    done = charged(ledger, run)
    round, attempt = (done[-1][0], done[-1][1] + 1) if done else (0, 0)
    for _ in range(rounds):
        time.sleep(pause)
        ledger.charge(run, "step", round, attempt, 30.0)
        release(folder, run, round, attempt)
        round, attempt = round + 1, 0
    if finish:
        ledger.finish(run)


def in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def check(folder: Path, *runs: str) -> None:
    with Ledger(folder / "ledger.db") as ledger:
        ledger.verify()
        for run in runs:
            done = charged(ledger, run)
            assert len(done) == len(set(done))
            assert sent(folder, run) <= set(done)


def kill_at_random(folder: Path, times: int) -> None:
    generator = random.Random()
    in_time = 0
    for number in range(times):
        before = len(sent(folder, "run"))
        child = in_child(lambda: train(folder, "run", ROUNDS, pause=0.0005))
        until = time.monotonic() + 10
        while len(sent(folder, "run")) == before and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"child {number} ended by itself"
        in_time += len(sent(folder, "run")) > before
        check(folder, "run")
    assert in_time == times, "the run did not go on after a kill"
    with Ledger(folder / "ledger.db") as ledger:
        assert 0 <= len(charged(ledger, "run")) - len(sent(folder, "run")) <= times
        ledger.finish("run")
        total = len(charged(ledger, "run"))
        assert ledger.releases("train", reserved=True) == (Release(0.01, 30.0, total),)


def test_a_process_killed_at_random_25_times(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 25)


@AT_LENGTH
@pytest.mark.quick
@pytest.mark.slow
def test_a_process_killed_at_random_250_times(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_at_random(folder, 25)


# -- killed at every line ---------------------------------------------------------------------------------------------

OURS = {
    str(Path(pmfed_client.ledger.ledger.__file__).with_name(f"{name}.py"))
    for name in ("ledger", "store", "chain", "book")
}


class KillAtLine:
    """Kills its own process at the n-th line of the ledger's code; counts them when n is 0."""

    def __init__(self, line: int) -> None:
        self.line, self.seen = line, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> KillAtLine | None:
        if frame.f_code.co_filename not in OURS:
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def kill_at_lines(folder: Path, choose: Callable[[int], list[int]]) -> None:
    warm = folder / "warm"
    warm.mkdir()
    train(warm, "run", 1)  # the accounting's cache, which every child inherits

    def scenario(place: Path, line: int) -> None:
        counter = KillAtLine(line)
        sys.settrace(counter)
        train(place, "run", 2, finish=True)
        sys.settrace(None)
        (place / "lines").write_text(str(counter.seen))

    whole = folder / "whole"
    whole.mkdir()
    assert os.waitpid(in_child(lambda: scenario(whole, 0)), 0)[1] == 0
    lines = int((whole / "lines").read_text())
    assert lines > 500
    for line in choose(lines):
        place = folder / f"line-{line}"
        place.mkdir()
        child = in_child(lambda place=place, line=line: scenario(place, line))  # type: ignore[misc]
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, f"line {line}"
        check(place, "run")
        ledger = Ledger(place / "ledger.db")
        if not any(row.kind == "finish" for row in ledger.rows()):
            train(place, "run", 1, finish=True)
        ledger.finish("run")
        check(place, "run")
        assert len(charged(ledger, "run")) - len(sent(place, "run")) <= 1
        ledger.close()


def test_killed_at_some_lines(tmp_path: Path) -> None:
    generator = random.Random()
    kill_at_lines(tmp_path, lambda lines: sorted(generator.sample(range(1, lines + 1), 20)))


@AT_LENGTH
@pytest.mark.slow
def test_killed_at_every_second_line(tmp_path: Path) -> None:
    """Lines that run again and again (there are few others) are met either way."""
    kill_at_lines(tmp_path, lambda lines: list(range(1 + random.randrange(2), lines + 1, 2)))


# -- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_charge_two_runs_at_once(tmp_path: Path) -> None:
    """From the very first moment: both create the file."""
    children = [in_child(lambda run=run: train(tmp_path, run, 60, pause=0.002)) for run in ("one", "two")]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    check(tmp_path, "one", "two")
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.releases("train") == (Release(0.01, 30.0, 120),)
        runs = [row.run for row in ledger.rows() if row.kind == "charge"]
        assert sum(a != b for a, b in pairwise(runs)) > 1, "they did not run at once"


def test_two_processes_never_charge_one_attempt_twice(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.reserve("run", "study", plan(), WIDE)

    def race(mark: str) -> None:
        ledger = Ledger(tmp_path / "ledger.db")
        for round in range(60):
            try:
                ledger.charge("run", "step", round, 0, 30.0)
            except LedgerError:
                continue
            release(tmp_path, f"run-{mark}", round, 0)

    children = [in_child(lambda mark=mark: race(mark)) for mark in "ab"]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    one, two = sent(tmp_path, "run-a"), sent(tmp_path, "run-b")
    assert not one & two
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert set(charged(ledger, "run")) == one | two


def test_a_fresh_python_reads_what_this_one_wrote(tmp_path: Path) -> None:
    train(tmp_path, "run", 3)
    code = "import sys; from pathlib import Path; from pmfed_client.ledger.ledger import Ledger; "
    code += "print(Ledger(Path(sys.argv[1])).verify())"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "ledger.db")], capture_output=True, text=True)
    assert done.stdout == "4\n", done.stderr


def test_a_file_held_too_long_is_an_error_and_later_the_run_goes_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", timeout=0.2)
    ledger.reserve("run", "study", plan(), WIDE)
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match=r"another process has held it for more than 0\.2 s\. Nothing was released"):
        ledger.charge("run", "step", 0, 0, 30.0)
    other.execute("ROLLBACK")
    other.close()
    ledger.charge("run", "step", 0, 0, 30.0)
    assert charged(ledger, "run") == [(0, 0)]


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("a tiny file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def until_full(folder: Path) -> int:
    def work() -> None:
        for round in range(ROUNDS):
            ledger.charge("run", "step", round, 0, 30.0)
            release(folder.parent, "run", round, 0)

    with Ledger(folder / "ledger.db") as ledger, pytest.raises(LedgerError, match="full") as caught:
        work()
    assert "Nothing was released." in caught.value.what
    assert "Make room" in caught.value.remedy
    return len(sent(folder.parent, "run"))


def test_a_full_disk_releases_nothing_and_with_room_the_run_goes_on(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(200_000))
    with Ledger(small_disk / "ledger.db") as ledger:
        ledger.reserve("run", "study", plan(), WIDE)
    done = until_full(small_disk)
    assert done > 3
    filler.unlink()
    with Ledger(small_disk / "ledger.db") as ledger:
        ledger.verify()
        assert sent(small_disk.parent, "run") <= set(charged(ledger, "run"))
        last = charged(ledger, "run")[-1][0]
        ledger.charge("run", "step", last + 1, 0, 30.0)
        ledger.finish("run")
        ledger.verify()


def test_a_disk_that_is_full_from_the_start_reserves_nothing(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with Ledger(small_disk / "ledger.db") as ledger, pytest.raises(LedgerError, match="Nothing was released"):
        ledger.reserve("run", "study", plan(), WIDE)
    filler.unlink()
    with Ledger(small_disk / "ledger.db") as ledger:
        ledger.reserve("run", "study", plan(), WIDE)
        ledger.charge("run", "step", 0, 0, 30.0)
        ledger.verify()


def test_files_that_may_not_grow_release_nothing(tmp_path: Path) -> None:
    """A quota, which needs no root."""
    folder = tmp_path / "quota"
    folder.mkdir()
    with Ledger(folder / "ledger.db") as ledger:
        ledger.reserve("run", "study", plan(), WIDE)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        until_full(folder)

    assert os.waitpid(in_child(limited), 0)[1] == 0
    assert len(sent(tmp_path, "run")) > 3
    with Ledger(folder / "ledger.db") as ledger:
        ledger.verify()
        assert sent(tmp_path, "run") <= set(charged(ledger, "run"))
        ledger.charge("run", "step", charged(ledger, "run")[-1][0] + 1, 0, 30.0)


def test_a_read_only_disk_is_an_error(small_disk: Path) -> None:
    with Ledger(small_disk / "ledger.db") as ledger:
        ledger.reserve("run", "study", plan(), WIDE)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for use in (lambda one: one.charge("run", "step", 0, 0, 30.0), Ledger.verify):
        with Ledger(small_disk / "ledger.db") as ledger, pytest.raises(LedgerError, match="opened for writing"):
            use(ledger)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with Ledger(small_disk / "ledger.db") as ledger:
        ledger.charge("run", "step", 0, 0, 30.0)
        assert charged(ledger, "run") == [(0, 0)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerError, match="opened for writing"):
        Ledger(tmp_path / "ledger.db").reserve("run", "study", plan(), WIDE)
    tmp_path.chmod(0o700)

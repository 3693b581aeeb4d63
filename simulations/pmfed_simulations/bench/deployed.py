"""A real federation on this machine, against what it was built to reach: times, memory, many sites, many faults.

Each measurement is of real processes (`pmfed_simulations.deployment`), takes minutes, and is asked for by name:
``deployed``, ``crowd`` and ``soak``. "Other" is the limit, and the ratio what was measured over it. All need the
warfarin data (PMFED_DATA).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pmfed_server.results import read_lines

from pmfed.errors import RunError
from pmfed_simulations.bench import BenchRow
from pmfed_simulations.deployment import Deployment, Following, until
from pmfed_simulations.studies import find_study, write_sites

ROUNDS = 20
WIDE = 3500  # two layers of so many, for each of two modalities, make 25 million parameters
SITES = int(os.environ.get("PMFED_BENCH_SITES", "50"))
SOAK = int(os.environ.get("PMFED_BENCH_ROUNDS", "200"))
RESERVE = 5500  # MB left to the machine when sites are started until it is full: they grow once they train
KILLS = (2, 8)  # rounds between two kills; the moment in the round is left to chance
HUB = ("superlink", "superexec", "proxy", "serverapp")
EACH = ("agent", "node", "courier")


def rows() -> list[BenchRow]:
    """Measure three sites: at rest, over 20 rounds of warfarin, with a model of 25 million parameters."""
    with federation(3) as there:
        until(lambda: there.online(*there.sites))
        time.sleep(10)  # at rest
        resting = {
            name: sum(memory(there.process(name, program), "Pss") for program in ("courier", "node"))
            for name in there.sites
        }
        run, seconds = finished(there, warfarin(there, "warfarin", ROUNDS), len(there.sites))
        legs = [line["seconds"] for line in read_lines(run.out / "metrics.jsonl")]
        small = highest(there, "small", 2)
        large = highest(there, "large", 2, model={"kind": "fusion", "hidden": [WIDE, WIDE]})
    model = 4 * large["parameters"] / 1e6
    at_rest = max(resting.values())
    return [
        _row("deployed, 3 sites: a training round (median of 20)", statistics.median(legs), 5.0),
        _row("deployed, 3 sites x 20 rounds of warfarin, from the command to its end", seconds, 150.0),
        _row("deployed, SuperNode and courier of a site at rest (PSS)", at_rest, 150.0, "MB"),
        _row(
            f"deployed, model of {model:.0f} MB: peak of the coordinator's ServerApp (RSS)",
            large["serverapp"], 4 * model, "MB",
        ),
        _row("... of that beyond its peak with a small model", large["serverapp"] - small["serverapp"], 4 * model, "MB"),
        _row("... the same of Flower's SuperLink", large["superlink"] - small["superlink"], 4 * model, "MB"),
        _row("... a training round", large["leg"], 60.0),
        BenchRow("load of this machine when it ended", 0, 0, 0, None, note=" ".join(f"{one:.1f}" for one in os.getloadavg())),
    ]  # fmt: skip


def crowd() -> list[BenchRow]:
    """Start as many sites as fit, at most PMFED_BENCH_SITES (50), and take five rounds over all of them."""
    with federation(SITES, start=False) as there:
        began = []
        for name in there.sites:
            if available() < RESERVE:
                break
            there.start_site(name)
            began.append(name)
            if len(began) % 4 == 0:
                until(lambda: all(there.process(name, "courier") for name in began), 600.0)
        until(lambda: there.online(*began), 900.0)
        taken = available()
        run, seconds = finished(there, warfarin(there, "crowd", 5), len(began), 600.0)
        legs = [line["seconds"] for line in read_lines(run.out / "metrics.jsonl")]
        result = json.loads((run.out / "result.json").read_text(encoding="utf-8"))
    return [
        BenchRow(
            f"deployed, {len(began)} sites x 5 rounds: whole run", round(seconds, 1), 0, 0, None,
            note=f"{seconds:.0f} s, round {statistics.median(legs):.1f} s, sites {len(result['sites'])}, {taken:.0f} MB left",
        )
    ]  # fmt: skip


def soak() -> list[BenchRow]:
    """Take PMFED_BENCH_ROUNDS (200) rounds while one process after another is killed at random, resuming what fails."""
    dice = random.Random(os.environ.get("PMFED_BENCH_SEED", "1"))
    killed: dict[str, int] = {}
    with federation(3) as there:
        until(lambda: there.online(*there.sites))
        out = there.folder / "runs" / "soak"
        began = time.monotonic()
        run = there.run(warfarin(there, "soak", SOAK), out, 3, 300.0)
        resumes, due = 0, dice.randint(*KILLS)
        while True:
            code = run.process.poll()
            if code == 0:
                break
            if code is not None:
                print(
                    f"{time.monotonic() - began:8.0f} s  ended with {code} after round {run.rounds}: {last(run)}",
                    flush=True,
                )
                time.sleep(15)
                resumes += 1
                until(lambda: there.online(*there.sites), 600.0)
                run = there.resume(out)
            if run.rounds >= due and not (out / "result.json").exists():
                due = run.rounds + dice.randint(*KILLS)
                time.sleep(dice.uniform(0, 5))
                what = kill(there, dice)
                killed[what] = killed.get(what, 0) + 1
                print(f"{time.monotonic() - began:8.0f} s  round {run.rounds}: killed {what}", flush=True)
            time.sleep(0.5)
        seconds = time.monotonic() - began
        books, lines = there.books(out), read_lines(out / "metrics.jsonl")
    lost = sum(bool(line["dropped"]) for line in lines)
    told = f"{seconds:.0f} s, {sum(killed.values())} kills, {resumes} resumes, {len(lines)} rounds, {lost} with a site lost"
    print(json.dumps({"killed": killed, "books": books, "resumes": resumes, "rounds": len(lines)}), flush=True)
    if any(left > charged for charged, left in books.values()):
        raise RunError(f"a ledger says less than was released: {books}.")
    return [BenchRow(f"deployed, {SOAK} rounds with random kills", round(seconds, 1), 0, 0, None, note=told)]


# -- what is measured ------------------------------------------------------------------------------------------------


@contextmanager
def federation(count: int, start: bool = True) -> Iterator[Deployment]:
    """Make sites of the warfarin data, the largest first, and again from the first when there are not so many."""
    folder = Path(tempfile.mkdtemp(prefix="pmfed"))
    there = None
    try:
        data = os.environ.get("PMFED_DATA")
        write_sites("warfarin", Path(data) if data else None, folder / "sites")
        found = sorted(folder.glob("sites/*"), key=lambda place: -(place / "patients.csv").stat().st_size)
        places = {f"site-{number:02}": found[number % len(found)] for number in range(count)}
        for place in found:
            told = (place / "site.toml").read_text(encoding="utf-8")
            name = next(line for line in told.splitlines() if line.startswith("name"))
            for title, other in places.items():
                if other == place:
                    copy = folder / "copies" / title
                    shutil.copytree(place, copy)
                    (copy / "site.toml").write_text(told.replace(name, f'name = "{title}"'), encoding="utf-8")
        proxy = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") is not None
        there = Deployment.make(folder / "d", {name: folder / "copies" / name for name in places}, proxy=proxy)
        there.start_coordinator()
        for name in there.sites if start else ():
            there.start_site(name)
        yield there
    finally:
        if there is not None:
            there.stop()
        shutil.rmtree(folder, ignore_errors=True)


def warfarin(there: Deployment, name: str, rounds: int, **more: dict[str, Any]) -> Path:
    """Have all sites approve warfarin under another name."""
    study = find_study("warfarin")
    quorum = {"rounds": rounds, "quorum": 0.5}
    told: dict[str, dict[str, Any]] = {"study": {"name": name}, "training": quorum, "privacy": {"colluders": 1}, **more}
    return there.approve(study.replace(**told))


def finished(there: Deployment, study: Path, sites: int, patience: float = 120.0) -> tuple[Following, float]:
    """Run a study to its end; return the run and its seconds."""
    began = time.monotonic()
    run = there.run(study, there.folder / "runs" / study.stem, sites, patience)
    code, said = run.end(3600.0)
    if code:
        raise RunError(f"the run failed: {said}")
    return run, time.monotonic() - began


def highest(there: Deployment, name: str, rounds: int, **more: dict[str, Any]) -> dict[str, float]:
    """Run a study and return peaks in MB of ServerApp and SuperLink, median seconds of a round, number of parameters."""
    peaks = {"serverapp": 0.0, "superlink": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            found = {"serverapp": next(iter(there.serverapps()), None), "superlink": there.process("hub", "superlink")}
            for what, pid in found.items():
                peaks[what] = max(peaks[what], memory(pid, "VmHWM", "status"))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        run, _ = finished(
            there, warfarin(there, name, rounds, evaluation={"every": 100}, **more), len(there.sites), 600.0
        )
    finally:
        over.set()
        watch.join()
    result = json.loads((run.out / "result.json").read_text(encoding="utf-8"))
    legs = [line["seconds"] for line in read_lines(run.out / "metrics.jsonl")]
    return {**peaks, "leg": statistics.median(legs), "parameters": float(result["parameters"])}


def memory(pid: int | None, what: str, file: str = "smaps_rollup") -> float:
    """Return a line of /proc/PID/smaps_rollup or status in MB; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:")), 0.0)


def available() -> float:
    """Return how many MB of memory are to be had."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))


def kill(there: Deployment, dice: random.Random) -> str:
    """SIGKILL something; return what."""
    choice = [("hub", program) for program in HUB] + [(name, program) for name in there.sites for program in EACH]
    name, program = dice.choice(choice)
    if program == "serverapp":
        for pid in there.serverapps():
            os.kill(pid, 9)
    elif there.process(name, program):
        there.kill(name, program)
    return f"{name}'s {program}"


def last(run: Following) -> str:
    """Return the last line but the remedy of what a run said."""
    return next((line for line in reversed(run.words().splitlines()) if line.startswith("error")), "")


def _row(name: str, measured: float, limit: float, unit: str = "s") -> BenchRow:
    return BenchRow(name, round(measured, 2), limit, round(measured / limit, 3), 1.0, unit=unit)

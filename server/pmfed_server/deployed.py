"""`pmfed coordinator run`: a study over real sites, followed from this process while Flower runs it.

The ServerApp is another process, so what it leaves in RUN is what tells how the run stands: enrolled.json, a line of
metrics.jsonl per round, result.json or failed.json.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pmfed.errors import InterruptedRunError, RunError, UsageError
from pmfed.file_io import replace_file
from pmfed.privacy.rounding import rounded_up
from pmfed.processes import running
from pmfed.secagg.replaced_keys import CHAIN
from pmfed.secagg.roster import FILE as ROSTER
from pmfed.study import Study
from pmfed.verify import MANIFEST, seal
from pmfed_server.bundle import bundle, failure_of
from pmfed_server.coordinator import Coordinator
from pmfed_server.results import read_lines
from pmfed_server.serving import answers

FILE = "run.json"
LOOK = 0.2  # seconds between two looks at RUN
ASK = 15.0  # seconds between two questions to Flower while RUN says nothing
START = 120.0  # seconds Flower may take to come up, and to start the ServerApp

Tell = Callable[[str], None]


def begin(coordinator: Coordinator, study: Study, out: Path, sites: int, patience: float) -> Path:
    """Write RUN/study.toml and RUN/run.json for a new run; return RUN, absolute.

    Raises
    ------
    UsageError
        RUN is there already.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out}: exists and is not empty.",
            "Choose another folder with --out; a run that was begun goes on with: pmfed coordinator resume RUN",
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.toml").write_text(study.to_toml(), encoding="utf-8")
    told = {"id": secrets.token_hex(16), "study": study.study.name, "sites": sites, "patience": patience, "flower": ""}
    _note(coordinator, out, told)
    return out


def go(coordinator: Coordinator, out: Path, tell: Tell) -> dict[str, Any]:
    """Take a run to its end, from wherever it stands, and return its result.

    Raises
    ------
    UsageError
        The coordinator does not run, or the run is under way.
    RunError
        Flower's SuperLink does not come up.
    InterruptedRunError
        Ctrl-C; Flower was told to stop the run.
    PmfedError
        What the ServerApp left in failed.json.
    """
    told = read_run(out)
    if (out / "result.json").exists():
        return _result(coordinator, out)
    if running(coordinator.folder) is None:
        raise UsageError(f"{coordinator.folder}: the coordinator does not run.", "Start it: pmfed coordinator start")
    _await(coordinator)
    flwr = coordinator.flwr
    if told["flower"] and not flwr.status(told["flower"]).startswith("finished"):
        raise UsageError(
            f"{out}: this run is under way.",
            f"Wait for its end, or: pmfed coordinator stop {out}. One whose process died counts as under way for a minute.",
        )
    if (out / "failed.json").exists() and not (out / "checkpoints").exists():
        told["id"] = secrets.token_hex(
            16
        )  # nothing was charged, and the sites were told that the run of before is over
    for file in ("failed.json", "enrolled.json"):
        (out / file).unlink(missing_ok=True)
    app = coordinator.home / "apps" / told["id"]
    app.mkdir(parents=True, exist_ok=True)
    config = {
        "run": str(out), "id": told["id"], "sites": told["sites"], "patience": float(told["patience"]),
        "registered": str(coordinator.registered),
    }  # fmt: skip
    (app / "pyproject.toml").write_text(bundle(config), encoding="utf-8")
    number = flwr.submit(app)
    shutil.rmtree(app)
    told["flower"] = number
    _note(coordinator, out, told)
    tell(f"run {told['id'][:12]} of '{told['study']}' submitted; waiting for {told['sites']} sites")
    try:
        _follow(coordinator, number, out, 2 * float(told["patience"]) + START, tell)
    except KeyboardInterrupt:
        stop_run(coordinator, out)
        raise InterruptedRunError(
            "the run was stopped. What was charged to the sites' ledgers stays charged.",
            f"Go on with: pmfed coordinator resume {out}",
        ) from None
    return _result(coordinator, out)


def _await(coordinator: Coordinator) -> None:
    """Wait a bounded time for a coordinator that has just been started, or whose SuperLink is being started anew."""
    deadline = time.monotonic() + START
    while not answers(coordinator):
        if time.monotonic() > deadline:
            raise RunError(
                f"{coordinator.folder}: the coordinator runs, but its SuperLink has not answered for {START:.0f} s.",
                f"See the end of {coordinator.folder / 'logs' / 'superlink.log'}.",
            )
        time.sleep(LOOK)


def stop_run(coordinator: Coordinator, out: Path) -> None:
    """Tell Flower to stop a run."""
    number = read_run(out)["flower"]
    if not number:
        raise UsageError(f"{out}: this run was never submitted.", "There is nothing to stop.")
    coordinator.flwr.ask("stop", number)


def read_run(out: Path) -> dict[str, Any]:
    """Return RUN/run.json; UsageError when there is none."""
    try:
        return dict(json.loads((out / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise UsageError(f"{out}: is not a run of 'pmfed coordinator run'.", "Check the path.") from None


def runs_of(coordinator: Coordinator) -> list[tuple[str, str, str, Path]]:
    """Return (id, study, how it stands, folder) of every run begun here, the oldest first."""
    found = []
    for note in sorted((coordinator.folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime):
        told = json.loads(note.read_text(encoding="utf-8"))
        out = Path(told["folder"])
        state = "begun"
        for file, means in (("metrics.jsonl", "training"), ("failed.json", "failed"), ("result.json", "finished")):
            state = means if (out / file).exists() else state
        if state == "training":
            state = f"round {len(read_lines(out / 'metrics.jsonl'))}"
        found.append((str(told["id"]), str(told["study"]), state if out.exists() else "removed", out))
    return found


def _note(coordinator: Coordinator, out: Path, told: dict[str, Any]) -> None:
    replace_file(out / FILE, (json.dumps(told, indent=2) + "\n").encode())
    place = coordinator.folder / "runs" / f"{told['id']}.json"
    if not place.exists():
        replace_file(place, json.dumps({"id": told["id"], "study": told["study"], "folder": str(out)}).encode())


def _follow(coordinator: Coordinator, number: str, out: Path, patience: float, tell: Tell) -> None:
    """Tell what RUN says until the run is over; only Flower knows of one that died without a word."""
    began = asked = heard = time.monotonic()
    enrolled, shown = False, len(read_lines(out / "metrics.jsonl"))
    rounds = Study.read(out / "study.toml").training.rounds
    while True:
        ended = (out / "result.json").exists() or (out / "failed.json").exists()
        if not enrolled and (out / "enrolled.json").exists():
            enrolled = True
            told = json.loads((out / "enrolled.json").read_text(encoding="utf-8"))
            tell(f"accepted: {', '.join(told['sites'])}")
            for site, reason in sorted(told["refused"].items()):
                tell(f"refused:  {site}: {reason}")
        for line in read_lines(out / "metrics.jsonl")[shown:]:
            shown += 1
            tell(words_of(line, rounds))
        if ended or time.monotonic() - asked > ASK:
            status, asked = _status(coordinator, number), time.monotonic()
            heard = asked if status else heard
            if running(coordinator.folder) is None or asked - heard > START:
                raise RunError(
                    "the coordinator stopped, or does not answer, while the run was under way. What was charged stays "
                    "charged.",
                    f"Start it again, then: pmfed coordinator resume {out}",
                )
            if status == "finished:completed" and (out / "result.json").exists():
                return
            if status.startswith("finished"):
                raise failure_of(out, f"Flower says '{status}'", coordinator.folder / "logs" / "superexec.log")
        if not enrolled and time.monotonic() - began > patience:
            stop_run(coordinator, out)
            raise RunError(
                f"the run did not begin within {patience:.0f} s.", "Is the coordinator well? pmfed coordinator status"
            )
        time.sleep(LOOK)


def _status(coordinator: Coordinator, number: str) -> str:
    """Return Flower's word for how a run stands; empty when Flower does not answer, as while it is being started anew."""
    try:
        return coordinator.flwr.status(number)
    except RunError:
        return ""


def words_of(line: dict[str, Any], rounds: int) -> str:
    """Return a line of metrics.jsonl for people."""
    said = [f"round {line['round']:>3}/{rounds}", f"{line['sites']} sites", f"{line['seconds']:.1f} s"]
    if line["epsilon"] is not None:
        said.append(f"epsilon {rounded_up(line['epsilon'], 3)}")
    said += [f"{name} {value:.3f}" for name, value in list(line.get("metrics", {}).items())[:1]]
    said += [f"without {site}: {why}" for site, why in sorted(line["dropped"].items())]
    return "  ".join(said)


def _result(coordinator: Coordinator, out: Path) -> dict[str, Any]:
    """Return the result of a run that has one, and sign the run unless that was done."""
    if not (out / MANIFEST).exists():
        if coordinator.roster.exists():
            replace_file(out / ROSTER, coordinator.roster.read_bytes())
        if coordinator.chain.exists():
            replace_file(out / CHAIN, coordinator.chain.read_bytes())
        seal(out, Study.read(out / "study.toml"), str(read_run(out)["id"]), coordinator.identity)
    return dict(json.loads((out / "result.json").read_text(encoding="utf-8")))

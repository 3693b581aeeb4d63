"""A federation of real processes on the loopback interface: TLS, node keys, policies, and what happens when some die.

Slow: three sites and a coordinator start once for the whole file, and Flower's SuperNodes look for messages every three
seconds. Each test runs studies over them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import federation
import pytest
import tomli_w
from federation import SITES, change
from pmfed_client.ledger.ledger import Ledger
from pmfed_client.site.audit_log import AuditLog
from pmfed_server.bundle import bundle
from pmfed_server.coordinator import Coordinator
from pmfed_server.deployed import begin
from safetensors.numpy import load_file

from pmfed.cli import main
from pmfed.processes import free_port, running
from pmfed.secagg.keys import verify
from pmfed.secagg.roster import Roster
from pmfed.study import Study

pytestmark = pytest.mark.slow

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
SOON = 90.0
CANARIES = (federation.ID_CANARY.encode(), federation.VALUE_CANARY.encode())


@dataclass
class Deployed:
    """A coordinator and three sites, each in a folder of its own."""

    folder: Path
    port: int
    kept: list[subprocess.Popen[bytes]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def pmfed(self, *words: object, code: int = 0) -> str:
        """Run a command to its end, in this process, and return what it said."""
        told, before, ended = io.StringIO(), sys.argv, 0
        sys.argv = ["pmfed", *map(str, words)]
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                main()
        except SystemExit as end:
            ended = int(end.code or 0)
        finally:
            sys.argv = before
        self.said.append(told.getvalue())
        assert ended == code, told.getvalue()
        return told.getvalue()

    def start(self, *words: str) -> None:
        """Run a command that stays."""
        self.kept.append(
            subprocess.Popen(
                [sys.executable, "-m", "pmfed.cli", *words], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=(self.folder / "said.log").open("ab"), stderr=subprocess.STDOUT, start_new_session=True,
            )
        )  # fmt: skip

    def study(self, name: str, approved_by: tuple[str, ...] = SITES, **training: int) -> Path:
        """Write a study and have sites approve it."""
        study = Study.from_text(federation.STUDY, "tiny").replace(
            study={"name": name}, training=training, evaluation={"every": 100}
        )
        path = self.folder / f"{name}.toml"
        path.write_text(study.to_toml())
        for site in approved_by:
            self.pmfed("site", "approve", path, site, "--yes", study.privacy.epsilon)
        return path

    def run(self, study: Path, *more: object, code: int = 0) -> str:
        """Run a study over the three sites."""
        out = self.folder / "runs" / study.stem
        return self.pmfed(
            "coordinator", "run", study, "--sites", 3, "--out", out, "--coordinator", "hub", "--patience", 60, *more,
            code=code,
        )  # fmt: skip

    def process(self, site: str, name: str) -> int | None:
        """Return the process of one of a site's programs."""
        found = running(self.folder / site)
        pid = found["programs"].get(name, {}).get("pid") if found else None
        return int(pid) if pid else None

    def audit(self, site: str, what: str) -> list[dict[str, object]]:
        return [line for line in AuditLog(self.folder / site / "audit.jsonl").lines() if line["what"] == what]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("d")
    federation.write_federation(folder / "fed")
    port = free_port()
    here = Deployed(folder, port)
    proxy = () if NGINX else ("--no-proxy",)
    link = free_port() if NGINX else port
    names = ("--host", "localhost", "--port", port, "--link-port", link)
    here.pmfed("coordinator", "init", "made", *names)
    (folder / "made").rename(folder / "hub")  # as where a container gets what was made outside it
    for name in SITES:
        here.pmfed("site", "init", name, "--name", name)
        (folder / f"{name}.json").write_text(here.pmfed("site", "card", name))
        shutil.copy(folder / "hub" / "ca.crt", folder / name)
        shutil.copy(folder / "fed" / "sites" / name / "patients.csv", folder / name)
        told = federation.SITE.format(name=name).replace("epsilon = 2.5", "epsilon = 100.0")
        (folder / name / "site.toml").write_text(f'{told}\n[coordinator]\naddress = "localhost:{port}"\n')
    here.pmfed("coordinator", "add", *(f"{name}.json" for name in SITES), "--coordinator", "hub")
    fingerprint = Roster.read(folder / "hub" / "roster.json").fingerprint()
    for name in SITES:
        here.pmfed("site", "trust", "hub/roster.json", name, "--fingerprint", fingerprint)
    try:
        here.start("coordinator", "start", "--coordinator", "hub", *proxy)
        for name in SITES:
            here.start("site", "start", name, "--insecure-reproducible", "0")
        until(lambda: all(here.process(name, "courier") for name in SITES))
        yield here
    finally:
        for process in here.kept:
            process.terminate()
        for process in here.kept:
            process.wait(60)
    assert left(folder) == []


def left(folder: Path) -> list[str]:
    """Return what still runs of a federation."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words and int(process.name) != os.getpid():
            found.append(words.decode())
    return found


def seen(folder: Path) -> list[str]:
    """Return every file of the federation that holds a canary, but for the sites' own tables."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "patients.csv" and any(one in path.read_bytes() for one in CANARIES):
            found.append(str(path.relative_to(folder)))
    return found


def test_a_study_over_real_sites_gives_the_model_of_the_simulation(deployed: Deployed) -> None:
    study = deployed.study("whole", rounds=2)
    said = deployed.run(study)
    assert "accepted: north, south, west" in said
    assert "round   2/2  3 sites" in said
    run = deployed.folder / "runs" / "whole"
    deployed.pmfed(
        "simulate", study, "--sites", "fed/sites", "--out", "simulated", "--insecure-reproducible", "--quiet",
        "--workers", 1,
    )  # fmt: skip
    here, there = load_file(run / "model.safetensors"), load_file(deployed.folder / "simulated" / "model.safetensors")
    assert {name: tensor.tobytes() for name, tensor in here.items()} == {
        name: tensor.tobytes() for name, tensor in there.items()
    }
    result = json.loads((run / "result.json").read_text())
    assert result["secure_aggregation"]
    assert result["privacy"]["insecure"]  # and the report says so: the noise came from a seed
    for name in SITES:
        receipt = verify((run / "receipts" / f"{name}.json").read_text())
        assert (receipt["site"], receipt["charges"]) == (name, {"step": 2})
        assert len(deployed.audit(name, "step")) == 2
        assert len(deployed.audit(name, "start INSECURE")) == 1
        assert "the chain is whole" in deployed.pmfed("site", "log", name)
    assert "finished" in deployed.pmfed("coordinator", "list", "--coordinator", "hub")
    told = deployed.pmfed("verify", run, "--roster", "north/roster.json", "--coordinator", "hub/coordinator.pub")
    assert "note  INSECURE" in told
    assert "verified: " in told
    deployed.pmfed("verify", "simulated", code=8)  # nobody signs a simulation
    assert seen(deployed.folder) == []
    assert not any(one.decode() in said for one in CANARIES for said in deployed.said)


def test_sites_that_refuse_are_named_with_the_reason_and_nothing_of_a_patient(deployed: Deployed) -> None:
    """West did not approve; south's table holds text where a number should be."""
    study = deployed.study("refused", ("north", "south"), rounds=2)
    change(
        deployed.folder / "south" / "patients.csv",
        rf"^{federation.ID_CANARY}-south-7,[^,]*,",
        r"canary-4711-x,canary-4711-y,",
    )
    try:
        said = deployed.run(study, code=6)
    finally:
        shutil.copy(deployed.folder / "fed" / "sites" / "south" / "patients.csv", deployed.folder / "south")
    assert "1 of 3 sites agreed to take part; the study needs 2" in said
    assert "west: this hospital has not approved the study" in said
    assert "south: its data does not fit the study" in said
    assert [line["code"] for line in deployed.audit("west", "enroll")][-1] == "PM320"
    assert [line["code"] for line in deployed.audit("south", "enroll")][-1] == "PM200"
    assert seen(deployed.folder) == []


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize(
    "path",
    ["v1/control/list-runs", "v1/runtime/acquire-task", "health", "v1/fleet/../control/list-runs", "v1/fleet/%2e%2e/control/list-runs",
     "v1/fleet/..%2fcontrol/list-runs", "docs", "openapi.json"],
)  # fmt: skip
def test_only_the_fleet_can_be_reached_from_outside(deployed: Deployed, path: str) -> None:
    trusted = ssl.create_default_context(cafile=str(deployed.folder / "hub" / "ca.crt"))
    asked = urllib.request.Request(f"https://localhost:{deployed.port}/{path}", data=b"", method="POST")
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(asked, context=trusted, timeout=10)
    assert told.value.code == 404
    inside = urllib.request.Request(
        f"https://localhost:{deployed.port}/v1/fleet/pull-messages", data=b"", method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(inside, context=trusted, timeout=10)
    assert told.value.code == 415  # Flower itself answers here: that is no message of a node


def test_an_agent_that_is_killed_in_the_middle(deployed: Deployed) -> None:
    study = deployed.study("killed", rounds=5)
    out = deployed.folder / "runs" / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "pmfed.cli", "coordinator", "run", str(study), "--sites", "3", "--out", str(out),
         "--coordinator", "hub", "--patience", "60"],
        cwd=deployed.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until(lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n"))
    agent = deployed.process("south", "agent")
    assert agent
    os.kill(agent, signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    if process.returncode:  # it may come back too late for a run of five rounds: then it fails, and can go on
        assert process.returncode == 6, said
        assert "sites are left" in said or "introduced" in said, said
        said = deployed.pmfed("coordinator", "resume", out, "--coordinator", "hub")
    result = json.loads((out / "result.json").read_text())
    assert 1 <= result["rounds"] <= 5
    run = json.loads((out / "run.json").read_text())["id"]
    for name in SITES:
        with Ledger(deployed.folder / name / "ledger.db") as ledger:  # closed: see Deployment.books
            charged = [row for row in ledger.rows() if row.run == run]
        steps = [(row.round, row.attempt) for row in charged if row.kind == "charge" and row.what == "step"]
        assert len(steps) == len(set(steps)) <= 5
        released = [line for line in deployed.audit(name, "step") if line["run"] == run and not line["code"]]
        assert len(released) <= len(steps)
    assert running(deployed.folder / "south")["programs"]["agent"]["starts"] == 2  # type: ignore[index]
    assert seen(deployed.folder) == []


def test_tables_go_the_same_way_as_models(deployed: Deployed) -> None:
    """Another method: approved, answered, charged, signed and verified by the same commands."""
    text = (
        federation.STUDY[: federation.STUDY.index("[training]")]
        + federation.STUDY[federation.STUDY.index("[privacy]") :]
    )
    text = text.replace('name = "tiny"', 'name = "counts"').replace("[modalities.clinical]", '[method]\nkind = "tables"\nstratum = "outcome"\n\n[modalities.clinical]')  # fmt: skip
    text = re.sub(r", mean = \d+, scale = \d+", "", text[: text.index("[evaluation]")]).replace(
        "sampling_rate = 0.5\n", ""
    )
    path = deployed.folder / "counts.toml"
    path.write_text(text)
    for site in SITES:
        assert "tables" in deployed.pmfed("site", "approve", path, site, "--yes", 2.0)
    said = deployed.run(path)
    out = deployed.folder / "runs" / "counts"
    result = json.loads((out / "result.json").read_text())
    assert result["method"] == "tables"
    assert "Numbers are noised" in said
    assert "verified" in deployed.pmfed("verify", out, "--roster", deployed.folder / "north" / "roster.json")
    for name in SITES:
        assert verify((out / "receipts" / f"{name}.json").read_text())["charges"] == {"tables": 1}
        assert len(deployed.audit(name, "tables")) == 1
    told = json.loads((out / "tables.json").read_text())
    told["tables"][0]["counts"][0][0] += 100
    (out / "tables.json").write_text(json.dumps(told))
    assert "is not the file that was signed" in deployed.pmfed("verify", out, code=8)
    assert seen(deployed.folder) == []


def test_code_that_comes_with_a_run_is_never_executed(deployed: Deployed) -> None:
    """Whoever reaches the SuperLink may send any bundle; a stock SuperNode would execute what is in it."""
    hub = Coordinator.read(deployed.folder / "hub")
    out = begin(hub, Study.read(deployed.study("evil", ())), deployed.folder / "runs" / "evil", 3, 60.0)
    told = json.loads((out / "run.json").read_text())
    app, mark = deployed.folder / "evil", deployed.folder / "executed"
    app.mkdir()
    told_flower = tomllib.loads(bundle({"run": str(out), "id": told["id"], "sites": 3, "patience": 60.0}))
    told_flower["tool"]["flwr"]["app"]["components"]["clientapp"] = "evil:app"
    told_flower["tool"]["flwr"]["app"]["fab-include"] = ["pyproject.toml", "evil.py"]
    app.joinpath("pyproject.toml").write_text(tomli_w.dumps(told_flower))
    app.joinpath("evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nimport pmfed_client.connection.app\napp = pmfed_client.connection.app.app\n"
    )
    hub.flwr.submit(app)
    until((out / "failed.json").exists)
    assert "0 of 3 sites agreed" in json.loads((out / "failed.json").read_text())["what"]
    for name in SITES:
        assert [line["code"] for line in deployed.audit(name, "enroll") if line["run"] == told["id"]] == ["PM320"]
    assert not mark.exists()
    subprocess.run([sys.executable, "-c", "import evil"], cwd=app, check=True)
    assert mark.exists()  # it would have left this

"""What breaks in a real federation: each thing is broken here, with real processes, and the run must end right or say why.

Slow, and mostly waiting. One federation serves the whole file; west is behind a cable that can be cut, where that can be
had. Noise comes from a seed, so that a run in which nothing was lost must give, bit by bit, the model of the simulation.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import federation
import pytest
from cable import Cable
from listener import Listener
from pmfed_server.results import read_lines
from pmfed_simulations.deployment import Deployment, Following, until
from safetensors.numpy import load_file

from pmfed.study import Study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "PMFED_TEST_FAULTS" not in os.environ,
        reason="takes minutes and wants root, for namespaces: set PMFED_TEST_FAULTS to run it",
    ),
]

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
SITES = (*federation.SITES, "east")  # with fewer than four no sum survives a site that is lost
CUT = float(os.environ.get("PMFED_TEST_CUT", "10"))  # seconds
CANARIES = (federation.ID_CANARY.encode(), federation.VALUE_CANARY.encode())


class Federation:
    """The federation of this file, and the ways to break it."""

    def __init__(self, folder: Path, cable: Cable | None) -> None:
        self.fed = federation.write_federation(folder / "fed")
        shutil.copytree(self.fed / "sites" / "north", self.fed / "sites" / "east")
        federation.change(self.fed / "sites" / "east" / "site.toml", "north", "east")
        for name in SITES:
            place = self.fed / "sites" / name / "site.toml"
            place.write_text(place.read_text().replace("epsilon = 2.5", "epsilon = 100.0"))
        self.cable = cable
        self.d = Deployment.make(
            folder / "d", {name: self.fed / "sites" / name for name in SITES if name != "west"},
            ("localhost", *([cable.here] if cable else [])), proxy=NGINX is not None,
        )  # fmt: skip
        self.d.add("west", self.fed / "sites" / "west", cable.here if cable else "")
        self.d.trust()
        self.runs = folder / "runs"
        try:
            self.listener: Listener | None = Listener()
        except PermissionError:
            self.listener = None

    def start(self, *names: str) -> None:
        """Start sites, all unless named, and wait until they are connected."""
        for name in names or SITES:
            self.d.start_site(name, 0, inside=self.cable.inside if self.cable and name == "west" else ())
        self.ready()

    def ready(self) -> None:
        """Wait until all sites are as they should be."""
        until(lambda: all(self.d.process(name, "courier") for name in SITES))
        until(lambda: self.d.online(*SITES))

    def end(self) -> None:
        """Stop everything; nothing may be left."""
        try:
            self.d.stop()
        finally:
            if self.listener:
                self.listener.stop()
        assert self.d.left() == []

    def run(self, name: str, rounds: int, **more: object) -> Following:
        """Begin a run over all sites."""
        study = Study.from_text(federation.STUDY, "tiny").replace(
            **{
                "study": {"name": name},
                "training": {"rounds": rounds, "quorum": 0.5},
                "evaluation": {"every": 100},
                **more,
            }
        )
        return self.d.run(self.d.approve(study, SITES), self.runs / name, len(SITES))

    def simulated(self, name: str) -> dict[str, bytes]:
        """Return the model that a simulation of a run's study gives."""
        out = self.runs / f"{name}-simulated"
        subprocess.run(
            [sys.executable, "-m", "pmfed.cli", "simulate", str(self.d.folder / f"{name}.toml"), "--sites",
             str(self.fed / "sites"), "--out", str(out), "--insecure-reproducible", "--quiet", "--workers", "1"],
            check=True,
        )  # fmt: skip
        return model(out)

    def check_books(self, out: Path, releases: int) -> None:
        """No ledger may say less than was released; every site released so much at least."""
        told = self.d.books(out)
        assert set(SITES) <= set(told)
        for charged, left in told.values():
            assert releases <= left <= charged

    def check_canaries(self) -> None:
        """Nothing but the sites' own data may hold anything of a patient: no file, and nothing that was said."""
        for path in self.d.folder.parent.rglob("*"):
            if path.is_file() and path.name != "patients.csv":
                held = path.read_bytes()
                assert not any(canary in held for canary in CANARIES), path
        if self.listener:
            held = self.listener.heard()
            assert not any(canary in held for canary in CANARIES)


def model(out: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(out / "model.safetensors").items()}


def lost(out: Path) -> list[dict[str, object]]:
    """Return the rounds of a run in which something was lost."""
    return [line for line in read_lines(out / "metrics.jsonl") if line["attempt"] or line["dropped"]]


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    try:
        cable = Cable() if NGINX else None
    except PermissionError:
        cable = None
    there = Federation(tmp_path_factory.mktemp("f"), cable)
    try:
        there.d.start_coordinator()
        there.start()
        yield there
    finally:
        try:
            there.end()
        finally:
            if cable:
                cable.remove()


@pytest.fixture
def _mended(fed: Federation) -> Iterator[None]:
    """Every test begins with sites that are well, and ends without a patient's data anywhere."""
    fed.ready()
    yield
    fed.check_canaries()


@pytest.mark.usefixtures("_mended")
def test_courier_superlink_and_cable_may_fail_and_nothing_is_lost(fed: Federation) -> None:
    run = fed.run("unharmed", 4)
    run.reached(1)
    fed.d.kill("north", "courier")
    run.reached(2)
    fed.d.kill("hub", "superlink")
    if fed.cable:
        run.reached(3)
        fed.cable.cut()
        time.sleep(CUT)
        fed.cable.mend()
    code, said = run.end()
    assert code == 0, said
    fed.check_books(run.out, 1)
    assert json.loads((run.out / "result.json").read_text())["rounds"] == 4 - len(lost(run.out))
    if not lost(run.out):
        assert model(run.out) == fed.simulated("unharmed")


@pytest.mark.usefixtures("_mended")
def test_dropout_recovery_gives_the_model_of_the_simulation(fed: Federation) -> None:
    run = fed.run("recovering", 1, aggregation={"dropouts": 1})
    code, said = run.end()
    assert code == 0, said
    assert lost(run.out) == []
    assert model(run.out) == fed.simulated("recovering")


def test_the_listener_hears_what_passes_over_the_loopback_interface() -> None:
    """Else the search for canaries in what was said could find none."""
    try:
        listener = Listener()
    except PermissionError:
        pytest.skip("only root may listen")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one, server.accept()[0] as other:
            one.sendall(b"asked " + CANARIES[0])
            other.sendall(b"answered " * 20000)
            one.recv(1)
    time.sleep(1)
    listener.stop()
    assert listener.missed == 0
    assert b"asked " + CANARIES[0] in listener.heard([port])
    assert b"answered " * 10 in listener.heard()
    assert b"asked" not in listener.heard([1])

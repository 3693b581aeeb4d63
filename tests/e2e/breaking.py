"""A federation of real processes, and the ways to break it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import federation
import pytest
from cable import Cable
from disk import Disk
from listener import Listener
from pmfed_server.results import read_lines
from pmfed_simulations.deployment import Deployment, Following, until
from safetensors.numpy import load_file

from pmfed.study import Study

WHEN_ASKED = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "PMFED_TEST_FAULTS" not in os.environ,
        reason="takes minutes and wants root, for namespaces and mounts: set PMFED_TEST_FAULTS to run it",
    ),
]

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
SITES = (*federation.SITES, "east")  # with fewer than four no sum survives a site that is lost
CANARIES = (federation.ID_CANARY.encode(), federation.VALUE_CANARY.encode())
ROOM = 32 << 20  # bytes of the disk that can be full


class Federation:
    """Four sites: west is behind a cable that can be cut, south on a disk that can be full, where those can be had."""

    def __init__(self, folder: Path) -> None:
        self.fed = federation.write_federation(folder / "fed")
        for name in federation.SITES:
            federation.change(self.fed / "sites" / name / "site.toml", "epsilon = 2.5", "epsilon = 1000.0")
        self.place("east")
        self.cable: Cable | None = None
        self.disk: Disk | None = None
        self.listener: Listener | None = None
        try:
            self.cable = Cable() if NGINX else None
            self.disk = Disk(folder / "d" / "south", ROOM)
            self.listener = Listener(CANARIES)
        except PermissionError:
            pass
        here = self.cable.here if self.cable else ""
        self.d = Deployment.make(
            folder / "d", {name: self.fed / "sites" / name for name in SITES if name != "west"},
            ("localhost", *([here] if here else [])), proxy=NGINX is not None,
        )  # fmt: skip
        self.d.add("west", self.fed / "sites" / "west", here)
        self.d.trust()
        self.runs = folder / "runs"

    def place(self, name: str) -> Path:
        """Return a folder with data and site.toml of one more site; a stranger's is where no simulation looks."""
        place = self.fed / ("sites" if name in SITES else "strangers") / name
        shutil.copytree(self.fed / "sites" / "north", place)
        federation.change(place / "site.toml", "north", name)
        return place

    def start(self, *names: str, clock: int = 0) -> None:
        """Start sites, all unless named, whose clocks are wrong by so many seconds, and wait until they are connected."""
        for name in names or SITES:
            inside = self.cable.inside if self.cable and name == "west" else ()
            self.d.start_site(name, 0, inside=inside, environment=self.wrong(clock) if clock else None)
        self.ready()

    def wrong(self, seconds: int) -> dict[str, str]:
        """Return the environment of programs whose clock is so many seconds ahead."""
        library = self.d.folder / "clock.so"
        if not library.exists():
            source = Path(__file__).with_name("clock.c")
            subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        return {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(seconds)}

    def ready(self) -> None:
        """Wait until all sites are as they should be."""
        until(lambda: all(self.d.process(name, "courier") for name in SITES))
        until(lambda: self.d.online(*SITES))

    def end(self) -> None:
        """Stop everything; nothing may be left."""
        try:
            self.d.stop()
        finally:
            for thing in (self.listener, self.disk, self.cable):
                if thing is not None:
                    thing.remove()
        assert self.d.left() == []

    def study(self, name: str, rounds: int, **more: object) -> Study:
        """Return a study that half of the sites suffice for."""
        return Study.from_text(federation.STUDY, "tiny").replace(
            **{
                "study": {"name": name},
                "training": {"rounds": rounds, "quorum": 0.5},
                "evaluation": {"every": 1000},
                **more,
            }
        )

    def run(self, name: str, rounds: int, **more: object) -> Following:
        """Begin a run over all sites."""
        study = self.d.approve(self.study(name, rounds, **more), SITES)
        return self.d.run(study, self.runs / name, len(SITES), patience=120.0)

    def simulated(self, name: str) -> dict[str, bytes]:
        """Return the model that a simulation of a run's study gives."""
        out = self.runs / f"{name}-simulated"
        subprocess.run(
            [sys.executable, "-m", "pmfed.cli", "simulate", str(self.d.folder / f"{name}.toml"), "--sites",
             str(self.fed / "sites"), "--out", str(out), "--insecure-reproducible", "--quiet", "--workers", "1"],
            check=True,
        )  # fmt: skip
        return model(out)

    def check_books(self, out: Path, releases: int, *names: str) -> None:
        """No ledger may say less than was released; every site (unless named) released so much at least."""
        told = self.d.books(out)
        for charged, left in told.values():
            assert left <= charged
        for name in names or SITES:
            assert releases <= told[name][1]

    def check_canaries(self) -> None:
        """Nothing but the sites' own data may hold anything of a patient: no file, and nothing that was said."""
        for path in self.d.folder.parent.rglob("*"):
            if path.is_file() and path.name != "patients.csv":
                held = path.read_bytes()
                assert not any(canary in held for canary in CANARIES), path
        if self.listener:
            assert not self.listener.heard


def model(out: Path) -> dict[str, bytes]:
    """Return the tensors of a run's model, as bytes."""
    return {name: tensor.tobytes() for name, tensor in load_file(out / "model.safetensors").items()}


def lines(out: Path) -> list[dict[str, Any]]:
    """Return what a run says of its rounds."""
    return read_lines(out / "metrics.jsonl")


def lost(out: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run in which something was lost."""
    return [line for line in lines(out) if line["attempt"] or line["dropped"]]


def missed(out: Path, site: str) -> list[str]:
    """Return why a site was missing in rounds of a run."""
    return [line["dropped"][site] for line in lines(out) if site in line["dropped"]]

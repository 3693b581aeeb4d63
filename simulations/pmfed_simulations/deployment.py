"""A real federation on this machine: a coordinator and sites, each with the processes and the folder it has anywhere.

For benches and for the tests that break things. What hospitals and coordinator do by hand, one after the other
(docs/hospital.md, docs/coordinator.md), is done here at once; what runs afterwards is the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pmfed_client.ledger.ledger import Ledger
from pmfed_client.site.approve import approve
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.create import make_home
from pmfed_client.site.site import FILE, Site
from pmfed_client.site.trust import card_of, pin
from pmfed_server.coordinator import Coordinator, add_card, make_coordinator, spelled
from pmfed_server.deployed import read_run
from pmfed_server.serving import connected

from pmfed.errors import RunError
from pmfed.processes import free_port, running
from pmfed.study import Study

SOON = 300.0  # seconds in which processes come up, even on a busy machine
LOOK, ASK = 0.1, 2.0  # seconds between two looks at files and processes, and between two questions to Flower


@dataclass
class Deployment:
    """A coordinator and its sites.

    Attributes
    ----------
    folder
        Holds a folder per site, the coordinator's in ``hub``, and what commands said in ``said.log``.
    coordinator, sites
        Theirs.
    kept
        The processes begun here, by name: what stays until it is stopped.
    """

    folder: Path
    coordinator: Coordinator
    sites: dict[str, Site]
    kept: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    followed: list[Following] = field(default_factory=list)

    @classmethod
    def make(
        cls, folder: Path, places: Mapping[str, Path], hosts: Sequence[str] = ("localhost",), proxy: bool = True
    ) -> Deployment:
        """Make a coordinator, and a site of each folder of data with its site.toml; all trust each other.

        Parameters
        ----------
        folder
            Where; short, because a socket's path may have 100 bytes.
        places
            By site, the folder whose files it gets. Its site.toml must not name a coordinator.
        hosts
            Names and addresses the coordinator is reached by; sites use the first.
        proxy
            Whether nginx stands between the sites and Flower's SuperLink.
        """
        port = free_port()
        coordinator = make_coordinator(folder / "hub", hosts, port, free_port() if proxy else port)
        made = cls(folder, coordinator, {})
        for name, place in places.items():
            made.add(name, place)
        made.trust()
        return made

    def add(self, name: str, place: Path, host: str = "", known: bool = True) -> Site:
        """Make one more site, which nobody trusts yet; ``known``: the coordinator takes its card in."""
        home = make_home(self.folder / name, name).folder
        for file in place.iterdir():
            if file.is_file() and file.name != FILE:
                shutil.copy(file, home)
        for public in ("ca.crt", "coordinator.pub"):
            shutil.copy(self.coordinator.folder / public, home)
        addresses = self.coordinator.addresses
        told = (place / FILE).read_text(encoding="utf-8")
        address = spelled(host or addresses.names[0], addresses.port)
        (home / FILE).write_text(f'{told}\n[coordinator]\naddress = "{address}"\n', encoding="utf-8")
        self.sites[name] = site = Site.read(home)
        if known:
            self.know(name)
        return site

    def know(self, name: str) -> None:
        """Have the coordinator take in a site's card."""
        card = self.folder / f"{name}.json"
        card.write_text(card_of(self.sites[name]), encoding="utf-8")
        add_card(self.coordinator, card)

    def trust(self) -> None:
        """Have every site on the coordinator's roster pin it, as if they had telephoned."""
        for name in self.coordinator.known():
            pin(self.sites[name], self.coordinator.roster, lambda *_: True)

    def approve(self, study: Study, names: Iterable[str] | None = None) -> Path:
        """Have sites approve a study (all, unless named); return its file."""
        path = self.folder / f"{study.study.name}.toml"
        path.write_text(study.to_toml(), encoding="utf-8")
        for name in self.sites if names is None else names:
            approve(self.sites[name], study, lambda _: True)
        return path

    # -- processes ------------------------------------------------------------------------------------------------

    def start(
        self, name: str, *words: str, inside: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """Run `pmfed WORDS` until it is stopped; ``inside`` goes before the command, as ``ip netns exec NAME`` does."""
        with (self.folder / "said.log").open("ab") as said:
            self.kept[name] = subprocess.Popen(
                [*inside, sys.executable, "-m", "pmfed.cli", *words], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **(environment or {})},
            )  # fmt: skip

    def start_coordinator(self) -> None:
        """Start the coordinator; without a port of its own for the SuperLink there is no nginx before it."""
        addresses = self.coordinator.addresses
        proxy = () if addresses.port != addresses.link_port else ("--no-proxy",)
        self.start("hub", "coordinator", "start", "--coordinator", "hub", *proxy)

    def start_site(
        self, name: str, seed: int | None = None, inside: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        """Start a site; a seed makes its noise repeatable and worthless."""
        words = () if seed is None else ("--insecure-reproducible", str(seed))
        self.start(name, "site", "start", name, *words, inside=inside, environment=environment)

    def stop(self, *names: str) -> None:
        """Stop what was started, all unless named, and wait for its end; with all, runs are no longer followed."""
        for run in () if names else self.followed:
            run.process.kill()
            run.process.wait()
        ending = {name: self.kept.pop(name) for name in names or list(self.kept)}
        for process in ending.values():
            process.terminate()
        for process in ending.values():
            process.wait(60)

    def online(self, *names: str) -> bool:
        """Whether sites are connected, by Flower's word, for which a program of Flower's starts: look every few seconds."""
        time.sleep(ASK)
        try:
            states = connected(self.coordinator)
        except RunError:
            return False
        return all(states.get(name) == "online" for name in names)

    def process(self, name: str, program: str) -> int | None:
        """Return the process of a program of a site, or of the coordinator (``hub``)."""
        found = running(self.folder / name)
        pid = found["programs"].get(program, {}).get("pid") if found else None
        return int(pid) if pid else None

    def kill(self, name: str, program: str) -> None:
        """SIGKILL a program; its keeper starts it anew."""
        pid = self.process(name, program)
        if pid is None:
            raise RunError(f"{name}: no {program} runs.")
        os.kill(pid, signal.SIGKILL)

    def serverapps(self) -> list[int]:
        """Return the processes of runs under way."""
        found = []
        for pid, words in self._processes():
            if b"flwr-serverapp" in words:
                found.append(pid)
        return found

    def left(self) -> list[str]:
        """Return the command lines of what runs of this federation."""
        return [words.decode(errors="replace") for _, words in self._processes()]

    def _processes(self) -> Iterable[tuple[int, bytes]]:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if f"{self.folder}/".encode() in words and int(place.name) != os.getpid():
                yield int(place.name), words

    # -- runs -----------------------------------------------------------------------------------------------------

    def run(self, study: Path, out: Path, sites: int, patience: float = 60.0) -> Following:
        """Begin a run with `pmfed coordinator run`."""
        return Following(
            self, out, "run", str(study), "--sites", str(sites), "--out", str(out), "--patience", str(patience)
        )

    def resume(self, out: Path) -> Following:
        """Go on with a run."""
        return Following(self, out, "resume", str(out))

    def books(self, out: Path) -> dict[str, tuple[int, int]]:
        """Return, by site, how many sums of a run were charged and how many left; LedgerError unless all chains hold."""
        run = read_run(out)["id"]
        told = {}
        for name, site in self.sites.items():
            if not site.ledger.exists():
                continue
            # Not kept open: were this process to read the file in any other way, the system would take SQLite's lock away.
            with Ledger(site.ledger) as ledger:
                ledger.verify()
                rows = [row for row in ledger.rows() if row.run == run and row.kind == "charge"]
            left = {
                (line["what"], line["round"], line["attempt"])
                for line in AuditLog(site.audit_log).lines()
                if line.get("run") == run and line["what"] in ("step", "statistics") and not line["code"]
            }
            told[name] = (sum(row.what in ("step", "statistics") for row in rows), len(left))
        return told


class Following:
    """A run that is followed by a process of its own, `pmfed coordinator run` or `resume`."""

    def __init__(self, deployment: Deployment, out: Path, command: str, *words: str) -> None:
        self.out = out
        self.said = out.with_name(f"{out.name}.said")
        out.parent.mkdir(exist_ok=True, parents=True)
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pmfed.cli", "coordinator", command, *words, "--coordinator", "hub"],
                cwd=deployment.folder, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deployment.followed.append(self)

    @property
    def rounds(self) -> int:
        """How many rounds are done."""
        lines = self.out / "metrics.jsonl"
        return lines.read_text(encoding="utf-8").count("\n") if lines.exists() else 0

    def reached(self, rounds: int, within: float = 900.0) -> None:
        """Wait until so many rounds are done; RunError when the run ends before."""

        def there() -> bool:
            if self.rounds < rounds and self.process.poll() is not None:
                raise RunError(f"the run ended after {self.rounds} rounds: {self.words()}")
            return self.rounds >= rounds

        until(there, within)

    def end(self, timeout: float = 900.0) -> tuple[int, str]:
        """Wait for its end; return exit code and all it said."""
        return self.process.wait(timeout), self.words()

    def words(self) -> str:
        """Return what it has said so far."""
        return self.said.read_text(encoding="utf-8", errors="replace")


def until(true: Callable[[], object], within: float = SOON) -> None:
    """Wait until something holds; RunError when it does not in time."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise RunError(f"waited {within:.0f} s in vain.")
        time.sleep(LOOK)

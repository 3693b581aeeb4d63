"""`--engine ray`: a job on Flower's own simulation runtime, the very ServerApp and ClientApp, spread by Ray.

For those who outgrow one process per core. It is much slower to start than the engine of `grid.py` and polls between
messages, so a small federation gains nothing by it.

Flower runs apps through a SuperLink. We start our own for each job, on the loopback interface and with its files in
RUN/flower, submit a bundle that holds no code, follow the run, and stop everything at the end. While it runs, whoever
has an account on this machine can reach the SuperLink's port and have code of their own run in the researcher's name:
Flower's simulation runtime has no authentication. Use it on a machine you do not share.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w
from pmfed_client.resident import SITES, list_sites

from pmfed import __version__
from pmfed.errors import ERRORS, PmfedError, RunError, UsageError

if TYPE_CHECKING:
    from pmfed_simulations.jobs import Job

STARTED = 60.0  # seconds a SuperLink may take to answer
GRACE = 2.0  # seconds a process may take to stop; all of them less than `run_jobs` waits for a job
LOOK = 0.2  # seconds between two looks at RUN
ASK = 15.0  # seconds between two questions to Flower while RUN says nothing


def check_ray() -> None:
    """Say so when the extra is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "--engine ray needs Ray, which is not installed.", "Run: pip install 'pmfed[ray]'; or leave --engine out."
        )


def run_job_on_ray(job: Job, run: str, workers: int, patience: float) -> None:
    """Run a job to its end, or on from its last checkpoint, on Flower's simulation runtime.

    Parameters
    ----------
    job
        A federation with ledgers kept, under the study's own split: every site reads its own folder, so what only
        a protocol knows cannot reach it.
    run
        The run id the sites' ledgers know.
    workers
        Ray actors, one core each.
    patience
        Seconds the ServerApp waits for sites and answers.

    Raises
    ------
    PmfedError
        What the ServerApp left in RUN/failed.json; RunError when Flower itself failed.
    """
    check_ray()
    assert job.books == "kept"
    assert job.training is None
    folder = job.folder.absolute()
    home = folder / "flower"
    shutil.rmtree(home, ignore_errors=True)
    (home / "app").mkdir(parents=True)
    list_sites(home / "sites.json", job.sites, job.seed)
    config: dict[str, str | int | float] = {
        "run": str(folder),
        "id": run,
        "sites": len(job.sites),
        "patience": patience,
    }
    (home / "app" / "pyproject.toml").write_text(_bundle(config), encoding="utf-8")
    # A neutral working directory: Ray's actors import from it. Ray's own sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="pmfed-", ignore_cleanup_errors=True) as scratch:
        flower = _Flower(home, Path(scratch))
        try:
            flower.start()
            _follow(flower, flower.submit(len(job.sites), workers), folder)
        finally:
            flower.stop()
    shutil.rmtree(home, ignore_errors=True)


def _bundle(config: dict[str, str | int | float]) -> str:
    """Return the bundle Flower ships: one pyproject.toml that points at installed modules."""
    flwr = {
        "publisher": "pmfed",
        "fab-include": ["pyproject.toml"],
        "components": {"serverapp": "pmfed_server.app:app", "clientapp": "pmfed_client.app:app"},
        "config": config,
    }
    project = {"name": "pmfed-run", "version": __version__, "license": "Apache-2.0", "dependencies": []}
    return tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flwr}}})


def _follow(flower: _Flower, number: str, folder: Path) -> None:
    """Wait for the end of a run.

    What the ServerApp writes into RUN tells of the end sooner than Flower does, and asking Flower starts a process;
    but only Flower knows of a run that died without a word.
    """
    asked = time.monotonic()
    while True:
        ended = (folder / "result.json").exists() or (folder / "failed.json").exists()
        if ended or time.monotonic() - asked > ASK:
            asked = time.monotonic()
            status = flower.status(number)
            if status == "finished:completed" and (folder / "result.json").exists():
                return
            if status.startswith("finished"):
                raise _failure(folder, f"Flower says '{status}'", flower.log)
        if not flower.alive:
            raise _failure(folder, "Flower's SuperLink or SuperExec died", flower.log)
        time.sleep(LOOK)


def _failure(folder: Path, said: str, log: Path) -> PmfedError:
    noted = folder / "failed.json"
    if noted.exists():
        told = json.loads(noted.read_text(encoding="utf-8"))
        return ERRORS.get(told["code"], PmfedError)(told["what"], told["remedy"])
    return RunError(f"the run on Ray ended without a result: {said}.", f"See the end of {log}.")


class _Flower:
    """A SuperLink of our own, a SuperExec that starts its runs, and Flower's command line pointed at it.

    A SuperLink would start its SuperExec itself, but detached: Ray would outlive a SuperLink that is stopped.
    """

    def __init__(self, home: Path, scratch: Path) -> None:
        self.home, self.scratch = home, scratch
        self.log = home / "superlink.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        tools = str(Path(sys.executable).parent)
        (scratch / "empty").mkdir()
        self._env = {
            **os.environ,
            "PATH": tools + os.pathsep + os.environ.get("PATH", ""),
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(scratch),
            SITES: str(home / "sites.json"),
        }

    @property
    def alive(self) -> bool:
        """Whether SuperLink and SuperExec run."""
        return all(process.poll() is None for process in self._processes)

    def start(self) -> None:
        """Start the SuperLink and wait until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        address = f"127.0.0.1:{port}"
        connection = {"superlink": {"default": "own", "own": {"address": address, "insecure": True}}}
        (self.home / "config.toml").write_text(tomli_w.dumps(connection), encoding="utf-8")
        secret = self.scratch / "secret"
        secret.write_text(secrets.token_hex(32), encoding="utf-8")
        shared = ["--insecure", "--superexec-auth-secret-file", str(secret)]
        database = str(self.home / "state.db")
        self._spawn(
            "flower-superlink", "--simulation", "--isolation", "process", "--host", "127.0.0.1", "--port", port,
            "--database", database, "--disable-runtime-dependency-installation", *shared,
        )  # fmt: skip
        deadline = time.monotonic() + STARTED
        while not _answers(address):
            if not self.alive or time.monotonic() > deadline:
                raise RunError("Flower's SuperLink did not start.", f"See the end of {self.log}.")
            time.sleep(LOOK)
        self._spawn("flower-superexec", "--runtime-api-address", address, *shared)

    def _spawn(self, *command: str) -> None:
        # A session of its own: `stop` reaches all that it starts, and Ctrl-C reaches us alone.
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._env,
                cwd=self.scratch / "empty", start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)

    def submit(self, sites: int, workers: int) -> str:
        """Submit the bundle and return Flower's number of the run."""
        federation = {
            "num-supernodes": sites,
            "client-resources-num-cpus": 1,
            "client-resources-num-gpus": 0.0,
            "init-args-num-cpus": workers,
        }
        spelled = " ".join(f"{name}={value}" for name, value in federation.items())
        answer = self._flwr("run", str(self.home / "app"), "--federation-config", spelled)
        return str(answer["run-id"])

    def status(self, number: str) -> str:
        """Return Flower's word for how a run stands."""
        runs = self._flwr("list", "--run-id", number)["runs"]
        assert isinstance(runs, list)
        return str(runs[0]["status"])

    def _flwr(self, *words: str) -> dict[str, object]:
        done = subprocess.run(
            ["flwr", *words, "--format", "json"], env=self._env, cwd=self.scratch / "empty", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=STARTED, check=False,
        )  # fmt: skip
        try:
            answer: dict[str, object] = json.loads(done.stdout)
        except ValueError:
            answer = {}
        if done.returncode != 0 or not answer.get("success"):
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"\nflwr {words[0]} said:\n{done.stdout}{done.stderr}\n")
            raise RunError(f"'flwr {words[0]}' failed.", f"See the end of {self.log}.")
        return answer

    def stop(self) -> None:
        """Stop both and everything they started: first asked, then made to."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in reversed(self._processes):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)


def _answers(address: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the machine itself, whatever proxy is set
    try:
        with direct.open(f"http://{address}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

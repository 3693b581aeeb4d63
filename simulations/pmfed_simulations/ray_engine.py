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
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from pmfed_client.connection.agent_address import SOCKETS
from pmfed_server.bundle import Flwr, bundle, failure_of

from pmfed.errors import RunError, UsageError
from pmfed.processes import flower_environment, free_port
from pmfed_simulations.job import Job
from pmfed_simulations.ray_sites import list_sites

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
    (home / "app" / "pyproject.toml").write_text(bundle(config), encoding="utf-8")
    # A neutral working directory: Ray's actors import from it. Ray's own sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="pmfed-", ignore_cleanup_errors=True) as scratch:
        flower = _Flower(home, Path(scratch))
        try:
            flower.start()
            _follow(flower, flower.submit(len(job.sites), workers), folder)
        finally:
            flower.stop()
    shutil.rmtree(home, ignore_errors=True)


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
            status = flower.flwr.status(number)
            if status == "finished:completed" and (folder / "result.json").exists():
                return
            if status.startswith("finished"):
                raise failure_of(folder, f"Flower says '{status}'", flower.log)
        if not flower.alive:
            raise failure_of(folder, "Flower's SuperLink or SuperExec died", flower.log)
        time.sleep(LOOK)


class _Flower:
    """A SuperLink of our own, a SuperExec that starts its runs, and Flower's command line pointed at it.

    A SuperLink would start its SuperExec itself, but detached: Ray would outlive a SuperLink that is stopped.
    """

    def __init__(self, home: Path, scratch: Path) -> None:
        self.home, self.scratch = home, scratch
        self.log = home / "superlink.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        for folder in ("empty", "sites"):
            (scratch / folder).mkdir()
        self._env = {
            **os.environ,
            **flower_environment(home),
            "RAY_TMPDIR": str(scratch),
            SOCKETS: str(scratch / "sites"),
        }
        self.flwr = Flwr(self._env, scratch / "empty", self.log)

    @property
    def alive(self) -> bool:
        """Whether SuperLink and SuperExec run."""
        return all(process.poll() is None for process in self._processes)

    def start(self) -> None:
        """Start the agents and the SuperLink, and wait until they answer."""
        with self.log.open("ab") as log:
            agents = subprocess.Popen(
                [sys.executable, "-m", "pmfed_simulations.ray_sites", self.home / "sites.json", self.scratch / "sites"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._env, cwd=self.scratch / "empty",
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(agents)
        assert agents.stdout is not None
        if agents.stdout.readline().strip() != b"ready":
            raise RunError("the sites' agents did not start.", f"See the end of {self.log}.")
        port = str(free_port())
        address = f"127.0.0.1:{port}"
        self.flwr.point(address)
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
        return self.flwr.submit(self.home / "app", federation)

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

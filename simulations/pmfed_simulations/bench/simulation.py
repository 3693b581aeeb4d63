"""How fast a simulation is: against Flower's own runtime, against bare gradients, and with two workers."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pmfed_client.agent.trainer import Trainer

from pmfed.methods import plan_for
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.sampling import poisson
from pmfed_simulations.bench import BenchRow, Timed, compare
from pmfed_simulations.jobs import run_job
from pmfed_simulations.simulate import Options, Simulation, prepare

ROUNDS = 100
IMAGE_ROUNDS = 20


def rows() -> list[BenchRow]:
    """Measure and return the rows; what cannot run is a row with the reason."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        if os.environ.get("PMFED_DATA"):
            warfarin = prepare(Options(study="warfarin", out=f"{folder}/warfarin", rounds=ROUNDS))
            found.append(_against_bare(warfarin))
            found.append(_against_ray(Path(folder)))
        else:
            found.append(_skipped("warfarin, 21 sites x 100 rounds", "skipped: set PMFED_DATA", 1.5))
        hospitals = prepare(Options(study="hospitals", out=f"{folder}/hospitals", rounds=IMAGE_ROUNDS))
        two = compare(
            f"image model, 5 sites x {IMAGE_ROUNDS} rounds: 2 workers / 1",
            _measured(lambda: _train(hospitals, 2)),
            _measured(lambda: _train(hospitals, 1)),
            0.65,
        )
        found.append(two)
    return found


def _against_bare(simulation: Simulation) -> BenchRow:
    return compare(
        f"warfarin, 21 sites x {ROUNDS} rounds: whole run / bare gradient passes",
        _measured(lambda: _train(simulation, 1)),
        _measured(lambda: _bare(simulation)),
        1.5,
    )


def _against_ray(folder: Path) -> BenchRow:
    name = f"warfarin, 21 sites x {ROUNDS} rounds, start-up included: in process / ray"
    if importlib.util.find_spec("ray") is None:
        return _skipped(name, "skipped: pip install 'pmfed[ray]'", 0.1)

    def command(engine: str) -> Timed:
        def run() -> tuple[float, float | None]:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                said = [sys.executable, "-m", "pmfed.cli", "simulate", "warfarin", "--rounds", str(ROUNDS), "--quiet"]
                started = time.perf_counter()
                subprocess.run(
                    [*said, "--compare", "none", "--engine", engine, "--out", f"{place}/run"],
                    check=True, stdout=subprocess.DEVNULL,
                )  # fmt: skip
                return time.perf_counter() - started, None

        return run

    return compare(name, command("local"), command("ray"), 0.1)


def _skipped(name: str, note: str, target: float) -> BenchRow:
    return BenchRow(name, 0.0, 0.0, 0.0, target, note=note)


def _train(simulation: Simulation, workers: int) -> None:
    """Run the federation's one training in a fresh folder."""
    (job,) = simulation.main.jobs[0]
    with tempfile.TemporaryDirectory() as folder:
        sites = []
        for site in job.sites:
            home = Path(folder) / "sites" / site.name
            home.mkdir(parents=True)
            sites.append(site.model_copy(update={"folder": home}))
        fresh = type(job)(**{**job.__dict__, "folder": Path(folder) / "run", "sites": tuple(sites)})
        run_job(fresh, simulation.cohorts, workers)


def _bare(simulation: Simulation) -> None:
    """The same gradients of as many patients, with no federation around them: no messages, ledger, noise, files."""
    study = simulation.study
    plan = plan_for(study, len(simulation.sites))
    source = SecretSource()
    trainers = [Trainer(study, plan, simulation.cohorts[site.name], lambda *_: source) for site in simulation.sites]
    batches = [trainer.training for trainer in trainers]
    for _ in range(study.training.rounds):
        for trainer, batch in zip(trainers, batches, strict=True):
            drawn = batch.take(poisson(len(batch.count), plan["step"].sampling_rate, source))
            trainer.private.clipped_sum(drawn.inputs, drawn.present, drawn.targets, drawn.owner)


def _measured(work: Callable[[], None]) -> Timed:
    """Run some work in a forked process and return its seconds and its peak memory with its children."""

    def run() -> tuple[float, float | None]:
        fork = multiprocessing.get_context("fork")
        here, there = fork.Pipe()
        process = fork.Process(target=_child, args=(work, there))
        process.start()
        told: bytes = here.recv_bytes()
        process.join()
        seconds, peak = told.decode().split()
        return float(seconds), float(peak)

    return run


def _child(work: Callable[[], None], pipe: Any) -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    kilobytes = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    pipe.send_bytes(f"{seconds} {kilobytes / 1000}".encode())
    os._exit(0)

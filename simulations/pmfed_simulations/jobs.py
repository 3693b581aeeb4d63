"""Running jobs: side by side in forked processes, which share the cohorts read before the fork."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.agent.answers import Answers
from pmfed_client.connection import agent_address as resident
from pmfed_client.connection.app import app as client_app
from pmfed_server.app import conduct
from safetensors.numpy import load_file, save

from pmfed.cohort import Cohort, pool
from pmfed.errors import ERRORS, InterruptedRunError, PmfedError, RunError
from pmfed.file_io import replace_file
from pmfed.methods.further import further_of
from pmfed.models import build
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.plan import AGAINST
from pmfed.queries.scores import Scores
from pmfed.runs.model import read_description
from pmfed.runs.recalibrated import line_of
from pmfed.study import Study
from pmfed_simulations.converged import fit_in_full
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.job import Job, Sum, plan_of
from pmfed_simulations.ray_engine import run_job_on_ray
from pmfed_simulations.rosters import pin_rosters

PATIENCE = 3600.0  # seconds that a coordinator waits for sites


def run_job(job: Job, cohorts: Mapping[str, Cohort], workers: int = 1) -> None:
    """Run a job to its end, or on from its last checkpoint."""
    torch.set_num_threads(1)
    job.folder.mkdir(parents=True, exist_ok=True)
    run = _run_id(job.folder)
    (job.folder / "failed.json").unlink(missing_ok=True)
    replace_file(job.folder / "study.toml", job.study.to_toml().encode())
    if job.books == "kept":
        pin_rosters(job.sites)
    if job.converged:
        fit_in_full(job.folder, job.study, pool([_cut(job, site.name, cohorts[site.name]) for site in job.sites]))
    elif job.engine == "ray":
        run_job_on_ray(job, run, workers, PATIENCE)
    else:
        _run_here(job, run, cohorts, workers)
    if job.scored:
        totals = score(job, cohorts, run)
        replace_file(job.folder / "scores.safetensors", save(totals))


def _run_here(job: Job, run: str, cohorts: Mapping[str, Cohort], workers: int) -> None:
    agents = _agents(job, cohorts)
    for name, agent in agents.items():
        resident.register(name, agent)
    plan = plan_of(job.study, len(agents), job.books)
    try:
        nodes = {number: {"site": name} for number, name in enumerate(agents, start=1)}
        sizes = {number: agent.patients for number, agent in enumerate(agents.values(), start=1)}
        with LocalGrid(client_app, nodes, workers, sizes) as grid:
            conduct(grid, job.study, plan, job.folder, run=run, sites=len(nodes), patience=PATIENCE)
    finally:
        for name in agents:
            resident.forget(name)


def score(job: Job, cohorts: Mapping[str, Cohort], run: str) -> dict[str, Sum]:
    """Return the sum of rows over the held-out patients of each site the job is scored on.

    ``NAME`` is that of the common model, ``personal:NAME`` that of the site's own, which this machine may read. Where
    parts of the model stay at the sites, theirs is both.
    """
    study = job.scoring.replace(personal=None)  # a whole model is scored as any other
    plan = plan_of(study.replace(privacy={"colluders": 0}, aggregation={"dropouts": 0}), 1, "noiseless")
    own = {site.name: site.personal / f"{run}.safetensors" for site in job.sites if job.study.personal}
    totals = {}
    for name in job.scored:
        answers, scores = Answers(study, plan, _cut(job, name, cohorts[name]), lambda *_: SecretSource()), Scores(study)
        if not job.study.parts:
            whole = _state(scores, job.folder)
            totals[name] = answers.exact(scores, whole)
            totals |= {f"further:{query.name}:{name}": answers.exact(query, whole) for query in further_of(study)}
        if name in own and own[name].exists():
            totals[f"personal:{name}"] = answers.exact(scores, {"parameters": _whole(study, own[name])})
            totals.setdefault(name, totals[f"personal:{name}"])
    return totals


def _state(scores: Scores, run: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the state of a finished run's common model, its outputs recalibrated as the run found best."""
    state: dict[str, npt.NDArray[Any]] = {"parameters": _whole(scores.study, run / "model.safetensors")}
    if "recalibration" in scores.state:
        outputs = scores.state["recalibration"][1] - 1
        state["recalibration"] = line_of(read_description(run)[0].recalibration, outputs).vector
    return state


def _whole(study: Study, path: Path) -> npt.NDArray[np.float32]:
    """Return a model's parameters and the statistics it needs, flat."""
    tensors = load_file(path)
    rest = [tensors[name].reshape(-1) for name, p in build(study).named_parameters() if p.requires_grad]
    return np.concatenate([*rest, tensors.get("statistics", np.zeros(0, np.float32))]).astype(np.float32)


def run_jobs(
    jobs: Sequence[Job], cohorts: Mapping[str, Cohort], workers: int, tick: Callable[[], None] = lambda: None
) -> None:
    """Run jobs side by side in forked processes; what is done already is left alone.

    Parameters
    ----------
    jobs
        In the order to start them.
    cohorts
        Patients by site.
    workers
        How many processes at once. A single job, and any job on Ray, spreads its sites over them instead.
    tick
        Called several times a second.

    Raises
    ------
    PmfedError
        The first failure; the other running jobs are stopped.
    InterruptedRunError
        Ctrl-C.
    """
    waiting = [job for job in jobs if not job.done]
    for job in waiting:
        # Solved here, the plans' accounting is remembered by every process forked from this one.
        plan = plan_of(job.study, 1 if job.pooled else len(job.sites), job.books)
        for against in AGAINST:
            plan.epsilon(against=against)
    single = len(waiting) == 1

    def wide(job: Job) -> bool:
        return single or job.engine == "ray"

    def room() -> bool:
        return not running or (len(running) < workers and not any(map(wide, (waiting[0], *running))))

    fork = multiprocessing.get_context("fork")
    running: dict[Job, Any] = {}
    try:
        while waiting or running:
            while waiting and room():
                job = waiting.pop(0)
                inner = workers if wide(job) else 1
                process = fork.Process(target=_child, args=(job, cohorts, inner), daemon=False)
                sys.stdout.flush()
                process.start()
                running[job] = process
            tick()
            next(iter(running.values())).join(timeout=0.1)
            for job in [job for job, process in running.items() if not process.is_alive()]:
                process = running.pop(job)
                if process.exitcode != 0:
                    raise _failure(job, process.exitcode)
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped. What was charged to the sites' ledgers stays charged.") from None
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join(timeout=10)
        tick()


def _child(job: Job, cohorts: Mapping[str, Cohort], workers: int) -> None:
    """A forked process that runs one job and ends without touching what it inherited."""
    os.setpgrp()  # Ctrl-C goes to the parent, which stops us
    alone = workers == 1 and job.engine == "local"  # with no processes of its own to stop first
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143) if alone else sys.exit(143))
    code = 0
    try:
        run_job(job, cohorts, workers)
    except PmfedError as error:
        _note(job.folder, error)
        code = 1
    except BaseException as error:
        if not isinstance(error, SystemExit):
            (job.folder / "crash.txt").write_text(traceback.format_exc(), encoding="utf-8")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _note(folder: Path, error: PmfedError) -> None:
    said = {"code": error.code, "what": error.what, "remedy": error.remedy}
    (folder / "failed.json").write_text(json.dumps(said), encoding="utf-8")


def _failure(job: Job, code: int | None) -> PmfedError:
    """Return the error a child left behind."""
    noted = job.folder / "failed.json"
    if noted.exists():
        said = json.loads(noted.read_text(encoding="utf-8"))
        return ERRORS.get(said["code"], PmfedError)(said["what"], said["remedy"])
    return RunError(f"{job.folder}: the job ended with code {code}.", f"See {job.folder / 'crash.txt'} if it is there.")


def _run_id(folder: Path) -> str:
    """Return the run id this folder has had since its first start."""
    path = folder / "run-id"
    if not path.exists():
        replace_file(path, secrets.token_hex(16).encode())
    return path.read_text(encoding="utf-8").strip()


def _agents(job: Job, cohorts: Mapping[str, Cohort]) -> dict[str, Agent]:
    rehearsal = Rehearsal(
        plan=None if job.books == "kept" else lambda study, sites: plan_of(study, sites, job.books), seed=job.seed
    )
    cut = {site.name: _cut(job, site.name, cohorts[site.name]) for site in job.sites}
    if job.pooled:
        return {"pooled": Agent(job.sites[0], cohort=pool(list(cut.values())), rehearsal=rehearsal)}
    fold = "" if job.training is None else job.folder.name
    return {site.name: Agent(site, cohort=cut[site.name], fold=fold, rehearsal=rehearsal) for site in job.sites}


def _cut(job: Job, name: str, cohort: Cohort) -> Cohort:
    wanted = job.study.modalities
    if len(wanted) < len(cohort.inputs):  # an ablation
        cohort = replace(
            cohort,
            inputs={key: cohort.inputs[key] for key in wanted},
            present={key: cohort.present[key] for key in wanted},
        )
    return cohort if job.training is None else cohort.with_training(job.training[name])


def rounds_done(jobs: Sequence[Job]) -> int:
    """Return how many rounds the jobs have taken so far, from their metrics.jsonl."""
    total = 0
    for job in jobs:
        try:
            with (job.folder / "metrics.jsonl").open("rb") as lines:
                total += sum(1 for _ in lines)
        except FileNotFoundError:
            continue
    return total

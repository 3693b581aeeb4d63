"""`pmfed simulate`: a whole federation on one machine, measured beside its alternatives."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pmfed_client.agent.dry_step import dry_step
from pmfed_client.site.site import Site, read_sites
from pmfed_server.results import write_results_page
from pydantic import ValidationError

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import StudyError, UsageError
from pmfed.file_io import replace_file
from pmfed.methods import method_class, plan_for, schedule
from pmfed.methods.power import power
from pmfed.methods.step_rule import resolved
from pmfed.study import Study
from pmfed.study.draft import Draft
from pmfed.validate import explain
from pmfed_simulations.job import Engine, Job
from pmfed_simulations.jobs import rounds_done, run_jobs
from pmfed_simulations.ledgers import price, with_dry_ledgers
from pmfed_simulations.planning import far_off
from pmfed_simulations.protocols import (
    PROTOCOLS,
    Protocol,
    TrainingSeries,
    check_comparisons,
    comparison,
    federation,
    without_absent,
)
from pmfed_simulations.ray_engine import check_ray
from pmfed_simulations.rosters import pin_rosters
from pmfed_simulations.studies import built_in, built_in_studies, find_draft
from pmfed_simulations.summary import summarise_series


@dataclass(frozen=True)
class Options:
    """What `pmfed simulate` was asked. JSON-able, so that a stopped simulation can go on."""

    study: str
    out: str
    sites: str | None = None
    data: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    rounds: int | None = None
    protocol: Protocol = "holdout"
    seeds: int = 1
    compare: tuple[str, ...] = ()
    workers: int = 0
    reproducible: bool = False
    engine: Engine = "local"
    changes: str | None = None
    dry_ledger: bool = False
    strict: bool = False

    def command(self) -> str:
        """Return the command line that asks the same."""
        said = ["pmfed", "simulate", self.study]
        for option, value, usual in (
            ("--sites", self.sites, None), ("--data", self.data, None), ("--epsilon", self.epsilon, None),
            ("--delta", self.delta, None), ("--rounds", self.rounds, None), ("--protocol", self.protocol, "holdout"),
            ("--with", self.changes, None), ("--seeds", self.seeds, 1), ("--compare", ",".join(self.compare) or "none", ""),
            ("--engine", self.engine, "local"), ("--workers", self.workers, 0), ("--out", self.out, ""),
        ):  # fmt: skip
            if value != usual:
                said += [option, str(value)]
        if self.sites:
            said.append("--dry-ledger" if self.dry_ledger else "--charge-ledger")
        said += [*["--strict"] * self.strict, *["--insecure-reproducible"] * self.reproducible]
        return shlex.join(said)


@dataclass(frozen=True)
class Simulation:
    """A simulation made ready: every job known, every cohort read."""

    options: Options
    study: Study
    sites: tuple[Site, ...]
    cohorts: dict[str, Cohort]
    main: TrainingSeries
    others: tuple[TrainingSeries, ...]
    best: dict[str, float] | None
    verdicts: tuple[str, ...] = ()

    @property
    def out(self) -> Path:
        """RUN/."""
        return Path(self.options.out)

    @property
    def jobs(self) -> list[Job]:
        """All jobs, the federation first."""
        return [job for series in (self.main, *self.others) for row in series.jobs for job in row]

    @property
    def rounds(self) -> int:
        """Rounds over all jobs."""
        return sum(job.study.training.rounds for job in self.jobs if not job.converged)

    def rounds_done(self) -> int:
        """Rounds taken so far."""
        return rounds_done(self.jobs)

    def references(self) -> list[dict[str, Any]]:
        """Return what others published on the same patients; on sites of one's own nobody did."""
        return [] if self.options.sites else built_in(self.options.study).references(self.out / "sites")


def prepare(
    options: Options,
    tell: Callable[[str], None] = lambda what: None,
    charge: Callable[[str], bool] | None = None,
) -> Simulation:
    """Read or make the sites, read every cohort, and list the jobs.

    Parameters
    ----------
    options
        What was asked.
    tell
        Called with what is begun, where that takes a while.
    charge
        Asked, with the price, before ledgers in the researcher's own folders are charged; answers whether they may be.
        Without it they are, unless ``options.dry_ledger``.

    Raises
    ------
    PmfedError
        Anything that can be known to be wrong before training is found here.
    """
    torch.set_num_threads(1)
    study = _chosen(options)
    out = Path(options.out)
    if options.protocol not in PROTOCOLS:
        raise UsageError(f"--protocol {options.protocol} is not one of {', '.join(PROTOCOLS)}.")
    _check_engine(options)
    check_comparisons(options.compare)
    _check_method(study, options)
    dry_step(study)
    sites = _sites(options, out, tell)
    tell(f"Reading {len(sites)} sites.")
    cohorts = {site.name: read_cohort(study, site.sources, site.name, site.places) for site in sites}
    for name in study.modalities:
        if not any(cohort.present[name].any() for cohort in cohorts.values()):
            raise StudyError(
                f"modality '{name}': none of the {len(sites)} sites has it.",
                "Name its sources in [data] of a site.toml, or take it out of the study.",
            )
    verdicts = _verdicts(study, cohorts, options.strict)
    main = federation(
        study, sites, cohorts, out, protocol=options.protocol, seeds=options.seeds, reproducible=options.reproducible
    )
    if options.sites and not options.dry_ledger and charge is not None and not charge(price(main)):
        options = replace(options, dry_ledger=True)
    # Built-in studies measure a method on public data: a series of trainings is no series of publications.
    if options.dry_ledger if options.sites else len(main.jobs) * len(main.jobs[0]) > 1:
        main = with_dry_ledgers(main)
    others = [line for name in options.compare for line in comparison(name, main, sites, cohorts, out)]
    if options.engine == "ray":
        # The federation itself; the comparisons beside it train here as ever.
        rows = tuple(tuple(replace(job, engine="ray") for job in row) for row in main.jobs)
        main = replace(main, jobs=rows)
    best = None
    if (truth := out / "sites" / "truth.json").exists():
        known = json.loads(truth.read_text(encoding="utf-8"))["reachable_auc_held_out"]
        best = {"auroc": known} if known is not None else None
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "simulation.json", (json.dumps(asdict(options), indent=2) + "\n").encode())
    return Simulation(options, study, sites, cohorts, main, tuple(others), best, verdicts)


def workers_of(options: Options) -> int:
    """Return how many processes to use: as asked, or the machine's cores."""
    return options.workers or len(os.sched_getaffinity(0))


def simulate(simulation: Simulation, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run every job that is not done yet and write RUN/result.json and RUN/report.html.

    Parameters
    ----------
    simulation
        As `prepare` made it.
    tick
        Called several times a second, for a progress display.

    Returns
    -------
    dict
        result.json.
    """
    if not simulation.options.dry_ledger:
        pin_rosters(simulation.sites)
    workers = workers_of(simulation.options)
    # The federation first: who refuses it has no part in what stands beside it.
    run_jobs([job for row in simulation.main.jobs for job in row], simulation.cohorts, workers, tick)
    if not method_class(simulation.study.method.kind).predicts:
        return dict(json.loads((simulation.out / "result.json").read_text(encoding="utf-8")))
    others = [without_absent(line, simulation.main) for line in simulation.others]
    run_jobs([job for line in others for row in line.jobs for job in row], simulation.cohorts, workers, tick)
    result, curves = summarise_series(
        simulation.study, simulation.main, others, simulation.options.protocol, simulation.cohorts
    )
    result["command"] = simulation.options.command()
    if simulation.options.dry_ledger:
        result["notes"].append("The sites' own ledgers were not charged: this run kept books of its own.")
    if simulation.best:
        result["best_possible"] = simulation.best
    if told := simulation.references():
        result["reference"] = told
    write_results_page(simulation.out, result, curves)
    return result


def resume(out: Path) -> Simulation:
    """Make the simulation of a folder ready again; what is done in it stays done.

    Raises
    ------
    UsageError
        The folder holds no simulation.
    """
    path = out / "simulation.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        options = Options(**{**said, "compare": tuple(said["compare"]), "out": str(out)})
    except (OSError, ValueError, TypeError, KeyError):
        raise UsageError(
            f"{out}: this folder holds no simulation that could go on.", "Name the folder --out named."
        ) from None
    return prepare(options)


def _check_engine(options: Options) -> None:
    if options.engine not in ("local", "ray"):
        raise UsageError(f"--engine {options.engine} is neither local nor ray.")
    if options.engine == "ray":
        if options.protocol != "holdout":
            raise UsageError(
                f"--engine ray knows no --protocol {options.protocol}: its sites read their own folders and hold out "
                "the patients the study says.",
                "Leave --engine out, or use --protocol holdout.",
            )
        check_ray()


def _check_method(study: Study, options: Options) -> None:
    """Refuse what only a model that predicts can be asked for."""
    schedule(study)  # the method looks at the rest of the study
    if method_class(study.method.kind).predicts:
        return
    for name, given, plain in (
        ("--protocol", options.protocol, "holdout"), ("--seeds", options.seeds, 1), ("--rounds", options.rounds, None),
        ("--compare", options.compare, ()), ("--engine", options.engine, "local"),
    ):  # fmt: skip
        if given != plain:
            raise UsageError(
                f"{name}: method '{study.method.kind}' trains no model that could be compared.", f"Leave {name} out."
            )


def _verdicts(study: Study, cohorts: Mapping[str, Cohort], strict: bool) -> tuple[str, ...]:
    """Return what speaks against a run; an error where the researcher wants it to be one.

    Raises
    ------
    StudyError
        ``strict``, and the study would learn nothing, or is meant for another number of patients.
    """
    if not method_class(study.method.kind).predicts:
        return ()
    found = power(study, plan_for(study, max(len(cohorts), study.fewest_sites)))
    off = far_off(study, sum(int(cohort.training.sum()) for cohort in cohorts.values()))
    if strict and (why := found.verdict() if found.lost else off):
        raise StudyError(why, "Nothing was charged. Without --strict this is said and the run goes on.")
    return tuple(one for one in (found.verdict(), off) if one)


def _chosen(options: Options) -> Study:
    draft = find_draft(options.study)
    if options.changes:
        draft = _changed(draft, Path(options.changes))
    privacy = {key: value for key in ("epsilon", "delta") if (value := getattr(options, key)) is not None}
    training = {"rounds": options.rounds} if options.rounds is not None else {}
    try:
        draft = draft.changed(privacy=privacy, training=training)
    except ValidationError as error:
        said = error.errors()[0]
        what = said["msg"].removeprefix("Value error, ")
        option = f"--{said['loc'][-1]}" if said["loc"] else "--epsilon, --delta or --rounds"
        raise StudyError(f"{option} does not fit the study: {what}.") from None
    return resolved(draft)


def _changed(draft: Draft, path: Path) -> Draft:
    """Return a study with the sections of a TOML file laid over its own."""
    try:
        text = path.read_text(encoding="utf-8")
        sections = tomllib.loads(text)
        return draft.changed(**sections)
    except ValidationError as error:
        raise StudyError(explain(error, Study, text, str(path))) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--with {path}: not a TOML file of sections of a study ({error}).", "It looks like a part of a study.toml."
        ) from None


def _sites(options: Options, out: Path, tell: Callable[[str], None]) -> tuple[Site, ...]:
    """Return the sites: the researcher's own, or a built-in study's, written into RUN/sites."""
    if options.sites:
        return read_sites(Path(options.sites))
    if options.study not in built_in_studies():
        raise UsageError(
            "a study of your own needs --sites DIR.", "DIR holds a folder per site, each with a site.toml and its data."
        )
    made = out / "sites"
    if not made.exists():
        maker = built_in(options.study).sites
        data = options.data or os.environ.get("PMFED_DATA")
        if maker.data is not None and not data:
            raise UsageError(
                f"the study '{options.study}' needs public data: --data DIR, or PMFED_DATA.",
                f"'pmfed data get {options.study}' tells how to get it.",
            )
        beside = out / "sites.new"
        shutil.rmtree(beside, ignore_errors=True)  # left by a start that was cut short
        maker.write(beside, Path(data) if data else None, tell)
        beside.replace(made)
    return read_sites(made)


__all__: Sequence[str] = (
    "Options",
    "Simulation",
    "prepare",
    "resume",
    "simulate",
)

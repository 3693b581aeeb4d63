"""What a person sees while a simulation runs: a live line in a terminal, a plain log elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pmfed.privacy.rounding import rounded_up
from pmfed.tasks import task_for
from pmfed.tasks.task import headline
from pmfed.terminal import console
from pmfed_simulations.simulate import Simulation

EVERY = 10.0  # seconds between two lines of the plain log
NOTES = 3  # of what was odd about the data, shown before a run starts


def show_start(simulation: Simulation) -> None:
    """Say what is about to happen."""
    study, cohorts = simulation.study, simulation.cohorts
    patients = sum(cohort.patients for cohort in cohorts.values())
    screen = console()
    screen.print(study.study.title, style="bold")
    screen.print(
        f"{patients} {study.cohort.stand_in or 'patient'}s at {len(cohorts)} hospitals; {study.training.rounds} rounds; promise: epsilon "
        f"{study.privacy.epsilon:g}, delta {study.privacy.delta:g} per {study.privacy.unit}; "
        f"{len(simulation.jobs)} training(s) in all",
    )
    if simulation.options.reproducible:
        screen.print("INSECURE: the noise follows a seed. Nothing is private in this run.", style="bold red")
    for verdict in simulation.verdicts:
        screen.print(f"  {verdict}", style="yellow")
    noted = [f"{name}: {warning}" for name, cohort in cohorts.items() for warning in cohort.findings.warnings]
    for line in noted[:NOTES]:
        screen.print(f"  {line}", style="yellow")
    if len(noted) > NOTES:
        screen.print(f"  and {len(noted) - NOTES} more notes on the data of these sites", style="yellow")


@contextmanager
def watch(simulation: Simulation, quiet: bool) -> Iterator[Callable[[], None]]:
    """Give a function to call often; it keeps the display true."""
    if quiet:
        yield lambda: None
    elif sys.stdout.isatty():
        with _live(simulation) as tick:
            yield tick
    else:
        yield _log(simulation)


@contextmanager
def _live(simulation: Simulation) -> Iterator[Callable[[], None]]:
    columns = (
        TextColumn("rounds"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, refresh_per_second=4) as progress:
        bar = progress.add_task("", total=simulation.rounds)
        last = 0.0

        def tick() -> None:
            nonlocal last
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                progress.update(bar, completed=simulation.rounds_done(), description=_said(simulation))

        yield tick
        progress.update(bar, completed=simulation.rounds_done(), description=_said(simulation))


def _log(simulation: Simulation) -> Callable[[], None]:
    started = last = time.monotonic()

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            done = simulation.rounds_done()
            left = f", about {(now - started) / done * (simulation.rounds - done):.0f} s left" if done else ""
            print(f"{done}/{simulation.rounds} rounds{left}  {_said(simulation)}".rstrip(), flush=True)

    return tick


def _said(simulation: Simulation) -> str:
    """Return epsilon so far and the last metric of the federation's training under way."""
    for row in simulation.main.jobs:
        for job in row:
            line = _last(job.folder / "metrics.jsonl")
            if line and line["round"] < job.study.training.rounds:
                said = f"epsilon {rounded_up(line['epsilon'], 2)}" if line["epsilon"] is not None else ""
                metric = headline(task_for(simulation.study), simulation.study.evaluation.metric)
                value = line.get("metrics", {}).get(metric.name)
                return said + (f"  {metric.label} {value:.3f}" if value is not None else "")
    return ""


def _last(path: Path) -> dict[str, Any] | None:
    """Return the last whole line; the metric is that of the last line that has one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    found: dict[str, Any] | None = None
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found = found or line
        if "metrics" in line:
            return {**found, "metrics": line["metrics"]}
    return found

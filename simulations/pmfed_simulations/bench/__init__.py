"""`pmfed bench`: every number is a ratio of medians, measured side by side in one run on this machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pmfed.errors import UsageError
from pmfed.file_io import replace_file

REPEATS = 5
GROUPS = ("simulation", "engine", "secagg", "noise", "readers_imaging", "readers_ehr", "readers_genomics")
ALONE = {
    "precision": ("precision", "rows"),
    "deployed": ("deployed", "rows"),
    "crowd": ("deployed", "crowd"),
    "soak": ("deployed", "soak"),
}
"""Module and function; these take minutes to hours and run only when asked for by name."""


@dataclass(frozen=True)
class BenchRow:
    """One comparison. ``ratio`` is ours / other: lower is better; ``target`` is None where there is none.

    ``work`` is what both sides get through, such as (400, "images"), where that makes sense. ``ours_s`` and ``other_s``
    are seconds unless ``unit`` says otherwise.
    """

    name: str
    ours_s: float
    other_s: float
    ratio: float
    target: float | None
    ours_mb: float | None = None
    other_mb: float | None = None
    note: str = ""
    work: tuple[int, str] | None = None
    unit: str = "s"


Timed = Callable[[], tuple[float, float | None]]


def compare(
    name: str,
    ours: Timed,
    other: Timed,
    target: float | None,
    repeats: int = REPEATS,
    work: tuple[int, str] | None = None,
) -> BenchRow:
    """Measure two things in turn, ``repeats`` times each after one round to warm up, and compare medians.

    Parameters
    ----------
    name
        Of the row.
    ours, other
        Each runs once and returns seconds and peak megabytes (or None).
    target
        The ratio to reach.
    repeats
        How often.
    work
        How many of what each goes through, for rates.
    """
    ours()
    other()
    told = [(ours(), other()) for _ in range(repeats)]
    mine, theirs = (statistics.median(pair[side][0] for pair in told) for side in (0, 1))
    memory = [[peak for pair in told if (peak := pair[side][1]) is not None] for side in (0, 1)]
    ours_mb, other_mb = (round(max(peaks), 1) if peaks else None for peaks in memory)
    ratio = round(mine / theirs, 3)
    return BenchRow(name, round(mine, 4), round(theirs, 4), ratio, target, ours_mb, other_mb, work=work)


def timed(work: Callable[[], object]) -> Timed:
    """Return what runs ``work`` once and tells the seconds it took."""

    def run() -> tuple[float, float | None]:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started, None

    return run


def run_bench(only: str | None, json_file: Path | None) -> None:
    """Run the benches, print the table and write the JSON.

    Parameters
    ----------
    only
        One group, or None for all but those of real processes.
    json_file
        Where to write {"machine", "rows"}, or None.
    """
    if only is not None and only not in (*GROUPS, *ALONE):
        raise UsageError(f"--only {only} is not one of {', '.join((*GROUPS, *ALONE))}.")
    rows: list[BenchRow] = []
    if only in ALONE:
        module, function = ALONE[only]
        rows = getattr(import_module(f"pmfed_simulations.bench.{module}"), function)()
    for group in () if only in ALONE else (only,) if only else GROUPS:
        rows += import_module(f"pmfed_simulations.bench.{group}").rows()
    _show(rows)
    if json_file:
        said = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        replace_file(json_file, (json.dumps(said, indent=2) + "\n").encode())


def machine() -> dict[str, str | int]:
    """Return what was measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _show(rows: Sequence[BenchRow]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("what", "ours", "other", "ratio", "target", "peak MB", "a second: ours / other"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        peak = f"{row.ours_mb:.0f} / {row.other_mb:.0f}" if row.ours_mb and row.other_mb else ""
        target = "" if row.target is None else f"<= {row.target:g}"
        if row.note:
            table.add_row(row.name, "", "", row.note, target, "", "")
            continue
        style = "" if row.target is None or row.ratio <= row.target else "yellow"
        times = [f"{measured:.3g} {row.unit}" if measured else "" for measured in (row.ours_s, row.other_s)]
        table.add_row(row.name, *times, f"{row.ratio:.2f}", target, peak, rates(row), style=style)
    console = Console()
    console.width = max(console.width, 170)  # a file or a pipe has no width of its own
    console.print(table)


def rates(row: BenchRow) -> str:
    """Return how much of its work a row gets through in a second, ours / other; empty where it does not say."""
    if row.work is None:
        return ""
    amount, what = row.work
    told = [f"{float(f'{amount / seconds:.2g}'):,.0f}" for seconds in (row.ours_s, row.other_s) if seconds]
    return f"{' / '.join(told)} {what}"

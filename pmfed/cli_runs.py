"""What is done with a finished run: predict, explain, export. It stays on this machine and costs no budget."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from pmfed.errors import UsageError

if TYPE_CHECKING:
    from pmfed.runs.model import Model

Run = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
SiteFolder = Annotated[
    Path | None, typer.Option("--site", help="A site's folder: its site.toml says where patients are. Or --table.")
]
TableFile = Annotated[
    Path | None,
    typer.Option("--table", help="A table of patients, a line each: .csv, .tsv or .parquet, without an outcome."),
]
Named = Annotated[
    list[str] | None, typer.Option("--source", help="NAME=PATH of another source of the study. May be repeated.")
]
Asked = Annotated[
    list[str] | None,
    typer.Option("--patient", help="Only this patient. May be repeated; with --source no table is needed."),
]
At = Annotated[
    str | None,
    typer.Option("--at", help="The moment of the prediction, or 'now'; else the table's. Nothing later is read."),
]
Without = Annotated[
    list[str] | None, typer.Option("--without", help="A modality these patients do not have. May be repeated.")
]
Own = Annotated[bool, typer.Option("--own", help="The site's own model of the run instead of the common one.")]


def predict(
    run: Run,
    site: SiteFolder = None,
    table: TableFile = None,
    source: Named = None,
    patient: Asked = None,
    at: At = None,
    without: Without = None,
    own: Own = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the lines here, for you alone; else to the screen.")
    ] = None,
) -> None:
    """Score new patients with a finished model: a line each, as CSV. Nothing leaves this machine.

    Example: pmfed predict runs/warfarin --table patients.csv --out doses.csv
    """
    from pmfed.runs.predict import predict as answers
    from pmfed.runs.predict import summary, write_lines
    from pmfed.runs.sources import moment

    model, reading = _opened(run, site, table, source, own)
    parts = answers(model, **reading, only=patient, at=moment(at), without=without or ())
    with _written(out) as file:
        said = write_lines(model, parts, file)
    for line in summary(model, said):
        print(line, file=sys.stderr)
    if out is not None:
        print(f"written  {out}", file=sys.stderr)


def _opened(
    run: Path, site: Path | None, table: Path | None, source: list[str] | None, own: bool
) -> tuple[Model, dict[str, Any]]:
    """Return the model to use, and where its patients are read from."""
    from pmfed.runs.model import open_model
    from pmfed.runs.own import own_model, run_number
    from pmfed.runs.sources import named_sources, table_sources

    model = open_model(run)
    if site is not None and table is not None:
        raise UsageError("--site and --table cannot be given together.", "A site's own site.toml names its table.")
    if own and site is None:
        raise UsageError("--own needs --site: its own model lies in the site's folder.", "Name it with --site.")
    reading: dict[str, Any] = {"sources": {}, "site": "this table", "places": None}
    if site is not None:
        from pmfed_client.site import Site

        here = Site.read(site)
        reading = {"sources": dict(here.sources), "site": here.name, "places": here.places}
        if own:
            model = own_model(model, here.personal / f"{run_number(run)}.safetensors")
    elif table is not None:
        reading["sources"] = table_sources(model.study, table)
    elif not source:
        raise UsageError("nothing says where the patients are.", "Give --site DIR, or --table FILE.")
    reading["sources"] |= named_sources(model.study, source or [])
    return model, reading


@contextmanager
def _written(out: Path | None) -> Iterator[TextIO]:
    """Give where lines go: the screen, or a new file for its owner alone, which is there when all of it is."""
    if out is None:
        yield sys.stdout
        return
    if out.exists():
        raise UsageError(f"{out}: the file exists.", "Choose another name; nothing is overwritten.")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: there is no such folder.", "Make it, or name another with --out.")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            yield file
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def add_run_commands(app: typer.Typer) -> None:
    """Add what is done with a finished run to the command line."""
    app.command()(predict)

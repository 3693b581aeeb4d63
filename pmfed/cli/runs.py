"""What is done with a finished run: predict, explain, export. It stays on this machine and costs no budget."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

EXPORTS = ("onnx", "scorecard", "calculator")


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

    model, asked = _opened(run, site, table, source, own)
    asked |= _whom(patient, at, without)
    with _written(out) as file:
        said = write_lines(model, answers(model, **asked), file)
    for line in summary(model, said):
        print(line, file=sys.stderr)
    if out is not None:
        print(f"written  {out}", file=sys.stderr)


def explain(
    run: Run,
    site: SiteFolder = None,
    table: TableFile = None,
    source: Named = None,
    patient: Asked = None,
    at: At = None,
    without: Without = None,
    own: Own = False,
    most: Annotated[int, typer.Option(min=1, help="So many features are listed.")] = 15,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it here, for you alone; a table of coefficients becomes CSV.")
    ] = None,
) -> None:
    """Say why: of a patient, what each feature adds; of the model, its coefficients or what it looks at.

    Without patients: the coefficients of a linear model, by name and unit. With --patient: what each of this patient's
    features adds to the answer. With --site or --table alone: how much each feature adds on average there.
    """
    if site is None and table is None and not source:
        if patient or at or without or own:
            raise UsageError("nothing says where the patients are.", "Give --site DIR, or --table FILE.")
        _coefficients(run, out)
        return
    model, asked = _opened(run, site, table, source, own)
    asked |= _whom(patient, at, without)
    with _written(out) as file:
        _explained(model, asked, most, file)


def export(
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            help="onnx (any network), scorecard (JSON, of a linear model) or calculator (an HTML page, of a linear model)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write a finished model as other programs take it. It holds no patient's data, only the model."""
    import json

    from pmfed.runs.model import open_model

    if to not in EXPORTS:
        raise UsageError(f"--to {to} is none of {', '.join(EXPORTS)}.")
    model = open_model(run)
    with _beside(out) as beside:
        if to == "onnx":
            from pmfed.runs.exports.network import write_onnx

            worst = write_onnx(model, beside)
            print(
                f"onnxruntime gives the same, to {worst:.1g}. Its inputs and outputs are described in the file's metadata."
            )
        elif to == "scorecard":
            from pmfed.runs.exports.scorecard import scorecard

            beside.write_text(json.dumps(scorecard(model), indent=1) + "\n", encoding="utf-8")
        else:
            from pmfed.runs.exports.calculator import calculator

            beside.write_text(calculator(model), encoding="utf-8")
    print(f"written  {out}")


def _coefficients(run: Path, out: Path | None) -> None:
    """Write a linear model's table of coefficients, of several classes one for each: for people, or as CSV in a file."""
    import csv

    from pmfed.explain.coefficients import linearly
    from pmfed.explain.words import table
    from pmfed.runs.links import LINKS
    from pmfed.runs.model import open_model

    model = open_model(run)
    linear, answer = linearly(model), model.description.answer
    with _written(out) as file:
        for output, title in LINKS[answer.link].tables(answer).items():
            if title:
                print(title, file=file)
            lines = list(table(model, linear, output))
            if out is not None:
                csv.writer(file, lineterminator="\n").writerows(lines)
            else:
                _aligned(lines, file)


def _aligned(lines: list[Any], file: TextIO) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=file)


def _explained(model: Model, asked: dict[str, Any], most: int, file: TextIO) -> None:
    """Write what each named patient's features add, or what they add on average over all."""
    from pmfed.explain.contributions import contributions
    from pmfed.explain.words import importance, scale_of
    from pmfed.explain.words import patient as told_of
    from pmfed.runs.predict import predict as answers

    unit, factor = scale_of(model.description.answer)
    found, records = [], 0
    for part in answers(model, **asked):
        made = contributions(model, part.patients.cohort)
        if asked["only"]:
            for row, one in enumerate(part.patients.ids):
                print(f"{one} {part.patients.labels[row]}".strip(), file=file)
                for line in told_of(model, part.patients, part.outputs, made, row, most):
                    print(line, file=file)
        else:
            found.append(made)
            records += part.patients.cohort.records
    if not asked["only"]:
        print(f"what each feature adds on average, either way, over {records:,} records, in {unit}:", file=file)
        for name, mean in list(importance(found, factor))[:most]:
            print(f"  {mean:10.4f}  {name}", file=file)


def _admitted(site: Path | None) -> AbstractContextManager[None]:
    """Return within what a model is opened: at a site, only with the plug-ins that its policy lists."""
    if site is None:
        return nullcontext()
    from pmfed_client.site.site import Site

    from pmfed.plugins import admitting

    return admitting(Site.read(site).policy.plugins)


def _opened(
    run: Path, site: Path | None, table: Path | None, source: list[str] | None, own: bool
) -> tuple[Model, dict[str, Any]]:
    """Return the model to use, and where its patients are read from."""
    from pmfed.runs.model import open_model
    from pmfed.runs.own import own_model, run_number
    from pmfed.runs.sources import named_sources, table_sources

    with _admitted(site):
        model = open_model(run)
    if site is not None and table is not None:
        raise UsageError("--site and --table cannot be given together.", "A site's own site.toml names its table.")
    if own and site is None:
        raise UsageError("--own needs --site: its own model lies in the site's folder.", "Name it with --site.")
    reading: dict[str, Any] = {"sources": {}, "site": "this table", "places": None}
    if site is not None:
        from pmfed_client.site.site import Site

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


def _whom(patient: list[str] | None, at: str | None, without: list[str] | None) -> dict[str, Any]:
    """Return whom to predict, at which moment, and what they do not have."""
    from pmfed.runs.sources import moment

    return {"only": patient, "at": moment(at), "without": without or ()}


@contextmanager
def _written(out: Path | None) -> Iterator[TextIO]:
    """Give where lines go: the screen, or a new file for its owner alone, which is there when all of it is."""
    if out is None:
        yield sys.stdout
        return
    with _beside(out) as beside, _private(beside) as file:
        yield file


def _private(path: Path) -> TextIO:
    """Open a new file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give the name of a file to write, which becomes ``out`` when all of it is written, and nothing otherwise."""
    if out.exists():
        raise UsageError(f"{out}: the file exists.", "Choose another name; nothing is overwritten.")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: there is no such folder.", "Make it, or name another with --out.")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def add_run_commands(app: typer.Typer) -> None:
    """Add what is done with a finished run to the command line."""
    app.command()(predict)
    app.command()(explain)
    app.command()(export)

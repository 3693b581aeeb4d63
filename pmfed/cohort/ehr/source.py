"""Which kind of source of health records a path is."""

from __future__ import annotations

from pathlib import Path

from pmfed.cohort.contract.written import ViewPath, Written, written_of
from pmfed.cohort.ehr.described import EventTable, FhirPlace, NoteTable, OmopPlace, PersonTable, SourceFile
from pmfed.cohort.ehr.events import EventSource
from pmfed.cohort.ehr.exports import holds_resources
from pmfed.cohort.ehr.folder import inside
from pmfed.cohort.table_rows import ENDINGS as TABLES
from pmfed.errors import DataError, StudyError
from pmfed.validate import read_toml

DATABASES = (".duckdb", ".ddb", ".db")


def open_source(source: Path | str, patient: str = "patient_id") -> EventSource:
    """Open health records, whatever they are kept in.

    Parameters
    ----------
    source
        - an SQLAlchemy URL, a ``.duckdb`` file or a folder of CSV or Parquet files named like the tables of OMOP;
        - a FHIR bulk export: a folder of NDJSON files or of Bundles, or one such file;
        - a table of events with the columns ``patient_id``, ``when``, ``code`` (``SYSTEM:CODE``) and, where there
          are any, ``value``, ``unit`` and ``text``; or a folder with ``events``, ``persons`` and ``notes`` tables;
        - a ``.toml`` file, a `SourceFile`, that says which of these it is, and how.
    patient
        The column with the patient's id in tables of events that no ``.toml`` describes.

    Raises
    ------
    DataError
        There is no such source, or it is of no kind that can be read.
    """
    if isinstance(source, str) and "://" in source:
        return _omop(source, SourceFile(omop=OmopPlace(database=source)))
    path = source if isinstance(source, Path) else Path(source)
    written = written_of(path)
    if path.suffix.lower() == ".toml":
        try:
            described = read_toml(path, SourceFile)
        except StudyError as error:
            raise DataError(error.what, error.remedy) from None
        return _described(path, described)
    return _found(path, patient, written)


def _described(path: Path, file: SourceFile) -> EventSource:
    folder = path.parent
    if file.omop:
        where = file.omop.database
        return _omop(where if "://" in where else inside(folder, where), file)
    if file.fhir:
        return _fhir(inside(folder, file.fhir.files), file)
    return _tables(folder, file, str(path))


def _found(path: Path, patient: str, written: Written) -> EventSource:
    """Open what a path alone tells."""
    name = path.name.lower()
    if path.is_dir():
        tables = [one for one in sorted(path.iterdir()) if one.name.lower().endswith(TABLES)]
        files = {_stem(one): one.name for one in tables}
        if len(files) < len(tables):
            raise DataError(
                f"{path}: two of its tables have one name and different endings.",
                "Keep one, or describe them in a .toml file.",
            )
        if "person" in files:
            return _omop(path, SourceFile(omop=OmopPlace(database=path.name), written=written))
        if {"events", "notes"} & set(files):
            found = _tables(path, _folder(files, patient, written), str(path))
            if others := len(set(files) - {"events", "persons", "notes"}):
                found.limits.append(
                    f"{path}: {others:,} {'table' if others == 1 else 'tables'} beside events, persons and notes not read: describe "
                    "them in a .toml file."
                )
            return found
        if holds_resources(path):
            return _fhir(path, SourceFile(fhir=FhirPlace(files=path.name), written=written))
        raise DataError(
            f"{path}: holds neither OMOP tables (person.csv, ...), nor a FHIR export (*.ndjson, *.json), nor events.csv.",
            "Check the path in [data] of site.toml.",
        )
    if isinstance(path, ViewPath):
        raise DataError(
            f"{path}: a view is a table, and no source of health records.",
            "Name an OMOP database by its URL, or export the events as a table.",
        )
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder.", "Check the path in [data] of site.toml.")
    if name.endswith(TABLES):
        both = SourceFile(
            tables=(EventTable(file=path.name, patient=patient),),
            notes=(NoteTable(file=path.name, patient=patient),),
            written=written,
        )
        return _tables(path.parent, both, str(path))
    if holds_resources(path):
        return _fhir(path, SourceFile(fhir=FhirPlace(files=path.name), written=written))
    if name.endswith(DATABASES):
        return _omop(path, SourceFile(omop=OmopPlace(database=path.name), written=written))
    raise DataError(
        f"{path}: is no source of health records that can be read.",
        "It can be a .duckdb file, a folder of OMOP tables, a FHIR export, a table of events, or a .toml that says so.",
    )


def _stem(path: Path) -> str:
    return path.name.lower().split(".")[0]


def _folder(files: dict[str, str], patient: str, written: Written) -> SourceFile:
    return SourceFile(
        written=written,
        tables=(EventTable(file=files["events"], patient=patient),) if "events" in files else (),
        persons=PersonTable(file=files["persons"], patient=patient) if "persons" in files else None,
        notes=(NoteTable(file=files["notes"], patient=patient),) if "notes" in files else (),
    )


def _omop(where: Path | str, file: SourceFile) -> EventSource:
    from pmfed.cohort.ehr.omop import Omop

    return Omop(where, file)


def _fhir(where: Path, file: SourceFile) -> EventSource:
    from pmfed.cohort.ehr.fhir import Fhir

    return Fhir(where, file)


def _tables(folder: Path, file: SourceFile, name: str) -> EventSource:
    from pmfed.cohort.ehr.event_tables import EventTables

    return EventTables(folder, file, name)

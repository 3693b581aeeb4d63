"""The file in which a site describes where its health records are: everything a path alone cannot tell."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, PositiveFloat, model_validator

from pmfed.cohort.contract.written import Written, Zone
from pmfed.modality.ehr import Code, Domain
from pmfed.validate import Frozen


class Column(Frozen):
    """A column of a wide table: every cell that is filled in is an event of this code."""

    code: Code
    unit: str = ""
    domain: Domain | None = None


class EventTable(Frozen):
    """``[[tables]]``: a table of events, one per row; or with ``columns`` one per filled cell.

    ``code`` holds ``SYSTEM:CODE``; or bare codes of the system that ``system`` names. Without a date a time may be
    an offset from a zero of the patient's own: then ``clock`` says in which unit.
    """

    file: str
    patient: str = "patient_id"
    when: str = "when"
    recorded: str | None = None
    clock: Literal["date", "seconds", "minutes", "hours", "days"] = "date"
    code: str = "code"
    system: str | None = None
    value: str = "value"
    unit: str = "unit"
    text: str = "text"
    domain: Domain | None = None
    columns: dict[str, Column] = Field(default_factory=dict)


class PersonTable(Frozen):
    """``[persons]``: a table with one row per patient: date of birth (or age in years), and sex."""

    file: str
    patient: str = "patient_id"
    birth: str = "birth"
    age: str = "age"
    sex: str = "sex"


class NoteTable(Frozen):
    """``[[notes]]``: a table of notes, one per row."""

    file: str
    patient: str = "patient_id"
    when: str = "when"
    recorded: str | None = None
    clock: Literal["date", "seconds", "minutes", "hours", "days"] = "date"
    text: str = "text"


class OmopPlace(Frozen):
    """``[omop]``: an OMOP database: a file or folder beside this file, or an SQLAlchemy URL.

    ``${NAME}`` in a URL is taken from the environment, which is where a password belongs. ``patient`` says which
    column of the table ``person`` the cohort table's patient ids are. ``timeout`` is how many minutes a query may take.
    """

    database: str = Field(repr=False)  # a URL may hold a password
    tables: str | None = Field(default=None, alias="schema")
    vocabulary: str | None = None
    patient: Literal["person_id", "person_source_value"] = "person_id"
    timeout: PositiveFloat = 30.0


class FhirPlace(Frozen):
    """``[fhir]``: a FHIR export: a folder or file beside this file.

    With ``identifier`` a patient's id is the ``Patient.identifier`` of that system instead of the resource's id.
    """

    files: str
    identifier: str | None = None


class SourceFile(Frozen):
    """A TOML file that says where a hospital keeps its records, for everything a path alone cannot tell.

    ``timezone`` is the hospital's (``Europe/Berlin``): instants with an offset are shown as its clocks showed them.
    ``units`` and ``systems`` say what the hospital's own spellings of units and code systems mean, ``written`` how its
    tables, or the texts of its records, write numbers and dates.
    """

    timezone: Zone | None = None
    units: dict[str, str] = Field(default_factory=dict)
    systems: dict[str, str] = Field(default_factory=dict)
    written: Written = Written()
    omop: OmopPlace | None = None
    fhir: FhirPlace | None = None
    tables: tuple[EventTable, ...] = ()
    persons: PersonTable | None = None
    notes: tuple[NoteTable, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> SourceFile:
        kinds = [self.omop is not None, self.fhir is not None, bool(self.tables or self.notes)]
        if sum(kinds) != 1:
            raise ValueError("describe one source: [omop], or [fhir], or [[tables]] and [[notes]]")
        return self

    @property
    def zone(self) -> ZoneInfo | None:
        """The hospital's time zone."""
        return ZoneInfo(self.timezone) if self.timezone else self.written.zone

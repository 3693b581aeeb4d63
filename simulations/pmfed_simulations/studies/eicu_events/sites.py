"""The eICU demo as a first day of events: what was charted in the 24 hours before the prediction.

The prediction is made 24 hours after admission to the unit, for the stays that are still there: a stay that
ended earlier would show in the events that are not there. That leaves 1,476 stays of 1,254 patients; APACHE IVa scores
1,214 of them with an AUROC of .833.

eICU counts minutes since admission, and says nothing of the order of a patient's stays. Here every stay begins
at a date of its own, ten days apart, so that no event of one stay lies in the window of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables, read_source
from pmfed_simulations.studies.eicu.sites import DATA, REGIONS, first_day

_STAY = "patientunitstayid"
_BEGIN = pd.Timestamp("2015-01-01")
_DAY = 1440  # minutes
_EXAM = "notes/Progress Notes/Physical Exam/Physical Exam/"
_SIGNS = _EXAM + "Constitutional/Vital Sign and Physiological Data/"

PRESSORS = "norepinephrine|epinephrine|vasopressin|phenylephrine|dopamine|dobutamine"
SEDATIVES = "propofol|midazolam|lorazepam|fentanyl|dexmedetomidine"


@dataclass(frozen=True)
class Charted:
    """A table of events, and which of its rows are which.

    ``label`` is a regular expression that the whole of the column ``labels`` must match, without regard to capitals.
    """

    table: str
    offset: str
    labels: str
    label: str
    value: str | None
    code: str
    unit: str = ""


_RESPIRATORY = ("respiratorycharting", "respchartoffset", "respchartvaluelabel")
_PHYSICAL = ("physicalexam", "physicalexamoffset", "physicalexampath")
_EVENTS = (
    Charted(*_RESPIRATORY, r"fio2|fio2 \(%\)|o2 percentage", "respchartvalue", "LOINC:3150-6", "%"),
    Charted(*_RESPIRATORY, r"rr \(patient\)|total rr", "respchartvalue", "LOINC:9279-1", "/min"),
    Charted(*_RESPIRATORY, r"peep|peep/cpap", "respchartvalue", "LOINC:20077-4", "cm[H2O]"),
    Charted(*_RESPIRATORY, r"lpm o2|oxygen flow rate", "respchartvalue", "LOINC:3151-8", "L/min"),
    Charted(*_RESPIRATORY, r"sao2", "respchartvalue", "LOINC:59408-5", "%"),
    Charted(*_PHYSICAL, _SIGNS + r"HR/HR Current", "physicalexamtext", "LOINC:8867-4", "/min"),
    Charted(*_PHYSICAL, _SIGNS + r"Resp Rate/Resp Current", "physicalexamtext", "LOINC:9279-1", "/min"),
    Charted(*_PHYSICAL, _SIGNS + r"O2 Sat%/O2 Sat% Current", "physicalexamtext", "LOINC:59408-5", "%"),
    Charted(*_PHYSICAL, _EXAM + r"Neurologic/GCS/Eyes Score/\d", "physicalexamtext", "LOINC:9267-6", "{score}"),
    Charted(*_PHYSICAL, _EXAM + r"Neurologic/GCS/Motor Score/\d", "physicalexamtext", "LOINC:9268-4", "{score}"),
    Charted(*_PHYSICAL, _EXAM + r"Neurologic/GCS/Verbal Score/\d", "physicalexamtext", "LOINC:9270-0", "{score}"),
    Charted(
        "intakeoutput", "intakeoutputoffset", "celllabel", r".*(urine|foley|urinary).*", "cellvaluenumeric",
        "LOINC:9187-6", "mL",
    ),
    Charted("infusiondrug", "infusionoffset", "drugname", rf".*({PRESSORS}).*", None, "EICU:vasopressor"),
    Charted("infusiondrug", "infusionoffset", "drugname", rf".*({SEDATIVES}).*", None, "EICU:sedative"),
    Charted("treatment", "treatmentoffset", "treatmentstring", r".*\|mechanical ventilation.*", None, "EICU:ventilation"),
    Charted("treatment", "treatmentoffset", "treatmentstring", r".*vasopressors.*", None, "EICU:vasopressor"),
)  # fmt: skip
_PRESSURES = {"noninvasivesystolic": "LOINC:8480-6", "noninvasivemean": "LOINC:8478-0"}


def tables(folder: Path) -> Sites:
    """Yield the regions, each with a table of stays and one of the events of their first day."""
    stays = _still_there(folder)
    events = pd.concat(list(_events(folder, stays)), ignore_index=True)
    events = events.sort_values(["patient_id", "when", "code", "value"], kind="stable")
    for region in (*REGIONS, "Unknown"):
        title = f"Hospitals of the {region}" if region in REGIONS else "Hospitals whose region is not given"
        here = stays[stays["region"] == region].drop(columns=["region", "begin"])
        mine = events[events["stay_id"].isin(set(here["stay_id"]))]  # some patients were in two regions
        tables = {"stays": here, "events": mine.drop(columns="stay_id")}
        yield SiteTables(name=region.lower(), title=title, tables=tables)


def _still_there(folder: Path) -> pd.DataFrame:
    """Return the stays of the study ``eicu`` that lasted a day, with the dates they are given."""
    stays = first_day(folder)
    ends = read_source(folder / "patient.csv.gz", DATA, (_STAY, "unitdischargeoffset")).astype(float)
    long = set(ends.loc[ends["unitdischargeoffset"] >= _DAY, _STAY].astype(int).astype(str))
    stays = stays[stays["stay_id"].isin(long)].copy()
    nth = stays.groupby("patient_id").cumcount()
    stays["begin"] = _BEGIN + pd.to_timedelta(10 * nth, unit="D")
    stays["index_date"] = (stays["begin"] + pd.Timedelta(days=1)).dt.strftime("%Y-%m-%dT%H:%M:%S")
    return stays


def _events(folder: Path, stays: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the events of the first day, table by table."""
    wide = read_source(
        folder / "vitalaperiodic.csv.gz", DATA, (_STAY, "observationoffset", *_PRESSURES)
    ).rename(columns={"observationoffset": "offset"})  # fmt: skip
    for column, code in _PRESSURES.items():
        yield _dated(wide.rename(columns={column: "value"}), stays, code, "mm[Hg]")
    read: dict[str, pd.DataFrame] = {}
    for spec in _EVENTS:
        if spec.table not in read:
            columns = {one.value for one in _EVENTS if one.table == spec.table and one.value}
            wanted = (_STAY, spec.offset, spec.labels, *sorted(columns))
            read[spec.table] = read_source(folder / f"{spec.table}.csv.gz", DATA, wanted)
        table = read[spec.table]
        rows = table[table[spec.labels].str.fullmatch(spec.label, case=False, na=False)]
        rows = rows.rename(columns={spec.offset: "offset"}).assign(value=rows[spec.value] if spec.value else "")
        yield _dated(rows, stays, spec.code, spec.unit)


def _dated(rows: pd.DataFrame, stays: pd.DataFrame, code: str, unit: str) -> pd.DataFrame:
    """Return rows of the first day as events of a patient at a date; of measured ones, those that are numbers."""
    found = rows[[_STAY, "offset", "value"]].merge(
        stays[["stay_id", "patient_id", "begin"]], left_on=_STAY, right_on="stay_id"
    )
    offset = found["offset"].astype(float)
    found = found[(offset >= 0) & (offset < _DAY)]
    if unit:
        number = pd.to_numeric(found["value"].str.rstrip("%"), errors="coerce")
        found = found.assign(value=number)[number.notna()]
    when = found["begin"] + pd.to_timedelta(found["offset"].astype(float), unit="min")
    return pd.DataFrame(
        {
            "stay_id": found["stay_id"],
            "patient_id": found["patient_id"],
            "when": when.dt.strftime("%Y-%m-%dT%H:%M:%S"),
            "code": code,
            "value": found["value"],
            "unit": unit,
        }
    )


SITES = PublicSites(tables, DATA, delta=1e-5)

"""The eICU demo (PhysioNet eicu-crd-demo 2.0): intensive-care stays in 186 US hospitals.

The hospitals hold 10 to 40 stays each, too few for a cohort of their own, so the sites are the four regions
and one for hospitals whose region is not given. A patient may have several unit stays: they are that
patient's records. Rows are the stays with an APACHE row whose hospital outcome is known.

What the APACHE tables also hold and what must never be an input: ``diedinhospital``, ``dischargelocation``,
lengths of stay, predictions and scores made from the outcome's model. Only what is known in the first day is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables, read_source

DATA = "eicu_demo"
_STAY = "patientunitstayid"
_APS = {
    "intubated": "intubated", "vent": "ventilated", "dialysis": "dialysis", "meds": "sedated", "eyes": "gcs_eyes",
    "motor": "gcs_motor", "verbal": "gcs_verbal", "urine": "urine", "wbc": "leukocytes", "temperature": "temperature",
    "respiratoryrate": "respiratory_rate", "sodium": "sodium", "heartrate": "heart_rate",
    "meanbp": "mean_pressure", "ph": "ph", "hematocrit": "hematocrit", "creatinine": "creatinine",
    "albumin": "albumin", "pao2": "pao2", "pco2": "pco2", "bun": "urea_nitrogen", "glucose": "glucose",
    "bilirubin": "bilirubin", "fio2": "fio2",
}  # fmt: skip
_ADMISSION = {
    "hepaticfailure": "hepatic_failure", "lymphoma": "lymphoma", "metastaticcancer": "metastatic_cancer",
    "leukemia": "leukemia", "immunosuppression": "immunosuppression", "cirrhosis": "cirrhosis",
    "diabetes": "diabetes", "electivesurgery": "elective_surgery", "readmit": "readmission",
    "thrombolytics": "thrombolysis", "activetx": "active_treatment", "midur": "recent_infarction",
    "oobventday1": "ventilated_day1", "oobintubday1": "intubated_day1", "visitnumber": "visit",
    "admitsource": "source",
}  # fmt: skip
_SOURCES = {
    "1": "operating-room", "2": "recovery-room", "3": "emergency", "4": "floor", "5": "other-icu",
    "6": "other-hospital", "7": "direct", "8": "emergency",
}  # fmt: skip
_PATIENT = (
    _STAY, "uniquepid", "hospitalid", "age", "gender", "hospitaladmitoffset", "hospitaldischargestatus",
)  # fmt: skip
REGIONS = ("Midwest", "Northeast", "South", "West")


def tables(folder: Path) -> Sites:
    """Yield the four regions and ``unknown``, each with a table of stays."""
    stays = first_day(folder)
    for region in (*REGIONS, "Unknown"):
        title = f"Hospitals of the {region}" if region in REGIONS else "Hospitals whose region is not given"
        rows = stays[stays["region"] == region].drop(columns="region")
        yield SiteTables(name=region.lower(), title=title, tables={"stays": rows})


def first_day(folder: Path) -> pd.DataFrame:
    """Return one row per stay: identifiers, region, first-day inputs and the outcome ``died``."""
    patient = read_source(folder / "patient.csv.gz", DATA, _PATIENT)
    hospital = read_source(folder / "hospital.csv.gz", DATA, ("hospitalid", "region"))
    aps = read_source(folder / "apacheapsvar.csv.gz", DATA, (_STAY, *_APS)).rename(columns=_APS)
    admission = read_source(folder / "apachepredvar.csv.gz", DATA, (_STAY, *_ADMISSION)).rename(columns=_ADMISSION)
    table = patient.merge(aps, on=_STAY).merge(admission, on=_STAY).merge(hospital, on="hospitalid")
    table = table[table["hospitaldischargestatus"].notna()].copy()
    table["region"] = table["region"].fillna("Unknown")
    table["source"] = table["source"].map(_SOURCES)
    table["sex"] = table["gender"].str.lower()
    table["age"] = table["age"].replace("> 89", "90")
    # Minutes from unit to hospital admission, negative when the hospital came first; clock errors become 0.
    minutes = -table["hospitaladmitoffset"].astype(float)
    table["hours_before"] = (minutes.clip(lower=0) / 60).round(2)
    # APACHE writes -1 for what was not measured, and leaves the surgery flag empty for medical patients.
    measured = [*_APS.values(), *(name for name in _ADMISSION.values() if name != "source")]
    table[measured] = table[measured].replace({"-1": np.nan, "-1.0": np.nan})
    table["elective_surgery"] = table["elective_surgery"].fillna("0")
    table["died"] = (table["hospitaldischargestatus"] == "Expired").astype(int)
    table = table.rename(columns={"uniquepid": "patient_id", _STAY: "stay_id"})
    columns = ["patient_id", "stay_id", "region", "age", "sex", "source", "hours_before", *measured, "died"]
    return table[columns].sort_values(["patient_id", "stay_id"], kind="stable")


SITES = PublicSites(tables, DATA, delta=1e-5)

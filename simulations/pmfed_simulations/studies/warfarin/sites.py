"""The International Warfarin Pharmacogenetics Consortium's patients, at their 21 sites.

NEJM 2009;360:753-64. Eligible: the patient reached a stable dose, and the dose is known. The INR on that dose
is an outcome of treatment and the site is no property of a patient: neither becomes a column. Medicines
and diseases that are not recorded stay empty; the study decides what an empty cell means.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables, read_source

DATA = "iwpc_warfarin"
FILE = "iwpc_subject_data.csv"

_RENAMED = {
    "PharmGKB Subject ID": "patient_id",
    "Project Site": "site",
    "Subject Reached Stable Dose of Warfarin": "stable",
    "Therapeutic Dose of Warfarin": "dose",
    "Gender": "sex",
    "Race (OMB)": "race",
    "Age": "age",
    "Height (cm)": "height",
    "Weight (kg)": "weight",
    "Indication for Warfarin Treatment": "indication",
    "Diabetes": "diabetes",
    "Congestive Heart Failure and/or Cardiomyopathy": "heart_failure",
    "Valve Replacement": "valve_replacement",
    "Aspirin": "aspirin",
    "Simvastatin (Zocor)": "simvastatin",
    "Amiodarone (Cordarone)": "amiodarone",
    "Carbamazepine (Tegretol)": "carbamazepine",
    "Phenytoin (Dilantin)": "phenytoin",
    "Rifampin or Rifampicin": "rifampin",
    "Current Smoker": "smoker",
    "CYP2C9 consensus": "cyp2c9",
    "VKORC1 -1639 consensus": "vkorc1",
    "VKORC1 1173 consensus": "vkorc1_1173",
    "VKORC1 1542 consensus": "vkorc1_1542",
    "VKORC1 2255 consensus": "vkorc1_2255",
}
_RACES = {"Asian": "asian", "Black or African American": "black", "White": "white"}  # "Unknown" is missing
_INDICATIONS = {"clot": "[12]", "fibrillation": "3", "heart_valve": "4"}  # deep-vein or lung clot, AF, valve
_CLINICAL = (
    "patient_id", "dose", "age", "sex", "race", "height", "weight", *_INDICATIONS, "diabetes", "heart_failure",
    "valve_replacement", "aspirin", "simvastatin", "amiodarone", "enzyme_inducer", "smoker",
)  # fmt: skip

# rs9923231 (-1639) from its neighbours, in this order, as the consortium's appendix S4 does. 1173 tags it in
# everyone; 2255 and 1542 do not in patients of African or unknown ancestry, where linkage is weaker.
_NEIGHBOURS = (
    ("vkorc1_1173", {"C/C": "G/G", "C/T": "A/G", "T/T": "A/A"}, False),
    ("vkorc1_2255", {"C/C": "G/G", "C/T": "A/G", "T/T": "A/A"}, True),
    ("vkorc1_1542", {"G/G": "G/G", "C/G": "A/G", "C/C": "A/A"}, True),
)


def tables(folder: Path) -> Sites:
    """Yield the 21 sites, each with a clinical and a genotype table."""
    table = eligible(read_source(folder / FILE, DATA, tuple(_RENAMED)))
    for number, rows in table.groupby("site"):
        yield SiteTables(
            name=f"site-{number:02d}",
            title=f"Consortium site {number}",
            tables={
                "patients": rows[list(_CLINICAL)],
                "genotypes": rows[["patient_id", "cyp2c9", "vkorc1"]],
            },
        )


def eligible(subjects: pd.DataFrame) -> pd.DataFrame:
    """Return the eligible patients with the columns the study reads.

    Parameters
    ----------
    subjects
        The published subject table, every column as text.
    """
    table = subjects.rename(columns=_RENAMED)
    table = table[(table["stable"] == "1") & table["dose"].notna()].copy()
    table["site"] = table["site"].astype(int)
    table["age"] = table["age"].str.extract(r"^(\d+)", expand=False).astype(float).floordiv(10).astype("Int64")
    for column in ("height", "weight"):  # inches turned into 165.0999999998: a tenth is what was measured
        table[column] = table[column].astype(float).round(1)
    table["race"] = table["race"].map(_RACES)
    for name, code in _INDICATIONS.items():
        table[name] = table["indication"].str.contains(code, na=False).astype(int)
    inducers = table[["carbamazepine", "phenytoin", "rifampin"]]
    table["enzyme_inducer"] = (inducers == "1").any(axis=1).astype(int)
    table["vkorc1"] = _imputed(table)
    return table


def _imputed(table: pd.DataFrame) -> pd.Series[str]:
    calls = table["vkorc1"].copy()
    linked = table["race"].isin(("asian", "white"))
    for column, meaning, needs_linkage in _NEIGHBOURS:
        derived = table[column].map(meaning)
        calls = calls.fillna(derived.where(linked) if needs_linkage else derived)
    return calls


SITES = PublicSites(tables, DATA, delta=1e-5)

"""What others published on the same patients, recomputed here so that it stands on the same footing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

_VKORC1 = {"A/G": -0.8677, "A/A": -1.6974}
_CYP2C9 = {"*1/*2": -0.5211, "*1/*3": -0.9357, "*2/*2": -1.0616, "*2/*3": -1.9206, "*3/*3": -2.3312}
_RACE = {"asian": -0.1092, "black": -0.2760}


def equation(patients: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return weekly doses by the consortium's pharmacogenetic equation (NEJM 2009;360:753, supplement S1e).

    Parameters
    ----------
    patients
        The columns of a warfarin site's tables: age (decade), height (cm), weight (kg), race, enzyme_inducer, amiodarone,
        vkorc1 (calls at -1639) and cyp2c9. NaN where age, height or weight is missing.

    Returns
    -------
    ndarray
        mg/week, shape (patients,).
    """
    number = {
        name: patients[name].astype(float) for name in ("age", "height", "weight", "enzyme_inducer", "amiodarone")
    }
    root = (
        5.6044
        - 0.2614 * number["age"]
        + 0.0087 * number["height"]
        + 0.0128 * number["weight"]
        + _effect(patients["vkorc1"], _VKORC1, unknown=-0.4854)
        + _effect(patients["cyp2c9"], _CYP2C9, unknown=-0.2188)
        + _effect(patients["race"], _RACE, unknown=-0.1032)
        + 1.1816 * number["enzyme_inducer"].fillna(0)
        - 0.5503 * number["amiodarone"].fillna(0)
    )
    return np.asarray(root**2, dtype=np.float64)


def _effect(calls: pd.Series[Any], effects: Mapping[str, float], unknown: float) -> pd.Series[float]:
    return calls.map(effects).fillna(0.0).astype(float).where(calls.notna(), unknown)


def references(sites: Path) -> list[dict[str, Any]]:
    """Return reference lines for the report of a warfarin run.

    Parameters
    ----------
    sites
        The folder of site folders; the patients in it have their missing VKORC1 calls imputed.
    """
    tables = [
        pd.read_csv(site / "patients.csv").merge(pd.read_csv(site / "genotypes.csv"), on="patient_id")
        for site in sorted(sites.glob("site-*"))
    ]
    patients = pd.concat(tables, ignore_index=True)
    known = patients[["age", "height", "weight"]].notna().all(axis=1)
    error = np.abs(equation(patients[known]) - patients.loc[known, "dose"].to_numpy())
    return [
        {
            "label": "Published equation, genotypes as typed",
            "value": 8.66,
            "source": "NEJM 2009;360:753 on 4,302 patients",
        },
        {
            "label": "Published equation, genotypes imputed",
            "value": round(float(error.mean()), 3),
            "source": f"NEJM 2009;360:753 on {int(known.sum()):,} patients",
        },
    ]

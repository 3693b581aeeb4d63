"""The published equation gives the published figures on the public file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pmfed_simulations.studies import write_sites
from pmfed_simulations.studies.warfarin.references import equation, references


def test_the_consortium_s_equation_errs_as_published(public_data: Path, tmp_path: Path) -> None:
    write_sites("warfarin", public_data, tmp_path / "sites")
    as_typed, imputed = references(tmp_path / "sites")
    raw = pd.read_csv(public_data / "iwpc_warfarin" / "iwpc_subject_data.csv", dtype=str)
    typed = raw.set_index("PharmGKB Subject ID")["VKORC1 -1639 consensus"]
    folders = sorted((tmp_path / "sites").glob("site-*"))
    tables = [pd.read_csv(f / "patients.csv").merge(pd.read_csv(f / "genotypes.csv"), on="patient_id") for f in folders]
    patients = pd.concat(tables).assign(vkorc1=lambda found: found["patient_id"].map(typed))
    patients = patients[patients[["age", "height", "weight"]].notna().all(axis=1)]
    error = np.abs(equation(patients) - patients["dose"])
    assert len(patients) == 4302
    assert error.mean() == pytest.approx(as_typed["value"], abs=0.02)
    assert (error <= 0.2 * patients["dose"]).mean() == pytest.approx(0.451, abs=0.005)
    assert imputed["value"] == pytest.approx(8.38, abs=0.01)

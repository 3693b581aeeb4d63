"""Cox's model on the pooled patients of TCGA-BRCA, by scikit-survival: what the study's page sets beside the federation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pmfed_simulations.studies import write_sites


def test_cox_on_pooled_patients_reaches_what_the_page_says(public_data: Path, tmp_path: Path) -> None:
    linear = pytest.importorskip("sksurv.linear_model")
    metrics = pytest.importorskip("sksurv.metrics")
    util = pytest.importorskip("sksurv.util")
    write_sites("tcga-brca", public_data, tmp_path)
    tables = {path.parent.name: pd.read_csv(path) for path in sorted(tmp_path.glob("*/patients.csv"))}
    whole = pd.concat(tables.values(), ignore_index=True)
    features = [name for name in whole if name not in ("patient_id", "days", "died", "split")]
    assert len(features) == 39
    train = whole[whole["split"] == "train"]

    def inputs(table: pd.DataFrame) -> pd.DataFrame:
        return table[features].astype(float).assign(age_at_index=(table["age_at_index"] - 60) / 12)

    outcome = util.Surv.from_arrays(train["died"] > 0, train["days"])
    # A ridge this small only keeps columns that say the same from being told apart by chance.
    model = linear.CoxPHSurvivalAnalysis(alpha=1e-3).fit(inputs(train), outcome)

    def concordance(table: pd.DataFrame) -> float:
        risk = model.predict(inputs(table))
        return float(metrics.concordance_index_censored(table["died"] > 0, table["days"], risk)[0])

    tests = [table[table["split"] == "test"] for table in tables.values()]
    assert np.mean([concordance(table) for table in tests]) == pytest.approx(0.816, abs=0.01)
    assert concordance(pd.concat(tests)) == pytest.approx(0.838, abs=0.01)

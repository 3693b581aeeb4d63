"""What several trainings of one method say together: patients, noise and training in one interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pmfed_simulations.summary import _at_several, _mean
from scipy import stats

from pmfed.cohort import Cohort


def test_an_interval_over_seeds_holds_patients_noise_and_training() -> None:
    seeds = [
        {"auroc": value, "auroc_low": value - 0.03, "auroc_high": value + 0.02} for value in (0.78, 0.80, 0.82, 0.80)
    ]
    found = _mean(seeds)
    reach = stats.t.ppf(0.975, 3) * np.std([0.78, 0.80, 0.82, 0.80], ddof=1)
    assert found["auroc"] == pytest.approx(0.80)
    assert found["auroc_low"] == pytest.approx(0.80 - math.hypot(0.03, reach), abs=1e-6)
    assert found["auroc_high"] == pytest.approx(0.80 + math.hypot(0.02, reach), abs=1e-6)
    assert _mean(seeds[:1])["auroc_low"] == pytest.approx(0.75)  # of one seed nobody knows how trainings differ
    alike = _mean([seeds[1], seeds[3]])
    assert (alike["auroc_low"], alike["auroc_high"]) == (pytest.approx(0.77), pytest.approx(0.82))
    two = _mean(seeds[:2])
    assert two["auroc_high"] is not None
    assert 0.9 < two["auroc_high"] <= 1.0  # two trainings say little, but a share stays one
    errors = [{"mae": value, "mae_low": value - 1, "mae_high": value + 1} for value in (8.0, 9.0)]
    assert _mean(errors)["mae_high"] == pytest.approx(
        8.5 + math.hypot(1, stats.t.ppf(0.975, 1) * math.sqrt(0.5)), abs=1e-6
    )


def test_ids_that_stand_at_two_hospitals_are_said() -> None:
    def cohort(*ids: str) -> Cohort:
        count = len(ids)
        return Cohort(ids, np.arange(count), np.ones(count, bool), {}, {}, np.zeros(count))

    assert _at_several({"a": cohort("1", "2"), "b": cohort("3", "4")}) == []
    (said,) = _at_several({"a": cohort("1", "2", "5"), "b": cohort("2", "3", "5"), "c": cohort("5")})
    assert said.startswith("2 patient ids stand at more than one hospital")

"""Federated means and scales: what a patient may add to the sum, and what comes out of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pmfed.cohort import Cohort, centres, rows, solve
from pmfed.cohort.statistics import statistics_size
from pmfed.study import Study


def study(features: int = 2, noise: float = 8.0) -> Study:
    """A study whose first input has constants and the others not."""
    numeric = {"type": "numeric", "minimum": 0, "maximum": 10}
    return Study.model_validate(
        {
            "study": {"name": "x", "title": "X"},
            "cohort": {"table": "t", "expected_patients": 1000},
            "outcome": {"column": "y", "task": "binary", "classes": ["0", "1"]},
            "modalities": {
                "m": {
                    "kind": "table",
                    "table": "t",
                    "features": {
                        "a": {**numeric, "mean": 1, "scale": 2, "indicator": True},
                        **{f"b{place}": numeric for place in range(features)},
                    },
                }
            },
            "training": {"rounds": 1, "optimizer": {"learning_rate": 0.1}},
            "privacy": {"epsilon": 1.0, "delta": 1e-4, "statistics_noise": noise},
        }
    )


def cohort(owner: np.ndarray, values: np.ndarray, present: np.ndarray | None = None) -> Cohort:
    patients, records = int(owner.max(initial=-1)) + 1, len(owner)
    fixed = np.full((records, 2), 1e6)  # inputs with constants may be of any size
    return Cohort(
        ids=tuple(str(place) for place in range(patients)),
        owner=owner,
        training=np.ones(patients, dtype=bool),
        inputs={"m": np.column_stack([fixed, values]).astype(np.float32)},
        present={"m": np.ones(records, dtype=bool) if present is None else present},
        targets=np.zeros(records, dtype=np.float32),
    )


cells = st.one_of(st.floats(-1, 1), st.just(float("nan")), st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1e6, 1e6))


@settings(deadline=None)
@given(st.data(), st.integers(0, 5), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_no_patient_adds_more_than_one(data: st.DataObject, features: int, sizes: list[int]) -> None:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    values = data.draw(arrays(np.float64, (len(owner), features), elements=cells))
    got = rows(study(features), cohort(owner, values))
    assert got.shape[1] == 3 * features
    assert np.isfinite(got).all()
    assert (np.linalg.norm(got, axis=1) <= 1).all()


def test_the_bound_is_used_up_and_records_do_not_add() -> None:
    one = rows(study(2), cohort(np.array([0]), np.array([[1.0, -1.0]])))
    many = rows(study(2), cohort(np.zeros(50, dtype=np.int64), np.tile([[1.0, -1.0]], (50, 1))))
    assert np.linalg.norm(one) == pytest.approx(1)
    np.testing.assert_allclose(one, many)


def test_rounding_and_impossible_values_do_not_break_the_bound() -> None:
    for features in range(1, 40):
        values = np.tile([[1.0], [-1.0], [0.0]], (1, features))
        got = rows(study(features), cohort(np.arange(3), values))
        assert (np.linalg.norm(got, axis=1) <= 1).all()
    wild = rows(study(2), cohort(np.arange(2), np.array([[1e30, 0.0], [1.0, 0.0]])))
    np.testing.assert_allclose(wild[0], wild[1])


def test_means_and_scales_without_noise_are_those_of_the_patients() -> None:
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal([0.2, -0.5], [0.3, 0.2], (20_000, 2)), -1, 1)
    values[rng.random((20_000, 2)) < 0.3] = np.nan
    of = study(2)
    sites = [cohort(np.arange(len(part)), part) for part in np.split(values, [3_000, 5_000])]
    statistics = solve(of, sum(rows(of, site).sum(axis=0) for site in sites))
    np.testing.assert_allclose(statistics.mean, np.nanmean(values, axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.scale, np.nanstd(values, axis=0), atol=1e-6)
    scaled = np.concatenate([site.scaled(statistics).inputs["m"] for site in sites])
    assert (scaled[:, :2] == 1e6).all()
    assert not scaled[:, 2:][np.isnan(values)].any()
    known = np.where(np.isnan(values), np.nan, scaled[:, 2:])
    np.testing.assert_allclose(np.nanstd(known, axis=0), 1, atol=1e-4)
    natural = statistics.natural(of)
    assert natural["m.b0"] == pytest.approx((5 + 5 * statistics.mean[0], 5 * statistics.scale[0]))


def test_patients_count_once_whatever_their_records() -> None:
    owner = np.array([0] * 99 + [1])
    values = np.array([[1.0]] * 99 + [[0.0]])
    got = rows(study(1), cohort(owner, values)).sum(axis=0)
    assert got[1] / np.sqrt(2 / 3) == pytest.approx(1.0)  # one patient at 1, one at 0
    assert got[0] / np.sqrt(1 / 3) == pytest.approx(2.0)


def test_records_without_the_modality_count_for_nothing() -> None:
    of = study(1)
    site = cohort(np.array([0, 1]), np.array([[0.0], [0.5]]), present=np.array([False, True]))
    got = rows(of, site)
    assert not got[0].any()
    assert got[1].any()
    scaled = site.scaled(solve(of, 1000 * got.sum(axis=0)))
    assert scaled.inputs["m"][0, 2] == 0


@settings(deadline=None)
@given(arrays(np.float64, 6, elements=st.floats(-1e9, 1e9)))
def test_whatever_the_noise_inputs_stay_bounded(total: np.ndarray) -> None:
    statistics = solve(study(2), total)
    assert np.isfinite(statistics.mean).all()
    assert (np.abs(statistics.mean) <= 1).all()
    assert (statistics.scale >= 1e-3).all()
    assert (statistics.scale <= 1).all()


def test_a_small_cohort_under_much_noise_falls_back_to_the_bounds() -> None:
    of = study(2, noise=8.0)
    site = cohort(np.arange(10), np.full((10, 2), 0.9))
    statistics = solve(of, rows(of, site).sum(axis=0) + np.array([5.0, -20, 30, -8, 1, 2]))
    assert statistics.mean.tolist() == [0, 0]
    np.testing.assert_allclose(statistics.scale, np.sqrt(1 / 3))


def test_noise_moves_the_scales_of_a_large_cohort_little() -> None:
    rng = np.random.default_rng(3)
    values = np.clip(rng.normal(0.3, 0.4, (5000, 2)), -1, 1)
    of = study(2, noise=8.0)
    clean = rows(of, cohort(np.arange(5000), values)).sum(axis=0)
    for _ in range(20):
        noisy = solve(of, clean + 8.0 * rng.standard_normal(6))
        assert np.abs(noisy.mean - values.mean(axis=0)).max() < 0.03
        assert np.abs(noisy.scale - values.std(axis=0)).max() < 0.03


# centres of features


def pictures(noise: float = 8.0, with_inputs: bool = False, weights: object = "efficientnet-lite0") -> Study:
    skin = {
        "kind": "images",
        "table": "t",
        "folder": "f",
        "size": (4, 4),
        "weights": weights,
        "centred": True,
    }
    plain = study(2 if with_inputs else 0, noise).model_dump(mode="json")
    modalities = {"skin": skin, **(plain["modalities"] if with_inputs else {})}
    return Study.model_validate(plain | {"modalities": modalities})


def seen(owner: np.ndarray, features: np.ndarray, present: np.ndarray | None = None) -> Cohort:
    """A cohort of features, and of two inputs without scales beside them."""
    made = cohort(owner, np.zeros((len(owner), 2)))
    there = np.ones(len(owner), dtype=bool) if present is None else present
    made.inputs["skin"], made.present["skin"] = features.astype(np.float32), there
    return made


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(0, 99), st.floats(0, 1e6), st.booleans())
def test_no_patient_moves_a_centre_by_more_than_one(sizes: list[int], seed: int, norm: float, beside: bool) -> None:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    random = np.random.default_rng(seed)
    features = random.normal(size=(len(owner), 1280)) * norm  # even from a network that forgot to scale
    here = seen(owner, features, random.random(len(owner)) < 0.7)
    assert (np.linalg.norm(centres.rows(here, "skin"), axis=1) <= 1 + 1e-12).all()
    got = rows(pictures(with_inputs=beside), here)
    assert got.shape[1] == 1281 + 6 * beside
    assert (np.linalg.norm(got, axis=1) <= 1).all()


@pytest.mark.parametrize("beside", [False, True])
def test_a_centre_is_the_mean_over_patients_and_is_taken_away(beside: bool) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 1280)) + 4 * random.normal(size=1280)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    owner = np.repeat(np.arange(30), 2)
    found = pictures(with_inputs=beside)
    here = seen(owner, features)
    solved = solve(found, rows(found, here).sum(axis=0))
    np.testing.assert_allclose(solved.centres["skin"], features.mean(axis=0), atol=1e-6)
    moved = here.scaled(solved).inputs["skin"]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-5)
    assert np.linalg.norm(moved.mean(axis=0)) < 0.05 < np.linalg.norm(features.mean(axis=0))


def test_each_of_two_centres_has_the_width_of_its_layers() -> None:
    random = np.random.default_rng(0)
    layered = {"net": "efficientnet-lite0", "layers": ["middle", "late"]}
    study = pictures()
    found = study.replace(modalities={"eye": pictures(weights=layered).modalities["skin"].model_dump(mode="json")})
    skin, eye = (random.normal(size=(30, width)) + 4 * random.normal(size=width) for width in (1280, 432))
    here = seen(np.arange(30), skin / np.linalg.norm(skin, axis=1, keepdims=True))
    here.inputs["eye"] = (eye / np.linalg.norm(eye, axis=1, keepdims=True)).astype(np.float32)
    here.present["eye"] = here.present["skin"]
    total = rows(found, here).sum(axis=0)
    assert len(total) == statistics_size(found) == 1281 + 433
    solved = solve(found, total)
    for name in ("skin", "eye"):
        np.testing.assert_allclose(solved.centres[name], here.inputs[name].mean(axis=0), atol=1e-6)


def test_an_absent_picture_stays_absent_and_noise_leaves_a_centre_bounded() -> None:
    found, features = pictures(), np.eye(3, 1280)
    here = seen(np.arange(3), features, np.array([True, False, True]))
    for total in (np.zeros(1281), np.random.default_rng(0).normal(size=1281) * 1e3):
        solved = solve(found, total)
        assert np.linalg.norm(solved.centres["skin"]) <= 1 + 1e-9
        moved = here.scaled(solved).inputs["skin"]
        assert np.isfinite(moved).all()
        assert not moved[1].any()


def test_a_centre_is_paid_for() -> None:
    assert pictures().needs_statistics
    assert (
        not pictures()
        .replace(modalities={"skin": {**pictures().modalities["skin"].model_dump(), "centred": False}})
        .needs_statistics
    )
    with pytest.raises(ValueError, match="it needs 'weights'"):
        pictures().replace(modalities={"skin": {**pictures().modalities["skin"].model_dump(), "weights": None}})

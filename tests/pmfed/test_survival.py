"""Survival: figures from one sum against scikit-survival and pairs counted one by one; the likelihood; baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.models.head import Proportional, head
from pmfed.study.outcomes import outcome_of
from pmfed.tasks.survival import Survival, _watched, concordance, kaplan_meier
from pmfed.tasks.task import intervals

Floats = np.ndarray[Any, Any]

KEYS: dict[str, Any] = {"column": "t", "event": "e", "task": "survival", "classes": ("0", "1")}
OUTCOME = outcome_of(**KEYS, intervals=(1, 2, 4, 8, 10), horizon=4)
TASK = Survival(OUTCOME)


def patients(count: int, seed: int, whole: bool = False) -> tuple[Floats, Floats]:
    """Return outputs of a model and what became of patients, many of whom leave early; ``whole`` in the middle of bins."""
    random = np.random.default_rng(seed)
    risk = random.normal(0, 1, count)
    death, leaving = random.exponential(9 * np.exp(-1.1 * risk)), random.uniform(0, 14, count)
    time, event = np.minimum(death, leaving), death <= leaving
    if whole:
        edges = np.append(0.0, TASK.edges)
        place = np.minimum(np.searchsorted(TASK.edges, time, side="right"), len(edges) - 1)
        time = np.where(place < len(TASK.edges), edges[place] + 0.01, time)
    outputs = (risk + random.normal(0, 0.3, count))[:, None] + np.log([0.1, 0.1, 0.2, 0.4, 0.2])
    return outputs, np.stack([time, event], axis=1)


def total(outputs: Floats, outcomes: Floats, task: Survival = TASK) -> Floats:
    parts = np.array_split(np.arange(len(outputs)), -(-len(outputs) // 500))  # rows are long
    return np.sum([task.rows(outputs[part], outcomes[part]).sum(axis=0) for part in parts], axis=0)


def told(outputs: Floats, outcomes: Floats, task: Survival = TASK) -> dict[str, Any]:
    return task.measure(total(outputs, outcomes, task))


def by_pairs(risk: Floats, time: Floats, event: Floats) -> float:
    """Count Harrell's pairs one by one."""
    right = pairs = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[j] > time[i] or (time[j] == time[i] and not event[j]):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs


def observed(outcomes: Floats) -> tuple[Floats, Floats]:
    """Return times and events as they are watched: until the last boundary."""
    last = TASK.ends[-1]
    return np.minimum(outcomes[:, 0], last), (outcomes[:, 1] > 0.5) & (outcomes[:, 0] < last)


# -- concordance ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_concordance_of_a_histogram_is_that_of_its_pairs(seed: int, count: int, scores: int, times: int) -> None:
    random = np.random.default_rng(seed)
    score, time, event = random.integers(0, scores, count), random.integers(0, times, count), random.random(count) < 0.5
    cells = np.zeros((scores, times, 2))
    np.add.at(cells, (score, time, event.astype(int)), 1)
    found = float(concordance(cells[..., 0], cells[..., 1]))
    if any(
        (time[j] > time[i]) or (time[j] == time[i] and not event[j])
        for i in np.flatnonzero(event)
        for j in range(count)
    ):
        assert found == pytest.approx(by_pairs(score, time, event))
    else:
        assert np.isnan(found)


@pytest.mark.parametrize("count", [15, 60, 400])
def test_concordance_is_that_of_pairs_of_patients_but_for_the_width_of_bins(count: int) -> None:
    outputs, outcomes = patients(count, count)
    alive = TASK.predict(outputs)[:, 2]  # at the horizon
    close = 0.04 if count < 20 else 0.005  # a tie of two of 46 pairs
    assert told(outputs, outcomes)["c_index"] == pytest.approx(by_pairs(-alive, *observed(outcomes)), abs=close)


def test_noise_takes_no_side_in_the_concordance() -> None:
    task = Survival(OUTCOME, coarse=True)
    outputs, outcomes = patients(3000, 5)
    exact = total(outputs, outcomes, task)
    noise = np.random.default_rng(1).normal(0, 5.0, (400, task.cells))
    found = task.measure(exact + noise)["c_index"]
    assert found.mean() == pytest.approx(float(task.measure(exact)["c_index"]), abs=4 * found.std() / 20)
    assert found.std() < 0.03


def test_what_comes_at_the_last_boundary_or_later_is_all_one() -> None:
    """Alive at the end: an event or a departure there, or years after, makes no pair with anybody who is there, too."""
    outputs = np.tile([[-2.0, -1.0, -2.0, -1.0, -2.0]], (5, 1))
    outcomes = np.array([(10.0, 0), (10.0, 1), (10.5, 0), (99.0, 1), (9.99, 1)])
    rows = TASK.rows(outputs, outcomes)
    np.testing.assert_array_equal(rows[:4], np.repeat(rows[:1], 4, axis=0))
    assert (rows[4] != rows[0]).any()
    told_apart = TASK.rows(outputs[:3], np.array([(2.0, 0), (1.99, 0), (2.01, 0)]))  # a time bin begins with its edge
    np.testing.assert_array_equal(told_apart[0], told_apart[2])
    assert (told_apart[0] != told_apart[1]).any()


# -- against scikit-survival --------------------------------------------------------------------------------------------


def test_figures_are_those_of_scikit_survival() -> None:
    metrics = pytest.importorskip("sksurv.metrics")
    util = pytest.importorskip("sksurv.util")
    outputs, outcomes = patients(500, 3, whole=True)
    time, event = observed(outcomes)
    truth, alive = util.Surv.from_arrays(event, time), TASK.predict(outputs)
    found = told(outputs, outcomes)
    expected = metrics.concordance_index_censored(event, time, -alive[:, 2])[0]
    assert found["c_index"] == pytest.approx(expected, abs=0.005)
    # The last boundary is the end of observation, which scikit-survival does not score.
    shorter = Survival(outcome_of(**KEYS, intervals=(1, 2, 4, 8), horizon=4))
    scored = metrics.integrated_brier_score(truth, truth, alive[:, :4], shorter.ends)
    assert told(outputs[:, :4], outcomes, shorter)["integrated_brier"] == pytest.approx(scored, abs=0.003)


def test_kaplan_meier_is_that_of_scikit_survival() -> None:
    nonparametric = pytest.importorskip("sksurv.nonparametric")
    random = np.random.default_rng(2)
    time, event = random.integers(0, 12, 200), random.random(200) < 0.4
    times, alive = nonparametric.kaplan_meier_estimator(event, time)
    left, died = (np.bincount(time[event == kind], minlength=12).astype(float) for kind in (False, True))
    np.testing.assert_allclose(kaplan_meier(left, died)[times.astype(int)], alive)


def test_the_weights_are_those_of_the_departures() -> None:
    """The chance to be still watched: who has the event in a bin has not left in it."""
    nonparametric = pytest.importorskip("sksurv.nonparametric")
    random = np.random.default_rng(3)
    time, event = random.integers(0, 6, 60), random.random(60) < 0.5
    times, stay = nonparametric.kaplan_meier_estimator(event, time, reverse=True)
    left, died = (np.bincount(time[event == kind], minlength=6).astype(float) for kind in (False, True))
    np.testing.assert_allclose(_watched(left, died)[times.astype(int)], stay)


# -- the Brier score and calibration by hand ----------------------------------------------------------------------------


def test_without_censoring_the_brier_score_is_the_mean_squared_error() -> None:
    random = np.random.default_rng(4)
    outputs = random.normal(-1, 1, (300, 5))
    outcomes = np.stack(
        [random.uniform(0, 30, 300), np.ones(300)], axis=1
    )  # whoever outlives the study is alive at its end
    alive, there = TASK.predict(outputs), outcomes[:, :1] >= TASK.ends
    brier = ((alive - there) ** 2).mean(axis=0)
    found = told(outputs, outcomes)
    assert found["integrated_brier"] == pytest.approx(np.trapezoid(brier, TASK.ends) / (TASK.ends[-1] - TASK.ends[0]))
    assert found["calibration_gap"] == pytest.approx(abs(there[:, 2].mean() - alive[:, 2].mean()), abs=0.01)


def test_a_model_that_says_what_happens_is_calibrated_and_another_is_not() -> None:
    outputs, outcomes = patients(3000, 6)
    right = TASK.curves(total(outputs, outcomes))["calibration"]
    assert len(right) == 5
    assert [group["predicted"] for group in right] == sorted(group["predicted"] for group in right)
    assert [group["observed"] for group in right] == sorted(group["observed"] for group in right)
    wrong = told(outputs + 1.5, outcomes)["calibration_gap"]
    assert wrong > 0.1 + told(outputs, outcomes)["calibration_gap"]


@pytest.mark.parametrize(("time", "seen"), [(3.99, 1.0), (4.0, 0.0), (4.01, 0.0)])
def test_the_horizon_is_where_it_is_said_to_be(time: float, seen: float) -> None:
    outputs = np.tile(np.log([[0.1, 0.1, 0.2, 0.4, 0.2]]), (50, 1))
    risk = 1 - float(TASK.predict(outputs)[0, 2])
    outcomes = np.tile([[time, 1.0]], (50, 1))
    assert told(outputs, outcomes)["calibration_gap"] == pytest.approx(abs(risk - seen), abs=0.01)


def test_nothing_is_told_of_times_that_hardly_anybody_reaches() -> None:
    """98 of 100 leave after 1.5 of 10 years; what the model says of later years is nonsense, and does not count."""
    outputs = np.tile([[-2.0, -9.0, -9.0, -9.0, -9.0]], (100, 1))
    outcomes = np.array([(1.5, 0)] * 98 + [(7.9, 1)] * 2)
    total_ = total(outputs, outcomes)
    brier = (1 - TASK.predict(outputs)[0, 0]) ** 2  # at the first boundary, where all are alive
    assert TASK.measure(total_)["integrated_brier"] == pytest.approx(brier)
    curves = TASK.curves(total_)
    assert curves["calibration"] == []
    assert [group["points"][-1][0] for group in curves["survival"]["groups"]] == [
        pytest.approx(1.5 + 1 / 12)
    ]  # the bin that begins with 1.5


def test_patients_who_left_count_for_less_in_the_calibration() -> None:
    outputs, outcomes = patients(600, 10)
    whole = np.stack([outcomes[:, 0], np.ones(600)], axis=1)
    for group in TASK.curves(total(outputs, whole))["calibration"]:
        assert group["effective"] == pytest.approx(group["count"])  # Greenwood's variance is then the binomial one
    for group in TASK.curves(total(outputs, outcomes))["calibration"]:
        assert 0.5 * group["count"] < group["effective"] < 0.99 * group["count"]


def test_with_censoring_the_score_is_as_without() -> None:
    """What the weights are for: patients who leave at random change nothing but the spread."""
    random = np.random.default_rng(7)
    risk = random.normal(0, 1, 4000)
    death, leaving = random.exponential(9 * np.exp(-risk)), random.exponential(12, 4000)
    outputs = risk[:, None] + np.log([0.1, 0.1, 0.2, 0.4, 0.2])
    whole = told(outputs, np.stack([death, np.ones_like(death)], axis=1))
    part = told(outputs, np.stack([np.minimum(death, leaving), death <= leaving], axis=1))
    assert part["integrated_brier"] == pytest.approx(float(whole["integrated_brier"]), abs=0.008)
    assert part["calibration_gap"] == pytest.approx(float(whole["calibration_gap"]), abs=0.02)


def test_groups_by_risk_have_curves_that_fall_and_stand_in_order() -> None:
    found = TASK.curves(total(*patients(900, 8)))["survival"]
    assert found["horizon"] == 4
    ends = []
    for group in found["groups"]:
        times, alive = np.array(group["points"]).T
        assert (np.diff(times) > 0).all()
        assert (np.diff(alive) <= 0).all()
        ends.append(alive[np.searchsorted(times, 4)])
    assert ends[0] > ends[1] > ends[2]
    assert sum(group["count"] for group in found["groups"]) == 900


def test_the_interval_is_around_the_figure_of_a_model_whose_hazards_are_not_proportional() -> None:
    outputs, outcomes = patients(300, 11)
    summed = total(outputs * [1, 1, 1, -1, -1], outcomes)
    drawn = TASK.measure(TASK.resample(summed, 200, np.random.default_rng(0)))["integrated_brier"]
    assert drawn.mean() == pytest.approx(float(TASK.measure(summed)["integrated_brier"]), abs=0.004)


def test_figures_stay_between_0_and_1_whatever_the_noise_and_a_gap_has_no_sign() -> None:
    random = np.random.default_rng(12)
    outputs, outcomes = patients(300, 12)
    for scale in (0.5, 3.0):
        summed = total(outputs, outcomes) + random.normal(0, scale, (20, TASK.cells))
        for value in TASK.measure(summed).values():
            known = value[np.isfinite(value)]
            assert len(known)
            assert 0 <= known.min() <= known.max() <= 1
    assert told(outputs - 3, outcomes)["calibration_gap"] > 0.1  # says too little
    assert told(outputs + 3, outcomes)["calibration_gap"] > 0.1  # too much


def test_the_interval_is_about_as_wide_as_that_over_patients() -> None:
    outputs, outcomes = patients(250, 9)
    random = np.random.default_rng(0)
    rows = TASK.rows(outputs, outcomes)
    again = TASK.measure(random.multinomial(250, np.full(250, 1 / 250), size=200) @ rows)
    for name in ("c_index", "integrated_brier"):
        low, high = intervals(TASK, [rows.sum(axis=0)], draws=400)[name]
        drawn = np.percentile(again[name], [2.5, 97.5])
        assert high - low == pytest.approx(drawn[1] - drawn[0], rel=0.25)


# -- the likelihood -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_likelihood_by_hand() -> None:
    hazards = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    cases = [  # time, event, the chance of just that
        ((0.0, 0), 1.0),
        ((0.4, 1), 0.1),
        ((1.4, 0), 0.9),  # left before half of the second interval
        ((1.6, 0), 0.9 * 0.8),
        ((2.0, 1), 0.9 * 0.8 * 0.3),  # an interval begins with its boundary
        ((9.0, 1), 0.9 * 0.8 * 0.7 * 0.6 * 0.5),
        ((10.0, 1), 0.9 * 0.8 * 0.7 * 0.6 * 0.5),  # after the last boundary: alive there
        ((99.0, 0), 0.9 * 0.8 * 0.7 * 0.6 * 0.5),
    ]
    outcomes = np.array([case for case, _ in cases])
    losses = TASK.loss(torch.logit(hazards).expand(len(cases), 5), TASK.targets(outcomes))
    np.testing.assert_allclose(np.exp(-losses.numpy()), [chance for _, chance in cases], rtol=1e-5)


def test_the_bias_is_the_public_baseline() -> None:
    given_ = Survival(OUTCOME.model_copy(update={"baseline": (0.1, 0.2, 0.3, 0.1, 0.1)}))
    assert torch.sigmoid(given_.bias()).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.1, 0.1])
    alive = TASK.predict(TASK.bias().double().numpy()[None])[0]
    np.testing.assert_allclose(alive, [5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rtol=1e-6)


def test_proportional_hazards_have_one_risk_and_a_bias_per_interval() -> None:
    layer = head(7, OUTCOME)
    assert isinstance(layer, Proportional)
    assert sum(p.numel() for p in layer.parameters()) == 7 + 5
    shifts = layer(torch.randn(9, 7)) - layer.bias
    torch.testing.assert_close(shifts, shifts[:, :1].expand(9, 5))
    free = head(7, OUTCOME.model_copy(update={"hazards": "free"}))
    assert sum(p.numel() for p in free.parameters()) == 7 * 5 + 5


# -- the study ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"event": None}, "needs 'event'"),
        ({"event": "t"}, "needs 'event'"),
        ({"intervals": ()}, "needs 'intervals'"),
        ({"intervals": (2, 1)}, "each above the one before"),
        ({"intervals": (1, 1)}, "each above the one before"),
        ({"horizon": 3}, "one of 'intervals'"),
        ({"classes": ("0",)}, r"the two values of 'event' \(censored first\)"),
        ({"baseline": (0.1, 0.2)}, "one hazard between 0 and 1 per interval"),
        ({"baseline": (0.1,) * 4 + (1.0,)}, "one hazard between 0 and 1 per interval"),
        ({"minimum": 0}, "only a regression outcome"),
        ({"task": "binary"}, "only a survival outcome has 'event'"),
    ],
)
def test_an_outcome_that_does_not_hold_together_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        outcome_of(**{**KEYS, "intervals": (1, 2, 4, 8, 10), **changed})

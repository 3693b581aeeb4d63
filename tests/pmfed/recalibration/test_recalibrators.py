"""Slope and intercept from a noised sum: rows are bounded whoever they are of, and noise never makes a good model bad."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pmfed.recalibration import Hazards, Line, Logistic, Recalibrator, Temperature
from pmfed.recalibration.recalibrators import LONGEST

Floats = NDArray[np.float64]

BASE = 0.2
SHARES = (0.5, 0.3, 0.2)
HAZARDS = (0.02, 0.05, 0.1, 0.2)
KINDS: dict[str, tuple[Recalibrator, int]] = {
    "logistic": (Logistic(BASE), 1),
    "hazards": (Hazards(HAZARDS, 3, lambda values: values), 4),
    "classes": (Temperature(SHARES, False), 3),
    "balanced classes": (Temperature(SHARES, True), 3),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def expit(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))


def pieces(chance: np.random.Generator, hazards: Floats) -> Floats:
    """Return what patients with these hazards live through, and where the event comes, (patients, 2, intervals)."""
    event = chance.random(hazards.shape) < hazards
    first = np.where(event.any(axis=1), event.argmax(axis=1), 99)
    left = chance.integers(1, hazards.shape[1] + 1, len(hazards))
    place = np.arange(hazards.shape[1])
    lived = place < np.minimum(first, left)[:, None]
    failed = (place == first[:, None]) & (first < left)[:, None]
    return np.stack([lived, failed], axis=1).astype(np.float64)


def outcomes(kind: str, outputs: Floats, chance: np.random.Generator) -> Floats:
    """Return outcomes of patients for whom these outputs are right."""
    if kind == "logistic":
        return (chance.random(len(outputs)) < expit(outputs[:, 0])).astype(np.float64)
    if kind == "hazards":
        return pieces(chance, expit(outputs))
    p = np.exp(outputs + (np.log(SHARES) if kind.startswith("balanced") else 0.0))
    p /= p.sum(axis=1, keepdims=True)
    return (p.cumsum(axis=1)[:, :-1] < chance.random((len(p), 1))).sum(axis=1).astype(np.float64)


def centre(kind: str) -> Floats:
    logit = {"logistic": (BASE,), "hazards": HAZARDS}.get(kind)
    if logit is not None:
        return np.log(np.array(logit) / (1 - np.array(logit)))
    return np.zeros(3) if kind.startswith("balanced") else np.log(SHARES)


def outputs_of(kind: str, patients: int, chance: np.random.Generator) -> Floats:
    own = chance.normal(0, 1, (patients, 3 if "classes" in kind else 1))
    return centre(kind) + own


def fitted(kind: str, told: Floats, values: Floats, noise: float, chance: np.random.Generator) -> Line:
    recalibrator, _ = KINDS[kind]
    std = noise * recalibrator.bound
    total = recalibrator.rows(told, values).sum(axis=0) + chance.normal(0, std, recalibrator.size)
    return recalibrator.fit(total, std, len(told))


@every_kind
def test_no_row_is_longer_than_the_bound(kind: str) -> None:
    recalibrator, count = KINDS[kind]
    chance = np.random.default_rng(0)
    outputs = chance.choice([-1e30, -50.0, -3.0, -0.4, 0.0, 0.7, 3.0, 50.0, 1e30], (4000, count))
    outputs[2000:] = chance.normal(0, 3, (2000, count))
    values = outcomes(kind, chance.normal(0, 3, outputs.shape), chance)
    rows = recalibrator.rows(outputs, values)
    assert rows.shape == (4000, recalibrator.size)
    assert np.isfinite(rows).all()
    longest = np.linalg.norm(rows, axis=1).max()
    assert 0.6 * recalibrator.bound < longest <= recalibrator.bound * (1 + 1e-12)


@every_kind
@pytest.mark.parametrize("noise", [1e4, 1e9])
def test_overwhelming_noise_changes_nothing(kind: str, noise: float) -> None:
    """Every line that comes of noise alone is the prior's mean: the model is left as it was."""
    chance = np.random.default_rng(1)
    outputs = outputs_of(kind, 500, chance)
    for _ in range(5):
        line = fitted(kind, outputs, outcomes(kind, outputs, chance), noise, chance)
        assert line.slope == pytest.approx(1.0, abs=0.05)
        np.testing.assert_allclose(line(centre(kind)[None]), centre(kind)[None], atol=0.1)


@every_kind
@pytest.mark.parametrize(("slope", "shift"), [(1.6, 0.0), (0.7, 0.0), (1.0, 0.8), (1.0, -0.8)])
def test_what_is_far_off_is_mended(kind: str, slope: float, shift: float) -> None:
    chance = np.random.default_rng(2)
    if "classes" in kind:
        shift = 0.0  # all classes alike: a softmax does not see it
    right = outputs_of(kind, 20_000, chance)
    told = centre(kind) + (right - centre(kind) - shift) / slope
    line = fitted(kind, told, outcomes(kind, right, chance), 4.0, chance)
    before, after = np.abs(told - right).mean(), np.abs(line(told) - right).mean()
    assert after < max(0.35 * before, 0.06)
    assert line.slope == pytest.approx(slope, rel=0.15)


@pytest.mark.parametrize("patients", [200, 500, 2000])
def test_a_model_that_was_right_stays_so_at_the_noise_of_epsilon_1(patients: int) -> None:
    """Over many draws of patients and noise, while one that is far off gets better."""
    chance = np.random.default_rng(3)
    new = outputs_of("logistic", 4000, chance)
    cost, left = [], []
    for _ in range(30):
        outputs = outputs_of("logistic", patients, chance)
        line = fitted("logistic", outputs, outcomes("logistic", outputs, chance), 11.0, chance)
        cost.append(((expit(line(new)) - expit(new)) ** 2).mean())
        off = outputs - 1.2  # 6 % where 20 % have it
        mended = fitted("logistic", off, outcomes("logistic", outputs, chance), 11.0, chance)
        left.append(((expit(mended(new - 1.2)) - expit(new)) ** 2).mean())
    assert np.mean(cost) < 0.002  # of a Brier score of about .14
    assert np.mean(left) < 0.85 * ((expit(new - 1.2) - expit(new)) ** 2).mean()


def test_who_is_followed_for_so_long_only_is_expected_no_more_than_seen() -> None:
    """Stopping when so many events were expected keeps both sides equal; cutting the expected off would not."""
    chance = np.random.default_rng(4)
    outputs = np.log(0.4 / 0.6) + chance.normal(0, 1, (40_000, 6))
    hazards = Hazards((0.4,) * 6, 5, lambda values: values)
    rows = hazards.rows(outputs, pieces(chance, expit(outputs)))
    seen, expected = rows[:, :8].sum(), rows[:, 8:].sum()
    assert seen == pytest.approx(expected, rel=0.02)
    assert rows[:, 8:].sum(axis=1).max() <= LONGEST


def test_a_line_says_what_its_vector_says() -> None:
    line = Line((0.5, -1.0), 2.0)
    assert Line.of(line.vector) == line
    pictures = np.ones((3, 2, 4, 4))
    np.testing.assert_array_equal(line(pictures)[:, 1], np.ones((3, 4, 4)))
    np.testing.assert_array_equal(Line.none(2)(pictures), pictures)

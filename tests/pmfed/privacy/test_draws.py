"""The check of the draws: silent on independent ones at every rate, loud on everything more regular or less."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pmfed.privacy.noise import SecretSource
from pmfed.privacy.sampling import poisson
from pmfed.privacy.sampling_check import sampling_check

Draws = NDArray[np.bool_]
STEPS = 400


def patients(rate: float) -> int:
    return int(np.clip(10 / rate, 200, 20_000))


def independent(random: np.random.Generator, rate: float) -> Draws:
    return random.random((STEPS, patients(rate))) < rate


def fixed_size(random: np.random.Generator, rate: float) -> Draws:
    drawn = np.zeros((STEPS, patients(rate)), dtype=bool)
    for step in drawn:
        step[random.choice(len(step), round(rate * len(step)), replace=False)] = True
    return drawn


def epochs(random: np.random.Generator, rate: float) -> Draws:
    size = patients(rate)
    order = np.concatenate([random.permutation(size) for _ in range(int(STEPS * rate) + 2)])
    drawn = np.zeros((STEPS, size), dtype=bool)
    for number, step in enumerate(drawn):
        step[order[number * round(rate * size) : (number + 1) * round(rate * size)]] = True
    return drawn


def twice_in_a_row(random: np.random.Generator, rate: float) -> Draws:
    return np.repeat(independent(random, rate)[: STEPS // 2], 2, axis=0)


def never_twice_in_a_row(random: np.random.Generator, rate: float) -> Draws:
    drawn = independent(random, rate)
    drawn[1::2] &= ~drawn[::2]
    return drawn


def in_pairs(random: np.random.Generator, rate: float) -> Draws:
    drawn = independent(random, rate)
    drawn[:, 1::2] = drawn[:, ::2]
    return drawn


def favourites(random: np.random.Generator, rate: float) -> Draws:
    chance = rate * np.repeat([0.5, 1.5], patients(rate) // 2)
    return random.random((STEPS, len(chance))) < chance


def half_again(random: np.random.Generator, rate: float) -> Draws:
    return independent(random, 1.5 * rate)[:, : patients(rate)]


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 0.1, 0.3, 0.9, 1.0])
def test_independent_draws_pass(rate: float) -> None:
    source = SecretSource()
    drawn = np.zeros((STEPS, patients(rate)), dtype=bool)
    for step in drawn:
        step[poisson(len(step), rate, source)] = True
    found = sampling_check(drawn, rate)
    assert found.passed, found
    assert f"rate {rate:g}" in found.right


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(
    "draw", [fixed_size, epochs, twice_in_a_row, never_twice_in_a_row, in_pairs, favourites, half_again]
)
def test_all_others_do_not(draw: Callable[[np.random.Generator, float], Draws], rate: float) -> None:
    assert not sampling_check(draw(np.random.default_rng(3), rate), rate).passed


@pytest.mark.parametrize("draw", [fixed_size, epochs, twice_in_a_row, in_pairs, favourites, half_again])
def test_nor_do_they_where_few_are_drawn(draw: Callable[[np.random.Generator, float], Draws]) -> None:
    assert not sampling_check(draw(np.random.default_rng(3), 0.01), 0.01).passed


def test_everybody_means_everybody() -> None:
    drawn = np.ones((STEPS, 200), dtype=bool)
    assert sampling_check(drawn, 1.0).passed
    drawn[7, 3] = False
    assert not sampling_check(drawn, 1.0).passed


def test_it_is_wrong_no_more_often_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmfed.privacy.sampling_check.FALSE_ALARM", 0.05)
    random = np.random.default_rng(1)
    for rate in (0.01, 0.2):
        wrong = sum(not sampling_check(independent(random, rate), rate).passed for _ in range(300))
        assert wrong <= 25  # 15 are expected; 26 or more happen once in 200

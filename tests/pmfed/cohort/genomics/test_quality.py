"""Checks of variants over all patients: they warn and change nothing."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from genomic_files import Line, Vcf, panel, read
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from pmfed.cohort.genomics.quality import hardy_weinberg, named


@pytest.mark.parametrize(
    ("counts", "p"),
    [
        # HWExact of R's HardyWeinberg and the SNPHWE of Wigginton, Cutler and Abecasis (2005) give these.
        ((298, 489, 213), 0.6556635),
        ((230, 314, 107), 1.0),
        ((10, 500, 5000), 0.65157189991),
        ((20, 1000, 5000), 1.26598491e-5),
        ((200000, 200000, 200000), 0.0),
        ((0, 0, 0), 1.0),
        ((50, 0, 0), 1.0),
    ],
)
def test_published_values(counts: tuple[int, int, int], p: float) -> None:
    assert hardy_weinberg(*counts) == pytest.approx(p, rel=1e-6, abs=1e-12)
    assert hardy_weinberg(*counts[::-1]) == pytest.approx(p, rel=1e-6, abs=1e-12)


def by_counting(first: int, mixed: int, second: int) -> float:
    """Shuffle the alleles in every possible way and pair them up."""
    people = first + mixed + second
    alleles = 2 * first + mixed
    ways: Counter[int] = Counter()
    for hands in product((0, 1), repeat=2 * people):
        if sum(hands) == alleles:
            ways[sum(hands[2 * one] != hands[2 * one + 1] for one in range(people))] += 1
    return sum(number for number in ways.values() if number <= ways[mixed]) / sum(ways.values())


@given(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2))
def test_against_every_shuffle(first: int, mixed: int, second: int) -> None:
    assert hardy_weinberg(first, mixed, second) == pytest.approx(by_counting(first, mixed, second), abs=1e-9)


def test_many_people_agree_with_the_large_sample_test() -> None:
    first, mixed, second = 10200, 29500, 20300
    people, share = first + mixed + second, (2 * first + mixed) / (2 * (first + mixed + second))
    expected = people * np.array([share**2, 2 * share * (1 - share), (1 - share) ** 2])
    statistic = ((np.array([first, mixed, second]) - expected) ** 2 / expected).sum()
    assert hardy_weinberg(first, mixed, second) == pytest.approx(chi2.sf(statistic, 1), rel=0.03)


def test_long_lists_of_names_are_cut() -> None:
    assert named([f"v{number:02}" for number in range(25)]).endswith("'v19' and 5 more")


def test_rules_over_all_patients_warn_and_change_nothing(tmp_path: Path) -> None:
    people = [f"PAT-{number}" for number in range(40)]
    calls = {
        "7:500": ["0/1"] * 40,
        "7:501": ["./."] * 10 + ["0/0", "0/1", "1/1"] * 10,
        "7:502": ["0/1"] + ["0/0"] * 39,
        "7:503": (["0/0", "0/1", "0/1", "1/1"] * 10),
        "X:50000000": ["1", "0"] * 10 + ["0/0", "0/1", "0/1", "1/1"] * 5,
    }
    variants = {f"v{place[-1]}-{place[0].lower()}": {"at": place, "reference": "C", "effect": "T"} for place in calls}
    path = Vcf(people, [Line(place, "C>T", call) for place, call in calls.items()]).write(tmp_path / "a.vcf.gz")
    sexes = "".join(f"{one},{one},{'m' if number < 20 else 'f'}\n" for number, one in enumerate(people))
    (tmp_path / "s.csv").write_text("sample_id,patient_id,sex\n" + sexes)
    rules = {"minimum_call_rate": 0.9, "hardy_weinberg": 1e-2, "minimum_frequency": 0.05}
    plain = read(panel(variants, samples="s", sex="sex"), path, people, tmp_path / "s.csv")
    block = read(panel(variants, samples="s", sex="sex", **rules), path, people, tmp_path / "s.csv")
    assert np.array_equal(plain.inputs, block.inputs)
    assert not plain.warnings
    told = "\n".join(block.warnings)
    assert "called in less than the study's 0.9 of the patients: 'v1-7'; they are used all the same" in told
    assert "out of Hardy-Weinberg equilibrium (p below the study's 0.01): 'v0-7';" in told
    assert "with a minor allele rarer here than the study's 0.05: 'v2-7';" in told
    assert len(block.warnings) == 3
    for number in (0, 7, 39):  # and whoever else is there
        alone = read(
            panel(variants, samples="s", sex="sex", **rules), path, people[number : number + 1], tmp_path / "s.csv"
        )
        assert np.array_equal(alone.inputs[0], block.inputs[number])

"""Alleles against a panel: strands, swaps, what cannot be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmfed.cohort.genomics.alleles import Match, match_pair, match_record

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
SINGLE = [(one, two) for one in "ACGT" for two in "ACGT" if one != two and COMPLEMENT[one] != two]


@pytest.mark.parametrize(
    ("panel", "alleles", "expected"),
    [
        ("CT", ("C", "T"), Match(1)),
        ("CT", ("T", "C"), Match(0, swapped=True)),
        ("CT", ("G", "A"), Match(1, flipped=True)),
        ("CT", ("A", "G"), Match(0, flipped=True, swapped=True)),
        ("CT", ("c", "t"), Match(1)),
        ("CT", ("C", "A", "T"), Match(2)),
        ("CT", ("C", "A"), Match(None)),
        ("CT", ("C",), Match(None)),
        ("CT", ("C", "<NON_REF>"), Match(None)),
        ("CT", ("T", "*"), Match(0, swapped=True)),
        ("CT", ("G",), Match(None, flipped=True)),
        ("CT", ("C", "<DEL>"), None),
        ("CT", ("CA", "C"), None),
        ("CT", ("CA", "C", "TA"), Match(2)),
        ("AT", ("A", "T"), Match(1, palindromic=True)),
        ("AT", ("T", "A"), "ambiguous"),
        ("CG", ("G", "C"), "ambiguous"),
        ("AT", ("C", "T"), "others"),
        ("CT", ("N", "T"), "others"),
        ("CT", ("T", "G"), "others"),
        ("CT", ("T", "G", "C"), Match(0, swapped=True)),
        ("CT", ("A", "C"), "others"),
        ("CT", ("G", "C"), "others"),
        ("CT", ("A",), Match(0, flipped=True, swapped=True)),
    ],
)
def test_records(panel: str, alleles: tuple[str, ...], expected: object) -> None:
    assert match_record(panel[0], panel[1], alleles) == expected


@pytest.mark.parametrize(
    ("reference", "effect", "alleles", "expected"),
    [
        ("CT", "C", ("CT", "C"), Match(1)),
        ("CT", "C", ("CTT", "CT"), Match(1)),
        ("CT", "C", ("CTT", "C", "CT"), Match(2)),
        ("C", "CT", ("CT", "C"), Match(0, swapped=True)),
        ("CT", "C", ("C", "T"), None),
        ("C", "CAAA", ("C", "CAA"), None),
        ("AC", "GT", ("AC", "GT"), Match(1)),
    ],
)
def test_longer_alleles(reference: str, effect: str, alleles: tuple[str, ...], expected: object) -> None:
    assert match_record(reference, effect, alleles) == expected


@pytest.mark.parametrize(
    ("panel", "pair", "expected"),
    [
        ("CT", ("T", "C"), Match(0)),
        ("CT", ("C", "T"), Match(1, swapped=True)),
        ("CT", ("A", "G"), Match(0, flipped=True)),
        ("CT", ("0", "C"), Match(None)),
        ("CT", ("0", "T"), Match(1, swapped=True)),
        ("CT", ("0", "A"), Match(1, flipped=True, swapped=True)),
        ("CT", ("0", "0"), None),
        ("CT", ("C", "G"), "others"),
        ("AT", ("T", "A"), Match(0, palindromic=True)),
        ("AT", ("C", "A"), "others"),
        ("CT", ("CT", "C"), "others"),
    ],
)
def test_pairs(panel: str, pair: tuple[str, str], expected: object) -> None:
    assert match_pair(panel[0], panel[1], *pair) == expected


@pytest.mark.parametrize(
    ("reference", "effect", "pair", "expected"),
    [
        ("CT", "C", ("C", "CT"), Match(0)),
        ("CT", "C", ("CTT", "CT"), Match(1, swapped=True)),
        ("C", "CT", ("C", "CT"), Match(1, swapped=True)),
        ("CT", "C", ("0", "CT"), Match(None)),
        ("CT", "C", ("C", "A"), "others"),
    ],
)
def test_longer_pairs(reference: str, effect: str, pair: tuple[str, str], expected: object) -> None:
    assert match_pair(reference, effect, *pair) == expected


@given(st.sampled_from(SINGLE), st.booleans(), st.booleans())
def test_any_writing_of_one_variant_counts_the_same_allele(pair: tuple[str, str], flip: bool, swap: bool) -> None:
    reference, effect = pair
    written = [COMPLEMENT[allele] if flip else allele for allele in (effect, reference) if allele]
    alleles = tuple(written if swap else reversed(written))
    for match in (match_record(reference, effect, alleles), match_pair(reference, effect, *alleles)):
        assert isinstance(match, Match)
        assert match.counted is not None
        counted = alleles[match.counted]
        assert (COMPLEMENT[counted] if flip else counted) == effect
        assert match.flipped is flip

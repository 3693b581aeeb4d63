"""Checks of variants over all patients of a site: call rate, Hardy-Weinberg equilibrium, frequency.

They only warn. Setting a variant to missing because of other patients' calls would let one patient change the inputs of
all, and the promise to each patient counts on their not doing so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from pmfed.cohort.genomics.builds import haploid
from pmfed.cohort.genomics.calls import Floats, FoundCalls
from pmfed.cohort.genomics.samples import FEMALE, Ints
from pmfed.modality.genomics import Panel

LISTED = 20  # names of variants in a message


def named(keys: Sequence[str]) -> str:
    """Return names of variants for a message: the study's own, so they may be told."""
    shown = ", ".join(f"'{key}'" for key in sorted(keys)[:LISTED])
    more = len(keys) - LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown


def check_variants(spec: Panel, found: Mapping[str, FoundCalls], here: NDArray[np.bool_], sex: Ints) -> list[str]:
    """Return a warning per rule that variants break, with the names of the variants.

    Parameters
    ----------
    spec
        The panel.
    found
        What the file said.
    here : (S,) bool
        The samples of patients who have the modality.
    sex : (S,) int64
        1 male, 2 female, 0 unknown.
    """
    if spec.minimum_call_rate is spec.minimum_frequency is spec.hardy_weinberg is None:
        return []
    rare, unbalanced, uncalled = list[str](), list[str](), list[str]()
    for key, one in found.items():
        dosages = one.dosages[here]
        known = dosages[~np.isnan(dosages)]
        if spec.minimum_call_rate is not None and len(known) < spec.minimum_call_rate * len(dosages):
            uncalled.append(key)
        if not len(known):
            continue
        share = float(known.mean()) / 2
        if spec.minimum_frequency is not None and min(share, 1 - share) < spec.minimum_frequency:
            rare.append(key)
        if spec.hardy_weinberg is not None and spec.dosage == "called":
            people = _with_two_copies(spec, one, here, sex)
            if hardy_weinberg(*(int((people == number).sum()) for number in (0, 1, 2))) < spec.hardy_weinberg:
                unbalanced.append(key)
    lines = (
        (uncalled, f"called in less than the study's {spec.minimum_call_rate} of the patients"),
        (unbalanced, f"out of Hardy-Weinberg equilibrium (p below the study's {spec.hardy_weinberg})"),
        (rare, f"with a minor allele rarer here than the study's {spec.minimum_frequency}"),
    )
    return [f"variants {what}: {named(keys)}; they are used all the same." for keys, what in lines if keys]


def _with_two_copies(spec: Panel, one: FoundCalls, here: NDArray[np.bool_], sex: Ints) -> Floats:
    """Return the dosages of those who have two copies: on X outside the pseudoautosomal regions, known females."""
    chromosome, position = one.place
    if not haploid(spec.build, chromosome, position):
        return one.dosages[here]
    if chromosome == "X":
        here = here & (sex == FEMALE)
        return one.dosages[here]
    return one.dosages[:0]


def hardy_weinberg(first: int, mixed: int, second: int) -> float:
    """Return the p-value of the exact test of Hardy-Weinberg equilibrium (Wigginton, Cutler and Abecasis 2005).

    Parameters
    ----------
    first, mixed, second
        How many people have two of one allele, one of each, two of the other.

    Returns
    -------
    float
        The probability, given the number of alleles, of as many mixed people or of any number that is no likelier.
    """
    people = first + mixed + second
    rarer = 2 * min(first, second) + mixed
    if people == 0 or rarer == 0:
        return 1.0
    counts = np.arange(rarer % 2, rarer + 1, 2, dtype=np.float64)  # of mixed people, all that are possible
    ours = (rarer - counts) / 2
    theirs = people - counts - ours
    logs = counts * np.log(2) - gammaln(ours + 1) - gammaln(counts + 1) - gammaln(theirs + 1)
    chances = np.exp(logs - logs.max())
    seen = chances[(mixed - rarer % 2) // 2]
    return float(min(1.0, chances[chances <= seen * (1 + 1e-9)].sum() / chances.sum()))

"""Who the patients of the virtual hospitals are: one law of risk, the same at every hospital.

docs/hospitals.md has the formulas. In short: given age, sex, smoking and diagnoses, every patient of every hospital
follows the same law; hospitals differ in whom they see and in what they record of it. The log odds of a major cardiac
event within five years are linear in age, sex, smoking, diagnoses, the true levels of five measured values, the yearly
change of creatinine, twelve variants and the burden of a lesion, with three interactions: gene and value, lesion and
value, gene and lesion.

The variants exist, with their real places and alleles; their frequencies are rough and their EFFECTS ARE INVENTED. So
is every patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pmfed_simulations.hospitals.habits import Habits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

YEAR = 365.2425  # days


class Locus(NamedTuple):
    """A variant of the panel. ``ref`` and ``alt`` are the genome's; ``counted`` is the allele that is counted."""

    name: str
    chromosome: str
    position: int  # GRCh38
    ref: str
    alt: str
    counted: str
    frequency: float  # of the counted allele, like the effect
    effect: float  # log odds per allele

    @property
    def other(self) -> str:
        """The allele that is not counted."""
        return self.ref if self.counted == self.alt else self.alt


PANEL = (
    Locus("rs10455872", "6", 160589086, "A", "G", "G", 0.07, 0.90),
    Locus("rs10757278", "9", 22124478, "A", "G", "G", 0.47, 0.60),
    Locus("rs12740374", "1", 109274968, "G", "T", "T", 0.22, -0.65),
    Locus("rs1799983", "7", 150999023, "T", "G", "G", 0.66, 0.0),
    Locus("rs1801133", "1", 11796321, "G", "A", "A", 0.34, 0.0),
    Locus("rs429358", "19", 44908684, "T", "C", "C", 0.15, 0.70),
    Locus("rs5186", "3", 148742201, "A", "C", "C", 0.28, 0.50),
    Locus("rs5219", "11", 17388025, "T", "C", "T", 0.35, 0.0),
    Locus("rs662799", "11", 116792991, "G", "A", "G", 0.08, 0.0),
    Locus("rs699", "1", 230710048, "A", "G", "G", 0.42, 0.0),
    Locus("rs7903146", "10", 112998590, "C", "T", "T", 0.29, 0.40),
    Locus("rs9349379", "6", 12903725, "A", "G", "G", 0.40, 0.55),
)


class Lab(NamedTuple):
    """A measured value and its effect.

    A patient's level at the index date is ``middle + slope (age - 62) + male + diabetes + hypertension + statin +
    spread Z1``, the terms of those whom they concern; it changes by ``drift Z2`` a year; a measurement adds ``within
    Z3``; all Z are standard normal. The log odds rise by ``effect`` per ``spread`` above ``middle`` and by ``rising``
    per ``drift`` of change.
    """

    middle: float
    slope: float
    male: float
    diabetes: float
    hypertension: float
    statin: float
    spread: float
    drift: float
    within: float
    low: float
    high: float
    effect: float
    rising: float = 0.0


LABS = {
    "bmi": Lab(27.5, 0.0, 0.4, 1.5, 0.5, 0.0, 4.0, 0.3, 0.4, 12.0, 60.0, 0.0),
    "creatinine": Lab(80.0, 0.4, 12.0, 3.0, 3.0, 0.0, 15.0, 4.0, 3.0, 15.0, 400.0, 0.30, 0.50),
    "hba1c": Lab(5.7, 0.008, 0.0, 1.4, 0.0, 0.0, 0.6, 0.12, 0.15, 3.0, 15.0, 0.40),
    "ldl": Lab(3.4, 0.0, 0.0, 0.0, 0.0, -0.9, 0.75, 0.08, 0.20, 0.3, 9.0, 0.40),
    "systolic": Lab(128.0, 0.30, 2.0, 2.0, 12.0, 0.0, 12.0, 2.0, 7.0, 70.0, 240.0, 0.45),
}
SMOKING = ("never", "former", "current")
SMOKING_EFFECT = np.array([0.0, 0.45, 1.1])
INTERCEPT = -2.75
AGE, MALE, DIABETES, HYPERTENSION, STATIN = 0.65, 0.35, 0.30, 0.25, -0.50
LESION, GENE_LAB, LESION_LAB, GENE_LESION = 1.40, 0.30, 0.35, 0.30
FURTHEST = 2.2  # of a lesion's burden from 0
NAMES = [locus.name for locus in PANEL]
WITH_LAB, WITH_LESION = NAMES.index("rs7903146"), NAMES.index("rs10757278")
EFFECTS = np.array([locus.effect for locus in PANEL])
FREQUENCIES = np.array([locus.frequency for locus in PANEL])


def log_odds(people: Columns) -> Floats:
    """Return the log odds of the event: the whole law of the outcome.

    Parameters
    ----------
    people
        ``age`` (years), ``male``, ``diabetes``, ``hypertension``, ``statin`` (0/1), ``smoking`` (index into
        ``SMOKING``), per value of ``LABS`` its level (by name) and yearly change (``drift NAME``), all (P,);
        ``dosage`` (P, len(PANEL)); ``lesion``, the burden (P,).
    """
    z = {name: (people[name] - lab.middle) / lab.spread for name, lab in LABS.items()}
    base = clinical(people) + SMOKING_EFFECT[people["smoking"]]
    for name, lab in LABS.items():
        base = base + lab.effect * z[name] + lab.rising * people[f"drift {name}"] / lab.drift
    return combined(base, z["hba1c"], z["systolic"], people["dosage"], people["lesion"])


def clinical(people: Columns) -> Floats:
    """Return what age, sex and diagnoses add to the log odds, with the intercept."""
    total = INTERCEPT + AGE * (people["age"] - 62) / 11 + MALE * people["male"] + DIABETES * people["diabetes"]
    return np.asarray(total + HYPERTENSION * people["hypertension"] + STATIN * people["statin"], dtype=np.float64)


def combined(record: Floats, hba1c: Floats, systolic: Floats, dosage: Floats | Ints, lesion: Floats) -> Floats:
    """Return the log odds from what the health record adds, two of its values (in spreads), genes and lesion."""
    genes = dosage - 2 * FREQUENCIES
    total = record + genes @ EFFECTS + LESION * lesion + GENE_LAB * genes[:, WITH_LAB] * hba1c
    total = total + LESION_LAB * lesion * systolic + GENE_LESION * genes[:, WITH_LESION] * lesion
    return np.asarray(total, dtype=np.float64)


def expected_level(lab: Lab, people: Columns) -> Floats:
    """Return the level to expect of a patient of whom nothing was measured."""
    level = lab.middle + lab.slope * (people["age"] - 62) + lab.male * people["male"]
    level = level + lab.diabetes * people["diabetes"] + lab.hypertension * people["hypertension"]
    return np.asarray(level + lab.statin * people["statin"], dtype=np.float64)


def smoking_law(people: Columns) -> Floats:
    """Return the chances of never, former and current smoking, (P, 3)."""
    current = expit(-1.1 - 0.02 * (people["age"] - 62) + 0.3 * people["male"])
    former = (1 - current) * expit(-0.4 + 0.01 * (people["age"] - 62) + 0.2 * people["male"])
    return np.stack([1 - current - former, former, current], axis=1)


def burdens(rng: np.random.Generator, size: int) -> Floats:
    """Draw burdens of lesions: standard normal, cut at +-2.2."""
    return np.clip(rng.normal(size=size), -FURTHEST, FURTHEST)


def draw_people(number: int, habits: Habits, size: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw the patients of a hospital.

    Returns
    -------
    dict
        What `log_odds` takes, and ``id``, ``index`` and ``birth`` (datetime64[D]), ``risk``, ``outcome`` (bool),
        ``followed`` (bool, False where nobody knows the outcome) and ``consent`` ("yes", "no" or "").
    """
    rng = np.random.default_rng([seed, number, 0])
    codes = rng.choice(999_999, size, replace=False) + 1
    form = "{0}{1:06d}" if habits.records.numbered else "H{0}-{1:06d}"
    people: dict[str, NDArray[Any]] = {
        "id": np.array([form.format(number, code) for code in codes]),
        "index": np.datetime64("2017-01-01") + rng.integers(0, 1095, size),
    }
    days = np.rint(np.clip(rng.normal(habits.age, 11, size), 18, 97) * YEAR).astype(np.int64)
    people["birth"] = people["index"] - days
    people["age"] = days / YEAR
    for name in ("male", "diabetes", "hypertension"):
        people[name] = (rng.random(size) < getattr(habits, name)).astype(np.int64)
    wish = -1.6 + 0.03 * (people["age"] - 62) + 1.2 * people["diabetes"] + 0.6 * people["hypertension"]
    people["statin"] = (rng.random(size) < expit(wish)).astype(np.int64)
    people["smoking"] = (rng.random((size, 1)) > np.cumsum(smoking_law(people), axis=1)).sum(axis=1)
    for name, lab in LABS.items():
        people[name] = expected_level(lab, people) + lab.spread * rng.normal(size=size)
        people[f"drift {name}"] = lab.drift * rng.normal(size=size)
    people["dosage"] = rng.binomial(2, FREQUENCIES, (size, len(PANEL)))
    people["lesion"] = burdens(rng, size)
    people["risk"] = expit(log_odds(people))
    people["outcome"] = rng.random(size) < people["risk"]
    people["followed"] = rng.random(size) < 0.98
    people["consent"] = rng.choice(["yes", "no", ""], size, p=[0.92, 0.05, 0.03])
    return people

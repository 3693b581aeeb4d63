"""Who the patients of the study ``hospitals`` are: a law that is simpler than that of `pmfed_simulations.hospitals`.

Every patient of every hospital follows the same law; hospitals differ in whom they see and how they record it.

1. Age, sex and smoking are drawn from the hospital's case mix. Each value is ``trend(age, sex) + residual``, measured once.
2. Twelve variants are drawn independently at the frequencies of ``PANEL`` (Hardy-Weinberg, the same everywhere).
3. A lesion has a burden ``s``: standard normal, cut at +-2.2, independent of all else.
4. The log odds of a major adverse cardiac event within five years are::

       intercept + clinical + sum(effect * (dosage - 2 * frequency)) + LESION * s + GENE_LAB * (T of rs7903146) * HbA1c

   (all terms centred; ``log_odds`` is the whole formula). The event is one coin toss at that risk.
5. Values, calls, genotypes and pictures go missing at rates of the hospital, completely at random. The third
   hospital has no pictures at all, the fourth no genotypes.

The variants exist and carry their real alleles; their frequencies are rough and their EFFECTS ARE INVENTED.
So is every patient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pmfed_simulations.hospitals.model import FREQUENCIES, NAMES, SMOKING, SMOKING_EFFECT, Columns, Floats, burdens
from pmfed_simulations.hospitals.model import PANEL as VARIANTS
from scipy.special import expit

PANEL = tuple(locus._replace(effect=0.70) if locus.name == "rs10757278" else locus for locus in VARIANTS)
EFFECTS = np.array([locus.effect for locus in PANEL])


class Measured(NamedTuple):
    """A measured value: ``middle + slope * (age - 62) + male * extra + residual``, cut at the limits."""

    middle: float
    slope: float
    male: float
    spread: float
    low: float
    high: float
    decimals: int
    effect: float  # log odds per ``spread`` above ``middle``


VALUES = {
    "bmi": Measured(27.5, 0.0, 0.4, 4.2, 15, 55, 1, 0.0),
    "creatinine": Measured(82, 0.4, 12, 20, 35, 400, 0, 0.38),
    "hba1c": Measured(6.1, 0.01, 0.0, 1.0, 4, 15, 1, 0.55),
    "ldl": Measured(3.2, 0.0, 0.0, 0.9, 0.5, 8, 2, 0.28),
    "systolic": Measured(133, 0.35, 2.0, 16, 80, 230, 0, 0.50),
}
INTERCEPT = -2.3
AGE, MALE, LESION, GENE_LAB = 0.72, 0.35, 1.50, 0.35
WITH_LAB = NAMES.index("rs7903146")


class Profile(NamedTuple):
    """What is a hospital's own: size, case mix, records and scanner."""

    title: str
    weight: float  # size relative to the others
    age: float  # mean
    male: float
    smoking: tuple[float, float, float]
    sugar: float  # shift of HbA1c, percentage points
    pressure: float  # shift of systolic pressure, mmHg
    missing: float  # share of values not recorded
    uncalled: float  # share of genotype calls that failed
    covered: float  # share of patients with genotypes, and with images
    brightness: float  # of the background, 0..1
    contrast: float
    noise: float  # standard deviation of the pixel noise, 0..1
    genotypes: bool = True
    images: bool = True  # without them, the scanner's numbers are idle


PROFILES = (
    Profile("University hospital", 1.6, 61, 0.58, (0.45, 0.35, 0.20), 0.1, 0, 0.05, 0.01, 0.95, 0.30, 1.0, 0.04),
    Profile("City hospital", 1.4, 65, 0.55, (0.40, 0.35, 0.25), 0.3, 3, 0.12, 0.02, 0.90, 0.38, 0.85, 0.06),
    Profile("County hospital", 0.9, 68, 0.52, (0.50, 0.33, 0.17), 0.2, 6, 0.20, 0.02, 0.85, 0.0, 0.0, 0.0, images=False),
    Profile("Diabetes clinic", 0.7, 59, 0.50, (0.55, 0.30, 0.15), 1.2, 4, 0.08, 0.0, 0.90, 0.25, 1.15, 0.05, genotypes=False),
    Profile("Rural hospital", 0.4, 55, 0.62, (0.35, 0.30, 0.35), -0.1, -2, 0.25, 0.04, 0.85, 0.42, 0.9, 0.08),
)  # fmt: skip


def log_odds(columns: Columns) -> Floats:
    """Return the log odds of the event for complete values: the whole law of the outcome.

    Parameters
    ----------
    columns
        ``age`` (years), ``male`` (0/1), ``smoking`` (index into ``SMOKING``), the values of ``VALUES`` by name, all
        (P,); ``dosage`` (P, len(PANEL)); ``lesion``, the burden s (P,).
    """
    z = {name: (columns[name] - value.middle) / value.spread for name, value in VALUES.items()}
    dosage = columns["dosage"] - 2 * FREQUENCIES
    total = INTERCEPT + AGE * (columns["age"] - 62) / 11 + MALE * columns["male"]
    total = total + SMOKING_EFFECT[columns["smoking"]] + LESION * columns["lesion"]
    total = total + sum(VALUES[name].effect * value for name, value in z.items())
    return np.asarray(total + dosage @ EFFECTS + GENE_LAB * dosage[:, WITH_LAB] * z["hba1c"], dtype=np.float64)


def trend(value: Measured, columns: Columns) -> Floats:
    """Return what to expect of a value at the patients' age and sex."""
    return np.asarray(
        value.middle + value.slope * (columns["age"] - 62) + value.male * columns["male"], dtype=np.float64
    )


def draw_patients(number: int, profile: Profile, size: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw a hospital's patients: complete values, outcome, and what of it is recorded (``seen ...``)."""
    rng = np.random.default_rng([seed, number, 0])
    columns: dict[str, NDArray[Any]] = {
        "id": np.array([f"H{number}-{code:06d}" for code in rng.choice(999_999, size, replace=False) + 1]),
        "age": np.clip(np.rint(rng.normal(profile.age, 11, size)), 18, 100),
        "male": (rng.random(size) < profile.male).astype(np.int64),
        "smoking": rng.choice(len(SMOKING), size, p=profile.smoking),
    }
    shift = {"hba1c": profile.sugar, "systolic": profile.pressure}
    for name, value in VALUES.items():
        level = trend(value, columns) + shift.get(name, 0.0) + value.spread * rng.normal(size=size)
        columns[name] = np.clip(np.round(level, value.decimals), value.low, value.high)
    columns["dosage"] = rng.binomial(2, FREQUENCIES, (size, len(PANEL)))
    columns["lesion"] = burdens(rng, size)
    columns["risk"] = expit(log_odds(columns))
    columns["outcome"] = rng.random(size) < columns["risk"]
    for name in VALUES:
        columns[f"seen {name}"] = rng.random(size) >= profile.missing
    columns["seen smoking"] = rng.random(size) >= profile.missing / 2
    sequenced = (rng.random((size, 1)) < profile.covered) & profile.genotypes
    columns["seen dosage"] = sequenced & (rng.random((size, len(PANEL))) >= profile.uncalled)
    pictures = rng.choice([1, 2, 3], size, p=[0.7, 0.2, 0.1]) * (rng.random(size) < profile.covered)
    columns["pictures"] = pictures * profile.images
    return columns

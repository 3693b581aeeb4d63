"""Virtual hospitals with linked patients: EHR table, genotypes and images from one generative model.

The model
---------
Every patient of every hospital follows the same law; hospitals differ in whom they see and how they record it.

1. Age, sex and smoking are drawn from the hospital's case mix. Each lab is ``trend(age, sex) + residual``.
2. Twelve variants are drawn independently at the frequencies of ``PANEL`` (Hardy-Weinberg, the same everywhere).
3. A lesion has a burden ``s``: standard normal, cut at +-2.2, independent of all else.
4. The log odds of a major adverse cardiac event within five years are::

       intercept + clinical + sum(effect * (dosage - 2 * frequency)) + LESION * s + GENE_LAB * (T of rs7903146) * HbA1c

   (all terms centred; ``log_odds`` is the whole formula). The event is one coin toss at that risk.
5. A picture of the lesion is a bright, slightly elliptic disc on a textured background; its radius is
   ``5.5 + 1.5 s`` pixels and it is brighter when ``s`` is larger. Position, shape and texture say nothing; the
   hospital's scanner sets brightness, contrast and noise.
6. Values, calls, genotypes and pictures go missing at rates of the hospital, completely at random. The third
   hospital has no pictures at all, the fourth no genotypes.

The variants exist and carry their real alleles; their frequencies are rough and their EFFECTS ARE INVENTED.
So is every patient. Because the law is known, so is the best AUC any method can reach: see ``Truth``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tomli_w
from numpy.typing import NDArray
from PIL import Image
from pmfed_simulations.hospitals.virtual import VirtualSites
from scipy.ndimage import gaussian_filter
from scipy.special import expit
from scipy.stats import rankdata

from pmfed.cohort.split import held_out
from pmfed.errors import UsageError
from pmfed.study import Study

STUDY = Path(__file__).with_name("study.toml")
MODALITIES = ("clinical", "genotype", "image")
SIDE = 28  # pixels
# Figures of virtual patients may be shown exactly; a real hospital would leave the last two out.
POLICY = {"min_patients": 20, "epsilon": 10.0, "delta": 1e-5, "exact_metrics": True, "per_site_metrics": True}
FEWEST = 40  # patients of the smallest hospital: enough that 20 remain for training, as its policy wants
DRAWS = 200  # of what a predictor does not see; moves an AUC by less than 0.002
PER_PATIENT = ("ids", "sites", "outcome", "held_out", "risk", "expected")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]


class Locus(NamedTuple):
    """A variant of the panel: frequency and log odds ratio belong to the counted allele ``alt``."""

    name: str
    ref: str
    alt: str
    frequency: float
    effect: float


PANEL = (
    Locus("rs10455872", "A", "G", 0.07, 0.90),
    Locus("rs10757278", "A", "G", 0.47, 0.70),
    Locus("rs12740374", "G", "T", 0.22, -0.65),
    Locus("rs1799983", "T", "G", 0.66, 0.0),
    Locus("rs1801133", "G", "A", 0.34, 0.0),
    Locus("rs429358", "T", "C", 0.15, 0.70),
    Locus("rs5186", "A", "C", 0.28, 0.50),
    Locus("rs5219", "C", "T", 0.35, 0.0),
    Locus("rs662799", "A", "G", 0.08, 0.0),
    Locus("rs699", "A", "G", 0.42, 0.0),
    Locus("rs7903146", "C", "T", 0.29, 0.40),
    Locus("rs9349379", "A", "G", 0.40, 0.55),
)


class Lab(NamedTuple):
    """A measured value: ``middle + slope * (age - 62) + male * extra + residual``, cut at the limits."""

    middle: float
    slope: float
    male: float
    spread: float
    low: float
    high: float
    decimals: int
    effect: float  # log odds per ``spread`` above ``middle``


LABS = {
    "bmi": Lab(27.5, 0.0, 0.4, 4.2, 15, 55, 1, 0.0),
    "creatinine": Lab(82, 0.4, 12, 20, 35, 400, 0, 0.38),
    "hba1c": Lab(6.1, 0.01, 0.0, 1.0, 4, 15, 1, 0.55),
    "ldl": Lab(3.2, 0.0, 0.0, 0.9, 0.5, 8, 2, 0.28),
    "systolic": Lab(133, 0.35, 2.0, 16, 80, 230, 0, 0.50),
}
SMOKING = ("never", "former", "current")
SMOKING_EFFECT = np.array([0.0, 0.45, 1.1])
INTERCEPT = -2.3
AGE, MALE, LESION, GENE_LAB = 0.72, 0.35, 1.50, 0.35
GENE = [locus.name for locus in PANEL].index("rs7903146")
EFFECTS = np.array([locus.effect for locus in PANEL])
FREQUENCIES = np.array([locus.frequency for locus in PANEL])


class Habits(NamedTuple):
    """What is a hospital's own: size, case mix, records and scanner."""

    title: str
    weight: float  # size relative to the others
    age: float  # mean
    male: float
    smoking: tuple[float, float, float]
    sugar: float  # shift of HbA1c, percentage points
    pressure: float  # shift of systolic pressure, mmHg
    missing: float  # share of lab values not recorded
    uncalled: float  # share of genotype calls that failed
    covered: float  # share of patients with genotypes, and with images
    brightness: float  # of the background, 0..1
    contrast: float
    noise: float  # standard deviation of the pixel noise, 0..1
    genotypes: bool = True
    images: bool = True  # without them, the scanner's numbers are idle


HABITS = (
    Habits("University hospital", 1.6, 61, 0.58, (0.45, 0.35, 0.20), 0.1, 0, 0.05, 0.01, 0.95, 0.30, 1.0, 0.04),
    Habits("City hospital", 1.4, 65, 0.55, (0.40, 0.35, 0.25), 0.3, 3, 0.12, 0.02, 0.90, 0.38, 0.85, 0.06),
    Habits("County hospital", 0.9, 68, 0.52, (0.50, 0.33, 0.17), 0.2, 6, 0.20, 0.02, 0.85, 0.0, 0.0, 0.0, images=False),
    Habits("Diabetes clinic", 0.7, 59, 0.50, (0.55, 0.30, 0.15), 1.2, 4, 0.08, 0.0, 0.90, 0.25, 1.15, 0.05, genotypes=False),
    Habits("Rural hospital", 0.4, 55, 0.62, (0.35, 0.30, 0.35), -0.1, -2, 0.25, 0.04, 0.85, 0.42, 0.9, 0.08),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Truth:
    """What only the maker of the patients knows. Arrays have one entry per patient, in the order of ``ids``.

    Attributes
    ----------
    ids, sites
        Patient ids, unique over all hospitals, and the hospital of each.
    outcome, held_out
        Whether the event happened; whether the study's keyed hash holds the patient out.
    risk
        Probability the outcome was drawn with.
    expected
        Probability of the event given what the files hold of the patient, averaged over what is missing. On
        average over patients, no model orders them better.
    best_auc, best_auc_held_out
        AUC of ``risk``: the best possible with nothing missing. NaN when all have one outcome.
    reachable_auc, reachable_auc_held_out
        AUC of ``expected``: the best possible from these files.
    ceilings
        Best AUC over all patients from a set of modalities, complete for everybody, e.g. ``"clinical+image"``.
    prevalence, patients
        Share of events and number of patients per hospital.
    """

    seed: int
    ids: tuple[str, ...] = field(repr=False)
    sites: tuple[str, ...] = field(repr=False)
    outcome: Bools = field(repr=False)
    held_out: Bools = field(repr=False)
    risk: Floats = field(repr=False)
    expected: Floats = field(repr=False)
    best_auc: float
    best_auc_held_out: float
    reachable_auc: float
    reachable_auc_held_out: float
    ceilings: dict[str, float]
    prevalence: dict[str, float]
    patients: dict[str, int]

    def to_json(self) -> str:
        """Return the numbers that are not per patient; an AUC that does not exist is null."""
        summary = {name: value for name, value in vars(self).items() if name not in PER_PATIENT}
        return json.dumps({name: None if value != value else value for name, value in summary.items()}, indent=2) + "\n"


def write_hospitals(out: Path, *, sites: int = 5, patients: int = 400, seed: int = 0) -> Truth:
    """Write virtual hospitals as the site folders real ones have, and say how well one could do on them.

    The same arguments give the same files, byte for byte. ``out/truth.json`` is written last.

    Parameters
    ----------
    out
        Folder to write to; new or empty, so that the patients of two seeds never mix.
    sites
        How many hospitals; beyond five the habits of the first five come round again.
    patients
        Patients per hospital on average; sizes differ by a factor of four, and none is below ``FEWEST``.
    seed
        Of all draws.

    Returns
    -------
    Truth
        Also in ``out/truth.json``, what is per patient in ``out/truth.csv``.

    Raises
    ------
    UsageError
        ``sites`` or ``patients`` is too small, or ``out`` is not an empty folder.
    """
    if sites < 1 or patients < FEWEST or seed < 0:
        limits = f"At least 1 hospital, at least {FEWEST} patients on average, and a seed of 0 or above."
        raise UsageError(f"Cannot make {sites} hospitals of {patients} patients with seed {seed}.", limits)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder.", "Name a new folder, or remove what is there.")
    habits = [HABITS[number % len(HABITS)] for number in range(sites)]
    share = patients * sites / sum(habit.weight for habit in habits)
    drawn = [_draw(number, habit, round(share * habit.weight), seed) for number, habit in enumerate(habits, 1)]
    truth = _truth(drawn, seed)
    for number, (habit, columns) in enumerate(zip(habits, drawn, strict=True), 1):
        _write(out / f"hospital-{number}", number, habit, columns, seed)
    _table(out / "truth.csv", pd.DataFrame({name: getattr(truth, name) for name in PER_PATIENT}))
    (out / "truth.json").write_text(truth.to_json(), encoding="utf-8", newline="\n")
    return truth


def log_odds(columns: Columns) -> Floats:
    """Return the log odds of the event for complete values: the whole law of the outcome.

    Parameters
    ----------
    columns
        ``age`` (years), ``male`` (0/1), ``smoking`` (index into ``SMOKING``), the labs of ``LABS`` by name, all
        (P,); ``dosage`` (P, len(PANEL)); ``lesion``, the burden s (P,).
    """
    labs = {name: (columns[name] - lab.middle) / lab.spread for name, lab in LABS.items()}
    dosage = columns["dosage"] - 2 * FREQUENCIES
    total = INTERCEPT + AGE * (columns["age"] - 62) / 11 + MALE * columns["male"]
    total = total + SMOKING_EFFECT[columns["smoking"]] + LESION * columns["lesion"]
    total = total + sum(LABS[name].effect * value for name, value in labs.items())
    return np.asarray(total + dosage @ EFFECTS + GENE_LAB * dosage[:, GENE] * labs["hba1c"], dtype=np.float64)


def _trend(lab: Lab, columns: Columns) -> Floats:
    return np.asarray(lab.middle + lab.slope * (columns["age"] - 62) + lab.male * columns["male"], dtype=np.float64)


def _draw(number: int, habit: Habits, size: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw a hospital's patients: complete values, outcome, and what of it is recorded (``seen ...``)."""
    rng, size = np.random.default_rng([seed, number, 0]), max(FEWEST, size)
    columns: dict[str, NDArray[Any]] = {
        "id": np.array([f"H{number}-{code:06d}" for code in rng.choice(999_999, size, replace=False) + 1]),
        "age": np.clip(np.rint(rng.normal(habit.age, 11, size)), 18, 100),
        "male": (rng.random(size) < habit.male).astype(np.int64),
        "smoking": rng.choice(len(SMOKING), size, p=habit.smoking),
    }
    shift = {"hba1c": habit.sugar, "systolic": habit.pressure}
    for name, lab in LABS.items():
        value = _trend(lab, columns) + shift.get(name, 0.0) + lab.spread * rng.normal(size=size)
        columns[name] = np.clip(np.round(value, lab.decimals), lab.low, lab.high)
    columns["dosage"] = rng.binomial(2, FREQUENCIES, (size, len(PANEL)))
    columns["lesion"] = np.clip(rng.normal(size=size), -2.2, 2.2)
    columns["risk"] = expit(log_odds(columns))
    columns["outcome"] = rng.random(size) < columns["risk"]
    for name in LABS:
        columns[f"seen {name}"] = rng.random(size) >= habit.missing
    columns["seen smoking"] = rng.random(size) >= habit.missing / 2
    sequenced = (rng.random((size, 1)) < habit.covered) & habit.genotypes
    columns["seen dosage"] = sequenced & (rng.random((size, len(PANEL))) >= habit.uncalled)
    pictures = rng.choice([1, 2, 3], size, p=[0.7, 0.2, 0.1]) * (rng.random(size) < habit.covered)
    columns["pictures"] = pictures * habit.images
    return columns


def _truth(drawn: list[dict[str, NDArray[Any]]], seed: int) -> Truth:
    everyone = {name: np.concatenate([columns[name] for columns in drawn]) for name in drawn[0]}
    hospitals = {f"hospital-{number}": columns for number, columns in enumerate(drawn, 1)}
    outcome, risk = everyone["outcome"], everyone["risk"]
    split = Study.read(STUDY).evaluation
    test = held_out(everyone["id"].tolist(), split.split_key, split.test_fraction)
    seen = {**_complete(everyone, MODALITIES), "lesion": everyone["pictures"] > 0}
    seen |= {name: everyone[f"seen {name}"] for name in (*LABS, "smoking", "dosage")}
    expected = _expected(everyone, seen, seed)
    sets = [some for count in (1, 2, 3) for some in combinations(MODALITIES, count)]
    ceilings = {"+".join(some): auc(outcome, _expected(everyone, _complete(everyone, some), seed)) for some in sets}
    return Truth(
        seed=seed,
        ids=tuple(everyone["id"].tolist()),
        sites=tuple(name for name, columns in hospitals.items() for _ in columns["id"]),
        outcome=outcome,
        held_out=test,
        risk=risk,
        expected=expected,
        best_auc=auc(outcome, risk),
        best_auc_held_out=auc(outcome[test], risk[test]),
        reachable_auc=auc(outcome, expected),
        reachable_auc_held_out=auc(outcome[test], expected[test]),
        ceilings=ceilings,
        prevalence={name: float(columns["outcome"].mean()) for name, columns in hospitals.items()},
        patients={name: len(columns["id"]) for name, columns in hospitals.items()},
    )


def _complete(columns: Columns, chosen: tuple[str, ...]) -> dict[str, Bools]:
    """Return what a predictor sees that has exactly these modalities, complete."""
    homes = dict.fromkeys(("age", "male", "smoking", *LABS), "clinical") | {"dosage": "genotype", "lesion": "image"}
    return {name: np.full(columns[name].shape, home in chosen) for name, home in homes.items()}


def _expected(columns: Columns, seen: Mapping[str, Bools], seed: int) -> Floats:
    """Average the risk over what is not seen, which comes from other patients of all hospitals.

    A predictor is not told the hospital. A hidden lab is the trend at the patient's age plus another's residual.
    """
    if all(bool(mask.all()) for mask in seen.values()):
        return np.asarray(columns["risk"], dtype=np.float64)
    rng = np.random.default_rng([seed, 0, 1])
    residuals = {name: columns[name] - _trend(lab, columns) for name, lab in LABS.items()}
    total = np.zeros(len(columns["risk"]))
    for _ in range(DRAWS):
        donor = rng.integers(len(total), size=len(total))
        guess = {name: np.where(mask, columns[name], columns[name][donor]) for name, mask in seen.items()}
        for name, lab in LABS.items():
            other = np.clip(_trend(lab, guess) + residuals[name][donor], lab.low, lab.high)
            guess[name] = np.where(seen[name], columns[name], other)
        total += expit(log_odds(guess))
    return total / DRAWS


def auc(outcome: Bools, score: Floats) -> float:
    """Return the area under the ROC curve; NaN when only one class is there."""
    events, others = int(outcome.sum()), int((~outcome).sum())
    pairs_won = rankdata(score)[outcome].sum() - events * (events + 1) / 2
    return float(pairs_won / (events * others)) if events and others else float("nan")


def _write(folder: Path, number: int, habit: Habits, columns: Columns, seed: int) -> None:
    folder.mkdir(parents=True)
    sources = {"patients": "patients.csv"}
    table = pd.DataFrame({"patient_id": columns["id"], "age": columns["age"].astype(int)})
    table["sex"] = np.where(columns["male"] == 1, "male", "female")
    for name, lab in LABS.items():
        text = [f"{value:.{lab.decimals}f}" for value in columns[name]]
        table[name] = np.where(columns[f"seen {name}"], text, "")
    table["smoking"] = np.where(columns["seen smoking"], np.array(SMOKING)[columns["smoking"]], "")
    table["event_5y"] = np.where(columns["outcome"], "yes", "no")
    _table(folder / "patients.csv", table)
    if habit.genotypes:
        sources["genotypes"] = "genotypes.csv"
        calls = pd.DataFrame({"patient_id": columns["id"]})
        for place, locus in enumerate(PANEL):
            words = np.array([f"{locus.ref}/{locus.ref}", f"{locus.ref}/{locus.alt}", f"{locus.alt}/{locus.alt}"])
            calls[locus.name] = np.where(columns["seen dosage"][:, place], words[columns["dosage"][:, place]], "")
        _table(folder / "genotypes.csv", calls.loc[np.flatnonzero(columns["seen dosage"].any(axis=1))])
    if habit.images:
        sources |= {"pictures": "images.csv", "images": "images"}
        (folder / "images").mkdir()
        owner = np.repeat(np.arange(len(columns["id"])), columns["pictures"])
        images = zip(columns["id"], columns["pictures"], strict=True)
        files = [f"{name}_{place}.png" for name, count in images for place in range(1, count + 1)]
        pixels = render(columns["lesion"][owner], habit, np.random.default_rng([seed, number, 2]))
        for file, picture in zip(files, pixels, strict=True):
            Image.fromarray(picture).save(folder / "images" / file)
        _table(folder / "images.csv", pd.DataFrame({"patient_id": columns["id"][owner], "file": files}))
    site = {
        "site": {"name": folder.name, "title": f"{habit.title} (virtual)"},
        "data": sources,
        "policy": POLICY,
    }
    (folder / "site.toml").write_text(tomli_w.dumps(site), encoding="utf-8", newline="\n")


def _table(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def render(lesion: Floats, habit: Habits, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one picture per burden (n,) as the hospital's scanner would: (n, 28, 28) grey values."""
    n, s = len(lesion), lesion[:, None, None]
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    centre = rng.uniform(11, 16, (2, n, 1, 1))
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    stretch = rng.uniform(0.85, 1.18, (n, 1, 1))  # of one axis; the other shrinks, so the area stays
    along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    across = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    distance = np.hypot(along / stretch, across * stretch)
    disc = expit((5.5 + 1.5 * s - distance) / 0.6)
    texture = gaussian_filter(rng.normal(size=(n, SIDE, SIDE)), (0, 2, 2))
    texture *= 0.35  # smoothing left a standard deviation of 0.16
    clean = texture + disc * (0.35 + 0.06 * s + 0.03 * rng.normal(size=(n, 1, 1)))
    seen = habit.brightness + habit.contrast * clean + habit.noise * rng.normal(size=(n, SIDE, SIDE))
    grey: NDArray[np.uint8] = np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8)
    return grey


SITES = VirtualSites(write_hospitals)

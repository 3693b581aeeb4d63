"""Five virtual hospitals as plain tables and PNG pictures; `law` says who their patients are.

A picture of a lesion is 28 x 28 pixels; the hospital's scanner sets brightness, contrast and noise. Because the law is
known, so is the best AUC any method can reach: see `Truth`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pmfed_simulations.hospitals.folders import VirtualSites, check_wishes, write_site, write_table, write_truth
from pmfed_simulations.hospitals.history import sizes
from pmfed_simulations.hospitals.model import SMOKING, Bools, Columns, Floats
from pmfed_simulations.hospitals.picture import Scene, draw_pictures
from pmfed_simulations.hospitals.truth import LAW_DRAW, Truth, joined, mean_auc, sets
from pmfed_simulations.studies.hospitals.law import PANEL, PROFILES, VALUES, Profile, draw_patients, log_odds, trend
from scipy.special import expit

from pmfed.study.draft import Draft, read_text

STUDY = Path(__file__).with_name("study.toml")
SCENE = Scene(28, (11, 16), (0.85, 1.18), radius=5.5, growth=1.5, edge=0.6, smooth=2, texture=0.35)
HOMES = {**dict.fromkeys(("age", "male", "smoking", *VALUES), "clinical"), "dosage": "genotype", "lesion": "image"}
DRAWS = 200  # of what a predictor does not see; moves an AUC by less than 0.002


def write_hospitals(out: Path, *, sites: int = 5, patients: int = 400, seed: int = 0) -> Truth:
    """Write virtual hospitals as the site folders real ones have, and say how well one could do on them.

    The same arguments give the same files, byte for byte. ``out/truth.json`` is written last.

    Parameters
    ----------
    out
        Folder to write to; new or empty, so that the patients of two seeds never mix.
    sites
        How many hospitals; beyond five the profiles of the first five come round again.
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
    check_wishes(out, sites, patients, seed)
    profiles = [PROFILES[number % len(PROFILES)] for number in range(sites)]
    counts = sizes([profile.weight for profile in profiles], patients)
    drawn = {
        f"hospital-{number}": draw_patients(number, profile, size, seed)
        for number, (profile, size) in enumerate(zip(profiles, counts, strict=True), 1)
    }
    truth = _truth(drawn, profiles, seed)
    for number, (profile, (name, columns)) in enumerate(zip(profiles, drawn.items(), strict=True), 1):
        _write(out / name, number, profile, columns, seed)
    write_truth(out, truth)
    return truth


def _truth(drawn: Mapping[str, Columns], profiles: list[Profile], seed: int) -> Truth:
    everyone = joined(list(drawn.values()))
    seen = {**_complete(everyone, tuple(HOMES.values())), "lesion": everyone["pictures"] > 0}
    seen |= {name: everyone[f"seen {name}"] for name in (*VALUES, "smoking", "dosage")}
    whole = sum(profile.weight for profile in profiles)
    others = [
        draw_patients(number, profile, round(LAW_DRAW * profile.weight / whole), seed + 1)["risk"]
        for number, profile in enumerate(profiles, 1)
    ]
    split = Draft.from_text(read_text(STUDY), STUDY.name).study.evaluation
    return Truth.of(
        seed,
        drawn,
        {name: len(columns["id"]) for name, columns in drawn.items()},
        (split.split_key, split.test_fraction),
        _expected(everyone, seen, seed),
        {
            "+".join(some): _expected(everyone, _complete(everyone, some), seed)
            for some in sets(tuple(dict.fromkeys(HOMES.values())))
        },
        mean_auc(np.concatenate(others)),
    )


def _complete(columns: Columns, chosen: tuple[str, ...]) -> dict[str, Bools]:
    """Return what a predictor sees that has exactly these modalities, complete."""
    return {name: np.full(columns[name].shape, home in chosen) for name, home in HOMES.items()}


def _expected(columns: Columns, seen: Mapping[str, Bools], seed: int) -> Floats:
    """Average the risk over what is not seen, which comes from other patients of all hospitals.

    A predictor is not told the hospital. A hidden value is the trend at the patient's age plus another's residual.
    """
    if all(bool(mask.all()) for mask in seen.values()):
        return np.asarray(columns["risk"], dtype=np.float64)
    rng = np.random.default_rng([seed, 0, 1])
    residuals = {name: columns[name] - trend(value, columns) for name, value in VALUES.items()}
    total = np.zeros(len(columns["risk"]))
    for _ in range(DRAWS):
        donor = rng.integers(len(total), size=len(total))
        guess = {name: np.where(mask, columns[name], columns[name][donor]) for name, mask in seen.items()}
        for name, value in VALUES.items():
            other = np.clip(trend(value, guess) + residuals[name][donor], value.low, value.high)
            guess[name] = np.where(seen[name], columns[name], other)
        total += expit(log_odds(guess))
    return total / DRAWS


def _write(folder: Path, number: int, profile: Profile, columns: Columns, seed: int) -> None:
    folder.mkdir(parents=True)
    sources = {"patients": "patients.csv"}
    table = pd.DataFrame({"patient_id": columns["id"], "age": columns["age"].astype(int)})
    table["sex"] = np.where(columns["male"] == 1, "male", "female")
    for name, value in VALUES.items():
        text = [f"{one:.{value.decimals}f}" for one in columns[name]]
        table[name] = np.where(columns[f"seen {name}"], text, "")
    table["smoking"] = np.where(columns["seen smoking"], np.array(SMOKING)[columns["smoking"]], "")
    table["event_5y"] = np.where(columns["outcome"], "yes", "no")
    write_table(folder / "patients.csv", table)
    if profile.genotypes:
        sources["genotypes"] = "genotypes.csv"
        calls = pd.DataFrame({"patient_id": columns["id"]})
        for place, locus in enumerate(PANEL):
            words = [
                f"{locus.other}/{locus.other}",
                f"{locus.other}/{locus.counted}",
                f"{locus.counted}/{locus.counted}",
            ]
            calls[locus.name] = np.where(
                columns["seen dosage"][:, place], np.array(words)[columns["dosage"][:, place]], ""
            )
        write_table(folder / "genotypes.csv", calls.loc[np.flatnonzero(columns["seen dosage"].any(axis=1))])
    if profile.images:
        sources |= {"pictures": "images.csv", "images": "images"}
        (folder / "images").mkdir()
        owner = np.repeat(np.arange(len(columns["id"])), columns["pictures"])
        images = zip(columns["id"], columns["pictures"], strict=True)
        files = [f"{name}_{place}.png" for name, count in images for place in range(1, count + 1)]
        pixels = render(columns["lesion"][owner], profile, np.random.default_rng([seed, number, 2]))
        for file, picture in zip(files, pixels, strict=True):
            Image.fromarray(picture).save(folder / "images" / file)
        write_table(folder / "images.csv", pd.DataFrame({"patient_id": columns["id"][owner], "file": files}))
    write_site(folder, profile.title, sources)


def render(lesion: Floats, profile: Profile, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one picture per burden (n,) as the hospital's scanner would: (n, 28, 28) grey values."""
    look = {"brightness": profile.brightness, "contrast": profile.contrast, "noise": profile.noise}
    shown = draw_pictures(lesion, np.ones(len(lesion), dtype=bool), SCENE, **look, rng=rng)
    grey: NDArray[np.uint8] = np.rint(255 * shown).astype(np.uint8)
    return grey


SITES = VirtualSites(write_hospitals)

"""Lesions whose masks are known, in three hospitals: from PNG files to a UNet, its Dice, its plan and its audit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image
from pmfed_client.agent.trainer import Trainer
from pmfed_client.site.site import read_sites
from small import scores

from pmfed.cohort import read_cohort
from pmfed.methods import plan_for
from pmfed.models import build, flatten
from pmfed.models.repair import check_private
from pmfed.privacy.noise import SeededSource
from pmfed.study import Study

SIDE = 16
STUDY = """\
[study]
name = "lesions"
title = "Where the lesion is"

[cohort]
table = "patients"
expected_patients = 96

[outcome]
column = "mask"
task = "segmentation"
folder = "masks"
classes = ["background", "lesion"]
values = [0, 255]
baseline = [0.85, 0.15]

[modalities.skin]
kind = "images"
table = "patients"
folder = "pictures"
size = [16, 16]

[model]
kind = "unet"
channels = [4, 8]

[training]
rounds = 25

[training.optimizer]
name = "adam"
learning_rate = 0.03

[training.augmentation]
multiplicity = 2
flip = ["horizontal", "vertical"]

[privacy]
epsilon = 8.0
delta = 1e-3
sampling_rate = 0.5
colluders = 0

[evaluation]
every = 25
per_site = true
"""
SITE = """\
[site]
name = "{name}"

[data]
patients = "patients.csv"
pictures = "pictures"
masks = "masks"

[policy]
min_patients = 20
epsilon = 8.5
delta = 1e-3
exact_metrics = true
per_site_metrics = true
"""


def write_sites(folder: Path, patients: int = 40) -> Path:
    """Write FOLDER/study.toml and three sites with bright round lesions of known outline; return FOLDER."""
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    down, across = np.mgrid[:SIDE, :SIDE]
    for number, name in enumerate(("north", "south", "west")):
        random = np.random.default_rng(number)
        place = folder / "sites" / name
        for part in ("pictures", "masks"):
            (place / part).mkdir(parents=True)
        (place / "site.toml").write_text(SITE.format(name=name), encoding="utf-8")
        rows = []
        for patient in range(patients):
            middle, radius = random.uniform(4, SIDE - 4, 2), random.uniform(2, 5)
            lesion = (down - middle[0]) ** 2 + (across - middle[1]) ** 2 < radius**2
            picture = np.clip(random.normal(90 + 80 * lesion, 15), 0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(place / "pictures" / f"{patient}.png")
            Image.fromarray((255 * lesion).astype(np.uint8)).save(place / "masks" / f"{patient}.png")
            rows.append((f"{name}-{patient}", f"{patient}.png", f"{patient}.png" if patient else ""))
        with (place / "patients.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("patient_id", "file", "mask"), *rows])
    return folder


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sites(tmp_path_factory.mktemp("lesions"))


@pytest.mark.slow
def test_a_federation_learns_where_the_lesions_are(pmfed: Command, fed: Path, tmp_path: Path) -> None:
    said = pmfed("simulate", fed / "study.toml", "--sites", fed / "sites", "--out", tmp_path / "run", "--workers", 1)
    assert said.code == 0, said.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    test = result["metrics"]["test"]
    assert result["metric"]["name"] == "dice"
    assert result["secure_aggregation"]
    assert result["privacy"]["epsilon"] <= 8.0
    assert test["dice"] > 0.6
    assert test["dice_low"] <= test["dice"] <= test["dice_high"]
    assert test["iou"] < test["dice"]
    assert set(result["metrics"]["per_site"]) == {"north", "south", "west"}
    assert sum(site["patients"] for site in result["sites"]) + sum(site["held_out"] for site in result["sites"]) >= 117
    # At the start it knows the public share of each class and finds nothing.
    study = Study.read(fed / "study.toml")
    cohort = read_cohort(study, (site := read_sites(fed / "sites")[0]).sources, site.name)
    assert cohort.patients == 39  # one has no mask
    trainer = Trainer(study, plan_for(study, 3), cohort, lambda *_: SeededSource(0, "x"))
    assert float(trainer.task.measure(scores(trainer, flatten(build(study))))["dice"]) < test["dice"] - 0.2


def test_the_model_trains_privately_and_masks_move_with_their_images(fed: Path) -> None:
    study = Study.read(fed / "study.toml")
    site = read_sites(fed / "sites")[1]
    cohort = read_cohort(study, site.sources, site.name)
    trainer = Trainer(study, plan_for(study, 3), cohort, lambda *_: SeededSource(0, "x"))
    batch = trainer.training.take(np.arange(4))
    check_private(build(study), (batch.inputs, batch.present))
    made = trainer.augment(trainer.training, np.random.default_rng(0).random(len(trainer.training.count)))
    pictures, masks = made.inputs["skin"][:, 0], made.targets.bool()
    assert len(masks) == 2 * len(trainer.training.owner)
    apart = [float(one[mask].mean() - one[~mask].mean()) for one, mask in zip(pictures, masks, strict=True)]
    assert min(apart) > 0.9 * 80 / 255 / 0.25 * 0.8  # the lesion is where its mask is, in every copy
    assert (made.targets[::2] != made.targets[1::2]).any()


@pytest.mark.slow
def test_plan_check_and_audit_know_masks(pmfed: Command, fed: Path) -> None:
    said = pmfed("study", "plan", fed / "study.toml", "--sites", 3)
    assert said.code == 0, said.err
    parameters = len(flatten(build(Study.read(fed / "study.toml"))))
    assert f"({parameters} parameters)" in " ".join(said.out.split())
    said = pmfed("site", "check", fed / "study.toml", fed / "sites" / "north")
    assert said.code == 0, said.err
    assert "any lesion" in said.out
    said = pmfed("audit", fed / "study.toml", "--sites", fed / "sites")
    assert said.code == 0, said.out + said.err
    assert "ALARM" not in said.out


WRONG = {
    "a linear model": ('kind = "unet"', 'kind = "linear"', "model.kind: 'unet' and a segmentation outcome go together"),
    "no folder": ('folder = "masks"\n', "", "a segmentation needs 'folder'"),
    "values": ("values = [0, 255]", "values = [0]", "'values' holds one number per class"),
    "one depth": ("channels = [4, 8]", "channels = [4]", "a unet needs two numbers or more"),
    "sides": ("size = [16, 16]", "size = [16, 15]", "16 x 15 do not divide by 2"),
    "table": ('table = "patients"\nfolder', 'table = "other"\nfolder', "are listed in the cohort's table, 'patients'"),
    "metric": ("every = 25", 'metric = "auroc"', "a segmentation outcome has dice, iou"),
}


@pytest.mark.parametrize(("old", "new", "words"), WRONG.values(), ids=WRONG)
def test_what_does_not_go_together_is_refused(pmfed: Command, tmp_path: Path, old: str, new: str, words: str) -> None:
    assert STUDY.count(old) == 1
    (tmp_path / "study.toml").write_text(STUDY.replace(old, new))
    said = pmfed("study", "check", tmp_path / "study.toml")
    assert said.code == 2
    assert words in " ".join(said.err.split())

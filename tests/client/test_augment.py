"""Augmentation: copies belong to their patient, know no other, are averaged before the clip, and cost no privacy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pmfed_client.agent.augment import NUMBERS, Augment, altered
from pmfed_client.agent.batch import Batch
from pmfed_client.agent.trainer import Trainer
from pmfed_simulations.auditing import Auditor
from pmfed_simulations.canaries import Silent
from small import AGE, small_study

from pmfed.cohort import Cohort
from pmfed.methods import plan_for
from pmfed.models import flatten
from pmfed.privacy.noise import SeededSource
from pmfed.privacy.sampling import poisson
from pmfed.study import Study
from pmfed.study.augmentation import Augmentation

PICTURE = {"kind": "images", "table": "patients", "folder": "files", "size": [8, 8]}
CLINICAL = {"kind": "table", "table": "patients", "features": AGE}
RULES = {"multiplicity": 3, "flip": ["horizontal", "vertical"], "rotate": 20, "zoom": 0.1, "intensity": 0.1}
ASKED = small_study(
    {"picture": PICTURE, "clinical": CLINICAL},
    cohort={"record": "visit", "expected_patients": 80},
    model={"kind": "fusion", "embedding": 4, "hidden": [4], "channels": [4]},
    training={"augmentation": RULES},
)


def cohort(patients: int = 20, seed: int = 0) -> Cohort:
    """Return patients with one to three records each; about a third of the records have no picture."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    seen = random.random(len(owner)) > 0.3
    pictures = random.normal(size=(len(owner), 1, 8, 8)).astype(np.float32)
    return Cohort(
        ids=tuple(f"p{number:03d}" for number in range(patients)),
        owner=owner,
        training=np.ones(patients, dtype=bool),
        inputs={"picture": pictures * seen[:, None, None, None],
                "clinical": random.normal(size=(len(owner), 1)).astype(np.float32)},
        present={"picture": seen, "clinical": np.ones(len(owner), dtype=bool)},
        targets=random.integers(0, 2, len(owner)).astype(np.float32),
    )  # fmt: skip


def trainer(study: Study = ASKED, patients: Cohort | None = None, sites: int = 2) -> Trainer:
    return Trainer(study, plan_for(study, sites), patients or cohort(), lambda *_: SeededSource(0, "site"))


def seeds(units: int) -> np.ndarray:
    return np.random.default_rng(5).random(units)


def test_every_record_becomes_copies_of_the_same_patient() -> None:
    batch = trainer().training
    made = Augment(ASKED)(batch, seeds(20))
    assert np.array_equal(made.owner, np.repeat(batch.owner, 3))
    assert np.array_equal(made.count, 3 * batch.count)
    assert all(
        (made.owner[f : f + c] == unit).all() for unit, (f, c) in enumerate(zip(made.first, made.count, strict=True))
    )
    for name in ("picture", "clinical"):
        assert torch.equal(made.present[name], batch.present[name].repeat_interleave(3))
    assert torch.equal(made.inputs["clinical"], batch.inputs["clinical"].repeat_interleave(3, 0))
    assert torch.equal(made.targets, batch.targets.repeat_interleave(3))
    pictures, seen = made.inputs["picture"], made.present["picture"]
    assert not pictures[~seen].any()
    apart = pictures[seen].reshape(-1, 3, 64)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (apart[:, one] - apart[:, other]).abs().amax(1).min() > 1e-3  # all copies differ, of every record
    assert torch.equal(batch.inputs["picture"], trainer().training.inputs["picture"])  # the cohort stays as it was


def test_flips_only_move_pixels() -> None:
    flips = ASKED.replace(training={"augmentation": {"multiplicity": 16, "flip": ["horizontal"]}})
    batch = trainer().training
    made = Augment(flips)(batch, seeds(20)).inputs["picture"].reshape(-1, 16, 1, 8, 8)
    plain = batch.inputs["picture"][:, None]
    same, mirrored = ((made == one).flatten(2).all(2) for one in (plain, plain.flip(-1)))
    assert (same | mirrored).all()
    share = float(same[batch.present["picture"]].double().mean())
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 4, 9, 7)])
def test_what_moves_pixels_moves_images_and_masks_alike(shape: tuple[int, ...]) -> None:
    rules = Augmentation(multiplicity=1, flip=["horizontal", "vertical"], rotate=90, zoom=0.3, intensity=0.2)
    random = np.random.default_rng(0)
    chance = random.random((40, NUMBERS))
    blocks = torch.zeros(40, *shape)
    blocks[..., 2:5, 1:6] = 1
    masks = altered(rules, blocks[:, :1], chance, nearest=True)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    moved = altered(rules.model_copy(update={"intensity": 0.0}), blocks, chance)
    assert ((moved[:, :1] > 0.5) == (masks > 0.5)).double().mean() > 0.97  # up to rounding at the edge
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 20
    shifted = altered(rules, blocks, chance)
    assert 0.05 < (shifted - moved).abs().amax(tuple(range(1, moved.ndim))).mean() < 0.4


def test_a_right_angle_turns_exactly_and_in_the_plane_of_a_slice() -> None:
    rules = Augmentation(multiplicity=1, rotate=90)
    chance = np.full((1, NUMBERS), 1.0)
    volume = torch.randn(1, 1, 3, 6, 6)
    made = altered(rules, volume, chance)
    turned = [volume.rot90(k, (-2, -1)) for k in (1, -1)]
    assert any(torch.allclose(made, one, atol=1e-5) for one in turned)
    assert torch.allclose(altered(rules, volume, np.full((1, NUMBERS), 0.5)), volume, atol=1e-6)


def test_without_augmentation_a_batch_stays_as_it_is() -> None:
    plain = ASKED.replace(training={"augmentation": None})
    batch = trainer().training
    source = SeededSource(0, "site")
    augment = Augment(plain)
    assert augment(batch, augment.seeds(20, source)) is batch
    assert source.uniform(3).tolist() == SeededSource(0, "site").uniform(3).tolist()  # nothing was drawn


def test_a_patients_copies_know_no_other_patient() -> None:
    batch, own = trainer().training, seeds(20)
    augment = Augment(ASKED)
    together = augment(batch, own).inputs["picture"]
    for unit in (0, 7, 19):
        alone = augment(batch.take(np.array([unit])), own[[unit]])
        start = 3 * batch.first[unit]
        assert torch.equal(alone.inputs["picture"], together[start : start + len(alone.owner)])


def test_a_patients_copies_do_not_hang_on_who_else_is_drawn() -> None:
    few, all_of = (trainer(), trainer())
    all_of.mechanism = replace(few.mechanism, sampling_rate=1.0)
    some, everybody = (one.sampled(one.training, SeededSource(3, "site")) for one in (few, all_of))
    assert 3 < len(some.count) < len(everybody.count) == 20
    chosen = poisson(20, few.mechanism.sampling_rate, after(SeededSource(3, "site"), 20))
    theirs = np.isin(everybody.owner, chosen)
    assert torch.equal(some.inputs["picture"], everybody.inputs["picture"][theirs])


def after(source: SeededSource, seeds: int) -> SeededSource:
    """Return a source that has given its seeds."""
    source.uniform(seeds)
    return source


def test_copies_are_averaged_before_the_clip_and_a_patient_weighs_no_more_than_the_clip() -> None:
    one = trainer()
    batch, own = one.training, seeds(20)
    clip = one.mechanism.bound

    def total(units: list[int]) -> np.ndarray:
        made = one.augment(batch.take(np.array(units)), own[units])
        return one.private.clipped_sum(made.inputs, made.present, made.targets, made.owner).vector

    wide = replace(one.plan, mechanisms=(replace(one.mechanism, bound=1e6),))
    loose = Trainer(ASKED, wide, cohort(), one.draw)
    for unit in (0, 3):
        made = one.augment(batch.take(np.array([unit])), own[[unit]])
        every = [
            loose.private.clipped_sum(
                *({k: v[i : i + 1] for k, v in part.items()} for part in (made.inputs, made.present)),
                made.targets[i : i + 1], np.zeros(1, dtype=np.int64),
            ).vector
            for i in range(len(made.owner))
        ]  # fmt: skip
        mean = np.mean(every, axis=0)
        expected = mean * min(1, clip / np.linalg.norm(mean))
        np.testing.assert_allclose(total([unit]), expected, rtol=1e-3, atol=1e-5)
        # Below the clip a sum of copies would show, too.
        whole = loose.private.clipped_sum(made.inputs, made.present, made.targets, made.owner).vector
        np.testing.assert_allclose(whole, mean, rtol=1e-3, atol=1e-5)
    everybody = list(range(20))
    for unit in (0, 3, 19):
        change = np.linalg.norm(total(everybody) - total([u for u in everybody if u != unit]))
        assert change <= clip * (1 + 1e-5)


def test_a_step_augments_whom_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer()
    met: list[Batch] = []
    real = one.private.release

    def release(inputs, present, targets, owner, *more):  # type: ignore[no-untyped-def]
        met.append(Batch(inputs, present, targets, owner, owner, owner))
        return real(inputs, present, targets, owner, *more)

    monkeypatch.setattr(one.private, "release", release)
    monkeypatch.setattr(one, "draw", lambda *_: Silent())  # everybody is drawn
    one.step(flatten(one.model), 2, 1, 0)
    assert len(met[0].owner) == 3 * len(one.cohort.owner)
    assert not torch.equal(met[0].inputs["picture"][::3], one.training.inputs["picture"])


def test_the_audit_knows_the_copies_and_the_modalities_left_out() -> None:
    auditor = Auditor(
        ASKED.replace(training={"modality_dropout": 0.3}), [cohort(30, 1), cohort(30, 2)], np.random.default_rng(0)
    )
    found = auditor.noise()
    assert "noise around patients" in {check.name for check in found}
    assert all(check.passed for check in found), [(c.name, c.found) for c in found if not c.passed]


WRONG = {
    "nothing": ({"multiplicity": 4}, "name at least one of 'flip', 'rotate', 'zoom' and 'intensity'"),
    "depth of a picture": ({"flip": ["depth"]}, "flip 'depth' belongs to volumes"),
    "twice": ({"flip": ["vertical", "vertical"]}, "names an axis twice"),
}


@pytest.mark.parametrize(("keys", "words"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ASKED.replace(training={"augmentation": keys})


def test_a_study_without_images_has_nothing_to_alter() -> None:
    with pytest.raises(ValueError, match=r"training.augmentation: the study has no images to alter"):
        small_study({"clinical": CLINICAL}, training={"augmentation": RULES})

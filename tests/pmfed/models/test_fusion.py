"""Fusion: what late fusion cannot see and intermediate can; parts that nobody at a site has get nothing but noise."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pmfed_client.agent.trainer import Trainer
from pmfed_simulations.studies import find_study
from pydantic import ValidationError
from small import scores

from pmfed.cohort import Cohort
from pmfed.methods import plan_for
from pmfed.models import build, flatten
from pmfed.models.fusion import Fusion
from pmfed.privacy.noise import SecretSource, SeededSource
from pmfed.queries.gradient import step_of
from pmfed.study import Study

STUDY = find_study("hospitals").replace(recalibration=None, model={"channels": [2, 4], "hidden": [4], "embedding": 4})
SITES = 5
FUSIONS = pytest.mark.parametrize("fusion", ["late", "intermediate"])


def cohort(study: Study, patients: int, lacking: tuple[str, ...] = (), seed: int = 0) -> Cohort:
    """Return invented training patients of two records each, some of which lack a modality; all lack some."""
    random, records = np.random.default_rng(seed), 2 * patients
    present = {name: (random.random(records) > 0.3) & (name not in lacking) for name in study.modalities}
    inputs = {}
    for name, modality in study.modalities.items():
        values = random.normal(size=(records, *modality.shape)).astype(np.float32)
        inputs[name] = values * present[name].reshape(-1, *[1] * (values.ndim - 1))
    return Cohort(
        ids=tuple(f"{number:04d}" for number in range(patients)),
        owner=np.repeat(np.arange(patients), 2),
        training=np.ones(patients, bool),
        inputs=inputs,
        present=present,
        targets=(random.random(records) > 0.6).astype(np.float32),
    )


def parts(study: Study) -> dict[str, slice]:
    """Return where in a flat vector each parameter lies."""
    found, start = {}, 0
    for name, parameter in build(study).named_parameters():
        found[name] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return found


def moved(study: Study) -> Any:
    """Return weights away from the start, where embeddings of what is missing are zero."""
    start = flatten(build(study))
    return start + np.random.default_rng(3).normal(0, 0.2, len(start)).astype(np.float32)


@FUSIONS
def test_only_intermediate_fusion_lets_modalities_depend_on_each_other(fusion: str) -> None:
    study = STUDY.replace(model={"fusion": fusion})
    model, one, other = build(study), cohort(study, 6), cohort(study, 6, seed=1)
    everything = {name: torch.ones(12, dtype=torch.bool) for name in study.modalities}

    def output(clinical: Cohort, image: Cohort) -> torch.Tensor:
        chosen = {"clinical": clinical, "genotype": one, "image": image}
        inputs = {name: torch.from_numpy(chosen[name].inputs[name]) for name in study.modalities}
        return model(inputs, everything)

    with torch.no_grad():
        apart = output(one, one) - output(other, one) - output(one, other) + output(other, other)
    assert torch.allclose(apart, torch.zeros_like(apart), atol=1e-6) == (fusion == "late")


@pytest.mark.slow
@FUSIONS
def test_a_hospital_without_images_adds_exactly_zero_and_its_noise_to_their_encoder(fusion: str) -> None:
    study = STUDY.replace(model={"fusion": fusion}, privacy={"sampling_rate": 1.0})
    plan = plan_for(study, SITES)
    held = cohort(study, 40, lacking=("image",))
    where, sent = parts(study), moved(study)
    images = [slice_ for name, slice_ in where.items() if name.startswith("encoders.image")]
    assert sum(part.stop - part.start for part in images) > 100

    bare = Trainer(study, plan, held, lambda *_: SecretSource())
    bare.step(sent, SITES, 1, 0)  # loads the weights
    batch = bare.training
    exact = bare.private.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner).vector
    for part in images:
        assert not exact[part].any()  # not small: zero
    for name in ("missing.image", "missing.genotype", "encoders.clinical.0.weight", "head.weight"):
        assert exact[where[name]].any(), name  # the rest learns, also what stands in for the image

    grid = step_of(study).grid(SITES)
    steps = [bare.step(sent, SITES, round, 0) for round in range(1, 61)]
    released = np.concatenate([grid.decode(step)[part] for step in steps for part in images])
    std = plan["step"].noise_std(SITES)
    assert abs(released.mean()) < 5 * std / np.sqrt(len(released))
    assert abs(released.std() / std - 1) < 5 / np.sqrt(2 * len(released))

    # And with known randomness: the very noise, and nothing else.
    known = Trainer(study, plan, held, lambda *_: SeededSource(7)).step(sent, SITES, 1, 0)
    source = SeededSource(7)
    source.uniform(held.patients)
    noise = source.gaussian(len(sent), std)
    for part in images:
        np.testing.assert_allclose(grid.decode(known)[part], noise[part], atol=grid.unit)


def dropped(chance: float, patients: int = 60) -> list[dict[str, torch.Tensor]]:
    """Return what was present in the steps of a trainer, as the model saw it, by its private step."""
    study = STUDY.replace(training={"modality_dropout": chance}, privacy={"sampling_rate": 1.0})
    held = cohort(study, patients)
    trainer = Trainer(study, plan_for(study, SITES), held, lambda *_: SecretSource())
    seen: list[dict[str, torch.Tensor]] = []
    release = trainer.private.release

    def watched(inputs: Any, present: Any, *rest: Any) -> Any:
        seen.append(present)
        return release(inputs, present, *rest)

    trainer.private.release = watched  # type: ignore[method-assign]
    for round in range(4):
        trainer.step(moved(study), SITES, round, 0)
    return seen


def test_modalities_are_dropped_patient_by_patient_and_anew_in_every_step() -> None:
    held = cohort(STUDY, 60)
    count = total = 0
    for present in dropped(0.4):
        for name, there in present.items():
            before = held.present[name].reshape(-1, 2)
            after = there.numpy().reshape(-1, 2)
            assert not (after & ~before).any()  # nothing is there that was not
            gone = before.any(axis=1) & ~after.any(axis=1)
            assert (after == before * ~gone[:, None]).all()  # all records of a patient, or none
            count, total = count + int(gone.sum()), total + int(before.any(axis=1).sum())
    assert abs(count / total - 0.4) < 5 * np.sqrt(0.24 / total)
    first, second = dropped(0.4)[:2]
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for present in dropped(0.0):
        assert all(np.array_equal(there.numpy(), held.present[name]) for name, there in present.items())


def test_each_modality_is_dropped_by_a_draw_of_its_own() -> None:
    """That one is dropped says nothing of another: both go as often as chance has it."""
    had = {name: there.reshape(-1, 2).any(axis=1) for name, there in cohort(STUDY, 200).present.items()}
    steps = [
        {name: had[name] & ~there.numpy().reshape(-1, 2).any(axis=1) for name, there in present.items()}
        for present in dropped(0.4, 200)
    ]
    for one, other in itertools.combinations(sorted(STUDY.modalities), 2):
        both = np.concatenate([(gone[one] & gone[other])[had[one] & had[other]] for gone in steps])
        assert len(both) > 500
        assert abs(both.mean() - 0.16) < 5 * np.sqrt(0.16 * 0.84 / len(both))


def test_evaluation_sees_every_modality() -> None:
    held = cohort(STUDY, 60)
    held = held.with_training(np.arange(60) % 2 == 0)
    found = []
    for chance in (0.0, 0.9):
        study = STUDY.replace(training={"modality_dropout": chance})
        site = Trainer(study, plan_for(study, SITES), held, lambda *_: SecretSource())
        found.append(scores(site, moved(study)))
    assert found[0].any()
    np.testing.assert_array_equal(*found)


@FUSIONS
def test_one_patient_changes_a_sum_by_the_clip_at_most(fusion: str) -> None:
    study = STUDY.replace(model={"fusion": fusion}, training={"modality_dropout": 0.3}, privacy={"clip": 0.5})
    held = cohort(study, 12)
    for name in held.inputs:
        held.inputs[name][:2] = 1e6  # the first patient's
        held.present[name][:2] = True
    trainer = Trainer(study, plan_for(study, SITES), held, lambda *_: SecretSource())
    trainer.step(moved(study), SITES, 1, 0)
    assert isinstance(trainer.model, Fusion)
    all_of, others = trainer.training.take(np.arange(12)), trainer.training.take(np.arange(1, 12))
    sums = [
        trainer.private.clipped_sum(part.inputs, part.present, part.targets, part.owner).vector
        for part in (all_of, others)
    ]
    assert 0 < np.linalg.norm(sums[0] - sums[1]) <= 0.5 * (1 + 1e-4)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"model\.fusion: a linear model"):
        find_study("digits").replace(model={"fusion": "intermediate"})
    with pytest.raises(ValidationError, match=r"training\.modality_dropout: without its only modality"):
        find_study("digits").replace(training={"modality_dropout": 0.1})

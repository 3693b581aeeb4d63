"""Augmentation: several altered copies of each drawn record, averaged with their patient's records before the clip.

A step draws patients, then `Augment` turns each of their records into ``multiplicity`` copies with the same owner, and the
engine averages a patient's records as it always does (De et al. 2022, "augmentation multiplicity"). Nothing else
knows about it: clip, noise and accounting stay what they are.

How views plug in: a modality whose inputs were computed beforehand for V views per record (features of a frozen network) keeps
them as inputs (R, V, ...). `Augment.__call__` is the place that chooses: for such a modality take, for each copy, one of the V
views by that copy's own `numbers`, instead of calling `altered`; the inputs are then (R * multiplicity, ...), as for
images. `altered` is what makes the views beforehand, with numbers of their own.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pmfed.privacy.noise import Source
from pmfed.study import Study
from pmfed.study.augmentation import Augmentation
from pmfed_client.agent.batch import Batch

Floats = npt.NDArray[np.float64]

NUMBERS = 9  # random numbers that one copy takes: three flips, an angle, three stretches, a factor, a shift


class Augment:
    """The augmentation of a study; without one a batch stays as it is.

    Guarantee
    ---------
    The copies of a unit depend on its own records and its own seed and on nothing of another unit, so that a unit more or
    less changes the sum by at most the clip, as without augmentation.
    """

    def __init__(self, study: Study) -> None:
        self.rules = study.training.augmentation
        self.masks = study.outcome.masks is not None
        self.images = [name for name, modality in sorted(study.modalities.items()) if len(modality.shape) > 2]

    def seeds(self, units: int, source: Source) -> Floats:
        """Return a seed in [0, 1) for every unit of the site, drawn or not: nobody's depends on who else is drawn."""
        return np.zeros(units) if self.rules is None else source.uniform(units)

    def __call__(self, batch: Batch, seeds: Floats) -> Batch:
        """Return the batch's copies.

        Parameters
        ----------
        batch
            Drawn units.
        seeds
            (units,), theirs.
        """
        if self.rules is None or len(batch.owner) == 0:
            return batch
        copies = batch.copies(self.rules.multiplicity)
        inputs, targets = dict(copies.inputs), copies.targets
        for place, name in enumerate(self.images):
            if name in inputs:
                chance = numbers(seeds, copies.count, place)
                if self.masks:  # of its only modality
                    targets = altered(self.rules, targets[:, None].float(), chance, nearest=True)[:, 0].to(torch.uint8)
                made = altered(self.rules, inputs[name], chance)
                seen = copies.present[name].view(-1, *[1] * (made.ndim - 1))
                inputs[name] = torch.where(seen, made, inputs[name])
        return Batch(inputs, copies.present, targets, copies.owner, copies.first, copies.count)


def numbers(seeds: Floats, count: npt.NDArray[np.int64], place: int) -> Floats:
    """Return what decides about every copy, (copies, NUMBERS) in [0, 1): each unit's from its seed alone.

    Parameters
    ----------
    seeds, count
        (units,), seed and number of copies of each.
    place
        Which modality it is for.
    """
    own = [
        np.random.default_rng([int(seed * 2**53), place]).random((copies, NUMBERS))
        for seed, copies in zip(seeds, count, strict=True)
    ]
    return np.concatenate(own)


def altered(rules: Augmentation, images: Tensor, chance: Floats, *, nearest: bool = False) -> Tensor:
    """Return images altered, each by its own numbers.

    MONAI's random transforms take milliseconds for each small picture; its batched resampling takes all at once.

    Parameters
    ----------
    rules
        What may happen.
    images : (N, C, H, W) or (N, C, D, H, W)
    chance : (N, NUMBERS)
        From `numbers`; the same ones move an image and its mask alike.
    nearest
        These are masks: pixels move, values stay.
    """
    axes = images.ndim - 2
    made = images
    for place, name in enumerate(("horizontal", "vertical", "depth")):
        if name in rules.flip:
            mirror = torch.from_numpy(chance[:, place] < 0.5).view(-1, *[1] * (images.ndim - 1))
            made = torch.where(mirror, made.flip(-1 - place), made)
    if rules.rotate or rules.zoom:
        layers: Any = importlib.import_module("monai.networks.layers")
        move = layers.AffineTransform(
            mode="nearest" if nearest else "bilinear", padding_mode="border", align_corners=False, zero_centered=True
        )
        made = move(made, torch.from_numpy(_moves(rules, chance, axes)).to(made.dtype))
    if rules.intensity and not nearest:
        factor, shift = (torch.from_numpy(rules.intensity * (2 * chance[:, k] - 1)).to(made.dtype) for k in (7, 8))
        made = made * (1 + factor.view(-1, *[1] * (axes + 1))) + shift.view(-1, *[1] * (axes + 1))
    return made


def _moves(rules: Augmentation, chance: Floats, axes: int) -> Floats:
    """Return matrices (N, axes + 1, axes + 1) from a copy's pixels to those of its image, around the middle."""
    angle = math.radians(rules.rotate) * (2 * chance[:, 3] - 1)
    turn = np.tile(np.eye(axes + 1), (len(chance), 1, 1))
    down, across = axes - 2, axes - 1
    turn[:, down, down] = turn[:, across, across] = np.cos(angle)
    turn[:, across, down] = np.sin(angle)
    turn[:, down, across] = -turn[:, across, down]
    stretch = np.ones((len(chance), axes + 1))
    stretch[:, :axes] = 1 / (1 + rules.zoom * (2 * chance[:, 4 : 4 + axes] - 1))
    return turn * stretch[:, None, :]

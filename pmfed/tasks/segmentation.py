"""A class per pixel: Dice and cross-entropy of each record's own pixels; Dice and IoU per patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmfed.study.outcomes.segmentation import SegmentationOutcome
from pmfed.tasks.losses import log_shares
from pmfed.tasks.scores import ratio
from pmfed.tasks.surfaces import drawn_means, surface_figures
from pmfed.tasks.task import Floats, Metric, mean_of_known, one_hot, redraw

BINS = 100  # of a record's Dice
COARSE = 8
SMOOTH = 1.0  # pixels added to both sides of the soft Dice, so that an empty mask has one


class Segmentation:
    """One output per class and pixel; the first class is the background.

    A record without any pixel of a class, true or predicted, says nothing about that class.
    """

    def __init__(self, outcome: SegmentationOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.bins = COARSE if coarse else BINS
        self.classes = outcome.classes
        count = len(outcome.classes)
        self.shares = outcome.shares
        self.found = count - 1
        self.cap, self.tolerance = outcome.cap, outcome.tolerance
        surfaces = 0 if self.cap is None else 4  # surface Dice and HD95 with their squares
        # Dice, IoU, and Dice as a histogram, of each class but the background
        self.width = 2 + self.bins + surfaces
        self.cells = self.found * self.width
        self.histogram = slice(2, 2 + self.bins)
        self.sensitivity = float(np.sqrt((3 + surfaces) * self.found))  # so many parts of each class, each at most 1
        self.details = (
            *(Metric(f"iou_{name}", f"IoU of {name}", True) for name in self.classes[1:] if count > 2),
            *(self._surface_metrics if surfaces else ()),
        )

    @property
    def _surface_metrics(self) -> tuple[Metric, ...]:
        near, apart = (
            f"surface Dice within {self.tolerance:g} pixels",
            f"95th percentile distance (pixels, up to {self.cap:g})",
        )
        names = self.classes[1:] if self.found > 1 else ()
        return (
            Metric("surface_dice", near, True),
            Metric("hd95", apart, False),
            *(Metric(f"surface_dice_{name}", f"{near}, {name}", True) for name in names),
            *(Metric(f"hd95_{name}", f"{apart}, {name}", False) for name in names),
        )

    def bias(self) -> torch.Tensor:
        return torch.log(torch.tensor(self.shares, dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.uint8))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return cross-entropy plus 1 - soft Dice (Milletari et al. 2016) over each record's own pixels."""
        classes = torch.arange(outputs.shape[1], device=outputs.device).view(1, -1, *[1] * (outputs.ndim - 2))
        truth = (targets[:, None] == classes).to(outputs.dtype).flatten(2)
        logs = log_shares(outputs.flatten(2))
        entropy = -(truth * logs).sum(1).mean(1)
        shares = logs.exp()
        both, either = (truth * shares).sum(2), truth.sum(2) + shares.sum(2)
        dice = (2 * both + SMOOTH) / (either + SMOOTH)
        return entropy + 1 - dice[:, 1:].mean(1)

    def recalibrator(self) -> None:
        return None

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        predicted = outputs.argmax(axis=1).reshape(len(outputs), -1)
        truth = np.asarray(values).reshape(len(outputs), -1)
        parts = []
        for place in range(1, len(self.classes)):
            there, said = truth == place, predicted == place
            both, either = (there & said).sum(axis=1), there.sum(axis=1) + said.sum(axis=1)
            known = either > 0
            dice = np.where(known, 2 * both / np.maximum(either, 1), 0.0)
            overlap = np.where(known, both / np.maximum(either - both, 1), 0.0)
            bins = np.minimum((dice * self.bins).astype(np.int64), self.bins - 1)
            part = [dice, overlap, known[:, None] * one_hot(bins, self.bins)]
            if self.cap is not None:
                part.append(self._surfaces(np.asarray(values) == place, outputs.argmax(axis=1) == place, known))
            parts.append(np.column_stack(part))
        return np.concatenate(parts, axis=1)

    def _surfaces(self, truth: npt.NDArray[Any], said: npt.NDArray[Any], known: npt.NDArray[Any]) -> Floats:
        """Return surface Dice and HD95 of each record with their squares, (B, 4); zeros where a class is in neither mask."""
        assert self.cap is not None
        found = np.zeros((len(truth), 4))
        for record in np.flatnonzero(known):
            near, apart = surface_figures(truth[record], said[record], self.tolerance, self.cap)
            found[record] = near, near**2, apart, apart**2
        return found

    def measure(self, total: Floats) -> dict[str, Floats]:
        parts = total.reshape(*total.shape[:-1], self.found, self.width)
        count = parts[..., self.histogram].sum(axis=-1)
        dice, overlap = (np.clip(ratio(parts[..., k], count), 0.0, 1.0) for k in (0, 1))  # noise can pass the ends
        own = {f"dice_{name}": dice[..., k] for k, name in enumerate(self.classes[1:])} if self.found > 1 else {}
        return {"dice": mean_of_known(dice), "iou": mean_of_known(overlap), **own}

    def detail(self, total: Floats) -> dict[str, Floats]:
        if not self.details:
            return {}
        parts = total.reshape(*total.shape[:-1], self.found, self.width)
        count, several = parts[..., self.histogram].sum(axis=-1), self.found > 1
        overlap = np.clip(ratio(parts[..., 1], count), 0.0, 1.0)
        found = {f"iou_{name}": overlap[..., place] for place, name in enumerate(self.classes[1:]) if several}
        if self.cap is None:
            return found
        for name, column, unit in (("surface_dice", -4, 1.0), ("hd95", -2, self.cap)):
            each = unit * np.clip(ratio(parts[..., column], count), 0.0, 1.0)
            found[name] = mean_of_known(each)
            found |= {f"{name}_{one}": each[..., place] for place, one in enumerate(self.classes[1:]) if several}
        return found

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        drawn = np.zeros((draws, self.found, self.width))
        middle = (np.arange(self.bins) + 0.5) / self.bins
        for place, part in enumerate(total.reshape(self.found, self.width)):
            cells = part[self.histogram]
            drawn[:, place, self.histogram] = picked = redraw(cells, draws, random)
            # Within a bin figures are taken for its middle; the offset makes the mean over all draws the exact one.
            for column, figures in ((0, middle), (1, middle / (2 - middle))):
                offset = (part[column] - cells @ figures) / max(cells.sum(), 1e-9)
                drawn[:, place, column] = picked @ figures + picked.sum(axis=1) * offset
            for column in () if self.cap is None else (-4, -2):
                drawn[:, place, column] = drawn_means(
                    picked.sum(axis=1), part[column], part[column + 1], float(cells.sum()), random
                )
        return drawn.reshape(draws, self.cells)

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        return {}

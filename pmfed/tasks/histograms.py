"""Histograms of several yes-or-no predictions about the same patients: each patient in one cell of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pmfed.tasks.task import Floats, one_hot, redraw

BINS = 200  # of the logit
COARSE = 10  # when cells carry noise: it adds up over the cells a metric reads
LOGITS = 10.0


class Histograms:
    """``count`` histograms of logits by what happened, (count, 2, bins) in a row."""

    def __init__(self, count: int, coarse: bool) -> None:
        self.count, self.bins = count, COARSE if coarse else BINS
        self.cells = count * 2 * self.bins
        self.logits = (np.arange(self.bins) + 0.5) / self.bins * 2 * LOGITS - LOGITS

    def rows(self, outputs: Floats, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Return what each record adds, (B, cells), from logits, truth and what is known of it (all unless given), each (B, count)."""
        scaled = (np.clip(outputs, -LOGITS, LOGITS) + LOGITS) / (2 * LOGITS)
        bins = np.minimum((scaled * self.bins).astype(np.int64), self.bins - 1) + self.bins * truth
        parts = [one_hot(bins[:, place], 2 * self.bins) for place in range(self.count)]
        if known is not None:
            parts = [part * known[:, [place]] for place, part in enumerate(parts)]
        return np.concatenate(parts, axis=1)

    def parts(self, total: Floats) -> tuple[Floats, Floats]:
        """Return patients without and with each, (..., count, bins); what noise carried below zero stays."""
        whole = total.reshape(*total.shape[:-1], self.count, 2, self.bins)
        return whole[..., 0, :], whole[..., 1, :]

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        """Draw as many patients again, (draws, cells), each histogram by itself: no metric reads two together."""
        parts = total.reshape(self.count, 2 * self.bins)
        return np.concatenate([redraw(part, draws, random) for part in parts], axis=1)

"""Time to an event, with patients who leave before it: discrete-time hazards, concordance, Brier score, calibration.

The public ``intervals`` cut time into pieces; the model gives the logit of the hazard in each, the chance of the event
there for a patient who came so far (Brown 1975, Biometrics 31:863; Gensheimer and Narasimhan 2019, PeerJ 7:e6257).
The loss is the negative log-likelihood of the pieces a patient lived through, so unlike Cox's partial likelihood, whose
risk sets are other patients, it belongs to one patient alone and can be clipped.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import logsigmoid

from pmfed.recalibration import Hazards
from pmfed.study.outcomes.survival import SurvivalOutcome
from pmfed.tasks.scores import ratio
from pmfed.tasks.task import Floats, Metric, nonnegative, one_hot, redraw

PARTS, SCORES = 12, 120  # time bins per interval, and bins of the risk
COARSE = (2, 6)  # both, when cells carry noise
LOWEST, HIGHEST = -7.0, 2.0  # of the log cumulative hazard by the horizon: risks from 0.1 % to 99.9 %
FEW = 0.05  # nothing is told of times that a smaller share of the patients reaches under observation


class Survival:
    """One output per interval: the logit of its hazard. Outcomes are pairs (time, event), shape (B, 2).

    Who is still watched at the last boundary counts as alive there, whatever came after it.
    """

    details: ClassVar[tuple[Metric, ...]] = (
        Metric("observed_risk", "observed risk by the horizon (Kaplan-Meier)", False),
        Metric("expected_risk", "predicted risk by the horizon", False),
        Metric("oe", "observed / expected risk (1 is right)", True),
    )
    # One cell of the histogram, and up to `intervals` squared errors that are divided by their root.
    sensitivity = float(np.sqrt(2))

    def __init__(self, outcome: SurvivalOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.parts, self.scores = COARSE if coarse else (PARTS, SCORES)
        self.ends = np.array(outcome.intervals, dtype=np.float64)
        self.starts = np.append(0.0, self.ends[:-1])
        self.at = outcome.intervals.index(outcome.until)
        self.hazards = outcome.hazard
        # Ends of the time bins; the last bin, from the last boundary on, has none.
        steps = np.arange(1, self.parts + 1) / self.parts
        self.edges = (self.starts[:, None] + (self.ends - self.starts)[:, None] * steps).ravel()
        self.times = len(self.edges) + 1
        self.counted = self.scores * self.times * 2  # cells of the histogram; squared errors follow
        self.cells = self.counted + len(self.ends) * self.times
        self.histogram = slice(0, self.counted)

    def bias(self) -> torch.Tensor:
        return torch.logit(torch.tensor(self.hazards, dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Return per interval whether it was lived through, and whether the event came in it: (B, 2, intervals).

        Who left within an interval lived through it if more than half of it was watched (Gensheimer and Narasimhan).
        """
        time, event = self._outcomes(values)
        failed = event[:, None] & (self.starts <= time[:, None]) & (time[:, None] < self.ends)
        watched = np.where(event[:, None], self.ends, (self.starts + self.ends) / 2) <= time[:, None]
        return torch.from_numpy(np.stack([watched, failed], axis=1).astype(np.float32))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # In the negative log-likelihood a piece counts if it was lived through, or if the event came in it.
        return -(logsigmoid(-outputs) * targets[:, 0] + logsigmoid(outputs) * targets[:, 1]).sum(dim=1)

    def recalibrator(self) -> Hazards:
        return Hazards(self.hazards, self.at, lambda values: self.targets(values).numpy())

    def predict(self, outputs: Floats) -> Floats:
        """Return the chance to be alive at every boundary, (B, intervals)."""
        return np.asarray(np.exp(-_cumulative(outputs)), dtype=np.float64)

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        time, event = self._outcomes(values)
        event = event & (time < self.ends[-1])
        when = np.searchsorted(self.edges, time, side="right")
        scaled = (np.log(np.maximum(_cumulative(outputs)[:, self.at], 1e-30)) - LOWEST) / (HIGHEST - LOWEST)
        score = (np.clip(scaled, 0, 1 - 1e-9) * self.scores).astype(np.int64)
        # Squared errors at every boundary, in the time bin that says how many such patients left unseen: that of the
        # event, or for those alive the last one. Who left before a boundary says nothing there.
        alive = self.predict(outputs)
        squares = np.zeros((len(time), len(self.ends), self.times))
        boundary = (np.arange(len(self.ends)) + 1) * self.parts
        past = when[:, None] >= boundary
        squares[:, :, -1] = (1 - alive) ** 2 * past
        squares[np.arange(len(time)), :, np.minimum(when, self.times - 2)] += alive**2 * (event[:, None] & ~past)
        return np.concatenate(
            [
                one_hot((score * self.times + when) * 2 + event, self.counted),
                squares.reshape(len(time), -1) / np.sqrt(len(self.ends)),
            ],
            axis=1,
        )

    def measure(self, total: Floats) -> dict[str, Floats]:
        counts, squares = self._parts(total)
        left, died = counts.sum(axis=-3)[..., 0], counts.sum(axis=-3)[..., 1]
        patients = (left + died).sum(axis=-1)
        risk, seen = self._predicted_and_seen(counts)
        found = {
            "c_index": concordance(counts[..., 0], counts[..., 1]),
            "integrated_brier": self._integrated(squares, left, died, patients),
            "calibration_gap": np.abs(risk - seen),
        }
        # Noise can carry a share past its ends.
        return {name: np.clip(value, 0.0, 1.0) for name, value in found.items()}

    def detail(self, total: Floats) -> dict[str, Floats]:
        risk, seen = self._predicted_and_seen(self._parts(total)[0])
        return {"observed_risk": seen, "expected_risk": risk, "oe": ratio(seen, risk)}

    def _predicted_and_seen(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return the mean predicted risk by the horizon, and Kaplan-Meier's."""
        patients = counts.sum(axis=(-3, -2, -1))
        risk = ratio((counts.sum(axis=(-2, -1)) * _risks(self.scores)).sum(axis=-1), patients)
        left, died = counts.sum(axis=-3)[..., 0], counts.sum(axis=-3)[..., 1]
        return risk, np.where(patients > 0, 1 - self._at_horizon(kaplan_meier(left, died)), np.nan)

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        cells = nonnegative(total[: self.counted])
        drawn = np.zeros((draws, self.cells))
        drawn[:, : self.counted] = redraw(cells, draws, random)
        before, squares = self._parts(np.append(cells, total[self.counted :]))
        after, _ = self._parts(drawn)
        # Squared errors follow the patients drawn, by what their risk would make them if hazards were proportional.
        alive = self._supposed(before)
        squared = self._squared(after, alive) * ratio(squares, self._squared(before, alive))
        drawn[:, self.counted :] = np.nan_to_num(squared).reshape(draws, -1) / np.sqrt(len(self.ends))
        return drawn

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        counts, _ = self._parts(np.append(nonnegative(total[: self.counted]), total[self.counted :]))
        if counts.sum() < 1:
            return {}
        calibration, survival = [], []
        for count, risk, left, died in self._groups(counts, 5):
            watched = _at_risk(left + died)[self._bin + 1]
            if watched < max(1.0, FEW * count):
                continue  # too few were watched until the horizon to say what became of them
            seen = float(1 - self._at_horizon(kaplan_meier(left, died)))
            known = _effective(left, died, self._bin)
            calibration.append({"predicted": risk, "observed": seen, "count": count, "effective": known})
        for count, risk, left, died in self._groups(counts, 3):
            watched = _at_risk(left + died)
            told = watched >= max(1.0, FEW * count)
            curve = kaplan_meier(left, died)[told][: len(self.edges)]
            points = [[0.0, 1.0], *([float(t), float(s)] for t, s in zip(self.edges, curve, strict=False))]
            survival.append({"predicted": risk, "count": count, "points": points})
        return {
            "calibration": calibration,
            "survival": {"horizon": float(self.ends[self.at]), "groups": survival},
        }

    @property
    def _bin(self) -> int:
        """The last time bin before the horizon."""
        return (self.at + 1) * self.parts - 1

    @staticmethod
    def _outcomes(values: npt.NDArray[Any]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        return np.asarray(values[:, 0], dtype=np.float64), np.asarray(values[:, 1]) > 0.5

    def _at_horizon(self, alive: Floats) -> Floats:
        return np.asarray(alive[..., self._bin], dtype=np.float64)

    def _parts(self, total: Floats) -> tuple[Floats, Floats]:
        """Return patients (..., score, time, event) and squared errors (..., boundary, time)."""
        shape = total.shape[:-1]
        counts = total[..., : self.counted].reshape(*shape, self.scores, self.times, 2)
        squares = total[..., self.counted :].reshape(*shape, len(self.ends), self.times)
        return counts, squares * np.sqrt(len(self.ends))

    def _supposed(self, counts: Floats) -> Floats:
        """Return the chance to be alive at every boundary for patients of each risk, (score, boundary)."""
        boundary = (np.arange(len(self.ends)) + 1) * self.parts
        curve = kaplan_meier(counts[..., 0].sum(axis=0), counts[..., 1].sum(axis=0))[boundary - 1]
        hazard = -np.log(np.maximum(curve, 1e-6))
        share = hazard / hazard[self.at] if hazard[self.at] > 0 else self.ends / self.ends[self.at]
        return np.asarray((1 - _risks(self.scores))[:, None] ** share, dtype=np.float64)

    def _squared(self, counts: Floats, alive: Floats) -> Floats:
        """Return the sums of squared errors (..., boundary, time) of patients whose chances are ``alive``."""
        boundary = (np.arange(len(self.ends)) + 1) * self.parts
        squared = np.einsum("...st,sb->...bt", counts[..., 1], alive**2) * (np.arange(self.times) < boundary[:, None])
        there = _at_risk(counts.sum(axis=-1))[..., boundary]
        squared[..., -1] = (there * (1 - alive) ** 2).sum(axis=-2)
        return np.asarray(squared, dtype=np.float64)

    def _integrated(self, squares: Floats, left: Floats, died: Floats, patients: Floats) -> Floats:
        """Return the mean over time of the Brier score, patients who left made up for by those who stayed.

        Weights are the inverse of the chance to be still watched (Graf et al. 1999, Statistics in Medicine 18:2529),
        between the first boundary and the last that enough patients reach under observation.
        """
        watched = _watched(left, died)
        boundary = (np.arange(len(self.ends)) + 1) * self.parts
        weight = np.broadcast_to(ratio(1.0, watched)[..., None, :], squares.shape).copy()
        weight[..., -1] = ratio(1.0, watched[..., boundary - 1])
        score = ratio((squares * np.nan_to_num(weight)).sum(axis=-1), patients[..., None])
        reached = ratio(_at_risk(left + died)[..., boundary], patients[..., None]) >= FEW
        told = np.cumprod(reached, axis=-1)
        length = np.diff(self.ends) * told[..., 1:]
        whole = (length * (score[..., 1:] + score[..., :-1]) / 2).sum(axis=-1)
        alone = np.where(told[..., 0] > 0, score[..., 0], np.nan)
        return np.where(length.sum(axis=-1) > 0, ratio(whole, length.sum(axis=-1)), alone)

    def _groups(self, counts: Floats, most: int) -> list[tuple[float, float, Floats, Floats]]:
        """Return groups of about equally many patients by rising risk: count, mean risk, who left, who died."""
        sizes = counts.sum(axis=(-2, -1))
        group = np.minimum((most * (np.cumsum(sizes) - sizes / 2) / sizes.sum()).astype(int), most - 1)
        found = []
        for index in range(most):
            here = counts[group == index]
            if (size := float(here.sum())) >= 1:
                risk = float((sizes * _risks(self.scores))[group == index].sum() / size)
                found.append((size, risk, here[..., 0].sum(axis=0), here[..., 1].sum(axis=0)))
        return found


def concordance(left: Floats, died: Floats) -> Floats:
    """Return the share of comparable pairs whom the risk orders rightly (Harrell et al. 1982), ties counted half.

    Parameters
    ----------
    left, died
        Patients (..., score, time) by rising risk and time: those who left unseen, those with the event.

    Notes
    -----
    A pair is comparable when the event of one came while the other was still watched; at equal times events come first.
    Sums are not cut off at zero: no cell meets itself in a product, so noise in them takes no side.
    """
    every = tuple(range(died.ndim - 2))
    scores = (left + died).any(axis=(*every, died.ndim - 1))
    times = (left + died).any(axis=(*every, died.ndim - 2))
    left, died = (part[..., scores, :][..., times] for part in (left, died))
    both = left + died
    later = _at_risk(both) - died
    below = np.cumsum(later, axis=-2) - later
    wins = (died * (below + 0.5 * later)).sum(axis=(-2, -1))
    return ratio(wins, (died * later.sum(axis=-2, keepdims=True)).sum(axis=(-2, -1)))


def kaplan_meier(left: Floats, died: Floats) -> Floats:
    """Return the chance to be alive after each time bin, (..., time); events come before departures."""
    return np.asarray(np.cumprod(1 - _share(died, _at_risk(left + died)), axis=-1), dtype=np.float64)


def _effective(left: Floats, died: Floats, upto: int) -> float:
    """Return how many patients without censoring would know the risk by a time bin as well: Greenwood's variance."""
    watched = _at_risk(left + died)
    alive = float(kaplan_meier(left, died)[upto])
    variance = float(_share(died, watched * (watched - died))[: upto + 1].sum()) * alive**2
    return alive * (1 - alive) / variance if variance > 0 else float(watched[upto + 1])


def _watched(left: Floats, died: Floats) -> Floats:
    """Return the chance not to have left by the end of each time bin, (..., time)."""
    return np.asarray(np.cumprod(1 - _share(left, _at_risk(left + died) - died), axis=-1), dtype=np.float64)


def _at_risk(both: Floats) -> Floats:
    """Return how many patients are there at the start of each time bin, (..., time)."""
    return np.asarray(np.cumsum(both[..., ::-1], axis=-1)[..., ::-1], dtype=np.float64)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.clip(np.nan_to_num(ratio(part, whole)), 0.0, 1.0), dtype=np.float64)


def _cumulative(outputs: Floats) -> Floats:
    """Return the cumulative hazard at every boundary, -log of the chance to be alive."""
    return np.asarray(np.cumsum(np.logaddexp(0.0, outputs), axis=1), dtype=np.float64)


def _risks(scores: int) -> Floats:
    """Return the risk by the horizon in the middle of every bin."""
    middle = LOWEST + (np.arange(scores) + 0.5) / scores * (HIGHEST - LOWEST)
    return np.asarray(-np.expm1(-np.exp(middle)), dtype=np.float64)

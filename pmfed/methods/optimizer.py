"""The coordinator's step on the averaged gradient, and the average of the last models.

Everything here works on vectors the sites have already made private: post-processing, free of charge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pmfed.errors import StudyError
from pmfed.stored import Stored, parts
from pmfed.study.training import Training

Vector = npt.NDArray[np.float32]
Ask = Callable[[slice], npt.NDArray[np.float64]]
"""Gives a part of a vector; nobody holds all of it in float64."""

MOMENTS = {"sgd": (), "momentum": ("first",), "adam": ("first", "second"), "yogi": ("first", "second")}
ADAPTIVITY = {"fedsgd": (0.999, 1e-8), "fedavg": (0.99, 1e-3)}
"""How long squares are remembered, and what is added to their root: Kingma and Ba's, Reddi et al.'s for models."""


class ServerOptimizer:
    """SGD, momentum (Polyak 1964), Adam (Kingma and Ba 2015) or Yogi (Zaheer et al. 2018), with the mean of the last iterates.

    Its vectors lie in files and are worked on a part at a time: they are needed for a moment in each round.

    Parameters
    ----------
    training
        The study's ``[training]``.
    start
        The initial parameters, shape (parameters,).
    folder
        Where its files lie.
    intercept
        Which of them are the output's own constants, (parameters,): they go ``optimizer.intercept`` times as far. None
        when not given.

    Notes
    -----
    Averaging the iterates of the last half of the steps takes out much of the privacy noise (Polyak and Juditsky
    1992; for DP-SGD: De et al. 2022).
    """

    def __init__(
        self, training: Training, start: Vector, folder: Path, intercept: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.training, self.folder = training, folder
        self._intercept = intercept
        self.step_count = self.averaged = 0
        needed = ("control",) if training.control_variates else MOMENTS[training.optimizer.name]
        self._stored = {name: Stored(folder, len(start), np.float32) for name in ("parameters", *needed)}
        self._stored["parameters"][:] = start

    @property
    def parameters(self) -> Stored:
        """The last model."""
        return self._stored["parameters"]

    @property
    def control(self) -> Stored | None:
        """The mean slope of all sites' last local steps, where sites correct theirs by it."""
        return self._stored.get("control")

    @property
    def _stride(self) -> float:
        """How far a site goes in one round down a slope of 1."""
        assert self.training.local_learning_rate is not None
        return self.training.local_steps * self.training.local_learning_rate

    def step(self, gradient: Ask) -> None:
        """Take one step down the gradient, (parameters,)."""
        self.step_count += 1
        for part in parts(len(self.parameters)):
            way = self._way(part, gradient(part).astype(np.float32))
            if self._intercept is not None:
                way[self._intercept[part]] *= np.float32(self.training.optimizer.intercept)
            self._put(part, self.parameters[part] - way)
        self.averaged += self._averages

    def replace(self, change: Ask) -> None:
        """Add the mean of the sites' model changes (fedavg), or take an adaptive step that way (FedAdam, FedYogi).

        With control variates the mean step of all sites is kept: the slope that each site's next steps are brought back to.
        """
        if not self.training.averages_models:
            self.step(lambda part: -change(part))
            return
        self.step_count += 1
        for part in parts(len(self.parameters)):
            moved = change(part).astype(np.float32)
            self._put(part, self.parameters[part] + moved)
            if self.control is not None:
                self.control[part] = -moved / np.float32(self._stride)
        self.averaged += self._averages

    def _way(self, part: slice, slope: Vector) -> Vector:
        """Return how far down to go along a slope."""
        spec, stored = self.training.optimizer, self._stored
        rate = np.float32(spec.learning_rate)
        if spec.name == "sgd":
            return rate * slope
        if spec.name == "momentum":
            stored["first"][part] = first = np.float32(spec.momentum) * stored["first"][part] + slope
            return rate * first
        remembered, root = ADAPTIVITY[self.training.algorithm]
        b1, b2 = np.float32(spec.momentum), np.float32(remembered)
        stored["first"][part] = first = b1 * stored["first"][part] + (1 - b1) * slope
        squares = stored["second"][part]
        if spec.name == "yogi":
            second = squares - (1 - b2) * np.sign(squares - slope**2) * slope**2
        else:
            second = b2 * squares + (1 - b2) * slope**2
        stored["second"][part] = second
        mean = first / (1 - b1**self.step_count)
        spread = np.sqrt(second / (1 - b2**self.step_count)) + np.float32(root)
        way: Vector = rate * mean / spread
        return way

    def _put(self, part: slice, moved: Vector) -> None:
        if not np.isfinite(moved).all():
            key = "local_learning_rate" if self.training.averages_models else "optimizer.learning_rate"
            raise StudyError(
                f"training.{key}: the model is no longer finite after step {self.step_count}: the training diverged.",
                "Lower it. What was charged stays charged.",
            )
        self.parameters[part] = moved
        if self._averages:
            if "total" not in self._stored:
                self._stored["total"] = Stored(self.folder, len(self.parameters), np.float64)
            self._stored["total"][part] = self._stored["total"][part] + moved

    @property
    def _averages(self) -> bool:
        """Whether the model of this step counts in the average."""
        return self.step_count > self.training.rounds * (1 - self.training.average_last)

    @property
    def result(self) -> Vector:
        """The model to use now: the mean of the last iterates once there are any, else the last."""
        found: Vector = np.empty(len(self.parameters), np.float32)
        for part in parts(len(found)):
            found[part] = self._stored["total"][part] / self.averaged if self.averaged else self.parameters[part]
        return found

    def state(self) -> dict[str, Stored | npt.NDArray[Any]]:
        """Return everything that resuming needs."""
        return {**self._stored, "counts": np.array([self.step_count, self.averaged], dtype=np.int64)}

    def restore(self, state: Mapping[str, Stored]) -> None:
        """Take up a state that `state` gave, and go on in its vectors."""
        self._stored = {name: state[name] for name in (*self._stored, "total") if name in state}
        self.step_count, self.averaged = (int(count) for count in state["counts"][:])

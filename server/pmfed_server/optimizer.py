"""The coordinator's step on the averaged gradient, and the average of the last models.

Everything here works on vectors the sites have already made private: post-processing, free of charge.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pmfed.sections.training import Training

Vector = npt.NDArray[np.float32]


class ServerOptimizer:
    """SGD, momentum (Polyak 1964) or Adam (Kingma and Ba 2015), with the mean of the last iterates.

    Parameters
    ----------
    training
        The study's ``[training]``.
    start
        The initial parameters, shape (parameters,).

    Notes
    -----
    Averaging the iterates of the last half of the steps takes out much of the privacy noise (Polyak and Juditsky
    1992; for DP-SGD: De et al. 2022).
    """

    def __init__(self, training: Training, start: Vector) -> None:
        self.training = training
        self.parameters = start.astype(np.float32).copy()
        self.step_count = 0
        self.first = np.zeros_like(self.parameters)
        self.second = np.zeros_like(self.parameters)
        self.total = np.zeros(len(self.parameters), dtype=np.float64)
        self.averaged = 0

    def step(self, gradient: npt.NDArray[np.float64]) -> None:
        """Take one step down the gradient, shape (parameters,)."""
        spec = self.training.optimizer
        slope = gradient.astype(np.float32)
        self.step_count += 1
        rate = np.float32(spec.learning_rate)
        if spec.name == "sgd":
            self.parameters -= rate * slope
        elif spec.name == "momentum":
            self.first = np.float32(spec.momentum) * self.first + slope
            self.parameters -= rate * self.first
        else:
            b1, b2 = np.float32(spec.momentum), np.float32(0.999)
            self.first = b1 * self.first + (1 - b1) * slope
            self.second = b2 * self.second + (1 - b2) * slope**2
            mean = self.first / (1 - b1**self.step_count)
            spread = np.sqrt(self.second / (1 - b2**self.step_count)) + np.float32(1e-8)
            self.parameters -= rate * mean / spread
        if self.step_count > self.training.rounds * (1 - self.training.average_last):
            self.total += self.parameters
            self.averaged += 1

    def replace(self, change: npt.NDArray[np.float64]) -> None:
        """Add the mean of the sites' model changes (fedavg): a step of rate 1 without momentum."""
        self.parameters = self.parameters + change.astype(np.float32)
        self.step_count += 1
        if self.step_count > self.training.rounds * (1 - self.training.average_last):
            self.total += self.parameters
            self.averaged += 1

    @property
    def result(self) -> Vector:
        """The model to use now: the mean of the last iterates once there are any, else the last."""
        if self.averaged == 0:
            return self.parameters.copy()
        return (self.total / self.averaged).astype(np.float32)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything that resuming needs, as arrays."""
        return {
            "parameters": self.parameters,
            "first": self.first,
            "second": self.second,
            "total": self.total,
            "counts": np.array([self.step_count, self.averaged], dtype=np.int64),
        }

    def restore(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take up a state that `state` gave."""
        self.parameters = state["parameters"].astype(np.float32)
        self.first = state["first"].astype(np.float32)
        self.second = state["second"].astype(np.float32)
        self.total = state["total"].astype(np.float64)
        self.step_count, self.averaged = (int(count) for count in state["counts"])

"""What a hospital has of its own: parts of the model that never leave it, or a whole model beside the common one.

Both live in the site's folder, under the run's id, and nothing here returns anything that travels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from pmfed.errors import DataError, StudyError
from pmfed.models import build, flatten, load, named
from pmfed.models.parts import stay_mask
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.noise import Source
from pmfed.privacy.precision import Precision
from pmfed.study import Study
from pmfed.study.personal import Ditto
from pmfed.tasks import task_for
from pmfed_client.agent.batch import Batch

Vector = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


class Shelf:
    """Where a site keeps what is its own in one run.

    ``RUN.safetensors`` is the finished model, a tensor per parameter as in the coordinator's model.safetensors.
    ``RUN.state.safetensors`` is what training goes on from after a restart; it is gone once the run is finished.

    Parameters
    ----------
    folder
        The site's folder for such models; made when something is first kept.
    run
        The run's id.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.model = folder / f"{run}.safetensors"
        self._state = folder / f"{run}.state.safetensors"

    def keep(self, study: Study, model: nn.Module, vector: Vector, statistics: Vector) -> None:
        """Write a whole model, with the means and scales its inputs are scaled by."""
        tensors: dict[str, npt.NDArray[Any]] = named(model, vector)
        if len(statistics):
            tensors["statistics"] = statistics.copy()
        _write(self.model, save(tensors, {"study": study.canonical()}))

    def store(self, values: Values, total: Values, progress: dict[str, int]) -> None:
        """Write what training goes on from, durably."""
        _write(self._state, save({"values": values, "total": total}, {"progress": json.dumps(progress)}))

    def restore(self, size: int) -> tuple[Values, Values, dict[str, int]] | None:
        """Return what `store` was given last; None when nothing was.

        Raises
        ------
        DataError
            The file is not one of ours, or of another model.
        """
        if not self._state.exists():
            return None
        try:
            with safe_open(self._state, framework="numpy") as file:
                values, total = file.get_tensor("values"), file.get_tensor("total")
                progress = json.loads(file.metadata()["progress"])
            if not all(part.dtype == np.float64 and part.shape == (size,) for part in (values, total)):
                raise ValueError
            return values, total, {name: int(progress[name]) for name in ("round", "averaged")}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise DataError(
                f"{self._state}: what this site has of its own in the run cannot be read.",
                "Remove the file: it then begins anew. What was charged stays charged.",
            ) from None

    def clear(self) -> None:
        """Forget what training would go on from; the finished model stays."""
        self._state.unlink(missing_ok=True)


class Parts:
    """The parameters of a study's model that stay at this site; often none.

    Parameters
    ----------
    study, model
        The study, and the model its trainer trains.
    step
        The mechanism of the common steps: rate and sites, for the public divisor.
    shelf
        Where they outlive a restart; None in a process that only scores.

    Guarantee
    ---------
    `learn` only looks at values that carry the mechanism's ``local_std`` already.
    """

    def __init__(self, study: Study, model: nn.Module, step: Mechanism, shelf: Shelf | None) -> None:
        self.study, self._model, self._shelf = study, model, shelf
        self.mask = stay_mask(study, model)
        self._values = flatten(model)[self.mask].astype(np.float64)
        self._total = np.zeros_like(self._values)
        self._averaged = 0
        self._expected = expected(study, step, step.sites)
        if study.parts is not None and shelf is not None and (found := shelf.restore(len(self._values))):
            self._values, self._total, self._averaged = found[0], found[1], found[2]["averaged"]

    def join(self, shared: Vector, *, mean: bool = False) -> Vector:
        """Return the whole model, (parameters,); ``mean`` takes the mean of the last rounds once there is one."""
        whole = np.empty(len(self.mask), np.float32)
        whole[~self.mask] = shared
        whole[self.mask] = self._total / self._averaged if mean and self._averaged else self._values
        return whole

    def learn(self, noisy: Values, round: int) -> None:
        """Take one step down what a private step released about these parameters, and keep it."""
        if self.study.parts is None:
            return
        self._values = self._values - self.study.parts.learning_rate / self._expected * noisy
        if round > self.study.training.rounds * (1 - self.study.training.average_last):
            self._total = self._total + self._values
            self._averaged += 1
        if self._shelf:
            self._shelf.store(self._values, self._total, {"round": round, "averaged": self._averaged})

    def keep(self, whole: Vector, statistics: Vector) -> None:
        """Keep the whole model as it was just scored."""
        if self.study.parts is not None and self._shelf:
            self._shelf.keep(self.study, self._model, whole, statistics)


class Own:
    """A model of this site's own: fine-tuned after the last round, or trained beside every round (Ditto).

    Parameters
    ----------
    study
        A study with ``tuned``.
    steps
        The mechanism of the site's own steps, which the ledger was charged by.
    sites
        That enrolled: what a site divides by is public.
    shelf
        Where the model and its state are kept.
    device, precision
        Where it trains, and what its layers round to there.

    Guarantee
    ---------
    Every step is DP-SGD on patients sampled afresh, with one clip per patient and the whole noise added here. The pull
    towards the common model, the mean of the last steps and all else look at no patient. The caller charges `due` steps
    before it calls `learn`. What was learned is on the disk before `learn` returns, and is not learned again.
    """

    def __init__(
        self,
        study: Study,
        steps: Mechanism,
        sites: int,
        shelf: Shelf,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        precision: Precision = "float32",
    ) -> None:
        assert study.tuned is not None
        self.study, self.how, self._shelf = study, study.tuned, shelf
        self.model = build(study).to(device)
        self._private = PrivateStep(self.model, task_for(study).loss, steps, precision=precision)
        self._expected = expected(study, steps, sites)
        self._values, self._total = np.zeros(self._private.size), np.zeros(self._private.size)
        self._round = self._averaged = 0
        if found := shelf.restore(self._private.size):
            self._values, self._total = found[:2]
            self._round, self._averaged = found[2]["round"], found[2]["averaged"]

    def due(self, query: str, round: int) -> int:
        """Return how many noisy steps ride along with the answer to a query: each round's, or the one fine-tuning, once."""
        if isinstance(self.how, Ditto):
            return self.how.steps if query == "step" and round > self._round else 0
        return self.how.steps if query == "personal-evaluation" and self._round == 0 else 0

    def learn(self, common: Vector, sampled: Callable[[], Batch], source: Source, round: int) -> None:
        """Take the steps that are due, from the common model or beside it.

        Parameters
        ----------
        common
            The common model of this moment, (parameters,).
        sampled
            Draws the site's training patients of one step, at the plan's rate.
        source
            Randomness of the noise.
        round
            Which round the coordinator says it is.
        """
        how, training = self.how, self.study.training
        centre = common.astype(np.float64)
        values = centre if self._round == 0 else self._values
        total, averaged = self._total, self._averaged
        last = 1 - training.average_last
        for step in range(1, how.steps + 1):
            slope = self._noisy_sum(values, sampled(), source) / self._expected
            if isinstance(how, Ditto):
                slope = slope + how.proximal * (values - centre)
            values = values - how.learning_rate * slope
            if round > last * training.rounds if isinstance(how, Ditto) else step > last * how.steps:
                total, averaged = total + values, averaged + 1
        self._shelf.store(values, total, {"round": max(1, round), "averaged": averaged})
        self._values, self._total, self._round, self._averaged = values, total, max(1, round), averaged

    def result(self, common: Vector, statistics: Vector) -> Vector:
        """Return the model of this site's own, and keep it; the common one when nothing was learned.

        Raises
        ------
        StudyError
            It diverged.
        """
        values = self._total / self._averaged if self._averaged else self._values
        found: Vector = values.astype(np.float32) if self._round else common
        if not np.isfinite(found).all():
            raise StudyError(
                "personal.learning_rate: the site's own model is not finite. Nothing was released.", "Lower it."
            )
        self._shelf.keep(self.study, self.model, found, statistics)
        return found

    def _noisy_sum(self, values: Values, drawn: Batch, source: Source) -> Values:
        load(self.model, values.astype(np.float32))
        return self._private.release(drawn.inputs, drawn.present, drawn.targets, drawn.owner, source).vector


def expected(study: Study, mechanism: Mechanism, sites: int) -> float:
    """Return what a site's own sums are divided by: public, whatever the site's true size."""
    return mechanism.sampling_rate * study.cohort.expected_patients / sites


def _write(path: Path, data: bytes) -> None:
    """Write a file for its owner alone, so that a crash leaves the old one or the new one."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)

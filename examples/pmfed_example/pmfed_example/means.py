"""A method: the mean of every input of a study's rows of numbers, from one noised sum."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pmfed.file_io import replace_file
from pmfed.methods.method import Ask, DecodedSum, Method, Section, Vectors
from pmfed.privacy.mechanism import Role
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.query import Floats, Query, RowSum, SitePatients
from pmfed.stored import Stored
from pmfed.study import Study
from pmfed.study.method import PluginMethod


class MeansMethod(PluginMethod):
    """``kind = "means"``: what ``[method]`` may say. ``most`` is the largest value of an input that counts."""

    kind: Literal["means"] = "means"
    most: float = 1.0


class Sums(RowSum):
    """One, and every input, of a patient: the mean over the patient's records."""

    name: ClassVar[str] = "means"
    whose: ClassVar[Role] = "all"

    @property
    def names(self) -> list[str]:
        """The inputs, as the sum has them."""
        return [f"{name}.{one}" for name, inputs in self.study.inputs.items() for one in inputs]

    @property
    def most(self) -> float:
        """The largest value of an input that counts."""
        assert isinstance(self.study.method, MeansMethod)
        return self.study.method.most

    @property
    def size(self) -> int:
        return 1 + len(self.names)

    @property
    def bound(self) -> float:
        return math.sqrt(1 + len(self.names) * self.most**2)

    @property
    def grid_unit(self) -> float:
        return 2.0**-10

    @property
    def label(self) -> str:
        return "means of all inputs"

    def leaves(self) -> str:
        return "means of all inputs"  # pmfed shows its own words instead

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        cohort = patients.cohort  # pmfed lends one patient at a time
        blocks = [cohort.inputs[name].reshape(cohort.records, -1) for name in self.study.inputs]
        inputs = np.clip(np.concatenate(blocks, axis=1, dtype=np.float64), -self.most, self.most)
        yield np.concatenate([[1.0], inputs.mean(axis=0)])[None, :]


class Means(Method):
    """The method: one question, one division."""

    kind: ClassVar[str] = "means"
    keys: ClassVar[type[PluginMethod]] = MeansMethod

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        self.query = Sums(study)
        self.total: Floats | None = None

    @staticmethod
    def queries(study: Study) -> tuple[Query, ...]:
        return (Sums(study),)

    def next(self) -> Ask | None:
        return Ask(self.query, 0) if self.total is None else None

    def take(self, ask: Ask, answer: DecodedSum) -> None:
        self.total = answer.total

    def result(self, plan: PrivacyPlan) -> dict[str, Any]:
        assert self.total is not None
        patients = max(float(self.total[0]), 1.0)
        means = [round(float(value) / patients, 4) for value in self.total[1:]]
        return {"patients": round(patients, 1), "means": dict(zip(self.query.names, means, strict=True))}

    def write(self) -> None:
        assert self.total is not None
        told = {"study": self.study.fingerprint(), "sums": np.round(self.total, 4).tolist()}
        replace_file(self.folder / "means.json", (json.dumps(told) + "\n").encode())

    @classmethod
    def sections(cls, result: Mapping[str, Any]) -> list[Section]:
        rows = tuple((name, f"{value:.3f}") for name, value in result["means"].items())
        return [Section("Means", "On the scale of the inputs, with the noise of the release.", ("input", "mean"), rows)]

    def state(self) -> Vectors:
        return {} if self.total is None else {"total": self.total}

    def restore(self, state: Mapping[str, Stored]) -> None:
        if "total" in state:
            self.total = state["total"][:]

"""Several findings at once, each there or not: what a report of an ECG or an X-ray names."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pmfed.study.counted import Counted, OneOf
from pmfed.study.outcome import Bools, Columns, Floats, Link, Metric, Outcome
from pmfed.study.outcomes.classes import misspelled


class MultilabelOutcome(Outcome):
    """``task = "multilabel"``: which of ``labels`` a patient has; ``baseline`` are their prevalences.

    Without ``column`` each label is a column of its own with one of two ``classes``, negative first; an empty cell says
    that nobody looked, and the patient teaches nothing about that label. With ``column`` its cells list the labels that
    are there, between ``separator``; words that are ``ignored`` may stand there and are none of the labels.
    """

    column: str = ""
    task: Literal["multilabel"] = "multilabel"
    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ("0", "1")
    separator: str = Field(default=";", min_length=1)
    ignored: tuple[str, ...] = ()

    scored_by: ClassVar[str] = "pmfed.tasks.multilabel:Multilabel"
    link: ClassVar[Link] = "labels"

    @model_validator(mode="after")
    def _fits(self) -> MultilabelOutcome:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("a multilabel outcome needs 'labels', two or more, none of them twice")
        if why := misspelled(self.task, self.classes, exactly=2):
            raise ValueError(why)
        if not self.column and self.ignored:
            raise ValueError("'ignored' goes with 'column', whose cells list the labels")
        if self.column and any(self.separator in word for word in (*self.labels, *self.ignored)):
            raise ValueError("'separator' stands in a label or in a word that is ignored; name another")
        base = self.baseline
        if base is not None and not (
            isinstance(base, tuple) and len(base) == len(self.labels) and 0 < min(base) <= max(base) < 1
        ):
            raise ValueError("'baseline' of a multilabel outcome is one prevalence between 0 and 1 per label")
        return self

    @property
    def prevalences(self) -> tuple[float, ...]:
        """The public share of patients with each label, a half where none is given."""
        return self.baseline if isinstance(self.baseline, tuple) else (0.5,) * len(self.labels)

    @property
    def name(self) -> str:
        return self.column or "findings"

    @property
    def meaning(self) -> str:
        return f"for each whether it is there: {', '.join(self.labels)}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("auroc", "macro AUROC", True),
            Metric("auprc", "macro average precision", True),
            Metric("brier", "mean Brier score", False, headline=False),
        )

    @property
    def spelled(self) -> tuple[str, ...]:
        return (*self.labels, *self.ignored) if self.column else self.classes

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.column else self.labels

    def read(self, table: Columns) -> Floats:
        if self.column:
            return table.listed(self.column, self.labels, self.separator, self.ignored)
        what = "where '{}' is none of the study's two classes"
        return np.column_stack([table.category(name, self.classes, what.format(name)) for name in self.labels])

    def unknown(self, values: Floats) -> Bools:
        return np.asarray(np.isnan(values).all(axis=1))

    @property
    def counted(self) -> tuple[Counted, ...]:
        return tuple(OneOf(name, "", ("no", "yes")) for name in self.labels)

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        return [(name, int((values[:, place] == 1).sum())) for place, name in enumerate(self.labels)]

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def curvature(self) -> float:
        return float(0.25 / np.sqrt(len(self.labels)))

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        """Return who has none of the labels, and who has all of them."""
        return np.stack([np.zeros(len(self.labels)), np.ones(len(self.labels))])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        """Return patients with the rarest label only among those with every commoner one: each label has its prevalence."""
        has = np.array(self.prevalences)
        edges = np.concatenate([[0.0], np.unique(has), [1.0]])
        return np.diff(edges), (has > edges[:-1, None]).astype(self.dtype)

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"classes": self.labels}

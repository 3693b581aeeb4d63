"""``[outcome]``: what every kind of outcome answers about itself. One file per kind in `pmfed.study.outcomes`; no torch here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import SerializationInfo, SerializerFunctionWrapHandler, model_serializer

from pmfed.study.counted import Counted
from pmfed.validate import Frozen

if TYPE_CHECKING:
    from pmfed.modality import Modality
    from pmfed.study.model import ModelSpec

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Link = Literal["logistic", "softmax", "regression", "hazards", "rate", "grades", "labels"]
"""How outputs become what people are told (`pmfed.runs.links`)."""

FIRST_KEYS: dict[str, Any] = {
    "column": "", "task": "", "classes": [], "transform": "none", "baseline": None, "balanced": False, "scale": 1.0,
    "minimum": None, "maximum": None, "unit": "", "folder": None, "values": [], "event": None, "intervals": [],
    "horizon": None, "hazards": "proportional",
}  # fmt: skip
"""The keys of pmfed 0.1, which wrote all of them for every kind, with what each says where a kind has none of it."""


@dataclass(frozen=True)
class Metric:
    """A figure of merit: its key in result.json, its name for people, and which way is better.

    ``headline`` says whether ``evaluation.metric`` may name it.
    """

    name: str
    label: str
    higher_is_better: bool
    headline: bool = True


class Columns(Protocol):
    """The cohort's table of T rows, as an outcome reads it. What is wrong is gathered, with counts and never a value of one patient."""

    @property
    def rows(self) -> int:
        """T."""
        ...

    def number(self, column: str) -> Floats:
        """Return the numbers of a column, (T,), NaN where it is empty; text is a problem."""
        ...

    def category(self, column: str, values: Sequence[str], what: str) -> Floats:
        """Return which of the values stands in each row, (T,), NaN where none does; anything else is a problem, called ``what``."""
        ...

    def filled(self, column: str) -> Floats:
        """Return 0 where something stands in a column, NaN where it is empty, (T,)."""
        ...

    def listed(self, column: str, words: Sequence[str], separator: str, ignored: Sequence[str]) -> Floats:
        """Return which of the words a cell lists, (T, words) of 0 and 1, NaN where it is empty; a word that is neither among them nor ignored is a problem."""
        ...

    def refuse(self, what: str, where: Bools) -> None:
        """Make a problem of the rows marked in ``where`` (T,), if any; ``what`` goes on after their count."""
        ...


class Masks(Protocol):
    """An outcome drawn into pictures: which column lists the files, where they lie, and what their pixels stand for."""

    column: str
    folder: str
    classes: tuple[str, ...]
    values: tuple[int, ...]


class Outcome(Frozen):
    """``[outcome]``: the column that is predicted, and everything pmfed has to know of its kind.

    A kind is a class made of this one that stands in `pmfed.study.outcomes.outcomes`. Whatever is abstract here it must answer;
    without an answer it is not registered. Its loss and its scores are a class of their own, which ``scored_by`` names.

    ``baseline`` is a public constant, the best guess about anybody: the model's bias starts there. ``unit`` is for people.
    """

    column: str
    task: str
    unit: str = ""
    baseline: float | tuple[float, ...] | None = None

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that are left out of what is written while they say what was before them: fingerprints stay (`Grown`)."""
    since_first: ClassVar[bool] = False
    """Whether pmfed 0.1 knew the kind: its studies are written with all of ``FIRST_KEYS``, and keep their fingerprints."""
    scored_by: ClassVar[str]
    """``module:class`` of the `pmfed.tasks.task.Task` with its loss and its scores. A name, because that needs torch."""
    link: ClassVar[Link]
    """How outputs become what people are told."""
    recalibrated: ClassVar[bool] = False
    """Whether its models tell probabilities that can be stretched and shifted: its task then has a recalibrator."""
    dtype: ClassVar[type[np.generic]] = np.float32
    """Of outcomes in a cohort."""

    # -- what it is, for people -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the outcome is called before people."""
        return self.column

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What a model says of a patient, in the words of who approves the study: "no or yes", "a number"."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics by which models are compared, the headline first."""

    @property
    def spelled(self) -> tuple[str, ...]:
        """The texts that stand in the table, as the study writes them; () where it holds anything else."""
        return ()

    # -- the table ----------------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cohort table that the outcome is read from."""
        return (self.column,)

    @abstractmethod
    def read(self, table: Columns) -> Floats:
        """Return the outcome of every row in natural units, (T,) or (T, k), NaN where it is not known."""

    def unknown(self, values: Floats) -> Bools:
        """Return which records (R,) of outcomes (R,) or (R, k) have none that a model could learn from."""
        return np.asarray(np.isnan(values).any(axis=tuple(range(1, values.ndim))))

    @property
    def masks(self) -> Masks | None:
        """What the outcome's files are read as; None where the outcome stands in the table."""
        return None

    @property
    def counted(self) -> tuple[Counted, ...]:
        """What its columns of a cohort hold, in their order, as tables count it; () where it cannot be counted."""
        return ()

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        """Return patients per class, or per part of what is possible, of outcomes (P, ...) of as many patients."""
        columns = values.reshape(len(values), -1).T
        return [line for one, column in zip(self.counted, columns, strict=False) for line in one.balance(column)]

    # -- learning ------------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> int:
        """How many numbers the model gives per patient, or per pixel."""
        return 1

    @property
    def one_risk(self) -> bool:
        """Whether its outputs differ by public thresholds or times only, so that one row of weights serves all of them."""
        return False

    @property
    def curvature(self) -> float:
        """The most that the loss of a patient bends along what the outputs have in common, as far as it is typical."""
        return 0.25  # of a logistic loss

    @property
    def endless(self) -> bool:
        """Whether the slope of the loss grows with the error, without end."""
        return False

    @property
    def rare(self) -> bool:
        """Whether a model without a public baseline first has to learn how frequent what is."""
        return True

    @abstractmethod
    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        """Return the outcomes a study allows that differ most, (2, ...) or more, made up, as a cohort holds them.

        `pmfed audit` attacks with them. ``pixels`` is the shape of the one picture, where the outcome is drawn into one.
        """

    @abstractmethod
    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        """Return made-up outcomes that stand for all: shares (K,) that add up to 1, and outcomes (K, ...) as a cohort holds them."""

    def misfit(self, model: ModelSpec, modalities: Mapping[str, Modality], table: str, record: str | None) -> str:
        """Return why the rest of a study does not go with the outcome, key first; empty when it does.

        Parameters
        ----------
        model, modalities
            Of the study.
        table, record
            The cohort's table, and its column that tells a patient's records apart.
        """
        return "model.kind: 'unet' and a segmentation outcome go together" if model.kind == "unet" else ""

    # -- the finished model --------------------------------------------------------------------------------------------------

    def answer(self) -> dict[str, Any]:
        """Return what the outputs of its model mean, as `pmfed.runs.description.Answer` holds it."""
        return {
            "column": self.name, "task": self.task, "link": self.link, "outputs": self.outputs, "unit": self.unit or None,
        }  # fmt: skip

    # -- written ----------------------------------------------------------------------------------------------------------------

    @model_serializer(mode="wrap")
    def _as_first_written(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        data: dict[str, Any] = plain(self)
        for key in self.LATER & data.keys():
            if getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True):
                del data[key]
        if not self.since_first:
            return data
        first = {key: data.get(key, value) for key, value in FIRST_KEYS.items()}
        return {key: value for key, value in first.items() if not (info.exclude_none and value is None)} | data

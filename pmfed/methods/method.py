"""Method: what the coordinator does with the answers. It sees decoded sums and the study, nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.query import Query
from pmfed.secagg.grid import Grid
from pmfed.stored import Stored
from pmfed.study import Study

Floats = NDArray[np.float64]
State = Mapping[str, NDArray[Any]]
Vectors = Mapping[str, Stored | NDArray[Any]]


@dataclass(frozen=True)
class Ask:
    """The next thing to ask the sites.

    Parameters
    ----------
    query
        One of the schedule.
    number
        Which of its answers, or after which round: sites and masks know the release by (query, number, attempt).
    progress
        Whether the answer belongs to the progress of a round rather than to the result.
    """

    query: Query
    number: int
    progress: bool = False


@dataclass(frozen=True)
class DecodedSum:
    """A sum over sites, as it was decoded.

    Parameters
    ----------
    words, grid
        The sum on its grid.
    sites
        How many sites are in it.
    own
        Words by site, where the study lets a site's own sum leave, too.
    noise
        Standard deviation of the noise in every number of the sum, known from the plan; 0 for none.
    """

    words: NDArray[Any]
    grid: Grid
    sites: int
    own: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    noise: float = 0.0

    def part(self, part: slice) -> Floats:
        """Return some numbers of the sum: whoever works part by part need not hold all of it in float64."""
        return self.grid.decode(self.words[part])

    @property
    def total(self) -> Floats:
        """The whole sum."""
        return self.grid.decode(self.words)

    @property
    def per_site(self) -> dict[str, Floats]:
        """Each site's own sum."""
        return {site: self.grid.decode(words) for site, words in self.own.items()}


@dataclass(frozen=True)
class Section:
    """A part of what a terminal and a report show of a result that predicts nothing.

    Parameters
    ----------
    title, note
        What it is, and how to read it.
    columns, rows
        A table of text: the first column names the rows.
    curves
        Step curves by name, (x, y) with y in 0..1; none for a table alone.
    x_label, y_label
        Of the curves.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    x_label: str = ""
    y_label: str = ""


class Method(ABC):
    """One run's way from answers to a result.

    Parameters
    ----------
    study
        What is learned.
    folder
        RUN/, where large vectors lie.

    Attributes
    ----------
    kind
        Its name in ``[method]``.
    predicts
        Whether its result predicts an outcome, so that held-out patients can judge it beside other models.

    Guarantee
    ---------
    The state is a function of the study and of released sums. It never touches a patient: everything here is
    post-processing, free of charge.
    """

    kind: ClassVar[str]
    predicts: ClassVar[bool] = False

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder

    @staticmethod
    @abstractmethod
    def queries(study: Study) -> tuple[Query, ...]:
        """Return everything a run may ask, in order; nothing that depends on an answer may change it."""

    @abstractmethod
    def next(self) -> Ask | None:
        """Return what to ask next; None at the end."""

    def sent(self, ask: Ask) -> State:
        """Return the named arrays that come down with a query."""
        return {}

    @abstractmethod
    def take(self, ask: Ask, answer: DecodedSum) -> None:
        """Take in an answer."""

    def lost(self, ask: Ask) -> None:
        """Take in that a query that is not needed has no answer and will get none."""
        raise NotImplementedError

    def exhausted(self, query: Query) -> None:
        """Take in that the sites' reservation for a query is used up: it cannot be asked again."""
        raise NotImplementedError

    def progress(self) -> dict[str, float]:
        """Return the figures of the last look that was taken on the way."""
        return {}

    @property
    def round(self) -> int:
        """How many rounds were taken in."""
        return 0

    @abstractmethod
    def result(self, plan: PrivacyPlan) -> dict[str, Any]:
        """Return the method's part of result.json."""

    @abstractmethod
    def write(self) -> None:
        """Write the result's files into RUN/."""

    @classmethod
    def fingerprints(cls, run: Path) -> dict[str, str]:
        """Return, by file of a finished run, the fingerprint of the study that it names."""
        return {}

    @classmethod
    def wrong(cls, run: Path, study: Study, plan: PrivacyPlan, result: Mapping[str, Any]) -> Iterator[str]:
        """Yield what does not fit together in a finished run's files and its result.json."""
        yield from ()

    @classmethod
    def notes(cls, run: Path) -> list[str]:
        """Return what whoever verifies a finished run should know."""
        return []

    def files(self, result: Mapping[str, Any]) -> dict[str, bytes]:
        """Return files that are made of result.json and belong beside it, by name."""
        return {}

    def curves(self, plan: PrivacyPlan) -> dict[str, Any]:
        """Return what the report shows besides result.json; ``plan`` tells the noise in it."""
        return {}

    @classmethod
    def sections(cls, result: Mapping[str, Any]) -> list[Section]:
        """Return what people are shown of result.json, where the method predicts nothing."""
        return []

    @abstractmethod
    def state(self) -> Vectors:
        """Return all that resuming needs, as named vectors."""

    @abstractmethod
    def restore(self, state: Mapping[str, Stored]) -> None:
        """Go on from what `state` gave."""

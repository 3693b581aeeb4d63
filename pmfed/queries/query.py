"""Query: one bounded sum over patients that a run asks of its sites. Frozen, and known before anybody trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pmfed.errors import DataError, PolicyError, ProtocolError
from pmfed.privacy.mechanism import Mechanism, Role, Unit
from pmfed.secagg.grid import Grid, roomy
from pmfed.study import Study

if TYPE_CHECKING:
    from pmfed.cohort import Cohort

Floats = NDArray[np.float64]
Shapes = Mapping[str, tuple[type[np.generic], int]]
"""By name, what an array is made of and how long it is."""

Stage = Literal["first", "round", "look", "fit", "last", "within"]
"""When a query may be asked.

"first": before all rounds. "round": it makes the next state, number 1 to ``times``. "look": about the state after a
round. "fit": about the final state, before it is looked at for the last time; no round comes after it. "last": about the
final state; neither round nor fit comes after it. "within": never by itself, it rides along with another.
"""


class SitePatients(Protocol):
    """What a site lends a query to make its rows from. Nothing of it leaves."""

    @property
    def cohort(self) -> Cohort:
        """The patients of the query's role."""
        ...

    def as_read(self) -> Cohort:
        """Return the same patients as they were read: no input is scaled by what was learned, and none is altered."""
        ...

    def outputs(self, part: slice) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the model's outputs for some records, and which of them are finite; what is not is 0."""
        ...


@dataclass(frozen=True)
class Query(ABC):
    """One bounded sum over patients.

    Parameters
    ----------
    study
        The study it belongs to: every property follows from it and from nothing else.

    Attributes
    ----------
    name
        The word for it in ledger, order, audit log, approval text and receipt.
    whose
        Over whom it sums.
    stage
        When it may be asked.
    needed
        Whether the run fails without its answer.
    repeats
        Whether an attempt that came to nothing may be repeated, and charged again, while the reservation lasts.

    Guarantee
    ---------
    A query promises nothing by itself. The site bounds what it makes of patients, draws, adds the noise of the plan's
    mechanism and charges for it: a wrong query is less accurate, never less private.
    """

    study: Study = field(repr=False)

    name: ClassVar[str]
    whose: ClassVar[Role] = "train"
    stage: ClassVar[Stage] = "first"
    needed: ClassVar[bool] = True
    repeats: ClassVar[bool] = False

    # -- its part of the plan -------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Probability with which each patient takes part in one answer."""
        return 1.0

    @property
    def times(self) -> int:
        """How many answers a run may get."""
        return 1

    @property
    def charged_at_once(self) -> int:
        """How many applications of the mechanism one answer holds."""
        return 1

    @property
    @abstractmethod
    def bound(self) -> float:
        """The most one patient can change the sum (L2 norm)."""

    @property
    def noise(self) -> float | None:
        """Its own noise multiplier; None where it shares what the study's epsilon leaves."""
        return None

    @property
    def exact(self) -> bool:
        """Whether it carries no noise: then no promise covers it, and policies refuse it unless they name it."""
        return False

    @property
    def unit(self) -> Unit:
        """What one row stands for."""
        return "patient"

    @property
    def shared(self) -> bool:
        """Whether the sites share its noise out: in a study whose sites take local steps each adds the whole, always."""
        return self.study.training.algorithm == "fedsgd"

    def mechanism(self, sites: int) -> Mechanism:
        """Return its mechanism for so many sites; the noise is 1 where the plan finds it."""
        return Mechanism(
            self.name, self.whose, self.unit, self.rate, 1.0 if self.noise is None else self.noise, self.bound,
            self.times * self.charged_at_once, sites, self._colluders, self.shared,
        )  # fmt: skip

    @property
    def _colluders(self) -> int:
        return self.study.privacy.colluders + self.study.aggregation.dropouts

    # -- what travels ---------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of the sum."""

    @property
    @abstractmethod
    def grid_unit(self) -> float:
        """Width of a cell of the fixed-point grid."""

    @property
    def weight(self) -> float:
        """The most one patient adds to one number of the sum."""
        return self.bound

    def grid(self, sites: int) -> Grid:
        """Return the grid of its sums over so many sites: the smallest on which all patients at one site would fit."""
        return roomy(self.grid_unit, self.weight, self.study.cohort.expected_patients, sites)

    @property
    def state(self) -> Shapes:
        """The named arrays that come down with it."""
        return {}

    def due(self, number: int) -> bool:
        """Whether a look is taken after so many rounds, on the way to the end."""
        return False

    @property
    def by_site(self) -> bool:
        """Whether a site's own sum leaves, too, readable by itself."""
        return False

    # -- words ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def leaves(self) -> str:
        """Return, for the hospital that approves, what leaves it: one clause."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is called in plans and reports."""

    @property
    def key(self) -> str:
        """The key of the study that sets its price."""
        return "privacy.epsilon"

    @property
    def cheaper(self) -> str:
        """What makes it cheaper: a sentence."""
        return "Raise privacy.epsilon."


class RowSum(Query):
    """A query whose sum is made of one row per patient; all others are answered by the gradient engine.

    Attributes
    ----------
    scaled
        Whether it looks at patients through the model that came with it, their inputs scaled by the learned statistics;
        else it sees the patients of its role as they were read.

    Guarantee
    ---------
    The site clips every row to ``bound`` (`queries.bounded`), whatever it was made of.
    """

    scaled: ClassVar[bool] = False

    def seen(self, cohort: Cohort) -> Cohort:
        """Return the same patients with the inputs that the query asks about; no patient's depend on another's."""
        return cohort

    @abstractmethod
    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        """Yield the patients' rows, chunk by chunk, (some patients, size); no row depends on another patient."""


def starts_of(cohort: Cohort) -> NDArray[np.int64]:
    """Return where the records of each patient begin, and where the last one's end, (patients + 1,).

    Raises
    ------
    DataError
        A patient has no record: another's row would be taken for that patient's.
    """
    starts = np.searchsorted(cohort.owner, np.arange(cohort.patients + 1))
    if cohort.patients and not (np.diff(starts) > 0).all():
        raise DataError("a patient of this cohort has no record.", "Read the sources anew.")
    return starts.astype(np.int64)


def check_state(query: Query, state: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a state that is not what a query comes with.

    Raises
    ------
    ProtocolError
        An array is missing, unknown, of another type or length, or not finite.
    """
    for name in sorted(set(state) ^ set(query.state)):
        problem = "is missing" if name in query.state else "does not belong there"
        raise ProtocolError(f"'{query.name}': the array '{name}' {problem}. Nothing was released.")
    for name, (kind, size) in query.state.items():
        array = state[name]
        if array.dtype != kind or array.shape != (size,):
            raise ProtocolError(
                f"'{query.name}': '{name}' must arrive as {np.dtype(kind)}[{size}]. Nothing was released."
            )
        if not np.isfinite(array).all():
            raise ProtocolError(f"'{query.name}': '{name}' that arrived is not finite. Nothing was released.")


def check_fits(query: Query, mechanism: Mechanism, patients: int, sites: int, largest: float) -> None:
    """Refuse a cohort whose sum could overflow the grid, whoever is drawn and whatever the noise.

    Parameters
    ----------
    patients
        Units that may be drawn here.
    sites
        That take part.
    largest
        The largest number the noise can be, in standard deviations.
    """
    if not mechanism.private:
        return
    most = query.grid(sites).patients(query.weight, largest * mechanism.noise_std(sites))
    if patients > most:
        raise PolicyError(
            f"more than {most} {mechanism.unit}s at one of {sites} sites: a sum could overflow. Nothing was released.",
            "Split the site's cohort over several sites.",
        )

"""Scores of held-out patients whose inputs are worse than they were: noise on them, or a modality withheld."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pmfed.modality.pictures import Pictures
from pmfed.queries.query import Floats, Stage
from pmfed.queries.scores import Scores
from pmfed.study import Study

if TYPE_CHECKING:
    from pmfed.cohort import Cohort

LONGEST = 40  # characters of a modality's name that fit behind "without-" in the name of a query


@dataclass(frozen=True)
class Altered(Scores):
    """The common model's scores of held-out patients whose inputs were altered at the site.

    Parameters
    ----------
    withheld
        The modality that is taken for missing; empty: there is noise on the inputs.
    """

    withheld: str = field(default="", repr=False)

    stage: ClassVar[Stage] = "last"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"without-{self.withheld}" if self.withheld else "noisy-inputs"

    @property
    def needed(self) -> bool:  # type: ignore[override]
        return False

    @property
    def times(self) -> int:
        return 3 if self.exact else 1

    @property
    def by_site(self) -> bool:
        return False

    @property
    def alteration(self) -> str:
        """What became of the inputs, for people."""
        if self.withheld:
            return f"'{self.withheld}' withheld"
        return f"noise of {self._noise:g} standard deviations on every number and picture"

    @property
    def _noise(self) -> float:
        robustness = self.study.evaluation.robustness
        return (robustness.noise if robustness else None) or 0.0

    @property
    def label(self) -> str:
        return f"scores of held-out patients with {self.alteration}"

    @property
    def key(self) -> str:
        return "evaluation.robustness"

    def leaves(self) -> str:
        how = ", WITHOUT noise: no promise covers those patients" if self.exact else ", with noise"
        return f"once the sums of {self.label}, under a mask{how}"

    def seen(self, cohort: Cohort) -> Cohort:
        inputs, present = dict(cohort.inputs), dict(cohort.present)
        if self.withheld:
            inputs[self.withheld] = np.zeros_like(inputs[self.withheld])
            present[self.withheld] = np.zeros_like(present[self.withheld])
            return replace(cohort, inputs=inputs, present=present)
        for name, modality in self.study.modalities.items():
            columns = [column for _, _, column in modality.numbers]
            if not columns and not isinstance(modality, Pictures):
                continue
            values = inputs[name].copy()
            for record, drawn in enumerate(_drawn(cohort, name, values.shape[1:])):
                if isinstance(modality, Pictures):
                    with np.errstate(invalid="ignore"):  # a picture that is not finite stays so, and is left out
                        spread = self._noise * np.std(values[record])
                    values[record] += (spread * drawn).astype(np.float32)
                else:
                    values[record, columns] += (self._noise * drawn[columns]).astype(np.float32)
            values[~present[name]] = 0.0
            inputs[name] = values
        return replace(cohort, inputs=inputs)


def _drawn(cohort: Cohort, name: str, shape: tuple[int, ...]) -> Iterator[Floats]:
    """Yield standard normal numbers for every record that follow from the patient alone: nobody's depend on another's."""
    patient, random = -1, np.random.default_rng(0)
    for owner in cohort.owner:
        if owner != patient:
            digest = hashlib.sha256(f"{name}\0{cohort.ids[owner]}".encode()).digest()
            patient, random = owner, np.random.default_rng(int.from_bytes(digest[:16], "big"))
        yield random.standard_normal(shape)


def altered_of(study: Study) -> tuple[Altered, ...]:
    """Return the alterations that a study asks for."""
    robustness = study.evaluation.robustness
    if robustness is None:
        return ()
    noisy = (Altered(study),) if robustness.noise is not None else ()
    return (*noisy, *(Altered(study, name) for name in robustness.withheld))


def misfit(study: Study) -> str:
    """Return why a study's inputs cannot be altered so, key first; empty when they can."""
    robustness = study.evaluation.robustness
    if robustness is None:
        return ""
    for name in robustness.withheld:
        if name not in study.modalities:
            return f"evaluation.robustness.withheld: the study has no modality '{name}'"
        if len(name) > LONGEST:
            return f"evaluation.robustness.withheld: '{name}' is too long a name; at most {LONGEST} characters can be asked for"
        if len(study.modalities) == 1:
            return f"evaluation.robustness.withheld: '{name}' is all that the model looks at"
    if robustness.noise is not None and not any(
        isinstance(one, Pictures) or one.numbers for one in study.modalities.values()
    ):
        return "evaluation.robustness.noise: the study has no number or picture to put it on"
    return ""

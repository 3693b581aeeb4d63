"""Health records: coded events before an index date, as features or as a sequence; notes.

A study names clinical concepts by code and system; whether a hospital keeps them in an OMOP database, a FHIR export or
a table of events is the hospital's matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pmfed.modality.columns import Censored, Countable, Name, Numeric, inputs_of, names_of
from pmfed.modality.inputs import Input, Learned
from pmfed.modality.spec import Bools, Modality
from pmfed.validate import Frozen, Grown

Code = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]*:\S(.*\S)?$")]
Domain = Literal["condition", "drug", "measurement", "observation", "procedure", "visit", "death"]

COUNTED = ("count", "ever")

_WORD = re.compile(r"\w\w+")


class Concept(Grown):
    """What is meant by an event: any of these codes, ``SYSTEM:CODE``.

    A code may end in ``*``: all codes that begin so (``ICD10CM:E11*``). Beside the code systems (LOINC, SNOMED,
    RxNorm, ICD10, ICD10CM, ...) there are ``OMOP:`` concept ids, ``VISIT:inpatient``, ``VISIT:outpatient``,
    ``VISIT:emergency``, ``VISIT:*`` and ``DEATH:*``. ``answers`` keeps only events whose coded or written answer is
    one of these; ``descendants`` adds everything below the codes where the source knows what is below.
    """

    codes: Annotated[tuple[Code, ...], Field(min_length=1)]
    domain: Domain | None = None
    answers: tuple[str, ...] = ()
    descendants: bool = False


class EventFeature(Concept):
    """One number out of a patient's events in the ``days`` before the index date (without ``days``: all before it).

    ``last``, ``mean``, ``minimum`` and ``maximum`` take measured values; ``trend`` is the change over the window of
    the straight line fitted to them, at most ``maximum - minimum`` either way; ``count`` says how many events there
    were, at most ``maximum``; ``ever`` is 1 where there was one. ``minimum`` and ``maximum`` are the possible values
    of one measurement, in ``unit`` (UCUM). What is written in another unit is converted; ``units`` says what one of a
    unit is in ``unit`` where UCUM cannot know, and ``molar_mass`` (g/mol) leads from mg/dL to mmol/L. ``censored`` says
    what a limit (``<10``) counts as, where that is not what the modality says. What lies ``outside`` the possible values
    counts as missing, or as the bound (``"clamp"``).
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"censored", "outside"})

    value: Literal["last", "mean", "minimum", "maximum", "trend", "count", "ever"]
    days: PositiveFloat | None = None
    unit: str | None = None
    units: dict[str, PositiveFloat] = Field(default_factory=dict)
    molar_mass: PositiveFloat | None = None
    bad_units: Literal["error", "skip"] = "error"
    censored: Censored | None = None
    outside: Literal["missing", "clamp"] = "missing"
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    scale: PositiveFloat | None = None
    transform: Literal["none", "log1p"] = "none"
    indicator: bool = False

    @model_validator(mode="after")
    def _fits(self) -> EventFeature:
        if self.measured:
            if self.unit is None or self.minimum is None or self.maximum is None:
                raise ValueError(f"value '{self.value}' needs 'unit', 'minimum' and 'maximum'")
        elif self.unit is not None or self.units or self.molar_mass is not None or self.indicator:
            raise ValueError(f"value '{self.value}' has no 'unit', 'units', 'molar_mass' or 'indicator'")
        elif self.censored is not None or self.outside != "missing":
            raise ValueError(f"value '{self.value}' has no 'censored' or 'outside': no value is measured")
        if self.value == "count" and (self.maximum is None or self.minimum is not None):
            raise ValueError("value 'count' needs 'maximum', the most that are counted, and has no 'minimum'")
        if self.value == "ever" and (self.minimum is not None or self.maximum is not None):
            raise ValueError("value 'ever' is 0 or 1: it has no 'minimum' or 'maximum'")
        if self.value in ("ever", "trend") and self.transform != "none":
            raise ValueError(f"value '{self.value}' has no 'transform'")
        if self.value == "trend" and self.days is None:
            raise ValueError("value 'trend' needs 'days': it is the change over that window")
        _ = self.number  # which checks bounds, mean and scale
        return self

    @property
    def measured(self) -> bool:
        """Whether it is made of measured values; otherwise of the bare fact that something happened."""
        return self.value not in COUNTED

    @property
    def number(self) -> Numeric:
        """The number that comes out, as a numeric feature of a table would be described."""
        low, high = self.minimum or 0.0, 1.0 if self.maximum is None else self.maximum
        mean, scale = self.mean, self.scale
        if self.value == "trend":
            low, high = low - high, high - low
        elif self.value == "ever" and mean is None and scale is None:
            mean, scale = 0.0, 1.0
        return Numeric(
            minimum=low, maximum=high, mean=mean, scale=scale, transform=self.transform, indicator=self.indicator
        )

    def names(self, key: str) -> tuple[str, ...]:
        """Names of the inputs this feature makes."""
        return self.number.names(key)

    def inputs(self, key: str, learned: Learned) -> Iterator[Input]:
        """Yield the inputs this feature makes: what was never recorded did not happen, or has no value."""
        return self.number.inputs(key, learned, self.unit, "mean" if self.measured else "never")


class Age(Frozen):
    """Age in years at the index date."""

    minimum: float = 0.0
    maximum: float = 120.0
    mean: float | None = None
    scale: PositiveFloat | None = None
    indicator: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Age:
        _ = self.number
        return self

    @property
    def number(self) -> Numeric:
        """The same as a numeric feature of a table."""
        return Numeric(
            minimum=self.minimum, maximum=self.maximum, mean=self.mean, scale=self.scale, indicator=self.indicator
        )


SEXES = ("sex=female", "sex=male")


def _scaled(number: Numeric) -> bool:
    """Return whether mean and scale are the study's own: 0 and 1, those of what is 0 or 1, change nothing."""
    return number.mean is not None and (number.mean, number.scale) != (0, 1)


class Events(Modality):
    """A modality of numbers computed from events strictly before each record's index date.

    ``censored`` says what a value that is only a limit of the laboratory (``<10``) counts as: the limit itself, which is
    counted and told; nothing; or a reason to stop.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"censored"})

    kind: Literal["events"] = "events"
    source: str
    censored: Censored = "bound"
    age: Age | None = None
    sex: bool = False
    features: dict[Name, EventFeature] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Events:
        if not self.names:
            raise ValueError("names no feature, nor age, nor sex")
        if twice := {"age", "sex"} & set(self.features):
            raise ValueError(f"a feature cannot be called '{min(twice)}': that is a key of its own")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def numbers(self) -> tuple[tuple[str, Numeric, int], ...]:
        """Name, description and column of every number, in the order of the inputs."""
        return tuple((one.key, one.number, one.column) for one in self.countable if one.number is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order: age, sex, then the features by name."""
        age = self.age.number.names("age") if self.age else ()
        return (*age, *(SEXES if self.sex else ()), *names_of(self.features))

    @property
    def countable(self) -> tuple[Countable, ...]:
        found, column = [], 0
        if self.age:
            found.append(Countable("age", 0, number=self.age.number, scaled=_scaled(self.age.number)))
            column += len(self.age.number.names("age"))
        sex, column = column, column + len(SEXES) * self.sex
        for key, feature in sorted(self.features.items()):
            found.append(Countable(key, column, feature.unit or "", feature.number, scaled=_scaled(feature.number)))
            column += len(feature.names(key))
        return (*found, *([Countable("sex", sex, values=("female", "male"))] if self.sex else ()))

    def inputs(self, learned: Learned) -> Iterator[Input]:
        if self.age:
            yield from self.age.number.inputs("age", learned, "a")  # years, as UCUM writes them
        for name in SEXES if self.sex else ():
            yield Input(name=name, feature="sex", says="category", category=name.partition("=")[2], stand_in="zero")
        yield from inputs_of(self.features, learned)

    def gaps(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, Bools]]:
        own, found = super().gaps(values)
        if not self.sex:
            return own, found
        sexes = [self.names.index(name) for name in SEXES]
        return own, {"sex": np.logical_not(own[:, sexes].any(axis=1)), **found}


class EventSequence(Modality):
    """A modality of the last ``length`` steps before the index date, for recurrent models.

    ``censored`` as for `Events`. With ``hours`` a step is that long and the last one ends at the index date. With ``days`` the steps are the last
    moments at which anything was recorded in that window, the latest last, after empty steps where there were fewer.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"censored"})

    kind: Literal["sequence"] = "sequence"
    source: str
    censored: Censored = "bound"
    length: PositiveInt
    hours: PositiveFloat | None = None
    days: PositiveFloat | None = None
    channels: Annotated[dict[Name, EventFeature], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> EventSequence:
        if (self.hours is None) == (self.days is None):
            raise ValueError("give either 'hours' (how long a step is) or 'days' (the window of the last moments)")
        for key, channel in sorted(self.channels.items()):
            if channel.days is not None or channel.indicator or channel.value == "trend":
                raise ValueError(f"channels.{key}: a channel has no 'days', 'indicator' or value 'trend'")
            if channel.number.mean is None:
                raise ValueError(f"channels.{key}: a channel needs public 'mean' and 'scale'")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, len(self.names))

    @property
    def span_hours(self) -> float:
        """How far the sequence reaches back, in hours."""
        return self.length * self.hours if self.hours else 24 * (self.days or 0.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs of a step, in order: the channels by name, three inputs each; then when the step was."""
        parts = ("", " observed", " gap")
        return (*(f"{key}{part}" for key in sorted(self.channels) for part in parts), "time before")

    @property
    def observed(self) -> slice:
        """Which inputs of a step say whether a channel was observed in it; the last input says when it was."""
        return slice(1, 3 * len(self.channels), 3)

    def inputs(self, learned: Learned) -> Iterator[Input]:
        for key, spec in sorted(self.channels.items()):
            yield from spec.inputs(key, learned)
            yield Input(name=f"{key} observed", feature=key, says="observed")
            yield Input(name=f"{key} gap", feature=key, says="gap")
        yield Input(name="time before", feature="time before", says="time")

    def telling(self) -> EventSequence:
        """Return it as it is: it says of every step what was observed in it."""
        return self

    def gaps(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, Bools]]:
        seen = values[:, :, self.observed].max(axis=1) > 0
        keys = enumerate(sorted(self.channels))  # what is counted is never missing: nothing happened
        return values, {key: ~seen[:, place] for place, key in keys if self.channels[key].measured}


class Notes(Modality):
    """A modality of written notes, as counts of words of L2 norm 1.

    With ``vocabulary`` (word -> its public inverse document frequency) the words are those; without it every word
    is hashed to one of ``size`` inputs. Nothing is learned from a site's text.
    """

    kind: Literal["notes"] = "notes"
    source: str
    size: PositiveInt = 1024
    vocabulary: dict[str, PositiveFloat] = Field(default_factory=dict)
    days: PositiveFloat | None = None

    @model_validator(mode="after")
    def _fits(self) -> Notes:
        if any(not _WORD.fullmatch(word) or word != word.lower() for word in self.vocabulary):
            raise ValueError("vocabulary: a word is two or more small letters, digits or '_'")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(sorted(self.vocabulary)) or tuple(f"word {place}" for place in range(self.size))

    def inputs(self, learned: Learned) -> Iterator[Input]:
        return (Input(name=name, feature=name, says="word", stand_in="zero") for name in self.names)


class EventCohort(Frozen):
    """A cohort made from events: who had ``index``, and whether ``outcome`` followed within ``days`` of it.

    The index date is that of the ``first`` or ``last`` event of ``index``; the outcome counts when it is later than
    the index date.
    """

    source: str
    index: Concept
    which: Literal["first", "last"] = "first"
    outcome: Concept
    days: PositiveFloat

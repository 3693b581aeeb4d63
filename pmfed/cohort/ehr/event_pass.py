"""One pass over a source of health records: what counts, in the study's units, and what was passed over and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.numbers import UNDECLARED
from pmfed.cohort.contract.times import EAST, WEST, Moments, tomorrow
from pmfed.cohort.contract.uses import EARLIER, LATER, LIMIT, NO_ZONE, NOT_MEASURED, OUTSIDE, UNIT, Passed, Use
from pmfed.cohort.ehr.codes import Matcher
from pmfed.cohort.ehr.events import Chunk, EventSource, Floats, Ints
from pmfed.cohort.ehr.units import conversion, named, shown
from pmfed.cohort.ehr.window import Window
from pmfed.cohort.tables import Problems, count
from pmfed.modality.columns import Censored
from pmfed.modality.ehr import EventFeature

FEW = 0.5
"""Above this share of impossible values a feature is taken for measured in another unit, and reading stops."""


@dataclass(frozen=True, eq=False, repr=False)
class CountedEvents:
    """N events that count for a record: record, feature, seconds before the index date (above 0) and value."""

    record: Ints
    feature: Ints
    ago: Ints
    value: Floats

    def of(self, feature: int) -> CountedEvents:
        """Return those of one feature."""
        here = self.feature == feature
        return CountedEvents(self.record[here], self.feature[here], self.ago[here], self.value[here])


class EventPass:
    """Reads the events of some features for the records of a window.

    Parameters
    ----------
    source
        Where from.
    features
        What, by name.
    window
        For which records; its reach is one per feature, in the order of the names.
    censored
        What a value that is only a limit counts as, where a feature does not say it itself.
    """

    def __init__(
        self, source: EventSource, features: Mapping[str, EventFeature], window: Window, censored: Censored = "bound"
    ) -> None:
        self.source, self.window = source, window
        self.keys = sorted(features)
        self.specs = [features[key] for key in self.keys]
        self.matcher = Matcher(self.specs)
        self.counts: Counter[str] = Counter()
        self._censored = [spec.censored or censored for spec in self.specs]
        self._low = np.array([-np.inf if spec.minimum is None else spec.minimum for spec in self.specs])
        self._high = np.array([np.inf if spec.maximum is None else spec.maximum for spec in self.specs])
        self._values = np.zeros(len(self.specs), dtype=np.int64)
        self._outside = self._values.copy()
        self._used, self._limits, self._refused = self._values.copy(), self._values.copy(), self._values.copy()
        self._no_unit: dict[int, Counter[str]] = {}
        self._passed, self._undeclared = Passed(), False
        self._future = tomorrow()

    def __iter__(self) -> Iterator[CountedEvents]:
        for chunk in self.source.events(self.matcher, self.window.asked):
            self.counts["events dated in the future"] += int((chunk.when > self._future).sum())
            record, row, ago = self.window.rows(chunk)
            inside, place = np.unique(row, return_inverse=True)
            self._pass_outside(chunk, inside)
            events = chunk.take(inside)
            value, good = self._checked(events)
            np.add.at(self._used, events.concept[good], 1)
            taken = good[place]
            if taken.any():
                at = place[taken]
                yield CountedEvents(record[taken], events.concept[at], ago[taken], value[at])

    def _pass_outside(self, chunk: Chunk, inside: Ints) -> None:
        """Count what counts for no record."""
        outside = np.ones(len(chunk), dtype=bool)
        outside[inside] = False
        latest: Moments = np.maximum(chunk.when, chunk.known)
        later = outside & ~self.window.before(chunk.patient, latest)
        earliest: Moments = (latest - np.timedelta64(EAST + WEST, "s")).astype("datetime64[s]")
        unsure = later & chunk.adrift & self.window.before(chunk.patient, earliest)
        self.counts["instants with an offset that no time zone places before or after an index date"] += int(
            unsure.sum()
        )
        self._passed.count(chunk.concept[unsure], NO_ZONE)
        self._passed.count(chunk.concept[later & ~unsure], LATER)
        self._passed.count(chunk.concept[outside & ~later], EARLIER)

    def _checked(self, events: Chunk) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the values of some events in the study's units, and which can be used."""
        feature, unit, out = events.concept, events.unit, events.value.copy()
        measured = self.matcher.measured[feature]
        good = ~measured
        numbers = measured & ~np.isnan(out)
        without = measured & ~numbers
        self.counts["measurements without a number"] += int(without.sum())
        for why in np.unique(events.why[without]).tolist():
            self._undeclared |= events.reasons[why] == UNDECLARED
            self._passed.count(feature[without & (events.why == why)], events.reasons[why] or NOT_MEASURED)
        numbers &= self._uncensored(events, numbers)
        units = [self.source.spellings.get(unit.strip(), unit.strip()) for unit in events.units]
        pairs, which = np.unique(feature[numbers] * len(units) + unit[numbers], return_inverse=True)
        at = np.flatnonzero(numbers)
        for place, pair in enumerate(pairs.tolist()):
            one, written = divmod(pair, len(units))
            line = conversion(units[written], self.specs[one])
            here = at[which == place]
            if line is None:
                self._no_unit.setdefault(one, Counter())[units[written]] += len(here)
                self._passed.add([one], f"{UNIT} ({named(units[written])})", len(here))
                continue
            out[here] = out[here] * line[0] + line[1]
            good[here] = self._bounded(one, out, here)
        limits = good & measured & (events.limit != 0)
        np.add.at(self._limits, feature[limits], 1)
        return out, good

    def _uncensored(self, events: Chunk, numbers: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which values are taken for what they say: a limit only where the study takes it for the value."""
        kept = np.ones(len(events), dtype=bool)
        for one in np.unique(events.concept[numbers & (events.limit != 0)]).tolist():
            here = numbers & (events.limit != 0) & (events.concept == one)
            if self._censored[one] != "bound":
                kept &= ~here
                self._passed.add([one], LIMIT, int(here.sum()))
            if self._censored[one] == "refuse":
                self._refused[one] += int(here.sum())
        return kept

    def _bounded(self, feature: int, values: Floats, here: Ints) -> NDArray[np.bool_]:
        """Return which values are possible; of a feature that says so, bring the others to the bound."""
        inside: NDArray[np.bool_] = (values[here] >= self._low[feature]) & (values[here] <= self._high[feature])
        self._values[feature] += len(here)
        self._outside[feature] += int((~inside).sum())
        if self.specs[feature].outside == "clamp":
            values[here] = np.clip(values[here], self._low[feature], self._high[feature])
            return np.ones(len(here), dtype=bool)
        self._passed.add([feature], OUTSIDE, int((~inside).sum()))
        return inside

    def uses(self) -> dict[str, Use]:
        """Return what became of the rows of each feature."""
        return {
            key: Use(
                int(self._used[place]),
                int(self._limits[place]),
                int(self._outside[place]) if self.specs[place].outside == "clamp" else 0,
                dict(self._passed.of(place) + self.source.passed.of(place)),
            )
            for place, key in enumerate(self.keys)
        }

    def report(self, problems: Problems) -> tuple[dict[str, int], list[str]]:
        """Return counts and warnings of the pass, and note what stops the study."""
        name, warnings = self.source.name, list(self.source.limits)
        for error in (*self.source.refused, *(self.source.commas if self._undeclared else ())):
            problems.note(error)
        for place, (key, spec) in enumerate(zip(self.keys, self.specs, strict=True)):
            if place not in self.matcher.seen:
                self.counts["features without any event"] += 1
                warnings.append(
                    f"{name}: feature '{key}': nobody of the cohort has any of its {count(len(spec.codes), 'code')}."
                )
            if units := self._no_unit.get(place):
                self._report_units(key, spec, units, problems, warnings)
            if refused := int(self._refused[place]):
                problems.add(
                    f"{name}: feature '{key}': {count(refused, 'value')} that {'is' if refused == 1 else 'are'} only a limit "
                    "(<, >), which the study refuses.",
                    'Take them for the limit (censored = "bound") or for missing (censored = "missing") in the study.',
                )
            self._report_outside(place, key, spec, problems, warnings)
        if unsure := self.counts["instants with an offset that no time zone places before or after an index date"]:
            warnings.append(
                f"{name}: {count(unsure, 'event')} written with an offset (Z, +02:00) so near an index date that only the "
                'hospital\'s time zone tells whether it came before: left out. Say timezone = "Europe/Berlin", or what is '
                "right, where the source is described."
            )
        if future := self.counts["events dated in the future"]:
            warnings.append(f"{name}: {count(future, 'event')} dated in the future.")
        self.counts.update(self.source.counts)
        return {what: number for what, number in self.counts.items() if number}, warnings

    def _report_outside(
        self, place: int, key: str, spec: EventFeature, problems: Problems, warnings: list[str]
    ) -> None:
        outside = int(self._outside[place])
        if not outside:
            return
        self.counts["impossible values"] += outside
        what = (
            f"{self.source.name}: feature '{key}': {count(outside, 'value')} of {int(self._values[place]):,} outside "
            f"{spec.minimum:g} to {spec.maximum:g} {spec.unit}"
        )
        if spec.outside == "clamp":
            warnings.append(f"{what} brought to the bound, as the study says.")
        elif outside > FEW * self._values[place]:
            problems.add(
                f"{what}.",
                "So many impossible values mean another unit than the source says, or wrong bounds in the study.",
            )
        else:
            warnings.append(f"{what} left out.")

    def _report_units(
        self, key: str, spec: EventFeature, units: Counter[str], problems: Problems, warnings: list[str]
    ) -> None:
        number = units.total()
        self.counts["values in a unit that does not convert"] += number
        what = (
            f"{self.source.name}: feature '{key}': {count(number, 'value')} in a unit that does not convert to "
            f"'{spec.unit}' ({shown(units)})"
        )
        if spec.bad_units == "skip":
            warnings.append(f"{what} left out.")
        else:
            problems.add(
                f"{what}.",
                "State the unit's factor in 'units' of the feature, or its 'molar_mass', map the unit's spelling in the "
                'site\'s source file, or say bad_units = "skip" in the study.',
            )

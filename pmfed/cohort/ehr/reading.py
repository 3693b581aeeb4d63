"""One pass over a source of health records: what counts, in the study's units, and what was wrong on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.ehr.codes import Matcher
from pmfed.cohort.ehr.events import Chunk, Floats, Ints, Source
from pmfed.cohort.ehr.moments import tomorrow
from pmfed.cohort.ehr.units import conversion, shown
from pmfed.cohort.ehr.window import Window
from pmfed.cohort.tables import Problems, count
from pmfed.modality.ehr import EventFeature

FEW = 0.5
"""Above this share of impossible values a feature is taken for measured in another unit, and reading stops."""


@dataclass(frozen=True, eq=False, repr=False)
class Counted:
    """N events that count for a record: record, feature, seconds before the index date (above 0) and value."""

    record: Ints
    feature: Ints
    ago: Ints
    value: Floats

    def of(self, feature: int) -> Counted:
        """Return those of one feature."""
        here = self.feature == feature
        return Counted(self.record[here], self.feature[here], self.ago[here], self.value[here])


class Reading:
    """Reads the events of some features for the records of a window.

    Parameters
    ----------
    source
        Where from.
    features
        What, by name.
    window
        For which records; its reach is one per feature, in the order of the names.
    """

    def __init__(self, source: Source, features: Mapping[str, EventFeature], window: Window) -> None:
        self.source, self.window = source, window
        self.keys = sorted(features)
        self.specs = [features[key] for key in self.keys]
        self.matcher = Matcher(self.specs)
        self.counts: Counter[str] = Counter()
        self._measured = np.array([spec.measured for spec in self.specs], dtype=bool)
        self._low = np.array([-np.inf if spec.minimum is None else spec.minimum for spec in self.specs])
        self._high = np.array([np.inf if spec.maximum is None else spec.maximum for spec in self.specs])
        self._values = np.zeros(len(self.specs), dtype=np.int64)
        self._outside = np.zeros(len(self.specs), dtype=np.int64)
        self._no_unit: dict[int, Counter[str]] = {}
        self._future = tomorrow()

    def __iter__(self) -> Iterator[Counted]:
        for chunk in self.source.events(self.matcher, self.window.asked):
            self.counts["events dated in the future"] += int((chunk.when > self._future).sum())
            record, row, ago = self.window.rows(chunk)
            value, good = self._checked(chunk, row)
            if good.any():
                yield Counted(record[good], chunk.concept[row][good], ago[good], value[good])

    def _checked(self, chunk: Chunk, row: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the values of some events in the study's units, and which can be used."""
        feature, value, unit = chunk.concept[row], chunk.value[row], chunk.unit[row]
        good = ~self._measured[feature]
        measured = ~good
        numbers = measured & ~np.isnan(value)
        self.counts["measurements without a number"] += int((measured & ~numbers).sum())
        out = value.copy()
        units = [self.source.spellings.get(unit.strip(), unit.strip()) for unit in chunk.units]
        pairs, which = np.unique(feature[numbers] * len(chunk.units) + unit[numbers], return_inverse=True)
        at = np.flatnonzero(numbers)
        for place, pair in enumerate(pairs.tolist()):
            one, written = divmod(pair, len(chunk.units))
            line = conversion(units[written], self.specs[one])
            here = at[which == place]
            if line is None:
                self._no_unit.setdefault(one, Counter())[units[written]] += len(here)
                continue
            converted = out[here] * line[0] + line[1]
            inside = (converted >= self._low[one]) & (converted <= self._high[one])
            self._values[one] += len(here)
            self._outside[one] += int((~inside).sum())
            out[here] = converted
            good[here] = inside
        return out, good

    def report(self, problems: Problems) -> tuple[dict[str, int], list[str]]:
        """Return counts and warnings of the pass, and note what stops the study."""
        name, warnings = self.source.name, list(self.source.limits)
        for place, (key, spec) in enumerate(zip(self.keys, self.specs, strict=True)):
            if place not in self.matcher.seen:
                self.counts["features without any event"] += 1
                warnings.append(
                    f"{name}: feature '{key}': nobody of the cohort has any of its {count(len(spec.codes), 'code')}."
                )
            if units := self._no_unit.get(place):
                self._report_units(key, spec, units, problems, warnings)
            if outside := int(self._outside[place]):
                self.counts["impossible values"] += outside
                what = (
                    f"{name}: feature '{key}': {count(outside, 'value')} of {int(self._values[place]):,} outside "
                    f"{spec.minimum:g} to {spec.maximum:g} {spec.unit}"
                )
                if outside > FEW * self._values[place]:
                    problems.add(
                        f"{what}.",
                        "So many impossible values mean another unit than the source says, or wrong bounds in the study.",
                    )
                else:
                    warnings.append(f"{what} left out.")
        if future := self.counts["events dated in the future"]:
            warnings.append(f"{name}: {count(future, 'event')} dated in the future.")
        self.counts.update(self.source.counts)
        return {what: number for what, number in self.counts.items() if number}, warnings

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

"""Events to sequences for recurrent models: steps before the index date, with what was observed and how old it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import told
from pmfed.cohort.ehr.event_pass import CountedEvents, EventPass
from pmfed.cohort.ehr.events import Floats, Ints
from pmfed.cohort.ehr.features import attendance, bounded, scaled
from pmfed.cohort.ehr.reductions import reduction
from pmfed.cohort.ehr.source import open_source
from pmfed.cohort.ehr.window import Window
from pmfed.cohort.reading import Reading
from pmfed.errors import DataError
from pmfed.modality.ehr import EventFeature, EventSequence

HELD = 2_000_000
"""Events held before those are dropped that are too old to be among the last steps."""


def read_sequence(reading: Reading[EventSequence]) -> Block:
    """Read the steps and channels of a study out of what `read_events` reads, too.

    Returns
    -------
    Block
        Inputs (R, T, 3 C + 1) as `EventSequence.names` orders them. Per channel: the value, scaled; 1 where it was
        observed in that very step; and the time since it was last observed as a share of the whole span, 1 where it
        never was. A measured value is carried forward until the next (0, the mean, before the first); what is counted
        is 0 in steps without an event. The last step is the one before the index date. Then, how long before the index
        date the step ends, as a share of the span; 1 in an empty step that only fills up. A record is present where
        anything was observed.
    """
    spec, patients, when, problems = reading.spec, reading.patients, reading.when, reading.problems
    keys, nothing = sorted(spec.channels), reading.absent()
    inputs = nothing.inputs
    if when is None:
        problems.add("a sequence of events needs an index date.", "Name its column in [cohort] of the study.")
        return nothing
    try:
        opened = open_source(reading.sources[spec.source], reading.patient)
        reach = np.full(len(keys), round(spec.span_hours * 3600), dtype=np.int64)
        window = Window(patients, when, reach)
        events = EventPass(opened, spec.channels, window, spec.censored)
        grid = _Grid(spec, len(patients)) if spec.hours else _Moments(spec, len(patients))
        for counted in events:
            grid.add(counted)
        persons = opened.persons(window.asked)
        counts, warnings = events.report(problems)
    except DataError as error:
        problems.note(error)
        return nothing
    there = attendance(persons, window, opened.name, counts, warnings, problems)
    values, ages = grid.result()
    span = spec.span_hours * 3600
    for place, key in enumerate(keys):
        _fill(inputs[:, :, 3 * place : 3 * place + 3], spec.channels[key], values[place], ages, span)
    inputs[:, :, -1] = ages / span
    observed: NDArray[np.bool_] = inputs[:, :, spec.observed].max(axis=1) > 0
    present = there & observed.any(axis=1)
    missing = {key: int((present & ~observed[:, place]).sum()) for place, key in enumerate(keys)}
    inputs[~present] = 0.0
    uses = events.uses()
    warnings += told(opened.name, uses)
    return Block(inputs, present, missing, counts, tuple(warnings), uses, told=True)


def _fill(out: NDArray[np.float32], spec: EventFeature, values: Floats, ages: Floats, span: float) -> None:
    """Write a channel: (R, T, 3) from its values (R, T), NaN or 0 where unobserved, and the steps' ages in seconds."""
    observed = ~np.isnan(values) if spec.measured else values > 0
    written = scaled(spec.number, bounded(spec.number, values))
    held, seen = np.zeros(len(values)), np.full(len(values), np.inf)
    for step in range(values.shape[1]):
        now = observed[:, step]
        held = np.where(now, written[:, step], held)
        seen = np.where(now, ages[:, step], seen)
        out[:, step, 0] = held if spec.measured else written[:, step]
        out[:, step, 1] = now
        out[:, step, 2] = np.minimum((seen - ages[:, step]) / span, 1.0)


class _Grid:
    """Steps of equal length; what happened within a step is reduced as the channel says."""

    def __init__(self, spec: EventSequence, records: int) -> None:
        assert spec.hours is not None
        self.records, self.steps, self.width = records, spec.length, spec.hours * 3600
        channels = [spec.channels[key] for key in sorted(spec.channels)]
        self.parts = [reduction(channel.value, records * spec.length, self.width) for channel in channels]

    def add(self, counted: CountedEvents) -> None:
        """Take events."""
        back = np.minimum(((counted.ago - 1) / self.width).astype(np.int64), self.steps - 1)
        cell = counted.record * self.steps + self.steps - 1 - back
        for place in np.unique(counted.feature).tolist():
            here = counted.feature == place
            self.parts[place].add(cell[here], counted.ago[here], counted.value[here])

    def result(self) -> tuple[list[Floats], Floats]:
        """Return per channel (R, T) values, and the ages of the steps, (R, T) in seconds."""
        ages = np.arange(self.steps - 1, -1, -1) * self.width
        shape = (self.records, self.steps)
        return [part.result().reshape(shape) for part in self.parts], np.broadcast_to(ages, shape)


class _Moments:
    """The last moments at which anything was recorded, each a step."""

    def __init__(self, spec: EventSequence, records: int) -> None:
        self.records, self.steps, self.span = records, spec.length, spec.span_hours * 3600
        self.channels = [spec.channels[key] for key in sorted(spec.channels)]
        self.held: list[CountedEvents] = []
        self.number = 0

    def add(self, counted: CountedEvents) -> None:
        """Take events; drop those that can no longer be among the last."""
        self.held.append(counted)
        self.number += len(counted.record)
        if self.number > HELD:
            kept, _ = self._latest()
            self.held, self.number = [kept], 0  # counted anew: what was kept is never dropped twice

    def _latest(self) -> tuple[CountedEvents, Ints]:
        """Return the events of each record's last moments, and which of these, 0 for the last one."""
        record, feature, ago, value = (
            np.concatenate([getattr(one, name) for one in self.held] or [np.zeros(0, dtype=np.int64)])
            for name in ("record", "feature", "ago", "value")
        )
        order = np.lexsort((ago, record))
        record, feature, ago, value = record[order], feature[order], ago[order], value[order]
        new = np.ones(len(record), dtype=bool)
        new[1:] = (record[1:] != record[:-1]) | (ago[1:] != ago[:-1])
        moment = np.cumsum(new) - 1
        first = np.zeros(len(record), dtype=np.int64)
        starts = np.ones(len(record), dtype=bool)
        starts[1:] = record[1:] != record[:-1]
        first = moment[np.maximum.accumulate(np.where(starts, np.arange(len(record)), 0))]
        rank = moment - first
        keep = rank < self.steps
        return CountedEvents(record[keep], feature[keep], ago[keep], value[keep]), rank[keep]

    def result(self) -> tuple[list[Floats], Floats]:
        """Return per channel (R, T) values, and the ages of the steps, (R, T) in seconds; the whole span where empty."""
        kept, rank = self._latest()
        shape = (self.records, self.steps)
        ages = np.full(self.records * self.steps, self.span)
        cell = kept.record * self.steps + self.steps - 1 - rank
        ages[cell] = kept.ago
        out = []
        for place, channel in enumerate(self.channels):
            part = reduction(channel.value, len(ages), 1.0)
            mine = kept.feature == place
            part.add(cell[mine], kept.ago[mine], kept.value[mine])
            out.append(part.result().reshape(shape))
        return out, ages.reshape(shape)

"""Sequences: each step by hand, and both ways of stepping by a plain loop."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from readings import read_sequence
from worlds import Event, World, dates, write_tables

import pmfed.cohort.ehr.sequences as sequences
from pmfed.cohort.block import Block
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import EventSequence

PEOPLE = {"1": ("1950-03-02", "female"), "2": ("1961-07-30", "male")}
INDEX = np.datetime64("2020-02-01T12:00:30")  # no event is at midnight, which may mean a day
PULSE = {"codes": ["LOINC:8867-4"], "unit": "/min", "minimum": 0, "maximum": 300, "mean": 80, "scale": 10}
CHANNELS: dict[str, Any] = {
    "pulse": {**PULSE, "value": "last"},
    "dose": {"codes": ["RxNorm:1"], "value": "ever"},
}


def event(hours: float, value: float = math.nan, who: str = "1") -> Event:
    when = str(INDEX - np.timedelta64(round(hours * 3600), "s"))
    if math.isnan(value):
        return Event(who, when, "drug", "RxNorm:1")
    return Event(who, when, "measurement", "LOINC:8867-4", value, "/min")


def read(events: list[Event], folder: Path, patients: tuple[str, ...] = ("1", "2"), **steps: Any) -> Block:
    spec = EventSequence.model_validate({"source": "x", "channels": CHANNELS, **steps})
    problems = Problems("north")
    when = np.full(len(patients), INDEX)
    block = read_sequence(spec, write_tables(World(PEOPLE, events), folder), patients, when, problems)
    problems.raise_any()
    return block


def test_hours_by_hand(tmp_path: Path) -> None:
    events = [event(0.5, 100), event(0.2, 90), event(2.5, 70), event(3.0, 60), event(3.5), event(4.01, 200), event(1.0)]
    block = read(events, tmp_path / "t", length=4, hours=1.0)
    assert block.inputs.shape == (2, 4, 7)
    dose, pulse, time = block.inputs[0, :, :3], block.inputs[0, :, 3:6], block.inputs[0, :, 6]
    np.testing.assert_allclose(pulse[:, 0], [0, -1, -1, 1])  # 60 and 70 fall into one step, and 70 is the later
    assert pulse[:, 1].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(pulse[:, 2], [1, 0, 0.25, 0])
    assert dose[:, 0].tolist() == [1, 0, 0, 1]  # an hour before to the second is within the last hour
    assert dose[:, 1].tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(dose[:, 2], [0, 0.25, 0.5, 0])
    np.testing.assert_allclose(time, [0.75, 0.5, 0.25, 0])
    assert block.present.tolist() == [True, False]
    assert not block.inputs[1].any()
    assert block.missing == {"dose": 0, "pulse": 0}


def test_the_last_moments_by_hand(tmp_path: Path) -> None:
    events = [event(1, 100), event(1), event(6, 70), event(6, 90), event(12), event(30, 200)]
    block = read(events, tmp_path / "t", length=4, days=1)
    dose, pulse, time = block.inputs[0, :, :3], block.inputs[0, :, 3:6], block.inputs[0, :, 6]
    assert dose[:, 0].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(pulse[:, 0], [0, 0, 0, 2])  # 70 and 90 of one moment: 80, the mean
    assert pulse[:, 1].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(pulse[:, 2], [1, 1, 0, 0])
    np.testing.assert_allclose(dose[:, 2], [1, 0, 6 / 24, 0])
    np.testing.assert_allclose(time, [1, 12 / 24, 6 / 24, 1 / 24])  # the first step only fills up
    short = read(events, tmp_path / "u", length=2, days=1)
    np.testing.assert_allclose(short.inputs[0, :, 3], [0, 2])
    assert short.inputs[0, :, 0].tolist() == [0, 1]


EVENT = st.tuples(st.integers(-10, 60), st.one_of(st.just(math.nan), st.integers(40, 200).map(float)))


@settings(max_examples=30, deadline=None)
@example([(0, 40.0), (0, 40.0), (0, 41.0)], {"hours": 3.0}, 1)
@given(st.lists(EVENT, max_size=20), st.sampled_from([{"hours": 3.0}, {"days": 2}]), st.integers(1, 6))
def test_sequences_are_what_a_plain_loop_says(
    events: list[tuple[int, float]], steps: dict[str, Any], length: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        held, sequences.HELD = sequences.HELD, 5  # so that what is too old is dropped on the way
        try:
            listed = [event(hours / 2 + 0.01, value) for hours, value in events]
            block = read(listed, Path(folder) / "t", length=length, **steps)
        finally:
            sequences.HELD = held
    span = length * 3 if "hours" in steps else 48.0
    once = {f"{hours} {value}": (hours, value) for hours, value in events}.values()  # the same row twice counts once
    mine = [(hours / 2 + 0.01, value) for hours, value in once if 0 < hours / 2 + 0.01 <= span]
    if "hours" in steps:
        places = [length - 1 - int(hours // 3) for hours, _ in mine]
        ages = [3.0 * (length - 1 - step) for step in range(length)]
    else:
        moments = sorted({hours for hours, _ in mine})[:length]
        mine = [(hours, value) for hours, value in mine if hours in moments]
        places = [length - 1 - moments.index(hours) for hours, _ in mine]
        ages = [*[48.0] * (length - len(moments)), *moments[::-1]]
    for channel, drug in ((0, True), (3, False)):
        value, seen = 0.0, math.inf
        for step in range(length):
            here = [
                one for one, place in zip(mine, places, strict=True) if place == step and math.isnan(one[1]) == drug
            ]
            if here:
                nearest = min(hours for hours, _ in here)
                latest = [one for hours, one in here if hours == nearest]
                value, seen = 1.0 if drug else (sum(latest) / len(latest) - 80) / 10, ages[step]
            shown = float(bool(here)) if drug else value
            expected = [shown, float(bool(here)), min((seen - ages[step]) / span, 1.0)]
            if not mine:
                expected = [0, 0, 0]  # nothing was observed at all: absent
            np.testing.assert_allclose(block.inputs[0, step, channel : channel + 3], expected, atol=1e-3)
            np.testing.assert_allclose(block.inputs[0, step, 6], ages[step] / span if mine else 0, atol=1e-3)


def test_an_index_date_is_needed_and_errors_are_gathered(tmp_path: Path) -> None:
    spec = EventSequence.model_validate({"source": "x", "channels": CHANNELS, "length": 2, "hours": 1})
    problems = Problems("north")
    block = read_sequence(spec, tmp_path, ["1"], None, problems)
    assert block.inputs.shape == (1, 2, 7)
    read_sequence(spec, tmp_path / "absent", ["1"], dates("2020-01-01"), problems)
    with pytest.raises(DataError, match="2 problems"):
        problems.raise_any()

"""Features: what they are worth by a plain loop, and that nothing after the index date reaches them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import read_events, read_sequence
from worlds import CREATININE, Event, World, dates, in_utc, write_ndjson, write_omop, write_tables

import pmfed.cohort.table_rows as batches
from pmfed.cohort.block import Block
from pmfed.cohort.ehr.events import Chunk
from pmfed.cohort.ehr.window import EVER, Window, seconds
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import Events, EventSequence

PEOPLE = {"1": ("1950-03-02", "female"), "2": ("1961-07-30", "male")}
INDEX = np.datetime64("2020-02-01T12:00:30")  # no event is at midnight, which may mean a day
HOUR = 3600

PLAIN = {key: value for key, value in CREATININE.items() if key != "molar_mass"}
KINDS: dict[str, dict[str, Any]] = {
    "last": {**PLAIN, "value": "last", "days": 10},
    "mean": {**PLAIN, "value": "mean", "days": 10},
    "minimum": {**PLAIN, "value": "minimum", "days": 10},
    "maximum": {**PLAIN, "value": "maximum"},
    "trend": {**PLAIN, "value": "trend", "days": 10},
    "count": {"codes": ["LOINC:2160-0"], "value": "count", "maximum": 3, "mean": 0, "scale": 1, "days": 10},
    "ever": {"codes": ["LOINC:2160-0"], "value": "ever", "days": 1},
}
STUDY = Events.model_validate({"source": "x", "features": KINDS})
SEQUENCE = {"source": "x", "channels": {"a": {**PLAIN, "value": "last"}, "b": {**PLAIN, "value": "count", "unit": None,
            "minimum": None}}}  # fmt: skip


def read(world: World, folder: Path, patients: list[str], when: Any, spec: Events = STUDY) -> Block:
    problems = Problems("north")
    block = read_events(spec, write_tables(world, folder), patients, when, problems)
    problems.raise_any()
    return block


def at(hours: float) -> str:
    return str(INDEX + np.timedelta64(round(hours * HOUR), "s"))


def plainly(kind: str, events: list[tuple[float, float]]) -> float:
    """Return a feature by the plainest means: ``events`` are hours before the index date and values."""
    days = KINDS[kind].get("days", math.inf)
    mine = [(hours, value) for hours, value in events if 0 < hours <= 24 * days]
    if kind == "count":
        return min(len(mine), 3)
    if kind == "ever":
        return float(bool(mine))
    if not mine:
        return math.nan
    values = [value for _, value in mine]
    if kind == "last":
        nearest = min(hours for hours, _ in mine)
        same = [value for hours, value in mine if hours == nearest]
        return sum(same) / len(same)
    if kind == "trend":
        times = np.array([-hours / 24 for hours, _ in mine])
        if len(mine) < 2 or times.std() < 0.1 / 2:
            return math.nan
        return float(np.clip(np.polyfit(times, values, 1)[0] * 10, -20, 20))
    return {"mean": np.mean, "minimum": np.min, "maximum": np.max}[kind](values)


EVENT = st.tuples(st.integers(-48, 300), st.floats(0, 20).map(lambda value: round(value, 3)))


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENT, max_size=12, unique=True), st.lists(EVENT, max_size=5, unique=True))
def test_features_are_what_a_plain_loop_says(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    world = World(
        PEOPLE,
        [
            Event(who, at(-hours), "measurement", "LOINC:2160-0", value, "mg/dL")
            for who, events in (("1", first), ("2", second))
            for hours, value in events
        ],
    )
    held, batches.BLOCK = batches.BLOCK, 200  # so that a patient's events come in several chunks
    try:
        with tempfile.TemporaryDirectory() as folder:
            shifted = INDEX - np.timedelta64(24 * HOUR, "s")
            block = read(world, Path(folder) / "t", ["2", "1", "1"], np.array([INDEX, INDEX, shifted]))
    finally:
        batches.BLOCK = held
    earlier = [(hours - 24, value) for hours, value in first]
    for column, key in enumerate(sorted(KINDS)):
        expected = [plainly(key, events) for events in (second, first, earlier)]
        np.testing.assert_allclose(block.inputs[:, column], np.nan_to_num(expected), rtol=1e-4, atol=1e-4, err_msg=key)
        assert block.missing[key] == int(np.isnan(expected).sum())


WRITERS = {
    "tables": write_tables,
    "fhir": lambda world, path: in_utc(write_ndjson(world, path)),
    "omop": lambda world, path: write_omop(world, path.with_suffix(".duckdb")),
}
LATER = st.tuples(
    st.integers(0, 400), st.floats(0, 20).map(lambda value: round(value, 3)), st.sampled_from(["mg/dL", "furlong"])
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=4, deadline=None)
@given(st.lists(EVENT, max_size=8), st.lists(LATER, min_size=1, max_size=8))
def test_nothing_at_or_after_the_index_date_changes_an_input(
    kind: str, events: list[tuple[float, float]], later: list[tuple[float, float, str]]
) -> None:
    """Adding, changing or removing events from the index date on changes no feature, no step and no error."""
    before = [
        Event("1", at(-hours), "measurement", "LOINC:2160-0", value, "mg/dL") for hours, value in events if hours > 0
    ]
    before.append(Event("2", at(-5.5), "measurement", "LOINC:2160-0", 3.0, "mg/dL"))
    after = [Event("1", at(hours), "measurement", "LOINC:2160-0", value, unit) for hours, value, unit in later]
    found = []
    for extra in ([], after, after[::2]):
        with tempfile.TemporaryDirectory() as folder:
            source = WRITERS[kind](World(PEOPLE, [*extra, *before]), Path(folder) / "t")
            problems = Problems("north")
            two = np.array([INDEX, INDEX])
            blocks = [read_events(STUDY, source, ["1", "2"], two, problems)]
            for steps in ({"length": 5, "hours": 7.5}, {"length": 3, "days": 4}):
                spec = EventSequence.model_validate({**SEQUENCE, **steps})
                blocks.append(read_sequence(spec, source, ["1", "2"], two, problems))
            problems.raise_any()
            found.append(blocks)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one.inputs, other.inputs)
            np.testing.assert_array_equal(one.present, other.present)
            assert one.missing == other.missing


def test_a_window_needs_both_that_it_happened_and_that_it_was_known() -> None:
    window = Window(["a"], np.array([INDEX]), np.array([seconds(None)]))
    before, after = INDEX - np.timedelta64(1, "s"), INDEX + np.timedelta64(1, "s")
    zeros = np.zeros(4, dtype=np.int64)
    when, known = np.array([before, before, after, INDEX]), np.array([before, after, before, before])
    record, row, ago = window.rows(Chunk(zeros, when, known, zeros, zeros.astype(float), zeros))
    assert (record.tolist(), row.tolist(), ago.tolist()) == ([0], [0], [1])
    assert seconds(1e300) == EVER


def test_what_was_entered_after_the_index_date_does_not_count_whenever_it_happened(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "patient_id,when,entered,code,value,unit\n"
        "1,2020-01-01T10:00:00,2020-01-01T11:00:00,LOINC:2160-0,1,mg/dL\n"
        "1,2020-01-02T10:00:00,2020-02-02T11:00:00,LOINC:2160-0,2,mg/dL\n"
        "1,2020-01-03T10:00:00,,LOINC:2160-0,3,mg/dL\n"
    )
    (tmp_path / "ehr.toml").write_text('[[tables]]\nfile = "a.csv"\nrecorded = "entered"\n')
    spec = Events.model_validate({"source": "x", "features": {"mean": {**PLAIN, "value": "mean"}}})
    problems = Problems("north")
    block = read_events(spec, tmp_path / "ehr.toml", ["1"], dates("2020-02-01"), problems)
    problems.raise_any()
    assert block.inputs.tolist() == [[2.0]]


def test_without_public_mean_and_scale_an_input_waits_within_its_bounds(tmp_path: Path) -> None:
    waits = {**PLAIN, "value": "last", "mean": None, "scale": None}
    spec = Events.model_validate(
        {
            "source": "x",
            "age": {"minimum": 18, "maximum": 98},
            "features": {
                "last": waits,
                "log": {**waits, "transform": "log1p"},
                "trend": {**waits, "value": "trend", "days": 10},
                "count": {"codes": ["LOINC:2160-0"], "value": "count", "maximum": 4},
            },
        }
    )
    world = World(PEOPLE, [Event("1", at(-hours), "measurement", "LOINC:2160-0", value, "mg/dL") for hours, value in
                           ((1, 20.0), (121, 0.0), (122, 0.0))])  # fmt: skip
    block = read(world, tmp_path / "t", ["1", "2"], np.array([INDEX, INDEX]), spec)
    inputs = dict(zip(spec.names, block.inputs.T, strict=True))
    np.testing.assert_allclose(inputs["last"], [1, np.nan])
    np.testing.assert_allclose(inputs["log"], [1, np.nan])
    np.testing.assert_allclose(inputs["trend"], [1, np.nan])
    np.testing.assert_allclose(inputs["count"], [0.5, -1])
    np.testing.assert_allclose(inputs["age"], [(69.917 - 58) / 40, (58.51 - 58) / 40], atol=1e-3)
    assert [(key, column) for key, _, column in spec.numbers] == [
        ("age", 0),
        ("count", 1),
        ("last", 2),
        ("log", 3),
        ("trend", 4),
    ]


def test_measurements_of_one_morning_have_no_trend(tmp_path: Path) -> None:
    events = [
        Event("1", at(-10 - hours), "measurement", "LOINC:2160-0", value, "mg/dL")
        for hours, value in ((0, 9.0), (1, 1.0))
    ]
    block = read(World(PEOPLE, events), tmp_path / "t", ["1"], np.array([INDEX]))
    assert block.missing["trend"] == 1
    assert block.missing["mean"] == 0


def test_a_few_impossible_values_are_left_out_and_counted_and_many_stop_the_study(tmp_path: Path) -> None:
    def world(values: list[float]) -> World:
        return World(PEOPLE, [Event("1", at(-1 - place), "measurement", "LOINC:2160-0", value, "mg/dL")
                              for place, value in enumerate(values)])  # fmt: skip

    block = read(world([999.0, 1.0, 2.0, -5.0]), tmp_path / "few", ["1"], np.array([INDEX]))
    inputs = dict(zip(STUDY.names, block.inputs[0], strict=True))
    assert inputs["last"] == 1
    assert inputs["maximum"] == 2
    assert block.counts["impossible values"] == 10
    assert any("'last': 2 values of 4 outside 0 to 20 mg/dL left out" in line for line in block.warnings)
    with pytest.raises(DataError, match="'last': 3 values of 4 outside 0 to 20 mg/dL") as caught:
        read(world([999.0, 888.0, 2.0, -5.0]), tmp_path / "many", ["1"], np.array([INDEX]))
    assert "999" not in str(caught.value)
    assert "another unit" in str(caught.value)


def test_an_index_date_before_birth_is_an_error(tmp_path: Path) -> None:
    spec = Events.model_validate({"source": "x", "age": {}})
    with pytest.raises(DataError, match="1 record with an index date before the patient's birth"):
        read(World({"1": ("2021-01-01", "male")}, []), tmp_path / "t", ["1"], np.array([INDEX]), spec)


def test_measurements_without_a_number_are_counted(tmp_path: Path) -> None:
    events = [
        Event("1", at(-1), "measurement", "LOINC:2160-0"),
        Event("1", at(-2), "measurement", "LOINC:2160-0", 2.0, "mg/dL"),
    ]
    block = read(World(PEOPLE, events), tmp_path / "t", ["1"], np.array([INDEX]))
    assert block.counts["measurements without a number"] == 5
    inputs = dict(zip(STUDY.names, block.inputs[0], strict=True))
    assert (inputs["last"], inputs["count"]) == (2, 2)


def test_a_block_shows_no_patient(tmp_path: Path) -> None:
    events = [Event("1", at(-1), "measurement", "LOINC:2160-0", 7.77, "mg/dL")]
    told = repr(read(World(PEOPLE, events), tmp_path / "t", ["1"], np.array([INDEX])))
    assert "7.77" not in told
    assert "1950" not in told

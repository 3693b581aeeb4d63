"""What a study may say of health records, and that errors name the line and the key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from worlds import CREATININE

from pmfed.errors import StudyError
from pmfed.modality.ehr import Age, EventCohort, EventFeature, Events, EventSequence, Notes
from pmfed.modality.signals import Signals
from pmfed.validate import parse_toml

LAST = {**CREATININE, "value": "last"}


def test_names_come_in_order() -> None:
    spec = Events.model_validate(
        {
            "source": "x",
            "age": {"indicator": True},
            "sex": True,
            "features": {"b": LAST, "a": {**LAST, "indicator": True}},
        }
    )
    assert spec.names == ("age", "age missing", "sex=female", "sex=male", "a", "a missing", "b")
    assert [(name, column) for name, _, column in spec.numbers] == [("age", 0), ("a", 4), ("b", 6)]
    sequence = EventSequence.model_validate(
        {"source": "x", "length": 3, "hours": 2, "channels": {"b": LAST, "a": LAST}}
    )
    assert sequence.names == ("a", "a observed", "a gap", "b", "b observed", "b gap", "time before")
    assert sequence.span_hours == 6
    assert Notes(source="x", size=2).names == ("word 0", "word 1")
    assert Notes(source="x", vocabulary={"heart": 1, "eye": 2}).names == ("eye", "heart")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unit": None}, "needs 'unit', 'minimum' and 'maximum'"),
        ({"maximum": None}, "needs 'unit', 'minimum' and 'maximum'"),
        ({"value": "ever"}, "'ever' has no 'unit'"),
        ({"value": "ever", "unit": None, "molar_mass": None}, "'ever' is 0 or 1"),
        ({"value": "count", "unit": None, "molar_mass": None}, "has no 'minimum'"),
        ({"value": "trend"}, "'trend' needs 'days'"),
        ({"value": "trend", "days": 3, "transform": "log1p"}, "'trend' has no 'transform'"),
        ({"minimum": 5, "maximum": 5}, "'minimum' must be below 'maximum'"),
        ({"scale": None}, "give both 'mean' and 'scale', or neither"),
        ({"codes": []}, "at least 1 item"),
        ({"codes": ["2160-0"]}, "should match pattern"),
        ({"codes": ["LOINC: 2160-0"]}, "should match pattern"),
        ({"units": {"x": 0}}, "greater than 0"),
        ({"value": "median"}, "Input should be 'last'"),
        ({"domain": "labs"}, "Input should be 'condition'"),
    ],
)
def test_a_feature_that_makes_no_sense(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        EventFeature.model_validate({**LAST, **change})


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (Events, {}, "names no feature, nor age, nor sex"),
        (Events, {"age": {}, "features": {"age": LAST}}, "a feature cannot be called 'age'"),
        (Age, {"minimum": 9, "maximum": 3}, "'minimum' must be below"),
        (EventSequence, {"length": 2, "channels": {"a": LAST}}, "give either 'hours'"),
        (EventSequence, {"length": 2, "hours": 1, "days": 1, "channels": {"a": LAST}}, "give either 'hours'"),
        (EventSequence, {"length": 2, "hours": 1, "channels": {"a": {**LAST, "days": 2}}}, "has no 'days'"),
        (
            EventSequence,
            {"length": 2, "hours": 1, "channels": {"a": {**LAST, "mean": None, "scale": None}}},
            "needs public",
        ),
        (Notes, {"vocabulary": {"Heart": 1.0}}, "two or more small letters"),
        (Notes, {"vocabulary": {"a": 1.0}}, "two or more small letters"),
        (
            Signals,
            {"table": "t", "folder": "f", "rate": 0.1, "seconds": 1, "channels": {"i": {}}},
            "not even one sample",
        ),
        (
            EventCohort,
            {"index": {"codes": ["VISIT:*"]}, "outcome": {"codes": ["DEATH:*"]}, "days": 0},
            "greater than 0",
        ),
    ],
)
def test_a_modality_that_makes_no_sense(kind: Any, data: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        kind.model_validate({"source": "x", **data} if kind not in (Age, Signals) else data)


def test_an_error_in_toml_names_the_line_and_the_nearest_key() -> None:
    text = 'source = "x"\n[features.a]\ncodes = ["LOINC:1"]\nvalue = "ever"\ndyas = 3\n'
    with pytest.raises(StudyError, match=r"study:5: unknown key 'dyas'; did you mean 'days'\?"):
        parse_toml(text, Events, "study")

"""Codes, dates and units: the parsers of what hospitals write."""

from __future__ import annotations

import calendar
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import CREATININE

from pmfed.cohort.contract.times import dated, from_offsets, middle, span
from pmfed.cohort.ehr.codes import Matcher, read, split
from pmfed.cohort.ehr.spellings import SPELLINGS
from pmfed.cohort.ehr.units import conversion, convert
from pmfed.modality.ehr import Concept, EventFeature


def second(text: str) -> int:
    return int(np.datetime64(text, "s").astype(np.int64))


def first_second(text: str, zone: ZoneInfo | None = None) -> int | None:
    found = span(text, "iso", zone)
    return None if found is None else found.first


def last_second(text: str, zone: ZoneInfo | None = None) -> int | None:
    found = span(text, "iso", zone)
    return None if found is None else found.last


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("2014", "2014-12-31T23:59:59"),
        ("2014-02", "2014-02-28T23:59:59"),
        ("2016-02", "2016-02-29T23:59:59"),
        ("2014-07-01", "2014-07-01T23:59:59"),
        ("2014-07-01T13:05", "2014-07-01T13:05:59"),
        ("2014-07-01T13:05:07", "2014-07-01T13:05:07"),
        ("2014-07-01 13:05:07.999", "2014-07-01T13:05:07"),
        ("2014-07-01T23:59:60", "2014-07-01T23:59:59"),
        ("2014-07-01T24:00:00", "2014-07-01T23:59:59"),
        ("2014-07-01T13:05:07+02:00", "2014-07-02T01:05:07"),  # 14 hours ahead of UTC there are clocks
        (" 2014-07-01T00:00:00 ", "2014-07-01T23:59:59"),  # how programs write a day
        ("2014-07-01 00:00:00.000", "2014-07-01T23:59:59"),
        ("2014-07-01T00:00:00.001", "2014-07-01T00:00:00"),
        ("2014-07-01T00:00:00Z", "2014-07-01T23:59:59"),
        ("2014/07/01", "2014-07-01T23:59:59"),
        ("2014-7-1", "2014-07-01T23:59:59"),
        ("0001-01-01", "0001-01-01T23:59:59"),
    ],
)
def test_a_date_is_the_last_second_it_may_mean(text: str, last: str) -> None:
    assert last_second(text) == second(last)


def test_an_index_date_is_the_first_second_it_may_mean() -> None:
    for text, first in [
        ("2014", "2014-01-01"),
        ("2016-02", "2016-02-01"),
        ("2014-07-01", "2014-07-01"),
        ("2014-07-01T13:05", "2014-07-01T13:05:00"),
        ("2014-07-01T13:05:07.9", "2014-07-01T13:05:07"),
    ]:
        assert first_second(text) == second(first)
    assert first_second("2014-02-30") is None
    assert first_second("2020-07-01T00:30:00Z", ZoneInfo("Europe/Berlin")) == second("2020-07-01T02:30:00")


@pytest.mark.parametrize(
    "text",
    ["", "NA", "2014-13", "2014-02-30", "2014-7/1", "14-07-01", "01.07.2014", "20140701", "2014-07-01T25:00:00", "2014-07-01T1:2",
     "0000-01-01", "2014-07-01T10:00:61", "２０１４", "2014-07-01x", "12014-01-01"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert last_second(text) is None
    assert np.isnat(middle(text))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_text_breaks_the_parser_of_dates(text: str) -> None:
    found = last_second(text, ZoneInfo("Europe/Berlin"))
    assert found is None or isinstance(found, int)
    assert np.isnat(middle(text)) == (last_second(text) is None)


@settings(deadline=None)
@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.sampled_from([4, 7, 10, 16, 19]))
def test_no_moment_a_shortened_date_may_mean_is_later(when: datetime, length: int) -> None:
    text = when.isoformat()[:length]
    last = last_second(text)
    assert last is not None
    first = first_second(text)
    assert first is not None
    exact = when.replace(microsecond=0) - datetime(1970, 1, 1)
    assert first <= exact.days * 86_400 + exact.seconds <= last
    days = {4: 366, 7: calendar.monthrange(when.year, when.month)[1], 10: 1, 16: 1, 19: 1}[length]
    assert last - second(when.isoformat()[:10]) < days * 86_400 + 366 * 86_400 * (length == 4)


@settings(deadline=None)
@given(st.datetimes(datetime(1990, 1, 2), datetime(2030, 12, 30)), st.integers(-12 * 4, 14 * 4))
def test_instants_are_shown_on_the_hospitals_clock(when: datetime, quarters: int) -> None:
    when = when.replace(microsecond=0)
    sign, size = "-" if quarters < 0 else "+", abs(quarters)
    text = f"{when.isoformat()}{sign}{size // 4:02}:{size % 4 * 15:02}"
    if when.time() == time():
        when += timedelta(seconds=1)  # midnight may be a day
        text = text.replace("T00:00:00", "T00:00:01")
    utc = when - timedelta(minutes=15 * quarters)
    assert last_second(text, ZoneInfo("UTC")) == second(utc.isoformat())
    assert last_second(text) == second((utc + timedelta(hours=14)).isoformat())
    assert first_second(text) == second((utc - timedelta(hours=12)).isoformat())
    assert last_second(when.isoformat(), ZoneInfo("Europe/Berlin")) == second(when.isoformat())


def test_summer_time() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert last_second("2020-07-01T00:30:00Z", berlin) == second("2020-07-01T02:30:00")
    assert last_second("2020-01-01T00:30:00Z", berlin) == second("2020-01-01T01:30:00")
    assert last_second("9999-12-31T23:30:00-12:00", berlin) is None
    assert dated(["2020", "", "2020"], "iso", berlin).last.astype(str).tolist() == [
        "2020-12-31T23:59:59",
        "NaT",
        "2020-12-31T23:59:59",
    ]


def test_births_are_in_the_middle_of_what_is_known() -> None:
    assert str(middle("1950-03-02")) == "1950-03-02T00:00:00"
    assert str(middle("1950-04")) == "1950-04-15T00:00:00"
    assert str(middle("1950"))[:7] == "1950-07"


def test_offsets() -> None:
    found = from_offsets(np.array([1.5, -2.0, np.nan, 1e300, np.inf]), "minutes")
    assert found.astype(str).tolist() == ["1970-01-01T00:01:30", "1969-12-31T23:58:00", "NaT", "NaT", "NaT"]
    assert from_offsets(np.array([0.001]), "seconds").astype(np.int64).tolist() == [1]  # never earlier than it was


def concept(*codes: str, **rest: Any) -> Concept:
    return Concept.model_validate({"codes": codes, **rest})


def test_codes_in_every_spelling() -> None:
    matcher = Matcher([concept("ICD10CM:E11*"), concept("SNOMED:44054006"), concept("LOINC:2160-0", "ICD10:E11.9")])
    assert matcher.of_coding("ICD-10-CM", "e11.21") == (0,)
    assert matcher.of_coding("ICD10CM", "E1121") == (0,)
    assert matcher.of_coding("ICD10CM", "E1") == ()
    assert matcher.of_coding("SNOMED CT", "44054006") == (1,)
    assert matcher.of_coding("ICD10", "E119") == (2,)
    assert matcher.of_coding("ICD10", "E11.91") == ()
    assert matcher.of_coding("LOINC", "2160-0 ") == (2,)
    assert matcher.of_coding("LOINC", "2160-00") == ()
    assert set(matcher.of_bare("E11.9")) == {0, 2}
    assert matcher.of_bare("44054006") == (1,)


def test_domains_and_answers_choose() -> None:
    smoker = concept("LOINC:72166-2", answers=("SNOMED:266919005", "Never smoker"))
    matcher = Matcher([smoker, concept("LOINC:72166-2", domain="observation"), concept("LOINC:72166-2")])
    places = matcher.of_coding("LOINC", "72166-2")
    assert matcher.choose(places, frozenset({"observation"}), [("SNOMED CT", "266919005")]) == (0, 1, 2)
    assert matcher.choose(places, frozenset({"measurement"}), [], ["NEVER SMOKER "]) == (0, 2)
    assert matcher.choose(places, frozenset(), [], ["Former smoker"]) == (1, 2)
    assert matcher.choose([*places, *places], frozenset({"condition"})) == (2,)
    assert matcher.seen == {0, 1, 2}


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_breaks_the_parser_of_codes(text: str) -> None:
    found = split(text)
    if found:
        assert read(text).system == read(f"{found[0]}:{found[1]}").system
    Matcher([concept("ICD10CM:E11*")]).of_coding(text, text)


FEATURE = EventFeature.model_validate({**CREATININE, "value": "last"})


@pytest.mark.parametrize(
    ("unit", "target", "at", "becomes"),
    [
        ("[degF]", "Cel", 98.6, 37.0), ("Cel", "[degF]", 37.0, 98.6), ("K", "Cel", 273.15, 0.0),
        ("mm[Hg]", "kPa", 120.0, 15.99868), ("10*9/L", "10*3/uL", 7.5, 7.5), ("/uL", "10*3/uL", 7500.0, 7.5),
        ("g/L", "g/dL", 140.0, 14.0), ("ug/mL", "mg/L", 3.0, 3.0), ("[lb_av]", "kg", 100.0, 45.359237),
        ("{score}", "1", 3.0, 3.0), ("%", "1", 21.0, 0.21), ("{beats}/min", "/min", 70.0, 70.0), ("a", "mo", 2.0, 24.0),
    ],
)  # fmt: skip
def test_conversions(unit: str, target: str, at: float, becomes: float) -> None:
    line = convert(unit, target)
    assert line is not None
    assert line[0] * at + line[1] == pytest.approx(becomes, rel=1e-6, abs=1e-9)


def test_the_molar_mass_leads_from_mass_to_substance_and_back() -> None:
    there, back = convert("mg/dL", "mmol/L", 180.156), convert("mmol/L", "mg/dL", 180.156)
    assert there == (pytest.approx(1 / 18.0156), 0.0)
    assert back == (pytest.approx(18.0156), 0.0)
    assert convert("mg/dL", "mmol/L") is None


@pytest.mark.parametrize(
    ("unit", "target"),
    [
        ("mg/dL", "kg"), ("meq/L", "mmol/L"), ("mmol/mol", "%"), ("U/L", "[IU]/L"), ("furlong", "m"), ("B", "1"),
        ("m99999999", "m"), ("10*99999999", "1"), ("((((", "1"), ("", "1"), ("mg/dL\x00", "mg/dL"), ("1e9", "1"),
        ("((10*999)999)999", "1"), ("(10*999)999", "1"), ("m" * 61, "m"),
    ],
)  # fmt: skip
def test_what_does_not_convert(unit: str, target: str) -> None:
    assert convert(unit, target) is None


@settings(deadline=None)
@given(st.one_of(st.text(max_size=70), st.text("mgLdu*/.()[]{}%kCelFHz109-+'", max_size=15)))
def test_no_unit_breaks_the_conversion(unit: str) -> None:
    line = conversion(unit, FEATURE)
    assert line is None or len(line) == 2


def test_the_study_says_what_a_unit_means() -> None:
    spec = FEATURE.model_copy(update={"units": {"": 1.0, "mg%": 1.0, "mg/dL creat": 2.0}})
    assert conversion("", spec) == (1.0, 0.0)
    assert conversion("", FEATURE) is None
    assert conversion("mg%", spec) == (1.0, 0.0)
    assert conversion("mg/dL creat", spec) == (2.0, 0.0)
    assert conversion(" mg/dL ", FEATURE) == (1.0, 0.0)
    assert conversion("umol/L", FEATURE) == (pytest.approx(113.12 / 10_000), 0.0)


def test_the_usual_spellings_are_units() -> None:
    for spelling, unit in SPELLINGS.items():
        assert convert(unit, unit) == (1.0, 0.0)
        assert convert(unit, f"{unit}{{calc}}") is not None or "{" in unit, spelling
        assert convert(unit, f"{unit}{{FEU}}") is None

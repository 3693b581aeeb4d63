"""The contract's own promises, for whatever hypothesis thinks of: numbers, times, identity, who."""

from __future__ import annotations

import itertools
import math
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.cohort.contract.identity import GONE, NONE, SeenRows, Version, Versions
from pmfed.cohort.contract.numbers import ABOVE, BELOW, EXACT, UNDECLARED, read_value, read_values
from pmfed.cohort.contract.people import CURRENT, OLD, People, Person
from pmfed.cohort.contract.times import STYLES, guessed, of_epochs, span
from pmfed.cohort.contract.uses import LATER, Use, told
from pmfed.cohort.contract.written import Written, WrittenPath, written_of
from pmfed.errors import DataError

STYLE = [(".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", "'")]
EPOCH = datetime(1970, 1, 1)


def second(when: datetime) -> int:
    apart = when - EPOCH
    return apart.days * 86_400 + apart.seconds


def spelled(number: float, digits: int, decimal: str, thousands: str) -> str:
    text = f"{number:,.{digits}f}" if thousands else f"{number:.{digits}f}"
    return text.translate(str.maketrans({",": thousands, ".": decimal}))


@given(st.floats(-1e9, 1e9), st.integers(0, 6), st.sampled_from(STYLE), st.sampled_from(["", "<", ">=", "≤ "]))
def test_what_is_written_in_a_declared_style_is_read_back(
    number: float, digits: int, style: tuple[str, str], sign: str
) -> None:
    found = read_value(sign + spelled(number, digits, *style), *style)
    assert found.why == ""
    assert found.number == pytest.approx(round(number, digits), rel=1e-12, abs=1e-12)
    assert found.limit == {"": EXACT, "<": BELOW, ">=": ABOVE, "≤ ": BELOW}[sign]


@given(st.floats(-1e6, 1e6), st.integers(0, 4), st.sampled_from(STYLE), st.sampled_from(STYLE))
def test_no_other_style_makes_another_number_of_it(
    number: float, digits: int, style: tuple[str, str], other: tuple[str, str]
) -> None:
    """Read as it was not written, a number is the same or refused, but for 1,234 and 1.234: these need the declaration."""
    text = spelled(number, digits, *style)
    found = read_value(text, *other)
    if style[1] or other[1]:
        return
    assert found.why == UNDECLARED or found.number == pytest.approx(round(number, digits), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(st.text(max_size=20), st.sampled_from(STYLE))
def test_no_text_breaks_the_reader_of_numbers(text: str, style: tuple[str, str]) -> None:
    found = read_value(text, *style)
    assert math.isfinite(found.number) or (math.isnan(found.number) and found.unit == "")
    assert math.isnan(found.number) or found.why == ""


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("5.4 mg/dL", 5.4, "mg/dL"), ("5.4mg/dL", 5.4, "mg/dL"), ("3.4 10*9/L", 3.4, "10*9/L"), ("100 %", 100, "%"),
        ("4 x 10^9/L", 4, "x 10^9/L"), ("1e3", 1000, ""), (".5", 0.5, ""), ("\u22123.2", -3.2, ""), ("5-10", None, ""),
        ("1:128", None, ""), ("120/80", None, ""), ("++", None, ""), ("2+", None, ""), ("neg", None, ""), ("inf", None, ""),
        ("1e999", None, ""), ("5.4 see comment", None, ""), ("5,4", None, ""), ("1 234", None, ""), ("5.4.3", None, ""),
        ("01.06.2020", None, ""), ("2020-06-01", None, ""), ("１２", None, ""), ("NaN", None, ""), ("", None, ""),
    ],
)  # fmt: skip
def test_cells_of_laboratories(text: str, number: float | None, unit: str) -> None:
    found = read_value(text)
    assert (None if math.isnan(found.number) else found.number, found.unit) == (number, unit)


MOMENT = st.datetimes(datetime(1990, 1, 1, 0, 0, 1), datetime(2040, 1, 1)).map(lambda when: when.replace(microsecond=0))
WRITTEN = {
    "iso": "%Y-%m-%d %H:%M:%S", "day-first": "%d.%m.%Y %H:%M:%S", "month-first": "%m/%d/%Y %I:%M:%S %p",
    "compact": "%Y%m%d%H%M%S",
}  # fmt: skip


@given(MOMENT, st.sampled_from(sorted(WRITTEN)))
def test_a_moment_in_a_declared_style_is_read_back(when: datetime, style: str) -> None:
    found = span(when.strftime(WRITTEN[style]), style)
    assert found is not None
    assert found.first <= second(when) <= found.last
    exact = when.time() != datetime.min.time()
    assert (found.first == found.last) == exact


@given(MOMENT, st.sampled_from(["day-first", "month-first", "compact"]))
def test_an_undeclared_style_is_no_date_and_is_guessed(when: datetime, style: str) -> None:
    text = when.strftime(WRITTEN[style])
    assert span(text) is None
    assert style in guessed([text])


@given(MOMENT)
def test_a_spreadsheets_serial_number(when: datetime) -> None:
    serial = (when - datetime(1899, 12, 30)) / timedelta(days=1)
    found = span(f"{serial:.8f}", "spreadsheet")
    assert found is not None
    assert found.first - 1 <= second(when) <= found.last + 1
    assert span(f"{serial:.8f}") is None


@settings(deadline=None)
@given(st.text(max_size=25), st.sampled_from(STYLES))
def test_no_text_breaks_the_reader_of_dates(text: str, style: str) -> None:
    found = span(text, style, ZoneInfo("Europe/Berlin"))
    assert found is None or found.first <= found.last


@given(st.dates(datetime(1990, 1, 1).date(), datetime(2040, 1, 1).date()), st.sampled_from(["", "T00:00:00", " 00:00", " 00:00:00.000", "T00:00:00Z", "T00:00:00+02:00"]))  # fmt: skip
def test_a_day_is_a_day_however_it_is_stored(day: object, end: str) -> None:
    found = span(f"{day}{end}", "iso", ZoneInfo("Europe/Berlin"))
    assert found is not None
    assert found.last >= second(datetime.fromisoformat(f"{day}T23:59:59"))


@given(MOMENT, st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago"]))  # fmt: skip
def test_an_instant_without_a_zone_covers_every_clock(when: datetime, zone: str) -> None:
    text = f"{when.isoformat()}Z"
    anywhere, there = span(text), span(text, "iso", ZoneInfo(zone))
    assert anywhere is not None
    assert there is not None
    assert anywhere.adrift
    assert not there.adrift
    assert anywhere.first <= there.first
    assert there.last <= anywhere.last
    seconds = np.array([float(second(when))])
    database = of_epochs(np.array([np.nan]), seconds, True, ZoneInfo(zone))
    assert database.last.astype(np.int64)[0] >= there.first


# identity


def settled(*versions: Version, contents: tuple[int, ...] = ()) -> list[str]:
    gathered = Versions()
    for place, version in enumerate(versions):
        gathered.add(7, contents[place] if contents else place, version, place)
    found = gathered.settle(str)
    names = ("counts", "repeated", "replaced", "voided")
    return [next(name for name in names if getattr(found, name)[place]) for place in range(len(versions))]


@given(st.permutations(range(1, 12)))
def test_the_newest_version_counts_whatever_the_order(numbers: list[int]) -> None:
    found = settled(*(Version(number=number) for number in numbers))
    assert found[numbers.index(11)] == "counts"
    assert found.count("replaced") == 10


def test_how_two_versions_are_told_apart() -> None:
    late, early = Version(updated=2), Version(updated=1)
    assert settled(early, late) == ["replaced", "counts"]
    assert settled(Version(stage=1), Version(stage=2)) == ["replaced", "counts"]
    assert settled(Version(stage=2), Version(stage=GONE)) == ["voided", "counts"]
    assert settled(late, late, contents=(1, 1)) == ["counts", "repeated"]
    assert settled(early, late, late, contents=(1, 2, 2)) == ["replaced", "counts", "repeated"]
    for one, other in [
        (Version(), Version()),
        (Version(updated=1), Version(updated=1)),
        (Version(updated=1, number=2), Version(updated=2, number=1)),
        (Version(number=1, stage=1), Version(number=1, stage=2)),
        (Version(updated=1), Version()),
        (Version(stage=2), Version(stage=2)),
    ]:
        with pytest.raises(DataError, match="nothing tells which is newer"):
            settled(one, other)
    assert NONE not in (late.updated, GONE)


@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=12))
def test_a_row_is_new_once(chunks: list[list[int]]) -> None:
    seen, known = SeenRows(), set[int]()
    for chunk in chunks:
        found = seen.new(np.array(chunk, dtype=np.uint64))
        for key, new in zip(chunk, found.tolist(), strict=True):
            assert new == (key not in known)
            known.add(key)


# who


def person(*ids: tuple[str, int], birth: str = "1950", after: str = "") -> Person:
    return Person(tuple(ids), birth, "f", after)


def test_an_id_leads_to_one_person_or_to_nobody() -> None:
    people = People({"p": person(("A", OLD), ("B", CURRENT)), "q": person(("A", CURRENT), birth="1960")}, "x")
    assert people.places(["A", "B"]) == {"q": 0, "p": 1}
    people = People({"p": person(("A", OLD)), "q": person(("A", OLD), birth="1960")}, "x")
    assert people.places(["A"]) == {}
    with pytest.raises(DataError, match="1 patient with more than one"):
        People({"p": person(("A", CURRENT)), "q": person(("A", CURRENT), birth="1960")}, "x")
    people = People({"p": person(("A", CURRENT)), "q": person(("A", CURRENT))}, "x")
    assert people.places(["A"]) == {"p": 0, "q": 0}


@given(st.permutations(["a", "b", "c", "d"]))
def test_a_chain_of_replaced_records_is_one_person(order: list[str]) -> None:
    records = {key: person((key, CURRENT), after=after) for key, after in itertools.pairwise([*order, ""])}
    people = People(dict(sorted(records.items())), "x")
    assert people.listed() == [order[-1]]
    assert people.places([order[0]]) == dict.fromkeys("abcd", 0)
    with pytest.raises(DataError, match="two ids of one person"):
        people.places([order[0], order[-1]])
    with pytest.raises(DataError, match="in a circle"):
        People({**records, order[-1]: person((order[-1], CURRENT), after=order[0])}, "x")


# counts, and how a table is written


def test_what_is_much() -> None:
    assert told("s", {"k": Use(95, passed={"no number": 5, LATER: 900})}) == []
    (line,) = told("s", {"k": Use(80, passed={"no number": 15, "no date": 5})})
    assert line == "s: feature 'k': 20 of 100 values lost, 20% (no number: 15, no date: 5)."
    assert len(told("s", {"k": Use(10, limits=3, constant=True)})) == 2


def test_a_path_knows_how_it_is_written_wherever_it_goes(tmp_path: object) -> None:
    import copy
    import pickle
    from pathlib import Path

    path = WrittenPath(Path(str(tmp_path)) / "a.csv", written=Written(separator=";"))
    assert path == Path(str(tmp_path)) / "a.csv"
    for one in (path, copy.copy(path), copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert written_of(one).separator == ";"
    assert written_of(path.parent).separator is None
    with pytest.raises(ValueError, match="cannot be the same sign"):
        Written(decimal=",", thousands=",")
    with pytest.raises(ValueError, match="is no encoding"):
        Written(encoding="windows")


def test_a_site_s_own_sign_for_missing_is_one_however_the_number_is_written() -> None:
    told = read_values(["-9", "-9.0", "-9.00", "9", "<-9", "-9 mg"], missing=("-9",)).number
    assert np.isnan(told).tolist() == [True, True, True, False, False, False]

"""What may travel: strict records, and the allow-list that every reply passes before it leaves a site."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmfed.errors import ProtocolError
from pmfed.plain import unfit
from pmfed.wire import ALLOWED, MAX_RECORD, Reply, Request, check_reply, dump, parse_reply, parse_request

RUN, STUDY = "0123456789abcdef" * 2, "f" * 64
KINDS = tuple(ALLOWED)
LENGTHS = {"sum": (np.uint32, 5), "site": (np.uint32, 5)}
STEP = {"sum": (np.uint32, 5)}


def request(**changes: Any) -> dict[str, Any]:
    return {"kind": "ask", "query": "step", "run": RUN, "study": STUDY, "round": 3, "attempt": 1, "sites": 4, **changes}


def words(size: int = 5) -> np.ndarray[Any, Any]:
    return np.arange(size, dtype=np.uint32)


@given(
    st.builds(
        lambda kind, query, **more: Request(kind=kind, query=query if kind == "ask" else "", **more),
        kind=st.sampled_from(KINDS),
        query=st.sampled_from(["statistics", "step", "personal-evaluation"]),
        run=st.just(RUN),
        study=st.just(STUDY),
        round=st.integers(0, 2**31 - 1),
        attempt=st.integers(0, 2**15 - 1),
        sites=st.integers(1, 2**20 - 1),
        text=st.text(max_size=50).filter(lambda text: not unfit(text)),
    )
)
def test_a_request_reads_back_as_it_was(sent: Request) -> None:
    assert parse_request(dump(sent)) == sent


@given(st.builds(Reply, kind=st.sampled_from(KINDS), run=st.just(RUN), ok=st.booleans(), reason=st.text(max_size=50)))
def test_a_reply_reads_back_as_it_was(sent: Reply) -> None:
    assert parse_reply(dump(sent)) == sent


@pytest.mark.parametrize("site", ["../north", "a/b", "North", "north\n", "a" * 49, "-", 5])
def test_a_site_cannot_call_itself_a_path(site: Any) -> None:
    told = {"kind": "finish", "run": RUN, "site": "north", "text": "{}"}
    assert parse_reply(json.dumps(told).encode()).site == "north"
    with pytest.raises(ProtocolError, match="site"):
        parse_reply(json.dumps({**told, "site": site}).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "shell"),
        ("kind", "step"),
        ("query", ""),
        ("query", "Step"),
        ("query", "../step"),
        ("query", "step\n"),
        ("query", "a" * 49),
        ("query", None),
        ("run", RUN.upper()),
        ("run", RUN[:-1]),
        ("run", "../" + RUN[3:]),
        ("study", "f" * 63),
        ("round", -1),
        ("round", 2**31),
        ("round", "3"),
        ("round", 3.0),
        ("round", True),
        ("attempt", 2**15),
        ("sites", 0),
        ("sites", 2**20),
        ("sites", None),
        ("version", 1),
        ("version", 3),
        ("text", 5),
        ("patients", 17),
    ],
)
def test_a_request_that_is_not_one_is_refused_by_the_name_of_the_field(field: str, value: object) -> None:
    parse_request(json.dumps(request()).encode())
    with pytest.raises(ProtocolError, match=field):
        parse_request(json.dumps(request(**{field: value})).encode())


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"null", b"{", b"\x80\x04K\x01."])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    for parse in (parse_request, parse_reply):
        with pytest.raises(ProtocolError, match="not a valid"):
            parse(data)


def test_a_record_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="larger than"):
        parse_request(json.dumps(request(text="x" * MAX_RECORD)).encode())


def test_an_error_never_quotes_what_was_sent() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_reply(json.dumps({"kind": "ask", "run": RUN, "ok": "canary-4711"}).encode())
    assert "canary" not in str(caught.value)
    assert "ok" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_allow_list_names_may_leave(kind: Any) -> None:
    check_reply(Reply(kind=kind, run=RUN), {name: words() for name in ALLOWED[kind]}, LENGTHS)
    check_reply(Reply(kind=kind, run=RUN), {}, LENGTHS)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"sum": words(), "count": words(1)}, "'count' may not leave"),
        ({"sum": words(), "parameters": words()}, "'parameters' may not leave"),
        ({"site": words()}, r"'site' of a 'ask' reply is uint32\[5\]"),
        ({"site": words(0)}, r"'site' of a 'ask' reply is uint32\[0\]"),
        ({"sum": words().astype(np.float32)}, "float32"),
        ({"sum": words().astype(np.float64)}, "float64"),
        ({"sum": words().astype(np.int32)}, "int32"),
        ({"sum": words().astype(np.uint64)}, "uint64"),
        ({"sum": words(6)}, r"\[6\]"),
        ({"sum": words(4)}, r"\[4\]"),
        ({"sum": words().reshape(1, 5)}, r"\[1, 5\]"),
        ({"sum": np.array([None] * 5, dtype=object)}, "object"),
    ],
)
def test_nothing_else_may_leave_in_a_step(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        check_reply(Reply(kind="ask", query="step", run=RUN), arrays, STEP)
    assert "Nothing was released." in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_carries_no_array(kind: Any) -> None:
    with pytest.raises(ProtocolError, match="may not leave"):
        check_reply(Reply(kind=kind, run=RUN, ok=False, code="PM300"), {"sum": words()}, LENGTHS)


@pytest.mark.parametrize("kind", ["enroll", "finish"])
def test_documents_travel_without_arrays(kind: Any) -> None:
    check_reply(Reply(kind=kind, run=RUN, text="a receipt"), {}, LENGTHS)
    with pytest.raises(ProtocolError, match="may not leave"):
        check_reply(Reply(kind=kind, run=RUN, text="a receipt"), {"sum": words()}, LENGTHS)


@pytest.mark.parametrize("query", ["statistics", "step", "evaluation"])
def test_text_is_no_way_out(query: Any) -> None:
    with pytest.raises(ProtocolError, match="may not carry text"):
        check_reply(Reply(kind="ask", query=query, run=RUN, text="41 patients"), {"sum": words()}, LENGTHS)
    with pytest.raises(ProtocolError, match="may not carry text"):
        check_reply(Reply(kind="enroll", run=RUN, ok=False, text="41 patients"), {}, LENGTHS)


def test_an_array_of_unknown_length_may_not_leave() -> None:
    with pytest.raises(ProtocolError):
        check_reply(Reply(kind="ask", query="step", run=RUN), {"sum": words()}, {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ask"])
def test_only_who_asks_names_a_query_and_who_asks_must(kind: Any) -> None:
    """Else the audit log would call a message by a query's name that was none."""
    parse_request(json.dumps(request(kind=kind, query="")).encode())
    with pytest.raises(ProtocolError, match="query"):
        parse_request(json.dumps(request(kind=kind)).encode())
    bare = {name: value for name, value in request().items() if name != "query"}
    with pytest.raises(ProtocolError, match="query"):
        parse_request(json.dumps(bare).encode())

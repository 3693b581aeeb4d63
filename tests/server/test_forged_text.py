"""Forged words in a run: a report, a terminal and `pmfed verify` show them as text, and load nothing from anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import example_run
import federation
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from forged import FORGED, LONG, TAGS, clean
from pmfed_server.enrolment import Enrolment
from pmfed_server.fleet import Fleet, SiteReply
from pmfed_server.report import write_report
from pmfed_server.report.shown import show_result

from pmfed import __version__
from pmfed.errors import VerificationError
from pmfed.study import Study
from pmfed.verify import Manifest, Verified, show_verified
from pmfed.wire import Reply, Request, dump

RUN = "ab" * 16
EXAMPLES = (example_run.binary, example_run.regression, example_run.multiclass)
WORDS = {**FORGED, "tags": TAGS}


def forged(value: Any, text: str) -> Any:
    """Return JSON in which every text but the ones that programs look up is a forged one, too."""
    if isinstance(value, dict):
        kept = (
            "kind",
            "protocol",
            "task",
            "unit",
            "name",
            "mechanism",
            "evaluation_release",
            "created",
            "average",
            "method",
        )
        return {key: inner if key in kept else forged(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [forged(inner, text) for inner in value]
    return f"{value}{text}" if isinstance(value, str) else value


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


@pytest.mark.parametrize("text", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda made: made.__name__)
def test_a_report_shows_them_as_text(tmp_path: Path, example: Callable[[], example_run.Example], text: str) -> None:
    result, rounds, curves = example()
    result = forged(result, text) | {
        "title": text, "study": text, "command": text, "fingerprint": text, "stand_in": text,
        "refused": {text: text}, "left": {text: text}, "versions": {text: text}, "public_weights": {text: text},
    }  # fmt: skip
    html = write_report(tmp_path, result, forged(rounds, text), forged(curves, text)).read_text(encoding="utf-8")
    assert clean(html)
    head, _, body = html.partition("<style>")
    assert "default-src 'none'" in head  # even what slipped through would neither run nor load
    found = Tags(body.partition("</style>")[2])
    assert not found.tags & {"script", "img", "base", "link", "iframe", "object", "embed", "form", "meta"}
    assert not found.names & {"src", "href", "srcset", "action"}
    assert not any(name.startswith("on") for name in found.names)


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_a_result_from_elsewhere_is_shown_as_text(capsys: pytest.CaptureFixture[str], text: str) -> None:
    result = example_run.binary()[0] | {"title": text, "refused": {text: text}, "left": {text: text}}
    show_result(result, Path("run"))
    assert clean(capsys.readouterr().out)


@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_so_is_what_verify_says_of_a_run_from_elsewhere(capsys: pytest.CaptureFixture[str], text: str) -> None:
    manifest = Manifest(run=RUN, study="0" * 64, files={}, key="1" * 64)
    found = Verified(manifest, {text: (1.0, 1e-5)}, [], [f"{text}: left"])
    show_verified(Path("run"), found)
    assert clean(capsys.readouterr().out)
    found.wrong = [f"receipts/{text}: is missing", "another"]
    with pytest.raises(VerificationError) as caught:
        show_verified(Path("run"), found)
    assert clean(str(caught.value))
    assert len(str(caught.value).split("\n")) == 4  # no forged line among them
    assert len(str(caught.value)) < 2500


def answered(record: bytes, arrays: dict[str, Any] | None = None) -> Any:
    """Return a message of Flower's, as far as it is read."""
    content = RecordDict({"pmfed": ConfigRecord({"record": record})})
    if arrays:
        content["arrays"] = ArrayRecord({name: Array(np.zeros(1, np.uint32)) for name in arrays})
    return SimpleNamespace(has_error=lambda: False, content=content)


@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_nothing_a_site_says_reaches_the_coordinators_terminal_as_it_is(text: str) -> None:
    """A refusal, a name, a code, the name of an array."""
    asked = Request(kind="enroll", run=RUN, study="0" * 64, sites=3)
    good = json.loads(dump(Reply(kind="enroll", run=RUN, site="north", ok=False, code="PM500", reason="No.")))
    fleet = Fleet(None, 1.0)  # type: ignore[arg-type]
    for changes in ({"reason": text}, {"code": text}, {"site": text}, {"kind": text}, {text: "1"}):
        answer = fleet._read(1, answered(json.dumps({**good, **changes}).encode()), asked)
        assert not answer.ok
        assert clean(answer.problem)
        assert len(answer.problem) <= 1000
    fine = json.dumps({**good, "ok": True, "code": "", "reason": ""}).encode()
    answer = fleet._read(1, answered(fine, {text: 1}), asked)
    assert "may not travel" in answer.problem
    assert clean(answer.problem)
    assert len(answer.problem) <= 1000


@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_nor_does_the_version_it_claims_reach_the_report(text: str) -> None:
    class Told:
        """A fleet of one site, which tells a version."""

        def ask(self, request: Request, nodes: Any) -> list[Any]:
            said = json.dumps({"pmfed": f"{__version__}{text}", "card": None})
            return [SiteReply(1, Reply(kind="enroll", run=RUN, site="north", text=said))]

    enrolment = Enrolment.__new__(Enrolment)
    enrolment.fleet, enrolment.study = Told(), example_study()  # type: ignore[assignment]
    enrolment._request, enrolment._registered = (
        lambda kind, **more: Request(kind=kind, run=RUN, study="0" * 64, sites=1),
        None,
    )
    enrolment.sites, enrolment.refused, enrolment.versions, enrolment._cards = {}, {}, {}, {}
    enrolment.insecure, enrolment._asked = False, 1
    enrolment._ask([1])
    said = "".join([*enrolment.versions.values(), *enrolment.refused.values()])
    assert clean(said)
    assert len(said) <= 32


def example_study() -> Any:
    return Study.from_text(federation.STUDY, "study.toml")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    html = write_report(tmp_path, *example_run.binary()).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|@import|url\(", html)

"""The page of an approval: no words of a study can take the place of ours, and who agrees has typed the price."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import federation
import pytest
import typer
from forged import FORGED, TAGS, clean
from pmfed_client.connection.agent_process import Reticent
from pmfed_client.site.approve import approve, terms, withdraw
from pmfed_client.site.audit_log import AuditLog, words_of
from pmfed_client.site.check import Checked, CheckLine, show
from pmfed_client.site.check_page import write_page
from pmfed_client.site.consent import MARGIN, page, price_typed
from pmfed_client.site.policy_changes import note_policy
from pmfed_client.site.site import Site

from pmfed import cli
from pmfed.errors import PolicyError, UsageError
from pmfed.study import Study

STUDY = Study.from_text(federation.STUDY, "study.toml")
LIE = "Price             epsilon 0.1 at delta 1e-05, with 1 other sites"
LABELS = re.compile(r"(Price|Protected|What leaves|What never|This site allows|fingerprint)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return federation.write_federation(tmp_path / "f")


@pytest.fixture
def site(folder: Path) -> Site:
    return Site.read(folder / "sites" / "north")


def run(*words: object) -> None:
    cli.app(args=[str(word) for word in words], standalone_mode=False)


def wrapped(text: str, columns: int) -> list[str]:
    """Return the lines that a terminal makes of a text, which breaks whatever is too long anywhere."""
    return [
        line[start : start + columns] for line in text.split("\n") for start in range(0, max(len(line), 1), columns)
    ]


@pytest.mark.parametrize("columns", [40, 80, 132])
@pytest.mark.parametrize("where", ["title", "description", "licence", "value", "column"])
def test_words_that_fill_a_line_begin_none(site: Site, columns: int, where: str) -> None:
    """Blanks push a lie to where the terminal breaks the line: on our page it stands behind a margin."""
    before = [line for line in wrapped(page(terms(site, STUDY), columns), columns) if LABELS.match(line)]
    for blanks in range(columns):
        lie = "Held-out." + " " * (columns - 9 + blanks) + LIE
        about = {where: lie[:200]} if where in ("title", "description", "licence") else {}
        study = STUDY.replace(study=about)
        if where == "value":
            data = STUDY.model_dump(mode="json")
            data["modalities"]["clinical"]["features"]["sex"]["values"] = ["f", lie]
            study = Study.model_validate(data)
        elif where == "column":
            study = STUDY.replace(outcome={"column": lie})
        lines = wrapped(page(terms(site, study), columns), columns)
        found = [line for line in lines if LABELS.match(line)]
        assert [line for line in found if not line.startswith("fingerprint")] == [
            line for line in before if not line.startswith("fingerprint")
        ]


@pytest.mark.parametrize("where", ["title", "description", "licence"])
def test_words_that_look_like_ours_begin_no_line(site: Site, where: str) -> None:
    lines = page(terms(site, STUDY.replace(study={where: LIE})), 80).split("\n")
    assert [line for line in lines if line.startswith("Price")] == [
        "Price             epsilon 2 at delta 0.001, with 1 other sites"
    ]


def test_the_words_of_the_author_are_quoted(site: Site) -> None:
    study = STUDY.replace(study={"description": "We learn. " * 30, "licence": "CC-BY"})
    lines = page(terms(site, study), 80).split("\n")
    assert "In the words of whoever wrote the study:" in lines
    quoted = [line for line in lines if "We learn." in line or "CC-BY" in line]
    assert len(quoted) > 3
    assert all(line.startswith(MARGIN) for line in quoted)


@pytest.mark.parametrize(
    ("typed", "agreed"),
    [("2", True), (" 2.0 ", True), ("epsilon 2", True), ("", False), ("y", False), ("yes", False), ("0.1", False),
     ("nan", False), ("inf", False), ("20", False), ("2e", False)],
)  # fmt: skip
def test_who_agrees_types_the_price(typed: str, agreed: bool) -> None:
    assert price_typed(STUDY, typed) is agreed


def test_the_price_comes_last_and_is_asked_for(
    folder: Path, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(with_: str) -> Callable[..., str]:
        def prompt(question: str, **_: object) -> str:
            asked.append(capsys.readouterr().out + question)
            return with_

        return prompt

    for typed in ("y", "0.1", ""):
        monkeypatch.setattr(typer, "prompt", answer(typed))
        with pytest.raises(PolicyError, match="was not approved"):
            run("site", "approve", folder / "study.toml", site.folder)
        assert not site.approved.exists()
    monkeypatch.setattr(typer, "prompt", answer("2"))
    run("site", "approve", folder / "study.toml", site.folder, "--by", "Dr. Grete Weiß")
    assert (site.approved / f"{STUDY.fingerprint()}.toml").exists()
    last = asked[-1].rstrip().split("\n")
    assert "epsilon 2 at delta 0.001" in "\n".join(last[-4:])
    assert "type the epsilon (2)" in last[-1]


def test_nobody_to_ask_is_a_no(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> str:
        raise typer.Abort

    monkeypatch.setattr(typer, "prompt", nobody)
    with pytest.raises(PolicyError, match="was not approved"):
        run("site", "approve", folder / "study.toml", site.folder)


def test_a_script_names_the_price(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: pytest.fail("asked"))
    for wrong in (["--yes", "0.1"], ["--yes", "y"], ["--yes", "2", "--fingerprint", "0" * 64]):
        with pytest.raises(PolicyError, match="was not approved"):
            run("site", "approve", folder / "study.toml", site.folder, *wrong)
        assert not site.approved.exists()
    run("site", "approve", folder / "study.toml", site.folder, "--yes", "2")
    assert (site.approved / f"{STUDY.fingerprint()}.toml").exists()


def test_the_forged_page_of_the_attack_is_refused(folder: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    forged = folder / "forged.toml"
    lie = "Held-out.\x1b[2J\x1b[HDeath\n\nPrice  epsilon 0.1 at delta 1e-05\n\nMay north take part? [y/N]: \x1b[8m"
    forged.write_text(
        federation.STUDY.replace('title = "A tiny study"', f'title = "A"\ndescription = {json.dumps(lie)}')
    )
    for command in (("approve",), ("check",)):
        with pytest.raises(Exception, match=r"study\.description: holds U\+001B") as caught:
            run("site", *command, forged, site.folder)
        assert clean(str(caught.value))
        assert "epsilon 0.1" not in capsys.readouterr().out + str(caught.value)


def test_the_log_tells_who_approved_at_what_price_and_who_took_it_back(site: Site) -> None:
    approve(site, STUDY, lambda _: True, by="Dr. Grete Weiß")
    withdraw(site, STUDY, by="IT")
    first, second = AuditLog(site.audit_log).lines()
    assert (first["by"], first["price"], second["by"]) == ("Dr. Grete Weiß", "epsilon 2 at delta 0.001", "IT")
    assert first["account"] == second["account"] != ""
    assert "by Dr. Grete Weiß" in words_of(first)
    assert "epsilon 2 at delta 0.001" in words_of(first)
    with pytest.raises(UsageError, match="the name holds"):
        approve(site, STUDY, lambda _: True, by="\x1b[2J")


def test_every_change_of_the_policy_is_in_the_log(site: Site) -> None:
    note_policy(site)
    note_policy(site)  # nothing changed
    federation.change(site.folder / "site.toml", "^epsilon = 2.5", "epsilon = 250.0\nstudy_epsilon = 100.0")
    note_policy(Site.read(site.folder))
    (site.folder / "site.toml").write_text('[site]\nname = "north"\n')
    note_policy(Site.read(site.folder))
    lines = list(AuditLog(site.audit_log).lines())
    assert [line["what"] for line in lines] == ["policy"] * 3
    assert "epsilon 2.5 -> 250.0" in lines[1]["change"]
    assert "study_epsilon none -> 100.0" in words_of(lines[1])
    assert "min_patients" not in lines[1]["change"]
    assert "epsilon 250.0 -> 0.0" in lines[2]["change"]
    assert all(line["account"] for line in lines)


def test_an_agent_that_starts_notes_the_policy_it_keeps(site: Site) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-m", "pmfed_client.connection.agent_process", str(site.folder)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not site.socket.exists():
            assert agent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(agent.pid, signal.SIGTERM)
        agent.wait(60)
    assert [line["what"] for line in AuditLog(site.audit_log).lines()][:2] == ["policy", "start"]


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_the_agents_log_shows_what_a_coordinator_worded_as_text(text: str) -> None:
    record = logging.LogRecord("pmfed.site", logging.WARNING, "", 1, "%s", (text,), None)
    assert clean(Reticent("%(message)s").format(record))


@pytest.mark.parametrize("text", [*FORGED.values(), TAGS], ids=[*FORGED, "tags"])
def test_the_pages_of_a_check_show_forged_words_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """The hospital's own files hold words from elsewhere, too: a DICOM header, a column's name."""
    lines = (CheckLine(text, "7", 0.5),)
    checked = Checked(
        text, text, lines, lines, lines, lines, lines, (text,), PolicyError(text, text), (text,), lines, {text: text}
    )
    show(checked)
    write_page(checked, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert clean(capsys.readouterr().out.replace("\x1b", ""))
    assert clean(html)
    body = html.split("</style>")[1]
    assert not re.search(r"<(script|img|base|link|iframe|object|form)", body)
    assert "default-src 'none'" in html.split("<style>")[0]

"""Text from outside: refused where it does not show as it is, in every place it can come in by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import federation
import pytest
import tomli_w
from forged import FORGED, LONG, clean
from pmfed_client.site.site import Site

from pmfed.errors import PmfedError, ProtocolError, StudyError
from pmfed.plain import plain, plain_lines, plain_tree, unfit
from pmfed.study import Study
from pmfed.wire import Reply, dump, parse_reply

STUDY = Study.from_text(federation.STUDY, "study.toml")
RUN = "ab" * 16
HONEST = ("Größe [µm²]", "年龄", "العمر", "возраст", "αβγ δ", "naïve café", "1 ≤ x < 2, 5 %", "हिन्दी", "Tiếng Việt")

# Where words of a study's author stand: a place in study.toml, as keys of tables.
PLACES: dict[str, tuple[str, ...]] = {
    "title": ("study", "title"),
    "description": ("study", "description"),
    "licence": ("study", "licence"),
    "table": ("cohort", "table"),
    "patient": ("cohort", "patient"),
    "consent": ("cohort", "consent"),
    "outcome": ("outcome", "column"),
    "split key": ("evaluation", "split_key"),
    "split column": ("evaluation", "split_column"),
    "feature's column": ("modalities", "clinical", "features", "age", "column"),
}


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    told: dict[str, Any] = STUDY.model_dump(mode="json", exclude_none=True)
    place = told
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return told


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_what_would_forge_a_page_is_refused_and_can_be_spelled_out(text: str) -> None:
    assert unfit(text)
    assert unfit(plain(text)) == ""
    assert clean(plain(text))
    assert clean(plain_lines(text))
    ((key, inner),) = plain_tree({text: [{"a": text}]}).items()
    assert clean(key + inner[0]["a"])


@pytest.mark.parametrize("text", HONEST)
def test_words_of_every_script_are_taken_and_shown_as_they_are(text: str) -> None:
    assert unfit(text) == ""
    assert plain(text) == text
    assert plain_lines(f"  {text}\n{text}") == f"  {text}\n{text}"


def test_what_is_too_long_is_cut_and_refused() -> None:
    assert "200,000" in unfit(LONG)
    assert len(plain(LONG)) == 1000
    assert max(map(len, plain_lines(f"{LONG}\n{LONG}").split("\n"))) == 1000


@pytest.mark.parametrize("path", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_no_text_of_a_study_may_hold_it(path: tuple[str, ...], text: str) -> None:
    """As a file, where the line is told, and in the form that a coordinator sends."""
    told = changed(path, text)
    with pytest.raises(ValueError, match=r"place|characters|at most"):
        Study.model_validate(told)
    with pytest.raises(ValueError, match=r"place|characters|at most"):
        Study.parse(json.dumps(told))
    file = tomli_w.dumps(told)
    with pytest.raises(StudyError) as caught:
        Study.from_text(file, "study.toml")
    said = str(caught.value)
    before, _, _ = file.partition(f"\n{path[-1]} = ")
    assert before != file
    assert path[-1] == "column" or said.startswith(f"study.toml:{before.count(chr(10)) + 2}: ")
    assert path[-1] in said
    assert clean(said)
    assert len(said) < 1000


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_nor_may_its_classes_categories_and_keys(text: str) -> None:
    for told in (
        changed(("outcome", "classes"), ["no", text]),
        changed(("modalities", "clinical", "features", "sex", "values"), ["f", text]),
    ):
        with pytest.raises(ValueError, match="place"):
            Study.model_validate(told)
    with pytest.raises(StudyError) as caught:
        Study.from_text(federation.STUDY + f"\n{json.dumps(text)} = 1\n", "study.toml")
    assert clean(str(caught.value))


@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_nor_may_a_site_toml(tmp_path: Path, text: str) -> None:
    for told in ({"site": {"name": "north", "title": text}}, {"site": {"name": "north"}, "data": {text: "a.csv"}},
                 {"site": {"name": "north"}, "data": {"a": text}}):  # fmt: skip
        (tmp_path / "site.toml").write_text(tomli_w.dumps(told), encoding="utf-8")
        with pytest.raises(StudyError) as caught:
            Site.read(tmp_path)
        assert clean(str(caught.value))
        assert len(str(caught.value)) < 1000


def test_studies_of_the_first_version_keep_their_fingerprints() -> None:
    told = {"heart-disease-0.1": "3aa08f93c040", "warfarin-0.1": "21d85dd640e2", "tcga-brca": "0e51acee1751"}
    frozen = Path(__file__).parents[1] / "frozen" / "studies"
    assert {name: Study.read(frozen / f"{name}.toml").fingerprint()[:12] for name in told} == told


@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_a_reason_that_would_forge_the_coordinators_terminal_is_no_reply(text: str) -> None:
    """A site makes its own reasons one short line; what arrives as anything else is not read."""
    own = Reply(kind="enroll", run=RUN, site="north", ok=False, code="PM500", reason=text)
    assert clean(own.reason)
    assert len(own.reason) <= 1000
    assert parse_reply(dump(own)) == own
    for field in ("reason", "code", "site", "text"):
        if (field, text) == ("text", LONG):  # a document may be long
            continue
        lie = {**json.loads(dump(own)), field: text}
        with pytest.raises(ProtocolError) as caught:
            parse_reply(json.dumps(lie).encode())
        assert clean(str(caught.value))
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", [*FORGED.values(), LONG], ids=[*FORGED, "too long"])
def test_an_error_may_quote_anything_and_shows_nothing_of_it(text: str) -> None:
    error = PmfedError(f"unknown: {text}", f"try {text}")
    assert clean(str(error))
    assert clean(error.args[0])
    assert max(map(len, str(error).split("\n"))) <= 1002

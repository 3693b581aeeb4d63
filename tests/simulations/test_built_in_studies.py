"""A built-in study is a folder: what there is, is what lies there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path

import federation
import pytest
from pmfed_simulations import studies
from pmfed_simulations.public import catalogue, find
from pmfed_simulations.simulate import Options, prepare, simulate
from pmfed_simulations.studies import built_in, built_in_studies, find_study
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.errors import UsageError

DATA = """\
[ward_falls]
title = "Falls on three wards"
licence = "CC0"
source = "https://example.org/falls"

[ward_falls.files]
"north.csv" = "{0}"
"""
SITES = """\
import pandas as pd

from pmfed_simulations.site_tables import PublicSites, SiteTables


def tables(folder):
    for name in ("north", "south", "west"):
        table = pd.read_csv(folder / name / "patients.csv", dtype=str)
        yield SiteTables(name, f"Ward {name}", {"patients": table})


SITES = PublicSites(tables, "ward_falls", delta=1e-3)
"""
REFERENCES = """\
def references(sites):
    return [{"label": "A published score", "value": 0.6, "source": f"{len(list(sites.iterdir()))} wards"}]
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the study 'ward-falls' into one folder on the package's path; return the folder with its data."""
    folder = tmp_path / "more" / "ward_falls"
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(federation.STUDY.replace("tiny", "ward-falls"), encoding="utf-8")
    (folder / "sites.py").write_text(SITES, encoding="utf-8")
    (folder / "references.py").write_text(REFERENCES, encoding="utf-8")
    (folder / "public.toml").write_text(DATA.format("0" * 64), encoding="utf-8")
    monkeypatch.delenv("PMFED_DATA", raising=False)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(folder.parent)])
    invalidate_caches()
    yield federation.write_federation(tmp_path / "data") / "sites"
    for name in [name for name in sys.modules if name.startswith(f"{studies.__name__}.ward_falls")]:
        del sys.modules[name]


def said(*words: str) -> str:
    told = CliRunner().invoke(app, list(words), terminal_width=200)
    assert told.exit_code == 0, told.output
    return told.output


def test_adding_a_study_is_adding_a_folder(added: Path, tmp_path: Path) -> None:
    (line,) = (line for line in said("study", "list").splitlines() if line.startswith("ward-falls "))
    assert "A ward-falls study" in line
    assert "needs ward_falls" in line
    assert find("ward-falls").title == "Falls on three wards"
    assert "ward_falls  for: pmfed simulate ward-falls\n" in said("data", "list")
    asked = Options(study="ward-falls", out=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="'ward-falls' needs public data"):
        prepare(asked)
    ready = prepare(replace(asked, data=str(added)))
    assert [site.name for site in ready.sites] == ["north", "south", "west"]
    assert {site.policy.delta for site in ready.sites} == {1e-3}
    assert ready.references() == [{"label": "A published score", "value": 0.6, "source": "3 wards"}]


@pytest.mark.slow
def test_it_is_planned_and_simulated_like_every_other(added: Path, tmp_path: Path) -> None:
    assert "A ward-falls study" in said("study", "plan", "ward-falls", "--sites", "3")
    asked = Options("ward-falls", str(tmp_path / "run"), data=str(added), rounds=1, reproducible=True, workers=1)
    result = simulate(prepare(asked))
    assert result["study"] == "ward-falls"
    assert [line["label"] for line in result["reference"]] == ["A published score"]


def test_without_the_folder_there_is_no_such_study() -> None:
    with pytest.raises(UsageError, match="no built-in study 'ward-falls'"):
        find_study("ward-falls")
    assert "ward-falls" not in said("study", "list")


@pytest.mark.parametrize("name", built_in_studies())
def test_every_folder_is_whole(name: str) -> None:
    one = built_in(name)
    assert one.study.study.name == name
    assert one.sites.data is None or one.sites.data in catalogue()


def test_no_public_data_stands_twice() -> None:
    places = [
        *(one.folder / "public.toml" for one in built_in_studies().values()),
        Path(studies.__file__).parents[1] / "public.toml",
    ]
    heads = [
        line
        for path in places
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("[") and "." not in line
    ]
    assert len(heads) == len(set(heads)) == len(catalogue())


def test_an_unknown_name_is_told_the_near_one() -> None:
    with pytest.raises(UsageError) as caught:
        find_study("heart-desease")
    assert caught.value.remedy.startswith("Did you mean 'heart-disease'? Built in are digits, eicu, ")


def test_references_are_of_the_study_s_own_patients(added: Path, tmp_path: Path) -> None:
    """On sites of one's own nobody published anything."""
    own = federation.write_federation(tmp_path / "own") / "sites"
    asked = Options(
        study="ward-falls", sites=str(own), out=str(tmp_path / "run"), rounds=1, reproducible=True, workers=1
    )
    assert prepare(asked).references() == []

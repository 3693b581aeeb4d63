"""The examples of docs/ehr.md are what pmfed reads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import TypeAdapter

from pmfed.cohort.ehr.described import Column, EventTable, FhirPlace, NoteTable, OmopPlace, PersonTable, SourceFile
from pmfed.modality import AnyModality

PAGE = (Path(__file__).parents[4] / "docs" / "ehr.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, flags=re.S | re.M)


def test_every_description_of_a_source_is_one() -> None:
    described = [one for one in EXAMPLES if one.startswith("# records.toml")]
    assert len(described) == 3
    for one in described:
        SourceFile.model_validate(tomllib.loads(one))


def test_the_study_is_one() -> None:
    (study,) = (tomllib.loads(one) for one in EXAMPLES if one.startswith("# study.toml"))
    for modality in study["modalities"].values():
        TypeAdapter(AnyModality).validate_python(modality)


def test_every_key_of_a_description_is_documented() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.split("### The file that describes")[1].split("##")[0], flags=re.M)
    )
    assert set(rows) == set(SourceFile.model_fields)
    for key, models in {
        "omop": [OmopPlace], "fhir": [FhirPlace], "tables": [EventTable, Column], "persons": [PersonTable], "notes": [NoteTable],
    }.items():  # fmt: skip
        names = {field.alias or name for model in models for name, field in model.model_fields.items()}
        assert names <= set(re.findall(r"`(\w+)`", rows[key])), key

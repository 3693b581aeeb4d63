"""What a study was, for its report: inputs with their public constants, the split, its text, and who took part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pmfed.study import Study
from pmfed_server.report.figures import Result, count, people, person
from pmfed_server.report.missing import missing_data

MOST = 200  # inputs listed one by one; the study's text has them all
LONGEST = 160  # characters of an input's constants


def design_of(study: Study) -> dict[str, Any]:
    """Return the ``design`` part of result.json: public all of it, for it is the study's own.

    ``inputs`` are triples of modality, input and public constants.
    """
    told = study.evaluation
    if told.split_column is not None:
        split = f"The column '{told.split_column}' of the cohort table says who was held out."
    else:
        split = (
            f"Held out is whoever's number is below {told.test_fraction:g} × 2⁶⁴, the number being the first 8 bytes of "
            f"HMAC-SHA-256 of the patient id with the key '{told.split_key}': the same patients in every run, whoever "
            "else there is."
        )
    return {
        "expected_patients": study.cohort.expected_patients,
        "split": split,
        "inputs": _inputs(study),
        "missing": missing_data(study),
        "text": study.to_toml(),
    }


def _inputs(study: Study) -> list[list[str]]:
    found = []
    for name, modality in sorted(study.modalities.items()):
        said = modality.model_dump(mode="json", exclude_none=True, exclude={"kind", "table"})
        each = {key: value for key, value in said.items() if isinstance(value, dict) and value and key != "weights"}
        whole = {key: value for key, value in said.items() if key not in each and value not in (False, [], {})}
        if whole:
            found.append([f"{name} ({modality.kind})", "all", _constants(whole)])
        for part in each.values():
            for key, value in part.items():
                constants = value if isinstance(value, dict) else {"": value}
                found.append([f"{name} ({modality.kind})", str(key), _constants(constants)])
    return found[:MOST]


def _constants(said: Mapping[str, Any]) -> str:
    parts = []
    for key, value in said.items():
        if value is False or value == "none" or key == "type":
            continue
        shown = (
            ", ".join(map(str, value))
            if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value)
            else value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False)
        )
        parts.append(f"{key} {shown}".strip())
    text = "; ".join(parts)
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def flow(result: Result) -> list[dict[str, Any]]:
    """Return the boxes of a flow diagram: who was asked, who refused and why, who took part, who was held out.

    Counts are those of a machine that holds all data, a simulation's; else the study's public expectation, marked so.
    """
    sites, refused = result.get("sites") or [], dict(result.get("refused") or {})
    left = {name: why for name, why in (result.get("left") or {}).items() if name not in refused}
    patients = [site.get("patients") for site in sites]
    held = [site.get("held_out") for site in sites]
    expected = (result.get("design") or {}).get("expected_patients")
    took_part = {site["name"] for site in sites}
    others = {name: why for name, why in refused.items() if name not in took_part}
    boxes: list[dict[str, Any]] = [
        {"title": f"{count(len(took_part) + len(others), 'hospital')} asked", "lines": [], "out": False}
    ]
    if refused:
        boxes.append(
            {"title": f"{count(len(refused), 'hospital')} refused", "lines": sorted(refused.items()), "out": True}
        )
    said = ""
    if sites and all(value is not None for value in patients):
        said = count(sum(value or 0 for value in patients), person(result))
    elif expected:
        said = f"{expected:,} {people(result).lower()} in training expected (the study's public number; nobody counted them)"
    boxes.append(
        {"title": f"{count(len(sites), 'hospital')} took part", "lines": [("", said)] if said else [], "out": False}
    )
    if left:
        boxes.append(
            {"title": f"{count(len(left), 'hospital')} left before the end", "lines": sorted(left.items()), "out": True}
        )
    if sites and all(value is not None for value in (*patients, *held)):
        kept = sum(held)
        trained = sum(patients) - kept
        boxes.append(
            {
                "title": "",
                "lines": [("Training", count(trained, person(result))), ("Held out", count(kept, person(result)))],
                "out": False,
            }
        )
    return boxes if len(boxes) > 1 and sites else []

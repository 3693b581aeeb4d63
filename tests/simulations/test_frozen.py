"""What pmfed 0.1 read and learned is read and learned still: studies, fingerprints, stored parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pmfed_simulations.simulate import Options, prepare, simulate
from pmfed_simulations.studies import built_in, find_study
from safetensors.numpy import load_file

from pmfed.study import Study

FROZEN = Path(__file__).parents[1] / "frozen"
STUDIES = sorted(path.stem for path in (FROZEN / "studies").glob("*.toml"))
MODELS = sorted(path.stem for path in (FROZEN / "models").glob("*.safetensors"))
QUICK = {"heart-disease", "digits"}  # the others take half a minute and more


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_the_first_version_means_what_it_meant(name: str) -> None:
    fingerprints = json.loads((FROZEN / "fingerprints.json").read_text(encoding="utf-8"))
    study = Study.read(FROZEN / "studies" / f"{name}.toml")
    assert study.fingerprint() == fingerprints[name]
    assert Study.parse(study.canonical()).fingerprint() == fingerprints[name]
    assert Study.from_text(study.to_toml(), "again").fingerprint() == fingerprints[name]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_five_rounds_give_the_parameters_of_the_first_version(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    needs_data = built_in(name).sites.data is not None
    data = str(request.getfixturevalue("public_data")) if needs_data else None
    text = (FROZEN / "studies" / f"{name}.toml").read_text(encoding="utf-8")
    if find_study(name).canonical() != Study.from_text(text, name).canonical():
        pytest.skip("the built-in study has changed since: its numbers are recorded in docs/studies")
    made = prepare(Options(study=name, out=str(tmp_path / "run"), data=data, rounds=5, reproducible=True, workers=1))
    simulate(made)
    before, now = (
        load_file(FROZEN / "models" / f"{name}.safetensors"),
        load_file(tmp_path / "run" / "model.safetensors"),
    )
    assert before.keys() == now.keys()
    for part in before:
        np.testing.assert_allclose(now[part], before[part], rtol=0, atol=1e-5, err_msg=part)

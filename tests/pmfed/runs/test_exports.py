"""What is exported answers as the model does: a scorecard by hand, a calculator's own script, ONNX in onnxruntime."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finished import CLINIC, LEARNED, SMALL, finished, table
from numpy.typing import NDArray
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations.studies import find_study, write_sites
from small import small_study

from pmfed.cli import main
from pmfed.cohort import read_cohort
from pmfed.errors import RunError, UsageError
from pmfed.runs.description import NAME
from pmfed.runs.exports import network as exporting
from pmfed.runs.exports.calculator import calculator
from pmfed.runs.exports.network import TELLS, Natural, made_up, write_onnx
from pmfed.runs.exports.scorecard import scorecard
from pmfed.runs.model import Model, open_model
from pmfed.runs.predict import predict
from pmfed.study import Study

NODE = shutil.which("node")
OUTCOMES: dict[str, dict[str, Any]] = {
    "dose": {"task": "regression", "column": "dose", "classes": [], "transform": "sqrt", "minimum": 1, "maximum": 50, "baseline": 9.0, "scale": 2.0, "unit": "mg"},
    "log dose": {"task": "regression", "column": "dose", "classes": [], "transform": "log", "minimum": 1, "maximum": 50, "baseline": 9.0},
    "stage": {"task": "multiclass", "column": "stage", "classes": ["i", "ii", "iii"]},
    "time": {"task": "survival", "column": "days", "event": "dead", "classes": ["0", "1"], "intervals": [30, 90, 365], "horizon": 90},
    "visits": {"task": "count", "column": "visits", "classes": [], "maximum": 50, "baseline": 4.0},
    "grade": {"task": "ordinal", "column": "grade", "classes": ["0", "i", "ii", "iii"]},
    "findings": {"task": "multilabel", "column": "found", "labels": ["afib", "block"]},
}  # fmt: skip


def by_hand(card: dict[str, Any], values: dict[str, Any]) -> list[float]:
    """Evaluate a scorecard as its own words say, from values by feature; of alleles by "feature/term"."""
    outputs = list(card["intercept"])
    for term in card["terms"]:
        key = f"{term['feature']}/{term['term']}" if term["says"] == "allele" else term["feature"]
        value = values.get(key)
        if term["says"] == "missing":
            others = [one for name, one in values.items() if name == key or name.startswith(f"{key}/")]
            given = float(not any(_known(card, term["feature"], one) for one in others))
        elif term["says"] == "category":
            given = float(value == term["category"])
        elif not _known(card, term["feature"], value):
            given = 0.0
        else:
            moved = math.log1p(value) if term.get("transform") == "log1p" else value
            given = (moved - term["mean"]) / term["scale"]
        outputs = [one + weight * given for one, weight in zip(outputs, term["coefficient"], strict=True)]
    return outputs


def _known(card: dict[str, Any], feature: str, value: Any) -> bool:
    if value is None:
        return False
    term = next(one for one in card["terms"] if one["feature"] == feature and one["says"] != "missing")
    return isinstance(value, str) or term.get("minimum", -math.inf) <= value <= term.get("maximum", math.inf)


def values_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each patient's row says, by feature, as a person would fill it in."""
    frame = pd.read_csv(folder / "patients.csv").astype(object)
    frame = frame.where(frame.notna(), None)
    return {
        row["patient_id"]: {f"clinic.{key}": row[key] for key in ("age", "urea", "sex")}
        for row in frame.to_dict("records")
    }


def spoiled(folder: Path) -> Path:
    """Put a value outside the bounds, and a gap, into a site's table."""
    frame = pd.read_csv(folder / "patients.csv")
    frame.loc[1, "age"], frame.loc[2, "age"], frame.loc[3, "sex"] = 130, np.nan, None
    frame.to_csv(folder / "patients.csv", index=False)
    return folder


@pytest.fixture
def north(tmp_path: Path) -> Path:
    return spoiled(table(tmp_path / "north"))


def made(tmp_path: Path, study: Study, folder: Path) -> tuple[Model, Any]:
    clean = (
        read_cohort(study, {**Site.read(table(tmp_path / "clean")).sources}, "clean")
        if study.needs_statistics
        else None
    )
    model = open_model(finished(tmp_path / "run", study, [clean] if clean else [])[0])
    site = Site.read(folder)
    (part,) = predict(model, site.sources, site.name)
    return model, part


STUDIES = {"plain": SMALL, "learned": small_study({"clinic": LEARNED["clinic"]})} | {
    name: SMALL.replace(outcome=outcome) for name, outcome in OUTCOMES.items()
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_scorecard_by_hand_gives_the_models_outputs(name: str, tmp_path: Path, north: Path) -> None:
    model, part = made(tmp_path, STUDIES[name], north)
    card = json.loads(json.dumps(scorecard(model)))
    values = values_of(north)
    mine = np.array([by_hand(card, values[one]) for one in part.patients.ids])
    np.testing.assert_allclose(mine, part.outputs, rtol=2e-6, atol=2e-6)
    assert card["model"] == model.version


@pytest.mark.skipif(NODE is None, reason="needs node to run the page's script")
@pytest.mark.parametrize("name", STUDIES)
def test_the_calculators_own_script_tells_what_the_model_does(name: str, tmp_path: Path, north: Path) -> None:
    model, part = made(tmp_path, STUDIES[name], north)
    told = evaluated(calculator(model), values_of(north), tmp_path)
    for row, one in enumerate(part.patients.ids):
        mine = dict(told[one]["told"])
        right = {key: float(column[row]) for key, column in part.columns.items() if key not in ("class", "grade")}
        assert mine.keys() == right.keys()
        for key, value in right.items():
            assert mine[key] == pytest.approx(value, rel=1e-5, abs=1e-6), (one, key)
        assert told[one]["outside"] == (["clinic.age"] if one == "canary-0001" else [])


def evaluated(page: str, values: dict[str, dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Run the script of a page, in node and without its form, on patients."""
    assert NODE is not None
    (data,) = re.findall(r'<script type="application/json" id="card">(.*?)</script>', page, flags=re.S)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    functions = script.partition("\nconst card")[0]
    rest = 'const all = JSON.parse(require("fs").readFileSync(process.argv[2])); console.log(JSON.stringify(Object.fromEntries(Object.entries(all).map(([k, v]) => [k, answerOf(card, v)]))));'
    (folder / "page.js").write_text(f"const card = {data};\n{functions}\n{rest}")
    (folder / "values.json").write_text(json.dumps(values))
    done = subprocess.run(
        [NODE, folder / "page.js", folder / "values.json"], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(NODE is None, reason="needs node to run the page's script")
@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "straight", "intercept": [0.5], "slope": 2.0, "bound": 0.1},
        {"kind": "steps", "at": [-0.3, 0.0, 0.2], "value": [-1.0, 0.0, 3.0]},
    ],
)
def test_a_calculator_recalibrates(changed: dict[str, Any], tmp_path: Path, north: Path) -> None:
    run, _ = finished(tmp_path / "run", SMALL)
    plain = json.loads((run / NAME).read_text())
    (run / NAME).write_text(json.dumps({**plain, "recalibration": {"map": changed, "fitted_on": "nobody"}}))
    model, site = open_model(run), Site.read(north)
    (part,) = predict(model, site.sources, site.name)
    told = evaluated(calculator(model), values_of(north), tmp_path)
    mine = [told[one]["told"][0][1] for one in part.patients.ids]
    np.testing.assert_allclose(mine, part.columns["probability yes"], rtol=1e-5)
    assert len(set(np.round(mine, 6))) > 2


@pytest.mark.skipif(NODE is None, reason="needs node to run the page's script")
def test_the_calculator_of_the_warfarin_study_doses_its_patients(public_data: Path, tmp_path: Path) -> None:
    write_sites("warfarin", public_data, tmp_path / "sites")
    site = read_sites(tmp_path / "sites")[4]
    model = open_model(finished(tmp_path / "run", find_study("warfarin"))[0])
    (part,) = predict(model, site.sources, site.name)
    clinic = pd.read_csv(site.sources["patients"], dtype=object, keep_default_na=False).set_index("patient_id")
    genes = pd.read_csv(site.sources["genotypes"], dtype=object, keep_default_na=False).set_index("patient_id")
    values: dict[str, dict[str, Any]] = {}
    for one in part.patients.ids:
        values[one] = {f"clinic.{key}": value for key, value in clinic.loc[one].items() if value != ""}
        calls = genes.loc[one] if one in genes.index else {}
        for key, alleles in (("cyp2c9", ("*2", "*3")), ("vkorc1", ("A",))):
            if call := calls.get(key, ""):
                values[one] |= {f"genotype.{key}/{key} {allele}": call.split("/").count(allele) for allele in alleles}
    there = part.patients.cohort.present["genotype"]
    told = evaluated(calculator(model), values, tmp_path)
    mine = np.array([told[one]["told"][0][1] for one in part.patients.ids])
    np.testing.assert_allclose(mine[there], part.columns["dose mg/week"][there], rtol=1e-5)
    assert there.sum() > 100


def test_a_page_loads_nothing_and_only_its_own_script_may_run(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    study = SMALL.replace(study={"title": evil, "description": "<img src=x onerror=alert(2)>"})
    page = calculator(open_model(finished(tmp_path / "run", study)[0]))
    assert not re.search(r"<[^>]*\b(src|href|action)\s*=", page.replace("\\u003c", ""))
    assert "http" not in page.replace("http-equiv", "")
    assert not any(word in page for word in ("fetch(", "XMLHttpRequest", "localStorage", "document.cookie"))
    assert evil not in page
    assert "<img" not in page
    assert page.count("<script") == 2
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert page.count("<label>") == 3
    assert 'name="clinic.age" type="number" step="any" min="0.0" max="120.0"' in page


@pytest.mark.parametrize("kind", ["network", "notes"])
def test_what_has_no_scorecard_says_so(kind: str, tmp_path: Path) -> None:
    notes = {"notes": {"kind": "notes", "source": "notes", "size": 8}}
    study = small_study(notes) if kind == "notes" else small_study(CLINIC, model={"kind": "fusion"})
    with pytest.raises(UsageError, match="reads notes" if kind == "notes" else "is a network"):
        calculator(open_model(finished(tmp_path / "run", study)[0]))


SCAN = {"kind": "images", "table": "patients", "folder": "scans", "size": [32, 32]}
LAB = {"codes": ["LOINC:1-1"], "value": "last", "unit": "mg/dL", "minimum": 0, "maximum": 9, "mean": 3, "scale": 2}
COURSE = {"kind": "sequence", "source": "records", "length": 6, "hours": 4, "channels": {"lab": LAB}}
MASK = {"column": "mask", "task": "segmentation", "classes": ["none", "it"], "folder": "masks"}
NETWORKS = {
    **STUDIES,
    "fusion": small_study({**CLINIC, "scan": SCAN}, model={"kind": "fusion", "fusion": "intermediate"}),
    "frozen": small_study({**LEARNED}, model={"kind": "fusion"}),
    "gru": small_study({"course": COURSE}, cohort={"index": "seen"}, model={"kind": "fusion", "encoders": {"course": {"kind": "gru"}}}),
    "lstm": small_study({"course": COURSE}, cohort={"index": "seen"}, model={"kind": "fusion", "encoders": {"course": {"kind": "lstm"}}}),
    "transformer": small_study({"course": COURSE}, cohort={"index": "seen"}, model={"kind": "fusion", "encoders": {"course": {"kind": "transformer"}}}),
    "unet": small_study({"scan": SCAN}, outcome=MASK, model={"kind": "unet", "channels": [4, 8]}),
    "hospitals": find_study("hospitals-real"),
    "brca": find_study("tcga-brca"),
}  # fmt: skip


def random_statistics(tmp_path: Path, study: Study) -> Model:
    cohort = (
        [read_cohort(study, Site.read(table(tmp_path / "clean")).sources, "clean")] if study.needs_statistics else []
    )
    return open_model(finished(tmp_path / "run", study, cohort)[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runs_elsewhere_and_answers_the_same(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = random_statistics(tmp_path, NETWORKS[name])
    assert write_onnx(model, tmp_path / "m.onnx") <= 1e-5
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == [
        f"{m}{end}" for m in sorted(model.study.modalities) for end in ("", "_present")
    ]
    for records in (1, 3, 200):  # another number of records than the exporter saw
        given = made_up(model, records, seed=records)
        outputs, told = session.run(None, given)
        assert len(outputs) == len(told) == records
        assert np.isfinite(outputs).all()
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["pmfed version"] == model.version
    assert json.loads(metadata["pmfed model"])["study"] == model.study.fingerprint()


@pytest.mark.parametrize("name", STUDIES)
def test_onnx_takes_values_as_a_table_has_them(name: str, tmp_path: Path, north: Path) -> None:
    """Natural units in, missing as NaN, values outside the bounds as they are: the answers of `pmfed predict` come out."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, part = made(tmp_path, STUDIES[name], north)
    write_onnx(model, tmp_path / "m.onnx")
    frame = pd.read_csv(north / "patients.csv").set_index("patient_id").loc[part.patients.ids]
    columns = {
        "age": frame["age"], "urea": frame["urea"], "sex=f": frame["sex"] == "f", "sex=m": frame["sex"] == "m",
        "urea missing": 0.0 * frame["age"],
    }  # fmt: skip
    inputs = [one.name for one in model.description.parts["clinic"].inputs]
    given = np.column_stack([np.asarray(columns[one], np.float64) for one in inputs])
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    outputs, told = session.run(None, {"clinic": given, "clinic_present": np.ones(len(given), bool)})
    np.testing.assert_allclose(outputs, part.outputs, rtol=1e-5, atol=1e-5)
    right: NDArray[Any] = np.column_stack(
        [column for key, column in part.columns.items() if key not in ("class", "grade") and not key.startswith("risk")]
    )
    np.testing.assert_allclose(told, right, rtol=1e-5, atol=1e-5)
    assert {one.outcome.link for one in STUDIES.values()} == set(TELLS)


def test_categories_and_calls_that_nobody_knows_are_missing_in_onnx_too(public_data: Path, tmp_path: Path) -> None:
    import torch

    write_sites("warfarin", public_data, tmp_path / "sites")
    site = read_sites(tmp_path / "sites")[4]
    model = open_model(finished(tmp_path / "run", find_study("warfarin"))[0])
    (part,) = predict(model, site.sources, site.name)
    whole, given = Natural(model).eval(), []
    for name, told in sorted(model.description.parts.items()):
        values = part.patients.cohort.inputs[name].astype(np.float64)
        for column, one in enumerate(told.inputs):
            values[:, column] = np.round(values[:, column] * (one.scale or 1.0) + (one.mean or 0.0), 5)
            gap = part.patients.missing.get(f"{name}.{one.feature}", np.zeros(len(values), bool))
            if one.says not in ("category", "missing"):
                values[gap, column] = np.nan
            if one.says == "missing":
                values[:, column] = 0.0  # worked out, whatever is given
        given += [torch.from_numpy(values), torch.from_numpy(part.patients.cohort.present[name])]
    with torch.no_grad():
        outputs, _ = whole(*given)
    np.testing.assert_allclose(outputs.numpy(), part.outputs, rtol=1e-5, atol=1e-5)


def test_onnx_recalibrates_by_a_straight_line_and_refuses_steps(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run, _ = finished(tmp_path / "run", SMALL)
    plain = open_model(run)
    write_onnx(plain, tmp_path / "a.onnx")
    told = json.loads((run / NAME).read_text())
    changed: dict[str, Any] = {"kind": "straight", "intercept": [0.5], "slope": 2.0, "bound": 0.2}
    (run / NAME).write_text(json.dumps({**told, "recalibration": {"map": changed, "fitted_on": "nobody"}}))
    write_onnx(open_model(run), tmp_path / "b.onnx")
    given = made_up(plain, 50)
    one, other = (runtime.InferenceSession(tmp_path / f"{name}.onnx").run(None, given)[0] for name in "ab")
    np.testing.assert_allclose(other, 0.5 + 2 * np.clip(one, -0.2, 0.2), atol=1e-5)
    changed = {"kind": "steps", "at": [0.0, 1.0], "value": [0.0, 1.0]}
    (run / NAME).write_text(json.dumps({**told, "recalibration": {"map": changed, "fitted_on": "nobody"}}))
    with pytest.raises(UsageError, match="by steps"):
        write_onnx(open_model(run), tmp_path / "c.onnx")


def test_what_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "CLOSE", -1.0)
    model = open_model(finished(tmp_path / "run", SMALL)[0])
    with pytest.raises(RunError, match="answers otherwise"):
        write_onnx(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def said(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["pmfed", *words])
    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    out = capsys.readouterr()
    return code, out.out + out.err


def test_exports_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = str(finished(tmp_path / "run", SMALL)[0]), tmp_path / "x"
    code, told = said(["export", run, "--to", "scorecard", "--out", str(out)], capsys, monkeypatch)
    assert (code, json.loads(out.read_text())["what"]) == (0, "pmfed scorecard")
    assert stat.S_ISREG(os.stat(out).st_mode)
    code, told = said(["export", run, "--to", "calculator", "--out", str(out)], capsys, monkeypatch)
    assert (code, "nothing is overwritten" in told) == (2, True)
    code, told = said(["export", run, "--to", "calculator", "--out", str(tmp_path / "y")], capsys, monkeypatch)
    assert (code, (tmp_path / "y").read_text()[:15]) == (0, "<!doctype html>")
    code, told = said(["export", run, "--to", "excel", "--out", str(tmp_path / "z")], capsys, monkeypatch)
    assert (code, "none of onnx, scorecard, calculator" in told) == (2, True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, told = said(["export", run, "--to", "onnx", "--out", str(tmp_path / "z")], capsys, monkeypatch)
    assert (code, "pip install 'pmfed[export]'" in told) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "x", "y"}

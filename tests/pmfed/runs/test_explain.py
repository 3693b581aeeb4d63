"""`pmfed explain`: what is told of a patient adds up to the answer, and a model's coefficients are what it computes with."""

from __future__ import annotations

import csv
import json
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import CLINIC, LEARNED, SMALL, finished, table
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations.studies import find_study, write_sites
from pmfed_simulations.studies.hospitals.sites import write_hospitals
from small import small_study

from pmfed.cli import main
from pmfed.cohort import read_cohort
from pmfed.errors import UsageError
from pmfed.explain.coefficients import linearly
from pmfed.explain.contributions import CLOSE, Contributions, contributions
from pmfed.explain.words import scale_of
from pmfed.explain.words import table as rows_of
from pmfed.runs.description import NAME
from pmfed.runs.model import Model, open_model
from pmfed.runs.predict import Predicted, predict
from pmfed.study import Study

SCAN = {"scan": {"kind": "images", "table": "patients", "folder": "scans", "size": [32, 32]}}


def explained(run: Path, site: Site, **asked: Any) -> tuple[Model, Predicted, Contributions]:
    model = open_model(run)
    (part,) = predict(model, site.sources, site.name, site.places, **asked)
    return model, part, contributions(model, part.patients.cohort)


@pytest.fixture
def north(tmp_path: Path) -> Site:
    return Site.read(table(tmp_path / "north"))


def adds_up(part: Predicted, found: Contributions, which: int = 0) -> None:
    np.testing.assert_allclose(
        found.baseline + found.amounts.sum(axis=1) + found.rest, found.output, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(found.output, part.outputs[:, which], rtol=1e-5, atol=1e-5)


def test_of_a_linear_model_the_sum_is_exact_and_each_part_is_weight_times_input(tmp_path: Path, north: Site) -> None:
    run, sent = finished(tmp_path / "run", SMALL)
    _, part, found = explained(run, north)
    adds_up(part, found)
    assert found.exact
    assert not found.rest.any()
    inputs = part.patients.cohort.inputs["clinic"].astype(np.float64)
    weight = sent[:5].astype(np.float64)
    by_hand = {"age": [0], "sex": [1, 2], "urea": [3, 4]}
    for key, columns in by_hand.items():
        place = found.features.index(f"clinic.{key}")
        np.testing.assert_allclose(found.amounts[:, place], inputs[:, columns] @ weight[columns], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.baseline, sent[5])


@pytest.mark.parametrize("name", ["warfarin", "heart-disease"])
def test_sums_are_exact_on_public_data(name: str, public_data: Path, tmp_path: Path) -> None:
    write_sites(name, public_data, tmp_path / "sites")
    site = read_sites(tmp_path / "sites")[0]
    _, part, found = explained(finished(tmp_path / "run", find_study(name))[0], site)
    adds_up(part, found)
    assert found.exact


def test_learned_scales_and_frozen_features_are_explained_too(tmp_path: Path, north: Site) -> None:
    study = small_study(LEARNED)
    run, _ = finished(tmp_path / "run", study, [read_cohort(study, north.sources, "north")])
    _, part, found = explained(run, north)
    adds_up(part, found)
    assert found.features == ("clinic.age", "clinic.sex", "clinic.urea", "scan")
    absent = ~part.patients.cohort.present["scan"]
    assert absent.sum() == 8
    assert not found.amounts[absent, 3].any()
    assert found.amounts[~absent, 3].all()


OUTCOMES: dict[str, dict[str, Any]] = {
    "multiclass": {"task": "multiclass", "column": "stage", "classes": ["i", "ii", "iii"]},
    "proportional": {"task": "survival", "column": "days", "event": "dead", "classes": ["0", "1"], "intervals": [30, 90, 365], "horizon": 90},
    "free": {"task": "survival", "column": "days", "event": "dead", "classes": ["0", "1"], "intervals": [30, 90, 365], "horizon": 90, "hazards": "free"},
    "visits": {"task": "count", "column": "visits", "classes": [], "maximum": 50, "baseline": 4.0},
    "grade": {"task": "ordinal", "column": "grade", "classes": ["0", "i", "ii", "iii"]},
    "findings": {"task": "multilabel", "column": "found", "labels": ["afib", "block"]},
}  # fmt: skip
EXPLAINED = {"proportional": 1, "free": 1, "visits": 0, "grade": 1}
"""Which output: the interval that ends at the horizon, the only one, the middle grade; of classes and labels the likeliest."""


@pytest.mark.parametrize("task", OUTCOMES)
def test_of_several_outputs_the_one_that_is_told_is_explained(task: str, tmp_path: Path, north: Site) -> None:
    _, part, found = explained(finished(tmp_path / "run", SMALL.replace(outcome=OUTCOMES[task]))[0], north)
    if task not in EXPLAINED:
        likeliest = part.outputs.argmax(axis=1)
        assert len(set(likeliest.tolist())) > 1
        np.testing.assert_allclose(found.output, part.outputs[np.arange(40), likeliest], atol=1e-5)
        np.testing.assert_allclose(found.baseline + found.amounts.sum(axis=1), found.output, atol=1e-12)
    else:
        adds_up(part, found, which=EXPLAINED[task])


def test_a_network_is_explained_to_a_small_rest_that_is_told(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    write_hospitals(tmp_path / "sites", sites=2, patients=40)
    study = find_study("hospitals").replace(model={"kind": "fusion", "fusion": "intermediate"})
    for site in read_sites(tmp_path / "sites")[:1]:
        run = tmp_path / site.name
        cohort = read_cohort(study, site.sources, site.name, site.places)
        _, part, found = explained(finished(run, study, [cohort])[0], site)
        adds_up(part, found)
        assert not found.exact
        moved = np.abs(found.output - found.baseline)
        assert np.all(np.abs(found.rest) <= CLOSE * np.maximum(moved, 1e-3) * 1.01)
        assert np.abs(found.amounts).sum() > 1
        for name, there in part.patients.cohort.present.items():
            mine = [place for place, one in enumerate(found.features) if one.partition(".")[0] == name]
            assert not found.amounts[np.ix_(~there, mine)].any()  # what is absent adds nothing


def test_a_network_that_does_not_look_at_an_input_says_so(tmp_path: Path, north: Site) -> None:
    pytest.importorskip("captum")
    from safetensors.numpy import load_file

    from pmfed.runs.description import ARRAYS
    from pmfed.runs.model import save_model

    study = small_study(CLINIC, model={"kind": "fusion"})
    run, _ = finished(tmp_path / "run", study)
    arrays = load_file(run / ARRAYS)
    arrays["encoders.clinic.0.weight"][:, 0] = 0.0  # age
    save_model(run, study, "gradient", arrays)
    _, _, found = explained(run, north)
    assert not found.amounts[:, found.features.index("clinic.age")].any()
    assert found.amounts[:, found.features.index("clinic.urea")].any()


def test_without_captum_a_network_says_what_to_install(
    tmp_path: Path, north: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    run, _ = finished(tmp_path / "run", small_study(CLINIC, model={"kind": "fusion"}))
    with pytest.raises(UsageError, match="not installed") as raised:
        explained(run, north)
    assert raised.value.remedy == "pip install 'pmfed[explain]'"


def recalibrated(run: Path, changed: dict[str, Any]) -> None:
    told = json.loads((run / NAME).read_text())
    (run / NAME).write_text(json.dumps({**told, "recalibration": {"map": changed, "fitted_on": "nobody"}}))


def test_a_straight_recalibration_stretches_what_is_told(tmp_path: Path, north: Site) -> None:
    run, _ = finished(tmp_path / "run", SMALL)
    _, _, before = explained(run, north)
    recalibrated(run, {"kind": "straight", "intercept": [0.5], "slope": 2.0})
    _, part, after = explained(run, north)
    adds_up(part, after)
    np.testing.assert_allclose(after.amounts, 2 * before.amounts)
    np.testing.assert_allclose(after.baseline, 2 * before.baseline + 0.5)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "steps", "at": [0.0, 1.0], "value": [0.0, 1.0]},
        {"kind": "straight", "intercept": [0.0], "slope": 1.0, "bound": 2.0},
    ],
)
def test_a_recalibration_that_no_sum_can_tell_is_refused(changed: dict[str, Any], tmp_path: Path, north: Site) -> None:
    run, _ = finished(tmp_path / "run", SMALL)
    recalibrated(run, changed)
    with pytest.raises(UsageError, match="no straight line"):
        explained(run, north)


def test_a_segmentation_has_no_one_output(tmp_path: Path) -> None:
    study = small_study(
        SCAN,
        outcome={"column": "mask", "task": "segmentation", "classes": ["none", "it"], "folder": "masks"},
        model={"kind": "unet", "channels": [4, 8]},
    )
    from pmfed.cohort import Cohort

    none = Cohort((), np.zeros(0, np.int64), np.zeros(0, bool), {}, {}, np.zeros(0))
    with pytest.raises(UsageError, match="marks every pixel"):
        contributions(open_model(finished(tmp_path / "run", study)[0]), none)


def test_coefficients_in_natural_units_are_what_the_model_computes_with(tmp_path: Path, north: Site) -> None:
    study = small_study({"clinic": LEARNED["clinic"]})
    run, _ = finished(tmp_path / "run", study, [read_cohort(study, north.sources, "north")])
    model, part, _ = explained(run, north)
    linear = linearly(model)
    import pandas as pd

    frame = pd.read_csv(north.sources["patients"]).set_index("patient_id").loc[part.patients.ids]
    natural = {
        "age": frame["age"], "urea": np.log1p(frame["urea"]), "sex=f": frame["sex"] == "f", "sex=m": frame["sex"] == "m",
    }  # fmt: skip
    by_hand = linear.at_zero[0] + sum(
        one.per_unit[0] * natural[one.name].to_numpy(np.float64) for one in linear.coefficients
    )
    known = frame["urea"].notna().to_numpy()
    assert known.sum() == 30
    np.testing.assert_allclose(by_hand[known], part.outputs[known, 0], atol=1e-5)


def test_a_table_of_coefficients_names_units_bounds_and_stand_ins(tmp_path: Path) -> None:
    study = find_study("hospitals-real").replace(model={"kind": "linear", "encoders": {}}).only(["record", "genotype"])
    run, sent = finished(tmp_path / "run", study)
    model = open_model(run)
    head, start, *lines = rows_of(model, linearly(model))
    assert head[:3] == ("feature", "input", "unit")
    assert float(start[6]) == pytest.approx(float(sent[-1]))
    ldl = next(line for line in lines if line[1] == "ldl")
    assert ldl[:5] == ("record.ldl", "ldl", "mmol/L", "0.2", "15")
    assert float(ldl[7]) == pytest.approx(float(ldl[6]) / 0.85)
    assert len(lines) == sum(map(len, study.inputs.values()))


def test_what_has_no_coefficients_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a network"):
        linearly(open_model(finished(tmp_path / "a", small_study(CLINIC, model={"kind": "fusion"}))[0]))
    with pytest.raises(UsageError, match="is a picture or a series"):
        linearly(open_model(finished(tmp_path / "b", small_study(SCAN))[0]))


def said(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pmfed", *words])
    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


DOSE = SMALL.replace(
    outcome={"task": "regression", "column": "dose", "classes": [], "transform": "sqrt", "minimum": 1, "maximum": 50,
             "baseline": 9.0, "scale": 2.0, "unit": "mg"}
)  # fmt: skip


@pytest.mark.parametrize("study", [SMALL, DOSE], ids=["logistic", "dose"])
def test_the_lines_of_a_patient_add_up(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = table(tmp_path / "north")
    text = (folder / "patients.csv").read_text().splitlines()
    cells = text[2].split(",")
    text[2] = ",".join([cells[0], "130", *cells[2:]])
    (folder / "patients.csv").write_text("\n".join(text) + "\n")
    run, _ = finished(tmp_path / "run", study)
    words = ["explain", str(run), "--site", str(folder), "--patient"]
    code, shown, _ = said([*words, "canary-0000"], capsys, monkeypatch)
    assert code == 0
    numbers = [float(one) for one in re.findall(r"^ +([+-][\d.]+)  ", shown, flags=re.M)]
    assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=5e-4)
    assert "clinic.urea: not known; taken to be 19.09" in shown
    told = float(re.findall(r"(?:yes|mg) ([\d.]+)$", shown.splitlines()[1])[0])
    total = numbers[-1]
    assert told == pytest.approx(total**2 if study is DOSE else 1 / (1 + np.exp(-total)), rel=1e-3)
    _, shown, _ = said([*words, "canary-0000", "--most", "1"], capsys, monkeypatch)
    fewer = [float(one) for one in re.findall(r"^ +([+-][\d.]+)  ", shown, flags=re.M)]
    assert sum(fewer[:-1]) == pytest.approx(total, abs=5e-4)
    assert "clinic.urea: not known" in shown  # what is not known is told, however few are listed
    _, shown, _ = said([*words, "canary-0001", "--most", "1"], capsys, monkeypatch)
    assert "clinic.age: outside the study's bounds, counted as not known" in shown
    assert "0.00 of" not in shown


def test_a_table_of_coefficients_as_csv_and_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sent = finished(tmp_path / "run", SMALL)
    code, shown, _ = said(["explain", str(run)], capsys, monkeypatch)
    assert (code, "urea missing" in shown) == (0, True)
    said(["explain", str(run), "--out", str(tmp_path / "c.csv")], capsys, monkeypatch)
    rows = list(csv.DictReader(StringIO((tmp_path / "c.csv").read_text())))
    assert [row["input"] for row in rows] == ["intercept", "age", "sex=f", "sex=m", "urea", "urea missing"]
    assert float(rows[1]["per unit"]) == pytest.approx(float(sent[0]) / 15, rel=1e-6)


def test_what_a_model_looks_at_on_average(
    tmp_path: Path, north: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = finished(tmp_path / "run", SMALL)
    _, _, found = explained(run, north)
    code, shown, _ = said(["explain", str(run), "--site", str(north.folder)], capsys, monkeypatch)
    assert (code, "over 40 records, in log odds" in shown) == (0, True)
    told = {name: float(mean) for mean, name in re.findall(r"^ +([\d.]+)  (\S+)$", shown, flags=re.M)}
    for place, name in enumerate(found.features):
        assert told[name] == pytest.approx(np.abs(found.amounts[:, place]).mean(), abs=1e-4)
    assert list(told.values()) == sorted(told.values(), reverse=True)
    assert "canary" not in shown


def test_who_is_asked_about_must_be_somewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = finished(tmp_path / "run", SMALL)
    code, _, told = said(["explain", str(run), "--patient", "x"], capsys, monkeypatch)
    assert (code, "nothing says where the patients are" in told) == (2, True)


def test_contributions_to_a_dose_are_counted_on_its_own_scale() -> None:
    from pmfed.runs.parts import answer_of

    assert scale_of(answer_of(DOSE)) == ("square root of mg", 2.0)

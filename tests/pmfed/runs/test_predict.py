"""`pmfed predict`: new patients get the answers that the training code would give, and learn what it did not know."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finished import CLINIC, LEARNED, SMALL, finished, table
from numpy.typing import NDArray
from pmfed_client.agent.personal import Shelf
from pmfed_client.agent.trainer import Trainer
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations.hospitals.history import FEWEST
from pmfed_simulations.hospitals.real import write_real_hospitals
from pmfed_simulations.studies import find_study, write_sites
from pmfed_simulations.studies.hospitals.sites import write_hospitals
from small import small_study

from pmfed.cli import main
from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import DataError, UsageError, VerificationError
from pmfed.methods import plan_for
from pmfed.models import build, load
from pmfed.privacy.noise import SecretSource
from pmfed.runs import patients as reading
from pmfed.runs.description import NAME
from pmfed.runs.model import Model, open_model
from pmfed.runs.predict import Predicted, Told, predict, write_lines
from pmfed.runs.predictors import PREDICTORS
from pmfed.study import Study
from pmfed.tasks import task_for

Floats = NDArray[np.float64]


def by_the_training_code(study: Study, cohort: Cohort, sent: NDArray[np.float32]) -> dict[str, Floats]:
    """Return what the code that trains and scores gives for each patient's records."""
    study = study.replace(recalibration=None)  # nobody is set aside: steps would see all
    plan = plan_for(study.replace(privacy={"colluders": 0}), 1)
    trainer = Trainer(study, plan, cohort, lambda *_: SecretSource())
    load(trainer.model, trainer.parts.join(sent[: trainer.size]))
    found: dict[str, Floats] = {}
    for which in (np.ones, np.zeros):  # all as training patients, then all as held out: the two ways that code reads
        trainer.cohort, trainer._ready = cohort.with_training(which(cohort.patients, bool)), None
        batch, held_out = trainer._prepare(sent)
        inputs = batch.inputs if which is np.ones else {k: torch.from_numpy(v) for k, v in held_out.inputs.items()}
        present = batch.present if which is np.ones else {k: torch.from_numpy(v) for k, v in held_out.present.items()}
        with torch.no_grad():
            outputs = trainer.model(inputs, present).double().numpy()
        for place, one in enumerate(cohort.ids):
            mine = outputs[cohort.owner == place]
            if one in found:
                np.testing.assert_allclose(found[one], mine, rtol=1e-6, atol=1e-6)
            found[one] = mine
    return found


def answers(model: Model, site: Site, **asked: Any) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for part in predict(model, site.sources, site.name, site.places, **asked):
        ids = np.array(part.patients.ids)
        found |= {one: part.outputs[ids == one] for one in part.patients.cohort.ids}
    return found


def compared(study: Study, sites: Sequence[Site], run: Path) -> int:
    """Compare predictions at every site with the training code's; return how many records were compared."""
    cohorts = [read_cohort(study, site.sources, site.name, site.places) for site in sites]
    folder, sent = finished(run, study, cohorts)
    model, number = open_model(folder, study), 0
    for site, cohort in zip(sites, cohorts, strict=True):
        right, mine = by_the_training_code(study, cohort, sent), answers(model, site)
        assert right.keys() <= mine.keys()
        for one, outputs in right.items():
            if len(outputs) == len(mine[one]):  # else records beyond the cap, which only training leaves out
                np.testing.assert_allclose(mine[one], outputs, rtol=1e-6, atol=1e-6)
                number += len(outputs)
    return number


@pytest.mark.parametrize(
    ("name", "records"),
    [("warfarin", 5410), ("heart-disease", 740), ("eicu", 2000), ("tcga-brca", 1000), ("digits", 1700)],
)
def test_answers_equal_the_training_codes_on_public_data(
    name: str, records: int, public_data: Path, tmp_path: Path
) -> None:
    write_sites(name, public_data, tmp_path / "sites")
    assert compared(find_study(name), read_sites(tmp_path / "sites"), tmp_path / "run") >= records


def test_answers_equal_the_training_codes_at_hospitals_with_tables_and_pictures(tmp_path: Path) -> None:
    write_hospitals(tmp_path / "sites", sites=2, patients=60)
    study = find_study("hospitals")
    assert compared(study, read_sites(tmp_path / "sites"), tmp_path / "run") > 90


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "sites"
    write_real_hospitals(out, sites=3, patients=FEWEST, seed=3)
    return out


def test_answers_equal_the_training_codes_at_hospitals_with_omop_fhir_vcf_and_dicom(
    hospitals: Path, tmp_path: Path
) -> None:
    assert compared(find_study("hospitals-real"), read_sites(hospitals), tmp_path / "run") > 100


def test_learned_means_scales_and_centres_of_frozen_features_are_used_as_in_training(tmp_path: Path) -> None:
    study = small_study(LEARNED)
    site = Site.read(table(tmp_path / "north"))
    assert compared(study, [site], tmp_path / "run") == 40


@pytest.fixture
def north(tmp_path: Path) -> Path:
    return table(tmp_path / "north")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "run", SMALL)[0]


def lines(run: Path, folder: Path, **asked: Any) -> tuple[list[dict[str, str]], Told]:
    model, site = open_model(run), Site.read(folder)
    text = StringIO()
    said = write_lines(model, predict(model, site.sources, site.name, site.places, **asked), text)
    return list(csv.DictReader(StringIO(text.getvalue()))), said


def rewritten(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "patients.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def test_nothing_of_an_outcome_is_read(run: Path, north: Path) -> None:
    before, said = lines(run, north)
    assert len(before) == said.records == 40
    assert said.unanswered == 0
    rewritten(north, lambda frame: frame.assign(died="this is no outcome"))
    assert lines(run, north)[0] == before
    rewritten(north, lambda frame: frame.drop(columns="died"))
    assert lines(run, north)[0] == before


def test_who_is_held_out_and_who_agreed_to_the_study_is_not_asked(tmp_path: Path, north: Path) -> None:
    study = SMALL.replace(cohort={"consent": "agreed"}, evaluation={"split_column": "part"})
    assert len(lines(finished(tmp_path / "run", study)[0], north)[0]) == 40


def test_what_was_missing_and_what_is_outside_the_bounds_is_told_of_each_patient(run: Path, north: Path) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame["urea"] = "10"
        frame.loc[0, "urea"] = ""
        frame.loc[1, ["age", "sex"]] = ["130", "x"]
        frame.loc[2, "age"] = ""
        return frame

    rewritten(north, change)
    found, said = lines(run, north)
    assert [(row["missing"], row["outside"]) for row in found[:4]] == [
        ("clinic.urea", ""), ("clinic.age; clinic.sex", "clinic.age; clinic.sex"), ("clinic.age", ""), ("", ""),
    ]  # fmt: skip
    assert (said.missing, said.outside) == (
        {"clinic.age": 2, "clinic.sex": 1, "clinic.urea": 1},
        {"clinic.age": 1, "clinic.sex": 1},
    )
    rewritten(
        north,
        lambda frame: frame.assign(
            age=frame["age"].replace({"130": "", "": "60"}), sex=frame["sex"].replace({"x": ""})
        ),
    )
    again, _ = lines(run, north)
    assert [row["probability yes"] for row in again] == [
        row["probability yes"] for row in found
    ]  # missing is the mean, outside is missing


def test_a_category_that_the_study_takes_together_with_others_is_not_outside(tmp_path: Path, north: Path) -> None:
    features = {**CLINIC["clinic"]["features"], "sex": {"type": "categorical", "values": ["f"], "other": True}}
    study = small_study({"clinic": {**CLINIC["clinic"], "features": features}})
    found, said = lines(finished(tmp_path / "run", study)[0], north)
    assert len(found) == 40
    assert (set(said.missing), set(said.outside)) == ({"clinic.urea"}, set())


def test_the_table_of_a_study_in_training_is_still_refused_for_what_is_outside(north: Path) -> None:
    rewritten(north, lambda frame: frame.assign(age="130"))
    with pytest.raises(DataError, match="outside 0 to 120"):
        read_cohort(SMALL, Site.read(north).sources, "north")


def test_a_modality_that_a_patient_lacks_is_told(tmp_path: Path, north: Path) -> None:
    study = small_study(LEARNED, model={"kind": "fusion"})
    cohort = read_cohort(study, Site.read(north).sources, "north")
    run, _ = finished(tmp_path / "run", study, [cohort])
    found, said = lines(run, north)
    assert [row["absent"] for row in found[:6]] == ["scan", "", "", "", "", "scan"]
    assert said.absent == {"scan": 8}
    without, said = lines(run, north, without=["scan"])
    assert {row["absent"] for row in without} == {"scan"}
    assert without[0] == found[0]
    assert without[1]["probability yes"] != found[1]["probability yes"]


def test_parts_that_fit_into_memory_give_the_same_lines(
    run: Path, north: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = lines(run, north)
    seen: list[int] = []
    telling = reading._final

    def final(*given: Any) -> reading.Patients:
        made = telling(*given)
        seen.append(made.cohort.records)
        return made

    monkeypatch.setattr(reading, "_final", final)
    monkeypatch.setattr(reading, "ROOM", 7 * 5)  # seven patients of five inputs
    parts, said = lines(run, north)
    assert seen == [7, 7, 7, 7, 7, 5]
    assert parts == sorted(whole, key=lambda row: row["patient_id"])
    assert said.records == 40


def test_every_record_of_a_patient_has_a_line(tmp_path: Path, north: Path) -> None:
    study = SMALL.replace(cohort={"record": "stay", "max_records": 1})
    rewritten(north, lambda frame: frame.assign(patient_id=["a", "b"] * 20, stay=[f"s{place}" for place in range(40)]))
    found, _ = lines(finished(tmp_path / "run", study)[0], north)
    assert [(row["patient_id"], row["stay"]) for row in found] == [("a", f"s{place}") for place in range(0, 40, 2)] + [
        ("b", f"s{place}") for place in range(1, 40, 2)
    ]


def test_a_recalibration_changes_what_is_told(run: Path, north: Path) -> None:
    def logits() -> Floats:
        chances = np.array([float(row["probability yes"]) for row in lines(run, north)[0]])
        return np.asarray(np.log(chances / (1 - chances)))

    plain = logits()
    told = json.loads((run / NAME).read_text())
    for changed, expected in (
        ({"kind": "straight", "intercept": [0.5], "slope": 2.0}, 0.5 + 2 * plain),
        ({"kind": "straight", "intercept": [0.5], "slope": 2.0, "bound": 0.1}, 0.5 + 2 * np.clip(plain, -0.1, 0.1)),
        (
            {"kind": "steps", "at": [-9.0, 0.0, 9.0], "value": [-1.0, 0.0, 3.0]},
            np.where(plain < 0, plain / 9, plain / 3),
        ),
    ):
        (run / NAME).write_text(json.dumps({**told, "recalibration": {"map": changed, "fitted_on": "nobody"}}))
        np.testing.assert_allclose(logits(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "straight", "intercept": [0.5, 0.5], "slope": 2.0},
        {"kind": "steps", "at": [0.0, 1.0], "value": [0.0, 1.0]},
    ],
)
def test_a_recalibration_for_other_outputs_is_refused(changed: dict[str, Any], tmp_path: Path, north: Path) -> None:
    study = SMALL.replace(outcome={"task": "multiclass", "column": "stage", "classes": ["x", "y", "z"]})
    run, _ = finished(tmp_path / "run", study)
    told = json.loads((run / NAME).read_text())
    (run / NAME).write_text(json.dumps({**told, "recalibration": {"map": changed, "fitted_on": "nobody"}}))
    with pytest.raises(VerificationError, match="recalibration"):
        lines(run, north)


OUTCOMES: dict[str, dict[str, Any]] = {
    "regression": {"task": "regression", "column": "dose", "classes": [], "transform": "log", "minimum": 1, "maximum": 50, "baseline": 9.0, "scale": 2.0, "unit": "mg"},
    "multiclass": {"task": "multiclass", "column": "stage", "classes": ["i", "ii", "iii"]},
    "survival": {"task": "survival", "column": "days", "event": "dead", "classes": ["0", "1"], "intervals": [30, 90, 365], "horizon": 90, "unit": "days"},
}  # fmt: skip


@pytest.mark.parametrize("task", OUTCOMES)
def test_what_is_told_is_what_the_task_says(task: str, tmp_path: Path, north: Path) -> None:
    study = SMALL.replace(outcome=OUTCOMES[task])
    run, _ = finished(tmp_path / "run", study)
    found, _ = lines(run, north)
    site = Site.read(north)
    (part,) = predict(open_model(run), site.sources, site.name)
    known: Any = task_for(study)
    if task == "regression":
        np.testing.assert_allclose([float(row["dose mg"]) for row in found], known.predict(part.outputs), rtol=1e-8)
    elif task == "survival":
        alive = known.predict(part.outputs)
        np.testing.assert_allclose([float(row["without 365"]) for row in found], alive[:, 2], rtol=1e-8)
        np.testing.assert_allclose([float(row["risk by 90"]) for row in found], 1 - alive[:, 1], rtol=1e-7)
    else:
        shares = torch.softmax(torch.from_numpy(part.outputs), dim=1).numpy()
        np.testing.assert_allclose([float(row["probability ii"]) for row in found], shares[:, 1], rtol=1e-8)
        assert [row["class"] for row in found] == [("i", "ii", "iii")[one] for one in shares.argmax(axis=1)]


DATED = {
    "labs": {
        "kind": "events",
        "source": "records",
        "age": {"mean": 50, "scale": 10},
        "sex": True,
        "features": {
            "glucose": {"codes": ["LOINC:2345-7"], "value": "last", "unit": "mg/dL", "minimum": 0, "maximum": 900, "mean": 100, "scale": 50},
            "visits": {"codes": ["VISIT:*"], "value": "count", "maximum": 9, "mean": 0, "scale": 1},
        },
    }
}  # fmt: skip
EVENTS = """\
patient_id,when,code,value,unit
p1,2024-05-01T10:00:00,LOINC:2345-7,120,mg/dL
p2,2024-05-02T10:00:00,LOINC:2345-7,140,mg/dL
"""


@pytest.fixture
def dated(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("pint")
    folder = tmp_path / "dated"
    folder.mkdir()
    (folder / "events.csv").write_text(EVENTS)
    (folder / "patients.csv").write_text("patient_id,seen\np1,2024-05-03\np2,2024-05-03\n")
    (folder / "site.toml").write_text(
        '[site]\nname = "north"\n[data]\npatients = "patients.csv"\nrecords = "events.csv"\n'
    )
    return finished(tmp_path / "run", small_study(DATED, cohort={"index": "seen"}))[0], folder


def test_nothing_after_the_moment_of_the_prediction_changes_an_answer(dated: tuple[Path, Path]) -> None:
    run, folder = dated
    before, said = lines(run, folder)
    assert said.missing == {"labs.age": 2, "labs.sex": 2}
    with (folder / "events.csv").open("a") as file:
        file.write("p1,2024-05-03T00:00:00,LOINC:2345-7,800,mg/dL\np1,2024-06-03T00:00:00,VISIT:inpatient,,\n")
    assert lines(run, folder)[0] == before
    with (folder / "events.csv").open("a") as file:
        file.write("p1,2024-05-02T23:59:59,LOINC:2345-7,800,mg/dL\n")
    after, _ = lines(run, folder)
    assert (after[0] != before[0], after[1]) == (True, before[1])


def test_another_moment_reads_what_was_known_then(dated: tuple[Path, Path]) -> None:
    run, folder = dated
    asked = lines(run, folder, at=np.datetime64("2024-05-02T00:00:00", "s"))[0]
    assert [(row["seen"], row["missing"]) for row in asked] == [
        ("2024-05-02T00:00:00", "labs.age; labs.sex"), ("2024-05-02T00:00:00", "labs.age; labs.glucose; labs.sex"),
    ]  # fmt: skip
    later = lines(run, folder, at=np.datetime64("2024-05-03", "s"))[0]
    assert [row["probability yes"] for row in later] == [row["probability yes"] for row in lines(run, folder)[0]]


def test_a_patient_can_be_named_without_a_cohort_table(dated: tuple[Path, Path]) -> None:
    run, folder = dated
    model, at = open_model(run), np.datetime64("2024-05-03", "s")
    parts = list(predict(model, {"records": folder / "events.csv"}, "this table", only=["p2"], at=at))
    named: list[Predicted] = list(predict(model, Site.read(folder).sources, "north", only=["p2"]))
    assert parts[0].patients.ids == ["p2"]
    np.testing.assert_array_equal(parts[0].outputs, named[0].outputs)


def test_the_moment_of_a_patient_named_alone_must_be_said(dated: tuple[Path, Path]) -> None:
    run, folder = dated
    with pytest.raises(UsageError, match="nothing says at which moment"):
        list(predict(open_model(run), {"records": folder / "events.csv"}, "this table", only=["p2"]))


def said(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run a command line; return its exit code and what it said."""
    monkeypatch.setattr(sys, "argv", ["pmfed", *words])
    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_lines_go_into_a_file_for_its_owner_alone(
    run: Path, north: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = north.parent / "lines.csv"
    code, shown, told = said(["predict", str(run), "--site", str(north), "--out", str(out)], capsys, monkeypatch)
    assert (code, shown) == (0, "")
    assert os.stat(out).st_mode & 0o777 == 0o600
    assert len(out.read_text().splitlines()) == 41
    assert "canary" not in told
    assert "missing  clinic.urea: 10; taken to be 19.09" in told
    assert "the probability that 'died' is 'yes'" in told
    code, shown, told = said(["predict", str(run), "--table", str(north / "patients.csv")], capsys, monkeypatch)
    assert (code, shown) == (0, out.read_text())
    code, _, told = said(["predict", str(run), "--site", str(north), "--out", str(out)], capsys, monkeypatch)
    assert (code, "nothing is overwritten" in told) == (2, True)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "nothing says where the patients are"),
        (["--site", "NORTH", "--table", "TABLE"], "cannot be given together"),
        (["--table", "TABLE", "--own"], "--own needs --site"),
        (["--site", "NORTH", "--own"], "no model of its own"),
        (["--table", "TABLE", "--patient", "canary-9999"], "1 patient of 1 asked for not in the table"),
        (["--table", "TABLE", "--at", "now"], "has no moment of prediction"),
        (["--table", "TABLE", "--at", "someday"], "is no date"),
        (["--table", "TABLE", "--without", "scan"], "has no modality 'scan'"),
        (["--table", "TABLE", "--without", "clinic"], "no modality is left"),
        (["--table", "TABLE", "--source", "labs=x.csv"], "no source of that name"),
        (["--table", "NORTH/none.csv"], "there is no such file"),
        (["--table", "TEXT"], "1 row with text where a number is expected"),
        (["--table", "LESS"], "lacks a column|lacks 1 column"),
        (["--site", "NORTH/scans"], "there is no such file"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_shows_no_patient(
    words: list[str],
    what: str,
    run: Path,
    north: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = pd.read_csv(north / "patients.csv", dtype=str, keep_default_na=False)
    whole.drop(columns="age").to_csv(north / "less.csv", index=False)
    whole.loc[0, "age"] = "canary-value"
    whole.to_csv(north / "text.csv", index=False)
    places = {"TABLE": "NORTH/patients.csv", "LESS": "NORTH/less.csv", "TEXT": "NORTH/text.csv"}
    given = [places.get(word, word).replace("NORTH", str(north)) for word in words]
    out = north.parent / "lines.csv"
    code, shown, told = said(["predict", str(run), *given, "--out", str(out)], capsys, monkeypatch)
    assert code in (2, 3)
    import re

    assert re.search(what, told), told
    assert "canary" not in told
    assert shown == ""
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_another_methods_model_says_so(run: Path, north: Path) -> None:
    told = json.loads((run / NAME).read_text())
    (run / NAME).write_text(json.dumps({**told, "method": "trees"}))
    with pytest.raises(UsageError, match="the method 'trees', with which this pmfed does not predict") as raised:
        lines(run, north)
    assert "It predicts with: gradient" in raised.value.remedy
    assert set(PREDICTORS) == {"gradient"}


def test_a_model_whose_parts_stayed_at_the_sites_needs_the_sites_own(tmp_path: Path, north: Path) -> None:
    study = SMALL.replace(personal={"method": "intercept", "learning_rate": 0.1})
    run, sent = finished(tmp_path / "run", study)
    with pytest.raises(UsageError, match=r"never left the sites, such as 'linear\.bias'"):
        lines(run, north)
    whole = np.append(sent, np.float32(1.5))
    Shelf(Site.read(north).personal, "ab" * 16).keep(study, build(study), whole, np.zeros(0, np.float32))
    from pmfed.runs.own import own_model, run_number

    model = own_model(open_model(run), Site.read(north).personal / f"{run_number(run)}.safetensors")
    site = Site.read(north)
    (part,) = predict(model, site.sources, site.name)
    cohort = read_cohort(SMALL, site.sources, site.name)
    right = by_the_training_code(SMALL, cohort, whole)
    np.testing.assert_allclose(part.outputs[:, 0], [right[one][0, 0] for one in part.patients.ids], atol=1e-6)


@pytest.mark.parametrize("spoil", ["study", "number", "shape", "more", "pickle", "statistics"])
def test_a_sites_own_model_that_does_not_fit_is_refused(spoil: str, tmp_path: Path, north: Path, run: Path) -> None:
    from safetensors.numpy import save_file

    from pmfed.runs.own import own_model

    study = SMALL.replace(training={"rounds": 3}) if spoil == "study" else SMALL
    tensors = {"linear.weight": np.zeros((1, 5), np.float32), "linear.bias": np.zeros(1, np.float32)}
    if spoil == "number":
        tensors["linear.bias"][0] = np.nan
    if spoil == "shape":
        tensors["linear.weight"] = np.zeros((1, 6), np.float32)
    if spoil in ("more", "statistics"):
        tensors[spoil] = np.zeros(3, np.float32)
    path = tmp_path / "own.safetensors"
    save_file(tensors, path, {"study": study.canonical()})
    if spoil == "pickle":
        path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(VerificationError):
        list(predict(own_model(open_model(run), path), Site.read(north).sources, "north"))


def test_ten_thousand_patients_stream_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in parts, the inputs held at a time do not grow with the table."""
    import tracemalloc

    def peak(patients: int) -> int:
        north = table(tmp_path / f"north-{patients}", patients)
        site, model = Site.read(north), open_model(run)
        tracemalloc.start()
        try:
            with open(os.devnull, "w") as nowhere:
                told = write_lines(model, predict(model, site.sources, site.name), nowhere)
            assert told.records == patients
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    study = small_study({"scan": {"kind": "images", "table": "patients", "folder": "scans", "size": [32, 32]}})
    run = finished(tmp_path / "run", study)[0]
    monkeypatch.setattr(reading, "ROOM", 500 * 1024)  # 500 pictures: 2 MB
    peak(100)
    assert peak(10_000) < peak(2_000) + 8 * 2**20  # the table itself grows by less; all pictures would be 40 MB

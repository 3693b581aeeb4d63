"""What a reviewer looks for in a report: who took part, what was asked, what every threshold gives, the whole command."""

from __future__ import annotations

import hmac
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import example_run
import numpy as np
import pytest
from pmfed_server.report import write_report
from pmfed_server.report.design import design_of, flow
from pmfed_server.report.words import headline
from pmfed_server.results import privacy_of
from pmfed_simulations import simulate
from pmfed_simulations.simulate import Options
from pmfed_simulations.studies import built_in_studies, find_study
from sklearn import metrics
from small import AGE, small_study
from test_report import HOSTILE, Page, browser, page  # noqa: F401 - browser is a fixture

from pmfed import cli
from pmfed.cohort.split import held_out
from pmfed.methods import plan_for
from pmfed.study.outcome import Outcome
from pmfed.tasks.binary import Binary

CLINICAL = {"clinical": {"kind": "table", "table": "patients", "features": AGE}}


def scored(count: int = 3000, coarse: bool = False) -> tuple[Binary, Any, Any]:
    random = np.random.default_rng(1)
    truth = (random.random(count) < 0.2).astype(float)
    task = Binary(Outcome(column="y", task="binary", classes=("no", "yes"), baseline=0.2), coarse)
    return task, random.normal(-1.4, 1, count) + 1.5 * truth, truth


def whole() -> example_run.Example:
    """Return an example with everything that a run of today adds."""
    result, rounds, _ = example_run.binary()
    task, logits, truth = scored()
    total = task.rows(logits[:, None], truth).sum(axis=0)
    study = small_study(CLINICAL)
    result["design"] = design_of(study)
    result["refused"] = {"hospital-9": "the study asks for epsilon 8, and this site allows 2"}
    result["metrics"]["test"] |= {name: float(value) for name, value in task.detail(total).items()}
    result["labels"] = {metric.name: metric.label for metric in (*task.metrics, *task.details)}
    result["privacy"]["epsilon_by_colluders"] = privacy_of(study, plan_for(study, 5), {"step": 2}, {})[
        "epsilon_by_colluders"
    ]
    return result, rounds, task.curves(total)


def test_who_was_asked_who_refused_and_why(tmp_path: Path) -> None:
    words = page(tmp_path, whole()).words
    for said in (
        "6 hospitals asked",
        "1 hospital refused",
        "hospital-9 the study asks for epsilon 8",
        "5 hospitals took part",
    ):
        assert said in words
    result = whole()[0]
    patients, held = (sum(site[key] for site in result["sites"]) for key in ("patients", "held_out"))
    assert f"Training {patients - held:,} patients" in words
    assert f"Held out {held:,} patients" in words


def test_a_number_that_nobody_counted_is_marked_as_expected() -> None:
    result = whole()[0]
    for site in result["sites"]:
        site |= {"patients": None, "held_out": None}
    (told,) = [line for box in flow(result) for line in box["lines"] if "expected" in line[1]]
    assert told[1].startswith("200 patients in training expected (the study's public number")
    assert not any("Held out" in line[0] for box in flow(result) for line in box["lines"])


def test_hostile_reasons_and_constants_are_text(tmp_path: Path) -> None:
    result, rounds, curves = whole()
    result["refused"] = {HOSTILE: HOSTILE}
    result["notes"] = [HOSTILE]
    result["design"] |= {"text": HOSTILE, "split": HOSTILE, "inputs": [[HOSTILE, HOSTILE, HOSTILE]]}
    shown = page(tmp_path, (result, rounds, curves))
    assert not any(tag == "script" for tag, _ in shown.elements)
    assert shown.words.count(HOSTILE[1:]) >= 8


def test_inputs_stand_with_their_public_constants_and_the_study_as_text(tmp_path: Path) -> None:
    shown = page(tmp_path, whole())
    (inputs,) = [lines for lines in shown.tables if lines[0] == ["Modality", "Input", "Public constants"]]
    assert inputs[1:] == [["clinical (table)", "age", "minimum 0.0; maximum 120.0; mean 60.0; scale 15.0"]]
    assert 'title = "A small study"' in "".join(shown.text)


@pytest.mark.parametrize("name", built_in_studies())
def test_every_input_of_the_built_in_studies_is_listed(name: str) -> None:
    study = find_study(name)
    found = design_of(study)
    assert {line[0].rpartition(" (")[0] for line in found["inputs"]} == set(study.modalities)
    for key, modality in study.modalities.items():
        for feature in getattr(modality, "features", None) or {}:
            assert any(line[0].startswith(f"{key} (") and line[1] == feature for line in found["inputs"])


def test_the_split_is_as_the_report_says() -> None:
    study = small_study(CLINICAL, evaluation={"split_key": "a key", "test_fraction": 0.3})
    said = design_of(study)["split"]
    assert "'a key'" in said
    assert "below 0.3 × 2⁶⁴" in said
    ids = [f"patient {number}" for number in range(500)]
    numbers = [int.from_bytes(hmac.digest(b"a key", one.encode(), "sha256")[:8], "big") for one in ids]
    assert held_out(ids, "a key", 0.3).tolist() == [number < 0.3 * 2**64 for number in numbers]


@pytest.mark.parametrize("coarse", [False, True])
def test_the_curves_over_all_thresholds_are_those_of_scikit_learn(coarse: bool) -> None:
    task, logits, truth = scored(coarse=coarse)
    total = task.rows(logits[:, None], truth).sum(axis=0)
    curves = task.curves(total)
    held = task.logits[((logits + 10) / 20 * task.bins).astype(int)]
    false, true, _ = metrics.roc_curve(truth, held, drop_intermediate=False)
    x, y = np.array(curves["roc"][::-1]).T
    assert np.interp(false, x, y) == pytest.approx(true, abs=0.02)
    assert metrics.auc(x, y) == pytest.approx(metrics.roc_auc_score(truth, held), abs=2e-3)
    precision, recall, _ = metrics.precision_recall_curve(truth, held)
    known = np.column_stack([recall, precision])
    for point in curves["precision_recall"]:
        assert np.abs(known - point).max(axis=1).min() < 2e-5
    risk, share = 1 / (1 + np.exp(-held)), truth.mean()
    for threshold, benefit in curves["decision"]["model"]:
        said = risk >= threshold - 1e-4
        odds = threshold / (1 - threshold)
        expected = ((said & (truth > 0)).sum() - (said & (truth == 0)).sum() * odds) / len(truth)
        assert benefit == pytest.approx(expected, abs=2e-3)
    for threshold, benefit in curves["decision"]["all"]:
        assert benefit == pytest.approx(share - (1 - share) * threshold / (1 - threshold), abs=1e-3)


def test_charts_of_every_threshold_are_there_with_their_areas(tmp_path: Path) -> None:
    result, rounds, curves = whole()
    words = page(tmp_path, (result, rounds, curves)).words
    assert f"AUROC {result['metrics']['test']['auroc']:.3f}" in words
    assert f"average precision {result['metrics']['test']['auprc']:.3f}" in words
    assert "act on none" in words
    assert "sensitivity at 0.2" in words


def test_epsilon_over_colluders_goes_through_the_views_of_the_promise() -> None:
    study = small_study(CLINICAL)
    plan = plan_for(study, 5)
    told = privacy_of(study, plan, {"step": 2}, {})
    points = dict(told["epsilon_by_colluders"])
    assert points[0] == pytest.approx(told["epsilon_collusion"]["public"], rel=1e-3)
    assert points[plan.colluders] == pytest.approx(told["epsilon"], rel=1e-3)
    assert points[4] == pytest.approx(told["epsilon_collusion"]["others"], rel=1e-3)
    assert list(points.values()) == sorted(points.values())


def test_differences_and_what_another_hospital_may_expect(tmp_path: Path) -> None:
    result, rounds, curves = whole()
    result["comparisons"][-1]["difference"] = {"value": -0.0145, "low": -0.02, "high": -0.009}
    result["across_sites"] = {
        "sites": 5, "left_out": 1, "mean": 0.83, "low": 0.81, "high": 0.85, "predicted_low": 0.7, "predicted_high": 0.9,
    }  # fmt: skip
    shown = page(tmp_path, (result, rounds, curves))
    assert shown.tables[0][0] == ["Model", "AUROC", "95 % interval", "Federation has more", "ε"]
    (line,) = [line for line in shown.tables[0] if line[0] == result["comparisons"][-1]["label"]]
    assert line[3] == "−0.015 (−0.020 to −0.009)"
    assert "Over 5 hospitals (1 could not tell) as a sample of such hospitals, AUROC is 0.830" in shown.words
    assert "between 0.700 and 0.900 (95 % prediction interval" in shown.words


def test_probabilities_that_are_off_are_said_to_be() -> None:
    result = whole()[0]
    test = result["metrics"]["test"]
    test |= {"oe": 1.0, "oe_low": 0.9, "oe_high": 1.1, "calibration_slope": 0.9, "calibration_slope_low": 0.7}
    test |= {"calibration_slope_high": 1.2}
    assert "probabilities" not in " ".join(headline(result))
    test |= {"oe": 3.4, "oe_low": 2.9, "oe_high": 3.9}
    assert "of every 100 events it expects 340 happen." in " ".join(headline(result))
    test |= {"calibration_slope": 0.4, "calibration_slope_high": 0.6}
    assert "lie too far apart (calibration slope 0.40, where 1 is right)" in " ".join(headline(result))


@pytest.mark.parametrize(
    "options",
    [
        Options(study="heart-disease", out="a folder/run"),
        Options(
            study="/s.toml", out="r", sites="/my sites", data="/d", epsilon=0.5, delta=1e-6, rounds=7, protocol="cv", seeds=3,
            compare=("local", "pooled"), workers=2, reproducible=True, engine="ray", changes="/c.toml",
        ),
    ],
)  # fmt: skip
def test_the_command_in_the_report_asks_the_same_again(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):  # noqa: N818 - no error of ours
        pass

    def prepare(found: Options, **_: object) -> None:
        assert found == options
        raise Asked

    monkeypatch.setattr(simulate, "prepare", prepare)
    program, *words = shlex.split(options.command())
    assert program == "pmfed"
    with pytest.raises(Asked):
        cli.app(args=words, standalone_mode=False)


def test_nothing_is_wider_than_a_phone(browser: Callable[..., tuple[str, str]], tmp_path: Path) -> None:  # noqa: F811
    path, frame = write_report(tmp_path, *whole()), tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{path.as_uri()}" style="width:390px;height:3000px;border:0"></iframe><p id="told"></p><script>'
        "f.onload = () => { const d = f.contentDocument, box = e => e.getBoundingClientRect();"
        "const drawn = [...d.querySelectorAll('svg')].map(box).filter(b => b.width > 0);"
        "told.textContent = ['page', d.documentElement.scrollWidth, 'drawn', drawn.length, 'right',"
        "Math.max(...drawn.map(b => b.right)), 'left', Math.min(...drawn.map(b => b.left)), 'letters',"
        "Math.min(...[...d.querySelectorAll('svg text')].map(box).filter(b => b.width > 0).map(b => b.height))"
        "].join(' ') }</script>"
    )
    dom, _ = browser(frame, "--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=5000")
    said = re.search(r"page (\d+) drawn (\d+) right ([\d.]+) left ([\d.]+) letters ([\d.]+)", Page(dom).words)
    assert said is not None, dom
    assert int(said[1]) <= 390
    assert int(said[2]) >= 8
    assert float(said[3]) <= 390
    assert float(said[4]) >= 0
    assert float(said[5]) >= 9  # pixels: nothing was shrunk until nobody can read it

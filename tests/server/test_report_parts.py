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
from pmfed.study.outcomes import outcome_of
from pmfed.tasks.binary import Binary

CLINICAL = {"clinical": {"kind": "table", "table": "patients", "features": AGE}}


def scored(count: int = 3000, coarse: bool = False) -> tuple[Binary, Any, Any]:
    random = np.random.default_rng(1)
    truth = (random.random(count) < 0.2).astype(float)
    task = Binary(outcome_of(column="y", task="binary", classes=("no", "yes"), baseline=0.2), coarse)
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
    assert '\ntitle = "A small study"\n' in "".join(shown.text)  # line by line


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


def test_accuracy_stands_beside_what_no_model_would_reach(tmp_path: Path) -> None:
    result, rounds, curves = example_run.multiclass()
    assert "Commonest class" not in page(tmp_path, (result, rounds, curves)).words
    result["metric"] = {"name": "accuracy", "label": "accuracy", "higher_is_better": True}
    result["metrics"]["test"] |= {"accuracy": 0.668, "no_information": 0.663}
    shown = page(tmp_path, (result, rounds, curves))
    assert any(line[0].startswith("Commonest class for all") and line[1] == "0.663" for line in shown.tables[0])
    assert "; the commonest class for all has 0.663." in shown.words
    result["metric"] = {"name": "auroc", "label": "AUROC", "higher_is_better": True}
    assert "Commonest class" not in page(tmp_path, (result, rounds, curves)).words


@pytest.mark.parametrize(("coarse", "noise", "off"), [(False, 0.0, 0.05), (True, 6.0, 0.08)])
def test_the_flexible_calibration_curve_bends_where_the_truth_does(coarse: bool, noise: float, off: float) -> None:
    random = np.random.default_rng(3)
    logits = random.normal(-1.4, 1.2, 6000)

    def true(z: Any) -> Any:
        return 1 / (1 + np.exp(-(0.3 + 0.7 * z + 0.2 * z**2)))

    truth = (random.random(6000) < true(logits)).astype(float)
    task = Binary(outcome_of(column="y", task="binary", classes=("no", "yes"), baseline=0.2), coarse)
    total = task.rows(logits[:, None], truth).sum(axis=0) + random.normal(0, noise, task.cells)
    curve = task.curves(total, noise)["calibration_curve"]
    at = np.log([p["predicted"] / (1 - p["predicted"]) for p in curve])
    middle = (at > -3.4) & (at < 0.6)
    observed, low, high = (np.array([p[key] for p in curve]) for key in ("observed", "low", "high"))
    assert np.abs(observed - true(at))[middle].max() < off
    assert (low <= observed + 0.03).all()
    assert (observed <= high + 0.03).all()
    if noise:  # the band holds the noise too: it is wider than without
        narrow = task.curves(total)["calibration_curve"]
        assert (high - low).mean() > 1.1 * np.mean([p["high"] - p["low"] for p in narrow])
    straight = task.rows(logits[:, None], (random.random(6000) < 1 / (1 + np.exp(-logits))).astype(float)).sum(axis=0)
    fair = task.curves(straight)["calibration_curve"]
    assert max(abs(p["observed"] - p["predicted"]) for p in fair if 0.03 < p["predicted"] < 0.6) < off
    assert task.curves(total * (8 / 6000))["calibration_curve"] == []  # too few to tell


def test_a_sample_size_statement_is_that_of_riley_and_others(tmp_path: Path) -> None:
    result, rounds, curves = whole()
    result |= {"task": "binary", "parameters": 21}
    result["design"]["expected_patients"] = 1000
    share, loss = 0.2, 0.4
    result["metrics"]["test"] |= {"no_information": 1 - share, "log_loss": loss}
    words = page(tmp_path, (result, rounds, curves)).words
    assert (
        "about 200 of them on the rarer side of the outcome, at the share seen among the held-out, 9.5 per parameter"
        in words
    )
    null = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    ratio = 2 * 1000 * (null - loss)  # likelihood ratio statistic of that many patients
    fit = 1 - np.exp(-ratio / 1000)
    assert f"R² {fit:.3f}" in words
    assert f"of that size is about {1 - 20 / ratio:.2f};" in words  # van Houwelingen and Le Cessie
    needed = int(re.search(r"about (\d+) patients are needed", words)[1])  # type: ignore[index]
    factor = 0.9
    assert needed == pytest.approx(20 / ((factor - 1) * np.log(1 - fit / factor)), abs=1)  # Riley's first criterion
    result["metrics"]["test"] |= {"log_loss": null + 0.01}
    assert "no better than the share" in page(tmp_path, (result, rounds, curves)).words
    result["over_patients"] = {
        "no_information": 0.5,
        "log_loss": 0.4,
    }  # a mean over hospitals knows no share of patients
    assert "about 500 of them" in page(tmp_path, (result, rounds, curves)).words


def test_what_becomes_of_missing_values_and_the_bias_are_said(tmp_path: Path) -> None:
    said = " ".join(design_of(small_study(CLINICAL))["missing"])
    assert "A missing number counts as its public mean" in said
    assert "of clinical.age nothing says that a value is missing" in said
    flagged = {"clinical": {**CLINICAL["clinical"], "features": {"age": AGE["age"] | {"indicator": True}}}}
    said = " ".join(design_of(small_study(flagged))["missing"])
    assert "is an input of its own for clinical.age" in said
    assert "Bias" not in said
    result, rounds, curves = whole()
    assert "A missing number counts as" in page(tmp_path, (result, rounds, curves)).words


def test_the_checklist_is_filled_where_the_run_knows(tmp_path: Path) -> None:
    result, rounds, curves = whole()
    result["task"] = "binary"
    shown = page(tmp_path, (result, rounds, curves))
    (lines,) = [table for table in shown.tables if table[0] == ["Item", "Asks for", "Where, or what"]]
    said = {line[0]: line[2] for line in lines[1:]}
    assert said["4"] == said["17"] == "–"  # the authors'
    assert said["14"] == "–"
    assert result["fingerprint"] in said["18c"]
    assert said["15"].startswith("a probability; decisions: sensitivity at 0.2")
    test = result["metrics"]["test"]
    assert said["23a"].startswith(f"AUROC {test['auroc']:.3f} (95 % {test['auroc_low']:.3f} to")
    filled = sum(line[2] != "–" for line in lines[1:])
    assert f"TRIPOD+AI checklist: {filled} of {len(lines) - 1} lines filled" in shown.words
    result["subgroups"] = {
        "all": {"patients": 500, "metrics": test},
        "by": [{"name": "clinical.sex", "label": "sex", "groups": [{"name": "f", "patients": 240, "metrics": test | {"auroc": 0.7}},
                                                                   {"name": "x", "patients": 4, "metrics": {}}]}],
    }  # fmt: skip
    result["robustness"] = {
        "unaltered": test,
        "altered": [{"name": "noisy-inputs", "label": "noise", "metrics": test | {"auroc": test["auroc"] - 0.05}}],
    }
    shown = page(tmp_path, (result, rounds, curves))
    (groups,) = [table for table in shown.tables if table[0][0] == "Subgroup"]
    assert groups[2][:3] == ["sex: f", "240", "0.700"]
    assert groups[3][:4] == ["sex: x", "4", "–", "–"]
    assert "Of a group with a dash too few were held out" in shown.words
    (worse,) = [table for table in shown.tables if table[0][0].startswith("Inputs of")]
    assert worse[2][3] == "−0.050"
    assert "by sex" in shown.words


def test_digests_and_the_commit_are_told(tmp_path: Path) -> None:
    result, rounds, curves = whole()
    result["sites"][0]["data"] = "ab" * 32
    result["versions"]["commit"] = "cd" * 20
    words = page(tmp_path, (result, rounds, curves)).words
    assert "ab" * 32 in words
    assert "cd" * 20 in words


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

"""The report page, the terminal tables and the privacy statement, on results as runs write them."""

from __future__ import annotations

import copy
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example_run
import pytest
from PIL import Image
from pmfed_server.report import spending, statement, table, write_report
from pmfed_server.report.agreement import wilson
from pmfed_server.report.charts import Scale
from pmfed_server.report.figures import delta_text, epsilon_text, interval, number
from pmfed_server.report.promise import ceiling, percent_up
from pmfed_server.report.words import headline
from pmfed_server.results import privacy_of
from pmfed_simulations.bench.records import MOST, visits_study
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from pmfed.methods import plan_for
from pmfed.privacy.groups import patient_epsilon
from pmfed.privacy.rounding import rounded_up

EXAMPLES = {"binary": example_run.binary, "regression": example_run.regression, "multiclass": example_run.multiclass}
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, the text, the cells of its tables; strict about nesting."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def page(folder: Path, example: example_run.Example) -> Page:
    return Page(write_report(folder, *example).read_text(encoding="utf-8"))


def printed(built: Table) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(built)
    return console.export_text()


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> example_run.Example:
    return EXAMPLES[request.param]()


def test_page_stands_alone(tmp_path: Path, example: example_run.Example) -> None:
    shown = page(tmp_path, example)
    tags = {tag for tag, _ in shown.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "base", "form"}
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|//\w|@import|url\(", html)
    names = {name for _, attributes in shown.elements for name in attributes}
    assert not names & {"src", "href", "srcset", "action"}
    assert not any(name.startswith("on") for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html"]


def test_every_chart_has_a_name_and_a_description(tmp_path: Path, example: example_run.Example) -> None:
    shown = page(tmp_path, example)
    drawings = [attributes for tag, attributes in shown.elements if tag == "svg"]
    keys = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(drawings) >= 3
    assert len(keys) == len(set(keys))
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert set(str(drawing["aria-labelledby"]).split()) <= set(keys)


def test_numbers_shown_are_those_of_the_result(tmp_path: Path, example: example_run.Example) -> None:
    result, metric = example[0], example[0]["metric"]["name"]
    digits = 2 if metric == "mae" else 3
    shown = {line[0]: line[1:] for line in page(tmp_path, example).tables[0][1:]}
    entries = result.get("comparisons") or [{"label": "Federation", "metrics": result["metrics"]["test"]}]
    assert set(shown) >= {entry["label"] for entry in entries}
    for entry in entries:
        cells, metrics = shown[entry["label"]], entry["metrics"]
        assert cells[0] == f"{metrics[metric]:.{digits}f}"
        assert cells[1] == f"{metrics[metric + '_low']:.{digits}f} to {metrics[metric + '_high']:.{digits}f}"
        assert cells[-1] == (f"{entry['epsilon']:g}" if entry.get("private") else "none")
        if f"{metric}_sd" in metrics:
            assert cells[2] == f"{metrics[metric + '_sd']:.{digits}f}"


def test_hospitals_table(tmp_path: Path) -> None:
    made = example_run.binary()
    lines = page(tmp_path, made).tables[1]
    assert lines[0] == ["Hospital", "Patients", "Held out", "Alone", "Federation", "ε spent", "δ"]
    local, together = made[0]["comparisons"][0]["per_site"], made[0]["comparisons"][5]["per_site"]
    first = lines[1]
    assert first[:3] == ["Northfield General", "1,480", "296"]
    assert first[3].startswith(f"{local['hospital-1']['auroc']:.3f} (")
    assert first[4].startswith(f"{together['hospital-1']['auroc']:.3f} (")
    assert first[5:] == ["4", "10⁻⁵"]


HOSTILE = "<script>alert(1)</script>\"'&[red]{{ 7*7 }}"


def test_hostile_names_are_text(tmp_path: Path) -> None:
    result, rounds, curves = example_run.binary()
    multi, _, confused = example_run.multiclass()
    result |= {"title": HOSTILE, "study": HOSTILE, "command": HOSTILE, "created": HOSTILE, "fingerprint": HOSTILE}
    result["metric"]["label"] = HOSTILE
    result["sites"][0] |= {"title": HOSTILE}
    result["comparisons"][0]["label"] = HOSTILE
    result["comparisons"][-1]["metrics"][HOSTILE] = 0.5
    result["reference"] = [{"label": HOSTILE, "value": 0.8, "source": HOSTILE}]
    result["privacy"]["mechanism"] = HOSTILE
    result["versions"][HOSTILE] = HOSTILE
    shown = page(tmp_path, (result, rounds, curves))
    assert not any(tag == "script" for tag, _ in shown.elements)
    assert HOSTILE in shown.words
    assert shown.tables[0][1][0] == HOSTILE
    assert HOSTILE in printed(table(result))
    assert HOSTILE in printed(spending(result))
    confused["confusion"]["classes"][0] = HOSTILE
    shown = page(tmp_path, (multi | {"unit": HOSTILE}, rounds, confused))
    assert not any(tag == "script" for tag, _ in shown.elements)


def test_optional_parts_may_be_missing(tmp_path: Path) -> None:
    full = example_run.binary()[0]
    bare: dict[str, Any] = {key: full[key] for key in ("study", "sites", "metric", "privacy", "secure_aggregation")}
    bare = copy.deepcopy(bare) | {"metrics": {"test": {"auroc": 0.84}}}
    for site in bare["sites"]:
        site |= {"patients": None, "held_out": None}
        site.pop("title", None)
    bare["privacy"] = {"unit": "patient", "epsilon": 2.0, "delta": 1e-5}
    shown = page(tmp_path, (bare, [], {}))
    assert "0.840" in shown.words
    assert "ε = 2" in shown.words
    assert not any(tag == "svg" for tag, _ in shown.elements)
    assert "None" not in shown.words
    assert "nan" not in shown.words.lower().split()


@pytest.mark.parametrize(
    "key",
    ["title", "created", "fingerprint", "comparisons", "privacy", "timing", "traffic", "versions", "seeds", "protocol",
     "rounds", "parameters", "reference", "best_possible", "unit", "sites"],
)  # fmt: skip
def test_each_part_may_be_missing_by_itself(tmp_path: Path, key: str) -> None:
    for make in EXAMPLES.values():
        result, rounds, curves = make()
        result.pop(key, None)
        assert "None" not in page(tmp_path, (result, rounds, curves)).words
        printed(table(result))
        printed(spending(result))


def test_data_without_patients_promises_nothing_to_a_patient(tmp_path: Path) -> None:
    result, rounds, curves = example_run.binary()
    assert "What is protected is the patient" in page(tmp_path, (result, rounds, curves)).words
    result |= {"stand_in": "image", "public_weights": {"skin": "efficientnet-lite0, weights of ImageNet"}}
    words = page(tmp_path, (result, rounds, curves)).words
    assert "Every image in the training is protected" in words
    assert "HospitalImagesHeld out" in words
    assert "own held-out images" in words
    assert "Images held out from training" in words
    assert not re.search(r"\d patients|held-out patients|Patients held out", words)
    assert "Images" in printed(spending(result))
    assert "Patients" not in printed(spending(result))
    assert "No patient ids: one image stands for a patient." in words
    assert "this is no promise to a person" in words
    assert "What is protected is the patient" not in words
    assert "The network in front of 'skin' is public (efficientnet-lite0, weights of ImageNet)" in words
    assert "Privacy per image" in words


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    result, rounds, curves = example_run.binary()
    result["comparisons"][0]["metrics"]["auroc"] = math.nan
    result["comparisons"][1]["per_site"]["hospital-2"]["auroc"] = None
    rounds[-1]["epsilon"] = math.inf
    shown = page(tmp_path, (result, rounds, curves))
    assert shown.tables[0][1][1] == "–"
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r'"-?(nan|inf)"|>-?(nan|inf)<', html)


def test_one_round_and_noised_counts_can_be_drawn(tmp_path: Path) -> None:
    result, rounds, _ = example_run.binary()
    bins = [{"predicted": 0.1, "observed": 1.4, "count": 3.2}, {"predicted": 0.5, "observed": -0.2, "count": -4.0}]
    page(tmp_path, (result, rounds[:1], {"calibration": bins}))
    page(tmp_path, (result, rounds[:1], {"predicted_true": {"edges": [0.0, 1.0], "counts": [[0]]}}))
    page(tmp_path, (result, rounds[:1], {"confusion": {"classes": ["a", "b"], "counts": [[0, 0], [-1, 2]]}}))


def test_many_hospitals_share_one_line_and_the_result_comes_first(tmp_path: Path) -> None:
    lines = page(tmp_path, example_run.regression()).tables[0]
    assert lines[1][0] == "Federation, private"
    assert lines[-1][0] == "site-21 alone"
    assert "Each of 21 hospitals alone" in (tmp_path / "report.html").read_text()


# the privacy statement


def private(**changes: Any) -> dict[str, Any]:
    result = example_run.binary()[0]
    result["privacy"] |= changes
    return result


def test_statement_says_what_epsilon_means() -> None:
    said = " ".join(statement(private()))
    assert "ε = 4 and δ = 10⁻⁵" in said
    assert f"{math.exp(4):.1f} times" in said
    assert "98.3 %" in said  # e^4 / (1 + e^4) = 0.98201, rounded up
    assert "(1 in 100,000)" in said
    assert "ε is 3.48" in said
    assert "together it is 14.21" in said


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 12.0, 800.0])
def test_ceiling_is_the_best_any_attack_can_do(epsilon: float) -> None:
    # The worst mechanism there is: randomized response with probability delta of giving all away.
    delta = 1e-3
    truth = math.exp(epsilon) / (1 + math.exp(epsilon)) if epsilon < 700 else 1.0
    assert ceiling(epsilon, delta) == pytest.approx(delta + (1 - delta) * truth)
    assert percent_up(ceiling(epsilon, 0.0)) != "100.0 %" or epsilon > 700
    assert float(percent_up(truth).split()[-2]) >= min(truth * 100, 99.9999) - 1e-9


def test_statement_names_the_coordinator_without_secure_aggregation() -> None:
    said = " ".join(statement(private()))
    assert "The coordinator saw single updates that carry only a share of the noise" in said
    assert "against the coordinator ε is 14.21" in said
    assert "not against the coordinator" in headline(private())[2]
    masked = private() | {"secure_aggregation": True}
    said = " ".join(statement(masked))
    assert "single updates" not in said
    assert "only sums over the hospitals" in said
    assert "coordinator" not in headline(masked)[2]


def test_statement_knows_updates_that_carry_all_the_noise() -> None:
    full = {"public": 4.0, "colluders": 4.0, "others": 4.0}
    said = " ".join(statement(private(epsilon_collusion=full)))
    assert "each carried the full noise" in said
    assert "does not hold" not in said


def test_insecure_run_promises_nothing(tmp_path: Path) -> None:
    result, rounds, curves = example_run.binary()
    result["privacy"]["insecure"] = True
    said = statement(result)
    assert said[0].startswith("This run keeps no promise.")
    assert not any(sentence.startswith("The promise is") for sentence in said)
    assert "no privacy promise" in headline(result)[2]
    shown = page(tmp_path, (result, rounds, curves))
    assert ("div", {"class": "banner", "role": "alert"}) in shown.elements
    assert [line[-1] for line in shown.tables[0] if line[0] == "Federation, private"] == ["none"]
    assert "alert" not in {a.get("role") for _, a in page(tmp_path, example_run.binary()).elements}


def test_record_unit_is_labelled_weaker(tmp_path: Path) -> None:
    result, rounds, curves = example_run.binary()
    result["privacy"]["unit"] = "record"
    assert "weaker than protecting the patient" in statement(result)[0]
    assert "Weaker than usual" in page(tmp_path, (result, rounds, curves)).words
    assert "k times the ε" in statement(result)[0]
    result["privacy"]["whole_patient"] = {"records": 8, "epsilon": 24.4612}
    assert "a person with 8 records, the most that this study takes" in statement(result)[0]
    assert "only ε = 24.47 at the same δ." in statement(result)[0]


def test_a_result_says_what_records_are_worth_to_the_patient_who_has_most() -> None:
    study = visits_study().replace(privacy={"unit": "record", "epsilon": 1.0})
    plan = plan_for(study, 3)
    told = privacy_of(study, plan, {"step": study.training.rounds}, {})["whole_patient"]
    assert told == {"records": MOST, "epsilon": rounded_up(patient_epsilon(plan, MOST))}
    assert told["epsilon"] > 30 * plan.epsilon()
    half = privacy_of(study, plan, {"step": study.training.rounds // 2}, {})["whole_patient"]
    assert plan.epsilon() < half["epsilon"] < told["epsilon"]
    for other in (plan_for(visits_study(), 3), plan.without_noise()):
        assert privacy_of(study, other, {"step": 5}, {})["whole_patient"] is None


def test_run_without_noise_promises_nothing() -> None:
    said = statement(private(epsilon=None))
    assert said[0].startswith("This run added no noise")
    assert not any("The promise is" in sentence for sentence in said)


def test_statement_says_how_held_out_results_were_released() -> None:
    assert any("are exact. No promise covers them" in s for s in statement(private()))
    assert any("were noised" in s for s in statement(private(evaluation_release="private")))


# words and numbers


def test_bounds_are_never_rounded_down() -> None:
    assert [epsilon_text(v) for v in (4.0, 1.7301, 3.4712, 0.5, 14.2034)] == ["4", "1.74", "3.48", "0.5", "14.21"]
    assert [delta_text(v) for v in (1e-5, 7.41e-4, 1e-3, 2.5e-12, 9.99e-5)] == [
        "10⁻⁵", "7.5×10⁻⁴", "0.001", "2.5×10⁻¹²", "10⁻⁴",
    ]  # fmt: skip
    assert number(-0.0001, 2) == "0.00"
    assert number(-1234.5, 1) == "−1,234.5"
    assert interval(0.1, None, 2) == ""


def test_terminal_table_is_the_same_comparison(example: example_run.Example) -> None:
    result, metric = example[0], example[0]["metric"]["name"]
    shown = printed(table(result))
    for entry in result.get("comparisons") or ():
        (line,) = [line for line in shown.splitlines() if entry["label"] in line]
        assert f"{entry['metrics'][metric]:.{2 if metric == 'mae' else 3}f}" in line
    assert all(site.get("title", site["name"]) in printed(spending(result)) for site in result["sites"])


def test_terminal_table_folds_a_hundred_hospitals() -> None:
    result = example_run.binary()[0]
    alone = result["comparisons"][0]
    for i in range(100):
        entry = copy.deepcopy(alone) | {"name": f"local:h{i}", "label": f"h{i} alone"}
        entry["metrics"]["auroc"] = 0.5 + i / 400
        result["comparisons"].append(entry)
    shown = printed(table(result))
    assert len(shown.splitlines()) < 20
    assert "Best of 105 hospitals alone: Northfield General alone" in shown
    assert "Weakest: h0 alone" in shown


@pytest.mark.parametrize(("low", "high"), [(0, 1), (8.1, 15.2), (-3, 4), (0.6001, 0.6012), (0, 123456)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks(6)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + (high - low) * 1e-6 for tick in ticks)


@pytest.mark.parametrize(("observed", "patients"), [(10, 50), (0, 10), (7, 7), (1, 1)])
def test_wilson_interval(observed: int, patients: int) -> None:
    expected = binomtest(observed, patients).proportion_ci(method="wilson")
    assert wilson(observed / patients, patients) == pytest.approx((expected.low, expected.high), abs=1e-6)


# a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, str]]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")

    def visit(path: Path, *options: str) -> tuple[str, str]:
        profile = tmp_path_factory.mktemp("profile")
        quiet = [
            f"--{name}"
            for name in (
                "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                "disable-component-update", "disable-sync", "hide-scrollbars", "enable-logging=stderr",
                "window-size=1100,2400",
            )
        ]  # fmt: skip
        done = subprocess.run(
            [program, *quiet, f"--user-data-dir={profile}", *options, path.as_uri()],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return visit


def test_browser_reads_it_without_complaint(browser: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    path = write_report(tmp_path, *example_run.binary())
    dom, complaints = browser(path, "--dump-dom")
    assert complaints == ""
    read = Page(dom)  # as the browser understood it: nothing moved, nothing dropped
    written = Page(path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in written.elements]
    assert sum(tag == "svg" for tag, _ in read.elements) == 7
    broken = tmp_path / "broken.html"
    broken.write_text(path.read_text(encoding="utf-8").replace("</main>", "<script>boom()</script></main>"))
    assert browser(broken, "--dump-dom")[1] != ""  # the test sees complaints, and the page's policy stops scripts


@pytest.mark.parametrize(
    ("scheme", "paper", "ink"), [("1", (252, 251, 248), (176, 106, 28)), ("0", (18, 23, 28), (226, 163, 92))]
)
def test_browser_draws_both_themes(
    browser: Callable[..., tuple[str, str]], tmp_path: Path, scheme: str, paper: tuple[int, ...], ink: tuple[int, ...]
) -> None:
    path, picture = write_report(tmp_path, *example_run.binary()), tmp_path / "page.png"
    browser(path, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    with Image.open(picture) as drawn:
        shade = drawn.convert("RGB")
        assert shade.getpixel((2, 2)) == paper
        # The colour of the hospitals alone, which only marks in the charts have.
        assert sum(count for count, colour in shade.getcolors(1 << 24) if colour == ink) > 100


def test_survival_shows_groups_and_calibration_at_the_horizon(tmp_path: Path) -> None:
    result, rounds, _ = example_run.binary()
    groups = [
        {"predicted": risk, "count": 70.0, "points": [[0.0, 1.0], [365.0, 1 - risk / 2], [1825.0, 1 - risk]]}
        for risk in (0.05, 0.2, 0.4)
    ]
    bins = [{"predicted": 0.1, "observed": 0.2, "count": 50.0, "effective": 12.0}]
    shown = page(
        tmp_path,
        ({**result, "unit": "days"}, rounds, {"survival": {"horizon": 1825.0, "groups": groups}, "calibration": bins}),
    )
    assert "predicted risk 0.40, 70 patients" in shown.words
    assert "Kaplan-Meier" in shown.words
    # Twelve complete patients would know as much as these fifty: the interval is theirs.
    low, high = wilson(0.2, 12.0)
    assert f"observed 0.20 ({low:.2f} to {high:.2f}), 50 patients" in shown.words

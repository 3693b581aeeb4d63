"""What a command prints: nothing cut off, and no bound rounded down."""

from __future__ import annotations

import io
from types import SimpleNamespace

import example_run
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pmfed_server.report import table
from pmfed_server.report.charts import Scale
from pmfed_server.report.figures import epsilon_text
from pmfed_server.report.words import headline
from pmfed_simulations import display, planning
from pmfed_simulations.planning import far_off
from rich.console import Console
from small import AGE, small_study

from pmfed import terminal
from pmfed.privacy.rounding import rounded_up

CLINICAL = {"clinical": {"kind": "table", "table": "patients", "features": AGE}}


@given(st.floats(1e-12, 1e6), st.integers(1, 5))
def test_a_bound_is_never_rounded_down(value: float, digits: int) -> None:
    found = rounded_up(value, digits)
    assert value <= found <= value + max(10.0**-digits, value * 10.0 ** (1 - digits)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.99999, "4"),
        (2.0, "2"),
        (12.001, "12.01"),
        (0.0123, "0.013"),
        (1e-5, "10⁻⁵"),
        (1.21e-4, "1.3×10⁻⁴"),
        (None, "–"),
    ],
)
def test_epsilon_is_written_rounded_up(value: float | None, text: str) -> None:
    assert epsilon_text(value) == text


@pytest.mark.parametrize("at", [0.0, -3.0, 1e-9, 7e5])
def test_an_axis_of_one_value_has_ticks(at: float) -> None:
    scale = Scale(at, at, 0, 100)
    assert scale.ticks()
    assert scale(at) == 0


def test_a_file_or_pipe_cuts_no_table_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    result = example_run.binary()[0]
    result["comparisons"][0]["label"] = "a hospital with a long name " * 5 + "end"
    terminal.console().print(table(result))
    assert "a hospital with a long name " * 4 in capsys.readouterr().out
    narrow = Console(width=40, file=io.StringIO())
    narrow.print(table(result))
    assert "…" not in narrow.file.getvalue()  # type: ignore[attr-defined]


def test_a_plan_is_whole_on_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    planning.show_plan(small_study(CLINICAL), 5)
    assert "…" not in capsys.readouterr().out


@pytest.mark.parametrize(("training", "said"), [(320, "28.1 times shorter"), (30_000, "3.3 times longer"), (8_000, "")])
def test_a_wrong_number_of_patients_is_said(training: int, said: str) -> None:
    study = small_study(CLINICAL, cohort={"expected_patients": 9_000}, privacy={"delta": 1e-5})
    found = far_off(study, training)
    assert (said in found) if said else not found
    assert f"{training:,}" in found or not said


def test_the_time_left_is_said_once_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "EVERY", 0.0)
    monkeypatch.setattr(display, "_said", lambda simulation: "")
    done = iter([0, 5, 10])
    tick = display._log(SimpleNamespace(rounds=10, rounds_done=lambda: next(done)))  # type: ignore[arg-type]
    for _ in range(3):
        tick()
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "0/10 rounds"
    assert second.startswith("5/10 rounds, about ")
    assert last == "10/10 rounds, about 0 s left"


def test_a_figure_that_cannot_be_told_is_not_a_dash() -> None:
    result = example_run.binary()[0]
    for entry in (result["metrics"]["test"], *(line["metrics"] for line in result["comparisons"])):
        entry.update(dict.fromkeys(entry, None))
    words = " ".join(headline(result))
    assert "–" not in words
    assert "AUROC cannot be told" in words

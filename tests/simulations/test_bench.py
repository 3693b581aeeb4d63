"""What `pmfed bench` makes of what it measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from pmfed_simulations.bench import GROUPS, BenchRow, compare, rates, run_bench

from pmfed.errors import UsageError


def test_medians_ratios_and_rates() -> None:
    ours, other = iter([9.0, 1.0, 2.0, 30.0]), iter([9.0, 4.0, 4.0, 4.0])
    row = compare("x", lambda: (next(ours), 10.0), lambda: (next(other), None), 0.4, repeats=3, work=(1000, "images"))
    assert (row.ours_s, row.other_s, row.ratio) == (2.0, 4.0, 0.5)
    assert (row.ours_mb, row.other_mb) == (10.0, None)
    assert rates(row) == "500 / 250 images"
    assert rates(BenchRow("x", 1.0, 1.0, 1.0, None)) == ""


@pytest.fixture
def one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("pmfed_simulations.bench.noise")
    monkeypatch.setattr(module, "rows", lambda: [BenchRow("scans", 2.0, 1.0, 2.0, 1.5, work=(400, "images"))])


def test_the_table_and_the_file(one_row: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_bench("noise", tmp_path / "b.json")
    assert "200 / 400 images" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["work"] == [400, "images"]


def test_a_group_that_is_none() -> None:
    with pytest.raises(UsageError, match=GROUPS[0]):
        run_bench("everything", None)

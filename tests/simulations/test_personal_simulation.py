"""`pmfed simulate` with models of the sites' own: what stands beside them, and what is read from the sites' folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import federation
import pytest
from pmfed_server.report import page
from pmfed_simulations.bench import personal as bench
from pmfed_simulations.simulate import Options, prepare, simulate

from pmfed.errors import StudyError, UsageError

INTERCEPT = '[personal]\nmethod = "intercept"\nlearning_rate = 0.5\n'
DITTO = '[personal]\nmethod = "ditto"\nlearning_rate = 0.3\nproximal = 0.5\nshare = 0.3\n'


def options(folder: Path, personal: str, **more: Any) -> Options:
    made = federation.write_federation(folder / "f")
    (folder / "changes.toml").write_text(personal, encoding="utf-8")
    return Options(
        str(made / "study.toml"), str(folder / "run"), str(made / "sites"), changes=str(folder / "changes.toml"),
        workers=1, **more,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("personal", [DITTO, INTERCEPT], ids=["ditto", "intercept"])
def test_own_models_stand_beside_the_common_one_and_each_hospital_alone(tmp_path: Path, personal: str) -> None:
    asked = options(tmp_path, personal, compare=("global", "no-privacy", "local-private"))
    result = simulate(prepare(asked))
    lines = {line["name"]: line for line in result["comparisons"]}
    assert set(result["personal"]["per_site"]) == set(federation.SITES)
    assert "personal" not in lines["global"]
    assert set(lines["no-privacy"]["personal"]["per_site"]) == set(federation.SITES)
    assert lines["no-privacy"]["personal"]["test"] != result["personal"]["test"]
    (shown,) = [page.content(result, [], {})["hospitals"]]
    assert {"together", "personal", "alone_private"} <= set(shown["columns"])
    for line in shown["lines"]:
        site = line["label"]
        own = result["personal"]["per_site"][site]["auroc"]
        common = (lines["global"] if personal == INTERCEPT else result["metrics"])["per_site"][site]["auroc"]
        assert line["personal"].startswith(f"{own:.3f}")
        assert line["together"].startswith(f"{common:.3f}")
    said = " ".join(page.content(result, [], {})["statement"])
    assert "as if it had been published" in said
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Its own model" in text
    assert "Common model" in text


@pytest.mark.slow
def test_a_cross_validation_scores_own_models_from_the_sites_folders(tmp_path: Path) -> None:
    asked = options(tmp_path, INTERCEPT, protocol="cv", epsilon=0.3)
    result = simulate(prepare(asked))
    assert result["personal"]["test"] == result["metrics"]["test"]
    held_out = list((tmp_path / "run" / "runs").glob("*/scores.safetensors"))
    assert len(held_out) == 5


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no 'intercept' of its own"):
        prepare(options(tmp_path / "a", INTERCEPT, protocol="leave-one-site-out"))
    with pytest.raises(UsageError, match="it is the federation itself"):
        prepare(options(tmp_path / "b", "", compare=("global",)))
    with pytest.raises(StudyError, match=r"changes\.toml:2: personal\.method"):
        prepare(options(tmp_path / "c", INTERCEPT.replace("intercept", "head")))
    with pytest.raises(UsageError, match="not a TOML file of sections"):
        prepare(options(tmp_path / "d", "personal = 1"))


def test_the_bench_trains_as_a_run_does(tmp_path: Path) -> None:
    made = prepare(options(tmp_path, ""))
    rows = bench.measure(made.study, made.cohorts, ("common", "ditto", "intercept", "fedavg", "alone"), (2.0,), 1)
    found = {(row["way"], row["model"]): row["sites"] for row in rows}
    assert set(found) == {
        ("common", "common"), ("ditto", "common"), ("ditto", "own"), ("intercept", "own"), ("fedavg", "common"),
        ("alone", "alone"),
    }  # fmt: skip
    assert all(set(sites) == set(federation.SITES) for sites in found.values())
    bench.show(rows)

"""A site that refuses: its patients are in no line of the comparison."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import federation
import pytest
from conftest import Command
from safetensors.numpy import load_file
from test_runs import result_of, rich, words


@pytest.mark.parametrize(
    ("options", "lines", "folders"),
    [
        ((), ("local:north", "local:south", "pooled", "no-privacy", "fedyogi"), ["run"]),
        (("--protocol", "cv"), ("pooled",), [f"seed-1-fold-{k}" for k in range(1, 6)]),
    ],
    ids=["held out", "folds"],
)
def test_the_same_patients_are_in_every_line(
    pmfed: Command, fed: Path, options: tuple[object, ...], lines: tuple[str, ...], folders: list[str]
) -> None:
    rich(fed)
    federation.change(fed / "sites/west/site.toml", r"^min_patients = 20", "min_patients = 500")
    said = pmfed(
        *words(
            fed,
            "run",
            "--rounds",
            2,
            "--compare",
            ",".join(dict.fromkeys(line.partition(":")[0] for line in lines)),
            *options,
        )
    )
    assert said.code == 0, said.err
    result = result_of(fed / "run")
    assert set(result["refused"]) == {"west"}
    assert [site["name"] for site in result["sites"]] == ["north", "south"]
    names = [line["name"] for line in result["comparisons"]]
    assert names == ["federation", *lines]
    assert all(set(line["per_site"]) <= {"north", "south"} for line in result["comparisons"])
    for folder in folders:
        for line in lines:
            totals = load_file(fed / "run" / "comparisons" / line.replace(":", "-") / folder / "scores.safetensors")
            assert set(totals) == {"north", "south"}
    # As many patients in each line: the AUROC of the federation counts no others either.
    counted = {line["name"]: line["per_site"].keys() for line in result["comparisons"]}
    assert all(one == counted["federation"] for one in counted.values())


def test_what_a_study_says_cannot_be_gone_on_with(pmfed: Command, fed: Path) -> None:
    for name in ("south", "west"):
        shutil.rmtree(fed / "sites" / name)
    said = pmfed(*words(fed, "run"))
    assert said.code == 2
    assert "only 1 site(s) take part" in said.err
    assert "--resume" not in said.err
    assert "another --out" in said.err
    again = pmfed("simulate", "--resume", fed / "run")
    assert (again.code, "--resume" in again.err) == (2, False)


def test_a_tiny_epsilon_is_reported_and_not_as_nothing(pmfed: Command, fed: Path) -> None:
    rich(fed)
    said = pmfed(*words(fed, "run", "--rounds", 2, "--epsilon", 1e-5))
    assert said.code == 0, said.err
    privacy = result_of(fed / "run")["privacy"]
    assert 0 < privacy["epsilon"] <= 1e-5 * (1 + 1e-3)
    assert all(spent["epsilon"] > 0 for spent in privacy["spent"].values())
    page = (fed / "run" / "report.html").read_text(encoding="utf-8")
    assert re.search("ε = [0-9.×]*10⁻[⁵⁶] ", page)


def test_a_wrong_number_of_patients_is_said_before_and_after(pmfed: Command, fed: Path) -> None:
    rich(fed)
    federation.change(fed / "study.toml", "^expected_patients = .*", "expected_patients = 900")
    said = pmfed(*[word for word in words(fed, "run", "--rounds", 1) if word != "--quiet"])
    assert said.code == 0, said.err
    assert "the study expects 900 training patients" in said.out
    assert "900" in result_of(fed / "run")["notes"][0]
    assert "nan" not in said.out

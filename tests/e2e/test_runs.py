"""Whole runs from the command line: what they leave behind, what they spend, and how they end when things go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from conftest import Command, Said, Started
from federation import change
from pmfed_client.ledger.ledger import Ledger
from safetensors import safe_open
from safetensors.numpy import load_file

from pmfed.secagg.keys import verify
from pmfed.study import Study

SITES = federation.SITES
LONG = 80  # rounds of a run that something happens to
SOON = 60.0


def words(fed: Path, run: str = "run", *more: object) -> tuple[object, ...]:
    return ("simulate", fed / "study.toml", "--sites", fed / "sites", "--out", fed / run, "--charge-ledger", *more)


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def lines_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def charges(fed: Path, name: str) -> list[tuple[int | None, int | None]]:
    with Ledger(fed / "sites" / name / "ledger.db") as ledger:
        ledger.verify()
        return [(row.round, row.attempt) for row in ledger.rows() if row.kind == "charge"]


def spent(fed: Path, name: str) -> float:
    """Return the epsilon that a site's ledger holds, over all runs."""
    with Ledger(fed / "sites" / name / "ledger.db") as ledger:
        cohort = next(row.cohort for row in ledger.rows() if row.cohort)
        return ledger.spent(cohort, 1e-3)


def rich(fed: Path, epsilon: float = 100.0) -> None:
    """Give the sites a budget for many runs."""
    for name in SITES:
        change(fed / "sites" / name / "site.toml", "^epsilon = 2.5", f"epsilon = {epsilon}")


def flat(text: str) -> str:
    return " ".join(text.split())


def secrets_in(folder: Path, fed: Path) -> list[str]:
    """Return the files of a folder that hold a patient's id or value, as text or as a number."""
    text = "".join((fed / "sites" / name / "patients.csv").read_text() for name in SITES)
    markers = np.array([float(row.split(",")[3]) for row in text.splitlines() if row.startswith("canary")])
    assert len(markers) == 180
    scaled = (markers - 50) / 25
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        needles = [federation.ID_CANARY.encode(), federation.VALUE_CANARY.encode(), *(one.tobytes() for one in markers)]
        if any(needle in data for needle in needles):
            found.append(path.name)
        if path.suffix == ".safetensors":
            numbers = np.concatenate([tensor.ravel().astype(np.float32) for tensor in load_file(path).values()])
            if np.isin(numbers, np.concatenate([markers, scaled]).astype(np.float32)).any():
                found.append(path.name)
    return found


def test_what_a_run_leaves_behind(pmfed: Command, fed: Path) -> None:
    said = pmfed(*words(fed))
    run, study = fed / "run", Study.read(fed / "study.toml")
    assert said.code == 0, said.err
    assert said.err == ""
    assert "3 hospitals with 180 patients" in flat(said.out)
    assert {path.name for path in run.iterdir()} == {
        "study.toml", "model.json", "model.safetensors", "checkpoints", "metrics.jsonl", "receipts", "enrolled.json", "report.html", "result.json",
        "evaluation.safetensors", "run-id", "simulation.json",
    }  # fmt: skip

    result = result_of(run)
    assert result.keys() >= {
        "study", "fingerprint", "sites", "rounds", "parameters", "metrics", "privacy", "secure_aggregation", "timing",
        "traffic", "versions",
    }  # fmt: skip
    assert (result["study"], result["fingerprint"]) == ("tiny", study.fingerprint())
    digests = [site.pop("data") for site in result["sites"]]
    assert len(set(digests)) == len(SITES)
    assert all(len(one) == 64 for one in digests)
    assert result["sites"] == [{"name": name, "patients": 60, "held_out": one} for name, one in zip(SITES, (18, 17, 7), strict=True)]  # fmt: skip
    assert (result["rounds"], result["parameters"], result["secure_aggregation"]) == (6, 7, True)
    assert result["metrics"]["test"].keys() >= {"auroc", "auroc_low", "auroc_high", "accuracy", "brier"}
    assert set(result["metrics"]["per_site"]) == set(SITES)
    privacy = result["privacy"]
    assert privacy.keys() >= {
        "unit", "mechanism", "epsilon", "delta", "epsilon_collusion", "noise_multiplier", "sampling_rate", "steps",
    }  # fmt: skip
    assert (privacy["unit"], privacy["steps"], privacy["delta"], privacy["insecure"]) == ("patient", 6, 1e-3, False)
    assert 0.98 * 2 < privacy["epsilon"] <= 2
    told = privacy["epsilon_collusion"]
    assert told["public"] < told["colluders"] == privacy["epsilon"] < told["others"]
    assert result["timing"].keys() == {"wall_s", "train_s", "overhead_s"}
    assert result["traffic"]["bytes_up_per_site"] >= 6 * 7 * 4
    assert result["versions"].keys() >= {"pmfed", "python", "flwr", "opacus", "torch", "dp-accounting", "numpy"}

    for name in SITES:
        receipt = verify((run / "receipts" / f"{name}.json").read_text())
        assert receipt["site"] == name
        assert receipt["study"] == study.fingerprint()
        assert receipt["epsilon"] == pytest.approx(privacy["spent"][name]["epsilon"], abs=1e-3)
        assert charges(fed, name) == [(number, 0) for number in range(1, 7)]
        assert spent(fed, name) == pytest.approx(privacy["epsilon"], rel=1e-3)

    with safe_open(run / "model.safetensors", framework="numpy") as model:
        assert Study.parse(model.metadata()["study"]) == study
        assert {name: model.get_tensor(name).shape for name in model.keys()} == {  # noqa: SIM118
            "linear.weight": (1, 6),
            "linear.bias": (1,),
        }
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page

    # No patient's id or value is anywhere but at the sites.
    assert secrets_in(run, fed) == []
    assert federation.ID_CANARY not in said.out
    assert federation.VALUE_CANARY not in said.out
    beside = [path.name for name in SITES for path in (fed / "sites" / name).rglob("*") if path.is_file()]
    beside = [name for name in beside if not re.fullmatch(r"[0-9a-f]{32}", name)]  # digests of the data, by run
    assert not (set(beside) - {"site.toml", "patients.csv", "identity.pem", "roster.json"}) - {
        "ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.head"
    }  # fmt: skip
    assert secrets_in(fed / "sites", fed) == ["patients.csv"] * 3  # and the search does find what there is

    # A second run would exceed what the sites allow: refused with the numbers, and nothing more is charged.
    said = pmfed(*words(fed, "again"))
    assert said.code == 6
    for name in SITES:
        assert f"{name}: run '" in said.err
        assert len(charges(fed, name)) == 6
    assert "this site allows 2.5000" in said.err
    assert "is spent there" in said.err
    assert "Nothing was released." in said.err
    assert not (fed / "again" / "model.safetensors").exists()


def test_same_seed_same_bits_whatever_the_workers(pmfed: Command, fed: Path) -> None:
    rich(fed)
    models = []
    for run, *more in (
        ("one", "--insecure-reproducible", "--workers", 1),
        ("two", "--insecure-reproducible", "--workers", 2),
        ("secret", "--workers", 2),
    ):
        said = pmfed(*words(fed, run, *more))
        assert said.code == 0, said.err
        assert ("INSECURE" in said.out) == result_of(fed / run)["privacy"]["insecure"] == (run != "secret")
        models.append((fed / run / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    assert models[2] != models[0]
    assert [line["metrics"] for line in lines_of(fed / "one") if "metrics" in line] == [
        line["metrics"] for line in lines_of(fed / "two") if "metrics" in line
    ]


def test_without_noise_the_federation_is_the_pooled_data(pmfed: Command, fed: Path) -> None:
    """Everyone takes part in every step, so that the two differ by rounding to the grid alone."""
    change(fed / "study.toml", "^sampling_rate = 0.5", "sampling_rate = 1.0")
    said = pmfed(*words(fed, "run", "--compare", "no-privacy,pooled"))
    assert said.code == 0, said.err
    here, there = (
        load_file(fed / "run" / "comparisons" / name / "run" / "model.safetensors") for name in ("no-privacy", "pooled")
    )
    assert here.keys() == there.keys()
    private = load_file(fed / "run" / "model.safetensors")
    # One unit of the grid is 1/4096 of a sum that is divided by 144; six steps of momentum, three sites.
    for name, tensor in here.items():
        np.testing.assert_allclose(tensor, there[name], rtol=0, atol=5e-5)
        assert np.abs(tensor).max() > 0.01
        assert np.abs(tensor - private[name]).max() > 1e-3
    lines = {line["name"]: line for line in result_of(fed / "run")["comparisons"]}
    assert list(lines) == ["federation", "no-privacy", "pooled"]
    assert lines["no-privacy"]["metrics"]["auroc"] == pytest.approx(lines["pooled"]["metrics"]["auroc"], abs=0.01)
    assert [line["epsilon"] is None for line in lines.values()] == [False, True, True]
    for name in SITES:
        assert len(charges(fed, name)) == 6  # the federation's; nothing is charged for comparisons


PROTOCOLS: dict[str, tuple[tuple[object, ...], list[str], int]] = {
    "cv": (("--protocol", "cv"), [f"seed-1-fold-{fold}" for fold in range(1, 6)], 1),
    "leave one site out": (("--protocol", "leave-one-site-out"), [f"seed-1-without-{name}" for name in SITES], 1),
    "seeds": (("--seeds", 2), ["seed-1", "seed-2"], 2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "runs", "seeds"), PROTOCOLS.values(), ids=PROTOCOLS)
def test_protocols(pmfed: Command, fed: Path, options: tuple[object, ...], runs: list[str], seeds: int) -> None:
    rich(fed)
    said = pmfed(*words(fed, "run", "--rounds", 3, "--compare", "pooled", *options))
    assert said.code == 0, said.err
    result = result_of(fed / "run")
    assert sorted(path.name for path in (fed / "run" / "runs").iterdir()) == sorted(runs)
    assert (result["seeds"], result["trainings"]) == (seeds, len(runs))
    assert [line["name"] for line in result["comparisons"]] == ["federation", "pooled"]
    scored = 0
    for line in result["comparisons"]:
        assert 0 <= line["metrics"]["auroc_low"] <= line["metrics"]["auroc"] <= line["metrics"]["auroc_high"] <= 1
        assert ("auroc_sd" in line["metrics"]) == (seeds > 1)
    if seeds == 1:
        # Every patient was held out exactly once.
        assert set(result["metrics"]["per_site"]) == set(SITES)
        assert [(site["patients"], site["held_out"]) for site in result["sites"]] == [(60, None)] * 3
        for run in runs:
            for total in load_file(fed / "run" / "runs" / run / "scores.safetensors").values():
                scored += round(float(total.sum()))
        assert scored == 180
    else:
        assert len({(fed / "run" / "runs" / run / "model.safetensors").read_bytes() for run in runs}) == 2
    assert secrets_in(fed / "run", fed) == []
    # A repeated training is charged like any other: the ledgers know all of them.
    assert {name: len(charges(fed, name)) for name in SITES} == dict.fromkeys(
        SITES, 3 * (len(runs) - (options[-1] == "leave-one-site-out"))
    )


def under_way(run: Path, started: Started, lines: int = 3) -> None:
    deadline = time.monotonic() + SOON
    while len(lines_of(run)) < lines:
        assert started.process.poll() is None, started.end()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def none_left(fed: Path) -> Iterator[None]:
    """Check that no process of the run outlives the test."""
    yield
    deadline = time.monotonic() + 10
    while left := [one.name for one in Path("/proc").glob("[0-9]*") if _belongs(one, fed)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _belongs(process: Path, fed: Path) -> bool:
    try:
        return int(process.name) != os.getpid() and str(fed).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("none_left")
def test_ctrl_c_in_the_middle(pmfed: Command, start: Callable[..., Started], fed: Path, workers: int) -> None:
    started = start(*words(fed, "run", "--rounds", LONG, "--workers", workers))
    run = fed / "run"
    under_way(run, started)
    started.interrupt()
    said = started.end()
    assert said.code == 130
    assert "Traceback" not in said.err
    assert "What was charged to the sites' ledgers stays charged." in said.err
    assert f"pmfed simulate --resume {run}" in said.err
    done = len(lines_of(run))
    assert done < LONG
    for name in SITES:
        assert len(charges(fed, name)) >= done
        assert 0 < spent(fed, name) < 2
    assert not (run / "result.json").exists()

    said = pmfed("simulate", "--resume", run, "--quiet")
    assert (said.code, said.out) == (0, ""), said.err
    result = result_of(run)
    assert LONG - 2 <= result["rounds"] <= LONG  # the round under way is counted as charged
    assert result["privacy"]["epsilon"] <= 2
    numbers = [line["round"] for line in lines_of(run)]
    assert numbers == sorted(set(numbers))
    for name in SITES:
        told = charges(fed, name)
        assert len(told) == len(set(told)) <= LONG
        assert spent(fed, name) <= 2
        assert result["privacy"]["spent"][name]["epsilon"] <= 2
    # Once more changes nothing.
    before = (run / "model.safetensors").read_bytes()
    assert pmfed("simulate", "--resume", run, "--quiet").code == 0
    assert (run / "model.safetensors").read_bytes() == before
    assert all(len(charges(fed, name)) <= LONG for name in SITES)


@pytest.mark.slow
@pytest.mark.usefixtures("none_left")
def test_a_site_that_breaks_in_the_middle(start: Callable[..., Started], fed: Path) -> None:
    """Its ledger is replaced by garbage while the run goes."""
    started = start(*words(fed, "run", "--rounds", LONG, "--workers", 2))
    run = fed / "run"
    under_way(run, started)
    garbage = fed / "garbage"
    for name in ("ledger.db", "ledger.db-wal"):  # the log alone could bring the other back
        garbage.write_bytes(b"garbage " * 1000)
        garbage.replace(fed / "sites/south" / name)
    said = started.end()
    assert said.code == 0, said.err
    assert "Traceback" not in said.err
    assert "moved or replaced while it was in use" in said.err  # the site's own log
    lines = lines_of(run)
    dropped = [line for line in lines if line["dropped"]]
    strikes = len(dropped)  # with those of the looks in between it is three: then it was not asked any more
    assert 1 <= strikes <= 3
    for line in dropped:
        assert list(line["dropped"]) == ["south"]
        assert "privacy ledger cannot be used" in line["dropped"]["south"]
        assert line["attempt"] == 1  # a fresh attempt
        assert line["sites"] == 2  # whose shares of the noise are larger
    assert lines[-1]["sites"] == 2
    result = result_of(run)
    assert result["rounds"] == LONG - strikes  # the attempts that were lost were charged too
    assert set(result["privacy"]["spent"]) == {"north", "west"}
    for name in ("north", "west"):
        assert len(charges(fed, name)) == LONG
        assert spent(fed, name) <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("none_left")
def test_a_ledger_overwritten_in_the_middle_is_never_trusted_again(
    pmfed: Command, start: Callable[..., Started], fed: Path
) -> None:
    """SQLite may not see what was done behind its back until the file is opened anew; then it is the end of it."""
    started = start(*words(fed, "run", "--rounds", LONG, "--workers", 1))
    under_way(fed / "run", started)
    for path in (fed / "sites/south").glob("ledger.db*"):
        path.write_bytes(b"garbage " * (path.stat().st_size // 8))
    said = started.end()
    assert said.code == 0, said.err
    assert "Traceback" not in said.err
    assert result_of(fed / "run")["privacy"]["spent"].get("south", {"all_runs": None})["all_runs"] is None
    rich(fed)
    assert pmfed(*words(fed, "again", "--rounds", 3)).code == 0
    assert list(result_of(fed / "again")["refused"]) == ["south"]


@pytest.mark.slow
@pytest.mark.usefixtures("none_left")
def test_a_disk_that_is_full_in_the_middle(pmfed: Command, start: Callable[..., Started], fed: Path) -> None:
    """No file may grow beyond 64 KiB: the ledgers' logs are the first that would."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    said = start(*words(fed, "run", "--rounds", 20), before=limit).end()
    assert said.code == 6, said
    assert "Traceback" not in said.err
    assert "0 of 3 sites are left" in said.err
    for name in SITES:
        assert f"{name}: its privacy ledger cannot be used" in said.err
    assert "What was charged stays charged" in said.err
    assert f"pmfed simulate --resume {fed / 'run'}" in said.err
    done = len(lines_of(fed / "run"))
    assert 0 < done < 20
    for name in SITES:
        assert len(charges(fed, name)) in (done, done + 1)  # what was released was charged, and can be read

    # With room on the disk again, the run goes on.
    said = pmfed("simulate", "--resume", fed / "run", "--quiet")
    assert said.code == 0, said.err
    result = result_of(fed / "run")
    assert 18 <= result["rounds"] <= 20
    for name in SITES:
        assert len(charges(fed, name)) <= 20
        assert spent(fed, name) <= 2


@pytest.mark.slow
def test_a_process_of_the_run_that_is_killed(pmfed: Command, start: Callable[..., Started], fed: Path) -> None:
    """As the kernel does when memory runs out."""
    started = start(*words(fed, "run", "--rounds", LONG, "--workers", 1))
    under_way(fed / "run", started)
    children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    said = started.end()
    assert said.code == 6
    assert "ended with code -9" in said.err
    assert f"pmfed simulate --resume {fed / 'run'}" in said.err
    assert pmfed("simulate", "--resume", fed / "run", "--quiet").code == 0
    for name in SITES:
        assert len(charges(fed, name)) <= LONG
        assert spent(fed, name) <= 2


def test_help_loads_nothing_heavy(start: Callable[..., Started]) -> None:
    watch = (
        "import atexit, sys\n"
        "heavy = 'torch flwr opacus pandas numpy scipy sklearn monai ray pmfed_client pmfed_server'.split()\n"
        "atexit.register(lambda: print('LOADED', [name for name in heavy if name in sys.modules]))"
    )
    for command in (("--help",), ("--version",), ("simulate", "--help"), ("study", "--help")):
        said: Said = start(*command, before=watch).end()
        assert said.code == 0
        assert said.out.endswith("LOADED []\n"), said.out


def test_bad_input_in_a_process_of_its_own(start: Callable[..., Started], fed: Path) -> None:
    """Exit code and stderr as a shell sees them."""
    change(fed / "study.toml", "^sampling_rate", "samplin_rate")
    said = start(*words(fed)).end()
    assert (said.code, said.out) == (2, "")
    assert "did you mean 'sampling_rate'?" in said.err
    assert "Traceback" not in said.err

"""`--engine ray`: the same apps on Flower's own simulation runtime give the same model, errors and books.

Slow: each run starts a SuperLink and Ray. Needs the extra: pip install 'pmfed[ray]'.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pmfed_client.ledger.ledger import Ledger
from pmfed_simulations.simulate import Options, prepare
from pmfed_simulations.studies import write_sites
from safetensors.numpy import load_file

from pmfed.errors import UsageError

RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'pmfed[ray]'")
SLOW = 300.0


def command(out: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "pmfed.cli", "simulate", "digits", "--compare", "none", "--quiet", "--out", str(out),
        "--insecure-reproducible", *words,
    ]  # fmt: skip


def left_running(out: Path) -> list[str]:
    """Return the command lines of processes that a run in ``out`` started and did not stop."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            if f"FLWR_HOME={out / 'flower'}".encode() in environment:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def settled(out: Path) -> list[str]:
    """Give the kernel a moment to take away what was killed."""
    for _ in range(50):
        if not left_running(out):
            break
        time.sleep(0.1)
    return left_running(out)


@needs_ray
@pytest.mark.slow
def test_ray_gives_the_same_model_to_the_bit_and_keeps_the_same_books(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run(command(here, "--rounds", "3"), check=True, timeout=SLOW)
    subprocess.run(command(there, "--rounds", "3", "--engine", "ray"), check=True, timeout=SLOW)
    models = [load_file(out / "model.safetensors") for out in (here, there)]
    assert models[0].keys() == models[1].keys()
    assert all(tensor.tobytes() == models[1][name].tobytes() for name, tensor in models[0].items())
    results = [json.loads((out / "result.json").read_text()) for out in (here, there)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["privacy"]["spent"] == results[1]["privacy"]["spent"]
    assert len(results[0]["privacy"]["spent"]) == 20
    ledgers = sorted((there / "sites").glob("*/ledger.db"))
    assert len(ledgers) == 20
    for path in ledgers:
        kinds = [row.kind for row in Ledger(path).rows()]
        assert kinds.count("charge") == 3
        assert kinds[-1] == "finish"
    assert not (there / "flower").exists()
    assert settled(there) == []


@needs_ray
@pytest.mark.slow
def test_the_reason_of_a_failure_comes_through(tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    write_sites("digits", None, sites)
    for path in sites.glob("*/site.toml"):
        kept = path.read_text().split("[policy]")[0]
        path.write_text(kept)  # a site without a policy allows nothing
    study = tmp_path / "digits.toml"
    study.write_text(prepare(Options("digits", str(tmp_path / "written"))).study.to_toml())
    told = {}
    for engine in ("local", "ray"):
        said = command(tmp_path / engine, "--engine", engine, "--sites", str(sites), "--charge-ledger")
        said[said.index("digits")] = str(study)
        done = subprocess.run(said, capture_output=True, text=True, timeout=SLOW, check=False)
        said_last = done.stderr[done.stderr.index("error PM") :]  # above it, the log of the agents in this process
        told[engine] = (done.returncode, said_last.replace(str(tmp_path / engine), "RUN"))
    assert told["ray"] == told["local"]
    assert told["ray"][0] == 6
    assert "0 of 20 sites agreed" in told["ray"][1]
    assert settled(tmp_path / "ray") == []


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A run on Ray that has taken its first rounds."""
    out = tmp_path / "run"
    said = command(out, "--rounds", "400", "--engine", "ray")
    process = subprocess.Popen(said, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + SLOW
    lines = out / "metrics.jsonl"
    while not (lines.exists() and lines.read_text().count("\n") > 2):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield out, process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@needs_ray
@pytest.mark.slow
def test_ctrl_c_stops_flower_and_ray_and_says_how_to_go_on(under_way: tuple[Path, subprocess.Popen[str]]) -> None:
    out, process = under_way
    assert left_running(out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stays charged" in said
    assert f"pmfed simulate --resume {out}" in said
    assert settled(out) == []


@needs_ray
@pytest.mark.slow
def test_a_superlink_that_dies_is_told_of(under_way: tuple[Path, subprocess.Popen[str]]) -> None:
    out, process = under_way
    for found in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = (found / "cmdline").read_bytes(), (found / "environ").read_bytes()
        except OSError:
            continue
        if b"flower-superlink" in line and f"{out}/".encode() in environment:
            os.kill(int(found.name), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "SuperExec died" in said
    assert str(out / "flower" / "superlink.log") in said
    assert settled(out) == []


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else known(name, *rest))
    with pytest.raises(UsageError, match=r"pip install 'pmfed\[ray\]'"):
        prepare(Options("digits", str(tmp_path / "run"), engine="ray"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"engine": "spark"}, "spark"), ({"engine": "ray", "protocol": "cv"}, "--protocol cv")],
)
def test_what_ray_cannot_do_is_refused(tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prepare(Options("digits", str(tmp_path / "run"), **options))  # type: ignore[arg-type]

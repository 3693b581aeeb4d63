"""The coordinator's folder: certificates that programs believe, cards, the one door, and runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
import tomllib
from pathlib import Path

import pytest
from pmfed_client.site.create import make_home
from pmfed_client.site.trust import card_of
from pmfed_server import bundle as bundles
from pmfed_server import serving
from pmfed_server.bundle import bundle, failure_of
from pmfed_server.coordinator import Coordinator, add_card, make_coordinator
from pmfed_server.deployed import begin, go, runs_of, words_of
from pmfed_server.serving import NGINX, programs

from pmfed.errors import BudgetError, RunError, UsageError
from pmfed.secagg.keys import Identity
from pmfed.secagg.roster import Roster
from pmfed.study import Study

ROOT = Path(__file__).parents[2]
PATH = os.environ.get("PATH", "") + ":/usr/sbin"


@pytest.fixture
def hub(tmp_path: Path) -> Coordinator:
    return make_coordinator(tmp_path / "hub", ["hub.example.org", "192.0.2.7"], 9092, 18000)


def card(folder: Path, name: str) -> Path:
    path = folder / f"{name}.card"
    path.write_text(card_of(make_home(folder / name, name)))
    return path


def test_what_is_secret_is_for_its_owner_alone(hub: Coordinator) -> None:
    assert stat.S_IMODE(hub.folder.stat().st_mode) == 0o700
    for name in ("ca.key", "server.key", "link.key", "secret", "identity.pem"):
        assert stat.S_IMODE((hub.folder / name).stat().st_mode) == 0o600, name
    assert Coordinator.read(hub.folder) == hub
    assert (hub.folder / "coordinator.pub").read_text().strip() == Identity.at(hub.folder / "identity.pem").public
    with pytest.raises(UsageError, match="not empty"):
        make_coordinator(hub.folder, ["other"], 9092, 18000)
    for name in ("a host", "[::1]", "::zz", "2001:db8::7:9092:1:2:3:4:5", "fe80::1%eth0", ""):
        with pytest.raises(UsageError, match="no host name"):
            make_coordinator(hub.folder.parent / "other", [name], 9092, 18000)


@pytest.mark.parametrize(("asked", "file", "good"), [
    ("hub.example.org", "server", True), ("192.0.2.7", "server", True), ("other.example.org", "server", False),
    ("localhost", "link", True), ("127.0.0.1", "link", True), ("hub.example.org", "link", False),
])  # fmt: skip
def test_certificates_are_believed_for_their_names_only(hub: Coordinator, asked: str, file: str, good: bool) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(hub.folder / f"{file}.crt", hub.folder / f"{file}.key")
    trusted = ssl.create_default_context(cafile=str(hub.folder / "ca.crt"))
    trusted.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            served.wrap_socket(here, server_side=True).close()
        except OSError:
            here.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if good:
            trusted.wrap_socket(there, server_hostname=asked).close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                trusted.wrap_socket(there, server_hostname=asked)
    finally:
        there.close()
        thread.join(10)


def test_cards_make_the_roster_and_keys_do_not_change_silently(hub: Coordinator, tmp_path: Path) -> None:
    north, south = card(tmp_path, "north"), card(tmp_path, "south")
    add_card(hub, north)
    assert not hub.roster.exists()
    add_card(hub, south)
    add_card(hub, south)  # once more changes nothing
    assert set(Roster.read(hub.roster).keys) == {"north", "south"}
    (tmp_path / "evil").mkdir()
    other = card(tmp_path / "evil", "south")
    with pytest.raises(UsageError, match="known with other keys"):
        add_card(hub, other)
    copied = tmp_path / "copied.card"
    copied.write_text(json.dumps(json.loads(north.read_text()) | {"site": "west"}))
    with pytest.raises(UsageError, match="has a key of 'north'"):
        add_card(hub, copied)
    keyless = tmp_path / "keyless.card"
    keyless.write_text(json.dumps(json.loads(other.read_text()) | {"site": "east", "node": ""}))
    with pytest.raises(UsageError, match="no key for a Flower node"):
        add_card(hub, keyless)
    (tmp_path / "none.card").write_text("{}")
    with pytest.raises(UsageError, match="is not a site's card"):
        add_card(hub, tmp_path / "none.card")
    assert set(Roster.read(hub.roster).keys) == {"north", "south"}


def test_the_superlink_is_on_the_loopback_interface_behind_keys_and_a_secret(hub: Coordinator) -> None:
    told = {program.name: program.command for program in programs(hub, proxy=False)}
    assert list(told) == ["superlink", "superexec"]
    link = told["superlink"]
    assert link[link.index("--host") + 1] == "127.0.0.1"
    assert {"--enable-supernode-auth", "--ssl-certfile", "--superexec-auth-secret-file"} <= set(link)
    assert link[link.index("--isolation") + 1] == "process"
    assert "--insecure" not in link + told["superexec"]
    secret = (hub.folder / "secret").read_text()
    assert not any(secret in word for command in told.values() for word in command)


def test_the_published_configuration_is_the_one_that_is_written() -> None:
    written = NGINX.format(user="", folder="/var/lib/pmfed/hub", port=9092, link_port=18000)
    assert (ROOT / "deploy" / "nginx.conf").read_text() == written


@pytest.mark.skipif(shutil.which("nginx", path=PATH) is None, reason="nginx is not installed")
def test_nginx_takes_the_configuration(hub: Coordinator) -> None:
    path = hub.folder / "nginx.conf"
    path.write_text(NGINX.format(user="", folder=hub.folder, port=9092, link_port=18000))
    done = subprocess.run(
        ["nginx", "-e", "stderr", "-p", hub.folder / "proxy", "-t", "-c", path],
        env={"PATH": PATH}, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_bundle_holds_no_code() -> None:
    told = tomllib.loads(bundle({"run": "/runs/a", "id": "ab" * 16, "sites": 3, "patience": 60.0}))
    app = told["tool"]["flwr"]["app"]
    assert app["fab-include"] == ["pyproject.toml"]
    assert app["config"] == {"run": "/runs/a", "id": "ab" * 16, "sites": 3, "patience": 60.0}
    assert told["project"]["dependencies"] == []


def test_why_a_run_failed(tmp_path: Path) -> None:
    error = failure_of(tmp_path, "Flower says 'finished:failed'", tmp_path / "log")
    assert isinstance(error, RunError)
    assert "finished:failed" in str(error)
    (tmp_path / "failed.json").write_text(json.dumps({"code": "PM310", "what": "too much.", "remedy": "Less."}))
    assert isinstance(failure_of(tmp_path, "", tmp_path / "log"), BudgetError)


def test_a_run_is_noted_and_needs_a_coordinator(hub: Coordinator, tmp_path: Path) -> None:
    study = Study.from_text(
        (ROOT / "tests" / "federation.py").read_text().split('STUDY = """\\\n')[1].split('"""')[0], "tiny"
    )
    out = begin(hub, study, tmp_path / "runs" / "tiny", 3, 60.0)
    assert Study.read(out / "study.toml") == study
    with pytest.raises(UsageError, match="not empty"):
        begin(hub, study, out, 3, 60.0)
    with pytest.raises(UsageError, match="does not run"):
        go(hub, out, print)
    [(run, name, state, folder)] = runs_of(hub)
    assert (len(run), name, state, folder) == (32, "tiny", "begun", out)
    line = {
        "round": 3,
        "sites": 2,
        "seconds": 4.21,
        "epsilon": 1.5,
        "metrics": {"auroc": 0.8},
        "dropped": {"west": "gone"},
    }
    assert words_of(line, 6) == "round   3/6  2 sites  4.2 s  epsilon 1.5  auroc 0.800  without west: gone"
    (out / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert runs_of(hub)[0][2] == "round 1"
    (out / "result.json").write_text('{"done": true}')
    assert go(hub, out, print) == {"done": True}  # what is finished is not run again
    with pytest.raises(UsageError, match="is not a run"):
        go(hub, tmp_path, print)


def test_flower_that_does_not_answer_is_an_error_and_the_door_tries_again(
    hub: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overloaded machine must not end the process that keeps all others."""
    monkeypatch.setattr(bundles, "ANSWERS", 0.01)
    with pytest.raises(RunError, match="did not answer within"):
        hub.flwr.ask("list")
    add_card(hub, card(tmp_path, "north"))
    asked: list[float] = []

    def slow(*words: str) -> dict[str, str]:
        asked.extend([time.monotonic()] * ("register" in words))
        raise RunError("'flwr supernode' did not answer within 0 s.")

    door = serving._Door(hub)
    monkeypatch.setattr(serving, "answers", lambda _: True)
    monkeypatch.setattr(bundles.Flwr, "ask", lambda _, *words: slow(*words))
    door.look()
    door.look()
    assert len(asked) == 1  # not in a rush
    door.due = dict.fromkeys(door.due, 0.0)
    door.look()
    assert len(asked) == 2
    # Flower had taken the node in, only its answer was lost: from now on it says that it knows the key.
    nodes = [{"node-id": 7, "status": "online"}, {"node-id": 6, "status": "unregistered"}]
    monkeypatch.setattr(
        bundles.Flwr, "ask", lambda _, *words: slow(*words) if "register" in words else {"nodes": nodes}
    )
    nodes.append({"node-id": 8, "status": "online"})  # whose is which? nobody is let in by guessing
    door.due = dict.fromkeys(door.due, 0.0)
    door.look()
    assert not hub.registered.exists()
    nodes.pop()
    door.due = dict.fromkeys(door.due, 0.0)
    door.look()
    assert list(json.loads(hub.registered.read_text()).values()) == [
        {"site": "north", "key": hub.known()["north"].key, "node": "7"}
    ]

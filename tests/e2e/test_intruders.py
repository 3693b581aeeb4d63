"""Who should take no part, and who lies: strangers, impostors, clocks that are wrong, garbage, people who try other doors.

Real processes, as in test_faults.py. The run of the others must end right, and whoever was turned away must be told why.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import federation
import hostile
import httpx
import pytest
from breaking import NGINX, SITES, WHEN_ASKED, Federation, lines, lost, missed, model
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.routers.runtime.router import router as runtime
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.routers.control.router import router as control
from flwr.superlink.routers.fleet.router import router as fleet
from pmfed_client.connection.flower_internals import PROTECTED
from pmfed_client.site.approve import approve
from pmfed_client.site.site import Site
from pmfed_client.site.trust import card_of
from pmfed_server.bundle import Flwr, bundle
from pmfed_server.certificates import make_authority
from pmfed_simulations.deployment import until

from pmfed.errors import RunError
from pmfed.processes import flower_environment, running
from pmfed.secagg.roster import Roster

pytestmark = WHEN_ASKED


def log_of(there: Federation, name: str) -> str:
    """Return what Flower's node of a site said."""
    path = there.d.sites[name].courier / "node.log"
    return path.read_text(errors="replace") if path.exists() else ""


def test_a_courier_that_answers_garbage(broken: Federation) -> None:
    """Its answer is left out with a word on what was wrong with it, and the site may go on."""
    broken.d.stop("east")
    site = broken.d.sites["east"].folder
    with (broken.d.folder / "said.log").open("ab") as said:
        broken.d.kept["east"] = subprocess.Popen(
            [sys.executable, hostile.__file__, str(site), "0"], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
    broken.ready()
    run = broken.run("garbage", max(hostile.GARBAGE) + len(hostile.GARBAGE))
    code, words = run.end(900.0)
    broken.d.stop("east")
    broken.start("east")
    assert code == 0, words
    told = {line["round"]: line["dropped"] for line in lines(run.out) if line["dropped"]}
    assert told == {number: {"east": why} for number, (_, why) in hostile.GARBAGE.items()}
    assert missed(run.out, "east") == [why for _, why in hostile.GARBAGE.values()]
    assert not (site / "courier" / hostile.MARK).exists()
    assert not list(broken.d.folder.rglob(hostile.MARK.name))
    for log in ("superexec.log", "superlink.log"):
        assert "Traceback" not in (broken.d.folder / "hub" / "logs" / log).read_text(errors="replace")
    broken.check_books(run.out, 1)


def test_strangers_take_no_part_and_are_told_why(broken: Federation) -> None:
    d = broken.d
    study = broken.study("strangers", 2)

    d.add("stranger", broken.place("stranger"), known=False)

    misled = d.add("misled", broken.place("misled"))
    (d.folder / "another").mkdir()
    make_authority(d.folder / "another")
    shutil.copy(d.folder / "another" / "ca.crt", misled.folder)

    liar = d.add("liar", broken.place("liar"))
    federation.change(liar.folder / "site.toml", '^name = "liar"', 'name = "north"')
    key = json.loads(card_of(liar))["key"]
    keys = {**Roster.read(d.sites["north"].roster).keys, "north": key}
    liar.roster.write_text(Roster.of(keys).canonical())
    approve(Site.read(liar.folder), study, lambda _: True)

    for name in ("stranger", "misled", "liar"):
        d.start_site(name, 0)
    try:
        until(lambda: d.online(*SITES, "liar"))
        path = d.approve(study, SITES)
        code, said = d.run(path, broken.runs / "strangers", len(SITES) + 1, patience=120.0).end()
        assert code == 0, said
        result = json.loads((broken.runs / "strangers" / "result.json").read_text())
        assert [site["name"] for site in result["sites"]] == sorted(SITES)
        assert result["refused"] == {"liar": "calls itself 'north', which is not the name on its card"}
        assert all(line["sites"] == len(SITES) for line in lines(broken.runs / "strangers"))
        broken.check_books(broken.runs / "strangers", 2)
        until(lambda: "certificate verify failed" in log_of(broken, "misled"))
        until(lambda: "Failed to activate SuperNode" in log_of(broken, "stranger"))
    finally:
        d.stop("stranger", "misled", "liar")


def test_who_has_a_sites_node_key_is_not_that_site(broken: Federation) -> None:
    """The thief's node is let in by Flower, under the name on the card; but what it says is not signed by that site."""
    d = broken.d
    study = broken.study("stolen", 2)
    thief = d.add("thief", broken.place("thief"), known=False)
    for file in ("node.key", "node.pub"):
        shutil.copy(d.sites["east"].folder / file, thief.folder)
    federation.change(thief.folder / "site.toml", '^name = "thief"', 'name = "east"')
    key = json.loads(card_of(thief))["key"]
    thief.roster.write_text(Roster.of({**Roster.read(d.sites["north"].roster).keys, "east": key}).canonical())
    approve(Site.read(thief.folder), study, lambda _: True)
    path = d.approve(study, SITES)
    d.stop("east")
    d.start_site("thief", 0)
    try:
        until(lambda: d.process("thief", "courier") and d.online(*SITES))
        code, said = d.run(path, broken.runs / "stolen", len(SITES), patience=120.0).end()
    finally:
        d.stop("thief")
        broken.start("east")
    assert code == 0, said
    result = json.loads((broken.runs / "stolen" / "result.json").read_text())
    assert [site["name"] for site in result["sites"]] == sorted({*SITES} - {"east"})
    assert list(result["refused"]) == ["east"]
    assert "sign" in result["refused"]["east"], result["refused"]
    broken.check_books(broken.runs / "stolen", 2, *({*SITES} - {"east"}))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: no clock can be made wrong")
def test_a_site_whose_clock_is_wrong_is_told_and_the_others_go_on(broken: Federation) -> None:
    """Flower takes signatures from five minutes ago to five seconds ahead; whoever is outside takes no part until set right."""
    d = broken.d
    d.stop("east")
    wrong = broken.wrong(3 * 3600)
    d.start_site("east", 0, environment=wrong)
    try:
        until(lambda: "terminated" in log_of(broken, "east"))
        path = d.approve(broken.study("ahead", 2), SITES)
        code, said = d.run(path, broken.runs / "ahead", len(SITES) - 1, patience=120.0).end()
        assert code == 0, said
        assert all(line["sites"] == len(SITES) - 1 for line in lines(broken.runs / "ahead"))
        status = subprocess.run(
            [sys.executable, "-m", "pmfed.cli", "site", "status", str(d.folder / "east")],
            env={**os.environ, **wrong}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "THIS MACHINE'S CLOCK is 3 h 0 min AHEAD of the coordinator's" in status
        assert "THIS MACHINE'S CLOCK is 3 h 0 min AHEAD" in (d.folder / "said.log").read_text()
    finally:
        d.stop("east")
        broken.start("east", clock=-240)
    run = broken.run("behind", 2)
    code, said = run.end()
    assert code == 0, said
    assert lost(run.out) == []
    assert model(run.out) == broken.simulated("behind")
    broken.check_books(run.out, 2)
    d.stop("east")
    broken.start("east")


def public(there: Federation) -> str:
    return f"localhost:{there.d.coordinator.addresses.port}"


def inner(there: Federation) -> str:
    return f"127.0.0.1:{there.d.coordinator.addresses.link_port}"


def asked(there: Federation, url: str) -> int:
    """Return how a message to a path is answered."""
    trusted = ssl.create_default_context(cafile=str(there.d.coordinator.folder / "ca.crt"))
    request = urllib.request.Request(f"https://{url}", b"", {"content-type": "application/protobuf"}, method="POST")
    try:
        with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


PATHS = {one.prefix: sorted({route.path for route in one.routes}) for one in (control, runtime, fleet)}


@pytest.mark.quick
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_from_outside_only_the_fleet_can_be_reached_however_the_others_are_called(broken: Federation) -> None:
    """All that Flower serves, as it names it itself."""
    assert all(len(paths) > 10 for paths in PATHS.values())
    for path in (*PATHS["/v1/control"], *PATHS["/v1/runtime"]):
        assert asked(broken, public(broken) + path) == 404, path
    for path in PATHS["/v1/fleet"]:
        assert asked(broken, public(broken) + path) == 401, path  # Flower itself answers: nobody's signature
    # Behind the door there are such paths; who may start a run is not asked, who takes part in one is.
    assert asked(broken, inner(broken) + "/v1/control/list-runs") == 200
    for path in PATHS["/v1/runtime"]:
        assert asked(broken, inner(broken) + path) == 401, path


@pytest.mark.quick
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize(
    "words", [("list",), ("supernode", "list"), ("run", "app"), ("stop", "1")], ids=lambda words: words[0]
)
def test_flowers_own_commands_do_nothing_from_outside(
    broken: Federation, tmp_path: Path, words: tuple[str, ...]
) -> None:
    home, app = tmp_path / "home", tmp_path / "app"
    home.mkdir()
    app.mkdir()
    app.joinpath("pyproject.toml").write_text(bundle({"run": "nowhere"}))
    flwr = Flwr(flower_environment(home), tmp_path, tmp_path / "commands.log")
    flwr.point(public(broken), broken.d.coordinator.folder / "ca.crt")
    with pytest.raises(RunError):
        flwr.ask(*words)
    said = flwr.log.read_text()
    assert "404 Not Found" in said, said
    if words == ("list",):
        flwr.point(inner(broken), broken.d.coordinator.folder / "ca.crt")
        assert flwr.ask(*words)["success"]


def test_tasks_are_given_to_those_who_know_the_secret(broken: Federation) -> None:
    """On the coordinator's loopback interface, and on a site's."""
    folder = broken.d.coordinator.folder
    found = running(broken.d.folder / "north")
    assert found
    command = Path(f"/proc/{found['programs']['node']['pid']}/cmdline").read_bytes().decode().split("\0")
    node = f"127.0.0.1:{command[command.index('--port') + 1]}"
    for address, certificate, secret in (
        (inner(broken), folder / "ca.crt", folder / "secret"),
        (node, None, broken.d.folder / "north" / "courier" / "secret"),
    ):
        for tried, answer in ((b"0" * 64, 401), (secret.read_bytes(), 200)):
            assert acquire(address, certificate, tried) == answer


def acquire(address: str, certificate: Path | None, secret: bytes) -> int:
    """Ask for a task of a kind there is none of; return how that is answered."""
    client = RuntimeHttpClient.from_server_address(
        address,
        certificate is None,
        certificate.read_bytes() if certificate else None,
        [
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=PROTECTED),
        ],
    )
    try:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SIMULATION]))
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()
    return 200

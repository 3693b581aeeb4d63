"""A hospital's folder: made for its owner alone, approvals by fingerprint, an audit log that shows what was changed."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import federation
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from federation import Together, change
from pmfed_client.agent.agent import Agent
from pmfed_client.connection.agent_process import Reticent
from pmfed_client.connection.processes import programs
from pmfed_client.site.approve import approve, check_approved, terms, withdraw
from pmfed_client.site.audit_log import AuditLog, _digest, words_of
from pmfed_client.site.create import make_home
from pmfed_client.site.site import Site
from pmfed_client.site.trust import card_of

from pmfed.card import SiteCard
from pmfed.errors import ApprovalError, LedgerError, PolicyError, RunError, StudyError, UsageError
from pmfed.study import Study


@pytest.fixture
def study() -> Study:
    return Study.from_text(federation.STUDY, "tiny")


@pytest.fixture
def resident(tmp_path: Path, study: Study) -> Together:
    """Three sites whose agents are resident ones; nobody approved anything."""
    together = Together(federation.write_federation(tmp_path) / "sites", study)
    together.agents = {name: Agent(site, resident=True) for name, site in together.sites.items()}
    return together


def test_a_new_folder_is_for_its_owner_alone_and_its_keys_fit(tmp_path: Path) -> None:
    site = make_home(tmp_path / "a" / "north", "north")
    for path in (site.folder, *site.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    card = SiteCard.model_validate_json(card_of(site))
    assert card.site == "north"
    secret = load_ssh_private_key(site.node_key.read_bytes(), None)
    public = load_ssh_public_key(card.node.encode())
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    assert secret.curve.name == "secp384r1"
    assert secret.public_key() == public
    assert Site.read(site.folder).policy.epsilon == 0  # what is not filled in allows nothing
    with pytest.raises(StudyError, match="no \\[coordinator\\]"):
        programs(site, None)


def test_nothing_is_overwritten_and_no_name_is_made_up(tmp_path: Path) -> None:
    site = make_home(tmp_path / "north", "north")
    before = site.identity.read_bytes()
    with pytest.raises(UsageError, match="not empty"):
        make_home(tmp_path / "north", "north")
    for name in ("North Hospital", "north\n", "-north", "", 49 * "n"):
        with pytest.raises(UsageError, match="no name for a site"):
            make_home(tmp_path / "other", name)
    assert site.identity.read_bytes() == before
    assert not (tmp_path / "other").exists()


def test_what_a_site_runs_is_told_nothing_secret_and_goes_outward_only(tmp_path: Path) -> None:
    site = make_home(tmp_path / "north", "north")
    with site.folder.joinpath("site.toml").open("a") as file:
        file.write('[coordinator]\naddress = "hub.example.org:9092"\n')
    site = Site.read(site.folder)
    with pytest.raises(UsageError, match=r"ca\.crt"):
        programs(site, None)
    (site.folder / "ca.crt").write_text("a certificate")
    deep = tmp_path / ("x" * 100)
    deep.symlink_to(site.folder)
    with pytest.raises(RunError, match="may have 100 bytes"):
        programs(site.model_copy(update={"folder": deep}), None)
    told = {program.name: program.command for program in programs(site, None)}
    assert list(told) == ["agent", "node", "courier"]
    node = told["node"]
    assert node[node.index("--superlink") + 1] == "hub.example.org:9092"
    assert node[node.index("--host") + 1] == "127.0.0.1"
    assert node[node.index("--isolation") + 1] == "process"  # else Flower starts what the bundle brings, as this user
    secret = (site.courier / "secret").read_text()
    assert not any(secret in word for command in told.values() for word in command)
    assert stat.S_IMODE((site.courier / "secret").stat().st_mode) == 0o600


def test_a_resident_agent_refuses_what_nobody_approved(resident: Together, study: Study) -> None:
    reply, sums = resident.ask("north", "enroll")
    assert (reply.ok, reply.code, sums) == (False, "PM320", {})
    assert reply.reason.startswith("this hospital has not approved the study")
    assert str(resident.sites["north"].folder) not in reply.reason  # where it lies is its own business
    approve(resident.sites["north"], study, lambda lines: True)
    assert resident.ask("north", "enroll")[0].ok
    other = study.replace(study={"title": "A tiny study."})  # one full stop more
    assert resident.ask("north", "enroll", study=other, run="cd" * 16)[0].code == "PM320"
    withdraw(resident.sites["north"], study)
    assert resident.ask("north", "enroll", run="ef" * 16)[0].code == "PM320"
    with pytest.raises(ApprovalError, match="was not approved"):
        withdraw(resident.sites["north"], study)


@pytest.mark.parametrize("damage", ["changed", "writable", "renamed", "empty"])
def test_an_approval_that_was_tampered_with_approves_nothing(tmp_path: Path, study: Study, damage: str) -> None:
    site = Site.read(federation.write_federation(tmp_path) / "sites" / "north")
    approve(site, study, lambda lines: True)
    check_approved(site, study.fingerprint())
    path = site.approved / f"{study.fingerprint()}.toml"
    asked = study.fingerprint()
    if damage == "changed":
        change(path, "^epsilon = 2.0", "epsilon = 20.0")
    elif damage == "writable":
        os.chmod(path, 0o620)
    elif damage == "renamed":  # the approval of one study, put under the name of another
        asked = study.replace(privacy={"epsilon": 8.0}).fingerprint()
        path.rename(site.approved / f"{asked}.toml")
    else:
        path.write_text("")
    with pytest.raises(ApprovalError):
        check_approved(site, asked)


def test_nothing_is_approved_unless_somebody_agrees(tmp_path: Path, study: Study) -> None:
    site = Site.read(federation.write_federation(tmp_path) / "sites" / "north")
    with pytest.raises(PolicyError, match="was not approved"):
        approve(site, study, lambda lines: False)
    with pytest.raises(ApprovalError):
        check_approved(site, study.fingerprint())


def test_the_terms_name_what_matters(tmp_path: Path, study: Study) -> None:
    site = Site.read(federation.write_federation(tmp_path) / "sites" / "north")
    said = "\n".join(terms(site, study))
    for word in (
        "'died'",
        "patients.csv",
        "age, lactate",
        "6 times",
        "7 numbers",
        "WITHOUT noise",
        "readable by itself",
    ):
        assert word in said
    assert "epsilon 2 at delta 0.001" in said
    assert study.fingerprint()[:4] in said
    private = study.replace(evaluation={"release": "private", "per_site": False}, privacy={"unit": "record"})
    said = "\n".join(terms(make_home(tmp_path / "bare", "bare"), private))
    assert "WITHOUT noise" not in said
    assert "readable by itself" not in said
    assert "a whole record, which is weaker" in said
    assert "not in this site's [data]" in said
    assert "will refuse whatever is approved" in said


def test_every_message_is_in_the_audit_log_before_it_leaves(resident: Together, study: Study) -> None:
    for site in resident.sites.values():
        approve(site, study, lambda lines: True)
    resident.enrol()
    resident.sum("step", 1)
    resident.ask("north", "step", 1)  # the same again: refused, and noted
    resident.agents["north"].handle(b"no message at all", {})
    lines = list(AuditLog(resident.sites["north"].audit_log).lines())
    assert [(line["what"], line.get("code")) for line in lines] == [
        ("approve", None), ("enroll", ""), ("keys", ""), ("step", ""), ("step", "PM400"), ("unreadable", "PM500"),
    ]  # fmt: skip
    step = lines[3]
    assert (step["run"], step["round"], step["attempt"]) == (resident.run, 1, 0)
    assert step["bytes_out"] > 7 * 4
    assert all(words_of(line) for line in lines)
    for path in resident.sites["north"].folder.glob("audit*"):
        assert federation.ID_CANARY not in path.read_text()


def test_what_cannot_be_noted_does_not_leave(resident: Together, study: Study) -> None:
    for site in resident.sites.values():
        approve(site, study, lambda lines: True)
    resident.enrol()
    log = resident.sites["north"].audit_log
    log.unlink()
    log.mkdir()  # nothing can be appended to a folder
    reply, sums = resident.ask("north", "step", 1)
    assert (reply.ok, reply.code, sums) == (False, "PM400", {})


def test_a_changed_audit_log_is_noticed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(5):
        log.add("step", run="ab" * 16, round=number, attempt=0, code="", bytes_out=10)
    assert [line["seq"] for line in log.lines()] == [1, 2, 3, 4, 5]
    whole = log.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    forged = json.loads(lines[2]) | {"bytes_out": 0}
    sealed = {**forged, "hash": _digest({key: value for key, value in forged.items() if key != "hash"})}
    for place, damaged in (
        (4, [*lines[:2], json.dumps(sealed, sort_keys=True, separators=(",", ":")).encode() + b"\n", *lines[3:]]),
        (3, [*lines[:2], json.dumps(forged, sort_keys=True, separators=(",", ":")).encode() + b"\n", *lines[3:]]),
        (2, [lines[0], *lines[2:]]),
        (2, [lines[0], lines[2], lines[1], *lines[3:]]),
        (1, lines[1:]),
        (6, [*lines, lines[4]]),
    ):
        log.path.write_bytes(b"".join(damaged))
        with pytest.raises(LedgerError, match=f"audit.jsonl:{place}: "):
            list(log.lines())
    log.path.write_bytes(whole[:-20] + b"x" * 19 + b"\n")
    with pytest.raises(LedgerError, match="the last line"):
        log.add("step")


def test_half_a_line_left_by_a_crash_is_told_of_and_does_not_stop_the_site(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.add("start")
    with log.path.open("ab") as file:
        file.write(b'{"attempt":0,"co')
    log.add("start")
    assert [(line["what"], line.get("torn")) for line in log.lines()] == [("start", None), ("start", 16)]


def test_the_agents_log_names_an_error_and_not_its_text() -> None:
    try:
        float(f"{federation.VALUE_CANARY}x")
    except ValueError as error:
        record = logging.LogRecord(
            "pmfed", logging.ERROR, "", 1, "failed", None, (type(error), error, error.__traceback__)
        )
    said = Reticent().format(record)
    library = logging.LogRecord("pydicom", logging.WARNING, "", 1, "bad value %s", (federation.VALUE_CANARY,), None)
    assert federation.VALUE_CANARY not in said + Reticent().format(library)
    assert "pydicom said something" in Reticent().format(library)
    assert "ValueError" in said
    assert "test_home.py" in said


def test_the_terms_name_public_weights_and_data_without_patients(tmp_path: Path, study: Study) -> None:
    site = make_home(tmp_path / "north", "north")
    photos = {"kind": "images", "table": "t", "folder": "f", "size": (4, 4), "weights": "efficientnet-lite0"}
    said = "\n".join(terms(site, study.replace(modalities={"photo": photos}, cohort={"stand_in": "image"})))
    assert "through efficientnet-lite0, weights of ImageNet: public, and nothing of it is trained" in said
    assert "one image, in data without patient ids: a person with several is protected less" in said
    assert "a whole patient" not in said

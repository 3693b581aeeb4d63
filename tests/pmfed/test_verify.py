"""`pmfed verify`: whatever is changed in a signed run is noticed, by whoever has no more than the run and two public keys."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pmfed_client.agent.agent import Agent
from pmfed_client.connection import agent_address as resident
from pmfed_client.connection.app import app as client_app
from pmfed_client.site.site import read_sites
from pmfed_server.app import conduct
from pmfed_server.coordinator import Coordinator, make_coordinator
from pmfed_server.deployed import begin, go
from pmfed_server.rotation import rotate_key
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters
from safetensors.numpy import load_file, save_file

from pmfed.cli import main
from pmfed.errors import UsageError, VerificationError
from pmfed.methods import plan_for
from pmfed.runs.model import save_model
from pmfed.secagg.keys import Identity, read_key, verify
from pmfed.secagg.roster import Roster
from pmfed.study import Study
from pmfed.verify import MANIFEST, check_run, seal

NORTH = federation.SITES[0]
MEANS = federation.STUDY.replace(", mean = 60, scale = 15", "")  # learned from the sites: charged, too
STUDY = Study.from_text(MEANS, "study.toml").replace(
    training={"rounds": 2}, evaluation={"release": "private", "per_site": False, "release_noise": 40.0}
)
OWN = STUDY.replace(
    personal={"method": "fine-tune", "steps": 3, "learning_rate": 0.3, "share": 0.3},
    evaluation={"subgroups": {"clinical.sex": [], "clinical.age": [60]}, "robustness": {"noise": 0.5}},
)


class Signed:
    """A finished run with its coordinator and its sites, and what an attacker may hold of their keys."""

    def __init__(self, folder: Path, study: Study = STUDY) -> None:
        self.sites = read_sites(federation.write_federation(folder / "f") / "sites")
        for site in self.sites:
            federation.change(site.folder / "site.toml", r"^epsilon = 2\.5", "epsilon = 50.0")
        self.sites = read_sites(folder / "f" / "sites")
        pin_rosters(self.sites)
        self.hub = make_coordinator(folder / "hub", ["localhost"], 9092, 18000)
        shutil.copy(self.sites[0].roster, self.hub.roster)
        self.run = begin(self.hub, study, folder / "run", 3, 120.0)
        number = json.loads((self.run / "run.json").read_text())["id"]
        for site in self.sites:
            resident.register(site.name, Agent(site))
        nodes = {place: {"site": site.name} for place, site in enumerate(self.sites, 1)}
        with LocalGrid(client_app, nodes) as grid:
            conduct(grid, study, plan_for(study, 3), self.run, run=number, sites=3, patience=120.0)
        for site in self.sites:
            resident.forget(site.name)
        go(self.hub, self.run, print)  # the run has its result: what is left to do is to sign it


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Return a run in which every site trained a model of its own as well."""
    return Signed(tmp_path_factory.mktemp("own"), OWN)


@pytest.fixture
def run(signed: Signed, tmp_path: Path) -> Path:
    """Return a copy of the run, for a test to spoil."""
    return Path(shutil.copytree(signed.run, tmp_path / "run"))


def again(run: Path, coordinator: Coordinator) -> None:
    """Sign a run anew: what a coordinator can do that lies."""
    number = json.loads((run / MANIFEST).read_text())["run"]
    (run / MANIFEST).unlink()
    seal(run, Study.read(run / "study.toml"), number, coordinator.identity)


def edited(path: Path, change: Callable[[Any], None]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def receipt(folder: Path, identity: Identity, **changes: Any) -> None:
    """Have a site really sign another receipt."""
    path = folder / "receipts" / f"{NORTH}.json"
    told = {name: value for name, value in verify(path.read_text()).items() if name != "key"}
    path.write_text(identity.signed({**told, **changes}))


def test_a_run_as_it_was_signed(signed: Signed) -> None:
    found = check_run(signed.run, Roster.read(signed.sites[0].roster), read_key(signed.hub.folder / "coordinator.pub"))
    assert (found.wrong, found.notes) == ([], [])
    assert set(found.epsilons) == set(federation.SITES)
    assert {
        "model.json",
        "model.safetensors",
        "result.json",
        "metrics.jsonl",
        "roster.json",
        f"receipts/{NORTH}.json",
    } <= set(found.manifest.files)
    charged = verify((signed.run / "receipts" / f"{NORTH}.json").read_text())["charges"]
    assert charged == {"evaluation": 1, "statistics": 1, "step": 2}
    alone = check_run(signed.run)
    assert not alone.wrong
    assert len(alone.notes) == 2  # neither key was vouched for, and the reader is told


def test_no_file_can_be_changed_removed_or_put_in(run: Path) -> None:
    names = [path.relative_to(run) for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    assert len(names) > 8
    for name in names:
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        if name.name == MANIFEST:
            with pytest.raises(VerificationError, match="signature does not fit"):
                check_run(run)
        else:
            assert check_run(run).wrong == [f"{name}: is not the file that was signed"]
            (run / name).unlink()
            assert check_run(run).wrong == [f"{name}: is missing"]
        (run / name).write_bytes(whole)
    (run / "receipts" / "east.json").write_text("{}")
    assert check_run(run).wrong == ["receipts/east.json: was not signed"]


def test_a_model_that_does_not_fit_its_description_is_found_out_whoever_signed_it(run: Path, signed: Signed) -> None:
    whole = (run / "model.json").read_bytes()
    edited(run / "model.json", lambda told: told["parts"]["clinical"]["inputs"][0].update(mean=41.0))
    again(run, signed.hub)
    assert "model.json: says something else than the study of: parts.clinical.inputs[0].mean" in check_run(run).wrong[0]
    (run / "model.json").write_bytes(whole)
    header = {"study": STUDY.canonical()}
    model = load_file(run / "model.safetensors")
    save_file({name: np.zeros_like(one) for name, one in model.items()}, run / "model.safetensors", header)
    again(run, signed.hub)
    assert "are not those of its description" in check_run(run).wrong[0]


def test_a_run_of_an_older_pmfed_is_verified_and_says_what_it_lacks(run: Path, signed: Signed) -> None:
    (run / "model.json").unlink()
    again(run, signed.hub)
    found = check_run(run)
    assert found.wrong == []
    assert any(note.startswith("there is no model.json") for note in found.notes)


def test_a_stranger_who_signs_it_all_anew_is_not_the_coordinator(run: Path, signed: Signed, tmp_path: Path) -> None:
    model = load_file(run / "model.safetensors")
    save_model(run, STUDY, "gradient", {name: np.zeros_like(tensor) for name, tensor in model.items()})
    again(run, make_coordinator(tmp_path / "stranger", ["localhost"], 9092, 18000))
    assert not check_run(run).wrong  # without a key to compare with, only the note tells
    wrong = check_run(run, coordinator=signed.hub.identity.public).wrong
    assert len(wrong) == 1
    assert "not with the coordinator's" in wrong[0]


def other_epsilon(told: Any) -> None:
    told["privacy"]["epsilon"] -= 0.5


def fewer_steps(told: Any) -> None:
    told["privacy"]["steps"] = 1


def other_noise(told: Any) -> None:
    told["privacy"]["noise_multiplier"] *= 2


def other_spent(told: Any) -> None:
    told["privacy"]["spent"][NORTH]["epsilon"] -= 0.5


def without_site(told: Any) -> None:
    told["sites"] = [site for site in told["sites"] if site["name"] != NORTH]


def other_study(told: Any) -> None:
    told["fingerprint"] = "0" * 64


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (other_epsilon, "privacy.epsilon is"),
        (fewer_steps, "2 times 'step' was charged; result.json accounts for 1"),
        (other_noise, "privacy.noise_multiplier is"),
        (other_spent, f"says something else of '{NORTH}' than its receipt"),
        (without_site, f"'{NORTH}' took no part"),
        (other_study, "belongs to another study"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_coordinator_that_signs_a_false_result_is_found_out(run: Path, signed: Signed, lie: Any, said: str) -> None:
    edited(run / "result.json", lie)
    again(run, signed.hub)
    assert said in "\n".join(check_run(run, coordinator=signed.hub.identity.public).wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unit", "record"), ("mechanism", "fedavg"), ("delta", 1e-4), ("colluders", 0), ("sampling_rate", 0.4), ("clip", 2.0),
        ("evaluation_release", "exact"),
    ],
)  # fmt: skip
def test_every_word_of_a_result_about_the_mechanism_is_the_studys(
    run: Path, signed: Signed, key: str, value: Any
) -> None:
    edited(run / "result.json", lambda told: told["privacy"].update({key: value}))
    again(run, signed.hub)
    assert len(check_run(run).wrong) == 1
    assert f"result.json: privacy.{key} is {value!r}; by the study it is" in check_run(run).wrong[0]


@pytest.mark.parametrize("steps", [3, -1])
def test_steps_that_no_such_run_takes(run: Path, signed: Signed, steps: int) -> None:
    edited(run / "result.json", lambda told: told["privacy"].update(steps=steps))
    again(run, signed.hub)
    assert check_run(run).wrong[0] == f"result.json: {steps} steps; the study allows 2"


def test_what_a_receipt_comes_to_is_its_worst_cohort_at_its_own_delta(run: Path, signed: Signed) -> None:
    edited(run / "result.json", lambda told: told["privacy"]["spent"][NORTH].update(delta=1e-4))
    again(run, signed.hub)
    assert check_run(run).wrong == [f"result.json: says something else of '{NORTH}' than its receipt"]
    receipt(run, Identity.at(signed.sites[0].identity), epsilon=0.1)
    edited(run / "result.json", lambda told: told["privacy"]["spent"][NORTH].update(delta=1e-3, epsilon=0.1))
    again(run, signed.hub)
    assert check_run(run).wrong == [f"receipts/{NORTH}.json: its epsilon is not the largest of its cohorts'"]


def test_a_run_whose_noise_followed_a_seed_says_so(run: Path, signed: Signed) -> None:
    edited(run / "result.json", lambda told: told["privacy"].update(insecure=True))
    again(run, signed.hub)
    assert any(note.startswith("INSECURE") for note in check_run(run).notes)


def test_a_coordinator_that_signs_another_study_is_found_out(run: Path, signed: Signed) -> None:
    (run / "study.toml").write_text(STUDY.replace(privacy={"epsilon": 1.0}).to_toml())
    again(run, signed.hub)
    said = "\n".join(check_run(run).wrong)
    for where in (
        "result.json: belongs",
        "model.safetensors: belongs",
        "is of another run or study",
        "noise_multiplier",
    ):
        assert where in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"charges": {"evaluation": 1, "statistics": 1, "step": 1}}, "not what its charges come to"),
        ({"charges": {"evaluation": 1, "statistics": 1, "step": 3}}, "the study allows 2"),
        ({"charges": {"evaluation": 1, "step": 2}}, "statistics is charged, or should be"),
        ({"epsilon": 0.1}, "says something else of"),
        ({"site": "south"}, "is of another site, 'south'"),
        ({"run": "cd" * 16}, "another run or study"),
        ({"study": "6" * 64}, "another run or study"),
        ({"finished": False}, "had not closed"),
    ],
)
def test_a_receipt_that_a_site_signed_falsely(run: Path, signed: Signed, changes: Any, said: str) -> None:
    receipt(run, Identity.at(signed.sites[0].identity), **changes)
    again(run, signed.hub)
    assert said in "\n".join(check_run(run).wrong)


def test_receipts_are_those_of_the_rosters_sites(run: Path, signed: Signed) -> None:
    receipt(run, Identity(Ed25519PrivateKey.generate()))
    again(run, signed.hub)
    assert check_run(run).wrong == [
        f"receipts/{NORTH}.json: was not signed with the key that the roster has for '{NORTH}'"
    ]
    edited(run / "receipts" / f"{NORTH}.json", lambda told: told.update(epsilon=0.1))
    again(run, signed.hub)
    assert check_run(run).wrong == [f"receipts/{NORTH}.json: the site's signature does not fit"]
    # A roster of the coordinator's own making does not help it with whoever brings the one that was pinned.
    (run / "receipts" / f"{NORTH}.json").write_bytes((signed.run / "receipts" / f"{NORTH}.json").read_bytes())
    stranger = Identity(Ed25519PrivateKey.generate())
    receipt(run, stranger)
    keys = {**Roster.read(run / "roster.json").keys, NORTH: stranger.public}
    (run / "roster.json").write_text(Roster.of(keys).canonical())
    again(run, signed.hub)
    assert not check_run(run).wrong
    assert len(check_run(run, Roster.read(signed.sites[0].roster)).wrong) == 1


def left(told: Any) -> None:
    told["left"] = {NORTH: "did not answer in time"}
    del told["privacy"]["spent"][NORTH]


def test_a_receipt_may_be_missing_only_of_a_site_that_left(run: Path, signed: Signed) -> None:
    (run / "receipts" / f"{NORTH}.json").unlink()
    again(run, signed.hub)
    assert check_run(run).wrong == [f"receipts/{NORTH}.json: is missing, and '{NORTH}' did not leave, says result.json"]
    edited(run / "result.json", left)
    again(run, signed.hub)
    found = check_run(run)
    assert not found.wrong
    assert f"{NORTH}: left the run and sent no receipt, so nothing shows what it charged" in found.notes
    shutil.rmtree(run / "receipts")  # and of nobody else
    again(run, signed.hub)
    assert len(check_run(run).wrong) == len(federation.SITES) - 1


def test_what_is_no_file_is_not_read(run: Path) -> None:
    os.mkfifo(run / "pipe")  # whoever reads it waits for ever
    (run / "folder").symlink_to(run / "receipts")
    (run / "nothing").symlink_to(run / "nowhere")
    assert check_run(run).wrong == [f"{name}: was not signed" for name in ("folder", "nothing", "pipe")]


# -- models of the sites' own ------------------------------------------------------------------------------------


def test_a_run_with_models_of_the_sites_own(own: Signed) -> None:
    found = check_run(own.run, Roster.read(own.sites[0].roster), own.hub.identity.public)
    assert (found.wrong, found.notes) == ([], [])
    assert set(found.epsilons) == set(federation.SITES)
    charged = verify((own.run / "receipts" / f"{NORTH}.json").read_text())["charges"]
    assert charged == {
        "evaluation": 1, "noisy-inputs": 1, "personal": 3, "personal-evaluation": 1, "statistics": 1, "step": 2, "subgroups": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("charges", "said"),
    [
        ({"personal": 0}, "not what its charges come to"),
        ({"personal": 2}, "not what its charges come to"),
        ({"personal": 4}, "4 times 'personal' is charged; the study allows 3"),
        ({"personal-evaluation": 0}, "not what its charges come to"),
        ({"personal-evaluation": 2}, "2 times 'personal-evaluation' is charged; the study allows 1"),
        ({"personal": None}, "personal is charged, or should be, unlike in the study"),
    ],
)
def test_personal_steps_that_a_receipt_hides(own: Signed, tmp_path: Path, charges: Any, said: str) -> None:
    run = Path(shutil.copytree(own.run, tmp_path / "run"))
    true = verify((run / "receipts" / f"{NORTH}.json").read_text())["charges"]
    changed = {what: count for what, count in {**true, **charges}.items() if count is not None}
    receipt(run, Identity.at(own.sites[0].identity), charges=changed)
    again(run, own.hub)
    assert said in "\n".join(check_run(run).wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 0.1}, "personal.epsilon is 0.1; computed anew 0.5"),
        ({"epsilon": None}, "personal.epsilon is None"),
        ({"method": "ditto"}, "personal.method is 'ditto'; by the study it is 'fine-tune'"),
        (None, "has figures of the sites' own models, or should have"),
    ],
)
def test_a_result_that_says_something_else_of_them(own: Signed, tmp_path: Path, changes: Any, said: str) -> None:
    run = Path(shutil.copytree(own.run, tmp_path / "run"))
    edited(run / "result.json", lambda told: told["personal"].update(changes) if changes else told.pop("personal"))
    again(run, own.hub)
    assert said in "\n".join(check_run(run).wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told["metrics"]["test"].update(auroc=0.99), "metrics.test.auroc is 0.99; computed anew"),
        (lambda told: told["metrics"]["test"].update(recall=0.9), "metrics.test.recall is there, or should be"),
        (lambda told: told["personal"]["test"].update(brier=0.01), "personal.test.brier is 0.01"),
        (lambda told: told["subgroups"]["all"].update(patients=999), "subgroups.all.patients is 999"),
        (lambda told: told["robustness"]["altered"].clear(), "robustness.altered"),
        (lambda told: told.pop("subgroups"), "subgroups"),
    ],
)
def test_figures_that_the_released_sums_do_not_come_to(own: Signed, tmp_path: Path, change: Any, said: str) -> None:
    run = Path(shutil.copytree(own.run, tmp_path / "run"))
    edited(run / "result.json", change)
    again(run, own.hub)
    assert said in "\n".join(check_run(run).wrong)


def test_figures_of_own_models_that_the_study_does_not_know(run: Path, signed: Signed) -> None:
    edited(run / "result.json", lambda told: told.update(personal={"method": "ditto", "epsilon": 0.0}))
    again(run, signed.hub)
    assert "has figures of the sites' own models" in "\n".join(check_run(run).wrong)


# -- the command -------------------------------------------------------------------------------------------------


def command(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["pmfed", "verify", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command(run: Path, signed: Signed, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("--roster", signed.sites[0].roster, "--coordinator", signed.hub.folder / "coordinator.pub")
    assert command(run, *keys, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "note" not in said
    assert "verified: " in said
    (run / "metrics.jsonl").write_text("{}\n")
    assert command(run, *keys, monkeypatch=monkeypatch) == 8
    told = capsys.readouterr().err
    assert "error PM610" in told
    assert "metrics.jsonl: is not the file that was signed" in told
    (run / MANIFEST).unlink()  # as a simulation leaves it
    assert command(run, monkeypatch=monkeypatch) == 8
    assert "A simulation signs nothing" in capsys.readouterr().err
    with pytest.raises(UsageError, match="not the folder of a finished run"):
        check_run(run / "receipts")
    with pytest.raises(UsageError, match="not a public key"):
        read_key(run / "study.toml")


def test_a_run_signed_by_a_key_that_the_known_one_named(signed: Signed, run: Path, tmp_path: Path) -> None:
    """A hospital that kept the coordinator.pub of before can still tell; one that was given a stranger's key can, too."""
    shutil.copytree(signed.hub.folder, tmp_path / "hub")
    hub = Coordinator.read(tmp_path / "hub")
    old = read_key(hub.folder / "coordinator.pub")
    rotate_key(hub)
    rotate_key(hub)
    again(run, hub)
    assert "was signed with the key" in "\n".join(check_run(run, coordinator=old).wrong)
    shutil.copy(hub.chain, run)
    again(run, hub)
    found = check_run(run, coordinator=old)
    assert found.wrong == []
    assert any("which the coordinator's key that was given named" in note for note in found.notes)
    stranger = Identity.at(tmp_path / "stranger.pem").public
    assert "was signed with the key" in "\n".join(check_run(run, coordinator=stranger).wrong)
    again(run, signed.hub)  # signed by the key that was replaced: the new one does not vouch for it
    assert "was signed with the key" in "\n".join(check_run(run, coordinator=hub.identity.public).wrong)
    (run / "successions.json").write_text("[[]]")
    again(run, hub)
    assert "was signed with the key" in "\n".join(check_run(run, coordinator=old).wrong)

"""Whole runs of studies in which every hospital has something of its own: what travels, what is told, what is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
import sturdy
from pmfed_client.agent.agent import Agent
from pmfed_client.connection import agent_address as resident
from pmfed_client.connection.app import app as client_app
from pmfed_client.site.site import read_sites
from pmfed_server.results import summarise, write_results
from pmfed_server.rounds import Rounds, RunOutcome
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters
from safetensors.numpy import load_file

from pmfed.methods import Ask, DecodedSum, plan_for
from pmfed.models import build, flatten
from pmfed.secagg.keys import verify
from pmfed.study import Study
from pmfed.wire import Request, parse_request

RUN = "ab" * 16
STUDY = Study.from_text(federation.STUDY, "study.toml").replace(training={"rounds": 4, "quorum": 0.6})
INTERCEPT = {"method": "intercept", "learning_rate": 0.5}
FINE_TUNE = {"method": "fine-tune", "steps": 4, "learning_rate": 0.3, "share": 0.3}
DITTO = {"method": "ditto", "steps": 1, "learning_rate": 0.3, "proximal": 0.5, "share": 0.3}


class Federation:
    """Sites, watched; ``refuse`` may throw a message away in a site's place."""

    def __init__(
        self, folder: Path, personal: dict[str, Any], names: tuple[str, ...] = federation.SITES, **sections: Any
    ) -> None:
        self.study = STUDY.replace(personal=personal, **sections)
        self.sites = read_sites(sturdy.write(folder / "f", names, federation.PATIENTS))
        pin_rosters(self.sites)
        self.folder = folder / "run"
        self.folder.mkdir()
        self.agents = {site.name: Agent(site) for site in self.sites}
        self.seen: list[tuple[str, Request, dict[str, Any]]] = []
        self.refuse: Any = lambda name, request: False

    def handle(self, name: str, record: bytes, arrays: Any) -> tuple[bytes, Any]:
        request = parse_request(record)
        if self.refuse(name, request):
            return b"", {}
        answer, sums = self.agents[name].handle(record, arrays)
        self.seen.append((name, request, {key: value.copy() for key, value in sums.items()}))
        return answer, sums

    def run(self) -> RunOutcome:
        class Watched:
            def __init__(self, name: str, handle: Any) -> None:
                self.name, self._handle = name, handle

            def handle(self, record: bytes, arrays: Any) -> tuple[bytes, Any]:
                answer: tuple[bytes, Any] = self._handle(self.name, record, arrays)
                return answer

        for name in self.agents:
            resident.register(name, Watched(name, self.handle))  # type: ignore[arg-type]
        try:
            nodes = {node: {"site": name} for node, name in enumerate(self.agents, start=1)}
            with LocalGrid(client_app, nodes) as grid:
                plan = plan_for(self.study, len(self.sites))
                rounds = Rounds(grid, self.study, plan, self.folder, run=RUN, sites=len(self.sites), patience=60.0)
                outcome = rounds.run()
        finally:
            for name in self.agents:
                resident.forget(name)
        write_results(self.folder, self.study, outcome, summarise(self.study, outcome.plan, outcome, 1.0))
        return outcome

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        return found

    def kinds(self, name: str) -> list[str]:
        return [request.what for who, request, _ in self.seen if who == name]


@pytest.mark.parametrize("personal", [FINE_TUNE, DITTO], ids=["fine-tune", "ditto"])
def test_sites_train_models_of_their_own_and_tell_their_scores_only(tmp_path: Path, personal: dict[str, Any]) -> None:
    made = Federation(tmp_path, personal)
    outcome = made.run()
    for name in federation.SITES:
        assert made.kinds(name)[-3:] == ["evaluation", "personal-evaluation", "finish"]
        own = load_file(tmp_path / "f" / "sites" / name / "personal" / f"{RUN}.safetensors")
        common = load_file(made.folder / "model.safetensors")
        assert set(own) == set(common)
        assert not np.array_equal(own["linear.weight"], common["linear.weight"])
    for _, request, arrays in made.seen:
        sizes = {key: len(value) for key, value in arrays.items()}
        expected = {"step": {"sum"}, "evaluation": {"sum", "site"}, "personal-evaluation": {"sum", "site"}}
        assert set(sizes) == expected.get(request.what, set())
        if request.what == "step":
            assert sizes == {"sum": 7}
    told = made.result["personal"]
    assert (told["method"], set(told["per_site"])) == (personal["method"], set(federation.SITES))
    assert 0.5 < told["epsilon"] <= 0.6
    assert told["test"] != made.result["metrics"]["test"]
    own, common = federation.trained(outcome).personal, federation.trained(outcome).evaluated
    assert own is not None
    assert common is not None
    np.testing.assert_allclose(own.total, sum(own.per_site.values()), atol=1e-2)
    assert own.total.sum() == pytest.approx(common.total.sum(), rel=1e-3)  # the same patients
    for receipt in outcome.receipts.values():
        assert verify(receipt)["charges"] == {"step": 4, "personal": 4}
        assert 1.9 < verify(receipt)["epsilon"] <= 2.0


def test_a_model_whose_intercept_stays_leaves_without_it(tmp_path: Path) -> None:
    made = Federation(tmp_path, INTERCEPT)
    outcome = made.run()
    assert {len(arrays["sum"]) for _, request, arrays in made.seen if request.what == "step"} == {6}
    assert all("personal-evaluation" not in made.kinds(name) for name in federation.SITES)
    assert set(load_file(made.folder / "model.safetensors")) == {"linear.weight"}
    assert (federation.trained(outcome).personal, made.result["parameters"]) == (None, 6)
    biases = set()
    for name in federation.SITES:
        own = load_file(tmp_path / "f" / "sites" / name / "personal" / f"{RUN}.safetensors")
        np.testing.assert_allclose(
            own["linear.weight"].ravel(), federation.trained(outcome).optimizer.result, rtol=1e-6
        )
        biases.add(float(own["linear.bias"][0]))
    assert len(biases | {float(flatten(build(made.study))[-1])}) == 4
    told = made.result["personal"]
    assert told["per_site"] == made.result["metrics"]["per_site"]
    assert told["epsilon"] is None
    # What stays has no more noise than against colluders, so the public sees no less than they do.
    views = made.result["privacy"]["epsilon_collusion"]
    assert views["public"] == views["colluders"] <= 2.0


def test_a_coordinator_killed_before_the_own_models_goes_on_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Federation(tmp_path, FINE_TUNE)

    true = Rounds._answer

    def killed(self: Rounds, ask: Ask) -> DecodedSum | None:
        if ask.query.name == "personal-evaluation":
            raise KeyboardInterrupt
        return true(self, ask)

    monkeypatch.setattr(Rounds, "_answer", killed)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    monkeypatch.undo()
    made.agents = {site.name: Agent(site) for site in made.sites}  # and the sites were started anew as well
    made.seen.clear()
    outcome = made.run()
    assert [kind for kind in made.kinds("north") if kind != "keys"] == ["enroll", "personal-evaluation", "finish"]
    assert set(made.result["personal"]["per_site"]) == set(federation.SITES)
    assert all(verify(text)["charges"] == {"step": 4, "personal": 4} for text in outcome.receipts.values())


@pytest.mark.parametrize("release", ["exact", "private"])
def test_a_site_that_fails_at_its_own_model_costs_its_figures_and_not_the_run(tmp_path: Path, release: str) -> None:
    private = {"evaluation": {"release": "private", "per_site": False}} if release == "private" else {}
    made = Federation(tmp_path, FINE_TUNE, **private)
    made.refuse = lambda name, request: name == "west" and request.what == "personal-evaluation"
    outcome = made.run()
    told = made.result["personal"]
    assert len(outcome.receipts) == 3
    assert made.result["metrics"]["test"]["auroc"] is not None
    # A private sum without one site has less noise than was promised: it is thrown away.
    assert set(told["per_site"]) == (set() if private else {"north", "south"})
    assert bool(told["test"]) == (not private)


def test_nobody_left_for_the_own_models_is_no_failure_of_the_run(tmp_path: Path) -> None:
    made = Federation(tmp_path, FINE_TUNE)
    made.refuse = lambda name, request: name != "north" and request.what == "personal-evaluation"
    made.run()
    assert made.result["personal"]["test"] == made.result["personal"]["per_site"] == {}
    assert (made.folder / "report.html").exists()


def test_a_round_survives_a_failing_site_beside_personal_steps(tmp_path: Path) -> None:
    """With dropout recovery too: masks, shares and the sites' own models know nothing of each other."""
    names = (*federation.SITES, "east")
    made = Federation(tmp_path, DITTO, names, aggregation={"dropouts": 1})
    made.refuse = lambda name, request: name == "west" and request.what == "step" and request.round == 2
    outcome = made.run()
    assert set(made.result["personal"]["per_site"]) == set(names)
    for name, text in outcome.receipts.items():
        steps = 3 if name == "west" else 4
        assert verify(text)["charges"] == {"step": steps, "personal": steps}

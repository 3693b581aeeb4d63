"""A run that recalibrates: one charged sum after the last round; everything told of the model has it in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from pmfed_client.agent.agent import Agent
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.order import Order
from pmfed_client.connection import agent_address
from pmfed_client.connection.app import app as client_app
from pmfed_client.site.approve import terms
from pmfed_client.site.site import Site, read_sites
from pmfed_server.app import conduct
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from pmfed.cohort import read_cohort
from pmfed.errors import ProtocolError, StudyError
from pmfed.methods import DecodedSum, plan_for, schedule
from pmfed.methods.gradient import Gradient
from pmfed.privacy.accounting import epsilon
from pmfed.privacy.noise import SecretSource
from pmfed.queries.recalibration import Recalibration
from pmfed.queries.scores import Scores
from pmfed.runs.description import NAME, Straight
from pmfed.runs.model import open_model
from pmfed.study import Study
from pmfed.wire import Request

PLAIN = Study.from_text(federation.STUDY, "study.toml")
STUDY = PLAIN.replace(recalibration={"share": 0.3})
PLAN = plan_for(STUDY, 3)
RUN = "cd" * 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Site]]:
    """A finished run of three sites, with its books kept."""
    folder = tmp_path_factory.mktemp("recalibrated")
    sites = list(read_sites(federation.write_federation(folder / "f") / "sites"))
    pin_rosters(sites)
    for site in sites:
        agent_address.register(site.name, Agent(site))
    nodes: dict[int, dict[str, Any]] = {number: {"site": site.name} for number, site in enumerate(sites, 1)}
    (folder / "run").mkdir()
    with LocalGrid(client_app, nodes) as grid:
        conduct(grid, STUDY, PLAN, folder / "run", run=RUN, sites=3, patience=30.0)
    for site in sites:
        agent_address.forget(site.name)
    return folder / "run", sites


def test_it_is_charged_once_after_the_last_round_and_is_in_every_receipt(run: tuple[Path, list[Site]]) -> None:
    folder, sites = run
    plan = PLAN
    for site in sites:
        charges = [row for row in Agent(site).ledger.rows() if row.kind == "charge"]
        assert [row.what for row in charges] == ["step"] * 6 + ["recalibration"]
        assert charges[-1].round == 6
        receipt = json.loads((folder / "receipts" / f"{site.name}.json").read_text())
        assert json.dumps(receipt).count('"recalibration"') >= 1
    one = plan["recalibration"]
    assert (one.role, one.times, one.sampling_rate) == ("train", 1, 1.0)
    assert 0.97 * 0.3 * 2.0 < epsilon([one.release()], plan.delta) <= 0.3 * 2.0
    assert 0.98 * 2.0 < plan.epsilon() <= 2.0
    assert plan["step"].noise_multiplier > plan_for(PLAIN, 3)["step"].noise_multiplier  # it is paid for by the steps


def test_what_was_fitted_is_in_the_model_and_in_the_result_and_can_be_fitted_again(
    run: tuple[Path, list[Site]], tmp_path: Path
) -> None:
    folder, _ = run
    result = json.loads((folder / "result.json").read_text())
    told = open_model(folder, STUDY).description.recalibration
    assert told is not None
    assert isinstance(told.map, Straight)
    assert result["recalibration"]["map"]["slope"] == told.map.slope != 1.0
    assert told.fitted_on.startswith("training patients")
    assert list(Gradient.wrong(folder, STUDY, PLAN, result)) == []
    for name in ("model.safetensors", "evaluation.safetensors", NAME):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    said = json.loads((tmp_path / NAME).read_text())
    said["recalibration"]["map"]["slope"] *= 1.1
    (tmp_path / NAME).write_text(json.dumps(said))
    assert "another recalibration" in "".join(Gradient.wrong(tmp_path, STUDY, PLAN, result))
    del said["recalibration"]
    (tmp_path / NAME).write_text(json.dumps(said))
    assert "another recalibration" in "".join(Gradient.wrong(tmp_path, STUDY, PLAN, result))
    (tmp_path / NAME).write_bytes((folder / NAME).read_bytes())
    kept = load_file(folder / "evaluation.safetensors")
    save_file(
        {name: one for name, one in kept.items() if "recalibration" not in name}, tmp_path / "evaluation.safetensors"
    )
    assert "does not hold the sum" in "".join(Gradient.wrong(tmp_path, STUDY, PLAN, result))


def follow(method: Gradient, lose: bool) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Answer everything, and lose what is asked for recalibration if told so; yield what was asked, and what came with it."""
    while (ask := method.next()) is not None:
        sent = dict(method.sent(ask))
        yield ask.query.name, ask.number, sent
        if lose and ask.query.name == "recalibration":
            method.lost(ask)
        else:
            grid = ask.query.grid(3)
            words = np.full(ask.query.size, 5000).astype(grid.word)
            if ask.query.name == "recalibration":  # twice as many as were expected
                words = grid.encode(np.repeat([4.0, 16.0], 8))
            method.take(ask, DecodedSum(words, grid, 3, noise=1.0))


@pytest.mark.parametrize("lose", [False, True])
def test_the_last_look_is_at_the_recalibrated_model_and_a_lost_sum_changes_nothing(lose: bool, tmp_path: Path) -> None:
    method = Gradient(STUDY, tmp_path)
    asked = list(follow(method, lose))
    assert [name for name, _, _ in asked[-2:]] == ["recalibration", "evaluation"]
    assert asked[-1][1] == STUDY.training.rounds
    looks = [sent["recalibration"].tolist() for name, _, sent in asked if name == "evaluation"]
    assert len(looks) == 3
    assert looks[:2] == [[0.0, 1.0]] * 2  # on the way nothing is known yet
    assert (looks[2] == [0.0, 1.0]) == lose
    told = method.result(PLAN)["recalibration"]
    assert (told is None) == lose
    if told is not None:
        assert [*told["map"]["intercept"], told["map"]["slope"]] == looks[2]
        assert told["map"]["intercept"][0] > 0.5
    method.write()
    assert (open_model(tmp_path, STUDY).description.recalibration is None) == lose
    assert [one for one in Gradient.wrong(tmp_path, STUDY, PLAN, {}) if "recalibration" in one] == []


def request(query: str, round: int) -> Request:
    return Request(kind="ask", query=query, run=RUN, study=STUDY.fingerprint(), round=round, sites=3)


def test_no_round_comes_after_it() -> None:
    order = Order(schedule(STUDY))
    order.take(request("step", 1))
    order.take(request("step", 2))
    with pytest.raises(ProtocolError, match="out of order"):
        order.take(request("recalibration", 0))
    order.take(request("recalibration", 2))
    with pytest.raises(ProtocolError, match="what fits the final state was asked for already"):
        order.take(request("step", 3))
    with pytest.raises(ProtocolError, match="out of order"):
        order.take(request("recalibration", 2))
    order.take(request("evaluation", 2))


def test_whoever_approves_reads_of_it(run: tuple[Path, list[Site]]) -> None:
    _, sites = run
    said = "\n".join(terms(sites[0], STUDY))
    assert "once a sum over training patients of 16 numbers that set scores beside outcomes" in said
    assert "beside outcomes" not in "\n".join(terms(sites[0], PLAIN))


def test_a_study_without_it_is_what_it_was_and_one_without_probabilities_has_none() -> None:
    assert "recalibration" not in PLAIN.canonical()
    assert Study.parse(STUDY.canonical()) == STUDY
    assert STUDY.fingerprint() != PLAIN.fingerprint()
    assert STUDY.replace(recalibration=None).fingerprint() == PLAIN.fingerprint()
    assert Study.from_text(federation.STUDY + "\n[recalibration]\n", "study.toml").recalibration is not None
    with pytest.raises(StudyError, match="a site's own model is not the one"):
        Study.from_text(
            federation.STUDY + '\n[recalibration]\n[personal]\nmethod = "intercept"\nlearning_rate = 0.1\n',
            "study.toml",
        )
    number = federation.STUDY.replace('task = "binary"', 'task = "regression"\nminimum = 0\nmaximum = 9')
    number = number.replace('classes = ["no", "yes"]\n', "").replace("baseline = 0.4", "baseline = 4")
    Study.from_text(number, "study.toml")
    with pytest.raises(StudyError, match="regression outcome is predicted without probabilities"):
        Study.from_text(number + "\n[recalibration]\n", "study.toml")


def test_a_site_scores_by_the_line_that_came(run: tuple[Path, list[Site]]) -> None:
    _, sites = run
    cohort = read_cohort(STUDY, sites[0].sources, sites[0].name, sites[0].places)
    answers, scores = Answers(STUDY, PLAN, cohort, lambda *_: SecretSource()), Scores(STUDY)
    sent = {"parameters": np.zeros(scores.state["parameters"][1], np.float32)}
    plain, lifted = (
        answers.exact(scores, {**sent, "recalibration": np.array([shift, 1.0])}).reshape(2, -1) for shift in (0.0, 50.0)
    )
    assert lifted[:, -1].sum() == lifted.sum() == plain.sum() > 0  # all in the highest bin
    assert not plain[:, -1].any()


def test_its_noise_is_the_share_of_the_epsilon_it_has() -> None:
    noises = [Recalibration(STUDY.replace(recalibration={"share": share})).noise for share in (0.1, 0.3, 0.6)]
    assert noises[0] > noises[1] > noises[2]
    with pytest.raises(ValidationError, match="less than 1"):
        STUDY.replace(recalibration={"share": 1.0})

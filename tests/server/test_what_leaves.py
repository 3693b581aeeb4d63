"""Everything that leaves every site in a whole run, looked at: masked words, cards, signatures, sealed shares, receipts."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
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
from pmfed_server.rounds import Rounds
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters
from scipy.stats import chi2

from pmfed.cohort.statistics import statistics_size
from pmfed.methods import plan_for
from pmfed.secagg.keys import verify
from pmfed.secagg.protocol import Packages, Shares
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.wire import Reply, Request, parse_reply, parse_request

RUN = "ab" * 16
NAMES = tuple(f"site-{number}" for number in range(1, 5))
TEXT = federation.STUDY.replace(", mean = 60, scale = 15", "")  # means and scales are learned from the sites
CHANGES: dict[str, Any] = {
    "training": {"rounds": 4},
    "evaluation": {"release": "private", "per_site": False, "split_key": "tiny", "release_noise": 40.0},
}


@dataclass
class Left:
    """One answer of one site."""

    site: str
    request: Request
    reply: Reply
    arrays: dict[str, Any]


def run(folder: Path, study: Study) -> tuple[list[Left], dict[str, Agent]]:
    """Take a study over all sites of a folder and return everything that left them."""
    sites = read_sites(folder)
    pin_rosters(sites)
    agents, left = {site.name: Agent(site) for site in sites}, []

    class Watched:
        def __init__(self, agent: Agent) -> None:
            self.agent = agent

        def handle(self, record: bytes, arrays: Any) -> tuple[bytes, Any]:
            answer, sums = self.agent.handle(record, arrays)
            copies = {name: array.copy() for name, array in sums.items()}
            left.append(Left(self.agent.site.name, parse_request(record), parse_reply(answer), copies))
            return answer, sums

    for name, agent in agents.items():
        resident.register(name, Watched(agent))  # type: ignore[arg-type]
    (folder.parent / "run").mkdir()
    try:
        with LocalGrid(client_app, {node: {"site": name} for node, name in enumerate(agents, start=1)}) as grid:
            plan = plan_for(study, len(sites))
            Rounds(grid, study, plan, folder.parent / "run", run=RUN, sites=len(sites), patience=60.0).run()
    finally:
        for name in agents:
            resident.forget(name)
    return left, agents


def write(folder: Path, sizes: dict[str, int]) -> Path:
    """Write sites of these many patients each, with data of their own."""
    for name, patients in sizes.items():
        sturdy.write(folder / name, (name,), patients)
        (folder / "sites").mkdir(exist_ok=True)
        (folder / name / "sites" / name).rename(folder / "sites" / name)
    return folder / "sites"


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "sturdy"])
def study(request: pytest.FixtureRequest) -> Study:
    return Study.from_text(TEXT, "study.toml").replace(aggregation={"dropouts": request.param}, **CHANGES)


@pytest.fixture(scope="module")
def left(study: Study, tmp_path_factory: pytest.TempPathFactory) -> list[Left]:
    """The sites differ as much as they may: the smallest has a tenth of the patients of the largest."""
    folder = write(tmp_path_factory.mktemp("left"), dict(zip(NAMES, (30, 60, 120, 300), strict=True)))
    return run(folder, study)[0]


def texts(left: list[Left], kind: str) -> list[str]:
    found = [one.reply.text for one in left if one.request.what == kind]
    assert found or kind in ("shares", "sign", "unmask")  # these are of a sturdy run alone
    return found


def test_every_kind_of_message_was_seen_and_answered(left: list[Left], study: Study) -> None:
    kinds = {"enroll", "keys", "statistics", "step", "evaluation", "finish"}
    if study.aggregation.dropouts:
        kinds |= {"shares", "sign", "unmask"}
    assert {one.request.what for one in left} == kinds
    assert {one.reply.query or one.reply.kind for one in left} == kinds
    assert all(one.reply.ok for one in left), [one.reply.reason for one in left if not one.reply.ok]
    assert {one.site for one in left} == set(NAMES)


def test_a_reply_says_nothing_beside_what_was_asked(left: list[Left]) -> None:
    for one in left:
        told = one.reply.model_dump(exclude={"text"})
        assert told == {
            "version": 2, "kind": one.request.kind, "query": one.request.query, "run": RUN, "round": one.request.round,
            "attempt": one.request.attempt, "site": one.site, "ok": True, "code": "", "reason": "",
        }  # fmt: skip


def test_arrays_are_one_vector_of_words_for_a_sum(left: list[Left], study: Study) -> None:
    sizes = {"statistics": statistics_size(study), "step": 7, "evaluation": task_for(study).cells}
    for one in left:
        if one.request.what in sizes:
            assert set(one.arrays) == {"sum"}
            words = one.arrays["sum"]
            assert (words.dtype, words.shape) == (np.uint32, (sizes[one.request.what],))
        else:
            assert one.arrays == {}


@pytest.mark.parametrize("kind", ["statistics", "step", "evaluation"])
def test_what_one_site_sends_is_chance(left: list[Left], kind: str) -> None:
    """Gradients, statistics and scores are small numbers: bare, their upper bytes would be 0 or 255."""
    words = np.concatenate([one.arrays["sum"] for one in left if one.request.what == kind])
    for place in words.view(np.uint8).reshape(-1, 4).T:
        counts = np.bincount(place // 32, minlength=8)
        expected = len(place) / 8
        assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 7) > 1e-7
    for one in left:
        if one.request.what == kind:
            high = np.abs(one.arrays["sum"].view(np.int32).astype(np.int64)) >> 24
            assert (high > 0).mean() > 0.5


CARD = {"what", "version", "run", "study", "roster", "site", "exchange", "signature"}
RECEIPT = {
    "site", "run", "study", "finished", "charges", "cohorts", "epsilon", "delta", "first", "last", "rows", "head", "key",
    "insecure", "data",
}  # fmt: skip
HEAD = {"site", "run", "head", "key"}
HEX = re.compile(r"[0-9a-f]+")


def test_documents_hold_what_the_protocol_names_and_nothing_else(left: list[Left], study: Study) -> None:
    for text in texts(left, "enroll"):
        document = json.loads(text)
        assert set(document) == {"pmfed", "card", "head"}
        assert set(verify(document["head"])) <= HEAD
        assert set(document["card"]) == CARD
    assert set(texts(left, "keys") + texts(left, "step") + texts(left, "evaluation") + texts(left, "statistics")) == {
        ""
    }
    for text in texts(left, "shares"):
        for package in Packages.validate_json(text, strict=True):
            assert len(package.boxes) == len(NAMES) - 1
    for text in texts(left, "sign"):
        assert len(text) == 128
        assert HEX.fullmatch(text)
    for text in texts(left, "unmask"):
        assert set(Shares.validate_json(text, strict=True)) == set(NAMES)
    for text in texts(left, "finish"):
        assert set(verify(text)) <= RECEIPT


def test_receipts_of_sites_with_other_patients_tell_the_same(left: list[Left], study: Study) -> None:
    """Charges, epsilon and rows follow from the study alone; hashes and names are a site's own, and so is the digest of its
    data, whose key nobody else has and no other run uses.
    """
    told = []
    for text in texts(left, "finish"):
        receipt = verify(text)
        for own in ("site", "key", "first", "last", "head", "data"):
            assert re.fullmatch(r"[0-9a-f]{64}|site-\d", receipt.pop(own))
        told.append(receipt)
    assert len(told) == len(NAMES)
    assert all(receipt == told[0] for receipt in told)
    assert told[0]["charges"] == {"statistics": 1, "step": 4, "evaluation": 1}


def measured(left: list[Left]) -> dict[str, list[tuple[Any, ...]]]:
    """Return, by site, type and size of all that left it, in order."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for one in left:
        arrays = tuple((name, str(array.dtype), array.shape) for name, array in sorted(one.arrays.items()))
        found[one.site].append(
            (one.reply.kind, one.reply.query, one.reply.round, one.reply.attempt, len(one.reply.text), arrays)
        )
    return found


def test_two_sites_with_other_patients_cannot_be_told_apart_by_type_or_size(left: list[Left]) -> None:
    found = measured(left)
    assert set(found) == set(NAMES)
    assert all(told == found[NAMES[0]] for told in found.values())


def test_nothing_of_the_patients_is_in_anything_that_left(left: list[Left]) -> None:
    for one in left:
        said = one.reply.model_dump_json()
        for canary in (federation.ID_CANARY, federation.VALUE_CANARY, "patients.csv", "/"):
            assert canary not in said


def test_the_sum_is_right_although_no_part_of_it_can_be_read(left: list[Left], study: Study) -> None:
    """In the plain way all that left adds up to the gradients; in the sturdy way it stays hidden until it is opened."""
    steps: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for one in left:
        if one.request.what == "step":
            steps[one.request.round, one.request.attempt].append(one.arrays["sum"])
    assert len(steps) == 4
    for words in steps.values():
        total = np.add.reduce(words, dtype=np.uint32).view(np.int32).astype(np.int64)
        small = bool((np.abs(total) < 2**22).all())
        assert small == (not study.aggregation.dropouts)


def test_exact_scores_of_one_site_leave_only_where_study_and_site_say_so(tmp_path: Path) -> None:
    """The documented exception: evaluation.per_site, which a site's policy must allow in so many words."""
    study = Study.from_text(federation.STUDY, "study.toml").replace(training={"rounds": 1})
    folder = write(tmp_path, dict.fromkeys(NAMES, 40))
    left, agents = run(folder, study)
    for one in left:
        assert set(one.arrays) <= ({"sum", "site"} if one.request.what == "evaluation" else {"sum"})
    (evaluated, *_) = [one for one in left if one.request.what == "evaluation"]
    assert not np.array_equal(evaluated.arrays["sum"], evaluated.arrays["site"])  # one of the two is masked
    assert all(agent.site.policy.per_site_metrics for agent in agents.values())

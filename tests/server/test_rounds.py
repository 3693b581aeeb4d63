"""A run over real agents and ledgers: sites that fail, coordinators that die, answers that are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.connection import agent_address as resident
from pmfed_client.connection.app import app as client_app
from pmfed_client.ledger.ledger import Ledger
from pmfed_client.site.site import Site, read_sites
from pmfed_server.enrolment import Owner, misfit
from pmfed_server.rounds import Rounds, RunOutcome, spending
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters

from pmfed import __version__
from pmfed.errors import RunError
from pmfed.methods import plan_for
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.cards import make_card
from pmfed.secagg.keys import Identity, verify
from pmfed.secagg.roster import Roster
from pmfed.study import Study
from pmfed.wire import Request, dump, parse_reply, parse_request

RUN = "ab" * 16
STUDY = Study.from_text(federation.STUDY, "study.toml")
PLAN = plan_for(STUDY, len(federation.SITES))
NORTH, SOUTH, WEST = federation.SITES

Before = Callable[[Request], None]
After = Callable[[Request, list[Message]], list[Message]]


class Meddled(LocalGrid):
    """The real grid, with something happening before or after the sites are asked."""

    before: Before = staticmethod(lambda _: None)
    after: After = staticmethod(lambda _, replies: replies)

    asked: Request | None = None
    offline: frozenset[int] = frozenset()

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.asked = parse_request(bytes(messages[0].content["pmfed"]["record"]))  # type: ignore[arg-type]
        self.before(self.asked)
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if self.asked is None:  # all that came was handed over; what is asked for now was held back
            return []
        asked, self.asked = self.asked, None
        waiting, replies = set(message_ids), list[Message]()
        while waiting:
            self.wait(waiting)
            replies += super().pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        order = {node: place for place, node in enumerate(super().get_node_ids())}
        return self.after(asked, sorted(replies, key=lambda reply: order[reply.metadata.src_node_id]))


class Federation:
    """Three real sites and a RUN folder; each `run` is a coordinator started anew, and agents started anew."""

    def __init__(self, folder: Path, study: Study = STUDY, plan: PrivacyPlan = PLAN) -> None:
        self.folder, self.study, self.plan = folder / "run", study, plan
        self.folder.mkdir(parents=True)
        self.sites = read_sites(federation.write_federation(folder / "f") / "sites")
        pin_rosters(self.sites)
        self.rehearsal = Rehearsal()
        self.grid: Meddled | None = None

    def owners(self) -> dict[int, Owner]:
        """Return whose the nodes are, as a coordinator who has all cards would know."""
        return {
            number: Owner(name, Identity.at(self.site(name).identity).public)
            for number, name in enumerate(federation.SITES, start=1)
        }

    def registered(self, owners: dict[int, Owner]) -> RunOutcome:
        """Run with a coordinator who knows whose the nodes are."""
        for name in federation.SITES:
            resident.register(name, Agent(self.site(name)))
        nodes: dict[int, dict[str, Any]] = {number: {"site": name} for number, name in enumerate(federation.SITES, 1)}
        with LocalGrid(client_app, nodes) as grid:
            return Rounds(
                grid, self.study, self.plan, self.folder, run=RUN, sites=3, patience=30.0, registered=lambda: owners
            ).run()

    def run(self, before: Before | None = None, after: After | None = None, there: int = 3) -> RunOutcome:
        """Run with so many of the sites."""
        agents = {site.name: Agent(site, rehearsal=self.rehearsal) for site in self.sites}
        for name, agent in agents.items():
            resident.register(name, agent)
        nodes: dict[int, dict[str, Any]] = {
            number: {"site": name} for number, name in enumerate(list(agents)[:there], start=1)
        }
        with Meddled(client_app, nodes) as grid:
            self.grid = grid
            grid.before, grid.after = before or grid.before, after or grid.after
            return Rounds(grid, self.study, self.plan, self.folder, run=RUN, sites=len(agents), patience=5.0).run()

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def charges(self, name: str) -> list[tuple[str | None, int | None, int | None]]:
        rows = Agent(self.site(name)).ledger.rows()
        return [(row.what, row.round, row.attempt) for row in rows if row.kind == "charge"]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def spoil(self, name: str) -> None:
        """Overwrite a site's ledger where it lies."""
        for path in self.site(name).folder.glob("ledger.db*"):
            path.write_bytes(b"garbage " * 2048)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Federation]:
    yield Federation(tmp_path)
    for name in federation.SITES:
        resident.forget(name)


def at(kind: str, round: int, act: Callable[[], None], attempt: int | None = None) -> Before:
    """Return something that happens once, before the sites are asked this."""
    done = []

    def meddle(request: Request) -> None:
        here = (request.what, request.round) == (kind, round) and attempt in (None, request.attempt)
        if here and not done:
            done.append(True)
            act()

    return meddle


def die() -> None:
    raise KeyboardInterrupt


def dying_after(kind: str, round: int) -> After:
    """Return a coordinator's death after the sites have answered, and charged, and before it has read that."""

    def meddle(request: Request, replies: list[Message]) -> list[Message]:
        if (request.what, request.round) == (kind, round):
            raise KeyboardInterrupt
        return replies

    return meddle


def test_a_run_charges_every_site_every_round_once(sites: Federation) -> None:
    outcome = sites.run()
    assert (outcome.rounds, outcome.charged["step"]) == (6, 6)
    assert outcome.sites == federation.SITES
    for name in federation.SITES:
        assert sites.charges(name) == [("step", number, 0) for number in range(1, 7)]
        receipt = verify(outcome.receipts[name])
        assert receipt["site"] == name
        assert receipt["epsilon"] <= STUDY.privacy.epsilon
        assert receipt["epsilon"] == pytest.approx(PLAN.epsilon(), rel=1e-3)
    assert [line["round"] for line in sites.lines] == [1, 2, 3, 4, 5, 6]
    assert [line["round"] for line in sites.lines if "metrics" in line] == [1, 3, 6]
    spent = [line["epsilon"] for line in sites.lines]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(STUDY.privacy.epsilon, rel=1e-2)
    assert all(line["bytes_up"] == line["bytes_down"] == 3 * 4 * 7 for line in sites.lines)
    assert outcome.charged == {"step": 6}
    evaluated = federation.trained(outcome).evaluated
    assert evaluated is not None
    np.testing.assert_allclose(
        evaluated.total,
        sum(evaluated.per_site.values()),
        atol=1e-9,  # type: ignore[arg-type]
    )


def test_a_site_that_fails_in_a_round_is_left_out_and_the_others_take_larger_shares(sites: Federation) -> None:
    asked: list[tuple[int, int, int]] = []

    def note(request: Request) -> None:
        if request.what == "step":
            asked.append((request.round, request.attempt, request.sites))
            if (request.round, request.attempt) == (2, 0):
                sites.spoil(SOUTH)

    outcome = sites.run(note)
    # South fails in rounds 2 and 3 and when it is asked to score after round 3: the third strike.
    assert asked == [(1, 0, 3), (2, 0, 3), (2, 1, 2), (3, 0, 3), (3, 1, 2), (4, 0, 2)]
    assert outcome.rounds == 4
    assert outcome.charged["step"] == 6
    assert [sorted(line["dropped"]) for line in sites.lines] == [[], [SOUTH], [SOUTH], []]
    assert "privacy ledger" in sites.lines[1]["dropped"][SOUTH]
    assert [(line["sites"], line["attempt"]) for line in sites.lines] == [(3, 0), (2, 1), (2, 1), (2, 0)]
    for name in (NORTH, WEST):
        assert sites.charges(name) == [("step", number, attempt) for number, attempt, _ in asked]
    assert set(outcome.receipts) == {NORTH, WEST}
    assert set(outcome.left) == {SOUTH}
    assert "privacy ledger" in outcome.left[SOUTH]
    assert PLAN["step"].noise_std(2) > PLAN["step"].noise_std(3)


def test_after_three_strikes_a_site_is_not_asked_again(tmp_path: Path) -> None:
    study = STUDY.replace(training={"rounds": 10})
    sites = Federation(tmp_path, study, plan_for(study, 3))
    outcome = sites.run(at("step", 2, lambda: sites.spoil(SOUTH)))
    assert [line["attempt"] for line in sites.lines] == [0, 1, 1, 0, 0, 0, 0, 0]
    assert [line["sites"] for line in sites.lines] == [3, 2, 2, 2, 2, 2, 2, 2]
    assert outcome.rounds == 8
    assert outcome.charged["step"] == 10
    assert set(federation.trained(outcome).evaluated.per_site) == {NORTH, WEST}
    assert set(outcome.left) == {SOUTH}  # long after it was last asked


def test_a_site_that_was_away_for_a_round_comes_back(sites: Federation) -> None:
    def away(request: Request, replies: list[Message]) -> list[Message]:
        if (request.what, request.round, request.attempt) == ("step", 3, 0):
            lost = Message(Error(1), reply_to=replies[0])
            lost.metadata.__dict__["_reply_to_message_id"] = replies[0].metadata.reply_to_message_id
            return [lost, *replies[2:]]  # one could not be reached, one is late
        return replies

    # North's and South's answers were lost: below the quorum of two.
    with pytest.raises(RunError, match="1 of 3 sites are left; the study needs 2") as caught:
        sites.run(after=away)
    assert "did not answer in time" in str(caught.value)
    assert "resume the run" in str(caught.value)
    assert len(sites.lines) == 2
    outcome = sites.run()
    assert [line["sites"] for line in sites.lines] == [3, 3, 3, 3, 3]
    assert outcome.rounds == 5  # the attempt that was lost was charged
    for name in federation.SITES:
        assert len(sites.charges(name)) == 6


def test_below_the_quorum_the_run_ends_with_the_reasons(sites: Federation) -> None:
    def spoil() -> None:
        sites.spoil(SOUTH)
        sites.spoil(WEST)

    with pytest.raises(RunError) as caught:
        sites.run(at("step", 4, spoil))
    assert "round 4: 1 of 3 sites are left; the study needs 2" in str(caught.value)
    assert "south: its privacy ledger" in str(caught.value)
    assert "west: its privacy ledger" in str(caught.value)
    assert len(sites.lines) == 3
    assert len(sites.charges(NORTH)) == 4


def test_a_run_that_begins_with_too_few_frees_what_the_others_reserved(sites: Federation) -> None:
    for name in (SOUTH, WEST):
        federation.change(sites.site(name).folder / "site.toml", "^min_patients = 20", "min_patients = 59")
    sites.sites = read_sites(sites.sites[0].folder.parent)
    with pytest.raises(RunError, match="1 of 3 sites agreed"):
        sites.run()
    with Ledger(sites.site(NORTH).ledger) as ledger:
        assert ledger.receipt(RUN)["finished"]
        assert [row.kind for row in ledger.rows()][-1] == "finish"
        assert sum(row.count or 0 for row in ledger.rows() if row.kind == "reserve") == sum(
            row.count or 0 for row in ledger.rows() if row.kind == "refund"
        )
    assert not sites.charges(NORTH)
    assert not (sites.folder / "checkpoints").exists()  # a run of before that was charged is never let go of: see above


def test_no_fewer_sites_than_stand_against_the_colluders(tmp_path: Path) -> None:
    study = STUDY.replace(training={"quorum": 0.1}, privacy={"colluders": 2})
    sites = Federation(tmp_path, study, plan_for(study, 3))
    with pytest.raises(RunError, match="2 of 3 sites are left"):
        sites.run(at("step", 2, lambda: sites.spoil(SOUTH)))


def test_a_site_that_refuses_is_named_and_the_others_go_on(sites: Federation) -> None:
    federation.change(sites.site(SOUTH).folder / "site.toml", "^min_patients = 20", "min_patients = 59")
    sites.sites = read_sites(sites.sites[0].folder.parent)
    outcome = sites.run()
    assert outcome.sites == (NORTH, WEST)
    assert set(outcome.refused) == {SOUTH}
    assert "policy" in outcome.refused[SOUTH]
    assert "59" not in outcome.refused[SOUTH]  # how many patients there are is the site's own business
    assert not sites.charges(SOUTH)


@pytest.mark.parametrize(("version", "fits"), [("0.2.0", False), ("1.1.0", False), ("", False), ("0.1.99", True)])
def test_a_site_whose_version_does_not_fit_is_turned_away_and_its_budget_given_back(
    sites: Federation, version: str, fits: bool
) -> None:
    def meddle(request: Request, replies: list[Message]) -> list[Message]:
        if request.what != "enroll":
            return replies
        told = json.loads(parse_reply(bytes(replies[1].content["pmfed"]["record"])).text)  # type: ignore[arg-type]
        said = answer(replies[1], record={"text": json.dumps({**told, "pmfed": version})}, arrays=ArrayRecord())
        return [replies[0], said, replies[2]]

    outcome = sites.run(after=meddle)
    assert outcome.sites == ((NORTH, SOUTH, WEST) if fits else (NORTH, WEST))
    assert outcome.versions[NORTH] == __version__
    assert outcome.versions.get(SOUTH) == (version if fits else None)
    if not fits:
        assert outcome.refused == {SOUTH: f"runs pmfed {version}, and this coordinator {__version__}"}
        rows = [row.kind for row in Ledger(sites.site(SOUTH).ledger).rows()]
        assert "charge" not in rows
        assert rows[-1] == "finish"


def test_a_site_that_is_not_connected_is_neither_asked_nor_thrown_out(sites: Federation) -> None:
    """Flower says so at once, and a round takes seconds: three of them are sooner over than a node is back."""

    def meddle(request: Request) -> None:
        assert sites.grid is not None
        if request.what == "step":
            sites.grid.offline = frozenset({2} if request.round in (1, 2, 3, 4) else ())  # for the round after this one

    outcome = sites.run(meddle)
    assert [line["sites"] for line in sites.lines] == [3, 2, 2, 2, 2, 3]
    assert all((line["attempt"], line["dropped"]) == (0, {}) for line in sites.lines)
    assert (outcome.rounds, outcome.left) == (6, {})  # nothing was charged in vain
    assert [len(sites.charges(name)) for name in federation.SITES] == [6, 2, 6]


def test_a_site_that_is_not_connected_in_the_end_has_left(sites: Federation) -> None:
    def meddle(request: Request) -> None:
        assert sites.grid is not None
        if (request.what, request.round) == ("step", 4):
            sites.grid.offline = frozenset({2})

    assert sites.run(meddle).left == {SOUTH: "is not connected"}


def test_a_late_answer_is_not_taken_for_that_of_another_round(sites: Federation) -> None:
    """South answers the second round while the third is under way: nobody waits for that any more."""
    held: list[Message] = []

    def meddle(request: Request, replies: list[Message]) -> list[Message]:
        if (request.what, request.round, request.attempt) == ("step", 2, 0):
            held.append(replies[1])
            lost = Message(Error(0, "gone"), reply_to=replies[1])
            lost.metadata.__dict__.update({**replies[1].metadata.__dict__})
            return [replies[0], lost, replies[2]]
        return [*held, *replies] if (request.what, request.round) == ("step", 3) else replies

    outcome = sites.run(after=meddle)
    assert held
    assert [line["sites"] for line in sites.lines] == [3, 2, 3, 3, 3]
    assert [list(line["dropped"]) for line in sites.lines] == [[], [SOUTH], [], [], []]
    assert outcome.rounds == 5
    assert outcome.left == {}  # it came back


def test_a_last_round_that_fails_leaves_the_model_of_the_round_before(sites: Federation) -> None:
    outcome = sites.run(at("step", 6, lambda: resident.forget(WEST)))
    assert (outcome.rounds, outcome.charged["step"]) == (5, 6)  # charged for six, so there is no seventh attempt
    assert federation.trained(outcome).evaluated.total.sum() > 0
    assert set(outcome.left) == {WEST}


def test_a_site_that_is_away_for_the_last_sum_has_left(sites: Federation) -> None:
    def away(request: Request, replies: list[Message]) -> list[Message]:
        here = (request.what, request.round, request.attempt) == ("evaluation", 6, 0)
        return [replies[0], replies[2]] if here else replies

    outcome = sites.run(after=away)
    assert outcome.left == {SOUTH: "did not answer in time"}
    again = sites.run()  # the sites are asked for their receipts again, and the checkpoint has the rest
    assert (again.left, set(again.receipts)) == (outcome.left, set(federation.SITES))


def test_a_site_whose_receipt_alone_is_missing_has_not_left(sites: Federation) -> None:
    outcome = sites.run(after=lambda request, replies: replies[: 1 if request.what == "finish" else 3])
    assert (set(outcome.receipts), outcome.left) == ({NORTH}, {})


def test_a_site_that_is_gone_when_only_receipts_are_missing_does_not_hold_the_result_back(sites: Federation) -> None:
    with pytest.raises(KeyboardInterrupt):
        sites.run(after=dying_after("finish", 6))
    outcome = sites.run(there=2)
    assert outcome.rounds == 6
    assert (set(outcome.receipts), set(outcome.left)) == ({NORTH, SOUTH}, {WEST})
    with pytest.raises(RunError, match="2 of 3 sites connected"):  # while training is still to be done, all are awaited
        Federation(sites.folder.parent / "other").run(there=2)


@pytest.mark.parametrize("why", ["policy", "away"])
def test_a_site_that_took_part_and_does_not_after_a_resume_is_named(sites: Federation, why: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        sites.run(after=dying_after("step", 3))
    if why == "policy":
        federation.change(sites.site(SOUTH).folder / "site.toml", "^min_patients = 20", "min_patients = 59")
        sites.sites = read_sites(sites.sites[0].folder.parent)
    with pytest.raises(KeyboardInterrupt):  # and it is not forgotten by the next resume either
        sites.run(at("enroll", 0, lambda: resident.forget(SOUTH)) if why == "away" else None, dying_after("step", 4))
    outcome = sites.run(at("enroll", 0, lambda: resident.forget(SOUTH)) if why == "away" else None)
    assert outcome.sites == (NORTH, SOUTH, WEST)
    assert set(outcome.left) == {SOUTH}
    assert ("policy" in outcome.left[SOUTH]) == (why == "policy")
    assert SOUTH not in outcome.refused
    assert set(outcome.receipts) == {NORTH, WEST}
    assert len(sites.charges(SOUTH)) == 3
    told = json.loads((sites.folder / "enrolled.json").read_text())
    assert (told["sites"], set(told["refused"]) >= {SOUTH}) == ([NORTH, WEST], True)


def test_no_site_can_put_its_receipt_in_the_place_of_anothers(sites: Federation) -> None:
    def meddle(request: Request, replies: list[Message]) -> list[Message]:
        if request.what != "finish":
            return replies
        return [*replies[:2], answer(replies[2], record={"site": NORTH, "text": "{}"}, arrays=ArrayRecord())]

    outcome = sites.run(after=meddle)
    assert verify(outcome.receipts[NORTH])["site"] == NORTH
    assert outcome.receipts[WEST] == "{}"


def test_too_few_sites_that_agree_end_the_run_before_any_charge(sites: Federation) -> None:
    for name in (SOUTH, WEST):
        federation.change(sites.site(name).folder / "site.toml", "^epsilon = 2.5", "epsilon = 1.5")
    sites.sites = read_sites(sites.sites[0].folder.parent)
    with pytest.raises(RunError) as caught:
        sites.run()
    assert "1 of 3 sites agreed to take part; the study needs 2" in str(caught.value)
    assert "this site allows 1.5000" in str(caught.value)
    assert not sites.charges(NORTH)
    # Told better, the same run goes on from where it stood.
    for name in (SOUTH, WEST):
        federation.change(sites.site(name).folder / "site.toml", "^epsilon = 1.5", "epsilon = 2.5")
    sites.sites = read_sites(sites.sites[0].folder.parent)
    assert sites.run().rounds == 6


DEATHS: dict[str, tuple[list[tuple[str, int]], int]] = {
    "before it asked": ([("enroll", 0)], 6),
    "in the first round": ([("step", 1)], 5),
    "in the middle": ([("step", 4)], 5),
    "twice in the same round": ([("step", 3), ("step", 3)], 4),
    "in the last round": ([("step", 6)], 5),
    "between a step and its scores": ([("evaluation", 3)], 5),
    "in the last evaluation": ([("evaluation", 6)], 6),
    "before it read the receipts": ([("finish", 6)], 6),
    "and again": ([("finish", 6), ("finish", 6)], 6),
}


@pytest.mark.parametrize(("deaths", "rounds"), DEATHS.values(), ids=DEATHS)
def test_a_coordinator_that_died_goes_on_and_nobody_is_charged_more_than_agreed(
    sites: Federation, deaths: list[tuple[str, int]], rounds: int
) -> None:
    for kind, round in deaths:
        with pytest.raises(KeyboardInterrupt):
            sites.run(after=dying_after(kind, round))
    outcome = sites.run()
    assert outcome.rounds == rounds
    assert outcome.charged["step"] <= STUDY.training.rounds
    for name in federation.SITES:
        charges = sites.charges(name)
        assert len(charges) == len(set(charges)) <= STUDY.training.rounds
        assert verify(outcome.receipts[name])["epsilon"] <= STUDY.privacy.epsilon
    numbers = [line["round"] for line in sites.lines]
    assert numbers == sorted(set(numbers))


def test_a_coordinator_that_died_in_a_second_attempt_counts_the_first_one_too(sites: Federation) -> None:
    def meddle(request: Request) -> None:
        if (request.what, request.round) == ("step", 2):
            resident.forget(WEST)  # West is away, and is not charged
            if request.attempt == 1:
                die()

    with pytest.raises(KeyboardInterrupt):
        sites.run(meddle)
    outcome = sites.run()
    assert outcome.sites == (NORTH, SOUTH, WEST)
    assert outcome.charged["step"] == 6
    assert [len(sites.charges(name)) for name in federation.SITES] == [5, 5, 4]
    assert outcome.rounds == 4


def answer(reply: Message, *, record: dict[str, Any] | None = None, arrays: Any = None) -> Message:
    """Return a reply with its record or its arrays replaced."""
    known = parse_reply(bytes(reply.content["pmfed"]["record"]))  # type: ignore[arg-type]
    said = dump(known.model_copy(update=record or {}))
    content = RecordDict({"pmfed": ConfigRecord({"record": said})})
    content["arrays"] = reply.content.array_records["arrays"] if arrays is None else arrays
    made = Message(content, reply_to=reply)
    made.metadata.__dict__.update({**reply.metadata.__dict__})
    return made


def words(size: int, kind: type[np.generic] = np.uint32) -> ArrayRecord:
    return ArrayRecord({"sum": Array(np.zeros(size, kind))})


def torn() -> ArrayRecord:
    return ArrayRecord({"sum": Array(dtype="uint32", shape=(7,), stype="numpy.ndarray", data=b"\x93NUMPY")})


def pickled() -> ArrayRecord:
    return ArrayRecord({"sum": Array(dtype="object", shape=(7,), stype="pickle", data=b"\x80\x04K\x01.")})


NONSENSE: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "another round": ({"round": 1}, lambda: None),
    "another attempt": ({"attempt": 9}, lambda: None),
    "another run": ({"run": "cd" * 16}, lambda: None),
    "another kind": ({"kind": "finish"}, lambda: None),
    "another query": ({"query": "evaluation"}, lambda: None),
    "a longer vector": ({}, lambda: words(8)),
    "a shorter vector": ({}, lambda: words(6)),
    "no vector": ({}, ArrayRecord),
    "floats": ({}, lambda: words(7, np.float32)),
    "another array": ({}, lambda: ArrayRecord({"patients": Array(np.zeros(7, np.uint32))})),
    "a matrix": ({}, lambda: ArrayRecord({"sum": Array(np.zeros((1, 7), np.uint32))})),
    "half an array": ({}, torn),
    "a pickle": ({}, pickled),
}


@pytest.mark.parametrize(("record", "arrays"), NONSENSE.values(), ids=NONSENSE)
def test_an_answer_that_is_none_is_that_sites_problem_only(
    sites: Federation, record: dict[str, Any], arrays: Callable[[], Any]
) -> None:
    def meddle(request: Request, replies: list[Message]) -> list[Message]:
        if (request.what, request.round, request.attempt) == ("step", 2, 0):
            return [
                answer(reply, record=record, arrays=arrays()) if reply is replies[1] else reply for reply in replies
            ]
        return replies

    outcome = sites.run(after=meddle)
    assert outcome.rounds == 5
    assert [list(line["dropped"]) for line in sites.lines] == [[], [SOUTH], [], [], []]


def test_missing_sites_are_counted(sites: Federation) -> None:
    resident.register(NORTH, Agent(sites.sites[0]))
    with LocalGrid(client_app, {1: {"site": NORTH}}) as grid:
        rounds = Rounds(grid, STUDY, PLAN, sites.folder, run=RUN, sites=3, patience=0.3)
        with pytest.raises(RunError, match="1 of 3 sites connected"):
            rounds.run()


def test_a_site_nobody_runs_is_that_sites_problem(sites: Federation) -> None:
    for name in (NORTH, WEST):
        resident.register(name, Agent(sites.site(name)))
    nodes: dict[int, dict[str, Any]] = {1: {"site": NORTH}, 2: {"site": "nowhere"}, 3: {"site": WEST}}
    with LocalGrid(client_app, nodes) as grid:
        outcome = Rounds(grid, STUDY, PLAN, sites.folder, run=RUN, sites=3, patience=1.0).run()
    assert outcome.refused == {"node 2": "its courier could not reach the site agent"}
    assert outcome.rounds == 6


def test_a_node_is_believed_only_the_name_on_its_card(sites: Federation) -> None:
    """South's node says it is south, as its card does; the other two say so of each other."""
    owners = sites.owners()
    with pytest.raises(RunError, match="1 of 3 sites agreed") as told:
        sites.registered({1: owners[3], 2: owners[2], 3: owners[1]})
    assert f"{WEST}: calls itself '{NORTH}', which is not the name on its card" in str(told.value)
    assert f"{NORTH}: calls itself '{WEST}', which is not the name on its card" in str(told.value)


def test_who_has_the_key_of_a_sites_node_is_not_that_site(sites: Federation) -> None:
    """The card is not signed with the site's identity; the others never see it, and can do without."""
    outcome = sites.registered({**sites.owners(), 2: Owner(SOUTH, sites.owners()[1].key)})
    assert outcome.refused == {SOUTH: "did not sign its card with the key this coordinator knows it by"}
    assert (outcome.sites, outcome.rounds, outcome.masked) == ((NORTH, WEST), 6, True)
    assert sites.charges(SOUTH) == []


def test_a_site_with_an_older_roster_stops_nobody_but_itself(sites: Federation) -> None:
    older = sites.site(WEST).roster
    keys = Roster.read(older).keys
    older.write_text(Roster.of({name: keys[name] for name in (SOUTH, WEST)}).canonical())
    outcome = sites.registered(sites.owners())
    assert list(outcome.refused) == [WEST]
    assert outcome.refused[WEST].startswith("has pinned another roster than most")
    assert (outcome.sites, outcome.rounds) == ((NORTH, SOUTH), 6)


@pytest.mark.parametrize("card", [None, 7, {}, {"what": "pmfed card"}, [], "card"], ids=repr)
def test_what_is_no_card_is_none(card: object) -> None:
    request = Request(kind="enroll", run=RUN, study=STUDY.fingerprint(), sites=3)
    assert misfit(card, Owner(NORTH, "0" * 64), request) == "sent no card"


def test_a_card_is_of_its_site_run_and_study(sites: Federation) -> None:
    site, identity = sites.site(NORTH), Identity.at(sites.site(NORTH).identity)
    roster, owner = Roster.read(site.roster), Owner(NORTH, identity.public)
    request = Request(kind="enroll", run=RUN, study=STUDY.fingerprint(), sites=3)
    card = make_card(X25519PrivateKey.generate(), identity, roster, RUN, STUDY.fingerprint(), NORTH)
    assert misfit(card.model_dump(), owner, request) == ""
    for change in ({"run": "cd" * 16}, {"study": "0" * 64}, {"site": WEST}):
        blank = card.model_copy(update=change)
        signed = blank.model_copy(update={"signature": identity.sign(blank.signed())})
        assert misfit(signed.model_dump(), owner, request) == "sent a card of another site, run or study"
    other = card.model_copy(update={"exchange": "1" * 64})
    assert "did not sign" in misfit(other.model_dump(), owner, request)


def test_statistics_are_learned_once_and_go_on_with_a_resumed_run(tmp_path: Path) -> None:
    study = Study.from_text(federation.STUDY.replace(", mean = 60, scale = 15", ""), "study.toml")
    sites = Federation(tmp_path, study, plan_for(study, 3))
    with pytest.raises(KeyboardInterrupt):
        sites.run(after=dying_after("step", 3))
    outcome = sites.run()
    assert federation.trained(outcome).statistics is not None
    assert outcome.charged["statistics"] == 1
    for name in federation.SITES:
        assert [what for what, _, _ in sites.charges(name)].count("statistics") == 1
        assert verify(outcome.receipts[name])["epsilon"] <= study.privacy.epsilon


def test_the_epsilon_shown_is_that_of_the_plan() -> None:
    shown = spending(PLAN, 1)
    for rounds in (1, 3, 6):
        assert shown(rounds) == pytest.approx(PLAN.epsilon({"step": rounds}), rel=0.02)
    assert spending(PLAN.without_noise(), 1)(3) is None

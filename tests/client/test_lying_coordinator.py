"""A coordinator that lies, against real agents: each lie is refused, with the reason in the site's log, and nothing leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
import sturdy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pmfed_client.agent.agent import Agent

from pmfed.queries.gradient import step_of
from pmfed.secagg.cards import make_card
from pmfed.secagg.keys import Identity, canonical
from pmfed.secagg.masks import Label
from pmfed.secagg.protocol import package_bytes, survivor_bytes, threshold_of
from pmfed.secagg.roster import Roster
from pmfed.study import Study
from pmfed.wire import Reply, Request, dump, parse_reply, parse_request

STUDY = Study.from_text(federation.STUDY, "study.toml").replace(training={"rounds": 60})
NORTH, SOUTH, WEST = federation.SITES
Together = federation.Together
Sturdy = sturdy.Sturdy
Cards = list[dict[str, Any]]
Told = tuple[Reply, dict[str, Any]]


def refused(answer: Told, code: str, said: str, caplog: pytest.LogCaptureFixture, site: str = NORTH) -> None:
    """The coordinator gets a code and nothing else; the site's own log has the reason."""
    reply, sums = answer
    assert (reply.ok, reply.code, reply.text, sums) == (False, code, "", {}), reply
    assert any(one in reply.reason for one in ("Nothing was ", "not a valid request", "this side speaks protocol"))
    last = caplog.records[-1].getMessage()
    assert last.startswith(f"{site}: ")
    assert said in last


def charged(together: Together, name: str = NORTH) -> int:
    return sum(row.kind == "charge" for row in together.agents[name].ledger.rows())


def noise(total: Any, sites: int) -> bool:
    """Whether a sum of gradients is none: true ones use a small part of the 32 bits."""
    grid = step_of(STUDY).grid(sites)
    total = np.add.reduce(total, dtype=grid.word) if isinstance(total, list) else total
    return bool(np.abs(grid.decode(total)).max() > 10_000 * STUDY.privacy.clip)


# -- introductions -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Three sites, enrolled and not introduced."""
    folder = federation.write_federation(tmp_path_factory.mktemp("plain") / "f") / "sites"
    together = Together(folder, STUDY)
    for name in together.agents:
        assert together.ask(name, "enroll")[0].ok
    return together


def cards_of(together: Together) -> Cards:
    return [
        agent._sessions[together.run].masking.masker.card.model_dump(mode="json")  # type: ignore[union-attr]
        for agent in together.agents.values()
    ]


def identity(together: Together, name: str) -> Identity:
    return Identity.at(together.sites[name].identity)


def roster(together: Together) -> Roster:
    return Roster.read(together.sites[NORTH].roster)


def really_signed(together: Together, name: str, **changes: Any) -> dict[str, Any]:
    """Return another card that a site of the roster signed."""
    body = {**cards_of(together)[federation.SITES.index(name)], **changes}
    del body["signature"]
    return {**body, "signature": identity(together, name).sign(canonical(body))}


STRANGER = Identity(Ed25519PrivateKey.generate())
FOREIGN = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()


def of_stranger(together: Together, site: str) -> dict[str, Any]:
    wider = Roster.of({**roster(together).keys, site: STRANGER.public})
    card = make_card(X25519PrivateKey.generate(), STRANGER, wider, together.run, STUDY.fingerprint(), site)
    body = {**card.model_dump(mode="json"), "roster": roster(together).fingerprint()}
    del body["signature"]
    return {**body, "signature": STRANGER.sign(canonical(body))}


INTRODUCTIONS: dict[str, tuple[Callable[[Together, Cards], Any], str]] = {
    "a key of the coordinator's": (lambda t, c: [*c[:2], {**c[2], "exchange": FOREIGN}], "identity did not sign"),
    "keys swapped": (
        lambda t, c: [c[0], {**c[1], "exchange": c[2]["exchange"]}, {**c[2], "exchange": c[1]["exchange"]}],
        "identity did not sign",
    ),
    "a site outside the roster": (lambda t, c: [*c, of_stranger(t, "zoo")], "'zoo' is not in the roster"),
    "a key outside the roster": (lambda t, c: [*c[:2], of_stranger(t, WEST)], f"'{WEST}' has a key that its identity"),
    "a card of another run": (lambda t, c: [*c[:2], really_signed(t, WEST, run="cd" * 16)], "another run or study"),
    "a card of another study": (lambda t, c: [*c[:2], really_signed(t, WEST, study="6" * 64)], "another run or study"),
    "a card of another roster": (lambda t, c: [*c[:2], really_signed(t, WEST, roster="6" * 64)], "another roster"),
    "the site's own card changed": (lambda t, c: [{**c[0], "exchange": FOREIGN}, *c[1:]], "did not sign"),
    "the site's own card left out": (lambda t, c: c[1:], "own key is missing or was changed"),
    "another card the site itself signed": (
        lambda t, c: [really_signed(t, NORTH, exchange=FOREIGN), *c[1:]],
        "own key is missing or was changed",
    ),
    "a roster of one": (lambda t, c: c[:1], "one site hides nothing"),
    "nobody": (lambda t, c: [], "own key is missing"),
    "a site twice": (lambda t, c: [*c, c[2]], "is there twice"),
    "an older version": (lambda t, c: [*c[:2], really_signed(t, WEST, version=0)], "cannot be read"),
    "a key that shares nothing": (
        lambda t, c: [*c[:2], really_signed(t, WEST, exchange="00" * 32)],
        f"'{WEST}' sent a key that shares nothing",
    ),
    "no list": (lambda t, c: {"cards": c}, "cannot be read"),
}


@pytest.mark.parametrize(("lie", "said"), INTRODUCTIONS.values(), ids=INTRODUCTIONS)
def test_a_false_introduction_is_refused_and_leaves_the_site_without_keys(
    enrolled: Together, lie: Callable[[Together, Cards], Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = json.dumps(lie(enrolled, cards_of(enrolled)))
    refused(enrolled.ask(NORTH, "keys", text=text), "PM500", said, caplog)
    refused(enrolled.ask(NORTH, "step", 1), "PM505", "no keys with the others", caplog)
    refused(enrolled.ask(NORTH, "evaluation", 1), "PM505", "no keys with the others", caplog)
    assert not charged(enrolled)


def test_a_card_of_an_enrolment_before_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    together = Together(federation.write_federation(tmp_path / "f") / "sites", STUDY).enrol()
    old = cards_of(together)
    assert together.ask(NORTH, "enroll")[0].ok
    refused(together.ask(NORTH, "keys", text=json.dumps(old)), "PM500", "own key is missing or was changed", caplog)
    refused(together.ask(NORTH, "step", 1), "PM505", "no keys with the others", caplog)
    assert not charged(together)
    # Introduced anew with the others' old cards, it masks for nobody: the sum is noise.
    assert together.ask(NORTH, "keys", text=json.dumps([cards_of(together)[0], *old[1:]]))[0].ok
    assert noise(together.sum("step", 1), 3)


@pytest.fixture
def together(tmp_path: Path) -> Together:
    return Together(federation.write_federation(tmp_path / "f") / "sites", STUDY).enrol()


def test_other_cards_in_the_middle_of_a_run_are_refused(together: Together, caplog: pytest.LogCaptureFixture) -> None:
    cards = cards_of(together)
    for lie in (cards[:2], [*cards[:2], really_signed(together, WEST, exchange=FOREIGN)]):
        refused(together.ask(NORTH, "keys", text=json.dumps(lie)), "PM500", "changed in the middle of a run", caplog)
    assert together.ask(NORTH, "keys", text=json.dumps(cards[::-1]))[0].ok  # the same again
    assert not noise(together.sum("step", 1), 3)


# -- sums, the plain way -----------------------------------------------------------------------------------------------


def test_cards_for_few_are_no_way_round_the_quorum(together: Together, caplog: pytest.LogCaptureFixture) -> None:
    """Ten were to enrol; of those six must agree and four stay. Cards of three do not make three a quorum."""
    ten = tuple(f"site-{number}" for number in range(10))
    assert STUDY.quorum(STUDY.quorum(10)) == 4
    cards = []
    for name in federation.SITES:
        assert together.ask(name, "enroll", sites=ten)[0].ok
    cards = cards_of(together)
    assert together.ask(NORTH, "keys", text=json.dumps(cards))[0].ok
    for sites in (federation.SITES, federation.SITES[:2]):
        for kind in ("step", "evaluation"):
            refused(together.ask(NORTH, kind, 1, sites=sites), "PM500", "at least 4 are needed", caplog)
    assert not charged(together)


def test_a_replayed_round_or_attempt_is_charged_once_and_masked_once(
    together: Together, caplog: pytest.LogCaptureFixture
) -> None:
    assert together.ask(NORTH, "step", 3, 2)[0].ok
    for round, attempt in ((3, 2), (3, 1), (2, 9)):
        refused(together.ask(NORTH, "step", round, attempt), "PM400", "was charged last", caplog)
    refused(together.ask(NORTH, "step", 0, 0), "PM500", "out of order", caplog)
    assert charged(together) == 1
    # Exact scores are not charged; each is answered once all the same.
    assert together.ask(NORTH, "evaluation", 3)[0].ok
    refused(together.ask(NORTH, "evaluation", 3), "PM500", "asked about again", caplog)
    assert together.ask(NORTH, "evaluation", 3, 1)[0].ok


def test_different_models_for_different_sites_give_noise(together: Together) -> None:
    other = {"parameters": np.nextafter(together.start, np.float32(9))}
    sums = [together.ask(name, "step", 1, arrays=other if name == WEST else None) for name in federation.SITES]
    assert all(reply.ok for reply, _ in sums)
    assert noise([found["sum"] for _, found in sums], 3)
    assert not noise(together.sum("step", 2, arrays=other), 3)


@pytest.mark.parametrize("kind", ["rosters", "rounds", "attempts"])
def test_different_rosters_rounds_or_attempts_for_different_sites_give_noise(together: Together, kind: str) -> None:
    lie: dict[str, Any] = {"rosters": {"sites": (NORTH, WEST)}, "rounds": {"round": 2}, "attempts": {"attempt": 1}}[
        kind
    ]
    sums = [together.ask(name, "step", **{"round": 1, **(lie if name == WEST else {})}) for name in federation.SITES]
    assert all(reply.ok for reply, _ in sums)
    assert noise([found["sum"] for _, found in sums], 3)
    for _, found in sums:
        assert noise(found["sum"], 1)
    assert noise(sums[0][1]["sum"] + sums[2][1]["sum"], 2)


def test_without_one_site_the_others_vectors_are_noise_and_the_next_attempt_is_right(together: Together) -> None:
    found = [together.ask(name, "step", 1)[1]["sum"] for name in (NORTH, SOUTH)]
    assert noise(found[0] + found[1], 2)
    assert not noise(together.sum("step", 1, 1, sites=(NORTH, SOUTH)), 2)


# -- messages that are none --------------------------------------------------------------------------------------------


def request(together: Together, kind: Any, **more: Any) -> bytes:
    told = {**federation.asking(kind), "run": together.run, "study": STUDY.fingerprint(), "sites": 3, **more}
    return dump(Request(**told))


def answered(together: Together, record: bytes) -> Told:
    answer, sums = together.agents[NORTH].handle(record, {"parameters": together.start})
    return parse_reply(answer), dict(sums)


def test_half_a_message_and_an_older_version_are_refused(together: Together, caplog: pytest.LogCaptureFixture) -> None:
    step = request(together, "step", round=1, roster=federation.SITES)
    for end in range(len(step)):
        refused(answered(together, step[:end]), "PM500", "not a valid request", caplog)
    for version in (0, 1, 3):
        old = step.replace(b'"version":2', b'"version":%d' % version)
        assert old != step
        refused(
            answered(together, old), "PM500", f"a request of protocol {version}; this side speaks protocol 2", caplog
        )
    for lie in (b'"threshold":1,', b'"dropouts":9,'):
        refused(answered(together, b"{" + lie + step[1:]), "PM500", "not a valid request", caplog)
    assert not charged(together)
    assert answered(together, step)[0].ok


def test_a_flipped_bit_in_an_introduction_is_refused(enrolled: Together, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it hits the cards or what names them. (What it may change is the number of a round nobody reads.)"""
    whole = parse_request(request(enrolled, "keys", text=json.dumps(cards_of(enrolled))))
    chance = random.Random(4)
    record = dump(whole)
    for place in chance.sample(range(len(record)), 250):
        flipped = bytearray(record)
        flipped[place] ^= 1 << chance.randrange(8)
        reply, sums = answered(enrolled, bytes(flipped))
        if reply.ok:
            told = parse_request(bytes(flipped))
            assert json.loads(told.text) == json.loads(whole.text)
            assert told.model_copy(update={"round": 0, "attempt": 0, "sites": 3, "text": whole.text}) == whole
            for name in federation.SITES:  # it is introduced now: begin again
                assert enrolled.ask(name, "enroll")[0].ok
            whole = parse_request(request(enrolled, "keys", text=json.dumps(cards_of(enrolled))))
            record = dump(whole)
        else:
            assert reply.code in ("PM500", "PM505")
            assert "Nothing was" in reply.reason or "not a valid request" in reply.reason
        assert sums == {}
    assert not charged(enrolled)


def test_a_study_without_recovery_opens_nothing(together: Together, caplog: pytest.LogCaptureFixture) -> None:
    for kind, text in (
        ("shares", sturdy.asked(0, 1)), ("sign", sturdy.told(0, federation.SITES)), ("unmask", sturdy.told(0, federation.SITES)),
    ):  # fmt: skip
        refused(together.ask(NORTH, kind, text=text), "PM300", "no dropout recovery", caplog)  # type: ignore[arg-type]


# -- sums that survive dropouts ----------------------------------------------------------------------------------------

FIRST, SECOND, THIRD, *_, LAST = sturdy.NAMES
ALL = sturdy.NAMES
RECOVERS = sturdy.study(2, training={"rounds": 60})


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Sturdy:
    """Seven sites, introduced; every test prepares slots of its own and goes on with the next round."""
    together = Sturdy(sturdy.write(tmp_path_factory.mktemp("sturdy") / "f", patients=30), RECOVERS)
    together.enrol()
    return together


@pytest.fixture
def round(crowd: Sturdy) -> int:
    """A round that nobody was asked for, with eight fresh slots from eight times its number on."""
    crowd.turn = number = getattr(crowd, "turn", 0) + 1  # type: ignore[attr-defined]
    crowd.prepare(8 * number)
    return number


def test_the_honest_way_opens_the_sum_of_the_survivors(crowd: Sturdy, round: int) -> None:
    slot = 8 * round
    sums = {name: crowd.step(name, round, slot=slot)[1] for name in ALL}
    label = Label.of("step", round, 0, ALL, {"parameters": crowd.start})
    assert all(noise(found["sum"], 1) for found in sums.values())
    assert not noise(crowd.open(sums, ALL[:5], label, slot), 7)


def spoilt(crowd: Sturdy, slot: int, site: str = SECOND, **changes: Any) -> str:
    delivery = crowd.delivery(FIRST, slot)
    parcels = {**delivery.parcels, site: delivery.parcels[site].model_copy(update=changes)}
    return delivery.model_copy(update={"parcels": parcels}).model_dump_json()


def resigned(crowd: Sturdy, slot: int, **changes: Any) -> dict[str, Any]:
    """Return the parts of a package that a site of the roster signed saying something else: a lying site helps."""
    package = crowd.packages[slot][SECOND]
    masking = crowd.agents[SECOND]._sessions[crowd.run].masking
    assert masking is not None
    told = {
        "meeting": masking.masker.meeting, "site": SECOND, "holders": ALL, "threshold": threshold_of(7), "slot": slot,
        "public": package.public, "commit": package.commit, **changes,
    }  # fmt: skip
    said = {"public": told["public"], "commit": told["commit"]}
    return {**said, "signature": Identity.at(crowd.sites[SECOND].identity).sign(package_bytes(**told))}


def flipped(text: str, place: int) -> str:
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


SHARES: dict[str, tuple[Callable[[Sturdy, int], str], str]] = {
    "keys swapped": (
        lambda c, s: spoilt(c, s, public=c.packages[s][THIRD].public),
        f"'{SECOND}' did not sign its parcel",
    ),
    "a key of the coordinator's": (lambda c, s: spoilt(c, s, public=FOREIGN), f"'{SECOND}' did not sign its parcel"),
    "a box replayed under another slot": (
        lambda c, s: spoilt(c, s, box=c.packages[s + 1][SECOND].boxes[FIRST]),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a package replayed under another slot": (
        lambda c, s: c.delivery(FIRST, s + 1).model_copy(update={"slot": s}).model_dump_json(),
        "did not sign its parcel",
    ),
    "a bit flipped in a box": (
        lambda c, s: spoilt(c, s, box=flipped(c.packages[s][SECOND].boxes[FIRST], 99)),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a bit flipped in a signature": (
        lambda c, s: spoilt(c, s, signature=flipped(c.packages[s][SECOND].signature, 99)),
        f"'{SECOND}' did not sign its parcel",
    ),
    "a threshold lowered": (
        lambda c, s: spoilt(c, s, **resigned(c, s, threshold=2)),
        f"'{SECOND}' did not sign its parcel",
    ),
    "fewer holders": (
        lambda c, s: spoilt(c, s, **resigned(c, s, holders=ALL[:3])),
        f"'{SECOND}' did not sign its parcel",
    ),
    "a key that shares nothing": (
        lambda c, s: spoilt(c, s, **resigned(c, s, public="00" * 32)),
        f"'{SECOND}' sent a mask key that shares nothing",
    ),
    "a site left out": (lambda c, s: c.delivery(FIRST, s, ALL[:6]).model_dump_json(), "parcels are not those"),
    "half of it": (lambda c, s: c.delivery(FIRST, s).model_dump_json()[:-99], "not a valid delivery"),
    "an older version": (
        lambda c, s: c.delivery(FIRST, s).model_dump_json().replace('"version":1', '"version":0'),
        "not a valid delivery",
    ),
    "nothing": (lambda c, s: " ", "not a valid delivery"),
    "a slot nobody prepared": (
        lambda c, s: c.delivery(FIRST, s).model_copy(update={"slot": s + 9}).model_dump_json(),
        "is not prepared here",
    ),
}


@pytest.mark.parametrize(("lie", "said"), SHARES.values(), ids=SHARES)
def test_false_shares_are_refused_and_nothing_leaves(
    crowd: Sturdy, round: int, lie: Callable[[Sturdy, int], str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    slot, before = 8 * round, charged(crowd, FIRST)
    code = "PM505" if "not prepared" in said else "PM500"
    refused(crowd.step(FIRST, round, slot=slot, text=lie(crowd, slot)), code, said, caplog, FIRST)
    assert charged(crowd, FIRST) == before + 1  # charged is charged, whatever became of it
    refused(crowd.vote(FIRST, ALL, slot), "PM500", "holds no sum that can be opened", caplog, FIRST)


def test_a_sum_with_others_than_hold_its_shares_is_refused(
    crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Told of five, all of whom hold shares, it would be opened by what the seven sign."""
    slot = 8 * round
    text = crowd.delivery(FIRST, slot, ALL[:5]).model_dump_json()
    answer = crowd.step(FIRST, round, slot=slot, text=text, sites=ALL[:5])
    refused(answer, "PM500", "not those that hold shares", caplog, FIRST)


def test_a_sum_of_too_few_is_refused_before_the_charge(
    crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = charged(crowd, FIRST)
    for sites, said in (
        (ALL[:1], "at least"),
        (ALL[:3], "at least"),
        (ALL[1:], "missing among"),
        ((*ALL, "zoo"), "'zoo'"),
    ):
        text = crowd.delivery(FIRST, 8 * round).model_dump_json()
        refused(crowd.step(FIRST, round, slot=8 * round, sites=sites, text=text), "PM500", said, caplog, FIRST)
        refused(
            crowd.ask(FIRST, "shares", sites=sites, text=sturdy.asked(8 * round + 8, 1)), "PM500", said, caplog, FIRST
        )
    assert charged(crowd, FIRST) == before


def test_slots_are_prepared_once(crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture) -> None:
    for first in (8 * round, 8 * round + 7, 0):
        answer = crowd.ask(FIRST, "shares", sites=ALL, text=sturdy.asked(first, 1))
        refused(answer, "PM500", "was prepared before", caplog, FIRST)
    for text in ('{"version":0,"first":9999,"count":1}', '{"version":1,"first":2147483647,"count":8}', "{", " "):
        refused(crowd.ask(FIRST, "shares", sites=ALL, text=text), "PM500", "not a valid prepare", caplog, FIRST)


def hidden(crowd: Sturdy, round: int) -> dict[str, Any]:
    return {name: crowd.step(name, round, slot=8 * round)[1] for name in ALL}


def test_a_site_signs_and_opens_one_set_of_survivors(
    crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Two sets; the last site is dead for some and alive for others."""
    slot, sums = 8 * round, hidden(crowd, round)
    alive, dead = ALL, ALL[:6]
    votes = {name: crowd.vote(name, alive if name in ALL[:2] else dead, slot)[0].text for name in ALL[:6]}
    refused(crowd.vote(FIRST, dead, slot), "PM500", "other survivors were signed", caplog, FIRST)
    refused(crowd.vote(THIRD, alive, slot), "PM500", "other survivors were signed", caplog, THIRD)
    for name, survivors, said in (
        (FIRST, alive, "5 signatures are needed"),
        (THIRD, dead, "5 signatures are needed"),
        (FIRST, dead, "not the survivors this site signed"),
        (THIRD, alive, "not the survivors this site signed"),
    ):
        refused(crowd.unmask(name, survivors, votes, slot), "PM500", said, caplog, name)
    assert noise([sums[name]["sum"] for name in dead], 7)


SURVIVORS: dict[str, tuple[tuple[str, ...], str]] = {
    "four of seven": (ALL[:4], "at least 5 are needed"),
    "this site alone": (ALL[:1], "at least 5 are needed"),
    "without this site": (ALL[1:], "this site is not one"),
    "a stranger": ((*ALL, "zoo"), "not sites of the sum"),
    "somebody twice": ((*ALL[:4], FIRST), "not sites of the sum"),
    "nobody": ((), "not a valid survivors"),
}


def test_survivors_that_are_none_are_not_signed(crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture) -> None:
    slot = 8 * round
    hidden(crowd, round)
    for survivors, said in SURVIVORS.values():
        refused(crowd.vote(FIRST, survivors, slot), "PM500", said, caplog, FIRST)
    old = sturdy.told(slot, ALL).replace('"version":1', '"version":0')
    for text in (old, sturdy.told(slot, ALL)[:-5], sturdy.told(slot, ALL)[:-1] + ',"threshold":1}'):
        refused(crowd.ask(FIRST, "sign", sites=ALL, text=text), "PM500", "not a valid survivors", caplog, FIRST)
    assert crowd.vote(FIRST, ALL, slot)[0].ok


def test_nothing_is_opened_twice_nor_without_the_others_signatures(
    crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture
) -> None:
    slot = 8 * round
    sums = hidden(crowd, round)
    refused(crowd.unmask(FIRST, ALL, {}, slot), "PM500", "not the survivors this site signed", caplog, FIRST)
    votes = crowd.votes(ALL, slot)
    masking = crowd.agents[SECOND]._sessions[crowd.run].masking
    assert masking is not None
    label = Label.of("step", round, 0, ALL, {"parameters": crowd.start})
    elsewhere = survivor_bytes(masking.masker.meeting, slot + 1, label.bytes(), ALL)
    for lie in (
        {}, dict(list(votes.items())[:4]), dict.fromkeys(ALL, votes[FIRST]),
        {name: Identity.at(crowd.sites[name].identity).sign(elsewhere) for name in ALL},
        {name: STRANGER.sign(b"") for name in ALL}, {name: flipped(vote, 5) for name, vote in votes.items()},
    ):  # fmt: skip
        refused(crowd.unmask(FIRST, ALL, lie, slot), "PM500", "5 signatures are needed", caplog, FIRST)
    refused(crowd.unmask(FIRST, ALL, {FIRST: "no signature"}, slot), "PM500", "not a valid survivors", caplog, FIRST)
    assert not noise(crowd.open(sums, ALL, label, slot), 7)
    for again in (
        crowd.unmask(FIRST, ALL, votes, slot),
        crowd.vote(FIRST, ALL, slot),
        crowd.vote(FIRST, ALL[:5], slot),
    ):
        refused(again, "PM500", "holds no sum that can be opened", caplog, FIRST)
    refused(crowd.step(FIRST, round, 1, slot=slot), "PM505", "is not prepared here", caplog, FIRST)


def test_different_models_for_different_sites_open_nothing(
    crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture
) -> None:
    slot, other = 8 * round, {"parameters": crowd.start + np.float32(1)}
    for name in ALL:
        assert crowd.step(name, round, slot=slot, arrays=other if name in ALL[:3] else None)[0].ok
    votes = crowd.votes(ALL, slot)
    for name in ALL:
        refused(crowd.unmask(name, ALL, votes, slot), "PM500", "5 signatures are needed", caplog, name)


def test_an_agent_started_anew_opens_nothing_of_before(
    crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture
) -> None:
    hidden(crowd, round)
    kept = crowd.agents[FIRST]
    crowd.agents[FIRST] = Agent(crowd.sites[FIRST])
    try:
        refused(crowd.vote(FIRST, ALL, 8 * round), "PM505", "started anew", caplog, FIRST)
        assert crowd.ask(FIRST, "enroll", sites=ALL)[0].ok
        refused(crowd.vote(FIRST, ALL, 8 * round), "PM500", "holds no sum that can be opened", caplog, FIRST)
        refused(crowd.step(FIRST, round, 1, slot=8 * round), "PM505", "no keys with the others", caplog, FIRST)
    finally:
        crowd.agents[FIRST] = kept


def test_half_of_any_message_is_refused(crowd: Sturdy, round: int, caplog: pytest.LogCaptureFixture) -> None:
    slot = 8 * round
    hidden(crowd, round)
    votes = crowd.votes(ALL, slot)
    for kind, text in (
        ("shares", sturdy.asked(8 * round + 8, 1)),
        ("sign", sturdy.told(slot, ALL)),
        ("unmask", sturdy.told(slot, ALL, votes)),
    ):
        for end in range(0, len(text), 7):
            refused(crowd.ask(FIRST, kind, sites=ALL, text=text[:end] or " "), "PM500", "not a valid", caplog, FIRST)  # type: ignore[arg-type]
    assert crowd.unmask(FIRST, ALL, votes, slot)[0].ok

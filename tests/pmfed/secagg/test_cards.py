"""Cards: what a lying coordinator hands out in place of a site's key is refused, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from members import RUN, STUDY, Members, identities, names, roster_of

from pmfed.errors import KeysError, PolicyError, ProtocolError
from pmfed.secagg.cards import agree, make_card, meeting_of, pair_roots, read_cards
from pmfed.secagg.keys import canonical
from pmfed.secagg.masker import Masker
from pmfed.secagg.roster import Roster

FIRST, SECOND, THIRD = names(3)
Cards = list[dict[str, Any]]


@pytest.fixture(scope="module")
def members() -> Members:
    return Members(3)


def cards_of(members: Members) -> Cards:
    cards: Cards = json.loads(members.cards)
    return cards


def card(members: Members, site: str, **other: Any) -> dict[str, Any]:
    """Return a card that a site of the roster really signed, of another run, study or roster."""
    told = {"run": RUN, "study": STUDY, "roster": members.roster, "identity": members.identities.get(site), **other}
    secret = X25519PrivateKey.generate()
    made = make_card(secret, told["identity"], told["roster"], told["run"], told["study"], site)
    return made.model_dump(mode="json")


def resigned(members: Members, site: str, **changes: Any) -> dict[str, Any]:
    """Return a site's card with changes that the site itself signed."""
    body = {**cards_of(members)[names(3).index(site)], **changes}
    del body["signature"]
    return {**body, "signature": members.identities[site].sign(canonical(body))}


def of_stranger(members: Members) -> dict[str, Any]:
    known = {**members.identities, "stranger": next(iter(identities(1).values()))}
    made = card(members, "stranger", identity=known["stranger"], roster=roster_of(known))
    body = {**made, "roster": members.roster.fingerprint()}
    del body["signature"]
    return {**body, "signature": known["stranger"].sign(canonical(body))}


def wider(members: Members) -> Roster:
    return roster_of({**members.identities, "stranger": next(iter(identities(1).values()))})


def swapped(cards: Cards) -> Cards:
    """Exchange the keys of two cards and leave the signatures where they are."""
    one, other = cards[1]["exchange"], cards[2]["exchange"]
    return [cards[0], {**cards[1], "exchange": other}, {**cards[2], "exchange": one}]


FOREIGN = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()

LIES: dict[str, tuple[Callable[[Members, Cards], Cards], str]] = {
    "a key of the coordinator's": (
        lambda m, c: [*c[:2], {**c[2], "exchange": FOREIGN}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "two keys swapped": (lambda m, c: swapped(c), f"'{SECOND}' has a key that its identity did not sign"),
    "two names swapped": (
        lambda m, c: [c[0], {**c[1], "site": THIRD}, {**c[2], "site": SECOND}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "signed by another site": (
        lambda m, c: [*c[:2], {**c[2], "signature": m.identities[SECOND].sign(b"x")}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "a site that is not in the roster": (lambda m, c: [*c, of_stranger(m)], "'stranger' is not in the roster"),
    "a key outside the roster": (
        lambda m, c: [*c[:2], {**of_stranger(m), "site": THIRD}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "of another run": (lambda m, c: [*c[:2], card(m, THIRD, run="cd" * 16)], f"'{THIRD}' has a key of another run"),
    "of another study": (lambda m, c: [*c[:2], card(m, THIRD, study="6" * 64)], f"'{THIRD}' has a key of another run"),
    "of another roster": (
        lambda m, c: [*c[:2], card(m, THIRD, roster=wider(m))],
        f"'{THIRD}' has pinned another roster",
    ),
    "of another run, relabelled": (
        lambda m, c: [*c[:2], {**card(m, THIRD, run="cd" * 16), "run": RUN}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "of another study, relabelled": (
        lambda m, c: [*c[:2], {**card(m, THIRD, study="6" * 64), "study": STUDY}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "of another roster, relabelled": (
        lambda m, c: [*c[:2], {**card(m, THIRD, roster=wider(m)), "roster": m.roster.fingerprint()}],
        f"'{THIRD}' has a key that its identity did not sign",
    ),
    "a site twice": (lambda m, c: [*c, c[2]], f"'{THIRD}' is there twice"),
    "two cards of one site": (lambda m, c: [*c, card(m, THIRD)], f"'{THIRD}' is there twice"),
    "own card missing": (lambda m, c: c[1:], "own key is missing or was changed"),
    "own card of another enrolment": (lambda m, c: [card(m, FIRST), *c[1:]], "own key is missing or was changed"),
    "own card changed": (
        lambda m, c: [{**c[0], "exchange": FOREIGN}, *c[1:]],
        f"'{FIRST}' has a key that its identity did not sign",
    ),
    "own card alone": (lambda m, c: c[:1], "one site hides nothing"),
    "nobody": (lambda m, c: [], "own key is missing"),
    "an older version": (lambda m, c: [*c[:2], resigned(m, THIRD, version=0)], "cannot be read"),
    "a newer version": (lambda m, c: [*c[:2], resigned(m, THIRD, version=2)], "cannot be read"),
    "another kind of document": (lambda m, c: [*c[:2], resigned(m, THIRD, what="pmfed package")], "cannot be read"),
    "something more": (lambda m, c: [*c[:2], resigned(m, THIRD, threshold=1)], "cannot be read"),
    "no signature": (lambda m, c: [*c[:2], {k: v for k, v in c[2].items() if k != "signature"}], "cannot be read"),
    "a short key": (lambda m, c: [*c[:2], resigned(m, THIRD, exchange=FOREIGN[:-2])], "cannot be read"),
    "nothing at all": (lambda m, c: [*c[:2], None], "cannot be read"),  # type: ignore[list-item]
}


@pytest.mark.parametrize(("lie", "said"), LIES.values(), ids=LIES)
def test_cards_that_the_roster_does_not_vouch_for_are_refused(
    members: Members, lie: Callable[[Members, Cards], Cards], said: str
) -> None:
    masker = members.maskers[FIRST]
    with pytest.raises(ProtocolError, match=said) as caught:
        read_cards(json.dumps(lie(members, cards_of(members))), masker.card, members.roster)
    assert "Nothing was released." in str(caught.value)


def test_the_cards_as_they_were_are_accepted_in_any_order(members: Members) -> None:
    masker = members.maskers[FIRST]
    found = read_cards(json.dumps(cards_of(members)[::-1]), masker.card, members.roster)
    assert list(found) == list(names(3))
    assert found == masker.cards


def test_no_character_of_the_cards_can_be_changed_or_left_out(members: Members) -> None:
    masker, text = members.maskers[FIRST], members.cards
    for place in range(len(text)):
        other = "1" if text[place] != "1" else "2"
        for spoiled in (text[:place] + other + text[place + 1 :], text[:place] + text[place + 1 :], text[:place]):
            with pytest.raises(ProtocolError):
                read_cards(spoiled, masker.card, members.roster)


def test_a_site_that_the_roster_lists_with_another_key_has_no_card(members: Members) -> None:
    (other,) = identities(1).values()
    for identity, site in ((other, FIRST), (members.identities[FIRST], SECOND), (other, "stranger")):
        with pytest.raises(PolicyError, match="does not list"):
            Masker(identity, members.roster, RUN, STUDY, site)


def test_cards_are_accepted_once_and_the_same_again_changes_nothing() -> None:
    members = Members(3)
    masker = members.maskers[FIRST]
    before, meeting = masker.root(SECOND), masker.meeting
    masker.meet(members.cards)
    fresh = [*cards_of(members)[:2], card(members, THIRD)]
    for text in (json.dumps(fresh), json.dumps(cards_of(members)[:2])):
        with pytest.raises(ProtocolError, match="changed in the middle of a run"):
            masker.meet(text)
    assert (masker.root(SECOND), masker.meeting) == (before, meeting)


def test_cards_that_were_refused_leave_no_keys_behind() -> None:
    members = Members(3)
    masker = Masker(members.identities[FIRST], members.roster, RUN, STUDY, FIRST)
    with pytest.raises(ProtocolError):
        masker.meet(members.cards)  # of the enrolment before
    assert not masker.cards
    with pytest.raises(KeysError):
        masker.check(names(3), 2)


# Every u-coordinate of small order (RFC 7748, section 7), also in spellings that are not reduced.
SMALL = (
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "00" * 31 + "80",
    "01" + "00" * 30 + "80",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)


@pytest.mark.parametrize("public", SMALL)
def test_a_key_of_small_order_is_refused_though_its_site_signed_it(members: Members, public: str) -> None:
    secret = X25519PrivateKey.generate()
    masker = Masker(members.identities[FIRST], members.roster, RUN, STUDY, FIRST)
    lying = resigned(members, THIRD, exchange=public)
    text = json.dumps([masker.card.model_dump(mode="json"), cards_of(members)[1], lying])
    with pytest.raises(ProtocolError, match=f"'{THIRD}' sent a key that shares nothing"):
        masker.meet(text)
    assert not masker.cards
    with pytest.raises(ProtocolError, match="shares nothing"):
        agree(secret, masker.card, read_cards(text, masker.card, members.roster)[THIRD])


def test_two_sites_share_a_root_that_no_other_pair_has(members: Members) -> None:
    roots = {
        frozenset((site, other)): set()
        for site in names(3)
        for other in names(3)
        if site != other
    }  # fmt: skip
    for site, masker in members.maskers.items():
        for other in names(3):
            if other != site:
                roots[frozenset((site, other))].add(masker.root(other))
    assert all(len(found) == 1 for found in roots.values())
    assert len(set.union(*roots.values())) == 3


def test_a_root_belongs_to_both_cards(members: Members) -> None:
    """The same X25519 keys under another run, study or name share another root; so does a key that was copied."""
    secret = X25519PrivateKey.generate()
    own = make_card(secret, members.identities[FIRST], members.roster, RUN, STUDY, FIRST)
    other = members.maskers[SECOND].card
    seen = {agree(secret, own, other)}
    for changes in ({"run": "cd" * 16}, {"study": "6" * 64}, {"roster": "7" * 64}, {"site": THIRD}):
        seen.add(agree(secret, own, other.model_copy(update=changes)))
        seen.add(agree(secret, own.model_copy(update=changes), other))
    assert len(seen) == 9
    assert list(pair_roots(secret, own, {FIRST: own, SECOND: other})) == [SECOND]


def test_an_introduction_has_a_name_of_its_own(members: Members) -> None:
    cards = members.maskers[FIRST].cards
    assert {masker.meeting for masker in members.maskers.values()} == {meeting_of(cards)}
    assert meeting_of(dict(reversed(cards.items()))) == meeting_of(cards)
    again = Members(3)
    again.identities, again.roster = members.identities, members.roster
    again.meet()
    fewer = {site: cards[site] for site in names(2)}
    assert len({meeting_of(cards), again.maskers[FIRST].meeting, meeting_of(fewer)}) == 3

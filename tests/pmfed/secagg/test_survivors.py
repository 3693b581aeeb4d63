"""Survivors: sites sign one set of them, open one sum, once; and the coordinator's side notices shares that do not fit."""

from __future__ import annotations

import itertools
from contextlib import suppress

import numpy as np
import pytest
from chance import uniform
from members import Members, Vectors, added, names, vectors

from pmfed.errors import ProtocolError, RunError
from pmfed.secagg.masks import Label
from pmfed.secagg.opening import unmask
from pmfed.secagg.protocol import Shares, Survivors, survivor_bytes, threshold_of

LONG = 4096


def hidden(count: int = 7, dropouts: int = 2) -> tuple[Members, Label, Vectors, Vectors]:
    members = Members(count, dropouts)
    members.prepare()
    label, found = members.label(), vectors(names(count))
    return members, label, found, members.hide(found, label)


ALL = names(7)
VOTES: dict[str, tuple[tuple[str, ...], str]] = {
    "too few": (ALL[:4], "4 survivor(s), at least 5 are needed"),
    "this site alone": (ALL[:1], "1 survivor(s), at least 5 are needed"),
    "without this site": (ALL[1:], "not sites of the sum, or this site is not one"),
    "a stranger": ((*ALL[:6], "stranger"), "not sites of the sum"),
    "somebody twice": ((*ALL[:5], ALL[4]), "not sites of the sum"),
    "this site twice, to make up the number": ((ALL[0], *ALL[:4]), "not sites of the sum"),
}


@pytest.mark.parametrize(("survivors", "said"), VOTES.values(), ids=VOTES)
def test_survivors_that_are_none_are_not_signed(survivors: tuple[str, ...], said: str) -> None:
    members = hidden()[0]
    with pytest.raises(ProtocolError) as caught:
        members.votes(survivors, ask=ALL[:1])
    assert said in str(caught.value)
    assert "Nothing was opened." in str(caught.value)
    members.votes(ALL[:5], ask=ALL[:1])


def test_no_more_sites_may_be_missing_than_there_is_noise_for() -> None:
    """With 7 sites 5 could open a sum; where the study tolerates one dropout, 6 must be in it."""
    members = hidden(7, 1)[0]
    with pytest.raises(ProtocolError, match=r"5 survivor\(s\), at least 6"):
        members.votes(ALL[:5])
    members = hidden(7, 3)[0]  # a study that tolerates more than can be opened
    with pytest.raises(ProtocolError, match=r"4 survivor\(s\), at least 5"):
        members.votes(ALL[:4])


def test_a_site_signs_one_set_of_survivors() -> None:
    members = hidden()[0]
    votes = members.votes(ALL[:6])
    assert members.votes(ALL[:6]) == votes  # asked again, the same again
    assert members.votes(ALL[:6][::-1], ask=ALL[:6]) == votes  # whatever the order
    for other in (ALL[:5], ALL, (*ALL[:5], ALL[6])):
        with pytest.raises(ProtocolError, match="other survivors were signed"):
            members.votes(other, ask=ALL[:1])


def test_nothing_is_opened_without_signatures_of_more_than_two_thirds() -> None:
    members, label, found, masked = hidden()
    votes = members.votes(ALL[:6])
    four = dict(list(votes.items())[:4])
    foreign = {site: members.identities[ALL[0]].sign(b"x") for site in ALL}
    of_others = {
        site: members.identities[site].sign(survivor_bytes(members.maskers[site].meeting, 0, label.bytes(), ALL[:5]))
        for site in ALL
    }
    of_slot = {
        site: members.identities[site].sign(survivor_bytes(members.maskers[site].meeting, 1, label.bytes(), ALL[:6]))
        for site in ALL
    }
    of_label = {
        site: members.identities[site].sign(survivor_bytes(members.maskers[site].meeting, 0, b"other", ALL[:6]))
        for site in ALL
    }
    of_meeting = {
        site: members.identities[site].sign(survivor_bytes("0" * 64, 0, label.bytes(), ALL[:6])) for site in ALL
    }
    outsider = {
        **four,
        ALL[6]: members.identities[ALL[6]].sign(
            survivor_bytes(members.maskers[ALL[6]].meeting, 0, label.bytes(), ALL[:6])
        ),
    }
    copied = dict.fromkeys(ALL[:6], votes[ALL[1]])
    for lie in (
        {},
        four,
        foreign,
        of_others,
        of_slot,
        of_label,
        of_meeting,
        outsider,
        copied,
        {"stranger": votes[ALL[0]], **four},
    ):
        with pytest.raises(ProtocolError, match="5 signatures are needed") as caught:
            members.shares(ALL[:6], lie, ask=ALL[:1])
        assert "Nothing was opened." in str(caught.value)
    np.testing.assert_array_equal(members.open(masked, label, ALL[:6]), added(found, ALL[:6]))  # told rightly, it opens


def test_shares_are_given_for_the_set_that_was_signed_and_once() -> None:
    members = hidden()[0]
    with pytest.raises(ProtocolError, match="not the survivors this site signed"):
        members.shares(ALL[:6], {}, ask=ALL[:1])  # it signed nothing yet
    votes = members.votes(ALL[:6])
    for other in (ALL, ALL[:5], (*ALL[:5], ALL[6]), (*ALL[:6], ALL[0])):
        with pytest.raises(ProtocolError, match="not the survivors this site signed"):
            members.shares(other, votes, ask=ALL[:1])
    members.shares(ALL[:6], votes, ask=ALL[:1])
    for again in (members.shares, members.votes):
        with pytest.raises(ProtocolError, match="holds no sum that can be opened"):
            again(ALL[:6], votes, ask=ALL[:1]) if again == members.shares else again(ALL[:6], ask=ALL[:1])


def test_a_site_gives_one_kind_of_share_for_each_site() -> None:
    members = hidden()[0]
    kept = {site: dict(members.sides[site]._slots[0].held) for site in ALL}
    own = {site: members.sides[site]._slots[0].own for site in ALL}
    told = members.shares(ALL[:5], members.votes(ALL[:5]))
    for holder, shares in told.items():
        assert set(shares) == set(ALL)
        for site, share in shares.items():
            of_key, of_seed = own[site] if site == holder else kept[holder][site]
            assert bytes.fromhex(share) == (of_seed if site in ALL[:5] else of_key)
            assert bytes.fromhex(share) != (of_key if site in ALL[:5] else of_seed)
    assert all(0 not in members.sides[site]._slots for site in ALL[:5])


@pytest.mark.parametrize("liars", [0, 1, 2])
@pytest.mark.parametrize("split", range(6))
def test_two_sets_of_survivors_never_both_open(liars: int, split: int) -> None:
    """A site is called dead to some and alive to others. Liars, below a third, sign and give whatever is asked."""
    members, label, *_ = hidden()
    one, other = ALL[:6], (*ALL[:5], ALL[6])
    votes: dict[tuple[str, ...], dict[str, str]] = {one: {}, other: {}}
    for place, site in enumerate(ALL[liars:5]):
        told = one if place < split else other
        votes[told] |= members.votes(told, ask=(site,))
    votes[one] |= members.votes(one, ask=ALL[5:6])
    votes[other] |= members.votes(other, ask=ALL[6:])
    for site, told in itertools.product(ALL[:liars], votes):
        said = survivor_bytes(members.maskers[site].meeting, 0, label.bytes(), told)
        votes[told][site] = members.identities[site].sign(said)
    gave = dict.fromkeys(votes, liars)
    for told, signed in votes.items():
        for site in set(signed) - set(ALL[:liars]):
            with suppress(ProtocolError):
                members.shares(told, signed, ask=(site,))
                gave[told] += 1
    assert sum(count >= threshold_of(7) for count in gave.values()) <= 1


# -- the coordinator's opening -----------------------------------------------------------------------------------------


def test_too_few_shares_open_nothing() -> None:
    members, label, _, masked = hidden()
    told = members.shares(ALL[:6], members.votes(ALL[:6]))
    total = added(masked, ALL[:6])
    with pytest.raises(RunError, match="4 sites gave shares; 5 are needed"):
        unmask(total, label, ALL[:6], members.packages[0], dict(list(told.items())[:4]))
    silent = {
        holder: {site: share for site, share in shares.items() if site != ALL[0]} for holder, shares in told.items()
    }
    with pytest.raises(RunError, match=f"do not open the mask of site '{ALL[0]}'"):
        unmask(total, label, ALL[:6], members.packages[0], silent)


@pytest.mark.parametrize(("site", "said"), [(ALL[0], "mask of site"), (ALL[6], "mask key of site")])
@pytest.mark.parametrize("share", ["00" * 33, "ff" * 33, "other"])
def test_shares_that_do_not_fit_the_commitments_are_noticed(site: str, said: str, share: str) -> None:
    members, label, _, masked = hidden()
    told = members.shares(ALL[:6], members.votes(ALL[:6]))
    told[ALL[1]] = {**told[ALL[1]], site: told[ALL[2]][site] if share == "other" else share}
    with pytest.raises(RunError, match=f"the shares do not open the {said} '{site}'"):
        unmask(added(masked, ALL[:6]), label, ALL[:6], members.packages[0], told)


def test_the_coordinator_may_hear_from_the_sites_in_any_order() -> None:
    """A share belongs to its holder's place, and that to its name."""
    members, label, found, masked = hidden()
    told = members.shares(ALL[:6], members.votes(ALL[:6]))
    packages = dict(reversed(members.packages[0].items()))
    total = added(masked, ALL[:6])
    unmask(total, label, ALL[:6], packages, dict(reversed(told.items())), members.colluders)
    np.testing.assert_array_equal(total, added(found, ALL[:6]))


def test_the_shares_of_one_sum_open_no_other() -> None:
    """Opened with the shares of another set, label or slot, a sum stays chance or is refused."""
    members = Members(7, 2)
    members.prepare(count=2)
    zeros = {site: np.zeros(LONG, np.uint32) for site in ALL}
    first_hidden = members.hide(zeros, members.label(1), 0)
    second_hidden = members.hide(zeros, members.label(2), 1)
    told = members.shares(ALL[:6], members.votes(ALL[:6]))
    total = added(second_hidden, ALL[:6])
    with pytest.raises(RunError, match="do not open"):
        unmask(total, members.label(2), ALL[:6], members.packages[1], told)
    total = added(second_hidden, ALL[:6])
    unmask(total, members.label(2), ALL[:6], members.packages[0], told)
    uniform(total)
    total = added(first_hidden, ALL)  # the one that was called dead had sent its vector all the same
    unmask(total, members.label(1), ALL[:6], members.packages[0], told)
    uniform(total)
    total = added(first_hidden, ALL[:5])
    unmask(total, members.label(1), ALL[:6], members.packages[0], told)
    uniform(total)


def test_sites_that_were_told_different_models_open_nothing_together() -> None:
    """They sign different labels, so neither part has the signatures; and with them the sum would be chance."""
    members = Members(7, 2)
    members.prepare()
    one, other = (
        members.label(sent={"parameters": np.zeros(3, np.float32)}),
        members.label(sent={"parameters": np.ones(3, np.float32)}),
    )
    zeros = {site: np.zeros(LONG, np.uint32) for site in ALL}
    for site in ALL:
        members.sides[site].hide(zeros[site], one if site in ALL[:4] else other, members.delivery(site))
    votes = members.votes(ALL)
    for site in ALL:
        with pytest.raises(ProtocolError, match="5 signatures are needed"):
            members.shares(ALL, votes, ask=(site,))
    uniform(added(zeros, ALL))


def test_shares_read_back_as_they_were() -> None:
    members = hidden()[0]
    told = members.shares(ALL, members.votes(ALL))
    for shares in told.values():
        assert Shares.validate_json(Shares.dump_json(shares), strict=True) == shares
    assert Survivors(slot=0, sites=ALL).votes == {}

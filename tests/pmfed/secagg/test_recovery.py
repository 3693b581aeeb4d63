"""The sturdy way: sums survive dropouts exactly, and a lying coordinator opens one set of survivors or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chance import uniform
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from members import Members, added, names, parcel, vectors

from pmfed.errors import KeysError, ProtocolError
from pmfed.secagg import shamir
from pmfed.secagg.masks import Label, add_keystream, add_pairwise, derive
from pmfed.secagg.opening import unmask
from pmfed.secagg.protocol import (
    AHEAD,
    Delivery,
    Package,
    Prepare,
    package_bytes,
    places_of,
    threshold_of,
)
from pmfed.secagg.recovery import slot_key

LONG = 4096
Told = dict[str, dict[str, str]]


def opened(members: Members, told: Told, site: str) -> bytes:
    """Return the secret that the shares told of a site give, as a coordinator would try."""
    places = places_of(members.names)
    return shamir.join({places[holder]: bytes.fromhex(shares[site]) for holder, shares in told.items()})


def bare(
    members: Members, words: Any, victim: str, label: Label, told: Told, known: dict[str, X25519PrivateKey]
) -> Any:
    """Take off a site's vector what a coordinator can: its own mask, and those with every key it knows."""
    add_keystream(words, derive(opened(members, told, victim), b"self", label.bytes()), subtract=True)
    public = members.packages[0][victim].public
    keys = {other: derive(slot_key(key, other, victim, public), b"mask", label.bytes()) for other, key in known.items()}
    add_pairwise(words, victim, keys, subtract=True)
    return words


# -- the sum is right --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(), count=st.integers(4, 9), word=st.sampled_from([np.uint32, np.uint64]), size=st.integers(0, 9)
)  # fmt: skip
def test_the_sum_of_the_survivors_is_exact(data: Any, count: int, word: Any, size: int) -> None:
    most = count - threshold_of(count)
    members = Members(count, dropouts=most)
    members.prepare(count=2)
    for slot in (0, 1):
        label = members.label(slot + 1, data.draw(st.integers(0, 9)))
        found = vectors(members.names, size, word, data.draw(st.integers(0, 99)))
        gone = set(data.draw(st.permutations(members.names))[: data.draw(st.integers(0, most))])
        survivors = tuple(site for site in members.names if site not in gone)
        # Some vanish only after their vector has come, or after they signed.
        voters = data.draw(st.permutations(survivors))[: data.draw(st.integers(threshold_of(count), len(survivors)))]
        hidden = members.hide(found, label, slot)
        exact = [
            sum(int(found[site][place]) for site in survivors) % (int(np.iinfo(word).max) + 1) for place in range(size)
        ]
        assert members.open(hidden, label, survivors, slot, voters).tolist() == exact


def test_with_many_sites_too_the_sum_of_the_survivors_is_exact() -> None:
    """More than 13: each site has masks with its neighbours of the release only, and the dead are neighbours of some."""
    members = Members(17, dropouts=5)
    members.prepare(count=3)
    for slot, dead in enumerate((names(17)[:5], names(17)[6:7], ())):
        label, found = members.label(slot), vectors(names(17), seed=slot)
        survivors = tuple(site for site in names(17) if site not in dead)
        total = members.open(members.hide(found, label, slot), label, survivors, slot)
        np.testing.assert_array_equal(total, added(found, survivors))


@pytest.mark.parametrize(("sites", "most"), [(4, 1), (10, 3), (50, 16), (3, 0), (2, 0), (7, 2)])
def test_just_under_a_third_may_drop_out(sites: int, most: int) -> None:
    assert sites - threshold_of(sites) == most
    # Two openings would need shares of two kinds from more honest holders than there are.
    for liars in range(sites):
        if 3 * liars < sites:
            assert 2 * threshold_of(sites) > sites + liars


def test_a_masked_vector_is_chance_also_when_the_keys_of_the_dead_are_known() -> None:
    members = Members(4, dropouts=1)
    members.prepare()
    label, (victim, *_, dead) = members.label(), names(4)
    hidden = members.hide({site: np.zeros(LONG, np.uint32) for site in names(4)}, label)
    survivors = names(4)[:3]
    told = members.shares(survivors, members.votes(survivors))
    for words in hidden.values():
        uniform(words)
    uniform(hidden[victim] - hidden[names(4)[1]])
    key = X25519PrivateKey.from_private_bytes(opened(members, told, dead))
    uniform(bare(members, hidden[victim].copy(), victim, label, told, {dead: key}))
    # The dead one's vector keeps its own mask.
    left = {
        site: derive(slot_key(key, dead, site, members.packages[0][site].public), b"mask", label.bytes())
        for site in survivors
    }
    add_pairwise(hidden[dead], dead, left, subtract=True)
    uniform(hidden[dead])
    total = added(hidden, survivors)
    unmask(total, label, survivors, members.packages[0], told)
    assert not total.any()


# -- attacks that once worked ------------------------------------------------------------------------------------------


def test_a_mask_key_opened_in_an_earlier_introduction_opens_nothing_now() -> None:
    """Whoever dropped out once had its mask key of slot 0 opened. Introduced anew, slots are counted from 0 again."""
    members = Members(4, dropouts=1)
    victim, *others = names(4)
    known: dict[str, tuple[X25519PrivateKey, Package]] = {}
    for round, dead in enumerate(others):
        members.meet()
        members.prepare()
        label, survivors = members.label(round), tuple(site for site in names(4) if site != dead)
        members.hide(vectors(names(4)), label)
        told = members.shares(survivors, members.votes(survivors))
        key = X25519PrivateKey.from_private_bytes(opened(members, told, dead))
        assert key.public_key().public_bytes_raw().hex() == members.packages[0][dead].public
        known[dead] = key, members.packages[0][dead]
    members.meet()
    members.prepare()
    honest = members.delivery(victim)
    old = {
        other: honest.parcels[other].model_copy(update=package.model_dump(include={"public", "commit", "signature"}))
        for other, (_, package) in known.items()
    }
    words = np.zeros(8, np.uint32)
    with pytest.raises(ProtocolError, match="did not sign its parcel"):
        members.sides[victim].hide(words, members.label(9), Delivery(slot=0, parcels=old))
    assert not words.any()


def test_liars_that_copy_mask_keys_do_not_cancel_those_of_honest_sites() -> None:
    """3 of 10 sites lie and 3 are called dead: with equal pair keys the masks of 6 honest ones were gone."""
    members = Members(10, dropouts=3)
    liars, victim, copied = names(10)[:3], names(10)[5], names(10)[6:9]
    dead = (*names(10)[3:5], names(10)[9])
    members.prepare()
    for liar, other in zip(liars, copied, strict=True):
        old, public = members.packages[0][liar], members.packages[0][other].public
        said = package_bytes(members.maskers[liar].meeting, liar, names(10), threshold_of(10), 0, public, old.commit)
        changes = {"public": public, "signature": members.identities[liar].sign(said)}
        members.packages[0][liar] = old.model_copy(update=changes)
    label, survivors = members.label(), tuple(site for site in names(10) if site not in dead)
    hidden = members.hide({site: np.zeros(LONG, np.uint32) for site in names(10)}, label)
    told = members.shares(survivors, members.votes(survivors))
    known = {site: X25519PrivateKey.from_private_bytes(opened(members, told, site)) for site in dead}
    uniform(bare(members, hidden[victim], victim, label, told, known))


def test_a_site_told_of_few_others_is_not_opened_by_the_votes_of_the_many() -> None:
    """The victim hears of a sum with two sites that the rest then call dead: their keys would open it."""
    members = Members(10, dropouts=2)
    victim, *dead = names(10)[:3]
    members.prepare()
    few = members.label(sites=(victim, *dead))
    words = np.zeros(8, np.uint32)
    with pytest.raises(ProtocolError, match="not those that hold shares"):
        members.sides[victim].hide(words, few, members.delivery(victim, sites=few.sites))
    assert not words.any()


# -- what a site refuses when it is asked for a sum --------------------------------------------------------------------

FIRST, SECOND, THIRD, FOURTH = names(4)


def first(members: Members) -> Delivery:
    return members.delivery(FIRST)


def without(delivery: Delivery, site: str, **more: Any) -> Delivery:
    return Delivery(slot=delivery.slot, parcels={**{s: p for s, p in delivery.parcels.items() if s != site}, **more})


def changed(delivery: Delivery, site: str, **changes: Any) -> Delivery:
    return without(delivery, site, **{site: delivery.parcels[site].model_copy(update=changes)})


def signed(members: Members, site: str, **changes: Any) -> Package:
    """Return a package that its site really signed, saying something else."""
    package = members.packages[0][site]
    told = {
        "meeting": members.maskers[site].meeting, "site": site, "holders": names(4), "threshold": threshold_of(4),
        "slot": 0, "public": package.public, "commit": package.commit, **changes,
    }  # fmt: skip
    found = {"public": told["public"], "commit": told["commit"]}
    return package.model_copy(update={**found, "signature": members.identities[site].sign(package_bytes(**told))})


def flipped(text: str, place: int) -> str:
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


FOREIGN = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
Lie = Callable[[Members], Delivery]

DELIVERIES: dict[str, tuple[Lie, str]] = {
    "a mask key of the coordinator's": (
        lambda m: changed(first(m), SECOND, public=FOREIGN),
        f"'{SECOND}' did not sign its parcel",
    ),
    "another commitment": (lambda m: changed(first(m), SECOND, commit="0" * 64), f"'{SECOND}' did not sign"),
    "another's signature": (
        lambda m: changed(first(m), SECOND, signature=m.packages[0][THIRD].signature),
        f"'{SECOND}' did not sign",
    ),
    "parcels of two sites swapped": (
        lambda m: Delivery(
            slot=0, parcels={**first(m).parcels, SECOND: first(m).parcels[THIRD], THIRD: first(m).parcels[SECOND]}
        ),
        "did not sign its parcel",
    ),
    "a lower threshold": (
        lambda m: without(first(m), SECOND, **{SECOND: parcel(signed(m, SECOND, threshold=2), FIRST)}),
        f"'{SECOND}' did not sign",
    ),
    "other holders": (
        lambda m: without(first(m), SECOND, **{SECOND: parcel(signed(m, SECOND, holders=names(3)), FIRST)}),
        f"'{SECOND}' did not sign",
    ),
    "of another introduction": (
        lambda m: without(first(m), SECOND, **{SECOND: parcel(signed(m, SECOND, meeting="0" * 64), FIRST)}),
        f"'{SECOND}' did not sign",
    ),
    "of another slot": (
        lambda m: without(first(m), SECOND, **{SECOND: parcel(m.packages[1][SECOND], FIRST)}),
        f"'{SECOND}' did not sign",
    ),
    "a box of another slot": (
        lambda m: changed(first(m), SECOND, box=m.packages[1][SECOND].boxes[FIRST]),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a box for another site": (
        lambda m: changed(first(m), SECOND, box=m.packages[0][SECOND].boxes[THIRD]),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a box of another site": (
        lambda m: changed(first(m), SECOND, box=m.packages[0][THIRD].boxes[FIRST]),
        f"parcel of site '{SECOND}' was changed",
    ),
    "the box this site sent": (
        lambda m: changed(first(m), SECOND, box=m.packages[0][FIRST].boxes[SECOND]),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a nonce changed": (
        lambda m: changed(first(m), SECOND, box=flipped(m.packages[0][SECOND].boxes[FIRST], 3)),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a tag changed": (
        lambda m: changed(first(m), SECOND, box=flipped(m.packages[0][SECOND].boxes[FIRST], 187)),
        f"parcel of site '{SECOND}' was changed",
    ),
    "a parcel missing": (lambda m: without(first(m), FOURTH), "not those of the sites that take part"),
    "a parcel too many": (
        lambda m: without(first(m), FOURTH, **{FOURTH: first(m).parcels[FOURTH], "stranger": first(m).parcels[FOURTH]}),
        "not those of the sites that take part",
    ),
    "its own parcel": (
        lambda m: without(first(m), FOURTH, **{FIRST: first(m).parcels[FOURTH]}),
        "not those of the sites that take part",
    ),
    "a mask key that shares nothing": (
        lambda m: without(first(m), SECOND, **{SECOND: parcel(signed(m, SECOND, public="00" * 32), FIRST)}),
        f"'{SECOND}' sent a mask key that shares nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "said"), DELIVERIES.values(), ids=DELIVERIES)
def test_shares_that_the_others_did_not_prepare_for_this_slot_are_refused(lie: Lie, said: str) -> None:
    members = Members(4, dropouts=1)
    members.prepare(count=2)
    words = np.full(8, 7, np.uint32)
    with pytest.raises(ProtocolError) as caught:
        members.sides[FIRST].hide(words, members.label(), lie(members))
    assert said in str(caught.value)
    assert "Nothing was released." in str(caught.value)
    assert (words == 7).all()
    with pytest.raises(ProtocolError, match="holds no sum"):  # and nothing to vote on, nothing to open
        members.votes(names(4), ask=names(1))
    members.sides[FIRST].hide(words, members.label(), members.delivery(FIRST))  # told rightly, it goes on


def test_sealed_shares_hold_what_the_other_shared() -> None:
    members = Members(4, dropouts=1)
    members.prepare()
    members.hide(vectors(names(4)), members.label())
    places = places_of(names(4))
    for owner in names(4):
        mine = members.sides[owner]._slots[0]
        held = {site: members.sides[site]._slots[0].held[owner] for site in names(4) if site != owner}
        for which, secret in ((0, mine.secret.private_bytes_raw()), (1, mine.seed)):
            shares = {places[site]: pair[which] for site, pair in held.items()}
            assert shamir.join(shares) == secret
            assert shamir.join({**shares, places[owner]: mine.own[which]}) == secret


def test_a_slot_is_used_once_and_prepared_once() -> None:
    members = Members(4, dropouts=1)
    members.prepare(count=2)
    words = np.zeros(3, np.uint32)
    side = members.sides[FIRST]
    side.hide(words, members.label(1), members.delivery(FIRST))
    with pytest.raises(KeysError, match="slot 0 is not prepared"):
        side.hide(words, members.label(2), members.delivery(FIRST))
    with pytest.raises(ProtocolError, match="masked before"):  # the same release in another slot
        side.hide(words, members.label(1), members.delivery(FIRST, 1))
    with pytest.raises(ProtocolError, match="holds no sum"):  # that one holds none yet, and is left for another release
        members.votes(names(4), 1, ask=names(1))
    side.hide(words, members.label(2), members.delivery(FIRST, 1))
    with pytest.raises(KeysError, match="slot 7 is not prepared"):
        side.hide(words, members.label(2), members.delivery(FIRST).model_copy(update={"slot": 7}))
    for first_slot in (0, 1):
        with pytest.raises(ProtocolError, match=f"slot {first_slot} was prepared before"):
            side.prepare(Prepare(first=first_slot, count=1), names(4))


def test_slots_that_were_not_used_are_dropped_with_the_next_and_those_that_were_stay_openable() -> None:
    members = Members(4, dropouts=1)
    members.prepare(count=3)
    label, found = members.label(), vectors(names(4))
    hidden = members.hide(found, label, 1)
    members.prepare(first=3)
    for slot in (0, 2):
        with pytest.raises(KeysError):
            members.sides[FIRST].hide(np.zeros(3, np.uint32), members.label(2), members.delivery(FIRST, slot))
    np.testing.assert_array_equal(members.open(hidden, label, names(4), 1), added(found, names(4)))


def test_a_box_has_one_direction() -> None:
    members = Members(4, dropouts=1)
    sealed = members.sides[FIRST]._box(FIRST, SECOND).encrypt(bytes(12), b"shares", b"")
    assert members.sides[SECOND]._box(FIRST, SECOND).decrypt(bytes(12), sealed, b"") == b"shares"
    for side, way in ((FIRST, (SECOND, FIRST)), (SECOND, (SECOND, FIRST)), (FIRST, (FIRST, THIRD))):
        with pytest.raises(InvalidTag):
            members.sides[side]._box(*way).decrypt(bytes(12), sealed, b"")


def test_packages_of_a_slot_are_fresh_and_of_one_size_whatever_they_hold() -> None:
    members = Members(4, dropouts=1)
    members.prepare(count=AHEAD)
    packages = [package for slot in members.packages.values() for package in slot.values()]
    assert len({package.public for package in packages} | {package.commit for package in packages}) == 2 * len(packages)
    boxes = [box for package in packages for box in package.boxes.values()]
    assert len({box[:24] for box in boxes}) == len(boxes)  # nonces
    assert {len(box) for box in boxes} == {188}

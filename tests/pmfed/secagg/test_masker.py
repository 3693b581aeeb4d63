"""The plain way: the sum is exact, one vector alone is chance, and every lie ends in noise or a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chance import spoken, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from members import RUN, STUDY, Members, added, names, vectors

from pmfed.errors import KeysError, ProtocolError
from pmfed.secagg.masker import Masker
from pmfed.secagg.masks import Label

LONG = 4096
CROWD = Members(8)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    count=st.integers(2, 8),
    word=st.sampled_from([np.uint32, np.uint64]),
    size=st.integers(0, 20),
    round=st.integers(0, 2**31 - 1),
)
def test_the_unmasked_sum_is_the_integer_sum_exactly(data: Any, count: int, word: Any, size: int, round: int) -> None:
    sites = tuple(sorted(data.draw(st.permutations(CROWD.names))[:count]))
    label = CROWD.label(round, data.draw(st.integers(0, 2**15)), sites)
    for site in sites:
        CROWD.maskers[site]._used.clear()  # one introduction for all examples
    most = np.iinfo(word).max
    found = {
        site: np.array(data.draw(st.lists(st.integers(0, most), min_size=size, max_size=size)), word) for site in sites
    }
    exact = [sum(int(found[site][place]) for site in sites) % (most + 1) for place in range(size)]
    hidden = CROWD.hide(found, label)
    assert added(hidden, sites).tolist() == exact


@pytest.mark.parametrize("word", [np.uint32, np.uint64])
def test_a_masked_vector_alone_is_chance_and_so_is_the_difference_of_two(word: type[np.generic]) -> None:
    """Of a vector of zeros, twice: what differs between the two is masks alone."""
    members = Members(3)
    zeros = {site: np.zeros(LONG, word) for site in names(3)}
    spoken(next(iter(zeros.values())))
    first = members.hide(zeros, members.label(1))
    second = members.hide(zeros, members.label(2))
    one, other, third = (first[site] for site in names(3))
    for words in (one, other, third, one - other, one + other, other - third):
        uniform(words)
    for site in names(3):
        uniform(first[site] - second[site])
        uniform(first[site] ^ second[site])
    assert not added(first, names(3)).any()


def test_without_one_site_the_sum_of_the_others_is_chance() -> None:
    members = Members(4)
    hidden = members.hide({site: np.zeros(LONG, np.uint32) for site in names(4)}, members.label())
    for count in (1, 2, 3):
        uniform(added(hidden, names(4)[:count]))


@pytest.mark.parametrize("lie", ["models", "names", "rosters", "rounds", "attempts", "queries"])
def test_sites_that_were_told_different_things_add_up_to_chance(lie: str) -> None:
    members = Members(4)
    zeros = {site: np.zeros(LONG, np.uint32) for site in names(4)}
    model = {"parameters": np.zeros(3, np.float32)}
    honest = Label.of("step", 1, 0, names(4), model)
    false = {
        "models": Label.of("step", 1, 0, names(4), {"parameters": np.array([0, 0, 1e-30], np.float32)}),
        "names": Label.of("step", 1, 0, names(4), {"scales": model["parameters"]}),
        "rosters": Label.of("step", 1, 0, names(4)[:3], model),
        "rounds": Label.of("step", 2, 0, names(4), model),
        "attempts": Label.of("step", 1, 1, names(4), model),
        "queries": Label.of("evaluation", 1, 0, names(4), model),
    }[lie]
    for site in names(4):
        members.maskers[site].hide(zeros[site], false if site == names(4)[0] else honest)
    uniform(added(zeros, names(4)))


def test_a_release_is_masked_once() -> None:
    members = Members(3)
    first = names(3)[0]
    label = members.label(1, 0)
    words = np.zeros(8, np.uint32)
    members.maskers[first].hide(words, label)
    for again in (label, members.label(1, 0, names(3)[::-1])):
        left = np.full(8, 7, np.uint32)
        with pytest.raises(ProtocolError, match="masked before") as caught:
            members.maskers[first].hide(left, again)
        assert "Nothing was released." in str(caught.value)
        assert (left == 7).all()
    members.maskers[first].hide(words, members.label(1, 1))


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a stranger": ((*names(3), "stranger"), 2, "no site 'stranger'"),
    "without this site": (names(4)[1:], 2, "missing among those"),
    "somebody twice": ((*names(3), names(3)[1]), 2, "one is there twice"),
    "this site twice": ((names(1)[0], names(1)[0]), 2, "one is there twice"),
    "this site alone": (names(1), 0, "at least 2 are needed"),
    "nobody": ((), 0, "missing among those"),
    "too few": (names(2), 3, "2 site(s) in a sum; at least 3 are needed"),
}


@pytest.mark.parametrize(("sites", "least", "said"), REFUSED.values(), ids=REFUSED)
def test_a_sum_that_would_not_hide_this_site_is_refused(sites: tuple[str, ...], least: int, said: str) -> None:
    masker = Members(4).maskers[names(1)[0]]
    masker.check(names(3), 3)
    with pytest.raises(ProtocolError) as caught:
        masker.check(sites, least)
    assert said in str(caught.value)
    assert "Nothing was released." in str(caught.value)
    assert caught.value.code == "PM500"


def test_a_site_that_met_nobody_says_so() -> None:
    members = Members(3)
    first = names(3)[0]
    masker = Masker(members.identities[first], members.roster, RUN, STUDY, first)
    with pytest.raises(KeysError) as caught:
        masker.check(names(3), 2)
    assert caught.value.code == "PM505"


def test_other_keys_than_those_of_the_others_give_chance() -> None:
    """A site that was introduced anew while the rest was not: no sum, and no vector of it."""
    members = Members(3)
    first, *others = names(3)
    before = members.maskers
    members.meet()
    zeros = {site: np.zeros(LONG, np.uint32) for site in names(3)}
    for site in names(3):
        (before if site == first else members.maskers)[site].hide(zeros[site], members.label())
    uniform(added(zeros, names(3)))
    uniform(added(zeros, others))


def test_with_many_sites_the_sum_is_exact_and_a_part_of_it_chance() -> None:
    """More than 13: each site has masks with its neighbours of the release only."""
    members = Members(20)
    hidden = members.hide({site: np.zeros(LONG, np.uint32) for site in names(20)}, members.label())
    assert not added(hidden, names(20)).any()
    for count in (1, 2, 10, 19):
        uniform(added(hidden, names(20)[:count]))
    some = names(20)[3:18]
    found = vectors(some)
    np.testing.assert_array_equal(added(members.hide(found, members.label(2, sites=some)), some), added(found, some))


def test_vectors_of_any_seed_stay_exact_over_many_rounds() -> None:
    members = Members(5)
    for round in range(20):
        found = vectors(names(5), 3, np.uint64, round)
        hidden = members.hide(found, members.label(round))
        np.testing.assert_array_equal(added(hidden, names(5)), added(found, names(5)))
        assert not any(np.array_equal(hidden[site], found[site]) for site in names(5))

"""Cards and rosters from the command line: what a hospital and a coordinator do before the first run."""

from __future__ import annotations

import json
from pathlib import Path

import federation
import pytest
from pmfed_client.site.site import read_sites
from pmfed_client.site.trust import card_of, pin, same_fingerprint
from pmfed_server.gather import gather_cards

from pmfed import cli
from pmfed.errors import PmfedError, PolicyError, UsageError
from pmfed.secagg.roster import Roster, grouped


@pytest.fixture
def cards(tmp_path: Path) -> list[Path]:
    sites = read_sites(federation.write_federation(tmp_path / "f") / "sites")
    for site in sites:
        (tmp_path / f"{site.name}.json").write_text(card_of(site))
    return [tmp_path / f"{site.name}.json" for site in sites]


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["pmfed", *map(str, words)])
    cli.app(args=[str(word) for word in words], standalone_mode=False)


def test_cards_become_a_roster_that_every_site_pins(
    cards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roster = tmp_path / "roster.json"
    run(monkeypatch, "coordinator", "roster", *cards, "--out", roster)
    fingerprint = Roster.read(roster).fingerprint()
    assert grouped(fingerprint) in capsys.readouterr().out
    for name in federation.SITES:
        folder = tmp_path / "f" / "sites" / name
        run(monkeypatch, "site", "trust", roster, folder, "--fingerprint", grouped(fingerprint).upper())
        assert Roster.read(folder / "roster.json") == Roster.read(roster)
        assert (folder / "roster.json").stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="exists"):
        run(monkeypatch, "coordinator", "roster", *cards, "--out", roster)


def test_without_the_right_fingerprint_nothing_is_pinned(
    cards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roster.json").write_text(gather_cards(cards).canonical())
    site = tmp_path / "f" / "sites" / "north"
    with pytest.raises(PolicyError, match="not confirmed"):
        run(monkeypatch, "site", "trust", tmp_path / "roster.json", site, "--fingerprint", "0" * 64)
    assert not (site / "roster.json").exists()


def test_a_roster_with_another_key_of_this_site_is_refused_and_a_changed_key_is_shown(
    cards: list[Path], tmp_path: Path
) -> None:
    north, south, _ = read_sites(tmp_path / "f" / "sites")
    roster = gather_cards(cards)
    path = tmp_path / "roster.json"
    other = {**roster.keys, "north": "ab" * 32}
    path.write_text(Roster.of(other).canonical())
    with pytest.raises(PolicyError, match="with the key it has here"):
        pin(north, path, lambda new, before: True)
    shown = []
    path.write_text(roster.canonical())
    pin(south, path, lambda new, before: shown.append(before) or True)
    path.write_text(Roster.of(other).canonical())
    pin(south, path, lambda new, before: shown.append(before) or True)
    assert shown == [None, roster]
    with pytest.raises(PolicyError):
        pin(south, path, lambda new, before: False)


BAD = {
    "one card": (lambda cards: cards[:1], "at least two"),
    "a card twice": (lambda cards: [*cards, cards[0]], "another card of 'north'"),
    "no card": (lambda cards: [*cards, cards[0].parent / "f" / "study.toml"], "not a site's card"),
    "no file": (lambda cards: [*cards, cards[0].parent / "east.json"], "cannot be read"),
}


@pytest.mark.parametrize(("chosen", "said"), BAD.values(), ids=BAD)
def test_what_makes_no_roster(cards: list[Path], chosen: object, said: str) -> None:
    with pytest.raises(PmfedError, match=said):
        gather_cards(chosen(cards))  # type: ignore[operator]


def test_two_names_with_one_key_make_no_roster(cards: list[Path]) -> None:
    card = json.loads(cards[0].read_text())
    cards[1].write_text(json.dumps({**card, "site": "east"}))
    with pytest.raises(UsageError, match="listed twice"):
        gather_cards(cards)


def test_fingerprints_are_compared_however_they_are_grouped() -> None:
    assert same_fingerprint("ABCD 0123\n", "abcd0123")
    assert not same_fingerprint("abcd 0124", "abcd0123")
    assert not same_fingerprint("", "abcd0123")

"""Keys that are replaced and sites that are revoked: what follows by signatures is taken over, and nothing else."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.create import make_home
from pmfed_client.site.rotate import rotate
from pmfed_client.site.site import Site
from pmfed_client.site.trust import card_of, follow, pin
from pmfed_server import bundle as bundles
from pmfed_server import serving
from pmfed_server.coordinator import Coordinator, add_card, make_coordinator
from pmfed_server.rotation import ASIDE, revoke, rotate_authority, rotate_key, write_changes

from pmfed import cli
from pmfed.errors import PmfedError, PolicyError, RunError, UsageError
from pmfed.processes import LOCK
from pmfed.secagg.keys import Identity, read_key
from pmfed.secagg.replaced_keys import Changes, Removal, Succession, followed
from pmfed.secagg.roster import Roster

NAMES = ("north", "south", "west", "east")


@dataclass
class There:
    """A coordinator and four sites that trust each other, none of them running."""

    folder: Path
    hub: Coordinator
    sites: dict[str, Site] = field(default_factory=dict)

    def home(self, name: str, folder: str = "") -> Site:
        site = make_home(self.folder / (folder or name), name)
        with (site.folder / "site.toml").open("a") as file:
            file.write('[coordinator]\naddress = "localhost:9092"\n')
        for file_ in ("ca.crt", "coordinator.pub"):
            shutil.copy(self.hub.folder / file_, site.folder)
        return Site.read(site.folder)

    def card(self, site: Site) -> Path:
        path = self.folder / f"{site.folder.name}.card"
        path.write_text(card_of(site))
        return path

    def changes(self) -> Changes:
        path = write_changes(self.hub)
        assert path is not None
        assert Changes.there(path)
        return Changes.read(path)

    def follow(self, *names: str) -> None:
        for name in names:
            follow(self.sites[name], self.changes())

    def agree(self, *names: str) -> bool:
        """Whether sites pinned one and the same roster, the coordinator's."""
        return {Roster.read(self.sites[name].roster).fingerprint() for name in names} == {
            Roster.read(self.hub.roster).fingerprint()
        }


@pytest.fixture
def there(tmp_path: Path) -> There:
    made = There(tmp_path, make_coordinator(tmp_path / "hub", ["localhost"], 9092, 18000))
    for name in NAMES:
        made.sites[name] = made.home(name)
        add_card(made.hub, made.card(made.sites[name]))
    for site in made.sites.values():
        pin(site, made.hub.roster, lambda *_: True)
    return made


def test_a_site_with_new_keys_is_known_to_all_without_a_telephone(there: There) -> None:
    north = there.sites["north"]
    before = json.loads(card_of(north))
    made = rotate(north)
    after = json.loads(card_of(north))
    assert made.holds()
    assert before["key"] == made.old
    assert (after["key"], after["node"]) == (made.new, made.node)
    assert after["node"] != before["node"]
    assert Identity.at(north.identity).public == made.new
    assert not (north.folder / "next").exists()
    add_card(there.hub, there.card(north))
    there.follow(*NAMES)
    assert there.agree(*NAMES)
    assert Roster.read(there.hub.roster).keys["north"] == made.new
    rotate(north)  # and again: those who missed one take both
    add_card(there.hub, there.card(north))
    rotate(north)
    add_card(there.hub, there.card(north))
    there.follow(*NAMES)
    assert there.agree(*NAMES)
    there.follow(*NAMES)  # once more changes nothing
    assert there.agree(*NAMES)
    told = [line for line in AuditLog(north.audit_log).lines() if line["what"] == "rotate"]
    assert len(told) == 3
    assert all(line["account"] for line in told)
    private = [path for path in (north.folder, *north.folder.rglob("*")) if path.stat().st_mode & 0o077]
    assert {path.name for path in private} <= {"ca.crt", "coordinator.pub", "audit.jsonl"}


def test_a_rotation_that_was_interrupted_goes_on(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    north = there.sites["north"]
    for crash in range(1, 6):  # roster, chain, three keys
        calls = 0
        kept = Path.replace

        def dies(path: Path, target: Any, crash: int = crash, kept: Callable[..., Any] = kept) -> Any:
            nonlocal calls
            calls += 1
            if calls == crash:
                raise OSError("the machine stopped")
            return kept(path, target)

        monkeypatch.setattr(Path, "replace", dies)
        with pytest.raises(OSError, match="stopped"):
            rotate(north)
        monkeypatch.setattr(Path, "replace", kept)
        Identity.at.cache_clear()
        rotate(north)
        assert not (north.folder / "next").exists()
        add_card(there.hub, there.card(north))
        there.follow(*NAMES)
        assert there.agree(*NAMES)


def test_a_site_that_runs_keeps_its_keys(there: There) -> None:
    import fcntl

    north = there.sites["north"]
    with (north.folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="the site runs"):
            rotate(north)


def test_new_keys_that_the_old_did_not_sign_are_refused_everywhere(there: There) -> None:
    """By the coordinator, and, where it is the liar, by the sites."""
    north, evil = there.sites["north"], there.home("north", "evil")
    with pytest.raises(UsageError, match="known with other keys"):
        add_card(there.hub, there.card(evil))
    made = Succession.make(
        Identity.at(north.identity), Identity.at(evil.identity), "north", json.loads(card_of(evil))["node"]
    )
    forged = {
        "no signature": made.model_copy(update={"by_old": "0" * 128}),
        "its own signature": made.model_copy(update={"by_old": made.by_new}),
        "without holding the new key": made.model_copy(update={"by_new": made.by_old}),
        "of another site": Succession.make(
            Identity.at(there.sites["south"].identity), Identity.at(evil.identity), "north"
        ),
        "of the coordinator": Succession.make(Identity.at(north.identity), Identity.at(evil.identity)),
    }
    keys = {**Roster.read(there.hub.roster).keys, "north": made.new}
    for how, one in forged.items():
        card = {**json.loads(card_of(evil)), "successions": [one.model_dump(mode="json")]}
        path = there.folder / "forged.card"
        path.write_text(json.dumps(card))
        with pytest.raises(UsageError, match="known with other keys"):
            add_card(there.hub, path)
        lie = there.changes().model_copy(update={"roster": Roster.of(keys), "successions": (one,)})
        with pytest.raises(PolicyError, match="'north' has a key that its old one did not sign"):
            follow(there.sites["south"], lie)
        assert there.agree(*NAMES), how
    honest = there.changes().model_copy(update={"roster": Roster.of(keys), "successions": (made,)})
    follow(there.sites["south"], honest)  # the test can tell: signed by the old key, it is taken


def test_the_node_named_by_a_succession_is_the_one_that_is_let_in(there: There) -> None:
    rotate(there.sites["north"])
    card = json.loads(card_of(there.sites["north"]))
    other = json.loads(card_of(there.home("other")))["node"]
    path = there.folder / "swapped.card"
    path.write_text(json.dumps({**card, "node": other}))
    with pytest.raises(UsageError, match="known with other keys"):
        add_card(there.hub, path)


def test_a_key_that_named_two_successors_is_followed_by_neither(there: There) -> None:
    """Somebody stole it: then people must talk."""
    old, one, two = (Identity.at(there.folder / f"{number}.pem") for number in range(3))
    chain = [Succession.make(old, one, "north"), Succession.make(old, two, "north")]
    assert followed(old.public, chain, "north") == [old.public]
    assert followed(old.public, chain[:1], "north") == [old.public, one.public]
    circle = [chain[0], Succession.make(one, old, "north")]
    assert followed(old.public, circle, "north") == [old.public, one.public]


def test_no_coordinator_adds_a_site_or_leads_back(there: There) -> None:
    first = there.changes()
    evil = there.home("evil")
    keys = Roster.read(there.hub.roster).keys
    for roster in (
        Roster.of({**keys, "evil": Identity.at(evil.identity).public}),
        Roster.of(
            {**{name: key for name, key in keys.items() if name != "west"}, "evil": Identity.at(evil.identity).public}
        ),
    ):
        with pytest.raises(PolicyError, match="'evil' is new"):
            follow(there.sites["north"], first.model_copy(update={"roster": roster}))
    rotate(there.sites["west"])
    add_card(there.hub, there.card(there.sites["west"]))
    there.follow(*NAMES)
    with pytest.raises(PolicyError, match="'west' has a key that its old one did not sign"):
        follow(there.sites["north"], first)  # the roster of before, played again
    swapped = {**keys, "south": keys["east"], "east": keys["south"]}
    with pytest.raises(PolicyError, match="did not sign"):
        follow(there.sites["north"], first.model_copy(update={"roster": Roster.of(swapped)}))
    assert there.agree(*NAMES)


def test_a_revoked_site_is_gone_and_its_keys_never_come_back(there: There) -> None:
    card = there.card(there.sites["west"])
    revoke(there.hub, "west")
    rest = [name for name in NAMES if name != "west"]
    there.follow(*rest)
    assert there.agree(*rest)
    assert set(Roster.read(there.hub.roster).keys) == set(rest)
    with pytest.raises(PolicyError, match="'west' is not listed"):
        follow(there.sites["west"], there.changes())
    with pytest.raises(UsageError, match="of 'west' that was revoked"):
        add_card(there.hub, card)
    told = json.loads(card.read_text())
    fresh = json.loads(card_of(there.home("fresh")))
    for changed in ({"site": "other"}, {"node": fresh["node"]}, {"key": fresh["key"]}):
        card.write_text(json.dumps({**told, **changed}))
        with pytest.raises(UsageError, match="of 'west' that was revoked"):
            add_card(there.hub, card)
    with pytest.raises(UsageError, match="no such site"):
        revoke(there.hub, "west")
    add_card(there.hub, there.card(there.home("west", "west-anew")))  # the hospital begins anew, as a new one
    with pytest.raises(PolicyError, match="'west' is new"):
        follow(there.sites["north"], there.changes())
    revoke(there.hub, "south")
    revoke(there.hub, "east")
    revoke(there.hub, "west")
    assert not there.hub.roster.exists()


def test_only_the_coordinator_strikes_a_site_out(there: There) -> None:
    keys = Roster.read(there.hub.roster).keys
    less = Roster.of({name: key for name, key in keys.items() if name != "west"})
    evil = Identity.at(there.folder / "evil.pem")
    for removals in (
        (),
        (Removal.make(evil, "west", keys["west"]),),
        (Removal.make(there.hub.identity, "west", keys["east"]),),
    ):
        lie = there.changes().model_copy(update={"roster": less, "removals": removals})
        with pytest.raises(PolicyError, match="'west' is listed no longer"):
            follow(there.sites["north"], lie)
    there.sites["north"].coordinator_key.unlink()  # a hospital that keeps no coordinator.pub asks people
    revoke(there.hub, "west")
    with pytest.raises(PolicyError, match="'west' is listed no longer"):
        follow(there.sites["north"], there.changes())
    there.follow("south")


def test_a_replaced_key_of_a_site_is_of_no_use(there: There) -> None:
    old = there.card(there.sites["north"]).read_text()
    rotate(there.sites["north"])
    add_card(there.hub, there.card(there.sites["north"]))
    back = there.folder / "back.card"
    back.write_text(old)
    with pytest.raises(UsageError, match="known with other keys"):
        add_card(there.hub, back)
    back.write_text(
        json.dumps({**json.loads(old), "site": "other", "node": json.loads(card_of(there.home("o")))["node"]})
    )
    with pytest.raises(UsageError, match="was replaced"):
        add_card(there.hub, back)


def test_the_coordinators_key_is_replaced_and_its_removals_count(there: There) -> None:
    old = read_key(there.hub.folder / "coordinator.pub")
    revoke(there.hub, "east")
    made = rotate_key(there.hub)
    assert (made.old, made.new) == (old, read_key(there.hub.folder / "coordinator.pub"))
    assert there.hub.identity.public == made.new
    there.follow("north", "south")
    assert read_key(there.sites["north"].coordinator_key) == made.new
    rotate_key(there.hub)
    revoke(there.hub, "west")
    there.follow("north", "south")
    assert there.agree("north", "south")
    stranger = Identity.at(there.folder / "stranger.pem")
    lie = there.changes().model_copy(update={"coordinator": stranger.public})
    with pytest.raises(PolicyError, match="the coordinator has a key that the one kept here did not sign"):
        follow(there.sites["north"], lie)


def believed(folder: Path, file: str, authority: Path, host: str = "localhost") -> bool:
    """Whether who believes an authority believes what a server of the coordinator's shows."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(folder / f"{file}.crt", folder / f"{file}.key")
    trusted = ssl.create_default_context(cafile=str(authority))
    here, other = socket.socketpair()

    def serve() -> None:
        try:
            served.wrap_socket(here, server_side=True).close()
        except OSError:
            here.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        trusted.wrap_socket(other, server_hostname=host).close()
    except ssl.SSLCertVerificationError:
        return False
    finally:
        other.close()
        thread.join(10)
    return True


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_authority_is_replaced_and_no_site_is_cut_off(there: There, times: int) -> None:
    """Those who believe the old one, however old, and those who took over the new one."""
    north, hub = there.sites["north"], there.hub.folder
    for _ in range(times):
        rotate_authority(there.hub)
    for file in ("server", "link"):
        for authority in (hub / "ca.crt", north.folder / "ca.crt"):
            assert believed(hub, file, authority), (file, authority)
        shown = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", north.folder / "ca.crt", "-untrusted", hub / f"{file}.crt",
             hub / f"{file}.crt"], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
    before = (north.folder / "ca.crt").read_bytes()
    there.follow("north")
    assert (north.folder / "ca.crt").read_bytes() == (hub / "ca.crt").read_bytes() != before
    assert believed(hub, "server", north.folder / "ca.crt")
    stolen = hub / ASIDE / "1"  # what the old authority's key still vouches for
    assert not believed(stolen, "server", north.folder / "ca.crt")
    assert believed(stolen, "server", there.sites["south"].folder / "ca.crt")  # until a site has taken the new one over
    assert there.agree(*NAMES)


def test_an_authority_that_the_old_one_did_not_sign_is_refused(there: There, tmp_path: Path) -> None:
    other = make_coordinator(tmp_path / "other", ["localhost"], 9093, 18001)
    rotate_authority(other)
    add_card(other, there.card(there.sites["north"]))
    add_card(other, there.card(there.sites["south"]))
    told = Changes.read(write_changes(other) or tmp_path)
    rotate_authority(there.hub)
    mine = there.changes()
    north = there.sites["north"]
    before = (north.folder / "ca.crt").read_bytes()
    for authority in (told.authority, told.authority[:1], mine.authority[:1], (*told.authority[:1], *mine.authority[1:]),
                      (mine.authority[1], *mine.authority), ("A" * 200,)):  # fmt: skip
        with pytest.raises(PolicyError, match="Nothing was changed"):
            follow(north, mine.model_copy(update={"authority": authority}))
        assert (north.folder / "ca.crt").read_bytes() == before
    follow(north, mine)


def test_an_authority_is_not_replaced_under_a_coordinator_that_runs(there: There) -> None:
    import fcntl

    with (there.hub.folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="the coordinator runs"):
            rotate_authority(there.hub)
    rotate_key(there.hub)  # the key that signs results is read when it is used


def test_a_node_without_a_card_is_nobodys_at_once_and_flower_is_told(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = {card.node: {"site": name, "key": card.key, "node": str(7 + place)}
                  for place, (name, card) in enumerate(sorted(there.hub.known().items()))}  # fmt: skip
    there.hub.registered.write_text(json.dumps(registered))
    asked: list[tuple[str, ...]] = []
    busy = True

    def ask(_: object, *words: str) -> dict[str, Any]:
        asked.append(words)
        if busy:
            raise RunError("'flwr supernode' did not answer within 0 s.")
        return {"success": True, "nodes": [], "node-id": 99}

    monkeypatch.setattr(serving, "answers", lambda _: True)
    monkeypatch.setattr(bundles.Flwr, "ask", ask)
    door = serving._Door(there.hub)
    door.look()
    assert asked == []
    west = there.hub.known()["west"]
    number = registered[west.node]["node"]
    revoke(there.hub, "west")
    rotate(there.sites["north"])
    add_card(there.hub, there.card(there.sites["north"]))
    door.look()
    now = json.loads(there.hub.registered.read_text())
    assert {told["site"] for told in now.values()} == {"south", "east"}  # though Flower has not answered
    for _ in range(3):
        door.due = {}
        door.look()
    assert "register" not in {words[1] for words in asked}  # first those who go
    busy = False
    for _ in range(3):
        door.due = {}
        door.look()
    assert ("supernode", "unregister", number) in asked
    assert json.loads(there.hub.leaving.read_text()) == {}
    now = json.loads(there.hub.registered.read_text())
    assert {told["site"] for told in now.values()} == {"south", "east", "north"}
    new = there.hub.known()["north"]
    assert now[new.node] == {"site": "north", "key": new.key, "node": "99"}


def test_a_site_whose_node_is_another_user_keeps_its_node(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's key is not here; runs must know the site by its new key all the same."""
    north = there.sites["north"]
    north.node_key.unlink()
    node = there.hub.known()["north"].node
    owners = {card.node: {"site": name, "key": card.key, "node": name} for name, card in there.hub.known().items()}
    there.hub.registered.write_text(json.dumps(owners))
    monkeypatch.setattr(serving, "answers", lambda _: pytest.fail("nothing is to be asked of Flower"))
    made = rotate(north)
    add_card(there.hub, there.card(north))
    serving._Door(there.hub).look()
    told = json.loads(there.hub.registered.read_text())
    assert told == {**owners, node: {"site": "north", "key": made.new, "node": "north"}}
    assert not there.hub.leaving.exists()


def run(*words: object) -> None:
    cli.app(args=[str(word) for word in words], standalone_mode=False)


def test_the_commands(there: There, capsys: pytest.CaptureFixture[str]) -> None:
    hub, north = there.hub.folder, there.sites["north"].folder
    run("site", "rotate", north, "--by", "IT")
    capsys.readouterr()
    run("site", "card", north)
    card = there.folder / "north.json"
    card.write_text(capsys.readouterr().out)
    run("coordinator", "add", card, "--coordinator", hub)
    run("coordinator", "revoke", "west", "--coordinator", hub)
    run("coordinator", "rotate", "key", "--coordinator", hub)
    run("coordinator", "rotate", "authority", "--coordinator", hub)
    assert "nobody need telephone" in capsys.readouterr().out
    for name in ("north", "south", "east"):
        run("site", "trust", hub / "changes.json", there.sites[name].folder)
    said = capsys.readouterr().out
    assert said.count("taken over: the roster, the coordinator's key, the coordinator's authority") == 3
    run("site", "trust", hub / "changes.json", north)
    assert "nothing changed" in capsys.readouterr().out
    assert there.agree("north", "south", "east")
    with pytest.raises(PmfedError, match="'west' is not listed"):
        run("site", "trust", hub / "changes.json", there.sites["west"].folder)
    (there.folder / "broken.json").write_text('{"what":"pmfed changes","version":2}')
    with pytest.raises(PolicyError, match="does not hold the changes"):
        run("site", "trust", there.folder / "broken.json", north)

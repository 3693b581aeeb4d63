"""The coordinator's folder: certificates, secrets, the sites' cards and their roster, and where its runs are."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field

from pmfed.card import SiteCard
from pmfed.errors import UsageError
from pmfed.file_io import replace_file
from pmfed.processes import flower_environment
from pmfed.secagg.keys import Identity
from pmfed.secagg.replaced_keys import CHAIN, followed
from pmfed.validate import Frozen, read_toml
from pmfed_server.bundle import Flwr
from pmfed_server.certificates import issue, make_authority
from pmfed_server.gather import gather_cards, read_card

FILE = "coordinator.toml"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Port = Annotated[int, Field(ge=1, le=65535)]


class Addresses(Frozen):
    """``[coordinator]``: the names sites know it by, the port they come to, and the SuperLink's own, loopback only."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Port = 9092
    link_port: Port = 18000


class _CoordinatorFile(Frozen):
    coordinator: Addresses


class Coordinator(Frozen):
    """A coordinator: its folder and its addresses."""

    folder: Path
    addresses: Addresses

    @classmethod
    def read(cls, folder: Path) -> Coordinator:
        """Read FOLDER/coordinator.toml.

        Raises
        ------
        StudyError
            The file is missing or does not fit; the message names file, line and key.
        """
        folder = folder.parent if folder.name == FILE else folder
        return cls(folder=folder.absolute(), addresses=read_toml(folder / FILE, _CoordinatorFile).coordinator)

    @property
    def home(self) -> Path:
        """Flower's files."""
        return self.folder / "flower"

    @property
    def cards(self) -> Path:
        """The sites' cards, a file each."""
        return self.folder / "cards"

    @property
    def registered(self) -> Path:
        """The nodes Flower lets in, by key: whose each is, and Flower's number of it."""
        return self.folder / "registered.json"

    @property
    def leaving(self) -> Path:
        """The nodes that Flower has yet to unregister, because their cards are gone; like ``registered``."""
        return self.folder / "leaving.json"

    @property
    def roster(self) -> Path:
        """The roster of all cards, to be sent to every site."""
        return self.folder / "roster.json"

    @property
    def struck(self) -> Path:
        """The sites that were revoked, with the keys they had, which are never taken again."""
        return self.folder / "revoked.json"

    @property
    def chain(self) -> Path:
        """The successions of the coordinator's own key."""
        return self.folder / CHAIN

    @property
    def identity(self) -> Identity:
        """The key that signs the results of runs; coordinator.pub beside it is for everybody."""
        return Identity.at(self.folder / "identity.pem")

    @property
    def flwr(self) -> Flwr:
        """Flower's command line, pointed at this coordinator's SuperLink."""
        return Flwr(flower_environment(self.home), self.home, self.home / "commands.log")

    def revoked(self) -> list[dict[str, str]]:
        """Return site, key and node of each site that was revoked, in that order."""
        return list(json.loads(self.struck.read_text(encoding="utf-8"))) if self.struck.exists() else []

    def known(self) -> dict[str, SiteCard]:
        """Return the cards by site."""
        return {card.site: card for card in map(read_card, sorted(self.cards.glob("*.json")))}


def make_coordinator(folder: Path, names: Sequence[str], port: int, link_port: int) -> Coordinator:
    """Make a coordinator's folder: authority and certificates, secret, identity key, coordinator.toml.

    Raises
    ------
    UsageError
        The folder is not empty, or a name cannot be one.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not empty.", "Choose another folder; nothing is overwritten.")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", name) or (":" in name and not _is_address(name)):
            raise UsageError(
                f"'{name}' is no host name or address.",
                "Name the host as the sites reach it; an IPv6 address without brackets, as in --host 2001:db8::7",
            )
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    told = {"coordinator": {"names": list(names), "port": port, "link_port": link_port}}
    (folder / FILE).write_text(tomli_w.dumps(told), encoding="utf-8")
    coordinator = Coordinator.read(folder)
    for inner in (coordinator.home, coordinator.cards, folder / "runs", folder / "proxy", folder / "logs"):
        inner.mkdir(mode=0o700)
    make_authority(folder)
    issue(folder, "server", names)
    issue(folder, "link", LOOPBACK)
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32), encoding="utf-8")
    (folder / "coordinator.pub").write_text(coordinator.identity.public + "\n", encoding="utf-8")
    return coordinator


def spelled(name: str, port: int) -> str:
    """Return a host and a port as a site's site.toml has them."""
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def add_card(coordinator: Coordinator, path: Path) -> SiteCard:
    """Take in a site's card and write the roster anew.

    A running coordinator lets the site's node in within a second or so, and turns away one whose key was replaced.

    Raises
    ------
    UsageError
        The file is no card, has no node key, has a key of another site or one that was revoked or replaced, or the site is
        known with other keys and the old one did not sign the new.
    """
    card = read_card(path)
    if not card.node:
        raise UsageError(
            f"{path}: has no key for a Flower node, so this site could not connect.",
            "Make the site's folder with 'pmfed site init', then send the card anew.",
        )
    kept = coordinator.cards / f"{card.site}.json"
    known = coordinator.known()
    if (
        card.site in known
        and (known[card.site].key, known[card.site].node) != (card.key, card.node)
        and not _succeeds(card, known[card.site])
    ):
        raise UsageError(
            f"{path}: '{card.site}' is known with other keys.",
            "The site names its new keys itself, with: pmfed site rotate. If it lost the old ones, ask it, by telephone for "
            f"instance; then: pmfed coordinator revoke {card.site}, and add the card again.",
        )
    for told in coordinator.revoked():
        if card.key == told["key"] or card.node == told["node"]:
            raise UsageError(f"{path}: has a key of '{told['site']}' that was revoked.", "It makes a folder anew.")
    replaced = {one.old for other in (*known.values(), card) for one in other.successions if one.holds()}
    if card.key in replaced:
        raise UsageError(f"{path}: has a key that was replaced.", "Ask the site for the card it prints now.")
    for other in known.values():
        if other.site != card.site and (other.key == card.key or other.node == card.node):
            raise UsageError(f"{path}: has a key of '{other.site}'.", "Each site makes its own.")
    replace_file(kept, (card.model_dump_json() + "\n").encode())
    write_roster(coordinator)
    return card


def write_roster(coordinator: Coordinator) -> None:
    """Write the roster of all cards anew; fewer than two make none."""
    cards = sorted(coordinator.cards.glob("*.json"))
    if len(cards) >= 2:
        replace_file(coordinator.roster, gather_cards(cards).canonical().encode())
    else:
        coordinator.roster.unlink(missing_ok=True)


def _succeeds(card: SiteCard, before: SiteCard) -> bool:
    """Whether a site's old key, by a chain of signatures, named both keys on its new card."""
    named = {(one.new, one.node) for one in card.successions if one.site == card.site and one.holds()}
    later = followed(before.key, card.successions, card.site)[1:]
    return card.key in later and (card.key, card.node) in named

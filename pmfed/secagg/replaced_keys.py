"""Keys that were replaced, and sites that left: what the holders of the keys of before signed, so that nobody need telephone.

A roster is believed because people compared its fingerprint. What follows from it without them: the old key of a site names
its new one (`Succession`), and the coordinator strikes a site out (`Removal`). Nothing here can add a site: for
that, people compare fingerprints, as at the beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pmfed.errors import PolicyError
from pmfed.file_io import replace_file
from pmfed.modality import Name
from pmfed.secagg.cards import Signature
from pmfed.secagg.keys import Identity, canonical, fits
from pmfed.secagg.roster import Key, Roster
from pmfed.validate import Frozen

FILE, CHAIN = "changes.json", "successions.json"
MOST = 4096  # successions in a file: each site's key a few times
MAX_BYTES = 1 << 22
Certificate = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{100,20000}={0,2}$")]
COORDINATOR = ""  # whose successions have no site's name


class Succession(Frozen):
    """A key and the one that takes its place; both signed.

    Parameters
    ----------
    site
        Whose they are; empty for the coordinator's.
    old, new
        Ed25519, hex.
    node
        The public key of the site's node from now on, as on its card.
    by_old, by_new
        The old key says who follows it; the new one, that whoever asks for it holds it.
    """

    what: Literal["pmfed succession"] = "pmfed succession"
    version: Literal[1] = 1
    site: Name | Literal[""] = COORDINATOR
    old: Key
    new: Key
    node: str = ""
    by_old: Signature
    by_new: Signature

    @classmethod
    def make(cls, old: Identity, new: Identity, site: str = COORDINATOR, node: str = "") -> Succession:
        """Return the succession of two keys that both are here."""
        blank = cls(site=site, old=old.public, new=new.public, node=node, by_old="0" * 128, by_new="0" * 128)
        signed = blank.signed()
        return blank.model_copy(update={"by_old": old.sign(signed), "by_new": new.sign(signed)})

    def signed(self) -> bytes:
        """Return the bytes that both sign."""
        return canonical(self.model_dump(exclude={"by_old", "by_new"}))

    def holds(self) -> bool:
        """Whether both signatures fit."""
        signed = self.signed()
        return self.old != self.new and fits(self.old, signed, self.by_old) and fits(self.new, signed, self.by_new)


Chain = Annotated[tuple[Succession, ...], Field(max_length=MOST)]
_Chain: TypeAdapter[tuple[Succession, ...]] = TypeAdapter(Chain)


def read_chain(path: Path) -> tuple[Succession, ...]:
    """Return the successions in a file, the first first; none where there is no file.

    Raises
    ------
    OSError, ValidationError
        The file cannot be read, or holds something else.
    """
    if not path.exists():
        return ()
    with path.open("rb") as file:
        return _Chain.validate_json(file.read(MAX_BYTES), strict=True)


def write_chain(path: Path, chain: Sequence[Succession], *, private: bool = False) -> None:
    """Replace a file of successions; see `replace_file`."""
    told = [one.model_dump(mode="json") for one in chain]
    replace_file(path, json.dumps(told).encode(), private=private)


class Removal(Frozen):
    """A site that takes part no longer: its name and the key it had, signed by the coordinator."""

    what: Literal["pmfed removal"] = "pmfed removal"
    version: Literal[1] = 1
    site: Name
    key: Key
    signature: Signature

    @classmethod
    def make(cls, coordinator: Identity, site: str, key: str) -> Removal:
        """Return a signed removal."""
        blank = cls(site=site, key=key, signature="0" * 128)
        return blank.model_copy(update={"signature": coordinator.sign(blank.signed())})

    def signed(self) -> bytes:
        """Return the bytes that are signed."""
        return canonical(self.model_dump(exclude={"signature"}))


class Changes(Frozen):
    """What a coordinator hands out when something changed: all of it, from the beginning, and what is so now.

    Parameters
    ----------
    roster
        The sites that take part now.
    coordinator
        The coordinator's public key now.
    successions, removals
        In the order in which they were made.
    authority
        The certificate of the coordinator's authority now, then those that the authorities of before made out for the next
        ones: base64 of DER.
    """

    LONGEST: ClassVar[int] = 20_002
    what: Literal["pmfed changes"] = "pmfed changes"
    version: Literal[1] = 1
    roster: Roster
    coordinator: Key
    successions: Chain = ()
    removals: Annotated[tuple[Removal, ...], Field(max_length=MOST)] = ()
    authority: Annotated[tuple[Certificate, ...], Field(max_length=64)] = ()

    @staticmethod
    def there(path: Path) -> bool:
        """Whether a file is one of changes, by the words it begins with, and not a roster."""
        try:
            with path.open("rb") as file:
                return file.read(64).lstrip().startswith(b'{"what":"pmfed changes"')
        except OSError:
            return False

    @classmethod
    def read(cls, path: Path) -> Changes:
        """Read a file of changes; PolicyError when it is none."""
        try:
            with path.open("rb") as file:
                return cls.model_validate_json(file.read(MAX_BYTES), strict=True)
        except OSError as error:
            raise PolicyError(f"{path}: cannot be read ({error.strerror}). Nothing was changed.") from None
        except ValidationError:
            raise PolicyError(
                f"{path}: does not hold the changes of a federation. Nothing was changed.",
                "Ask the coordinator for its changes.json.",
            ) from None


def followed(key: str, chain: Iterable[Succession], site: str = COORDINATOR) -> list[str]:
    """Return a key and those that took its place, one after the other, as far as signatures go.

    Guarantee
    ---------
    Each key but the first was named by the one before it. Where a key named two successors, which an honest holder never does,
    the list ends before both.
    """
    found = [key]
    theirs = [one for one in chain if one.site == site and one.holds()]
    while True:
        after = {one.new for one in theirs if one.old == found[-1]} - set(found)
        if len(after) != 1:
            return found
        found.append(after.pop())


def unexplained(pinned: Roster, changes: Changes, coordinator: str | None) -> list[str]:
    """Return what in a new roster does not follow from the pinned one and what was signed: a sentence each.

    Parameters
    ----------
    pinned
        The roster of which people compared the fingerprint, or which follows from such a one.
    changes
        What the coordinator sent.
    coordinator
        The coordinator's key that this site keeps; None: then nobody may strike out a site.

    Guarantee
    ---------
    When the list is empty, every key of the new roster is a pinned one of the same site, or was named by it in a chain of
    signatures; and whoever is listed no longer was struck out by the coordinator. So no coordinator gains a site.
    """
    known, now = pinned.keys, changes.roster.keys
    trusted = followed(coordinator, changes.successions) if coordinator else []
    said = []
    for site, key in now.items():
        if site not in known:
            said.append(f"'{site}' is new")
        elif key not in followed(known[site], changes.successions, site):
            said.append(f"'{site}' has a key that its old one did not sign")
    for site in sorted(set(known) - set(now)):
        keys = followed(known[site], changes.successions, site)
        if not any(
            one.site == site and one.key in keys and any(fits(key, one.signed(), one.signature) for key in trusted)
            for one in changes.removals
        ):
            said.append(f"'{site}' is listed no longer, and the coordinator did not sign that")
    return said

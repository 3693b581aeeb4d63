"""The roster: which sites there are and the keys they sign with. Every site pins it; no coordinator can add to it.

A roster reaches a site by any way at all. What makes it trusted is that people at the sites compare its fingerprint,
over the telephone for instance, before they pin it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from pmfed.errors import PolicyError
from pmfed.modality import Name
from pmfed.validate import Frozen

FILE = "roster.json"
MAX_BYTES = 1 << 20

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Member(Frozen):
    """One site and its public identity key (Ed25519, RFC 8032, hex)."""

    site: Name
    key: Key


class Roster(Frozen):
    """The sites that may add up their sums together.

    Parameters
    ----------
    members
        At least two, in the order of their names; no name and no key twice.
    """

    version: Literal[1] = 1
    members: Annotated[tuple[Member, ...], Field(min_length=2)]

    @field_validator("members")
    @classmethod
    def _once(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        names = [member.site for member in members]
        if len(set(names)) < len(names) or len({member.key for member in members}) < len(names):
            raise ValueError("a site or a key is listed twice")
        if names != sorted(names):
            raise ValueError("the members are not in the order of their names")
        return members

    @classmethod
    def of(cls, keys: dict[str, str]) -> Roster:
        """Return the roster of some sites, by name."""
        return cls(members=tuple(Member(site=site, key=keys[site]) for site in sorted(keys)))

    @property
    def keys(self) -> dict[str, str]:
        """Public keys by site."""
        return {member.site: member.key for member in self.members}

    def canonical(self) -> str:
        """Return the one spelling of this roster: a line per member, so that people can read it, too."""
        lines = ",\n".join(f'  {{"site": "{member.site}", "key": "{member.key}"}}' for member in self.members)
        return f'{{"version": {self.version}, "members": [\n{lines}\n]}}\n'

    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Roster:
        """Read a roster file.

        Raises
        ------
        PolicyError
            It is missing, too long, or no roster.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            raise PolicyError(
                f"{path}: there is no roster here, so this site trusts no other. Nothing was released.",
                "Compare its fingerprint with the other sites, then pin it: pmfed site trust roster.json",
            ) from None
        if len(data) > MAX_BYTES:
            raise PolicyError(f"{path}: is longer than any roster. Nothing was released.")
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise PolicyError(
                f"{path}: is not a roster ({where}: {first['msg']}). Nothing was released.",
                "Ask the coordinator for roster.json again.",
            ) from None


def grouped(fingerprint: str) -> str:
    """Return a fingerprint in groups of four, for reading aloud."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))

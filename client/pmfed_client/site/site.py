"""Site: what a hospital's site.toml says about where its data lies and what it allows."""

from __future__ import annotations

import ipaddress
from pathlib import Path, PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag

from pmfed.cohort.contract.written import Described, View
from pmfed.cohort.imaging.places import Places
from pmfed.errors import StudyError
from pmfed.modality import Name
from pmfed.privacy.precision import Precision
from pmfed.secagg.replaced_keys import CHAIN
from pmfed.secagg.roster import FILE as ROSTER
from pmfed.validate import Fraction, Frozen, read_toml
from pmfed_client.site.policy import Policy

FILE = "site.toml"
PERSONAL = "personal"


def _inside(source: str) -> str:
    if not source.strip():
        raise ValueError("a path is empty; leave the source out where the site has none")
    if ".." in PureWindowsPath(source).parts:  # which knows both kinds of slash
        raise ValueError("'..' leads out of the site's folder; write the whole path, from the root, instead")
    return source


def _address(told: str) -> str:
    host, _, port = told.rpartition(":")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"there is no port {port}")
    if host[:1] == "[" and host[-1:] == "]":
        ipaddress.IPv6Address(host[1:-1])  # a ValueError that says what is wrong
    elif set(host) & set("[]:"):
        raise ValueError("an IPv6 address stands in brackets, as in [2001:db8::7]:9092")
    return told


class _About(Frozen):
    name: Name
    title: str = ""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")] = "cpu"
    precision: Precision = "float32"


class CoordinatorAddress(Frozen):
    """``[coordinator]``: whom this site connects to, and the certificate of the authority it believes."""

    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9._\[\]:-]+:[0-9]{1,5}$"), AfterValidator(_address)]
    certificate: Annotated[str, AfterValidator(_inside)] = "ca.crt"


class Resident(Frozen):
    """``[agent]``: where the agent answers, and to which other user."""

    socket: Annotated[str, AfterValidator(_inside)] = "agent.sock"
    node_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None


class _Described(Described):
    file: Annotated[str, AfterValidator(_inside)]


def _form(source: object) -> str:
    if isinstance(source, View) or (isinstance(source, dict) and "database" in source):
        return "<view>"
    return "<described>" if isinstance(source, dict | Described) else "<path>"


_Source = Annotated[
    Annotated[str, AfterValidator(_inside), Tag("<path>")]
    | Annotated[_Described, Tag("<described>")]
    | Annotated[View, Tag("<view>")],
    Discriminator(_form),
]


class Accepted(Frozen):
    """``[[accept]]``: values that this site knows are lost. ``share`` is how many of a feature's, at most, by one reason.

    It lapses when the share grows by half.
    """

    feature: str
    reason: str
    share: Fraction


class _File(Frozen):
    site: _About
    data: dict[Annotated[str, Field(min_length=1)], _Source] = Field(default_factory=dict)
    accept: tuple[Accepted, ...] = ()
    coordinator: CoordinatorAddress | None = None
    agent: Resident = Resident()
    policy: Policy | None = None


class Site(Frozen):
    """One hospital: its name, its sources and its policy.

    Parameters
    ----------
    name, title
        How it is called in files, and by people.
    device
        Where it trains: "cpu", "cuda", "cuda:1".
    precision
        What layers of a network round the operands of their products to while it trains.
    folder
        Where site.toml lies, with the ledger and the identity key beside it.
    sources
        Source name -> table, file or folder, resolved against ``folder``, or the URL of a database. Whether it exists is found out by who reads it.
    policy
        What the site allows; ``Policy.closed()`` when site.toml has no ``[policy]``.
    coordinator
        Whom a real site connects to; a simulated one has none.
    node_user
        The system user that the site's Flower node runs as; None: the agent's own.
    agent_socket
        Where the agent answers, resolved against ``folder``.
    accept
        Losses of values that a person of this site accepted.
    """

    name: Name
    title: str = ""
    device: str = "cpu"
    precision: Precision = "float32"
    folder: Path
    sources: dict[str, Path | str] = Field(default_factory=dict)
    policy: Policy
    coordinator: CoordinatorAddress | None = None
    node_user: str | None = None
    agent_socket: str = "agent.sock"
    accept: tuple[Accepted, ...] = ()

    @property
    def ledger(self) -> Path:
        """The site's privacy ledger."""
        return self.folder / "ledger.db"

    @property
    def identity(self) -> Path:
        """The site's secret identity key."""
        return self.folder / "identity.pem"

    @property
    def roster(self) -> Path:
        """The roster this site pinned: whom it adds up its sums with."""
        return self.folder / ROSTER

    @property
    def coordinator_key(self) -> Path:
        """The coordinator's public key, where the hospital keeps it; it signs who is struck out of the roster."""
        return self.folder / "coordinator.pub"

    @property
    def chain(self) -> Path:
        """The successions of this site's own key."""
        return self.folder / CHAIN

    @property
    def places(self) -> Places:
        """Where decoded scans are cached, and where what could not be read is listed, for the site alone."""
        return Places(cache=self.folder / "cache", detail=self.folder / "unreadable.txt")

    @property
    def approved(self) -> Path:
        """The folder of the studies this hospital approved."""
        return self.folder / "approved"

    @property
    def checked(self) -> Path:
        """The folder of what checks found; it stays here."""
        return self.folder / "checked"

    @property
    def paused(self) -> Path:
        """There while the site is paused."""
        return self.folder / "paused"

    @property
    def personal(self) -> Path:
        """The folder of models of the site's own; they never leave it."""
        return self.folder / PERSONAL

    @property
    def audit_log(self) -> Path:
        """Who asked what, and what left."""
        return self.folder / "audit.jsonl"

    @property
    def courier(self) -> Path:
        """The folder of the site's Flower node; nothing of a patient is in it."""
        return self.folder / "courier"

    @property
    def node_key(self) -> Path:
        """The secret key of the site's Flower node."""
        return self.folder / "node.key"

    @property
    def node_public(self) -> Path:
        """The public half of it."""
        return self.folder / "node.pub"

    @property
    def socket(self) -> Path:
        """Where the agent answers."""
        return self.folder / self.agent_socket

    @classmethod
    def read(cls, path: Path) -> Site:
        """Read a site.toml, or the one in a folder.

        Raises
        ------
        StudyError
            The file is missing or does not fit; the message names file, line and key.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        file = read_toml(path, _File)
        folder = path.absolute().parent
        return cls(
            name=file.site.name,
            title=file.site.title,
            device=file.site.device,
            precision=file.site.precision,
            folder=folder,
            sources={name: _located(source, folder) for name, source in sorted(file.data.items())},
            policy=file.policy or Policy.closed(),
            coordinator=file.coordinator,
            node_user=file.agent.node_user,
            agent_socket=file.agent.socket,
            accept=file.accept,
        )


def _located(source: str | Described | View, folder: Path) -> Path | str:
    """Return where a source is: a path, which knows how its table is written where that is told, or a database's URL."""
    if isinstance(source, Described | View):
        return source.located(folder)
    return source if "://" in source else folder / source


def read_sites(folder: Path) -> tuple[Site, ...]:
    """Read every site in the sub-folders of ``folder``, sorted by name.

    Raises
    ------
    StudyError
        There is no such folder, no sub-folder has a site.toml, two sites have one name, or a file does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: there is no such folder.", "Check the path.")
    sites: dict[str, Site] = {}
    for path in sorted(folder.glob(f"*/{FILE}")):
        site = Site.read(path)
        if other := sites.get(site.name):
            raise StudyError(
                f"{other.folder / FILE} and {path}: two sites are called '{site.name}'.", "Give each its own name."
            )
        sites[site.name] = site
    if not sites:
        single = (folder / FILE).is_file()
        raise StudyError(
            f"{folder}: none of its folders has a {FILE}.",
            f"This is the folder of one site; name the folder around it, {folder.absolute().parent}."
            if single
            else f"Each site is a folder with a {FILE} in it.",
        )
    return tuple(sites[name] for name in sorted(sites))

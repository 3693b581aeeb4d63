"""The node's own folder, where agent and node are two users: what the connection needs, and nothing of the site.

``pmfed site split SITE FOLDER`` makes it, ``pmfed site node FOLDER`` runs what is in it. Its user can neither read the site's
folder nor ask the agent for anything but what the agent gives a courier.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from pmfed.errors import StudyError, UsageError
from pmfed.modality import Name
from pmfed.validate import Frozen, read_toml
from pmfed_client.site.create import write_private
from pmfed_client.site.site import FILE as SITE_FILE
from pmfed_client.site.site import CoordinatorAddress, Site

FILE, KEY, CERTIFICATE = "node.toml", "node.key", "ca.crt"


class _NodeAbout(Frozen):
    site: Name
    socket: str


class _NodeFile(Frozen):
    node: _NodeAbout
    coordinator: CoordinatorAddress


@dataclass(frozen=True)
class Node:
    """What a site's connection runs on.

    Parameters
    ----------
    address, certificate
        Of the coordinator: where it is, and the authority that vouches for it.
    key
        The secret key of the node.
    home
        Flower's files, for the node alone.
    socket
        Where the agent answers.
    """

    address: str
    certificate: Path
    key: Path
    home: Path
    socket: Path

    @classmethod
    def of(cls, site: Site) -> Node:
        """Return the node of a site that runs as one user.

        Raises
        ------
        StudyError
            site.toml names no coordinator.
        """
        told = coordinator_of(site)
        return cls(told.address, site.folder / told.certificate, site.node_key, site.courier, site.socket)

    @classmethod
    def read(cls, folder: Path) -> Node:
        """Read FOLDER/node.toml; StudyError, naming file and line, when it is missing or does not fit."""
        folder = folder.absolute()
        file = read_toml(folder / FILE, _NodeFile)
        certificate = folder / file.coordinator.certificate
        return cls(file.coordinator.address, certificate, folder / KEY, folder, Path(file.node.socket))


def coordinator_of(site: Site) -> CoordinatorAddress:
    """Return whom a site connects to; StudyError when it says nothing about that."""
    if site.coordinator is None:
        raise StudyError(
            f"{site.folder / SITE_FILE}: has no [coordinator], so this site does not know whom to connect to.",
            "Write address and certificate there, as the coordinator told you: docs/hospital.md.",
        )
    return site.coordinator


def split(site: Site, folder: Path) -> Node:
    """Make the folder of a node that runs as another user than the site's agent; its key moves there.

    As root, the folder is given to that user.

    Raises
    ------
    StudyError
        site.toml does not say which user, or puts the socket where that user cannot reach it.
    UsageError
        The folder is not empty, or the coordinator's certificate is not there.
    """
    user = node_user(site)
    if user is None:
        raise StudyError(
            f"{site.folder / SITE_FILE}: has no [agent] node_user, so agent and node are one user.",
            "Name the user that the node shall run as, and a socket both can reach: docs/hospital.md.",
        )
    told, folder = coordinator_of(site), folder.absolute()
    certificate = site.folder / told.certificate
    if not certificate.is_file():
        raise UsageError(f"{certificate}: there is no such file.", "Ask the coordinator for its ca.crt.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not empty.", "Choose another folder; nothing is overwritten.")
    if not site.node_key.exists():
        raise UsageError(
            f"{site.node_key}: the node's key is not here.", "It went to the node's folder when that was made."
        )
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    file = _NodeFile(
        node=_NodeAbout(site=site.name, socket=str(site.socket)),
        coordinator=CoordinatorAddress(address=told.address, certificate=CERTIFICATE),
    )
    write_private(folder / FILE, tomli_w.dumps(file.model_dump()).encode())
    write_private(folder / CERTIFICATE, certificate.read_bytes())
    write_private(folder / KEY, site.node_key.read_bytes())
    shutil.copyfile(site.node_public, folder / site.node_public.name)
    if os.geteuid() == 0:
        owner = pwd.getpwnam(user)
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    site.node_key.unlink()  # one of the two holds it, and that is the node
    return Node.read(folder)


def node_user(site: Site) -> str | None:
    """Return the user a site's node runs as, None when it is the agent's own; StudyError when it cannot be another."""
    if site.node_user is None:
        return None
    if site.socket.is_relative_to(site.folder):
        raise StudyError(
            f"{site.folder / SITE_FILE}: [agent] socket lies in the site's own folder, which '{site.node_user}' cannot enter.",
            "Put it into a folder both users can enter, like /run/pmfed/agent.sock.",
        )
    return site.node_user

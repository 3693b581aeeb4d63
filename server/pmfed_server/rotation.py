"""Sites struck out and keys replaced: what a coordinator does about it, and the file in which it tells the sites."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmfed.errors import UsageError
from pmfed.file_io import replace_file, take_places
from pmfed.processes import running
from pmfed.secagg.keys import Identity
from pmfed.secagg.replaced_keys import FILE, Changes, Removal, Succession, read_chain, write_chain
from pmfed.secagg.roster import Roster
from pmfed_server.certificates import issue, make_authority, make_out
from pmfed_server.coordinator import LOOPBACK, Coordinator, write_roster

NEXT, ASIDE, CROSSES = "next", "replaced", "crosses.json"


def revoke(coordinator: Coordinator, site: str) -> None:
    """Strike a site out: its node is turned away within seconds, its keys are never taken again, the roster is without it.

    Raises
    ------
    UsageError
        There is no card of that site.
    """
    card = coordinator.known().get(site)
    if card is None:
        raise UsageError(f"'{site}': no such site is known here.", "See: pmfed coordinator status")
    told = {"site": site, "key": card.key, "node": card.node}
    replace_file(coordinator.struck, (json.dumps([*coordinator.revoked(), told], indent=1) + "\n").encode())
    (coordinator.cards / f"{site}.json").unlink()
    write_roster(coordinator)


def rotate_key(coordinator: Coordinator) -> Succession:
    """Replace the key that signs the results of runs; the old one signs the new."""
    folder = coordinator.folder
    (folder / NEXT).mkdir(mode=0o700, exist_ok=True)
    new = folder / NEXT / "identity.pem"
    made, chain = Succession.make(coordinator.identity, Identity.at(new)), read_chain(coordinator.chain)
    if made not in chain:
        write_chain(coordinator.chain, (*chain, made))
    replace_file(folder / "coordinator.pub", f"{made.new}\n".encode())
    _put_in_place(folder)
    Identity.at.cache_clear()
    return made


def rotate_authority(coordinator: Coordinator) -> None:
    """Replace the certificate authority and what it issued; the old one makes out a certificate for the new.

    Sites that believe the old one believe the new because of that certificate, which the servers show along.

    Raises
    ------
    UsageError
        The coordinator runs, with the old certificates in its memory.
    """
    folder = coordinator.folder
    if running(folder) is not None:
        raise UsageError(f"{folder}: the coordinator runs.", "Stop it first: pmfed coordinator down")
    new = folder / NEXT
    new.mkdir(mode=0o700, exist_ok=True)
    for left in new.iterdir():  # of a rotation that was interrupted: nobody has seen it
        left.unlink()
    make_authority(new)
    crosses = [make_out(folder, new), *(_certificate(one) for one in _crosses(folder))]
    for name, hosts in (("server", coordinator.addresses.names), ("link", LOOPBACK)):
        issue(new, name, hosts)
        shown = (new / f"{name}.crt").read_bytes() + b"".join(one.public_bytes(Encoding.PEM) for one in crosses)
        (new / f"{name}.crt").write_bytes(shown)
    replace_file(folder / CROSSES, json.dumps([_spelled(one) for one in crosses]).encode())
    _put_in_place(folder)


def write_changes(coordinator: Coordinator) -> Path | None:
    """Write changes.json, which sites take with `pmfed site trust`; None while there is no roster."""
    if not coordinator.roster.exists():
        return None
    cards = coordinator.known().values()
    authority = x509.load_pem_x509_certificate((coordinator.folder / "ca.crt").read_bytes())
    identity = coordinator.identity
    changes = Changes(
        roster=Roster.read(coordinator.roster),
        coordinator=identity.public,
        successions=(*read_chain(coordinator.chain), *(one for card in cards for one in card.successions)),
        removals=tuple(Removal.make(identity, told["site"], told["key"]) for told in coordinator.revoked()),
        authority=(_spelled(authority), *_crosses(coordinator.folder)),
    )
    path = coordinator.folder / FILE
    replace_file(path, (changes.model_dump_json() + "\n").encode())
    return path


def _put_in_place(folder: Path) -> None:
    """Put aside what is replaced, then put what is new in its place."""
    aside = folder / ASIDE
    aside.mkdir(mode=0o700, exist_ok=True)
    aside /= str(len(list(aside.iterdir())) + 1)
    aside.mkdir(mode=0o700)
    take_places(sorted((folder / NEXT).iterdir()), folder, aside)
    (folder / NEXT).rmdir()


def _crosses(folder: Path) -> list[str]:
    path = folder / CROSSES
    return [str(one) for one in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def _spelled(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def _certificate(told: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(told))

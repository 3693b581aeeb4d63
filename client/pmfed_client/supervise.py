"""`pmfed site start`: the site's agent, and the Flower node whose courier carries messages to it.

Three programs: the agent (data, keys, ledger), Flower's SuperNode (the connection, outward only), and the courier between
them. The SuperNode's own port is on the loopback interface, and only who knows the secret that is made anew at each
start can take messages from it.
"""

from __future__ import annotations

import json
import secrets
import sys
from typing import NoReturn

from pmfed.errors import StudyError, UsageError
from pmfed.processes import Program, flower_environment, free_port, hand_over
from pmfed_client.home import make_node_key, write_private
from pmfed_client.line import check_length
from pmfed_client.site import FILE, Site


def start_site(site: Site, seed: int | None = None) -> NoReturn:
    """Run a site until this process is asked to stop (SIGTERM or SIGINT).

    Raises
    ------
    StudyError
        site.toml names no coordinator.
    UsageError
        The site runs already, or the coordinator's certificate is not there.
    """
    hand_over(site.folder, programs(site, seed))


def programs(site: Site, seed: int | None) -> list[Program]:
    """Return what a site runs."""
    if site.coordinator is None:
        raise StudyError(
            f"{site.folder / FILE}: has no [coordinator], so this site does not know whom to connect to.",
            "Write address and certificate there, as the coordinator told you: docs/hospital.md.",
        )
    certificate = site.folder / site.coordinator.certificate
    if not certificate.is_file():
        raise UsageError(f"{certificate}: there is no such file.", "Ask the coordinator for its ca.crt.")
    check_length(site.socket)
    site.courier.mkdir(mode=0o700, exist_ok=True)
    make_node_key(site)
    secret = site.courier / "secret"
    secret.unlink(missing_ok=True)
    write_private(secret, secrets.token_hex(32).encode())
    port = free_port()
    flower = flower_environment(site.courier)
    agent = (sys.executable, "-m", "pmfed_client.residence", str(site.folder), *([] if seed is None else [str(seed)]))
    node = (
        "flower-supernode", "--superlink", site.coordinator.address, "--root-certificates", str(certificate),
        "--auth-supernode-private-key", str(site.node_key), "--host", "127.0.0.1", "--port", str(port),
        "--isolation", "process", "--superexec-auth-secret-file", str(secret),
        "--node-config", f"socket={json.dumps(str(site.socket))}",
    )  # fmt: skip
    courier = (sys.executable, "-m", "pmfed_client.couriers", f"127.0.0.1:{port}", str(secret))
    where = str(site.courier)
    return [
        Program("agent", agent, {}, where, str(site.folder / "agent.log")),
        # Whoever is asked must be able to answer: the node connects once the agent is there.
        Program("node", node, flower, where, str(site.courier / "node.log"), after=str(site.socket)),
        Program("courier", courier, flower, where, str(site.courier / "courier.log"), after=port),
    ]

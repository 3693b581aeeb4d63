"""`pmfed site start`: the site's agent, and the Flower node whose courier carries messages to it.

Three programs: the agent (data, keys, ledger), Flower's SuperNode (the connection, outward only), and the courier between
them. The SuperNode's own port is on the loopback interface, and only who knows the secret that is made anew at each
start can take messages from it. `pmfed site agent` and `pmfed site node` run the two halves as two users.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import NoReturn

from pmfed.errors import UsageError
from pmfed.processes import Program, flower_environment, free_port, hand_over
from pmfed_client.connection.channel import check_length
from pmfed_client.connection.clock import coordinator_line
from pmfed_client.connection.node import Node, node_user
from pmfed_client.site.create import make_node_key, write_private
from pmfed_client.site.site import Site


def start_site(site: Site, seed: int | None = None) -> NoReturn:
    """Run a site until this process is asked to stop (SIGTERM or SIGINT).

    Raises
    ------
    StudyError
        site.toml names no coordinator.
    UsageError
        The site runs already, its node runs as another user, or the coordinator's certificate is not there.
    """
    kept = programs(site, seed)
    saying = f"{site.name} runs. Logs are in {site.folder}; stop with Ctrl-C or: pmfed site stop {site.folder}"
    hand_over(site.folder, kept, f"{saying}\n{coordinator_line(Node.of(site))}")


def start_agent(site: Site, seed: int | None = None) -> NoReturn:
    """Run a site's agent alone, until this process is asked to stop; `start_node` runs the rest, as another user."""
    node_user(site)  # complains when that user could not reach the socket
    saying = f"the agent of {site.name} runs. Its log is in {site.folder}; stop with Ctrl-C or: pmfed site stop {site.folder}"
    hand_over(site.folder, [agent_program(site, seed)], saying)


def start_node(folder: Path) -> NoReturn:
    """Run a site's node alone, from the folder that `node.split` made."""
    folder = folder.absolute()
    node = Node.read(folder)
    kept = node_programs(node)
    saying = f"the node runs. Its logs are in {folder}; stop with Ctrl-C or: pmfed site stop {folder}"
    hand_over(folder, kept, f"{saying}\n{coordinator_line(node)}")


def programs(site: Site, seed: int | None) -> list[Program]:
    """Return what a site runs that is one user."""
    if site.node_user is not None:
        raise UsageError(
            f"{site.folder}: the node runs as another user, '{site.node_user}'.",
            "Start the two apart: pmfed site agent, and pmfed site node, each as its own user.",
        )
    node = Node.of(site)
    site.courier.mkdir(mode=0o700, exist_ok=True)
    make_node_key(site)
    return [agent_program(site, seed), *node_programs(node)]


def agent_program(site: Site, seed: int | None) -> Program:
    """Return the program that holds data, keys and ledger."""
    check_length(site.socket)
    command = (
        sys.executable,
        "-m",
        "pmfed_client.connection.agent_process",
        str(site.folder),
        *([] if seed is None else [str(seed)]),
    )
    return Program("agent", command, {}, str(site.folder), str(site.folder / "agent.log"))


def node_programs(node: Node) -> list[Program]:
    """Return the programs of the connection; a new secret between them is written."""
    if not node.certificate.is_file():
        raise UsageError(f"{node.certificate}: there is no such file.", "Ask the coordinator for its ca.crt.")
    check_length(node.socket)
    secret = node.home / "secret"
    secret.unlink(missing_ok=True)
    write_private(secret, secrets.token_hex(32).encode())
    port = free_port()
    flower, outward = flower_environment(node.home), flower_environment(node.home, proxies=True)
    command = (
        "flower-supernode", "--superlink", node.address, "--root-certificates", str(node.certificate),
        "--auth-supernode-private-key", str(node.key), "--host", "127.0.0.1", "--port", str(port),
        "--isolation", "process", "--superexec-auth-secret-file", str(secret),
        "--node-config", f"socket={json.dumps(str(node.socket))}",
    )  # fmt: skip
    courier = (sys.executable, "-m", "pmfed_client.connection.courier", f"127.0.0.1:{port}", str(secret))
    where = str(node.home)
    return [
        # Whoever is asked must be able to answer: the node connects once the agent is there.
        Program("node", command, outward, where, str(node.home / "node.log"), after=str(node.socket)),
        Program("courier", courier, flower, where, str(node.home / "courier.log"), after=port),
    ]

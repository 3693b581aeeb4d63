"""Where the courier finds the site agent.

At a hospital the agent is a process of its own, behind a Unix socket that the node's configuration names. In a simulation
it is an object of the same process, registered under the site's name; on Flower's own simulation runtime, which runs
couriers in processes that come and go and knows its nodes by number, it is behind a socket in the folder that the
environment names. The environment, because it belongs to this machine: a coordinator's run configuration must
not decide which agent is asked here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmfed.errors import RunError
from pmfed_client.connection.channel import Handler, call

if TYPE_CHECKING:
    from pmfed_client.agent.agent import Agent

SOCKETS = "PMFED_SOCKETS"  # the environment variable that names the folder of sockets
BACK = 45.0  # seconds an agent may take to be started anew; after three rounds without it a site is left out for good
NODE = "partition-id"  # how Flower's simulation runtime tells its nodes apart

_agents: dict[str, Agent] = {}


def register(name: str, agent: Agent) -> None:
    """Make an agent of this process reachable under a name."""
    _agents[name] = agent


def forget(name: str) -> None:
    """Take a registered agent away again."""
    _agents.pop(name, None)


def connect(node_config: Mapping[str, Any]) -> Handler:
    """Return the handler of the site that a Flower node belongs to.

    Parameters
    ----------
    node_config
        Flower's node configuration: ``socket`` is the agent's; ``partition-id`` the number of a simulated node;
        ``site`` names an agent of this process.

    Raises
    ------
    RunError
        No agent answers to that name.
    """
    if "socket" in node_config:
        return call(Path(str(node_config["socket"])), BACK)
    folder = os.environ.get(SOCKETS)
    if folder and NODE in node_config:
        return call(Path(folder) / f"{int(node_config[NODE])}.sock")
    name = str(node_config.get("site", ""))
    if name not in _agents:
        raise RunError(f"no site agent '{name}' runs here.")
    return _agents[name].handle

"""Where the courier finds the site agent.

In a simulation the agent is an object of the same process, registered under the site's name; a Flower simulation
node that has none yet opens its own from the site folder its configuration names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pmfed.errors import RunError
from pmfed.wire import Arrays

if TYPE_CHECKING:
    from pmfed_client.agent import Agent

Handler = Callable[[bytes, Arrays], tuple[bytes, Arrays]]

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
        Flower's node configuration; ``site`` names the agent.

    Raises
    ------
    RunError
        No agent answers to that name.
    """
    name = str(node_config.get("site", ""))
    if name not in _agents:
        raise RunError(f"no site agent '{name}' runs here.", "Start it with 'pmfed site start'.")
    return _agents[name].handle

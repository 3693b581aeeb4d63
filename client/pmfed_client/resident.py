"""Where the courier finds the site agent.

In a simulation the agent is an object of the same process, registered under the site's name. Flower's own simulation
runtime runs couriers in processes that come and go and knows its nodes by number: there each process opens an agent,
when first asked, from the list of sites that its environment names. The environment, because it belongs to this
machine: a coordinator's run configuration must not decide which folder is opened here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmfed.errors import RunError
from pmfed.wire import Arrays

if TYPE_CHECKING:
    from pmfed_client.agent import Agent
    from pmfed_client.site import Site

Handler = Callable[[bytes, Arrays], tuple[bytes, Arrays]]

SITES = "PMFED_SITES"  # the environment variable that names the list of sites
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
        Flower's node configuration; ``site`` names the agent, ``partition-id`` the place in the list of sites.

    Raises
    ------
    RunError
        No agent answers to that name.
    """
    listed = os.environ.get(SITES)
    if listed and NODE in node_config:
        return _opened(Path(listed), int(node_config[NODE])).handle
    name = str(node_config.get("site", ""))
    if name not in _agents:
        raise RunError(f"no site agent '{name}' runs here.")
    return _agents[name].handle


def list_sites(path: Path, sites: tuple[Site, ...], seed: int | None) -> None:
    """Write the list that agents of a simulation are opened from.

    Parameters
    ----------
    path
        The file that ``PMFED_SITES`` will name.
    sites
        Node 0, node 1, ...
    seed
        As in `Rehearsal`: repeatable randomness, or None for the secret one.
    """
    from pmfed_client.policy import Policy

    def told(site: Site) -> dict[str, Any]:
        # The policy of a site that wrote none allows nothing; no site.toml could say so.
        policy = None if site.policy == Policy.closed() else site.policy.model_dump(mode="json")
        return {**site.model_dump(mode="json", exclude={"policy"}), "policy": policy}

    listed = {"seed": seed, "sites": [told(site) for site in sites]}
    path.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


@cache
def _opened(path: Path, node: int) -> Agent:
    """Return the agent of a site in the list, opened once in this process."""
    import torch

    from pmfed_client.agent import Agent, Rehearsal
    from pmfed_client.policy import Policy
    from pmfed_client.site import Site

    torch.set_num_threads(1)  # how many there are changes the last bit of a sum
    listed = json.loads(path.read_text(encoding="utf-8"))
    told = listed["sites"][node]
    policy = Policy.model_validate(told["policy"]) if told["policy"] else Policy.closed()
    return Agent(Site.model_validate({**told, "policy": policy}), rehearsal=Rehearsal(seed=listed["seed"]))

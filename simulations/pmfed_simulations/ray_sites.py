"""The agents of a simulation on Ray: one process that holds all of them, each behind a socket of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.connection.channel import serve
from pmfed_client.site.policy import Policy
from pmfed_client.site.site import Site


def list_sites(path: Path, sites: tuple[Site, ...], seed: int | None) -> None:
    """Write the list that the agents are opened from.

    Parameters
    ----------
    path
        The file.
    sites
        Node 0, node 1, ...
    seed
        As in `Rehearsal`: repeatable randomness, or None for the secret one.
    """

    def told(site: Site) -> dict[str, Any]:
        # The policy of a site that wrote none allows nothing; no site.toml could say so.
        policy = None if site.policy == Policy.closed() else site.policy.model_dump(mode="json")
        return {**site.model_dump(mode="json", exclude={"policy"}), "policy": policy}

    listed = {"seed": seed, "sites": [told(site) for site in sites]}
    path.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def main(listed: Path, folder: Path) -> None:
    """Serve every agent of the list on FOLDER/N.sock until standard input is closed."""
    torch.set_num_threads(1)  # how many there are changes the last bit of a sum
    told = json.loads(listed.read_text(encoding="utf-8"))
    servers = []
    for number, about in enumerate(told["sites"]):
        policy = Policy.model_validate(about["policy"]) if about["policy"] else Policy.closed()
        site = Site.model_validate({**about, "policy": policy})
        agent = Agent(site, rehearsal=Rehearsal(seed=told["seed"]))
        servers.append(serve(agent.handle, folder / f"{number}.sock"))
    print("ready", flush=True)
    sys.stdin.read()
    for server in servers:
        server.stop(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""What secure aggregation costs: masked rounds over bare ones, masks by themselves, and Flower's SecAgg+ beside them."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pmfed_client.agent.agent import Agent
from pmfed_client.connection import agent_address as resident
from pmfed_client.connection.app import app as client_app
from pmfed_client.site.policy import Policy
from pmfed_client.site.site import Site
from pmfed_server.rounds import Rounds

from pmfed.cohort import Cohort, pool, read_cohort
from pmfed.methods import plan_for
from pmfed.models import build, flatten
from pmfed.secagg.masks import add_pairwise
from pmfed.study import Study
from pmfed_simulations.bench import REPEATS, BenchRow
from pmfed_simulations.grid import LocalGrid
from pmfed_simulations.rosters import pin_rosters
from pmfed_simulations.simulate import Options, prepare
from pmfed_simulations.studies import find_study

HIDDEN = (1024, 900)  # with 64 inputs and 10 classes: a million parameters
LARGE = 25_000_000
HALF_A_SECOND = 0.5


def rows() -> list[BenchRow]:
    """Measure and return the rows."""
    torch.set_num_threads(1)
    found = [_round(10, 0, 1.1), _round(50, 0, 1.25), _round(50, 5, None), _alone()]
    return [*found, _flower()]


def _round(sites: int, dropouts: int, target: float | None) -> BenchRow:
    """Compare a round with masks and the same round with the masks left out, charges and all."""
    study = find_study("digits").replace(
        model={"kind": "fusion", "hidden": HIDDEN, "embedding": 16},
        training={"rounds": 4 * (REPEATS + 2)},
        aggregation={"dropouts": dropouts},
    )
    with tempfile.TemporaryDirectory() as folder:
        agents = _agents(study, sites, Path(folder))
        for name, agent in agents.items():
            resident.register(name, agent)
        nodes = {number: {"site": name} for number, name in enumerate(agents, start=1)}
        run = "ab" * 16
        with LocalGrid(client_app, nodes) as grid:
            rounds = Rounds(grid, study, plan_for(study, sites), Path(folder), run=run, sites=sites, patience=600.0)
            rounds._enroll()
            masked = {name: agent._sessions[run].masking for name, agent in agents.items()}
            taken: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(REPEATS + 1):
                for hidden in taken:
                    for name, agent in agents.items():
                        agent._sessions[run].masking = masked[name] if hidden else None
                    rounds.enrolment.masked = hidden
                    ask = rounds.method.next()
                    assert ask is not None
                    taken[hidden].append(_timed(partial(rounds._one_round, ask)))
        for name in agents:
            resident.forget(name)
    size = len(flatten(build(study)))
    how = "dropout recovery" if dropouts else "masked"
    ours, other = (statistics.median(taken[hidden][1:]) for hidden in (True, False))
    name = f"a round, {sites} sites, {size / 1e6:.1f}M parameters: {how} / bare"
    return BenchRow(name, round(ours, 4), round(other, 4), round(ours / other, 3), target)


def _agents(study: Study, count: int, folder: Path) -> dict[str, Agent]:
    """Deal the digits out to so many sites."""
    source = prepare(Options(study="digits", out=str(folder / "digits")))
    everybody = pool([read_cohort(study, site.sources, site.name) for site in source.sites])
    policy = Policy(min_patients=1, epsilon=100.0, delta=study.privacy.delta, exact_metrics=True, per_site_metrics=True)
    sites, cohorts = [], dict[str, Cohort]()
    for number in range(count):
        name = f"site-{number + 1:02d}"
        (folder / name).mkdir()
        sites.append(Site(name=name, folder=folder / name, policy=policy))
        cohorts[name] = everybody.select(np.arange(everybody.patients) % count == number)
    pin_rosters(sites)
    return {site.name: Agent(site, cohort=cohorts[site.name]) for site in sites}


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _alone() -> BenchRow:
    """Mask a large vector for ten sites, on one core."""
    words = np.zeros(LARGE, np.uint32)
    keys = {f"site-{number}": bytes([number]) * 32 for number in range(9)}
    taken = [_timed(lambda: add_pairwise(words, "site-5x", keys)) for _ in range(REPEATS + 1)]
    seconds = statistics.median(taken[1:])
    name = "masking 25M parameters, 10 sites, one core / half a second"
    return BenchRow(name, round(seconds, 4), HALF_A_SECOND, round(seconds / HALF_A_SECOND, 3), 1.0)


def _flower() -> BenchRow:
    """Mask a million parameters for ten sites, ours beside what Flower's SecAgg+ does with the same vector."""
    name = "masking 1M parameters, 10 sites: pmfed / Flower SecAgg+"
    try:
        from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    except ImportError:
        return BenchRow(name, 0.0, 0.0, 0.0, None, note="skipped: this Flower has no SecAgg+")
    words = np.zeros(1_000_000, np.uint32)
    keys = {f"site-{number}": bytes([number]) * 32 for number in range(9)}

    def theirs() -> None:  # as flwr.client.mod.secure_aggregation does it, peer by peer
        vector = [np.zeros(1_000_000, np.int64)]
        for key in keys.values():
            vector = parameters_addition(vector, pseudo_rand_gen(key, 1 << 32, [(1_000_000,)]))
        parameters_mod(vector, 1 << 32)

    taken = [(_timed(lambda: add_pairwise(words, "site-5x", keys)), _timed(theirs)) for _ in range(REPEATS + 1)]
    ours, other = (statistics.median(pair[side] for pair in taken[1:]) for side in (0, 1))
    return BenchRow(name, round(ours, 4), round(other, 4), round(ours / other, 3), None)


if __name__ == "__main__":
    print(json.dumps([vars(row) for row in rows()], indent=1))

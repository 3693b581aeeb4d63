"""The Flower ServerApp: reads RUN/study.toml, takes the run to its end, writes what it leaves behind.

The run configuration names the folder (``run``), the run id (``id``), how many sites to wait for (``sites``), how
long (``patience``, seconds) and the file that says whose node is whose (``registered``).
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pmfed.errors import PmfedError
from pmfed.memory import let_go_early
from pmfed.methods import plan_for
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study
from pmfed_server.enrolment import Owner, Registered
from pmfed_server.results import summarise, write_results
from pmfed_server.rounds import Rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of the folder that the run configuration names."""
    torch.set_num_threads(1)
    let_go_early()
    config = context.run_config
    folder = Path(str(config["run"]))
    try:
        study = Study.read(folder / "study.toml")
        sites = int(config["sites"])
        conduct(
            grid,
            study,
            plan_for(study, sites),
            folder,
            run=str(config["id"]),
            sites=sites,
            patience=float(config.get("patience", 600.0)),
            registered=owners(Path(str(config["registered"]))) if "registered" in config else None,
        )
    except PmfedError as error:
        # Flower may run this app in a process of its own: the folder is where the caller looks for the reason.
        said = {"code": error.code, "what": error.what, "remedy": error.remedy}
        (folder / "failed.json").write_text(json.dumps(said), encoding="utf-8")
        raise


def conduct(
    grid: Grid, study: Study, plan: PrivacyPlan, folder: Path, *, run: str, sites: int, patience: float,
    registered: Registered | None = None,
) -> None:  # fmt: skip
    """Take a run to its end and write RUN/; parameters as for `Rounds`."""
    started = time.perf_counter()
    outcome = Rounds(grid, study, plan, folder, run=run, sites=sites, patience=patience, registered=registered).run()
    result = summarise(study, outcome.plan, outcome, time.perf_counter() - started)
    if registered is not None:  # a deployment, begun by a command that whoever reads the report may give again
        asked = ("--sites", str(sites), "--out", str(folder), "--patience", f"{patience:g}")
        result["command"] = shlex.join(("pmfed", "coordinator", "run", str(folder / "study.toml"), *asked))
    write_results(folder, study, outcome, result)


def owners(path: Path) -> Registered:
    """Return a way to read, at any time, from the coordinator's registered.json which site each node belongs to."""
    return lambda: {
        int(told["node"]): Owner(str(told["site"]), str(told["key"]))
        for told in json.loads(path.read_text(encoding="utf-8")).values()
    }

"""What is handed to Flower, and Flower's command line pointed at one SuperLink.

The bundle is one pyproject.toml that points at installed modules: no code travels to a hospital, each runs what it
has installed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from pmfed import __version__
from pmfed.errors import ERRORS, PmfedError, RunError

ANSWERS = 120.0  # seconds Flower's command line may take


def bundle(config: Mapping[str, str | int | float]) -> str:
    """Return the bundle Flower ships, with a run configuration."""
    flwr = {
        "publisher": "pmfed",
        "fab-include": ["pyproject.toml"],
        "components": {"serverapp": "pmfed_server.app:app", "clientapp": "pmfed_client.connection.app:app"},
        "config": dict(config),
    }
    project = {"name": "pmfed-run", "version": __version__, "license": "Apache-2.0", "dependencies": []}
    return tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flwr}}})


def failure_of(folder: Path, said: str, log: Path) -> PmfedError:
    """Return why the run in a folder failed: what its ServerApp left in failed.json, or what Flower said."""
    noted = folder / "failed.json"
    if noted.exists():
        told = json.loads(noted.read_text(encoding="utf-8"))
        return ERRORS.get(told["code"], PmfedError)(told["what"], told["remedy"])
    return RunError(f"the run ended without a result: {said}.", f"See the end of {log}.")


@dataclass(frozen=True)
class Flwr:
    """Flower's command line, pointed at one SuperLink.

    Parameters
    ----------
    environment
        Its FLWR_HOME holds the config.toml that ``point`` writes.
    folder
        Working directory of the commands.
    log
        What a failing command said is appended here.
    """

    environment: Mapping[str, str]
    folder: Path
    log: Path

    def point(self, address: str, certificate: Path | None = None) -> None:
        """Write the configuration that names the SuperLink; without a certificate the connection is plain."""
        how: dict[str, object] = {"root-certificates": str(certificate)} if certificate else {"insecure": True}
        connection = {"superlink": {"default": "own", "own": {"address": address, **how}}}
        path = Path(self.environment["FLWR_HOME"]) / "config.toml"
        path.write_text(tomli_w.dumps(connection), encoding="utf-8")

    def submit(self, app: Path, federation: Mapping[str, object] | None = None) -> str:
        """Submit the bundle in a folder and return Flower's number of the run."""
        spelled = " ".join(f"{name}={value}" for name, value in (federation or {}).items())
        answer = self.ask("run", str(app), *(["--federation-config", spelled] if spelled else []))
        return str(answer["run-id"])

    def status(self, number: str) -> str:
        """Return Flower's word for how a run stands."""
        runs = self.ask("list", "--run-id", number)["runs"]
        return str(runs[0]["status"])

    def ask(self, *words: str) -> dict[str, Any]:
        """Run a command and return its answer.

        Raises
        ------
        RunError
            It failed, and what it said is in the log; or it did not end in time.
        """
        try:
            done = subprocess.run(
                ["flwr", *words, "--format", "json"], env={**os.environ, **self.environment}, cwd=self.folder,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWERS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RunError(
                f"'flwr {words[0]}' did not answer within {ANSWERS:.0f} s.", "Is the machine overloaded? Try again."
            ) from None
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            answer = {}
        if done.returncode != 0 or not answer.get("success"):
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"\nflwr {words[0]} said:\n{done.stdout}{done.stderr}\n")
            raise RunError(f"'flwr {words[0]}' failed.", f"See the end of {self.log}.")
        return answer

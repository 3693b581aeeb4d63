"""The agent as a process of its own: it answers on SITE/agent.sock until it is asked to stop.

``python -m pmfed_client.connection.agent_process SITE [SEED]``; `pmfed site start` runs it. A seed makes its noise repeatable and so
worthless: for trial federations only, noted in the audit log and told to the coordinator, whose report says so.
"""

from __future__ import annotations

import copy
import logging
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType

import torch

from pmfed import __version__
from pmfed.errors import PmfedError
from pmfed.memory import keep_freed
from pmfed.plain import plain_lines
from pmfed_client.agent.agent import Agent, Rehearsal
from pmfed_client.connection.channel import serve
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.policy_changes import note_policy
from pmfed_client.site.site import Site

log = logging.getLogger("pmfed.site")


class Reticent(logging.Formatter):
    """Says where an error came from and of which kind it is, never its text: a library may quote a patient's value.

    For the same reason what libraries themselves log is not shown, only that they did.
    """

    def format(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] != "pmfed":
            record = copy.copy(record)
            record.msg, record.args = f"{record.name} said something; it might quote a value, and is not shown", ()
        return plain_lines(super().format(record))  # a coordinator may have worded it

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        kind, _, where = ei
        lines = [f"  {one.filename}:{one.lineno} in {one.name}" for one in traceback.extract_tb(where)]
        return "\n".join([*lines, kind.__name__ if kind else ""])


def live(folder: Path, seed: int | None = None) -> None:
    """Serve a site's agent until SIGTERM or SIGINT."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread is started: they shall not take it
    site = Site.read(folder)
    audit = AuditLog(site.audit_log)
    for _ in audit.lines() if site.audit_log.exists() else ():
        pass  # a log that was changed is an error at once, not in the first run
    if seed is not None:
        torch.set_num_threads(1)  # how many there are changes the last bit of a sum
        log.warning("%s: INSECURE: noise comes from a seed and protects nobody", site.name)
    agent = Agent(site, rehearsal=Rehearsal(seed=seed), resident=True)
    note_policy(site)
    audit.add("start" if seed is None else "start INSECURE", version=__version__)
    server = serve(agent.handle, site.socket, site.node_user)
    log.info("%s: the agent answers", site.name)
    signal.sigwait(ends)
    server.stop(5.0).wait()
    audit.add("stop")
    log.info("%s: the agent has stopped", site.name)


def main() -> None:
    """Log to standard error, soberly, and live."""
    keep_freed()
    warnings.simplefilter("ignore")  # they, too, may quote a value
    handler = logging.StreamHandler()
    handler.setFormatter(Reticent("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    try:
        live(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    except PmfedError as error:
        log.error("%s: %s", error.code, error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

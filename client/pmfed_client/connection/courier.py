"""The courier as it runs at a real site: takes one message after the other from the SuperNode to the agent and back.

It stands where Flower's SuperExec would, and speaks the same protocol with the SuperNode. But where Flower unpacks the
bundle that came with a run and starts an interpreter to execute what is in it, for every message, this process forks
and carries the message with the courier that the hospital installed. So nothing that arrives over the network is ever
executed, and no message waits for Python to start and Flower to load. The protocol is in `flower_internals`.

``python -m pmfed_client.connection.courier ADDRESS SECRET_FILE``
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from pmfed.processes import no_proxies
from pmfed_client.connection.app import app
from pmfed_client.connection.flower_internals import FlowerTask, Waiting, not_carried

log = logging.getLogger("pmfed.courier")

LOOK, REST = 0.1, 1.0  # seconds between two looks for a message: during a run, and where none came for a while
AWAKE = 120.0  # seconds after a message in which the next is looked for often; a look costs the SuperNode 4 ms of a processor
GRACE = 3.0  # seconds a courier may take to end once the next message is there


def carry_all(address: str, secret: bytes) -> None:
    """Carry messages for ever; whoever keeps this process starts it anew when it ends."""
    os.environ.update(no_proxies())  # SuperNode and agent are on this machine: no proxy is to see what authorises us
    waiting = Waiting(address, secret)
    before, token, last = 0, "", -AWAKE
    while True:
        found = waiting.next()
        if found is None:
            time.sleep(LOOK if time.monotonic() - last < AWAKE else REST)
            continue
        last = time.monotonic()
        if _end(before):
            _give_up(address, token)
        before, token = os.fork(), found
        if before == 0:
            try:
                carry_one(address, token)
            finally:
                os._exit(0)  # nothing of the parent's is to be cleaned up here


def _end(process: int) -> bool:
    """See to it that the courier of the message before has ended; return whether it had to be made to.

    A SuperNode has one message under way at a time, but may hand out one whose content will never come, because its
    run was stopped meanwhile: who waits for that waits for ever.
    """
    deadline = time.monotonic() + GRACE
    while process and os.waitpid(process, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            log.warning("a message was given up: its content did not come")
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return True
        time.sleep(0.02)
    return False


def _give_up(address: str, token: str) -> None:
    """Tell the SuperNode that a message will not be answered.

    Else it answers in a minute itself, that its courier has crashed; takes that for the answer to whatever message is
    under way by then; and hands out every later answer one message late.
    """
    FlowerTask(address, token, patient=False).end(completed=False)


def carry_one(address: str, token: str) -> None:
    """Carry one message to the agent and its answer back."""
    task = FlowerTask(address, token)
    task.keep_alive()  # a step may take longer than Flower's patience
    completed = False
    try:
        message, context = task.take()
        try:
            reply = app(message=message, context=context)
            completed = True
        except Exception as error:  # an action we do not have; its text would travel
            log.warning("a message could not be carried (%s)", type(error).__name__)
            reply = not_carried(message)
        task.answer(reply)
    except Exception as error:
        log.warning("the SuperNode did not take part (%s)", type(error).__name__)
    finally:
        task.end(completed)


if __name__ == "__main__":
    carry_all(sys.argv[1], Path(sys.argv[2]).read_bytes())

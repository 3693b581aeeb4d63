"""The courier as it runs at a real site: takes one message after the other from the SuperNode to the agent and back.

It stands where Flower's SuperExec would, and speaks the same protocol with the SuperNode. But where Flower unpacks the
bundle that came with a run and starts an interpreter to execute what is in it, for every message, this process forks
and carries the message with the courier that the hospital installed. So nothing that arrives over the network is ever
executed, and no message waits for Python to start and Flower to load. It uses parts of Flower that are not promised to stay as they are;
pyproject.toml pins the versions, and tests/e2e runs it.

``python -m pmfed_client.connection.courier ADDRESS SECRET_FILE``
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from pmfed.processes import no_proxies
from pmfed_client.connection.app import app

log = logging.getLogger("pmfed.courier")

LOOK, REST = 0.1, 1.0  # seconds between two looks for a message: during a run, and where none came for a while
AWAKE = 120.0  # seconds after a message in which the next is looked for often; a look costs the SuperNode 4 ms of a processor
GRACE = 3.0  # seconds a courier may take to end once the next message is there
PROTECTED = frozenset({"/flwr.proto.Runtime/AcquireTask"})


def carry_all(address: str, secret: bytes) -> None:
    """Carry messages for ever; whoever keeps this process starts it anew when it ends."""
    os.environ.update(no_proxies())  # SuperNode and agent are on this machine: no proxy is to see what authorises us
    asks = _client(
        address, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=PROTECTED), "SuperExec"
    )
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    before, token, last = 0, "", -AWAKE
    while True:
        found = asks.AcquireTask(wanted)
        if not (found.HasField("task") and found.token):
            time.sleep(LOOK if time.monotonic() - last < AWAKE else REST)
            continue
        last = time.monotonic()
        if _end(before):
            _give_up(address, token)
        before, token = os.fork(), found.token
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
    client = _client(address, RuntimeTokenHttpInterceptor(token), "flwr-clientapp", patient=False)
    try:
        push_task_output(client, None, SubStatus.FAILED, "")
    finally:
        client.close()


def carry_one(address: str, token: str) -> None:
    """Carry one message to the agent and its answer back."""
    client = _client(address, RuntimeTokenHttpInterceptor(token), "flwr-clientapp")
    alive = HeartbeatSender(make_task_heartbeat_fn_http(client))  # a step may take longer than Flower's patience
    alive.start()
    context, status = None, SubStatus.FAILED
    try:
        message, context, _, _ = pull_task_input(client)  # run and bundle are of no use here
        try:
            reply = app(message=message, context=context)
            status = SubStatus.COMPLETED
        except Exception as error:  # an action we do not have; its text would travel
            log.warning("a message could not be carried (%s)", type(error).__name__)
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "not carried"), reply_to=message)
        push_message(client, reply, context)
    except Exception as error:
        log.warning("the SuperNode did not take part (%s)", type(error).__name__)
    finally:
        push_task_output(client, context, status, "")
        alive.stop()
        client.close()


def _client(
    address: str,
    credential: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor,
    name: str,
    patient: bool = True,
) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # the loopback interface
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=name), credential],
        retry_invoker=make_simple_http_retry_invoker() if patient else None,
    )


if __name__ == "__main__":
    carry_all(sys.argv[1], Path(sys.argv[2]).read_bytes())

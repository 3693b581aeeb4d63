"""The inner parts of Flower that a site's courier stands on: how a SuperNode hands out messages, and takes answers.

Flower's SuperExec and its ClientApp process speak like this with their SuperNode, on the loopback interface. None of it
is promised to stay: see `pmfed.flower_version`.
"""

from __future__ import annotations

from pmfed.flower_version import check_flower

check_flower()

from flwr.app import Context, Error, Message
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

PROTECTED = frozenset({"/flwr.proto.Runtime/AcquireTask"})


class Waiting:
    """Asks a SuperNode for messages, in SuperExec's place."""

    def __init__(self, address: str, secret: bytes) -> None:
        credential = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=PROTECTED)
        self._client = _client(address, credential, "SuperExec")

    def next(self) -> str | None:
        """Return what authorises whoever carries the next message; None while there is none."""
        found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        return found.token if found.HasField("task") and found.token else None


class FlowerTask:
    """One message under way between SuperNode and agent, in the place of a ClientApp process.

    Parameters
    ----------
    address
        Of the SuperNode.
    token
        As `Waiting.next` returned it.
    patient
        Whether to ask again when the SuperNode does not answer.
    """

    def __init__(self, address: str, token: str, patient: bool = True) -> None:
        self._client = _client(address, RuntimeTokenHttpInterceptor(token), "flwr-clientapp", patient)
        self._context: Context | None = None
        self._alive: HeartbeatSender | None = None

    def keep_alive(self) -> None:
        """Tell the SuperNode from time to time that the message is still being carried."""
        self._alive = HeartbeatSender(make_task_heartbeat_fn_http(self._client))
        self._alive.start()

    def take(self) -> tuple[Message, Context]:
        """Return the message; its run and its bundle are of no use here."""
        message, self._context, _, _ = pull_task_input(self._client)
        return message, self._context

    def answer(self, reply: Message) -> None:
        """Hand over the answer to the message taken."""
        assert self._context is not None
        push_message(self._client, reply, self._context)

    def end(self, completed: bool) -> None:
        """Tell the SuperNode that this is over, and how it went."""
        try:
            push_task_output(self._client, self._context, SubStatus.COMPLETED if completed else SubStatus.FAILED, "")
        finally:
            if self._alive is not None:
                self._alive.stop()
            self._client.close()


def not_carried(message: Message) -> Message:
    """Return the answer to a message that could not be carried; it tells nothing of why."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "not carried"), reply_to=message)


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

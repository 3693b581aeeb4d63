"""The inner parts of Flower that the grid of one process stands on: a message's identity, and its bytes.

None of it is promised to stay: see `pmfed.flower_version`.
"""

from __future__ import annotations

from pmfed.flower_version import check_flower

check_flower()

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["Run", "from_bytes", "identify", "number", "to_bytes"]


def identify(run: int) -> None:
    """Tell Flower's messages which task they belong to, where no SuperLink does."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = run


def number(message: Message, name: str) -> None:
    """Give a message its id, as Flower's own in-memory grid does."""
    message.metadata.__dict__["_message_id"] = name


def to_bytes(message: Message) -> bytes:
    """Return a message in Flower's own encoding."""
    return message_to_proto(message).SerializeToString()


def from_bytes(encoded: bytes) -> Message:
    """Return the message of some bytes."""
    return message_from_proto(ProtoMessage.FromString(encoded))

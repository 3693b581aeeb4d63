"""Talking to sites over a Flower grid: ask, wait a bounded time, read strictly."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from pmfed.errors import RunError
from pmfed.wire import ALLOWED, Reply, Request, dump, parse_reply

MESSAGE_TYPES = {
    "enroll": "query.enroll",
    "statistics": "query.statistics",
    "step": "train.step",
    "evaluate": "evaluate",
    "finish": "query.finish",
}


@dataclass(frozen=True)
class Answer:
    """What one site said: a reply with its arrays, or the reason why there is none."""

    node: int
    reply: Reply | None
    arrays: dict[str, npt.NDArray[np.uint32]] = field(default_factory=dict)
    problem: str = ""
    code: str = ""

    @property
    def ok(self) -> bool:
        """Whether the site did what was asked."""
        return self.reply is not None and self.reply.ok


class Fleet:
    """The sites of a run, reached through Flower.

    Parameters
    ----------
    grid
        Flower's grid: in process, Ray, or a real SuperLink.
    patience
        Seconds to wait for an answer before a site counts as gone.
    """

    def __init__(self, grid: Grid, patience: float) -> None:
        self.grid = grid
        self.patience = patience
        self.bytes_up = 0
        self.bytes_down = 0
        self.asked = 0.0  # seconds spent waiting for sites

    def gather(self, sites: int) -> list[int]:
        """Wait a bounded time until ``sites`` nodes are there; return their ids in order.

        Raises
        ------
        RunError
            Fewer came.
        """
        deadline = time.monotonic() + self.patience
        while True:
            nodes = sorted(self.grid.get_node_ids())
            if len(nodes) >= sites:
                return nodes
            if time.monotonic() > deadline:
                raise RunError(
                    f"{len(nodes)} of {sites} sites connected within {self.patience:.0f} s.",
                    "Start the missing sites, or ask the study for fewer.",
                )
            time.sleep(0.2)

    def ask(
        self, request: Request, nodes: Iterable[int], vector: npt.NDArray[np.float32] | None = None
    ) -> list[Answer]:
        """Send one request to each node and return their answers in the order of the nodes.

        Parameters
        ----------
        request
            What to ask.
        nodes
            Whom.
        vector
            Parameters to send along, shape (parameters,).
        """
        started = time.perf_counter()
        content = RecordDict({"pmfed": ConfigRecord({"record": dump(request)})})
        if vector is not None:
            content["arrays"] = ArrayRecord({"parameters": Array(vector)})
        nodes = list(nodes)
        messages = [
            Message(
                content,
                message_type=MESSAGE_TYPES[request.kind],
                dst_node_id=node,
                group_id=str(request.round),
                ttl=self.patience + 60,
            )
            for node in nodes
        ]
        self.bytes_down += len(nodes) * (vector.nbytes if vector is not None else 0)
        answers = {}
        for message in self.grid.send_and_receive(messages, timeout=self.patience):
            node = message.metadata.src_node_id
            answers[node] = self._read(node, message, request)
        self.asked += time.perf_counter() - started
        return [answers.get(node) or Answer(node, None, problem="did not answer in time") for node in nodes]

    def _read(self, node: int, message: Message, request: Request) -> Answer:
        """Read one answer; whatever is wrong with it is that site's problem only."""
        if message.has_error():
            return Answer(node, None, problem="could not be reached")
        try:
            record = message.content.config_records.get("pmfed", ConfigRecord()).get("record", b"")
            if not isinstance(record, bytes) or not record:
                return Answer(node, None, problem="its courier could not reach the site agent")
            reply = parse_reply(record)
            if (reply.kind, reply.run, reply.round, reply.attempt) != (
                request.kind,
                request.run,
                request.round,
                request.attempt,
            ):
                return Answer(node, None, problem="answered another question")
            if not reply.ok:
                return Answer(node, reply, problem=reply.reason, code=reply.code)
            records = message.content.array_records.get("arrays", ArrayRecord())
            arrays = {name: array.numpy() for name, array in records.items()}
            for name, array in arrays.items():
                if name not in ALLOWED[request.kind] or array.dtype != np.uint32 or array.ndim != 1:
                    return Answer(node, None, problem=f"sent an array '{name}' that may not travel")
                self.bytes_up += array.nbytes
            return Answer(node, reply, arrays)
        except Exception as error:  # Flower's own reading fails in many ways; one site must not end the run
            return Answer(node, None, problem=f"sent something unreadable ({type(error).__name__})")

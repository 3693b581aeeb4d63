"""Talking to sites over a Flower grid: ask, wait a bounded time, read strictly."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from pmfed.errors import RunError
from pmfed.plain import plain
from pmfed.wire import ALLOWED, WORDS, Reply, Request, dump, parse_reply, unpack_array

MESSAGE_TYPES = {
    "enroll": "query.enroll",
    "keys": "query.keys",
    "shares": "query.shares",
    "ask": "query.ask",
    "sign": "query.sign",
    "unmask": "query.unmask",
    "finish": "query.finish",
}

State = Callable[[], Mapping[str, npt.NDArray[Any]]]
"""Gives the named arrays of a state when they are needed: whoever passes it on need not hold it."""
NOBODY = -1
# Where the grid cannot wait, seconds between two looks for answers: a twentieth of what was waited, within these.
SHORTEST, LONGEST = 0.01, 0.5
ROOM = 64 << 20  # bytes of answers taken from Flower at a time: of large models one, whoever else has answered


@dataclass(frozen=True)
class SiteReply:
    """What one site said: a reply with its arrays, or the reason why there is none."""

    node: int
    reply: Reply | None
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    problem: str = ""
    code: str = ""

    @property
    def ok(self) -> bool:
        """Whether the site did what was asked."""
        return self.reply is not None and self.reply.ok


@runtime_checkable
class Waits(Protocol):
    """A grid that knows when an answer comes. Flower's own does not: it is looked at every so often."""

    def wait(self, names: Collection[str], seconds: float) -> bool:
        """Return when one of these messages is answered or the time is over; without names, when a node comes.

        False when nothing can come any more, however long one waits.
        """


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

    def gather(self, sites: int, least: int | None = None) -> list[int]:
        """Wait a bounded time until ``sites`` nodes are there; return their ids in order.

        Raises
        ------
        RunError
            Fewer came, and fewer than ``least`` where that is given.
        """
        deadline = time.monotonic() + self.patience
        while True:
            nodes = sorted(self.grid.get_node_ids())
            if len(nodes) >= sites:
                return nodes
            left = deadline - time.monotonic()
            if left < 0 or not self._wait((), left, 0.2):
                if least is not None and len(nodes) >= least:
                    return nodes
                raise RunError(
                    f"{len(nodes)} of {sites} sites connected within {self.patience:.0f} s.",
                    "Start the missing sites, or ask the study for fewer.",
                )

    def ask(self, request: Request, nodes: Iterable[int], texts: Mapping[int, str] | None = None) -> list[SiteReply]:
        """Send a request without a state and return the answers in the order of the nodes."""
        nodes = list(nodes)
        answers = {answer.node: answer for answer in self.stream(request, nodes, texts=texts)}
        return [answers[node] for node in nodes]

    def stream(
        self,
        request: Request,
        nodes: Sequence[int],
        state: State | None = None,
        texts: Mapping[int, str] | None = None,
    ) -> Iterator[SiteReply]:
        """Send one request to each node and yield the answers as they arrive, one per node.

        Parameters
        ----------
        request
            What to ask.
        nodes
            Whom.
        state
            Gives the named arrays to send along.
        texts
            For some nodes, a text of their own.
        """
        since = time.monotonic()
        deadline = since + self.patience
        asked, size = self._push(request, nodes, state, texts)
        waiting = {name: node for name, node in asked if name}
        for name, node in asked:
            if not name:
                yield SiteReply(node, None, problem="is no longer known to Flower")
        at_once = max(1, ROOM // max(1, size))
        while waiting and time.monotonic() < deadline:
            names = list(waiting)
            for start in range(0, len(names), at_once):
                arrived = list(self.grid.pull_messages(names[start : start + at_once]))
                while arrived:  # let go of each before the next is looked at
                    message = arrived.pop()
                    node = waiting.pop(message.metadata.reply_to_message_id, NOBODY)
                    if node != NOBODY:  # else a reply to nothing that was asked
                        yield self._read(node, message, request)
                        del message
                        since = time.monotonic()
            if waiting:
                now = time.monotonic()
                if not self._wait(waiting, deadline - now, min(max(SHORTEST, (now - since) / 20), LONGEST)):
                    break
        for node in waiting.values():
            yield SiteReply(node, None, problem="did not answer in time")

    def _wait(self, names: Collection[str], seconds: float, pause: float) -> bool:
        """Wait as the grid can: for what comes, or no longer than ``pause`` for the next look. False: nothing comes."""
        if isinstance(self.grid, Waits):
            return self.grid.wait(names, seconds)
        time.sleep(pause)
        return True

    def _push(
        self, request: Request, nodes: Sequence[int], state: State | None, texts: Mapping[int, str] | None
    ) -> tuple[list[tuple[str, int]], int]:
        """Hand Flower a message to each node; return each one's name and node, and the bytes of the state.

        A function of its own, so that nothing of the state is kept while answers are awaited.
        """
        arrays = {} if state is None else dict(state())
        size = sum(array.nbytes for array in arrays.values())
        record = ArrayRecord({name: Array(arrays.pop(name)) for name in sorted(arrays)}) if arrays else None
        messages = []
        for node in nodes:
            own = request if texts is None else request.model_copy(update={"text": texts[node]})
            content = RecordDict({"pmfed": ConfigRecord({"record": dump(own)})})
            if record is not None:
                content["arrays"] = record  # one for all: Flower carries it to the SuperLink once
            kind, group = MESSAGE_TYPES[request.kind], str(request.round)
            messages.append(Message(content, node, kind, group_id=group, ttl=self.patience + 60))
            self.bytes_down += size + len(own.text)
        return list(zip(self.grid.push_messages(messages), nodes, strict=True)), size

    def _read(self, node: int, message: Message, request: Request) -> SiteReply:
        """Read one answer; whatever is wrong with it is that site's problem only."""
        if message.has_error():
            return SiteReply(node, None, problem="could not be reached")
        try:
            # Not content.config_records: Flower's views refer to what they show in a circle, so that a vector would be
            # let go of only when Python looks for circles, which counts objects and not bytes.
            said, sent = message.content.get("pmfed"), message.content.get("arrays")
            record = said.get("record", b"") if isinstance(said, ConfigRecord) else b""
            if not isinstance(record, bytes) or not record:
                return SiteReply(node, None, problem="its courier could not reach the site agent")
            reply = parse_reply(record)
            asked = (request.kind, request.query, request.run, request.round, request.attempt)
            if (reply.kind, reply.query, reply.run, reply.round, reply.attempt) != asked:
                return SiteReply(node, None, problem="answered another question")
            if not reply.ok:
                return SiteReply(node, reply, problem=reply.reason, code=reply.code)
            came = sent if isinstance(sent, ArrayRecord) else {}
            arrays = {name: unpack_array(array.data) for name, array in came.items()}
            self.bytes_up += len(reply.text)
            for name, array in arrays.items():
                if name not in ALLOWED[request.kind] or array.dtype not in WORDS or array.ndim != 1:
                    return SiteReply(node, None, problem=f"sent an array '{plain(name, 48)}' that may not travel")
                self.bytes_up += array.nbytes
            return SiteReply(node, reply, arrays)
        except Exception as error:  # Flower's own reading fails in many ways; one site must not end the run
            return SiteReply(node, None, problem=f"sent something unreadable ({type(error).__name__})")

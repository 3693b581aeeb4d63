"""Flower's grid inside one process: the same ServerApp and ClientApp, no SuperLink, no Ray.

Flower's strategies talk to the public `Grid` interface, so a grid that calls the ClientApp directly runs the very
apps that a deployment runs. With several workers the sites are spread over forked processes; messages then
cross a pipe in Flower's own protobuf encoding, never as pickles.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from pmfed.errors import RunError
from pmfed_simulations.flower_internals import Run, from_bytes, identify, number, to_bytes

LONGEST = 3600.0  # seconds that the system is asked to wait at once: it knows no infinity
RUN = 1  # the one run an in-process grid knows
FAILED = 200  # error code of an answer that never came about


class LocalGrid(Grid):
    """A Flower grid whose nodes live in this process or in forked workers.

    Parameters
    ----------
    app
        The ClientApp every node runs.
    nodes
        Node id -> Flower node configuration.
    workers
        Processes to spread the nodes over; 1 keeps them here.
    sizes
        Patients at each node, so that every worker gets about as much to do; without it all count the same.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: Mapping[int, dict[str, Any]],
        workers: int = 1,
        sizes: Mapping[int, int] | None = None,
    ) -> None:
        identify(RUN)
        self._app = app
        self._contexts = {node: Context(RUN, node, dict(config), RecordDict(), {}) for node, config in nodes.items()}
        self._replies: dict[str, Message] = {}
        self._sent = 0
        workers = min(workers, len(self._contexts))
        self._home = _spread(self._contexts, sizes or {}, workers)
        self._queues: list[deque[Message]] = [deque() for _ in range(max(workers, 1))]
        self._busy: set[int] = set()
        self._workers = [
            _Worker(app, {node: self._contexts[node] for node, home in self._home.items() if home == index})
            for index in range(workers if workers > 1 else 0)
        ]

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in reversed(self._workers):  # each one holds copies of the pipes of those before it
            worker.stop()

    def set_run(self, run: Run) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(RUN)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Put messages down for their nodes; workers begin at once."""
        ids = []
        for message in messages:
            self._sent += 1
            number(message, str(self._sent))
            ids.append(message.metadata.message_id)
            home = self._home[message.metadata.dst_node_id]
            self._queues[home].append(message)
        self._feed()
        return ids

    def _feed(self) -> None:
        """Give each idle worker one message: two full pipes facing each other would wait for ever."""
        for home, worker in enumerate(self._workers):
            if home not in self._busy and self._queues[home]:
                worker.give(self._queues[home].popleft())
                self._busy.add(home)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, once.

        A reply is held here until it is pulled; `wait` gets no more of them than there are workers.
        """
        return [reply for name in set(message_ids) if (reply := self._replies.pop(name, None)) is not None]

    def wait(self, names: Collection[str], seconds: float = math.inf) -> bool:
        """Have the nodes work until one of these messages is answered; a node in this process is not interrupted.

        Parameters
        ----------
        names
            Ids of messages; without any, a node is waited for, and none comes: whoever is there is all.
        seconds
            How long to wait for other processes.

        Returns
        -------
        bool
            False when nothing can come any more: no such message is under way.
        """
        deadline = time.monotonic() + seconds
        while names and not any(name in self._replies for name in names):
            left = deadline - time.monotonic()
            if left < 0:
                return True
            if not self._work(left):
                return False
        return bool(names)

    def _work(self, seconds: float) -> bool:
        """Get some answers, within that time if other processes make them; False when nothing is under way."""
        if not self._workers:
            if not self._queues[0]:
                return False
            message = self._queues[0].popleft()
            context = self._contexts[message.metadata.dst_node_id]
            self._replies[message.metadata.message_id] = _answer(self._app, message, context)
            return True
        if not self._busy:
            return False
        wait([handle for home in self._busy for handle in self._workers[home].handles], min(seconds, LONGEST))
        for home in [home for home in self._busy if self._workers[home].ready()]:
            reply = self._workers[home].take()
            self._replies[reply.metadata.reply_to_message_id] = reply
            self._busy.discard(home)
        self._feed()
        return True

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, and pull until every reply is there."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            self.wait(waiting)
            arrived = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
        return replies


def _spread(nodes: Iterable[int], sizes: Mapping[int, int], workers: int) -> dict[int, int]:
    """Give each node, the largest first, to the worker that has least to do (Graham 1969)."""
    load = [0] * workers
    home = {}
    for node in sorted(nodes, key=lambda node: -sizes.get(node, 1)):
        home[node] = load.index(min(load))
        load[home[node]] += sizes.get(node, 1)
    return home


class _Worker:
    """A forked process with some of the nodes. What was loaded before the fork is shared, not copied."""

    def __init__(self, app: ClientApp, contexts: Mapping[int, Context]) -> None:
        here, there = multiprocessing.Pipe()
        self._pipe = here
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_serve, args=(app, contexts, there, here), daemon=True)
        self._process.start()
        there.close()

    @property
    def handles(self) -> list[Any]:
        """What to wait on: an answer, or the end of the process."""
        return [self._pipe, self._process.sentinel]

    def give(self, message: Message) -> None:
        """Send one message."""
        try:
            self._pipe.send_bytes(to_bytes(message))
        except ConnectionError:
            raise _died() from None

    def ready(self) -> bool:
        """Whether an answer lies there; RunError when none can come any more."""
        if self._pipe.poll():
            return True
        if not self._process.is_alive():
            raise _died()
        return False

    def take(self) -> Message:
        """Read one answer."""
        try:
            return from_bytes(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            raise _died() from None

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _died() -> RunError:
    return RunError("a worker process of the simulation died.", "Is the machine out of memory? Try --workers 1.")


def _serve(app: ClientApp, contexts: Mapping[int, Context], pipe: Connection, parents: Connection) -> None:
    """Answer messages until the pipe closes."""
    parents.close()  # our copy of the other end would keep it open for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    try:
        while True:
            message = from_bytes(pipe.recv_bytes())
            reply = _answer(app, message, contexts[message.metadata.dst_node_id])
            pipe.send_bytes(to_bytes(reply))
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Run the ClientApp; an exception becomes Flower's error reply, as on a real node."""
    try:
        return app(message, context)
    except Exception as error:
        return Message(Error(FAILED, type(error).__name__), reply_to=message)

"""A whole run through Flower's own grid: the coordinator never holds more than Flower's way of unpacking an answer takes.

Flower's `HttpGrid` is the real one. Only the SuperLink behind it is not there: what is pushed lies on disk, and the
answers of the sites, made once, are pulled from there. Memory is NumPy's and Python's, in models.
"""

# ruff: noqa: N802 (the names are Flower's)

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectResponse
from flwr.proto.runtime_pb2 import GetNodesResponse, PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from pmfed_server import fleet, stored
from pmfed_server.results import write_model
from pmfed_server.rounds import Rounds

from pmfed.models import shared_start
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.grid import gradient_grid
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.wire import Reply, Request, dump, parse_request

SITES = 3
PIECE = 1 << 17  # bytes; Flower's own is 5 MB, against models of 100


class Link:
    """Speaks as a SuperLink does, and as three sites that say yes and send what they are asked for."""

    def __init__(self, folder: Path, study: Study, size: int) -> None:
        self.folder, self.study, self.size = folder, study, size
        self.most, self.requests = 0, dict[str, Any]()
        self.trees: dict[str, Any] = {}
        rng = np.random.default_rng(5)
        grid = gradient_grid(study, SITES)
        words = {
            "step": rng.integers(0, 200, size, dtype=grid.word),
            "evaluate": np.ones(task_for(study).cells, grid.word),
        }
        self.sums = {kind: ArrayRecord({"sum": Array(values)}) for kind, values in words.items()}
        for record in self.sums.values():
            self._keep(record)

    def _keep(self, record: Any) -> None:
        for name, part in get_all_nested_objects(record).items():
            (self.folder / name).write_bytes(part.deflate())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens here happens in another process."""
        self.most = max(self.most, tracemalloc.get_traced_memory()[1])
        yield
        gc.collect()
        tracemalloc.reset_peak()

    def GetNodes(self, _: Any) -> Any:
        return GetNodesResponse(nodes=[{"node_id": node} for node in range(1, SITES + 1)])

    def PushMessages(self, asked: Any) -> Any:
        names = [message.metadata.message_id for message in asked.messages_list]
        objects = list({one.object_id for tree in asked.message_object_trees for one in iterate_object_tree(tree)})
        for message, tree in zip(asked.messages_list, asked.message_object_trees, strict=True):
            self.requests[message.metadata.message_id] = message_from_proto(message), tree
        return PushAppMessagesResponse(message_ids=names, objects_to_push=objects)

    def PushObject(self, asked: Any) -> Any:
        (self.folder / asked.object_id).write_bytes(asked.object_content)
        return PushObjectResponse(stored=True)

    def PullObject(self, asked: Any) -> Any:
        content = (self.folder / asked.object_id).read_bytes()
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, _: Any) -> None: ...

    def PullMessages(self, asked: Any) -> Any:
        told, trees = [], []
        with self.aside():
            for name in asked.message_ids:
                message, tree = self.requests.pop(name)
                reply = self._answer(message, self._request(tree))
                with no_object_id_recompute():
                    reply.metadata.__dict__["_message_id"] = reply.object_id
                    self._keep(reply)
                    trees.append(get_object_tree(reply))
                told.append(message_to_proto(remove_content_from_message(reply)))
        return PullAppMessagesResponse(messages_list=told, message_object_trees=trees)

    def _request(self, tree: Any) -> Request:
        for one in iterate_object_tree(tree):
            content = (self.folder / one.object_id).read_bytes()
            if content.startswith(b"ConfigRecord"):
                record = inflatable_utils.inflate_object_from_contents(one.object_id, {one.object_id: content})
                return parse_request(record["record"])  # type: ignore[index]
        raise AssertionError

    def _answer(self, message: Message, request: Request) -> Message:
        node = message.metadata.dst_node_id
        reply = Reply(**request.model_dump(include={"kind", "run", "round", "attempt"}), site=f"site-{node}")
        content = RecordDict({"pmfed": ConfigRecord({"record": dump(reply)})})
        if request.kind in self.sums:
            content["arrays"] = self.sums[request.kind]
        return Message(content, reply_to=message)


def peak(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> float:
    """Run a study to its end and return the most memory it took, in models."""
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", PIECE)
    monkeypatch.setattr(stored, "PART", 1 << 14)
    monkeypatch.setattr(fleet, "ROOM", 1)  # as it is to a large model: one answer at a time
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    study = Study.from_text(federation.STUDY, "study.toml").replace(
        model={"kind": "fusion", "hidden": [1000, 1000]}, evaluation={"per_site": False}, **changes
    )
    size = len(shared_start(study))
    for name in ("run", "link"):
        (folder / name).mkdir(parents=True)
    link = Link(folder / "link", study, size)
    grid = HttpGrid(token="none")
    grid._client = link  # type: ignore[assignment]
    grid.set_run(Run.create_empty(1))
    plan = PrivacyPlan.solve(study, SITES)
    gc.collect()
    gc.freeze()  # so that looking for circles in `Link.aside` is quick
    gc.disable()  # it counts objects, not bytes: nothing may wait for it
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = Rounds(grid, study, plan, folder / "run", run="ab" * 16, sites=SITES, patience=5.0).run()
        write_model(folder, study, found.parameters, found.statistics)
        most = max(link.most, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
        gc.enable()
        gc.unfreeze()
    assert found.rounds == study.training.rounds
    return (most - before) / (4 * size)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_run_takes_no_more_than_flower_takes_for_one_answer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"name": name, "learning_rate": 0.1}
    assert peak(tmp_path, monkeypatch, training={"rounds": 2, "optimizer": rule}) < 3.5

"""A site whose courier answers garbage: a real agent, Flower's real SuperNode, and between them a program that lies.

``python hostile.py SITE SEED`` starts one, as `pmfed site start` would. What it answers depends on the round, so that the
rounds between have something to compare with.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from pmfed.processes import hand_over
from pmfed.wire import parse_request

MARK = Path("executed")  # in the courier's folder: there once somebody loaded the pickle


class Executed:
    """Leaves a mark where it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(MARK.absolute()),)


def _pickle() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Executed()], dtype=object), allow_pickle=True)
    return file.getvalue()


def _lying(reply: RecordDict) -> None:
    whole = reply.array_records["arrays"]["sum"]
    lie = Array(dtype=whole.dtype, shape=(10**9,), stype=whole.stype, data=whole.data[:-3])
    reply["arrays"] = ArrayRecord({"sum": lie})


def _words(change: Callable[[np.ndarray], np.ndarray], name: str = "sum") -> Callable[[RecordDict], None]:
    def spoil(reply: RecordDict) -> None:
        reply["arrays"] = ArrayRecord({name: Array(change(reply.array_records["arrays"]["sum"].numpy()))})

    return spoil


def _record(record: bytes) -> Callable[[RecordDict], None]:
    def spoil(reply: RecordDict) -> None:
        reply["pmfed"] = ConfigRecord({"record": record})

    return spoil


def _pickled(reply: RecordDict) -> None:
    lie = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=_pickle())
    reply["arrays"] = ArrayRecord({"sum": lie})


GARBAGE: dict[int, tuple[Callable[[RecordDict], None], str]] = {
    2: (_record(os.urandom(5000)), "sent something unreadable (ProtocolError)"),
    4: (_words(lambda sum: sum[:-3]), "sent a vector of the wrong length"),
    6: (_lying, "sent something unreadable (ValueError)"),
    8: (_pickled, "sent something unreadable (ValueError)"),
    10: (_words(lambda sum: sum.astype(np.float64)), "sent an array 'sum' that may not travel"),
    12: (_words(lambda sum: sum, "patients"), "sent an array 'patients' that may not travel"),
}
"""By round: what is done to the answer, and what the coordinator shall say of it."""


def lie(message: Message, context: Context) -> Message:
    """Carry a message, and spoil the answer to the first attempt at some rounds."""
    from pmfed_client.connection.app import app

    reply = app(message=message, context=context)
    asked = parse_request(bytes(message.content["pmfed"]["record"]))  # type: ignore[arg-type]
    if asked.what == "step" and asked.attempt == 0 and asked.round in GARBAGE:
        GARBAGE[asked.round][0](reply.content)
    return reply


if __name__ == "__main__":
    if ":" in sys.argv[1]:
        from pmfed_client.connection import courier as couriers

        couriers.app = lie  # type: ignore[assignment]
        couriers.carry_all(sys.argv[1], Path(sys.argv[2]).read_bytes())
    else:
        from pmfed_client.connection.processes import programs
        from pmfed_client.site.site import Site

        site = Site.read(Path(sys.argv[1]))
        *rest, courier = programs(site, int(sys.argv[2]))
        liar = (sys.executable, __file__, *courier.command[3:])
        hand_over(site.folder, [*rest, replace(courier, command=liar)])

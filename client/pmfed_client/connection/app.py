"""The Flower ClientApp: a courier. It hands each message to the site agent and the answer back.

It knows no patient data and decides nothing: the record travels as the bytes it came in, arrays as they are.
Whatever goes wrong becomes a code and a safe sentence, because Flower sends a ClientApp's exception text to
the coordinator.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pmfed.wire import unpack_array
from pmfed_client.connection.agent_address import connect

app = ClientApp()


@app.query("enroll")
@app.query("keys")
@app.query("shares")
@app.query("ask")
@app.query("sign")
@app.query("unmask")
@app.query("finish")
def carry(message: Message, context: Context) -> Message:
    """Hand one message to the site's agent and return its answer."""
    record, arrays = b"", {}
    try:
        record = bytes(message.content["pmfed"]["record"])  # type: ignore[arg-type]
        # Not content.array_records: Flower's views keep what they show until Python looks for circles.
        incoming = message.content.get("arrays")
        sent = incoming if isinstance(incoming, ArrayRecord) else {}
        arrays = {name: unpack_array(array.data) for name, array in sent.items()}
        answer, outgoing = connect(context.node_config)(record, arrays)
    except Exception:  # its text could hold anything, and would travel
        answer, outgoing = b"", {}
    content = RecordDict({"pmfed": ConfigRecord({"record": answer})})
    if outgoing:
        content["arrays"] = ArrayRecord({name: Array(array) for name, array in outgoing.items()})
    return Message(content, reply_to=message)

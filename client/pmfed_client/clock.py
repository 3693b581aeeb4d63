"""Whether the coordinator answers, and by how much the clocks of site and coordinator differ.

Flower's nodes sign the time with what they say, and a SuperLink whose clock says otherwise tells a node nothing but to go
away. So the site looks itself: any HTTP server tells the time with its answer (RFC 9110, section 6.6.1).
"""

from __future__ import annotations

import http.client
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

from pmfed_client.node import Node

# Seconds that Flower lets pass: SYSTEM_TIME_TOLERANCE and TIMESTAMP_TOLERANCE of flwr.common.constant
AHEAD, BEHIND = 5.0, 300.0
PATIENCE = 5.0  # seconds
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: a wrong clock must not keep us from seeing that it is wrong


def ahead(node: Node) -> float:
    """Return by how many seconds this machine's clock is ahead of the coordinator's; good to about a second.

    Nothing of the site is sent: the question is for a path that no coordinator has.

    Raises
    ------
    OSError
        The coordinator does not answer, or shows no certificate of its authority; or we have none of that.
    """
    try:
        trusted = ssl.create_default_context(cafile=str(node.certificate))
    except OSError:
        raise OSError(f"{node.certificate} is not there, or no certificate") from None
    trusted.verify_flags |= _NO_CHECK_TIME
    host, _, port = node.address.rpartition(":")
    connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=PATIENCE, context=trusted)
    try:
        before = time.time()
        connection.request("HEAD", "/")
        told = connection.getresponse().getheader("Date", "")
        here = (before + time.time()) / 2
    except http.client.HTTPException as error:
        raise OSError(f"no answer in HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
    try:
        there = parsedate_to_datetime(told).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise OSError("its answer does not tell the time") from None
    return here - there - 0.5  # the header is cut to whole seconds


def coordinator_line(node: Node) -> str:
    """Return what a hospital should know of its way to the coordinator, in one line."""
    try:
        seconds = ahead(node)
    except OSError as error:
        why = getattr(error, "verify_message", "") or error.strerror or str(error)
        return f"coordinator at {node.address}: NOT REACHED ({why})"
    if -BEHIND < seconds < AHEAD:
        return f"coordinator at {node.address}: answers, and the clocks agree"
    way = "AHEAD of" if seconds > 0 else "BEHIND"
    return (
        f"coordinator at {node.address}: answers, but THIS MACHINE'S CLOCK is {_span(abs(seconds))} {way} the coordinator's, "
        "which therefore takes nothing from this site. Set it, by NTP for instance."
    )


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

"""Whether the coordinator answers, and by how much the clocks of site and coordinator differ.

Flower's nodes sign the time with what they say, and a SuperLink whose clock says otherwise tells a node nothing but to go
away. So the site looks itself: any HTTP server tells the time with its answer (RFC 9110, section 6.6.1).
"""

from __future__ import annotations

import ssl
import time
import urllib.request
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from pmfed.plain import plain
from pmfed.processes import LOOPBACK
from pmfed_client.connection.node import Node

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
    host = node.address.rpartition(":")[0].strip("[]")
    try:  # as Flower's node does: by the same proxy, too, and by none on this machine
        with httpx.Client(verify=trusted, timeout=PATIENCE, trust_env=host not in LOOPBACK) as client:
            before = time.time()
            told = client.head(f"https://{node.address}/").headers.get("Date", "")
            here = (before + time.time()) / 2
    except httpx.TimeoutException:
        raise OSError(f"no answer in {PATIENCE:.0f} s") from None
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        ValueError,
        ImportError,
    ) as error:  # a proxy of a kind that httpx has not
        raise OSError(str(error) or type(error).__name__) from None
    try:
        there = parsedate_to_datetime(told).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise OSError("its answer does not tell the time") from None
    return here - there - 0.5  # the header is cut to whole seconds


def coordinator_line(node: Node) -> str:
    """Return what a hospital should know of its way to the coordinator, in one line."""
    proxy = proxy_of(node)
    where = f"{node.address} by way of the proxy {proxy}" if proxy else node.address
    try:
        seconds = ahead(node)
    except OSError as error:
        why = plain(error.strerror or str(error), 300)
        return f"coordinator at {where}: NOT REACHED ({why})"
    if -BEHIND < seconds < AHEAD:
        return f"coordinator at {where}: answers, and the clocks agree"
    way = "AHEAD of" if seconds > 0 else "BEHIND"
    return (
        f"coordinator at {where}: answers, but THIS MACHINE'S CLOCK is {_span(abs(seconds))} {way} the coordinator's, "
        "which therefore takes nothing from this site. Set it, by NTP for instance."
    )


def proxy_of(node: Node) -> str:
    """Return the proxy by which this machine reaches the coordinator, without its password; empty when there is none."""
    host = node.address.rpartition(":")[0]
    told = urllib.request.getproxies()
    proxy = told.get("https") or told.get("all") or ""
    if not proxy or urllib.request.proxy_bypass(host) or host.strip("[]") in LOOPBACK:
        return ""
    return plain(proxy.rpartition("@")[2].rpartition("://")[2].rstrip("/"), 100)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

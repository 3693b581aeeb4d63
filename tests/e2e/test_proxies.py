"""Ways to a coordinator: through a hospital's proxy (CONNECT), by IPv6, and straight, though the environment names a proxy."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import federation
import pytest
from breaking import WHEN_ASKED
from connect import ConnectProxy
from pmfed_client.connection.clock import coordinator_line
from pmfed_client.connection.node import Node
from pmfed_server.certificates import issue
from pmfed_server.coordinator import LOOPBACK
from pmfed_server.serving import has_ipv6
from pmfed_simulations.deployment import Deployment, until

from pmfed.study import Study

pytestmark = pytest.mark.slow

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
HUB = "hub.example.org"  # only the proxy knows where that is


@WHEN_ASKED[-1]  # the other ways to a proxy are looked at always
def test_a_federation_whose_sites_come_by_different_ways(tmp_path: Path) -> None:
    """North through a proxy, south by IPv6 where there is a door that hears it, west straight. All run with a proxy set."""
    fed = federation.write_federation(tmp_path / "fed")
    for name in federation.SITES:
        federation.change(fed / "sites" / name / "site.toml", "epsilon = 2.5", "epsilon = 100.0")
    d = Deployment.make(tmp_path / "d", {}, (HUB, "localhost", "::1"), proxy=NGINX is not None)
    if NGINX is None:  # then Flower's SuperLink is the door, and shows a certificate for this machine alone
        (d.coordinator.folder / "link.key").unlink()
        issue(d.coordinator.folder, "link", (*LOOPBACK, HUB))
    six = "::1" if NGINX and has_ipv6() else "localhost"
    for name, host in zip(federation.SITES, (HUB, six, "localhost"), strict=True):
        d.add(name, fed / "sites" / name, host)
    d.trust()
    proxy = ConnectProxy({HUB: "127.0.0.1"})
    study = Study.from_text(federation.STUDY, "tiny").replace(training={"rounds": 2}, evaluation={"every": 100})
    try:
        before = {name: os.environ.get(name) for name in proxy.environment}
        os.environ.update(proxy.environment)  # of the coordinator and its commands, too
        d.start_coordinator()
        for name in federation.SITES:
            d.start_site(name, 0)
        until(lambda: all(d.process(name, "courier") for name in federation.SITES))
        until(lambda: d.online(*federation.SITES))
        line = coordinator_line(Node.of(d.sites["north"]))
        code, said = d.run(d.approve(study), tmp_path / "run", 3, patience=120.0).end()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        d.stop()
        proxy.close()
    assert code == 0, said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [site["name"] for site in result["sites"]] == sorted(federation.SITES)
    assert result["rounds"] == 2
    # The proxy was asked for the coordinator and for nothing else, and what passed through it was TLS.
    assert proxy.lines == {f"CONNECT {HUB}:{d.coordinator.addresses.port} HTTP/1.1"}
    assert proxy.tunnels > 0
    assert not any("authorization" in asked.lower() or "flwr" in asked.lower() for asked in proxy.asked)
    assert f"{HUB}:{d.coordinator.addresses.port} by way of the proxy 127.0.0.1:{proxy.port}: answers" in line
    assert d.left() == []

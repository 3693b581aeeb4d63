"""`pmfed coordinator start`: Flower's SuperLink on the loopback interface, and the one door sites come through.

Flower serves sites, people and its own programs on one port, and asks people for no password. So that port stays on
the loopback interface, and a reverse proxy passes on what sites need, `/v1/fleet/`, and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
import socket
import sys
import time
import urllib.request
from ssl import create_default_context

from pmfed.errors import RunError, UsageError
from pmfed.file_io import replace_file
from pmfed.processes import THRIFTY, Program, flower_environment, keep
from pmfed_server.coordinator import Coordinator

log = logging.getLogger("pmfed.server")

AGAIN = 60.0  # seconds until a node that Flower did not let in is tried again

NGINX = """\
# Written by 'pmfed coordinator start'. Only what sites need is passed on; the SuperLink's other paths have no password.
{user}daemon off;
worker_processes 1;
pid {folder}/proxy/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server_tokens off;
  client_body_temp_path {folder}/proxy/body;
  proxy_temp_path {folder}/proxy/answers;
  fastcgi_temp_path {folder}/proxy/unused;
  uwsgi_temp_path {folder}/proxy/unused;
  scgi_temp_path {folder}/proxy/unused;
  upstream superlink {{ server 127.0.0.1:{link_port}; keepalive 16; }}
  server {{
    listen {port} ssl;
    ssl_certificate {folder}/server.crt;
    ssl_certificate_key {folder}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size 64m;  # Flower cuts what is large into pieces of a few MB
    location / {{ return 404; }}
    # The path is put together anew from what was matched: what a client spells in another way cannot get past.
    location ~ "^/v1/fleet/([a-z-]+)$" {{
      limit_except POST {{ deny all; }}
      proxy_pass https://superlink/v1/fleet/$1;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {folder}/ca.crt;
      proxy_ssl_name localhost;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_read_timeout 120s;
    }}
  }}
}}
"""


def start_coordinator(coordinator: Coordinator, proxy: bool = True) -> None:
    """Run the coordinator's programs until this process is asked to stop (SIGTERM or SIGINT).

    Parameters
    ----------
    coordinator
        Whose.
    proxy
        Whether to run nginx. Without it nothing is reachable from other machines, until a proxy of your own, set up
        like the nginx.conf this writes, passes on the fleet's paths.

    Raises
    ------
    UsageError
        nginx is not installed, or the coordinator runs already.
    """
    folder, home, link = coordinator.folder, coordinator.home, coordinator.addresses.link_port
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    text = NGINX.format(user=user, folder=folder, port=coordinator.addresses.port, link_port=link)
    if has_ipv6():
        listen = f"    listen {coordinator.addresses.port} ssl;\n"
        text = text.replace(listen, listen + listen.replace("listen ", "listen [::]:"))
    replace_file(folder / "nginx.conf", text.encode())  # each start anew: the folder may have been made elsewhere
    coordinator.flwr.point(f"127.0.0.1:{link}", folder / "ca.crt")
    if not (home / "state.db").exists():
        for file in (coordinator.registered, coordinator.leaving):
            file.unlink(missing_ok=True)
    keep(folder, programs(coordinator, proxy), _Door(coordinator).look)


def has_ipv6() -> bool:
    """Whether this machine can be reached by IPv6 at all: where it cannot, nginx would not start."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def programs(coordinator: Coordinator, proxy: bool) -> list[Program]:
    """Return what a coordinator runs."""
    folder, home, logs = coordinator.folder, coordinator.home, coordinator.folder / "logs"
    port = str(coordinator.addresses.link_port)
    flower = {**flower_environment(home), **THRIFTY}
    secret = ("--superexec-auth-secret-file", str(folder / "secret"))
    link = (
        sys.executable, "-m", "pmfed_server.link", "--host", "127.0.0.1", "--port", port, "--ssl-ca-certfile", str(folder / "ca.crt"),
        "--ssl-certfile", str(folder / "link.crt"), "--ssl-keyfile", str(folder / "link.key"),
        "--enable-supernode-auth", "--isolation", "process", "--database", str(home / "state.db"),
        "--disable-runtime-dependency-installation", *secret,
    )  # fmt: skip
    apps = (
        "flower-superexec", "--runtime-api-address", f"127.0.0.1:{port}",
        "--root-certificates", str(folder / "ca.crt"), *secret,
    )  # fmt: skip

    told = [
        Program("superlink", link, flower, str(home), str(logs / "superlink.log")),
        Program("superexec", apps, flower, str(home), str(logs / "superexec.log"), after=int(port)),
    ]
    if proxy:
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if nginx is None:
            raise UsageError(
                "nginx is not installed; without it sites on other machines cannot connect.",
                "Install it (apt-get install nginx-light), or run a proxy of your own after coordinator.toml's "
                "folder/nginx.conf and start with --no-proxy.",
            )
        command = (nginx, "-e", "stderr", "-p", str(folder / "proxy"), "-c", str(folder / "nginx.conf"))
        told.append(Program("proxy", command, {}, str(folder / "proxy"), str(logs / "proxy.log"), after=int(port)))
    return told


def answers(coordinator: Coordinator) -> bool:
    """Whether the SuperLink says that it is well."""
    trusted = create_default_context(cafile=str(coordinator.folder / "ca.crt"))
    direct = urllib.request.build_opener(  # the machine itself, whatever proxy is set
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    try:
        with direct.open(f"https://127.0.0.1:{coordinator.addresses.link_port}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def connected(coordinator: Coordinator) -> dict[str, str]:
    """Return, by site, what Flower says of its node: online, offline, or registered (never seen)."""
    registered = coordinator.registered
    known = json.loads(registered.read_text(encoding="utf-8")) if registered.exists() else {}
    names = {one["node"]: one["site"] for one in known.values()}
    nodes = coordinator.flwr.ask("supernode", "list")["nodes"]
    return {
        names.get(str(node["node-id"]), str(node["node-id"])): str(node["status"])
        for node in nodes
        if node["status"] != "unregistered"  # turned away, and nobody's
    }


class _Door:
    """Lets the nodes of known cards in, of which Flower must be told before they connect, and turns away all others.

    A node whose card is gone, because its site was revoked or has another key now, is nobody's from the first look on: runs take
    no answer of it (`Enrolment`). Flower is asked to unregister it until it has.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.file = coordinator.registered
        self.leaving = coordinator.leaving
        self.due: dict[str, float] = {}  # when a card whose node was not let in is tried again
        self.failed: set[str] = set()
        self.seen = -1.0

    def look(self) -> None:
        """Turn away nodes without a card, and register one card that is not registered yet, if the SuperLink answers."""
        changed = self.coordinator.cards.stat().st_mtime
        if changed == self.seen:
            return
        done = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        known = {card.node: card for card in self.coordinator.known().values()}
        if gone := {node: told for node, told in done.items() if node not in known}:
            replace_file(self.leaving, json.dumps({**self._leaving(), **gone}).encode())
        # A site may have another key and the same node, where agent and node are two users.
        now = {node: {**told, "key": known[node].key} for node, told in done.items() if node in known}
        if now != done:
            replace_file(self.file, json.dumps(now).encode())
            done = now
        if not self._turned_away():
            return
        waiting = [card for node, card in known.items() if node not in done]
        if not waiting:
            self.seen = changed
            return
        card = min(waiting, key=lambda card: self.due.get(card.node, 0.0))
        if time.monotonic() < self.due.get(card.node, 0.0) or not answers(self.coordinator):
            return
        self.due[card.node] = time.monotonic() + AGAIN
        key = self.coordinator.home / f"{card.site}.pub"
        key.write_text(card.node + "\n", encoding="utf-8")
        try:
            number = str(self.coordinator.flwr.ask("supernode", "register", str(key), "--name", card.site)["node-id"])
        except RunError as error:
            number = self._taken(done) if card.node in self.failed else ""
            self.failed.add(card.node)
            if not number:
                log.warning("%s: its node was not let in: %s", card.site, error)
                return
        owner = {"site": card.site, "key": card.key, "node": number}
        replace_file(self.file, json.dumps({**done, card.node: owner}).encode())

    def _leaving(self) -> dict[str, dict[str, str]]:
        return json.loads(self.leaving.read_text(encoding="utf-8")) if self.leaving.exists() else {}

    def _turned_away(self) -> bool:
        """Ask Flower to unregister a node that is nobody's; return whether none is left."""
        leaving = self._leaving()
        for node, told in leaving.items():
            if time.monotonic() < self.due.get(node, 0.0) or not answers(self.coordinator):
                return False
            self.due[node] = time.monotonic() + AGAIN
            try:
                self.coordinator.flwr.ask("supernode", "unregister", told["node"])
            except RunError as error:
                if told["node"] in self._there():
                    log.warning("%s: its node could not be unregistered: %s", told["site"], error)
                    return False
            log.warning("%s: a node of it was turned away: its card is gone or has another key", told["site"])
            replace_file(
                self.leaving, json.dumps({one: owner for one, owner in leaving.items() if one != node}).encode()
            )
            return len(leaving) == 1
        return True

    def _there(self) -> list[str]:
        """Return the numbers of the nodes that Flower has registered; all that are leaving, when it does not say."""
        try:
            nodes = self.coordinator.flwr.ask("supernode", "list")["nodes"]
        except RunError:
            return [told["node"] for told in self._leaving().values()]
        return [str(node["node-id"]) for node in nodes if node["status"] != "unregistered"]

    def _taken(self, done: dict[str, dict[str, str]]) -> str:
        """Return the one node that Flower has and nobody knows whose it is: the one it took in without our hearing of it.

        Nodes are registered here, one at a time, and Flower takes a key once only.
        """
        known = {told["node"] for told in (*done.values(), *self._leaving().values())}
        try:
            nodes = self.coordinator.flwr.ask("supernode", "list")["nodes"]
        except RunError:
            return ""
        found = [str(node["node-id"]) for node in nodes if node["status"] != "unregistered"]
        strangers = [number for number in found if number not in known]
        return strangers[0] if len(strangers) == 1 else ""

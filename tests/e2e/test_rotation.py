"""Keys replaced and a site revoked under a federation of real processes: the old keys are of no use, and studies go on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import federation
from breaking import NGINX, SITES, WHEN_ASKED
from pmfed_client.site.rotate import rotate
from pmfed_client.site.trust import card_of, follow
from pmfed_server.coordinator import add_card
from pmfed_server.rotation import revoke, rotate_authority, rotate_key, write_changes
from pmfed_simulations.deployment import Deployment, until

from pmfed.secagg.keys import read_key
from pmfed.secagg.replaced_keys import Changes
from pmfed.study import Study
from pmfed.verify import check_run

pytestmark = WHEN_ASKED


def told(d: Deployment, *names: str) -> None:
    """Have sites take over what the coordinator sends."""
    path = write_changes(d.coordinator)
    assert path is not None
    for name in names:
        follow(d.sites[name], Changes.read(path))


def test_keys_are_replaced_and_a_site_revoked_while_studies_go_on(tmp_path: Path) -> None:
    fed = federation.write_federation(tmp_path / "fed")
    shutil.copytree(fed / "sites" / "north", fed / "sites" / "east")
    federation.change(fed / "sites" / "east" / "site.toml", "north", "east")
    for name in SITES:
        federation.change(fed / "sites" / name / "site.toml", "epsilon = 2.5", "epsilon = 100.0")
    d = Deployment.make(tmp_path / "d", {name: fed / "sites" / name for name in SITES}, proxy=NGINX is not None)
    key = read_key(d.coordinator.folder / "coordinator.pub")
    study = Study.from_text(federation.STUDY, "tiny").replace(training={"rounds": 1}, evaluation={"every": 100})

    def run(name: str, *sites: str) -> None:
        """Run a study over these sites and no others."""
        path = d.approve(study.replace(study={"name": name}))
        code, said = d.run(path, tmp_path / name, len(sites), patience=120.0).end()
        assert code == 0, said
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert [site["name"] for site in result["sites"]] == sorted(sites), result["refused"]

    def mark(what: str) -> None:
        """For whoever watches (pytest -s): this takes minutes."""
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    def log_of(name: str) -> str:
        path = d.sites[name].courier / "node.log"
        return path.read_text(errors="replace") if path.exists() else ""

    try:
        d.start_coordinator()
        for name in SITES:
            d.start_site(name, 0)
        until(lambda: all(d.process(name, "courier") for name in SITES))
        until(lambda: d.online(*SITES))
        mark("all are online")

        # East is revoked while it runs: its node is turned away.
        revoke(d.coordinator, "east")
        rest = ("north", "south", "west")
        told(d, *rest)
        until(lambda: json.loads(d.coordinator.leaving.read_text() if d.coordinator.leaving.exists() else "0") == {})
        mark("revoked")

        # North has new keys. Whoever stole the old ones, node's and identity's, is not let in.
        d.stop("north")
        thief = d.folder / "thief"
        shutil.copytree(d.folder / "north", thief)
        rotate(d.sites["north"])
        card = d.folder / "north.json"
        card.write_text(card_of(d.sites["north"]))
        add_card(d.coordinator, card)
        told(d, *rest)
        until(lambda: json.loads(d.coordinator.leaving.read_text()) == {})
        d.sites["thief"] = d.sites["north"].model_copy(update={"folder": thief})
        (thief / "courier" / "node.log").unlink()
        d.start_site("thief", 0)
        d.start_site("north", 0)
        until(lambda: d.online(*rest))
        until(lambda: "Failed to activate SuperNode" in log_of("thief"))
        mark("rotated")
        run("rotated", *rest)
        mark("run over the rest")
        d.stop("thief")
        d.sites.pop("thief")

        # The coordinator has a new key and a new authority; sites still believe the old one, and reconnect by themselves.
        rotate_key(d.coordinator)
        d.stop("hub")
        rotate_authority(d.coordinator)
        d.start_coordinator()
        until(lambda: d.online(*rest))
        mark("new authority")
        told(d, "south")
        d.stop("south")
        d.start_site("south", 0)  # believes the new one alone from now on
        until(lambda: d.process("south", "courier") and d.online(*rest))
        run("after", *rest)  # north and west still believe the old one
        mark("run over old and new believers")
    finally:
        d.stop()
    found = check_run(tmp_path / "after", None, key)  # by the coordinator.pub of the beginning
    assert found.wrong == []
    assert any("which the coordinator's key that was given named" in note for note in found.notes)
    assert (d.folder / "south" / "ca.crt").read_bytes() == (d.coordinator.folder / "ca.crt").read_bytes()
    assert d.left() == []

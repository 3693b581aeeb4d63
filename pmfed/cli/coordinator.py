"""`pmfed coordinator`: what a coordinator runs."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pmfed.errors import UsageError

coordinator_app = typer.Typer(help="What a coordinator runs.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Option("--coordinator", help="The coordinator's folder.")]


class Rotated(StrEnum):
    """What a coordinator can replace."""

    key = "key"
    authority = "authority"


RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]


@coordinator_app.command("init")
def coordinator_init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    host: Annotated[list[str], typer.Option(help="A name or address the sites reach it by; may be repeated.")],
    port: Annotated[int, typer.Option(help="The port they reach.")] = 9092,
    link_port: Annotated[int, typer.Option(help="The SuperLink's own port, on the loopback interface.")] = 18000,
) -> None:
    """Make a coordinator's folder: certificates, secrets, coordinator.toml."""
    from pmfed_server.coordinator import make_coordinator, spelled

    made = make_coordinator(folder, host, port, link_port)
    print(f"{made.folder} made, for its owner alone.")
    print(
        f"next: send {folder / 'ca.crt'}, {folder / 'coordinator.pub'} and '{spelled(host[0], port)}' to every site, and ask each "
        "for its card"
    )


@coordinator_app.command("add")
def coordinator_add(
    cards: Annotated[list[Path], typer.Argument(help="The cards the sites sent, a file each.")],
    coordinator: Folder = Path(),
) -> None:
    """Take in sites' cards: their nodes may connect, and the roster lists them."""
    from pmfed_server.coordinator import Coordinator, add_card
    from pmfed_server.rotation import write_changes

    from pmfed.secagg.replaced_keys import FILE as CHANGES
    from pmfed.secagg.roster import Roster, grouped

    place = Coordinator.read(coordinator)
    for card in cards:
        print(f"added: {add_card(place, card).site}")
    write_changes(place)
    if place.roster.exists():
        print(f"fingerprint  {grouped(Roster.read(place.roster).fingerprint())}")
        print(
            f"next: send {place.roster} to every site; each compares the fingerprint with the others, then: pmfed site trust"
        )
        print(f"      where only keys of known sites changed, send {place.folder / CHANGES}: nobody need telephone")


@coordinator_app.command("revoke")
def coordinator_revoke(
    site: Annotated[str, typer.Argument(help="The site's name.")], coordinator: Folder = Path()
) -> None:
    """Strike a site out: its node is turned away at once, its keys are never taken again, the roster is without it."""
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.rotation import revoke, write_changes

    place = Coordinator.read(coordinator)
    revoke(place, site)
    print(f"revoked: {site}. A running coordinator turns its node away within seconds.")
    _send(write_changes(place))


@coordinator_app.command("rotate")
def coordinator_rotate(
    what: Annotated[
        Rotated, typer.Argument(help="key: what signs results. authority: what certificates are believed by.")
    ],
    coordinator: Folder = Path(),
) -> None:
    """Replace a key of the coordinator's by a new one that the old one signs; sites go on meanwhile."""
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.rotation import rotate_authority, rotate_key, write_changes

    place = Coordinator.read(coordinator)
    if what == Rotated.key:
        print(f"the key is now {rotate_key(place).new}")
    else:
        rotate_authority(place)
        print("the authority is replaced; sites that have the old ca.crt believe the new one through it.")
    print(f"what was replaced is in {place.folder / 'replaced'}.")
    _send(write_changes(place))


def _send(changes: Path | None) -> None:
    if changes is not None:
        print(f"next: send {changes} to every site; nobody need telephone: pmfed site trust changes.json")


@coordinator_app.command("roster")
def coordinator_roster(
    cards: Annotated[list[Path], typer.Argument(help="The cards the sites sent, a file each.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("roster.json"),
) -> None:
    """Put the sites' cards together into a roster, and show its fingerprint."""
    from pmfed_server.gather import gather_cards

    from pmfed.secagg.roster import grouped

    if out.exists():
        raise UsageError(f"{out}: the file exists.", "Choose another name; nothing is overwritten.")
    made = gather_cards(cards)
    out.write_text(made.canonical(), encoding="utf-8")
    print(f"{out} written: {len(made.members)} sites.\nfingerprint  {grouped(made.fingerprint())}")
    print("next: send it to every site; each compares the fingerprint with the others, then: pmfed site trust")


@coordinator_app.command("start")
def coordinator_start(
    coordinator: Folder = Path(),
    no_proxy: Annotated[bool, typer.Option("--no-proxy", help="Without nginx: you run a proxy of your own.")] = False,
) -> None:
    """Run the coordinator until it is stopped."""
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.serving import start_coordinator

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    place = Coordinator.read(coordinator)
    print(
        f"the coordinator runs. Logs are in {place.folder / 'logs'}; stop with Ctrl-C or: pmfed coordinator down",
        flush=True,
    )
    start_coordinator(place, not no_proxy)


@coordinator_app.command("down")
def coordinator_down(coordinator: Folder = Path()) -> None:
    """Stop the coordinator itself; runs under way can be resumed."""
    from pmfed_server.coordinator import Coordinator

    from pmfed.processes import stop_kept

    print("stopped." if stop_kept(Coordinator.read(coordinator).folder) else "it was not running.")


@coordinator_app.command("status")
def coordinator_status(coordinator: Folder = Path()) -> None:
    """Show how the coordinator's programs are, and which sites are connected."""
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.serving import connected

    from pmfed.processes import running, status_lines

    place = Coordinator.read(coordinator)
    print("\n".join(status_lines(place.folder)))
    if running(place.folder) is not None:
        for site, state in sorted(connected(place).items()):
            print(f"  {site:<24} {state}")


@coordinator_app.command("run")
def coordinator_run(
    study: Annotated[Path, typer.Argument(help="The study.toml the sites approved.")],
    sites: Annotated[int, typer.Option(min=2, help="How many sites to wait for.")],
    out: Annotated[Path, typer.Option(help="Where the run is written.")],
    coordinator: Folder = Path(),
    patience: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for sites, and for each answer.")] = 600.0,
) -> None:
    """Run a study over the connected sites, and follow it. Exit code 0 only when it ended well."""
    from pmfed_client.agent.dry_step import dry_step
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.deployed import begin

    from pmfed.study import Study

    place, asked = Coordinator.read(coordinator), Study.read(study)
    dry_step(asked)  # before any site is asked to reserve
    _go(place, begin(place, asked, out, sites, patience))


@coordinator_app.command("resume")
def coordinator_resume(run: RunFolder, coordinator: Folder = Path()) -> None:
    """Go on with a run that was stopped or that failed, from its last checkpoint."""
    from pmfed_server.coordinator import Coordinator

    _go(Coordinator.read(coordinator), run.absolute())


def _go(place: Any, out: Path) -> None:
    from pmfed_server.deployed import go

    def tell(line: str) -> None:
        print(line, flush=True)

    go(place, out, tell)
    coordinator_report(out)


@coordinator_app.command("stop")
def coordinator_stop(run: RunFolder, coordinator: Folder = Path()) -> None:
    """Stop a run; it can be resumed."""
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.deployed import stop_run

    stop_run(Coordinator.read(coordinator), run.absolute())
    print("stopped.")


@coordinator_app.command("list")
def coordinator_list(coordinator: Folder = Path()) -> None:
    """List the runs begun here, and how they stand."""
    from pmfed_server.coordinator import Coordinator
    from pmfed_server.deployed import runs_of

    for run, study, state, out in runs_of(Coordinator.read(coordinator)):
        print(f"{run[:12]}  {study:<20} {state:<10} {out}")


@coordinator_app.command("report")
def coordinator_report(run: RunFolder) -> None:
    """Show the result of a finished run."""
    import json

    from pmfed_server.report.shown import show_result

    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{run}: holds no result.", "The run is not finished: pmfed coordinator list") from None
    show_result(result, run)

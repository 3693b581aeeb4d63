"""`pmfed site`: what a hospital runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmfed.errors import DataError, UsageError

site_app = typer.Typer(help="What a hospital runs.", no_args_is_help=True, rich_markup_mode=None)
ledger_app = typer.Typer(help="The site's privacy ledger.", no_args_is_help=True, rich_markup_mode=None)
site_app.add_typer(ledger_app, name="ledger")

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder, or its site.toml.")]
AnyFolder = Annotated[Path, typer.Argument(help="The site's folder, or its node's.")]
Seed = Annotated[
    int | None,
    typer.Option("--insecure-reproducible", help="Noise from this seed: a trial federation, NO privacy."),
]


@site_app.command("init")
def site_init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    name: Annotated[str, typer.Option(help="What the site is called: small letters, digits, '-' and '_'.")],
    data: Annotated[
        Path | None, typer.Option("--from", help="A folder of data to look at: its sources are proposed.")
    ] = None,
) -> None:
    """Make a site's folder: site.toml to fill in, and the site's secret keys."""
    from pmfed_client.site.create import DRAFT, make_home

    from pmfed.cohort.survey import summary, survey

    found = None if data is None else survey(data)
    site = make_home(folder, name, found)
    if found is not None:
        print("\n".join(["found, by names of columns and codes alone:", *(f"  {line}" for line in summary(found))]))
        print("\n".join(f"  left out: {line}" for line in found.left))
        print(f"proposed: [data] in {site.folder / 'site.toml'}, and a study to edit in {site.folder / DRAFT}")
    print(f"{site.folder} made, for its owner alone. Fill in site.toml: [data], [coordinator] and [policy].")
    print(f"next: pmfed site card {folder} > {name}.json, and send that file to the coordinator")


@site_app.command("check")
def site_check(
    study: Annotated[str, typer.Argument(help="A built-in study or a STUDY.toml.")],
    site: SiteFolder = Path(),
    page: Annotated[Path | None, typer.Option(help="Write the same as an HTML page with bars, for this site.")] = None,
) -> None:
    """Read the site's sources as a study would, and count: patients, outcomes, what is missing, what is wrong."""
    from pmfed_client.agent.dry_step import dry_step
    from pmfed_client.site.check import check, progress, show
    from pmfed_client.site.check_page import write_page
    from pmfed_client.site.site import Site
    from pmfed_simulations.studies import find_study

    from pmfed import plugins

    here = Site.read(site)
    with plugins.admitting(here.policy.plugins):
        asked = find_study(study)
    dry_step(asked)  # before patients are read: that may take long
    if page is not None and not page.parent.is_dir():
        raise UsageError(
            f"{page.parent}: there is no such folder for the page.", "Make it, or name another with --page."
        )
    with progress(here) as places:
        found = check(here, asked, places)
    show(found)
    if page is not None:
        write_page(found, page)
        print(f"\npage  {page}")
    if found.red:
        raise DataError(
            f"{len(found.red)} {'feature' if len(found.red) == 1 else 'features'} of which more than half is lost, and nobody "
            "at this site accepted it.",
            "Mend or declare the sources as said above, then check again.",
        )
    if found.policy is not None:
        raise found.policy


@site_app.command("card")
def site_card(site: SiteFolder = Path()) -> None:
    """Print this site's public card: send it to the coordinator. The site's key is made at first use."""
    from pmfed_client.site.site import Site
    from pmfed_client.site.trust import card_of

    print(card_of(Site.read(site)))


@site_app.command("trust")
def site_trust(
    roster: Annotated[Path, typer.Argument(help="The roster.json or changes.json the coordinator sent.")],
    site: SiteFolder = Path(),
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint you compared with the others, instead of being asked.")
    ] = None,
) -> None:
    """Pin a roster: the sites whose sums this site adds its own to. Compare the fingerprint first.

    A changes.json is taken over without that, where the keys this site trusts have signed all that is in it.
    """
    from pmfed_client.site.site import Site
    from pmfed_client.site.trust import follow, pin, same_fingerprint

    from pmfed.secagg.replaced_keys import Changes
    from pmfed.secagg.roster import Roster, grouped

    if Changes.there(roster):
        done = follow(Site.read(site), Changes.read(roster))
        said = [what for what, moved in (("roster", done.roster), ("coordinator's key", done.coordinator)) if moved]
        said += [
            "coordinator's authority; restart the site, and copy ca.crt to its node's folder if it has one"
        ] * done.authority
        print(f"taken over: the {', the '.join(said)}." if said else "nothing changed.")
        return

    def agreed(new: Roster, before: Roster | None) -> bool:
        known = before.keys if before else {}
        for name, key in new.keys.items():
            mark = "new" if name not in known else "KEY CHANGED" if known[name] != key else ""
            print(f"  {name:<24} {mark}")
        for name in sorted(set(known) - set(new.keys)):
            print(f"  {name:<24} no longer listed")
        if fingerprint is not None:
            return same_fingerprint(fingerprint, new.fingerprint())
        print(f"\nfingerprint  {grouped(new.fingerprint())}\n")
        return typer.confirm("Have you compared it with the other sites, not by way of the coordinator?")

    pinned = pin(Site.read(site), roster, agreed)
    print(f"pinned: {len(pinned.members)} sites.")


@site_app.command("rotate")
def site_rotate(
    site: SiteFolder = Path(),
    by: Annotated[str, typer.Option(help="Who does it, for the audit log; else the account's name.")] = "",
) -> None:
    """Replace the site's keys by new ones, which the old one signs; the site must be stopped."""
    from pmfed_client.site.rotate import rotate
    from pmfed_client.site.site import Site

    place = Site.read(site)
    rotate(place, by)
    print(f"{place.name} has new keys; the old ones are in {place.folder / 'replaced'}.")
    print(f"next: pmfed site card {place.folder} > {place.name}.json, and send that file to the coordinator")


@site_app.command("approve")
def site_approve(
    study: Annotated[Path, typer.Argument(help="The study.toml the coordinator sent.")],
    site: SiteFolder = Path(),
    fingerprint: Annotated[str | None, typer.Option(help="The fingerprint of the study you have read.")] = None,
    yes: Annotated[
        str | None, typer.Option("--yes", help="The epsilon of the study you have read, instead of being asked for it.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who approves, for the audit log; else the account's name.")] = "",
    runs: Annotated[int, typer.Option(min=1, help="How many runs; one that is resumed is the same run.")] = 1,
    epsilon: Annotated[
        float | None, typer.Option(help="Most that these runs together may cost a patient, else what they come to.")
    ] = None,
    days: Annotated[float, typer.Option(help="For how long.")] = 90.0,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take the approval back.")] = False,
) -> None:
    """Show what a study would learn, from what, and what would leave; approve it by typing its price."""
    from shutil import get_terminal_size

    from pmfed_client.site.approval import granted
    from pmfed_client.site.approve import approve, read_study
    from pmfed_client.site.approve import withdraw as take_back
    from pmfed_client.site.consent import agree, check_price, page
    from pmfed_client.site.site import Site
    from pmfed_client.site.trust import same_fingerprint

    place = Site.read(site)
    asked = read_study(place, study)
    if withdraw:
        take_back(place, asked, by)
        print("taken back: this site refuses the study when it is next asked to enrol.")
        return

    def agreed(lines: list[str]) -> bool:
        print(page(lines, get_terminal_size().columns))
        if fingerprint is not None and not same_fingerprint(fingerprint, asked.fingerprint()):
            return False
        if yes is not None:
            check_price(asked, yes)
            return True
        return agree(asked, _answer, print)

    approve(place, asked, agreed, by, granted(place, asked, runs, epsilon, days))
    print("approved. The site's [policy] and its ledger still decide when the study asks.")


@site_app.command("start")
def site_start(
    site: SiteFolder = Path(),
    seed: Seed = None,
) -> None:
    """Run the site until it is stopped: its agent, and the connection to the coordinator, outward only."""
    from pmfed_client.connection.processes import start_site
    from pmfed_client.site.site import Site

    start_site(Site.read(site), seed)


@site_app.command("split")
def site_split(
    folder: Annotated[Path, typer.Argument(help="The node's folder, to be made.")], site: SiteFolder = Path()
) -> None:
    """Make a folder for the node, so that it runs as another user than the agent: [agent] node_user in site.toml."""
    from pmfed_client.connection.node import split
    from pmfed_client.site.site import Site

    place = Site.read(site)
    split(place, folder)
    print(f"{folder} made; the node's key is there now, and no longer in {place.folder}.")
    print(f"next: as the site's user    pmfed site agent {place.folder}")
    print(f"      as {place.node_user:<20} pmfed site node {folder}")


@site_app.command("agent")
def site_agent(
    site: SiteFolder = Path(),
    seed: Seed = None,
) -> None:
    """Run the site's agent alone until it is stopped, where the node runs as another user: 'pmfed site split'."""
    from pmfed_client.connection.processes import start_agent
    from pmfed_client.site.site import Site

    start_agent(Site.read(site), seed)


@site_app.command("node")
def site_node(
    folder: Annotated[Path, typer.Argument(help="The node's folder, as 'pmfed site split' made it.")],
) -> None:
    """Run the site's node alone until it is stopped: the connection to the coordinator, outward only."""
    from pmfed_client.connection.processes import start_node

    start_node(folder)


@site_app.command("stop")
def site_stop(site: AnyFolder = Path()) -> None:
    """Stop the site, or the half of it that runs in this folder; a run it takes part in goes on without it."""
    from pmfed.processes import stop_kept

    print("stopped." if stop_kept(_running_in(site)) else "it was not running.")


@site_app.command("pause")
def site_pause(site: SiteFolder = Path()) -> None:
    """Answer nothing from the next message on, over restarts too, until resumed; what was charged stays charged."""
    from pmfed_client.site.pause import pause
    from pmfed_client.site.site import Site

    print("paused." if pause(Site.read(site)) else "it was paused already.")


@site_app.command("resume")
def site_resume(site: SiteFolder = Path()) -> None:
    """Let a paused site answer again."""
    from pmfed_client.site.pause import resume
    from pmfed_client.site.site import Site

    resume(Site.read(site))
    print("it answers again.")


@site_app.command("end")
def site_end(
    run: Annotated[str, typer.Argument(help="The run's id, or how it begins: see 'pmfed site ledger show'.")],
    site: SiteFolder = Path(),
) -> None:
    """End a run here, whatever its coordinator does: what it never used of the budget is free again."""
    from pmfed_client.ledger.show import open_ledger
    from pmfed_client.site.audit_log import AuditLog
    from pmfed_client.site.site import Site

    place = Site.read(site)
    ledger = open_ledger(place)
    run = ledger.find(run)
    ledger.end(run)
    AuditLog(place.audit_log).add("end", run=run)
    print(f"run {run} is over at this site: it gets no further answer. What was charged stays charged.")


@site_app.command("status")
def site_status(site: AnyFolder = Path()) -> None:
    """Show whether the site runs, how its programs are, whether the coordinator answers, and whether it is paused."""
    from pmfed_client.connection.clock import coordinator_line
    from pmfed_client.connection.node import Node
    from pmfed_client.site.pause import paused
    from pmfed_client.site.site import Site

    from pmfed.processes import status_lines

    if _running_in(site) == site.absolute() and not (site / "site.toml").exists():
        print("\n".join(["node", *status_lines(site.absolute()), coordinator_line(Node.read(site))]))
        return
    place = Site.read(site)
    print("\n".join([place.name, *status_lines(place.folder)]))
    if place.coordinator is not None:
        print(coordinator_line(Node.of(place)))
    print(f"approved studies: {len(list(place.approved.glob('*.toml')))}")
    if place.policy.hours is not None:
        print(f"computes from {place.policy.hours.replace('-', ' to ')} ({place.policy.time_zone}) only")
    if paused(place):
        print("PAUSED: it answers nothing until: pmfed site resume")


@site_app.command("log")
def site_log(
    site: SiteFolder = Path(),
    last: Annotated[int, typer.Option(min=1, help="How many of the newest lines.")] = 20,
) -> None:
    """Verify the audit log and show who asked what, the answer, and how many bytes left."""
    from pmfed_client.site.audit_log import AuditLog, words_of
    from pmfed_client.site.site import Site

    path = Site.read(site).audit_log
    if not path.exists():
        raise UsageError(f"{path}: there is no audit log yet.", "It is made when the site is first started.")
    lines = list(AuditLog(path).lines())
    for line in lines[-last:]:
        print(words_of(line))
    print(f"{len(lines)} lines; the chain is whole. {sum(line.get('bytes_out', 0) for line in lines)} bytes have left.")


@ledger_app.command("show")
def ledger_show(site: SiteFolder = Path()) -> None:
    """Show what is spent of the budget, and by which runs."""
    from pmfed_client.ledger.show import show_ledger
    from pmfed_client.site.site import Site

    show_ledger(Site.read(site))


@ledger_app.command("verify")
def ledger_verify(site: SiteFolder = Path()) -> None:
    """Walk the hash chain; a ledger that was edited or cut short is an error."""
    from pmfed_client.ledger.show import open_ledger
    from pmfed_client.site.site import Site

    print(f"{open_ledger(Site.read(site)).verify()} rows; the chain is whole.")


@ledger_app.command("export")
def ledger_export(
    site: SiteFolder = Path(),
    out: Annotated[Path, typer.Option(help="The file to write: a line of JSON per row.")] = Path("ledger.jsonl"),
) -> None:
    """Write every row as JSON, for an auditor. No patient data is in it."""
    from pmfed_client.ledger.show import export, open_ledger
    from pmfed_client.site.site import Site

    if out.exists():
        raise UsageError(f"{out}: the file exists.", "Choose another name; nothing is overwritten.")
    export(open_ledger(Site.read(site)), out)
    print(f"{out} written.")


def _answer(question: str) -> str:
    """Ask for a line; empty when there is nobody to ask."""
    try:
        return str(typer.prompt(question, default="", show_default=False))
    except typer.Abort:
        return ""


def _running_in(folder: Path) -> Path:
    """Return the folder in which programs are kept running: a site's, or the one of its node alone."""
    from pmfed_client.connection.node import FILE
    from pmfed_client.site.site import Site

    return folder.absolute() if (folder / FILE).exists() else Site.read(folder).folder

"""The face of pmfed. It and the three files beside it alone look up at server, client and simulations.

Everything heavy is imported inside the commands: `pmfed --help` must answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core
from pmfed_simulations.studies import built_in_studies

from pmfed import __version__
from pmfed.cli.coordinator import coordinator_app
from pmfed.cli.runs import add_run_commands
from pmfed.cli.site import site_app
from pmfed.errors import PmfedError, StudyError, UsageError
from pmfed.file_io import replace_file
from pmfed.memory import keep_freed

if TYPE_CHECKING:
    from pmfed_simulations.simulate import Simulation

typer.core.HAS_RICH = False  # help is plain text: Typer would spell "\\[default: 1]" for a display that is not ours

PROTOCOL_HELP = "Who is held out: holdout (the study's split), cv (5-fold over patients), leave-one-site-out."
ENGINE_HELP = "local, or ray: Flower's own runtime, for the federation's holdout training only; needs pmfed[ray]."
COMPARE_HELP = (
    "What to train beside it: local, local-private, global, fedavg, fedadam, fedyogi, scaffold (each also with "
    "-no-privacy), clipped, no-privacy, converged, pooled, pooled-private, ablation, ablation-no-privacy, none."
)

EDITABLE = (
    "installed so that its code is not in its RECORD; install it as a wheel to see the line by which sites admit it"
)

app = typer.Typer(
    help="Federated, privacy-preserving learning for precision medicine.\n\nStart with 'pmfed simulate'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
study_app = typer.Typer(help="Check, plan and write studies.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Public data for the built-in studies.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(site_app, name="site")
app.add_typer(coordinator_app, name="coordinator")
add_run_commands(app)


def main() -> None:
    """Run the command line; every known error becomes a message, its code and an exit code."""
    keep_freed()  # for whatever trains in this process or its forks
    try:
        app(standalone_mode=False)
    except PmfedError as error:
        print(f"error {error.code}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # Click's own usage errors know how to show themselves; anything else is a bug worth a traceback.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        raise


def _version(asked: bool) -> None:
    if asked:
        print(f"pmfed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Federated, privacy-preserving learning for precision medicine."""


@app.command()
def simulate(
    context: typer.Context,
    study: Annotated[
        str,
        typer.Argument(help=f"{', '.join(built_in_studies())}, or your own STUDY.toml."),
    ] = "hospitals-real",
    data: Annotated[Path | None, typer.Option(help="Folder of public data (or PMFED_DATA).")] = None,
    sites: Annotated[
        Path | None, typer.Option(help="Your own sites: a folder per site, each with a site.toml.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the run is written; else runs/STUDY.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy budget of the run, instead of the study's.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta, instead of the study's.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds, instead of the study's.")] = None,
    protocol: Annotated[str, typer.Option(help=PROTOCOL_HELP)] = "holdout",
    changes: Annotated[
        Path | None,
        typer.Option("--with", help="A TOML file whose keys replace the study's, such as a [personal] section."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat so often; reports mean and sd.")] = 1,
    compare: Annotated[
        str | None, typer.Option(help=COMPARE_HELP + " Without --sites the first choice is local,no-privacy,pooled.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 is the machine's cores.")] = 0,
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "local",
    insecure_reproducible: Annotated[
        bool, typer.Option("--insecure-reproducible", help="Noise from a seed: same model every time, NO privacy.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with the stopped simulation in this folder.")] = None,
    charge_ledger: Annotated[
        bool | None,
        typer.Option(
            "--charge-ledger/--dry-ledger",
            help="With --sites: charge the sites' own ledgers for good, or books of the run's own. Else you are asked, and without a terminal nothing of theirs is charged.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="What speaks against the run is an error, before anything is charged.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors.")] = False,
) -> None:
    """Train one private model over many hospitals, on this machine, and compare it."""
    from pmfed_simulations.simulate import Options, prepare
    from pmfed_simulations.simulate import resume as resumed

    if resume:
        given = [name for name in context.params if name not in ("resume", "quiet") and _given(context, name)]
        if given:
            raise UsageError(
                f"--resume goes on as the simulation was begun; it cannot take {', '.join(sorted(given))} as well.",
                "Leave the other options out, or begin a new run.",
            )
        ready = resumed(resume)
    else:
        folder = out or Path("runs") / Path(study).stem
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: this is a file, and a run is written into a folder.", "Choose one with --out.")
        if folder.exists() and any(folder.iterdir()):
            again = f", or go on with it: pmfed simulate --resume {folder}"
            raise UsageError(
                f"{folder}: the folder exists and is not empty.",
                "Choose another with --out, or remove it" + again * (folder / "simulation.json").exists() + ".",
            )
        names = compare if compare is not None else "" if sites else "local,no-privacy,pooled"
        ready = prepare(
            Options(
                study=str(Path(study).resolve()) if study.endswith(".toml") else study, out=str(folder),
                sites=str(sites.resolve()) if sites else None, data=str(data.resolve()) if data else None,
                epsilon=epsilon, delta=delta, rounds=rounds, protocol=protocol, seeds=seeds,  # type: ignore[arg-type]
                compare=tuple(name for name in names.split(",") if name not in ("", "none")),
                changes=str(changes.resolve()) if changes else None, workers=workers, reproducible=insecure_reproducible, engine=engine,  # type: ignore[arg-type]
                dry_ledger=charge_ledger is False, strict=strict,
            ),
            tell=(lambda what: None) if quiet else (lambda what: print(what, flush=True)),
            charge=None if charge_ledger else lambda price: _may_charge(price, quiet),
        )  # fmt: skip
    _simulate(ready, quiet)


def _may_charge(price: str, quiet: bool) -> bool:
    """Ask a person whether ledgers in their own folders may be charged; without one they are left alone."""
    if _somebody_is_there():
        return typer.confirm(
            f"{price}.\nCharge them? No: the run keeps books of its own, under the same policies", err=True
        )
    if quiet:
        return False
    print(
        "the sites' own ledgers are left alone, for nobody is here to ask: the run keeps books of its own, under the same "
        "policies. To charge theirs: --charge-ledger",
        file=sys.stderr,
    )
    return False


def _somebody_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _simulate(ready: Simulation, quiet: bool) -> None:
    from pmfed_server.report.shown import show_result
    from pmfed_simulations.display import show_start, watch
    from pmfed_simulations.simulate import simulate as run

    from pmfed.errors import InterruptedRunError

    if not quiet:
        show_start(ready)
    try:
        with watch(ready, quiet) as tick:
            result = run(ready, tick)
    except (StudyError, UsageError) as error:
        # The study of a run is what it was begun with: going on could only be refused again.
        again = f"Then begin anew: with another --out, or after removing {ready.out}."
        raise type(error)(error.what, f"{error.remedy}\n  {again}".lstrip()) from None
    except PmfedError as error:
        again = f"Go on with: pmfed simulate --resume {ready.out}"
        if isinstance(error, InterruptedRunError) or not error.remedy:
            raise type(error)(error.what, again) from None
        raise type(error)(error.what, f"{error.remedy}\n  {again}") from None
    if not quiet:
        print()
        show_result(result, ready.out)


@study_app.command("list")
def study_list() -> None:
    """List the built-in studies: what each is about, and which public data it needs."""
    from pmfed_simulations.listing import show_studies

    show_studies()


@study_app.command("check")
def study_check(study: Annotated[str, typer.Argument(help="A built-in study or a STUDY.toml.")]) -> None:
    """Validate a study, and try each of its queries on invented patients; errors name the line, or what failed."""
    from pmfed_client.agent.dry_step import dry_step
    from pmfed_simulations.studies import find_draft

    from pmfed.methods.step_rule import advice, resolved

    draft = find_draft(study)
    found = resolved(draft)
    dry_step(found)
    inputs = sum(len(names) for names in found.inputs.values())
    print(
        f"{found.study.name}: valid. Modalities: {', '.join(sorted(found.modalities))}; {inputs} inputs beside images."
    )
    for name, weights in found.public_weights.items():
        print(f"public weights: {name} goes through {weights}; frozen, so nothing of it is trained or paid for.")
    if found.cohort.stand_in:
        print(f"no patient ids: one {found.cohort.stand_in} stands for a patient; the promise is not one to a person.")
    if found.training.algorithm == "fedavg" and not found.training.averages_models:
        rule = found.training.optimizer
        print(
            f"fedavg: the coordinator's {rule.name} steps the way the models went, learning rate {rule.learning_rate:g}."
        )
    for plugin in found.plug_ins:
        print(f"plug-in: the {plugin.words}")
        print(f'  a site admits it by   [policy] plugins = ["{plugin.line}"]' if plugin.record else "  " + EDITABLE)
    for line in advice(draft, found):
        print(line)
    print(f"fingerprint {found.fingerprint()}")
    print(f"next: pmfed study plan {study}")


@study_app.command("resolve")
def study_resolve(study: Annotated[Path, typer.Argument(help="A STUDY.toml; it is changed in place.")]) -> None:
    """Write the numbers that "auto" stands for into a study: from its public numbers, never from patients."""
    from pmfed.methods.step_rule import numbers_for
    from pmfed.study.draft import Draft, read_text, with_numbers

    text = read_text(study)
    numbers = numbers_for(Draft.from_text(text, str(study)))
    if not numbers:
        print(f'{study}: nothing says "auto".')
        return
    replace_file(study, with_numbers(text, numbers, str(study)).encode())
    for place, number in numbers.items():
        print(f"{'.'.join(place)} = {number!r}")
    print(f"{study} written. next: pmfed study check {study}")


@study_app.command("plan")
def study_plan(
    study: Annotated[str, typer.Argument(help="A built-in study or a STUDY.toml.")],
    sites: Annotated[int, typer.Option(min=1, help="How many sites would take part.")] = 5,
    strict: Annotated[bool, typer.Option("--strict", help="A study that would not learn is an error.")] = False,
) -> None:
    """Show noise, steps, epsilon, bytes and time before anyone trains, and whether anything could be learned."""
    from pmfed_simulations.planning import show_plan
    from pmfed_simulations.studies import find_study

    found = show_plan(find_study(study), sites)
    if strict and found is not None and found.lost:
        raise StudyError(found.verdict(), "Without --strict this is said and no error.")


@study_app.command("new")
def study_new(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.toml"),
) -> None:
    """Write a commented study to start from."""
    from pmfed_simulations.studies import built_in

    from pmfed.methods.step_rule import numbers_for
    from pmfed.study.draft import with_numbers

    if path.exists():
        raise UsageError(f"{path}: the file exists.", "Choose another name; nothing is overwritten.")
    start = built_in("hospitals")
    path.write_text(with_numbers(start.text, numbers_for(start.draft), path.name), encoding="utf-8")
    print(
        f"{path} written: the study of the virtual hospitals, with comments. Change it, then: pmfed study check {path}"
    )


@data_app.command("list")
def data_list() -> None:
    """List public data: what it is, its licence, and which study uses it."""
    from pmfed_simulations.listing import show_catalogue

    show_catalogue()


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A name that 'pmfed data list' shows.")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy to take it from.")] = None,
    out: Annotated[Path, typer.Option(help="Where to put it.")] = Path("data"),
) -> None:
    """Get public data, with checksums: from where it is published, or from a local copy."""
    from pmfed_simulations.public import get

    folder = get(name, source, out)
    print(f"{folder} is complete; checksums agree.\nnext: pmfed simulate ... --data {out}")


@data_app.command("hospitals")
def data_hospitals(
    sites: Annotated[int, typer.Option(help="How many hospitals.")] = 5,
    patients: Annotated[int, typer.Option(help="Patients per hospital, on average.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same patients.")] = 0,
    out: Annotated[Path, typer.Option(help="A new folder to write them to.")] = Path("hospitals"),
) -> None:
    """Write virtual hospitals as real ones keep their data: OMOP or FHIR, VCF, DICOM, and a study to run on them."""
    from pmfed_simulations.hospitals.shown import show_hospitals

    show_hospitals(out, sites, patients, seed)


@app.command()
def audit(
    study: Annotated[str, typer.Argument(help="A built-in study or a STUDY.toml.")],
    sites: Annotated[
        Path | None, typer.Option(help="Your own sites: a folder per site, each with a site.toml.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of public data (or PMFED_DATA).")] = None,
) -> None:
    """Attack a study's own mechanism on this machine, and compare what comes out with what is claimed."""
    from pmfed_simulations.auditing import audit_study, show_audit

    show_audit(audit_study(study, sites, data))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, as its coordinator handed it on.")],
    roster: Annotated[
        Path | None, typer.Option(help="The roster.json your site pinned: the sites' keys. Else the run's own.")
    ] = None,
    coordinator: Annotated[
        Path | None, typer.Option(help="The coordinator.pub you were given. Else any key will do, and is shown.")
    ] = None,
) -> None:
    """Check a run offline: the coordinator's signature, every file, each site's receipt, charges and epsilon."""
    from pmfed.secagg.keys import read_key
    from pmfed.secagg.roster import Roster
    from pmfed.verify import check_run, show_verified

    known = read_key(coordinator) if coordinator else None
    show_verified(run, check_run(run, Roster.read(roster) if roster else None, known))


@app.command()
def bench(
    only: Annotated[
        str | None, typer.Option(help="simulation, engine, secagg, readers_imaging, readers_ehr or readers_genomics")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Measure speed side by side with the alternatives."""
    from pmfed_simulations.bench import run_bench

    run_bench(only, json_file)
